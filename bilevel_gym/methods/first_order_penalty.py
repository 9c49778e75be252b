"""First-order penalty: two learners, one of which also earns the leader's reward.

M. Gaur, U. Singh, A. S. Bedi, R. Pasupathy, V. Aggarwal, "On the sample complexity bounds of
bilevel reinforcement learning", NeurIPS 2025, arXiv 2503.17644. Known from its abstract: a fully
first-order, Hessian-free algorithm, for continuous spaces, with O~(eps^-3) samples; and from its
unfinished code, two policies that are learnt side by side. The surrogate is the one of penalty
methods: with J_x(pi) the follower's soft return and f(x, pi) the leader's,

    F_lambda(x) = max_y [f(x, pi_y) + lambda J_x(pi_y)] - lambda max_z J_x(pi_z)
    dF_lambda/dx = df/dx + lambda (sum_sa d_y pi_y dr/dx - sum_sa d_z pi_z dr/dx)

by the envelope theorem: z is the follower, and y a follower who is paid u / lambda in addition, u
being the leader's reward, which it is told. The error is O(1 / lambda).

Ours is how the difference is estimated, tables in place of networks. Two independent estimates
would have lambda times their noise in it. So both learners see the same episodes, those that z
plays, and make the same errors; and visits of y are those of z's episodes, weighted by the
likelihood of the actions so far:

    lambda E_z sum_t gamma^t [rho_{t-1} pi_y(a|s_t) - pi_z(a|s_t)],   rho_t = rho_{t-1} pi_y / pi_z

for all actions a of the states that were visited. As lambda grows, pi_y - pi_z and rho - 1 fall
like 1 / lambda, and the variance stays bounded: in the limit this is the trace of
`bilevel_gym.methods.trace` with the advantage that the second learner has found, and a large lambda
costs nothing but digits. A small one (u / (lambda tau) not small) makes weights of long episodes
uneven.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np

from ..core.checks import check_positive
from ..core.mdp import FloatArray
from ..episodes.sampler import Episodes
from ..model.objectives import StepObjective, flattened, scope_of
from ..model.tabular import TabularModel
from .episode_sums import Batch, on_states
from .learners import make_learner
from .model_based import check_tabular
from .sampled import TermByTerm

__all__ = ["FirstOrderPenalty"]


class FirstOrderPenalty(TermByTerm):
    """Estimate the hyper-gradient from a follower, and one who is paid by the leader as well."""

    unbiased: ClassVar[bool] = False  # but for O(1 / penalty)
    remembered = (*TermByTerm.remembered, "_paid")

    def __init__(
        self,
        model: TabularModel,
        *,
        penalty: float = 1e4,
        inner: str = "exact",
        inner_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Bind the method to a model.

        Args:
            model: A tabular model whose objective is one return with the follower's discount, and
                costs of x.
            penalty: lambda, positive. Times the temperature it should be large against the leader's
                advantages.
            inner: Where both policies come from, a key of `bilevel_gym.methods.learners.LEARNERS`.
            inner_options: Options of both learners.
            **options: See `Sampled`: episodes, horizon, error_bars.

        Raises:
            TypeError: If the method does not suit the model, or an option is unknown.
            ValueError: If an option is out of range.
        """
        check_tabular(model)
        _check_return(model)
        super().__init__(model, inner=inner, inner_options=inner_options, **options)
        self._penalty = check_positive("penalty", penalty)
        # What the follower plays while it learns is recorded, and heard by the other one.
        tape: list[list[Episodes]] = []
        follower, paid = copy.copy(model), copy.copy(model)
        vars(follower)["sampler"] = partial(Recorded, tape, model)
        vars(paid)["sampler"] = partial(Replayed, tape)
        vars(paid)["reward"] = partial(_with_upper_reward, model, self._penalty)
        self._learner = make_learner(inner, follower, inner_options)
        self._paid = make_learner(inner, paid, inner_options)
        self._paid_policy: FloatArray = np.zeros((model.num_states, model.num_actions))

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        super().reset(rng)
        self._paid.reset(rng)

    def follow(self, upper_params: FloatArray, played: Sequence[Episodes]) -> None:
        """Let the other learner answer as well, from the same episodes."""
        self._paid_policy = self._paid.answer(upper_params).policy

    def watch(self, blocks: Sequence[Episodes]) -> None:
        """Tell both learners; see `Sampled`."""
        super().watch(blocks)
        self._paid.watch(blocks)

    def signed_occupancy(self, batch: Batch) -> FloatArray:
        """Return lambda times the difference of discounted visits, `[S, A]`; see `Sampled`."""
        follower, paid = batch.policy, self._paid_policy
        ratio = np.divide(paid, follower, out=np.ones_like(paid), where=follower > 0.0)
        plain, weighted = np.zeros((2, len(follower)))
        for block in batch.blocks:
            discounts = np.power(batch.gamma, np.arange(len(block.states)), dtype=np.float64)
            along = np.where(block.alive, block.along(ratio), 1.0)
            before = np.ones_like(along)
            np.cumprod(along[:-1], axis=0, out=before[1:])
            plain += on_states(block, np.repeat(discounts[:, None], before.shape[1], axis=1))
            weighted += on_states(block, discounts[:, None] * (before - 1.0))
        # rho pi_y - pi_z = (rho - 1) pi_y + (pi_y - pi_z), both of them small.
        difference = weighted[:, None] * paid + plain[:, None] * (paid - follower)
        return self._penalty / batch.num_episodes * difference


class Recorded:
    """A sampler whose episodes are kept.

    Attributes:
        samples: Environment steps played so far.
    """

    def __init__(self, tape: list[list[Episodes]], model: TabularModel, *game: Any) -> None:
        """Build the sampler; `game` is x and the policy."""
        self._tape, self._sampler = tape, model.sampler(*game)

    @property
    def samples(self) -> int:
        """Environment steps played so far."""
        return self._sampler.samples

    def episodes(self, *options: Any) -> Iterator[Episodes]:
        """Play episodes; see `Sampler`."""
        return self._kept(self._sampler.episodes(*options))

    def episodes_from(self, *options: Any) -> Iterator[Episodes]:
        """Play an episode from each of some pairs; see `Sampler`."""
        return self._kept(self._sampler.episodes_from(*options))

    def _kept(self, blocks: Iterator[Episodes]) -> Iterator[Episodes]:
        self._tape.append(list(blocks))
        return iter(self._tape[-1])


class Replayed:
    """What was recorded, in place of a sampler: it plays nothing, however its learner plans.

    Attributes:
        samples: None were played.
    """

    samples = 0

    def __init__(self, tape: list[list[Episodes]], *game: Any) -> None:
        """Take the tape; x and policy of `game` have no part."""
        self._tape = tape

    def episodes(self, *options: Any) -> Iterator[Episodes]:
        """Return all that was recorded, once."""
        while self._tape:
            yield from self._tape.pop(0)

    episodes_from = episodes


def _with_upper_reward(model: TabularModel, penalty: float, upper_params: FloatArray) -> FloatArray:
    """Return r_x + u_x / lambda `[S, A]`."""
    return model.reward(upper_params) + model.checked_upper_reward(upper_params) / penalty


def _check_return(model: TabularModel) -> None:
    """Raise a `TypeError` unless the objective is one that a follower can be paid for."""
    returns = [term for term in flattened(model.objective) if scope_of(term) != "params"]
    if len(returns) == 1 and scope_of(returns[0]) == "steps":
        counted = cast("StepObjective", returns[0])
        if counted.horizon is None and counted.gamma in (None, model.gamma):
            return
    raise TypeError(
        "this method needs an objective of one return with the follower's discount, without a "
        f"horizon, and costs of x, got that of {model.name}; 'trace' and 'pbrl-value' take others"
    )
