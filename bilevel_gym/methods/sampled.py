"""What methods have in common that learn the hyper-gradient from episodes.

They estimate the signed occupancy q = dF/dr through pi*, `[S, A]` (see `bilevel_gym.core.adjoint`),
and the derivative of the reward, which the leader has designed, does the rest: dF/dx = direct part
+ sum_sa q(s, a) dr(s, a)/dx. q spreads what is injected at a step over the steps that follow,

    q = E_pi[ sum_t e_t 1[(s_t, a_t) = .] ],   e_t = gamma e_{t-1} + c_t,

for each objective with its own injections c_t, whose mean over the actions of a state is zero. So
no estimator needs an array with the dimension of x for every state.

Of the model they see its sampler alone and, where x moves the kernel or the start, the derivatives
of log P and log rho at what was seen (see `bilevel_gym.methods.moved`). An objective is a sum of
terms, each of a scope that it declares (`bilevel_gym.model.objectives.Scope`): returns, of which
episodes tell the value; costs of x; and terms that evaluate the policy, which the method knows.
What follows from the policy, such as its occupancy, is that of the frequencies seen. The injections
of these terms are known everywhere, and episodes are started from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..core.bellman import centred_score
from ..core.checks import check_at_least, check_flag, optional, received
from ..core.mdp import FloatArray, Kernel
from ..core.reprs import MadeFor
from ..core.state import Remembers
from ..core.threads import single_threaded
from ..episodes.sampler import Episodes, Plays
from ..model.objectives import (
    Objective,
    Outcome,
    Scope,
    StepObjective,
    UpperValue,
    flattened,
    scope_of,
)
from ..model.preferences import PreferenceLikelihood
from ..model.responses import TabularResponse
from ..model.tabular import TabularModel
from .episode_sums import Batch, Seen, carried_from, on_states, renormalised
from .error_bars import error_of_mean, expected_cosine, where_it_varies
from .jackknife import GROUPS, Recorder, left_out, standard_errors
from .learners import Answer, make_learner
from .model_based import check_tabular
from .moved import moved_directly, moved_response, seen_direct_part

__all__ = [
    "Sampled",
    "TermByTerm",
    "check_rewards_alone",
    "enough_steps",
    "followed",
    "policy_response",
    "seen_outcome",
]

# Episodes are cut where the discounts have come down to this.
CUT = 1e-4

# Episodes that are played at first where their number is found, and the expected cosine to reach.
FEWEST, SIGNIFICANT = 32, 0.8


class Estimate(NamedTuple):
    """What a method makes of the episodes of one x.

    Attributes:
        objective: Estimate of F(x).
        direct: Of its derivative at a fixed policy, shape of x.
        signed: Of the signed occupancy, dF/dr through pi*, `[S, A]`.
        kernel: Frequencies of transitions seen under x, where x moves kernel or start.
        objective_se: Standard error of the objective, None where it is not known yet.
        hyper_gradient_se: Standard errors of the hyper-gradient, shape of x, likewise.
    """

    objective: float
    direct: FloatArray
    signed: FloatArray
    kernel: Kernel | None = None
    objective_se: float | None = None
    hyper_gradient_se: FloatArray | None = None


class Sampled(MadeFor, Remembers, ABC):
    """A method that plays episodes of the follower's policy and estimates from what it sees.

    Attributes:
        on_policy: Whether the estimate is that of the policy whose episodes were watched. If not,
            a follower who learns from episodes answers once more, with these among them.
    """

    on_policy: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    scopes: ClassVar[frozenset[Scope]] = frozenset({"steps", "policy", "params"})
    remembered: ClassVar[tuple[str, ...]] = ("_learner",)

    def __init__(
        self,
        model: TabularModel,
        *,
        episodes: int | str = 256,
        most_episodes: int = 4096,
        horizon: int | None = None,
        inner: str = "exact",
        inner_options: dict[str, Any] | None = None,
        error_bars: bool = True,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model; where its leader evaluates fragments, x enters the rewards
                alone.
            episodes: Episodes played for each x, at least 1. With "auto" 32, and as many again as
                long as the direction of the hyper-gradient is not significant: until its expected
                cosine to the true one is .8.
            most_episodes: What "auto" plays at most for each x, at least 32.
            horizon: Steps after which an episode is cut; None cuts where the discounts of the
                follower and of the leader have come down to 1e-4.
            inner: Where the policy comes from, a key of `bilevel_gym.methods.learners.LEARNERS`.
            inner_options: Options of the inner learner.
            error_bars: Whether to compute standard errors, which most methods estimate by leaving
                out groups of episodes in turn, in some times the time of the estimate.

        Raises:
            TypeError: If the objective evaluates fragments and the method cannot, or x also moves
                kernel or start; or an option of the inner learner is unknown.
            ValueError: If an option is out of range.
        """
        check_tabular(model)
        fragment = _fragment_steps(model.objective)
        if fragment > 0 and "fragments" not in self.scopes:
            raise TypeError(
                f"the leader of {model.name} evaluates pairs of fragments, and this method needs "
                "an objective that is a sum over steps; take method "
                '"sobirl" or "stoc-sobirl", or one with a model, such as "exact"'
            )
        if fragment > 0:
            check_rewards_alone(model)
        self._model = model
        self._automatic = isinstance(episodes, str) and episodes == "auto"
        number: Any = check_at_least("most_episodes", most_episodes, FEWEST)
        if not self._automatic:
            if isinstance(episodes, str):
                wanted = '"auto" or an integer of at least 1'
                raise ValueError(f"`episodes` must be {wanted}, got {received(episodes)}")
            number = episodes
        self._num_episodes = check_at_least("episodes", number, 2 if fragment > 0 else 1)
        limit = optional(check_at_least, "horizon", horizon, max(1, fragment))
        self._horizon = enough_steps(model) if limit is None else limit
        self._learner = make_learner(inner, model, inner_options)
        self._error_bars = check_flag("error_bars", error_bars)
        if self._automatic and not (self._error_bars and self.regroups):
            raise ValueError(
                "`episodes` must be a number here, got 'auto', which stops by standard errors: "
                "there are none with `error_bars=False`, uniform starts or fragments of episodes"
            )
        self._rng = np.random.default_rng(0)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        self._rng = rng
        self._learner.reset(rng)

    def watch(self, blocks: Sequence[Episodes]) -> None:
        """Take note of the episodes of one x, before anything is estimated from them.

        So does the inner learner, if it learns from episodes that others play.
        """
        self._learner.watch(blocks)

    def follow(  # noqa: B027
        self, upper_params: FloatArray, played: Sequence[Episodes]
    ) -> None:
        """Take note of the episodes that the follower has learnt from under x."""

    def seen_pairs(self, blocks: Sequence[Episodes]) -> NDArray[np.bool_]:
        """Return of which states and actions something was seen, `[S, A]`."""
        seen = np.zeros(self._model.num_actions * self._model.num_states + 1, dtype=bool)
        for block in blocks:
            seen[block.pairs.ravel()] = True
        return seen[:-1].reshape(self._model.num_actions, -1).T

    @single_threaded
    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Let the follower answer x, watch it, and estimate objective and hyper-gradient."""
        model, x = self._model, upper_params
        answer = self._learner.answer(x)
        self.follow(x, answer.played)
        sampler = model.sampler(x, answer.policy)
        told = self.state_dict() if self._error_bars else {}
        blocks: list[Episodes] = []
        wanted = FEWEST if self._automatic else self._num_episodes
        while True:
            if blocks:
                self._go_back(told, self._rng)
            blocks += sampler.episodes(wanted, self._horizon, self._rng)
            self.watch(blocks)
            if not self.on_policy:
                answer = self._learner.revised(x, answer)
            estimate = self._told(x, answer, blocks, Recorder(sampler), told)
            gradient = self._gradient(x, answer, estimate)
            error = where_it_varies(estimate.hyper_gradient_se, gradient)
            cosine = None if error is None else expected_cosine(gradient, error)
            played = sum(block.num_episodes for block in blocks)
            wanted = min(played, self._num_episodes - played)
            if wanted == 0 or (cosine is not None and cosine >= SIGNIFICANT):
                break
        visits = np.zeros(answer.policy.shape)
        for block in blocks:
            visits += block.num_episodes * block.discounted_visits(model.gamma)
        return TabularResponse(
            upper_params=x,
            objective=estimate.objective,
            hyper_gradient=gradient,
            direct_gradient=estimate.direct,
            objective_se=where_it_varies(estimate.objective_se, estimate.objective),
            hyper_gradient_se=error,
            hyper_gradient_cosine=cosine,
            coverage=coverage_of(answer.policy, visits, self.seen_pairs(blocks)),
            lower_value=float(answer.soft_value[first_states(blocks)].mean()),
            residual=answer.residual,
            iterations=answer.iterations,
            converged=answer.converged,
            samples=answer.samples + sampler.samples,
            policy=answer.policy,
            soft_value=answer.soft_value,
            occupancy=(1.0 - model.gamma) * (visits / played).sum(axis=1),
        )

    def _told(
        self,
        x: FloatArray,
        answer: Answer,
        blocks: Sequence[Episodes],
        recorder: Recorder,
        told: dict[str, Any],
    ) -> Estimate:
        """Return the estimate from some episodes, with its errors, given what was `told` before."""
        estimate = self.estimate(x, answer.policy, blocks, recorder)
        groups = min(GROUPS, *(block.num_episodes for block in blocks))
        if not told or estimate.hyper_gradient_se is not None or groups < 2 or not self.regroups:
            return estimate
        after, rng = self.state_dict(), self._rng
        objectives, gradients = [], []
        for group in range(groups):
            self._go_back(told, np.random.default_rng(group))
            rest = left_out(blocks, group, groups)
            self.watch(rest)
            again = self.estimate(x, answer.policy, rest, recorder.without(group, groups))
            objectives.append(np.array(again.objective))
            gradients.append(self._gradient(x, answer, again))
        self._go_back(after, rng)
        objective_se = estimate.objective_se
        if objective_se is None:
            objective_se = float(standard_errors(objectives))
        return estimate._replace(
            objective_se=objective_se, hyper_gradient_se=standard_errors(gradients)
        )

    def _go_back(self, told: dict[str, Any], rng: np.random.Generator) -> None:
        """Know what `state_dict` has said, and no more; draw from `rng`."""
        self.reset(rng)
        self.load_state_dict(told)

    def _gradient(self, x: FloatArray, answer: Answer, estimate: Estimate) -> FloatArray:
        """Return the hyper-gradient that an estimate amounts to, shape of x."""
        model = self._model
        gradient = estimate.direct + model.reward_vjp(x, estimate.signed)
        if estimate.kernel is None:
            return gradient
        kernel, signed = estimate.kernel, estimate.signed
        return gradient + moved_response(model, x, kernel, signed, answer.soft_value)

    @property
    def regroups(self) -> bool:
        """Whether the estimate from some of the episodes is one like that from all of them."""
        return _fragment_steps(self._model.objective) == 0

    @abstractmethod
    def estimate(
        self, x: FloatArray, policy: FloatArray, blocks: Sequence[Episodes], sampler: Plays
    ) -> Estimate:
        """Estimate objective and hyper-gradient from the episodes of a policy `[S, A]` under x."""


class TermByTerm(Sampled):
    """A method that estimates the signed occupancy of each of the leader's returns by itself."""

    @abstractmethod
    def signed_occupancy(self, batch: Batch) -> FloatArray:
        """Estimate dF/dr through pi* `[S, A]` for one of the leader's returns."""

    def of_preferences(
        self, term: PreferenceLikelihood, batch: Batch
    ) -> tuple[float, FloatArray, FloatArray]:
        """Estimate an objective that evaluates fragments; for classes with them in `scopes`.

        Returns the likelihood, its direct derivative with respect to r `[S, A]`, and the one
        through pi* `[S, A]`. In the batch the leader's discount is one, its horizon that of
        fragments.
        """
        raise NotImplementedError  # never called: games with fragments are refused at construction

    def estimate(
        self, x: FloatArray, policy: FloatArray, blocks: Sequence[Episodes], sampler: Plays
    ) -> Estimate:
        """Estimate objective and hyper-gradient from the episodes of a policy `[S, A]` under x."""
        model = self._model
        seen = partial(
            Batch, x, blocks, policy, sampler, self._horizon, model.gamma, model.temperature
        )
        value, direct, signed = 0.0, np.zeros(x.shape), np.zeros(policy.shape)
        returns = np.zeros(sum(block.num_episodes for block in blocks))
        moving = model.moves_kernel or model.moves_start
        met = seen_outcome(model, x, policy, blocks, among_seen=True) if moving else None
        outcomes: dict[Scope, Outcome] = {}
        for term in flattened(model.objective):
            scope = scope_of(term)
            if scope == "steps":
                counted = cast("StepObjective", term)
                gamma = model.gamma if counted.gamma is None else counted.gamma
                batch = seen(gamma, counted.horizon)
                returns = returns + np.concatenate(batch.returns())
                direct += model.upper_reward_vjp(x, batch.visits())
                signed += self.signed_occupancy(batch)
                if met is not None:
                    direct += moved_directly(model, x, term.evaluate(met), met)
            elif scope == "fragments":
                fragments = cast("PreferenceLikelihood", term)
                batch = seen(1.0, fragments.horizon)
                likelihood, slope, through_policy = self.of_preferences(fragments, batch)
                value += likelihood
                signed += through_policy
                direct += model.reward_vjp(x, slope)
            else:
                if scope not in outcomes:  # for what evaluates x alone, nothing need be counted
                    counted_blocks = blocks if scope == "policy" else ()
                    outcomes[scope] = seen_outcome(model, x, policy, counted_blocks)
                upper = term.evaluate(outcomes[scope])
                value += upper.value
                direct += seen_direct_part(model, x, upper, outcomes[scope])
                if upper.responds:
                    signed += policy_response(
                        model, upper, policy, sampler, len(returns), self._horizon, self._rng
                    )
        kernel = None if met is None else met.solution.mdp.kernel
        return Estimate(
            value + float(returns.mean()), direct, signed, kernel, error_of_mean(returns)
        )


def check_rewards_alone(model: object) -> None:
    """Raise a `TypeError` unless a model is a tabular one whose x enters the rewards alone."""
    check_tabular(model)
    assert isinstance(model, TabularModel)
    for moved, what in ((model.moves_kernel, "kernel"), (model.moves_start, "first state")):
        if moved:
            raise TypeError(
                f"x moves the {what} of {model.name}, and a follower who learns by networks, or a "
                "leader who evaluates fragments of episodes, needs an x that enters the rewards "
                "alone; method 'exact' does not"
            )


def coverage_of(policy: FloatArray, visits: FloatArray, seen: NDArray[np.bool_]) -> float:
    """Return the share of a policy's actions that were seen, in the states that it visits.

    Policy, discounted visits and what was seen are `[S, A]`.
    """
    unseen = np.where(seen, 0.0, policy).sum(axis=1)
    states = visits.sum(axis=1)
    return 1.0 - float(states @ unseen / states.sum())


def cut_horizon(gamma: float) -> int:
    """Return after how many steps the discount has come down to `CUT`."""
    return 1 if gamma == 0.0 else int(np.ceil(np.log(CUT) / np.log(gamma)))


def enough_steps(model: TabularModel) -> int:
    """Return after how many steps no more of weight comes, for a follower or its leader."""
    followed = cut_horizon(model.gamma)
    steps = max(followed, _fragment_steps(model.objective))
    for term in flattened(model.objective):
        if scope_of(term) != "steps":
            continue
        counted = cast("StepObjective", term)
        gamma = model.gamma if counted.gamma is None else counted.gamma
        if gamma <= model.gamma:
            continue
        needed = cut_horizon(gamma) if gamma < 1.0 else np.inf
        if counted.horizon is not None:  # what its last step injects is followed, too
            needed = min(needed, counted.horizon + followed)
        steps = max(steps, int(needed))
    return steps


def _fragment_steps(objective: Objective) -> int:
    """Return the steps of the longest fragments that an objective evaluates, 0 without any."""
    terms = [term for term in flattened(objective) if scope_of(term) == "fragments"]
    return max((cast("PreferenceLikelihood", term).horizon for term in terms), default=0)


def seen_outcome(
    model: TabularModel,
    upper_params: FloatArray,
    policy: FloatArray,
    blocks: Sequence[Episodes],
    *,
    among_seen: bool = False,
) -> Outcome:
    """Return what an objective may evaluate of a policy `[S, A]` of which episodes were seen.

    Without episodes, x and the policy are all there is to evaluate; see `Seen.outcome`. With
    `among_seen` the policy is that among the actions seen.
    """
    seen = Seen(*policy.shape)
    seen.add(blocks)
    if among_seen:
        policy = renormalised(policy, seen.counts.visits > 0.0)
    return seen.outcome(model, upper_params, policy)


def policy_response(
    model: TabularModel,
    upper: UpperValue,
    policy: FloatArray,
    sampler: Plays,
    episodes: int,
    horizon: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Estimate dF/dr through pi* `[S, A]` for a term that evaluates the policy.

    Its injections are known everywhere, from its derivatives at the policy `[S, A]`; what follows
    them is played: `episodes`, at least 1, cut after `horizon` steps. Of the model, the follower's
    discount and temperature are used.
    """
    injected = centred_score(policy, model.temperature, upper.policy, upper.log_policy)
    return followed(injected, policy, sampler, model.gamma, episodes, horizon, rng)


def followed(
    injected: FloatArray,
    policy: FloatArray,
    sampler: Plays,
    gamma: float,
    episodes: int,
    horizon: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Return q `[S, A]` of injections `[S, A]`, what follows them being played.

    Episodes start from pairs drawn in proportion to the size of their injections; `policy` is
    `[S, A]`, and the rest as in `policy_response`.
    """
    size = np.abs(injected)
    total = float(size.sum())
    if total == 0.0:
        return injected
    # Drawn at even distances, so that as much is added as is taken away around each state.
    places = (rng.random() + np.arange(episodes)) / episodes
    drawn = np.searchsorted(size.ravel().cumsum(), places * total, side="right")
    drawn = np.minimum(drawn, np.flatnonzero(size.ravel())[-1])
    pairs = np.unravel_index(drawn, size.shape)
    signs, played = np.sign(injected) * total, 0
    following = np.zeros(len(policy))
    for block, carry in carried_from(sampler, pairs, signs, gamma, horizon, rng):
        following += on_states(block, carry)
        played += block.num_episodes
    return injected + policy * (following / played)[:, None]


def first_states(blocks: Sequence[Episodes]) -> NDArray[np.int64]:
    """Return the first state of each episode, `[N]`."""
    nothing = np.zeros(0, dtype=np.int64)
    return np.concatenate([nothing, *(block.states[0] for block in blocks)])
