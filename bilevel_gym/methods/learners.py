"""Inner learners: where the policies come from that a method evaluates.

| name | what it sees | how it answers |
|---|---|---|
| `exact` | the model | the soft Bellman equation, solved |
| `sweeps` | the model | some sweeps of soft value iteration |
| `soft-q` | episodes | tabular soft Q-learning |
| `certainty-equivalence` | episodes | the exact answer in a model of the frequencies seen |

Those that see episodes must explore: an action that is underestimated at a small temperature would
never be tried again, so that a policy that only follows its own estimates confirms its own
mistakes. `soft-q` takes any of the actions with probability `exploration`; `certainty-equivalence`
plays what an optimist would (see `bilevel_gym.methods.exploration`). What they answer is what they
expect, not what they hope for. All of them know the reward r_x, which the leader has designed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..core.bellman import Backup, soft_backup, soft_q
from ..core.checks import (
    check_at_least,
    check_choice,
    check_flag,
    check_not_negative,
    check_options,
    check_positive,
    check_probability,
    received,
)
from ..core.linear import choose_solver
from ..core.mdp import FloatArray, TabularMDP
from ..core.soft import SoftSolution, default_tolerance, solve_soft_mdp
from ..core.state import Remembers
from ..episodes.sampler import Episodes, TransitionCounts
from ..model.tabular import TabularModel
from .exploration import neutral_kernel, optimistic_solution

__all__ = [
    "LEARNERS",
    "Answer",
    "CertaintyEquivalence",
    "ExactLearner",
    "Learner",
    "SoftQ",
    "Sweeps",
    "greedy_solution",
    "make_learner",
]

# Plans are renewed when so many more episodes have been seen, as a share of those before.
NEWS = 0.25


@dataclass(frozen=True, eq=False)
class Answer:
    """A policy that the follower has learnt.

    Attributes:
        policy: Action probabilities `[S, A]`.
        soft_value: What the learner takes for its soft value, `[S]`.
        residual: Sup norm of the Bellman residual, None where the model is not known.
        iterations: Newton steps, sweeps or passes.
        converged: Whether a tolerance was met, None where there is none.
        samples: Environment steps used.
        played: The episodes that it has learnt from for this x.
    """

    policy: FloatArray
    soft_value: FloatArray
    residual: float | None = None
    iterations: int | None = None
    converged: bool | None = None
    samples: int = 0
    played: Sequence[Episodes] = ()


class Learner(Remembers, ABC):
    """What every inner learner can do."""

    def __init__(self, model: TabularModel) -> None:
        """Bind the learner to a model, with nothing learnt."""
        self._model = model
        self.reset(np.random.default_rng(0))

    @abstractmethod
    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""

    @abstractmethod
    def answer(self, upper_params: FloatArray) -> Answer:
        """Learn under x, from where the last x left off."""

    def watch(self, blocks: Sequence[Episodes]) -> None:  # noqa: B027
        """Take note of episodes that were played elsewhere, under any policy."""

    def revised(self, upper_params: FloatArray, answer: Answer) -> Answer:
        """Return the last answer, to the same x, as it is after what was watched since."""
        return answer


class ExactLearner(Learner):
    """Solve the follower's problem, warm-started."""

    remembered = ("_value",)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget the warm start."""
        self._value: FloatArray | None = None

    def answer(self, upper_params: FloatArray) -> Answer:
        """Return the soft-optimal policy."""
        found = solve_soft_mdp(self._model.lower_mdp(upper_params), initial_value=self._value)
        self._value = found.soft_value
        return Answer(
            found.policy, found.soft_value, found.residual, found.iterations, found.converged
        )


def greedy_solution(mdp: TabularMDP, value: FloatArray, *, sweeps: int = 0) -> SoftSolution:
    """Return the soft greedy policy of any value `[S]`, as if the value solved the problem.

    `sweeps` of soft value iteration led to it. An `ArithmeticError` says that values overflow.
    """
    at, wanted = Backup(mdp, value), default_tolerance(mdp)
    return SoftSolution(
        mdp=mdp,
        soft_value=value,
        policy=at.policy,
        residual=at.residual,
        tolerance=wanted,
        iterations=sweeps,
        sweeps=sweeps,
        converged=at.residual <= wanted,
        solver=choose_solver(mdp.kernel.by_move.pattern),
    )


class Sweeps(Learner):
    """Take some sweeps of soft value iteration, V <- T V."""

    remembered = ("_value",)

    def __init__(self, model: TabularModel, *, sweeps: int = 10, warm_start: bool = True) -> None:
        """Bind the learner to a model.

        Args:
            model: The model.
            sweeps: Sweeps for each x, at least 1.
            warm_start: Whether to go on from the values of the last x instead of zero.
        """
        self._sweeps = check_at_least("sweeps", sweeps, 1)
        self._warm_start = check_flag("warm_start", warm_start)
        super().__init__(model)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget the values."""
        self._value: FloatArray | None = None

    def solve(self, upper_params: FloatArray) -> SoftSolution:
        """Return the policy that is greedy, softly, with respect to the values reached.

        Raises:
            ArithmeticError: If values overflow.
        """
        mdp, value = self._model.lower_mdp(upper_params), self._value
        if value is None or not self._warm_start:
            value = np.zeros(mdp.kernel.num_states)
        for _ in range(self._sweeps):
            value, _ = soft_backup(soft_q(mdp, value), mdp.temperature, overwrite=True)
        self._value = value
        return greedy_solution(mdp, value, sweeps=self._sweeps)

    def answer(self, upper_params: FloatArray) -> Answer:
        """Return the policy of `solve`."""
        found = self.solve(upper_params)
        return Answer(found.policy, found.soft_value, found.residual, found.sweeps)


class EpisodeLearner(Learner):
    """What learners that see episodes alone share: episodes, and a floor of exploration.

    Attributes:
        episodes: Episodes of each round; may be changed between answers.
    """

    remembered: ClassVar[tuple[str, ...]] = ("_samples",)

    def __init__(
        self,
        model: TabularModel,
        *,
        episodes: int = 128,
        rounds: int = 1,
        exploration: float = 0.1,
        horizon: int | None = None,
    ) -> None:
        """Bind the learner to a model.

        Args:
            model: The model.
            episodes: Episodes of each round, at least 1.
            rounds: How often the follower plays and learns for each x, at least 1.
            exploration: Share of steps at which any of the actions is taken, in [0, 1].
            horizon: Steps after which an episode is cut; None takes 10 / (1 - gamma).
        """
        self.episodes = check_at_least("episodes", episodes, 1)
        self._rounds = check_at_least("rounds", rounds, 1)
        self._exploration = check_probability("exploration", exploration)
        if horizon is None:
            horizon = int(np.ceil(10.0 / (1.0 - model.gamma)))
        self._horizon = check_at_least("horizon", horizon, 1)
        super().__init__(model)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        self._rng, self._samples = rng, 0

    def _play(self, x: FloatArray, policy: FloatArray, number: int) -> list[Episodes]:
        """Return some episodes under a policy that explores."""
        mask = self._model.action_mask
        available = np.ones_like(policy) if mask is None else mask.astype(np.float64)
        uniform = available / available.sum(axis=1, keepdims=True)
        behaviour = (1.0 - self._exploration) * policy + self._exploration * uniform
        sampler = self._model.sampler(x, behaviour)
        played = list(sampler.episodes(number, self._horizon, self._rng))
        self._samples += sampler.samples
        return played

    def _soft_policy(
        self, q_value: FloatArray, states: Any = slice(None)
    ) -> tuple[FloatArray, FloatArray]:
        """Return value `[N]` and policy `[N, A]` of Q in states, absent actions left out."""
        mask, q_value = self._model.action_mask, q_value[states]
        if mask is not None:
            q_value = np.where(mask[states], q_value, -np.inf)
        return soft_backup(q_value, self._model.temperature)


class CertaintyEquivalence(EpisodeLearner):
    """Count transitions, and solve the problem that their frequencies make.

    What it plays is what an optimist would, who tries what might turn out to be good; plans are
    renewed when a quarter more episodes have been seen. What it answers is the soft-optimal policy
    for the frequencies, where a pair never tried leads where the others of its state have led. See
    `bilevel_gym.methods.exploration`, for the sources too.
    """

    remembered = (*EpisodeLearner.remembered, "_counts", "_watched", "_found", "_hoped", "_last")

    def __init__(
        self,
        model: TabularModel,
        *,
        optimism: float = 2.0,
        forget: float = 0.0,
        exploration: float = 0.0,
        **options: Any,
    ) -> None:
        """Bind the learner to a model.

        Args:
            model: The model.
            optimism: By how many standard errors an optimist overestimates the value of what
                follows a pair, not negative. 0 is none: all episodes of a round follow the last
                answer, and `exploration` is all that tries anything else.
            forget: Share of all counts that is forgotten when x changes, in [0, 1]; where x moves
                the kernel all of them are.
            exploration: Share of steps at which any of the actions is taken, in [0, 1].
            **options: See `EpisodeLearner`: episodes, rounds, horizon.
        """
        super().__init__(model, exploration=exploration, **options)
        self._optimism = check_not_negative("optimism", optimism)
        self._forget = check_probability("forget", forget)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget all counts."""
        super().reset(rng)
        self._counts = TransitionCounts(self._model.num_states, self._model.num_actions)
        self._watched = 0.0  # episodes counted
        self._found: tuple[FloatArray, FloatArray] | None = None  # policy and value
        self._hoped: FloatArray | None = None  # the optimist's value
        self._last: FloatArray | None = None

    def watch(self, blocks: Sequence[Episodes]) -> None:
        """Count episodes played elsewhere, under any policy."""
        for episodes in blocks:
            self._counts.add(episodes)
            self._watched += episodes.num_episodes

    def answer(self, upper_params: FloatArray) -> Answer:
        """Play and solve, some rounds."""
        if self._last is not None and not np.array_equal(self._last, upper_params):
            share = 1.0 if self._model.moves_kernel else self._forget
            self._counts.fade(share)
            self._watched *= 1.0 - share
        self._last = np.array(upper_params)
        before, played = self._samples, []
        for _ in range(self._rounds):
            left = self.episodes
            while left > 0:
                policy, number = self._plan(upper_params)
                latest = self._play(upper_params, policy, min(left, number))
                self.watch(latest)
                played += latest
                left -= number
            self._solve(upper_params)
        assert self._found is not None
        samples = self._samples - before
        return Answer(*self._found, iterations=self._rounds, samples=samples, played=played)

    def revised(self, upper_params: FloatArray, answer: Answer) -> Answer:
        """Solve the problem once more; nothing is played."""
        self._solve(upper_params)
        assert self._found is not None
        policy, value = self._found
        return replace(answer, policy=policy, soft_value=value)

    def _solve(self, x: FloatArray) -> None:
        """Solve the problem of the frequencies seen."""
        kernel = neutral_kernel(self._counts.kernel(), self._counts.visits)
        start = None if self._found is None else self._found[1]
        found = solve_soft_mdp(self._model.mdp_with(kernel, x), initial_value=start)
        self._found = found.policy, found.soft_value

    def _plan(self, x: FloatArray) -> tuple[FloatArray, int]:
        """Return a policy to play, and for how many episodes at most."""
        if self._optimism > 0.0:
            counts = self._counts.kernel(), self._counts.visits
            plan = optimistic_solution(self._model, x, *counts, self._hoped, errors=self._optimism)
            self._hoped = plan.soft_value
            return plan.policy, max(1, int(NEWS * self._watched))
        if self._found is None:
            return self._soft_policy(self._model.lower_reward(x))[1], self.episodes
        return self._found[0], self.episodes


class SoftQ(EpisodeLearner):
    """Tabular soft Q-learning: Q(s, a) <- Q + alpha (r + gamma V(s') - Q), V the soft maximum.

    Steps alpha fall with the number of visits of a pair, as n^-decay, and not below `step_size`.
    """

    remembered = (*EpisodeLearner.remembered, "_soft_q", "_visits")

    def __init__(
        self,
        model: TabularModel,
        *,
        step_size: float = 0.05,
        decay: float = 0.6,
        passes: int = 10,
        **options: Any,
    ) -> None:
        """Bind the learner to a model.

        Args:
            model: The model.
            step_size: The least step, in (0, 1].
            decay: How fast steps fall with visits, in [0, 1].
            passes: How often each round's episodes are gone through, at least 1; a few times tell
                much more of them than once.
            **options: See `EpisodeLearner`: episodes, rounds, exploration, horizon.
        """
        super().__init__(model, **options)
        self._step_size = check_probability("step_size", check_positive("step_size", step_size))
        self._decay = check_probability("decay", decay)
        self._passes = check_at_least("passes", passes, 1)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget all estimates."""
        super().reset(rng)
        shape = (self._model.num_states, self._model.num_actions)
        self._soft_q: FloatArray = np.zeros(shape)
        self._visits: FloatArray = np.zeros(shape)

    def answer(self, upper_params: FloatArray) -> Answer:
        """Play and learn, some rounds."""
        reward = self._model.lower_reward(upper_params)
        before, played = self._samples, []
        for _ in range(self._rounds):
            latest = self._play(upper_params, self._soft_policy(self._soft_q)[1], self.episodes)
            played += latest
            for _ in range(self._passes):
                for episodes in latest:
                    self._learn(episodes, reward)
        value, policy = self._soft_policy(self._soft_q)
        samples, passes = self._samples - before, self._rounds * self._passes
        return Answer(policy, value, iterations=passes, samples=samples, played=played)

    def _learn(self, episodes: Episodes, reward: FloatArray) -> None:
        """Go through episodes from their ends: a final reward is propagated in one pass."""
        states, actions = episodes.states, episodes.actions
        following, gamma = episodes.next_states, self._model.gamma
        num_actions = reward.shape[1]
        value = self._soft_policy(self._soft_q)[0]
        for t in range(len(states) - 1, -1, -1):
            alive = np.flatnonzero(states[t] >= 0)
            s, a, after = states[t, alive], actions[t, alive], following[t, alive]
            target = reward[s, a] + gamma * np.where(after >= 0, value[after], 0.0)
            pairs, place, counts = np.unique(
                s * num_actions + a, return_inverse=True, return_counts=True
            )
            s, a = np.divmod(pairs, num_actions)
            mean = np.bincount(place, target) / counts
            self._visits[s, a] += counts
            # n steps of alpha towards one target amount to 1 - (1 - alpha)^n.
            alpha = np.maximum(self._visits[s, a] ** -self._decay, self._step_size)
            share = 1.0 - (1.0 - alpha) ** counts
            self._soft_q[s, a] += share * (mean - self._soft_q[s, a])
            touched = np.unique(s)
            value[touched] = self._soft_policy(self._soft_q, touched)[0]


# Adding a learner is one class and one row.
LEARNERS: dict[str, type[Learner]] = {
    "exact": ExactLearner,
    "sweeps": Sweeps,
    "soft-q": SoftQ,
    "certainty-equivalence": CertaintyEquivalence,
}


def make_learner(name: str, model: TabularModel, options: dict[str, Any] | None = None) -> Learner:
    """Build the inner learner that a key of `LEARNERS` names; its options are of JSON types.

    Raises:
        ValueError: If the name is unknown, or an option is out of range.
        TypeError: If the options are no dict, or the learner does not take one of them.
    """
    if not isinstance(options, dict | None):
        raise TypeError(f"`inner_options` must be a dict of options, got {received(options)}")
    check_choice("inner learner", name, LEARNERS)
    check_options(f"inner learner {name!r}", LEARNERS[name], options or {})
    return LEARNERS[name](model, **(options or {}))
