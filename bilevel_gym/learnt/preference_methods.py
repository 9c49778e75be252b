"""Reward learning from preferences, with a follower who learns: the methods.

The leader's objective is that of `bilevel_gym.model.preferences`, the log-likelihood of a judge's
answers under the reward r_x, on fragments that the follower plays:

    F(x) = E_{d_1, d_2 ~ pi*(x)} E_answer[ l ],  l = log sigmoid(+-(R_x(d_1) - R_x(d_2))).

x enters twice. At fixed fragments, l is the (negative) loss of a classifier, and its gradient can
be taken over everything that was ever answered: `PreferenceDirect`, the reward learning of
Christiano et al. (NeurIPS 2017, arXiv 1706.03741). Through the fragments, the follower's actions
change with x,

    response = E[ (l - b) sum_h dlog pi(a_h|s_h)/dx ],  dlog pi/dx = (1/tau) d(Q - V)/dx,

which needs fragments of the present policy, and a baseline b: the mean of l is not zero, and old
answers would enter with its size. `PreferenceSoBiRL` keeps the first term of d(Q - V), dr_x minus
its mean over actions, as the code of Yang, Gao, Yuan (AISTATS 2025, arXiv 2405.19697) does;
`PreferenceTrace` replaces l - b by its regression on steps, and carries that along the rest of the
episode to have all terms. Fragments begin anywhere in an episode; the states that they begin in are
taken as given.
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
from gymnasium import spaces

from ..core.checks import check_at_least, check_positive, optional
from ..core.mdp import FloatArray
from ..episodes.fragments import Pairs, Windows, num_fragments
from ..episodes.recorded import LearntEpisodes
from ..methods.episode_sums import carried
from ..model.judges import checked_answers
from ..model.protocols import PreferenceGame
from ..model.responses import EpisodicResponse
from .answers import PreferenceQueue, compared
from .checkpoints import Checkpointed
from .critics import FragmentCritic
from .estimators import over_actions, returns, reward_gradient

__all__ = [
    "PreferenceDirect",
    "PreferenceMethod",
    "PreferenceSoBiRL",
    "PreferenceTrace",
]

# What differs from the defaults of the learners: their schedules are for a reward that stays.
COMMON_OPTIONS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "train_freq": 8,
    "gradient_steps": 4,
    "buffer_size": 50_000,
}
DISCRETE_OPTIONS: dict[str, Any] = {"exploration_initial_eps": 0.15}

# Member of an archive.
QUEUE = "queue.npz"


class PreferenceMethod(Checkpointed):
    """Train the follower, show pairs of its fragments to the judge, estimate.

    Attributes:
        queue: Pairs that were answered.
        shown: Number of pairs that the judge was shown.
    """

    saved = ("shown", "_steps", "_response", "_loss", "_summary")
    members = (QUEUE,)
    _game: PreferenceGame

    def __init__(
        self,
        game: PreferenceGame,
        *,
        comparisons: int = 7,
        first_comparisons: int = 40,
        max_comparisons: int | None = 200,
        ask_every: int = 25,
        capacity: int = 1000,
        inner_steps: int = 24,
        inner_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Bind the method to a game.

        Args:
            game: A game whose leader learns from preferences.
            comparisons: Pairs that the judge is shown each time, at least 1; fewer where episodes
                end too soon for so many.
            first_comparisons: Those of the first time, at least 1.
            max_comparisons: Pairs that the judge is shown altogether, at least 1; None for no end.
            ask_every: Steps of the leader from one time to the next, at least 1.
            capacity: Most pairs that are remembered, at least 1.
            inner_steps: Environment steps that the follower learns for each x, at least 1. Steps of
                the leader are many and small here, as those of any learner of a classifier.
            inner_options: Arguments of the learner, which replace `COMMON_OPTIONS` and
                `DISCRETE_OPTIONS`.
            **options: `first_inner_steps`, those for the first x, None for as many; and `inner`.

        Raises:
            ValueError: If an option is out of range.
        """
        self._comparisons = check_at_least("comparisons", comparisons, 1)
        self._first = check_at_least("first_comparisons", first_comparisons, 1)
        self._every = check_at_least("ask_every", ask_every, 1)
        most = optional(check_at_least, "max_comparisons", max_comparisons, 1)
        self._most = math.inf if most is None else most
        self._capacity = capacity
        discrete = isinstance(game.lower_space, spaces.Discrete)
        own = DISCRETE_OPTIONS if discrete else {}
        learner = {**COMMON_OPTIONS, **own, **(inner_options or {})}
        first = options.pop("first_inner_steps", inner_steps)
        super().__init__(
            game,
            inner_steps=inner_steps,
            first_inner_steps=first,
            inner_options=learner,
            **options,
        )

    def _forget(self) -> None:
        super()._forget()
        self.queue = PreferenceQueue(self._capacity)
        self.shown = 0
        self._steps = 0
        self._response: FloatArray | None = None
        self._loss: float | None = None
        self._summary = (0.0, 0.0, 0.0)

    def step(self, upper_params: FloatArray) -> EpisodicResponse:
        """Let the follower learn under x, ask the judge if it is time, and estimate.

        The objective is the mean log-likelihood of all answers that are remembered; the response
        term is that of the last fragments shown, until the next are.
        """
        game = self._game
        samples = self.follower.learn(upper_params)
        if self._steps % self._every == 0:
            samples += self._ask(upper_params)
        self._steps += 1
        likelihoods, direct = self.queue.likelihood(game, upper_params)
        response, ratio = self._trusted(direct)
        return EpisodicResponse(
            upper_params=upper_params,
            # As long as nothing was answered, nothing is known.
            objective=float(likelihoods.mean()) if len(likelihoods) else -math.log(2.0),
            hyper_gradient=direct + response,
            direct_gradient=direct,
            samples=samples,
            summary=self._summary,
            critic_loss=self._loss,
            trust_ratio=ratio,
        )

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "length of fragments": self._game.fragment_steps}

    def _write(self, archive: zipfile.ZipFile) -> None:
        with archive.open(QUEUE, "w") as member:
            self.queue.write(member)

    def _read(self, archive: zipfile.ZipFile, found: dict[str, Any]) -> None:
        found["queue"] = PreferenceQueue.load(io.BytesIO(archive.read(QUEUE)))
        found["_summary"] = tuple(found["_summary"])
        if found["_response"] is not None:
            found["_response"] = np.array(found["_response"])

    def _ask(self, upper_params: FloatArray) -> int:
        """Play episodes, show pairs of their fragments, and return the environment steps used."""
        self._response, self._loss = None, None
        wanted = self._comparisons if self.shown else self._first
        count = int(min(wanted, self._most - self.shown))
        if count <= 0:
            return 0
        game, length = self._game, self._game.fragment_steps
        episodes = 2 * math.ceil(count / (game.episode_steps // length))
        # More of them where they end early.
        steps, most = 2 * count * length, 2 * count
        played = self.follower.play(upper_params, episodes, self._rng, steps=steps, most=most)
        upper = float(played.upper_rewards.sum(axis=0).mean())
        lower = float(returns(played.lower_rewards, game.gamma).mean())
        self._summary = (upper, lower, played.num_steps / played.num_episodes)
        fragments = num_fragments(played, length)[: played.num_episodes // 2 * 2]
        windows = Windows.drawn(count, fragments, length, self._rng)
        pairs = windows.cut(played)
        answers = checked_answers(game.judge(pairs, self._rng), len(pairs))
        self.shown += len(pairs)
        told = ~np.isnan(answers)
        if told.any() and len(self.queue):
            self._response, self._loss = self.response_term(
                upper_params, played, windows[told], answers[told]
            )
        self.queue.add(pairs, answers)
        return played.num_steps

    def response_term(
        self, x: FloatArray, played: LearntEpisodes, windows: Windows, answers: FloatArray
    ) -> tuple[FloatArray | None, float | None]:
        """Estimate the response term from fragments that were just played; there is none here.

        Returns the estimate, shape of x, and the loss of a regression; None for what there is not.
        """
        return None, None

    def _trusted(self, direct: FloatArray) -> tuple[FloatArray, float | None]:
        """Return the response term as far as it is trusted, and the share of it that is."""
        return np.zeros_like(direct), None


class PreferenceDirect(PreferenceMethod):
    """The gradient at fixed fragments: reward learning as by Christiano et al. (NeurIPS 2017).

    The leader takes what the follower shows as given, and learns to explain the answers.
    """


class WithResponse(PreferenceMethod):
    """A method with a response term.

    With `kappa` the response term bends the direct one and does not outweigh it: where the direct
    term vanishes the leader stops, however large the response term is.
    """

    def __init__(self, game: PreferenceGame, *, kappa: float | None = 0.3, **options: Any) -> None:
        """Bind the method to a game.

        `kappa` is the most that the response term may be long, relative to the direct one,
        positive; a longer one is shortened, as it is noise of a few pairs divided by the
        temperature. None leaves it as it is. For other options see `PreferenceMethod`.
        """
        self._kappa = optional(check_positive, "kappa", kappa)
        super().__init__(game, **options)

    def _trusted(self, direct: FloatArray) -> tuple[FloatArray, float | None]:
        if self._response is None:
            return np.zeros_like(direct), 0.0
        if self._kappa is None:
            return self._response, 1.0
        allowed = self._kappa * float(np.linalg.norm(direct))
        length = float(np.linalg.norm(self._response))
        share = allowed / length if length > allowed else 1.0
        return share * self._response, share

    def _excess(self, upper_params: FloatArray, pairs: Pairs, answers: FloatArray) -> FloatArray:
        """Return l - b for some pairs, `[M]`; b is the mean over pairs that were shown earlier.

        A mean over the others of the same time would not do: fragments of one episode have much in
        common, which it would take away.
        """
        earlier, _ = self.queue.likelihood(self._game, upper_params)
        likelihoods, _ = compared(self._game, upper_params, pairs, answers)
        return likelihoods - earlier.mean()


class PreferenceSoBiRL(WithResponse):
    """The excess of l over its baseline, times the first term of dlog pi/dx along the fragments."""

    def response_term(
        self, x: FloatArray, played: LearntEpisodes, windows: Windows, answers: FloatArray
    ) -> tuple[FloatArray, None]:
        """Return the one-step estimate; see `PreferenceMethod`."""
        game, pairs = self._game, windows.cut(played)
        excess = self._excess(x, pairs, answers) / (len(pairs) * game.temperature)
        seen, taken = pairs.as_batch
        weights = np.where(pairs.alive, excess[:, None, None], 0.0).ravel()
        estimate = reward_gradient(game, x, seen, taken, weights)
        if not self.follower.discrete:
            drawn = self.follower.draw(seen, self._rng)
            return estimate - reward_gradient(game, x, seen, drawn, weights), None
        shares = self.follower.probabilities(seen) * weights[:, None]
        return estimate - over_actions(game, x, seen, shares), None


class PreferenceTrace(WithResponse):
    """The regression of l on steps, carried along the rest of the episode.

    With c_h(s, a) the mean of l over all that goes on from the h-th step of a fragment, less its
    mean over actions, the response is (1/tau) E[ sum_k e_k dr_x(s_k, a_k)/dx ] with
    e_k = gamma e_{k-1} + c_h(s_k, a_k), as `bilevel_gym.methods.trace` has it for returns; the sum
    goes on after the fragments' ends, to the end of the episode.
    """

    critic: FragmentCritic

    def __init__(self, game: PreferenceGame, *, critic_updates: int = 200, **options: Any) -> None:
        """Bind the method to a game; `critic_updates` are gradient steps of each regression.

        Raises:
            TypeError: If actions are continuous.
        """
        if not isinstance(game.lower_space, spaces.Discrete):
            raise TypeError(
                "`trace` learns from preferences what each of some discrete actions is worth, and "
                f'the actions of {game.title} are {game.lower_space}; take "direct" or "sobirl"'
            )
        self._updates = check_at_least("critic_updates", critic_updates, 1)
        super().__init__(game, **options)

    def _forget(self) -> None:
        super()._forget()
        self.critic = FragmentCritic(self._game, int(self._rng.integers(2**31)))

    def response_term(
        self, x: FloatArray, played: LearntEpisodes, windows: Windows, answers: FloatArray
    ) -> tuple[FloatArray, float]:
        """Return the trace's estimate; see `PreferenceMethod`."""
        game, queue = self._game, self.queue
        assert queue.pairs is not None
        earlier, _ = queue.likelihood(game, x)
        loss = self.critic.fit(queue.pairs, earlier - earlier.mean(), self._updates, self._rng)
        pairs = windows.cut(played)
        seen, taken = pairs.as_batch
        place = np.tile(np.arange(windows.length) / windows.length, 2 * len(pairs))
        alive = pairs.alive.ravel()
        policy = self.follower.probabilities(seen)
        table = self.critic.values(place, seen)
        table -= (policy * table).sum(axis=1, keepdims=True)
        table /= len(pairs) * game.temperature
        injections = np.zeros(played.alive.shape)
        chosen = table[np.arange(len(table)), taken.reshape(-1).astype(np.int64)]
        steps, episodes = (index.ravel()[alive] for index in windows.steps)
        injections[steps, episodes] = chosen[alive]
        carry = carried(injections, game.gamma)
        # The last action is averaged over, as the policy is known.
        every = np.zeros((*carry.shape, table.shape[1]))
        every[steps, episodes] = table[alive]
        every += carry[:, :, None]
        every *= played.alive[:, :, None]
        seen = played.observations.reshape(-1, *played.observations.shape[2:])
        shares = self.follower.probabilities(seen) * every.reshape(len(seen), -1)
        return over_actions(game, x, seen, shares), loss
