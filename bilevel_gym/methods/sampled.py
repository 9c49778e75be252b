"""What methods have in common that learn the hyper-gradient from episodes.

They estimate the signed occupancy q = dF/dr through pi*, `[S, A]` (see `bilevel_gym.core.adjoint`),
and the derivative of the reward, which the leader has designed, does the rest: dF/dx = direct part
+ sum_sa q(s, a) dr(s, a)/dx. q spreads what is injected at a step over the steps that follow,

    q = E_pi[ sum_t e_t 1[(s_t, a_t) = .] ],   e_t = gamma e_{t-1} + c_t,

for each objective with its own injections c_t, whose mean over the actions of a state is zero. So
no estimator needs an array with the dimension of x for every state.

Of the model they see its sampler alone. An objective is a sum of terms, each of a scope that it
declares (`bilevel_gym.model.objectives.Scope`): returns, of which episodes tell the value; costs of
x; and terms that evaluate the policy, which the method knows. What follows from the policy, such as
its occupancy, is that of the frequencies seen. The injections of these terms are known everywhere,
and episodes are started from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ..core.bellman import centred_score
from ..core.checks import check_at_least
from ..core.linear import DiscountedSystem
from ..core.mdp import FloatArray, Kernel, TabularMDP
from ..core.soft import PolicyAnswer
from ..episodes.sampler import Episodes, Sampler, TransitionCounts
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
from .learners import make_learner
from .model_based import check_tabular

__all__ = [
    "Batch",
    "Critic",
    "Sampled",
    "advantages",
    "carried",
    "check_rewards_alone",
    "enough_steps",
    "followed_visits",
    "on_pairs",
    "on_states",
    "policy_response",
    "renormalised",
    "seen_outcome",
    "spread",
]

# Episodes are cut where the discounts have come down to this.
CUT = 1e-4


@dataclass(frozen=True, eq=False)
class Batch:
    """What a method has seen under one x, for one of the leader's returns.

    Attributes:
        upper_params: x.
        blocks: The episodes.
        policy: The follower's policy `[S, A]`.
        gamma: The follower's discount.
        temperature: The follower's temperature.
        upper_gamma: The leader's discount.
        upper_horizon: Steps that the leader counts, None for all.
        sampler: Where more episodes come from.
        horizon: Steps after which episodes are cut.
    """

    upper_params: FloatArray
    blocks: Sequence[Episodes]
    policy: FloatArray
    gamma: float
    temperature: float
    upper_gamma: float
    upper_horizon: int | None
    sampler: Sampler
    horizon: int

    @classmethod
    def of(
        cls,
        model: TabularModel,
        upper_params: FloatArray,
        policy: FloatArray,
        blocks: Sequence[Episodes],
        sampler: Sampler,
        horizon: int,
        upper_gamma: float | None,
        upper_horizon: int | None,
    ) -> Batch:
        """Return what was seen under one x; the leader's discount is the follower's where None."""
        return cls(
            upper_params,
            blocks,
            policy,
            model.gamma,
            model.temperature,
            model.gamma if upper_gamma is None else upper_gamma,
            upper_horizon,
            sampler,
            horizon,
        )

    @property
    def num_episodes(self) -> int:
        """N, over all blocks."""
        return sum(block.num_episodes for block in self.blocks)

    def discounts(self, steps: int) -> FloatArray:
        """Return the weights that the leader gives the first steps, `[steps]`."""
        weights = np.power(self.upper_gamma, np.arange(steps), dtype=np.float64)
        if self.upper_horizon is not None:
            weights[self.upper_horizon :] = 0.0
        return weights

    def visits(self) -> FloatArray:
        """Return mean visits of pairs, weighted as the leader does, `[S, A]`."""
        total = np.zeros(self.policy.shape)
        for block in self.blocks:
            weights = self.discounts(len(block.upper_rewards))[:, None]
            along = np.broadcast_to(weights, block.upper_rewards.shape)
            total += on_pairs(block, along, self.policy.shape)
        return total / self.num_episodes

    def returns(self) -> Iterator[tuple[Episodes, FloatArray]]:
        """Yield each block with the leader's returns in it, `[N]`."""
        for block in self.blocks:
            yield block, self.discounts(len(block.upper_rewards)) @ block.upper_rewards


class Sampled(ABC):
    """A method that plays episodes of the follower's policy and estimates from what it sees."""

    exact: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    scopes: ClassVar[frozenset[Scope]] = frozenset({"steps", "policy", "params"})

    def __init__(
        self,
        model: TabularModel,
        *,
        episodes: int = 256,
        horizon: int | None = None,
        inner: str = "exact",
        inner_options: dict[str, Any] | None = None,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model whose x enters the rewards alone.
            episodes: Episodes played for each x, at least 1.
            horizon: Steps after which an episode is cut; None cuts where the discounts of the
                follower and of the leader have come down to 1e-4.
            inner: Where the policy comes from, a key of `bilevel_gym.methods.learners.LEARNERS`.
            inner_options: Options of the inner learner.

        Raises:
            TypeError: If x moves the kernel or the first state of the model, its objective
                evaluates fragments and the method cannot, or an option of the inner learner is
                unknown.
            ValueError: If an option is out of range.
        """
        check_rewards_alone(model)
        fragment = _fragment_steps(model.objective)
        if fragment > 0 and "fragments" not in self.scopes:
            raise TypeError(
                f"the leader of {model.name} evaluates pairs of fragments, and this method needs "
                "an objective that is a sum over steps; take method "
                '"sobirl" or "stoc-sobirl", or one with a model, such as "exact"'
            )
        check_at_least("episodes", episodes, 2 if fragment > 0 else 1)
        if horizon is not None:
            check_at_least("horizon", horizon, max(1, fragment))
        self._model = model
        self._num_episodes = int(episodes)
        self._horizon = enough_steps(model) if horizon is None else int(horizon)
        self._learner = make_learner(inner, model, inner_options)
        self._rng = np.random.default_rng(0)

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        self._rng = rng
        self._learner.reset(rng)

    def watch(self, upper_params: FloatArray, blocks: Sequence[Episodes]) -> None:  # noqa: B027
        """Take note of the episodes of one x, before anything is estimated from them.

        Args:
            upper_params: x.
            blocks: The episodes.
        """

    @abstractmethod
    def signed_occupancy(self, batch: Batch) -> tuple[FloatArray, int]:
        """Estimate dF/dr through pi* for one of the leader's returns.

        Args:
            batch: What was seen.

        Returns:
            The estimate `[S, A]`, and the environment steps played for it beyond the batch.
        """

    def of_preferences(
        self, term: PreferenceLikelihood, batch: Batch
    ) -> tuple[float, FloatArray, FloatArray, int]:
        """Estimate an objective that evaluates fragments.

        Args:
            term: The objective.
            batch: What was seen; the leader's discount is one, its horizon that of fragments.

        Returns:
            The likelihood, its direct derivative with respect to r `[S, A]`, the one through pi*
            `[S, A]`, and the environment steps played beyond the batch.
        """
        # The constructor has refused such a model unless the class has "fragments" in its `scopes`,
        # and one that has overrides this.
        raise NotImplementedError

    def step(self, upper_params: FloatArray) -> TabularResponse:
        """Let the follower answer x, watch it, and estimate objective and hyper-gradient."""
        model, x = self._model, upper_params
        answer = self._learner.answer(x)
        policy = answer.policy
        sampler = model.sampler(x, policy)
        blocks = list(sampler.episodes(self._num_episodes, self._horizon, self._rng))
        samples = answer.samples + sum(block.num_steps for block in blocks)
        value, direct, signed = 0.0, np.zeros(x.shape), np.zeros(policy.shape)
        self.watch(x, blocks)
        terms = flattened(model.objective)
        outcome = None
        for term in terms:
            scope = scope_of(term)
            if scope == "steps":
                counted = cast("StepObjective", term)
                batch = Batch.of(
                    model, x, policy, blocks, sampler, self._horizon, counted.gamma, counted.horizon
                )
                value += sum(float(sums.sum()) for _, sums in batch.returns()) / batch.num_episodes
                direct += model.upper_reward_vjp(x, batch.visits())
                estimate, extra = self.signed_occupancy(batch)
            elif scope == "fragments":
                fragments = cast("PreferenceLikelihood", term)
                batch = Batch.of(
                    model, x, policy, blocks, sampler, self._horizon, 1.0, fragments.horizon
                )
                likelihood, slope, estimate, extra = self.of_preferences(fragments, batch)
                value += likelihood
                direct += model.reward_vjp(x, slope)
            else:
                if outcome is None:
                    outcome = seen_outcome(model, x, policy, blocks)
                upper = term.evaluate(outcome)
                value += upper.value
                direct += model.direct_part(x, upper)
                if not upper.responds:
                    continue
                estimate, extra = policy_response(
                    model, upper, policy, sampler, self._num_episodes, self._horizon, self._rng
                )
            signed += estimate
            samples += extra
        visits = _visits(blocks, model.gamma, policy.shape).sum(axis=1)
        return TabularResponse(
            upper_params=x,
            objective=value,
            hyper_gradient=direct + model.reward_vjp(x, signed),
            direct_gradient=direct,
            lower_value=_mean_at_start(blocks, answer.soft_value),
            residual=answer.residual,
            iterations=answer.iterations,
            converged=answer.converged,
            samples=samples,
            policy=policy,
            soft_value=answer.soft_value,
            occupancy=(1.0 - model.gamma) * visits,
        )


class Critic:
    """The leader's advantage A(s, a) = Q(s, a) - sum_b pi(b|s) Q(s, b), from transitions seen.

    All transitions ever seen count, whatever the policy was: the policy enters with its known
    probabilities. The leader's reward of a pair, which x may move, is the one seen last. Actions
    that were not seen in a state have advantage zero.

    Attributes:
        counts: The transitions seen.
        upper_reward: The leader's rewards seen last, `[S, A]`, zero where none was.
    """

    def __init__(self, num_states: int, num_actions: int) -> None:
        """Start with nothing seen."""
        self.counts = TransitionCounts(num_states, num_actions)
        self.upper_reward: FloatArray = np.zeros((num_states, num_actions))

    def add(self, blocks: Sequence[Episodes]) -> None:
        """Take note of episodes."""
        for block in blocks:
            self.counts.add(block)
            states, actions = block.trajectories.states, block.trajectories.actions
            alive = block.alive
            self.upper_reward[states[alive], actions[alive]] = block.upper_rewards[alive]

    def advantages(self, batch: Batch, steps: int) -> Sequence[FloatArray]:
        """Return the advantages `[S, A]` at each of the first steps (one for all, if endless)."""
        seen = self.counts.visits > 0.0
        policy = renormalised(batch.policy, seen)
        return advantages(self.counts.kernel(), self.upper_reward, policy, seen, batch, steps)


def advantages(
    kernel: Kernel,
    reward: FloatArray,
    policy: FloatArray,
    known: NDArray[np.bool_],
    batch: Batch,
    steps: int,
) -> Sequence[FloatArray]:
    """Return the leader's advantages in a model `[S, A]`, at each step or once for all.

    Args:
        kernel: The model's kernel.
        reward: The leader's reward `[S, A]`.
        policy: Action probabilities `[S, A]`.
        known: Where the model knows anything, bool `[S, A]`; advantages are zero elsewhere.
        batch: Says how the leader discounts, and until when.
        steps: How many steps the advantages are needed at.
    """
    gamma, horizon = batch.upper_gamma, batch.upper_horizon
    expected = (policy * reward).sum(axis=1)

    def advantage(value: FloatArray) -> FloatArray:
        q_value = reward + gamma * kernel.expect(value)
        return np.where(known, q_value - (policy * q_value).sum(axis=1, keepdims=True), 0.0)

    if horizon is None:
        value, _ = DiscountedSystem(kernel, policy, gamma).solve(expected)
        return [advantage(value)]
    value, tables = np.zeros(len(expected)), []
    for _ in range(horizon):
        tables.append(advantage(value))
        value = expected + gamma * (policy * kernel.expect(value)).sum(axis=1)
    return [*tables[::-1], *[np.zeros_like(reward)] * max(0, steps - horizon)][:steps]


def policy_response(
    model: TabularModel,
    upper: UpperValue,
    policy: FloatArray,
    sampler: Sampler,
    episodes: int,
    horizon: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, int]:
    """Estimate dF/dr through pi* for a term that evaluates the policy.

    Its injections are known everywhere; what follows them is played, from starts drawn in
    proportion to their size.

    Args:
        model: The model; of it, the follower's discount and temperature are used.
        upper: The term's value and derivatives at the policy.
        policy: The policy `[S, A]`.
        sampler: What plays its episodes.
        episodes: Episodes to play, at least 1.
        horizon: Steps after which they are cut.
        rng: Source of the starts and of the episodes.

    Returns:
        The estimate `[S, A]`, and the environment steps played for it.
    """
    injected = centred_score(policy, model.temperature, upper.policy, upper.log_policy)
    size = np.abs(injected)
    total = float(size.sum())
    if total == 0.0:
        return injected, 0
    # Drawn at even distances, so that as much is added as is taken away around each state.
    places = (rng.random() + np.arange(episodes)) / episodes
    drawn = np.searchsorted(size.ravel().cumsum(), places * total, side="right")
    drawn = np.minimum(drawn, np.flatnonzero(size.ravel())[-1])
    states, actions = np.unravel_index(drawn, size.shape)
    signs = np.sign(injected[states, actions]) * total / episodes
    carry, samples, first = np.zeros(policy.shape[0]), 0, 0
    for block in sampler.episodes_from(
        states.astype(np.int32), actions.astype(np.int32), horizon, rng
    ):
        injections = np.zeros(block.upper_rewards.shape)
        injections[0] = signs[first : first + block.num_episodes]
        carry += on_states(block, carried(injections, model.gamma), policy.shape[0])
        first += block.num_episodes
        samples += block.num_steps
    return injected + policy * carry[:, None], samples


def check_rewards_alone(model: object) -> None:
    """Raise a `TypeError` unless a model is a tabular one whose x enters the rewards alone."""
    check_tabular(model)
    assert isinstance(model, TabularModel)
    for moved, what in ((model.moves_kernel, "kernel"), (model.moves_start, "first state")):
        if moved:
            raise TypeError(
                f"x moves the {what} of {model.name}, and a method that sees episodes alone does "
                "not know how; 'exact', 'm-sobirl' or 'amd' do"
            )


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


def renormalised(policy: FloatArray, seen: NDArray[np.bool_]) -> FloatArray:
    """Return a policy among the actions that were seen, `[S, A]`; zero where none was."""
    known = np.where(seen, policy, 0.0)
    mass = known.sum(axis=1, keepdims=True)
    return np.divide(known, mass, out=np.zeros_like(known), where=mass > 0.0)


def carried(injections: FloatArray, gamma: float, truncation: int | None = None) -> FloatArray:
    """Return gamma e_{t-1}, what earlier injections amount to at each step, `[T, N]`.

    Args:
        injections: c_t, `[T, N]`.
        gamma: Discount.
        truncation: K: an injection counts at its own step and the K - 1 steps after it; None for
            all that follow.
    """
    carry = np.zeros_like(injections)
    for t in range(1, len(injections)):
        carry[t] = gamma * (carry[t - 1] + injections[t - 1])
    if truncation is not None and truncation < len(injections):
        late = carry[:-truncation] + injections[:-truncation]
        cut = carry.copy()
        cut[truncation:] -= gamma**truncation * late
        return cut
    return carry


def on_pairs(block: Episodes, weights: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Return weights of steps `[T, N]`, summed for each state and action, `[S, A]`."""
    pairs = block.trajectories.pairs.ravel()
    sums = np.bincount(pairs, weights.ravel(), minlength=shape[0] * shape[1] + 1)[:-1]
    return sums.astype(np.float64, copy=False).reshape(shape[1], shape[0]).T


def on_states(block: Episodes, weights: FloatArray, num_states: int) -> FloatArray:
    """Return weights of steps `[T, N]`, summed for each state, `[S]`."""
    states = block.trajectories.states
    return np.bincount(states[block.alive], weights[block.alive], minlength=num_states).astype(
        np.float64, copy=False
    )


def followed_visits(blocks: Sequence[Episodes], batch: Batch) -> FloatArray:
    """Return how often each pair was visited and followed for long enough, `[S, A]`.

    Visits in the first half of the horizon are; what is seen to follow later ones is cut short.
    """
    total = np.zeros(batch.policy.shape)
    for block in blocks:
        counted = block.alive.astype(np.float64)
        counted[_half(batch) :] = 0.0
        total += on_pairs(block, counted, batch.policy.shape)
    return total


def spread(
    blocks: Sequence[Episodes],
    injected: FloatArray,
    visits: FloatArray,
    batch: Batch,
    truncation: int | None = None,
) -> FloatArray:
    """Return what injections amount to on the pairs that were seen to follow them, `[S, A]`.

    Args:
        blocks: Episodes.
        injected: Injections `[S, A]`; what follows one is averaged over the visits of the pair.
        visits: `followed_visits` of the episodes; pairs without any spread nothing.
        batch: Says how the follower discounts.
        truncation: See `carried`.
    """
    per_visit = np.divide(injected, visits, out=np.zeros_like(visits), where=visits > 0.0)
    total = np.zeros(injected.shape)
    for block in blocks:
        injections = block.trajectories.along(per_visit)
        injections[_half(batch) :] = 0.0
        total += on_pairs(block, carried(injections, batch.gamma, truncation), injected.shape)
    return total


def _half(batch: Batch) -> int:
    return (batch.horizon + 1) // 2


def seen_outcome(
    model: TabularModel, upper_params: FloatArray, policy: FloatArray, blocks: Sequence[Episodes]
) -> Outcome:
    """Return what an objective may evaluate of a policy of which episodes were seen.

    Kernel and start are the frequencies seen, the leader's rewards those seen; where nothing was
    seen, the episode ends and the reward is zero.

    Args:
        model: The model; of it, the follower's reward, the discount and the mask are used.
        upper_params: x.
        policy: The policy `[S, A]`.
        blocks: Its episodes.
    """
    critic = Critic(*policy.shape)
    critic.add(blocks)
    first = np.concatenate([block.trajectories.states[0] for block in blocks])
    mdp = TabularMDP(
        critic.counts.kernel(),
        model.reward(upper_params),
        model.gamma,
        model.temperature,
        model.action_mask,
    )
    start = np.bincount(first, minlength=len(policy)) / len(first)
    answer = PolicyAnswer(mdp=mdp, policy=policy)
    return Outcome(answer, upper_params, critic.upper_reward, start)


def _mean_at_start(blocks: Sequence[Episodes], value: FloatArray) -> float:
    """Return the mean over episodes of what a value `[S]` is at their first states."""
    first = np.concatenate([block.trajectories.states[0] for block in blocks])
    return float(value[first].mean())


def _visits(blocks: Sequence[Episodes], gamma: float, shape: tuple[int, int]) -> FloatArray:
    """Return mean discounted visits of pairs, `[S, A]`."""
    count = sum(block.num_episodes for block in blocks)
    total = sum(
        (block.num_episodes * block.trajectories.discounted_visits(gamma) for block in blocks),
        start=np.zeros(shape),
    )
    return total / count
