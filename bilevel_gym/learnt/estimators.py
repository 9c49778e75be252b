"""Hyper-gradients from episodes of a follower who learns, for games without a table.

The identities are those of `bilevel_gym.methods.trace` and `bilevel_gym.methods.sobirl`; sums over
states become sums over the steps of episodes, and the derivative of the reward is one product of
its Jacobian with a weight for each step. `trace` carries the leader's advantage along an episode,

    e_t = gamma e_{t-1} + gamma_u^t A_u(s_t, a_t) / tau,

with A_u from a critic that is fitted to the learner's replay buffer. `hpgd` is the same with an A_u
from the episodes alone, a regression of returns on observations and actions; both are in
`bilevel_gym.learnt.traces`. `sobirl` is what the code of Yang, Gao, Yuan (AISTATS 2025, arXiv
2405.19697) computes: of the advantage of dr/dx it keeps the first term, so that it is biased, and
zero where the reward's gradient does not depend on the action.

`score` is the policy gradient in x with the policy's derivative in x learnt from all that was seen
(`bilevel_gym.learnt.scores`), for x of few entries. All of them say how far their estimates can be
trusted (`bilevel_gym.learnt.trust`), and what was watched goes into the replay afterwards.

Methods of games whose follower learns, `HyperGradient(game, method, **options)`: "trace", "bc-hg",
"hpgd", "sobirl", "score" and "zero-order" (differences of values, `bilevel_gym.learnt.probes`; it
and "score" alone know what to do where x moves the dynamics). The default is "score" where x has 64
entries at most, the reward model has its Jacobian and observations are no images, else "trace".
Tabular games have them as "deep-trace" and so on, with other defaults
(`bilevel_gym.learnt.tables`). Tasks have their own, in `method_options`.

| option | default | what it is |
|---|---|---|
| `episodes` | "auto" | episodes played for each x; "auto": see `FEWEST` |
| `inner_steps` | 1000 | environment steps that the follower learns for each x |
| `first_inner_steps` | three times as many | those for the first x |
| `inner` | that fits | "soft-dqn" for discrete actions, "soft-sac" for continuous ones |
| `inner_options` | {} | arguments of `bilevel_gym.sb3.SoftDQN` or `bilevel_gym.sb3.SoftSAC` |
| `standardise` | True | whether the networks of the follower read observations of unit scale |
| `learn_from_watched` | True | whether watched episodes go into the replay |
| `critic_updates` | 200 (hpgd: 1000, score: 2000) | steps of critics for each x, see below |
| `first_critic_updates` | as many | those for the first x; trace and bc-hg |
| `truncation` | None | steps that an injection counts; sobirl has 1, score all |
| `discount_steps` | True | whether late steps count for less; not sobirl, score |
| `state_features` | up to 60 | what advantages are regressed on; not sobirl, score |
| `baseline` | True | sobirl: whether the mean return of the other episodes is subtracted |
| `gae_lambda` | .95 | score: lambda of generalised advantages |
| `directions` | 2 | zero-order: pairs of x that are tried beside each x |
| `radius` | .1 | zero-order: their distance, as a share of the box of x |
| `probe_share` | .25 | zero-order: share of `inner_steps` that the follower learns at each |

Critics are trained until they explain no more of the variance of watched sums that are new to them:
that of `score` for `critic_updates` at most, those of `trace` and `bc-hg` for as many at least and
twice as many at most. `hpgd` takes exactly as many.
"""

from __future__ import annotations

import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, Literal

import numpy as np

from ..core.checks import check_at_least, check_flag, received
from ..core.mdp import FloatArray
from ..episodes.recorded import Batch, LearntEpisodes, as_argument
from ..methods.error_bars import expected_cosine
from ..model.protocols import LearntGame
from ..model.responses import EpisodicResponse, Response
from ..rewards.models import FEW
from ..rewards.tensors import blocks
from .checkpoints import Checkpointed
from .first_answer import warn_of_first_answer
from .trust import LEAST_TRUST, Estimate, assessed, group_of

__all__ = [
    "BLOCK",
    "Estimator",
    "LearntSoBiRL",
    "averaged",
    "by_group",
    "over_actions",
    "returns",
    "reward_gradient",
]

# Steps whose rewards are differentiated at a time, for networks and images.
BLOCK = 1024

# Where the number of episodes is not given, they take about as long as the follower learns for each
# x. There are so many of them at least and at most; and where it takes no more than twice as long,
# so many for each entry of x, if it has few, as a gradient with D entries is seen in more than D
# episodes alone.
FEWEST, MOST, EACH = 4, 32, 3

# What a brief evaluation takes of all that.
BRIEF = 0.5

# The share of its mean that counts for the spread of dr_x/dx.
CONSTANT = 0.25

# States in which the follower's policy is compared with the one before, about.
COMPARED = 1024


class Estimator(Checkpointed, ABC):
    """Train the follower, play its episodes, estimate."""

    saved = ("_last", "_metric", "_starts")
    begins_alike: ClassVar[bool] = True  # whether the episodes of all x do

    def __init__(
        self,
        game: LearntGame,
        *,
        episodes: int | Literal["auto"] = "auto",
        learn_from_watched: bool = True,
        **options: Any,
    ) -> None:
        """Bind the method to a game; the options are in the table of this module."""
        self._num_episodes: int | None = None
        if episodes != "auto":
            self._num_episodes = check_at_least("episodes", episodes, 1)
        self._learns_from_watched = check_flag("learn_from_watched", learn_from_watched)
        self._warned_of_trust = False
        super().__init__(game, **options)

    def _forget(self) -> None:
        super()._forget()
        # The last x, and the Fisher information of the follower's policy there.
        self._last: FloatArray | None = None
        self._metric: FloatArray | None = None
        # Seed of the watched episodes: what follows from x is seen more clearly where they begin
        # alike (Ng, Jordan, UAI 2000).
        self._starts = int(self._rng.integers(2**31))

    @property
    def _seed(self) -> int | None:
        return self._starts if self.begins_alike else None

    @abstractmethod
    def response_term(self, upper_params: FloatArray, played: LearntEpisodes) -> Estimate:
        """Return an estimate of the response term."""

    def step(self, upper_params: FloatArray) -> Response:
        """Let the follower learn under x, and estimate objective and hyper-gradient.

        What was watched is learnt from later on: here it is new to critics.
        """
        follower, x = self.follower, upper_params
        before = follower.snapshot() if follower.answered else None
        samples = self._learn(x)
        played = self._played(x, seed=self._seed)
        paid = returns(played.upper_rewards, self._game.upper_gamma)
        if follower.answered == 1:
            warn_of_first_answer(self._game, played, paid)
        estimate = self.response_term(x, played)
        value, direct, others, extra = self.other_terms(x, played)
        gradient = direct + (estimate.gradient + others)
        response = self._answered(
            x,
            played,
            value,
            samples=samples + extra + estimate.samples,
            hyper_gradient=gradient,
            direct_gradient=direct if estimate.direct is None else direct + estimate.direct,
            critic_loss=estimate.critic_loss,
            critic_explained=estimate.explained,
            metric=estimate.metric,
            **self._confidence(x, played, estimate, gradient, paid, before),
        )
        self._last, self._metric = x.copy(), estimate.metric
        return response

    def measure(self, upper_params: FloatArray) -> Response:
        """Let the follower learn and be watched half as long, without a hyper-gradient."""
        samples = self._learn(upper_params, BRIEF)
        self._metric = None  # of a policy that is no more
        played = self._played(upper_params, BRIEF, self._seed)
        value, *_, extra = self.other_terms(upper_params, played)
        return self._answered(upper_params, played, value, samples=samples + extra)

    def watch(self, upper_params: FloatArray) -> Response:
        """Watch the follower as it is, from other starts, without a hyper-gradient."""
        played = self._played(upper_params)
        value, *_, extra = self.other_terms(upper_params, played)
        return self._answered(upper_params, played, value, samples=extra)

    def _learn(self, upper_params: FloatArray, share: float = 1.0) -> int:
        """Let the follower learn; where x moves the dynamics, by a seed from the generator."""
        moves = self._game.moves_dynamics
        seed = int(self._rng.integers(2**31)) if moves else None
        return self.follower.learn(upper_params, share, seed=seed)

    def _played(
        self, upper_params: FloatArray, share: float = 1.0, seed: int | None = None
    ) -> LearntEpisodes:
        """Play the follower's episodes for an estimate, or for a share of one."""
        play = partial(self.follower.play, upper_params, rng=self._rng, seed=seed)
        if self._num_episodes is not None:
            return play(max(1, round(share * self._num_episodes)))
        size = upper_params.size
        wanted = min(MOST, EACH * size) if share == 1.0 and size <= FEW else 0
        steps = round(share * self.follower.steps)
        return play(max(1, round(share * FEWEST)), steps=steps, wanted=wanted, most=MOST)

    def _answered(
        self,
        upper_params: FloatArray,
        played: LearntEpisodes,
        value: float,
        *,
        samples: int,
        **others: Any,
    ) -> Response:
        """Return the response that episodes give, which are learnt from in what follows.

        `value` is what the objective has beside the leader's return.
        """
        game = self._game
        paid = returns(played.upper_rewards, game.upper_gamma)
        upper = float(paid.mean())
        response = self.answer(
            played,
            upper,
            float(returns(played.lower_rewards, game.gamma).mean()),
            upper_params=upper_params,
            objective=upper + value,
            samples=samples + played.num_steps,
            values=paid + value,
            spread=self._spread(upper_params, played),
            cut_share=float(1.0 - played.terminated.any(axis=0).mean()),
            **others,
        )
        if self._learns_from_watched:
            self.follower.keep(played)
        return response

    def _confidence(
        self,
        upper_params: FloatArray,
        played: LearntEpisodes,
        estimate: Estimate,
        gradient: FloatArray,
        paid: FloatArray,
        before: Any,
    ) -> dict[str, Any]:
        """Return the fields of a `LearntResponse` that say how far the others can be trusted."""
        x, count = upper_params, played.num_episodes
        predicted: float | None = None
        if before is None:  # the first answer: nothing has moved
            measured, predicted = 0.0, None if estimate.metric is None else 0.0
        else:
            observations = played.as_batch[0]
            chosen = observations[:: max(1, len(observations) // COMPARED)]
            measured = self.follower.divergence(before, chosen)
            if self._metric is not None and self._last is not None:
                moved = (x - self._last).ravel()
                predicted = float(0.5 * moved @ self._metric @ moved)
        groups = group_of(np.arange(count), count)
        parts = [played.part(groups == group) for group in range(groups.max() + 1)]
        direct = np.stack([self._game.direct_part(x, part)[1] for part in parts])
        error = estimate.standard_error(direct)
        cosine = None if error is None else expected_cosine(gradient, error)
        objective_se = float(paid.std(ddof=1) / np.sqrt(count)) if count > 1 else None
        trust, reason = assessed(
            cosine=cosine,
            objective_se=objective_se,
            explained=estimate.explained,
            kl_predicted=predicted,
            kl_measured=measured,
        )
        if trust < LEAST_TRUST and not self._warned_of_trust:
            self._warned_of_trust = True
            warnings.warn(
                f"the hyper-gradient of {self._game.title} has a trust of {trust:.2g}: {reason}",
                stacklevel=3,
            )
        return {
            "objective_se": objective_se,
            "hyper_gradient_se": error,
            "hyper_gradient_cosine": cosine,
            "kl_predicted": predicted,
            "kl_measured": measured,
            "trust": trust,
            "trust_reason": reason,
        }

    def _spread(self, upper_params: FloatArray, played: LearntEpisodes) -> FloatArray | None:
        """Return the deviation of dr_x/dx over the replay, `[D]`, where x has few entries.

        Where the replay is empty, it is that over the episodes played.
        """
        buffer = self.follower.model.replay_buffer
        assert buffer is not None
        if upper_params.size > FEW:
            return None
        if buffer.size():
            stored = buffer.transitions(buffer.draw(BLOCK, self._rng), self._rng)
            seen, taken, said = stored.observations, stored.actions, as_argument(stored.terms)
        else:
            (seen, taken), said = played.as_batch, as_argument(played.terms_of_batch)
        found = self._game.reward_jacobian(upper_params, seen, taken, **said)
        # What is the same everywhere matters, too, where episodes end: a part of it counts.
        return np.hypot(found.std(axis=0), CONSTANT * found.mean(axis=0))

    def _read(self, archive: zipfile.ZipFile, found: dict[str, Any]) -> None:
        super()._read(archive, found)
        for name in ("_last", "_metric"):
            found[name] = None if found[name] is None else np.array(found[name])

    def other_terms(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[float, FloatArray, FloatArray, int]:
        """Return what the objective has beside the leader's return, and the direct part.

        These are F less the leader's return, dF/dx at a fixed policy, its derivative through the
        policy (both shape of x), and the environment steps played for it.
        """
        value, direct = self._game.direct_part(upper_params, played)
        return value, direct, np.zeros(upper_params.shape), 0

    def answer(self, played: LearntEpisodes, upper: float, lower: float, **common: Any) -> Response:
        """Return the response to x, of both players' mean returns and fields that are given."""
        length = played.num_steps / played.num_episodes
        return EpisodicResponse(summary=(upper, lower, length), **common)


class LearntSoBiRL(Estimator):
    """The return of an episode, times the first term of the advantages of dr/dx along it."""

    def __init__(
        self, game: LearntGame, *, truncation: int = 1, baseline: bool = True, **options: Any
    ) -> None:
        """Bind the method to a game; the options are in the table of this module."""
        if game.term_names:
            raise TypeError(
                "`sobirl` needs the rewards of actions that were not taken, and the terms of "
                f"{game.title} are known of those taken alone; `trace` needs no others"
            )
        self._baseline, self._warned = check_flag("baseline", baseline), False
        if not isinstance(truncation, Integral) or truncation != 1:
            raise ValueError(
                "`truncation` must be 1 where the follower learns, as further terms of the same "
                f"episode are correlated with its return, got {received(truncation)}; `trace` has "
                "all terms"
            )
        super().__init__(game, **options)

    def response_term(self, upper_params: FloatArray, played: LearntEpisodes) -> Estimate:
        """Return the one-step estimate; see `Estimator`."""
        game, follower, x = self._game, self.follower, upper_params
        alive, count = played.alive, played.num_episodes
        paid = returns(played.upper_rewards, game.upper_gamma)
        if self._baseline and count > 1:
            paid = paid - (paid.sum() - paid) / (count - 1)
        weights = np.broadcast_to(paid / game.temperature, alive.shape)[alive]
        seen, taken = played.as_batch
        along = partial(by_group, played)
        estimate = along(partial(reward_gradient, game, x), seen, taken, weights)
        if follower.discrete:
            shares = follower.probabilities(seen) * weights[:, None]
            mean = along(partial(over_actions, game, x), seen, shares)
        else:
            drawn = follower.draw(seen, self._rng)
            mean = along(partial(reward_gradient, game, x), seen, drawn, weights)
        size = float(np.linalg.norm(estimate))
        parts = estimate - mean
        if not self._warned and 0.0 < size and np.linalg.norm(parts) <= 1e-8 * size:
            self._warned = True
            warnings.warn(
                f"the one-step response term is zero for {game.title}: the gradient of its reward "
                "does not depend on the action; `trace` has all terms",
                stacklevel=2,
            )
        return averaged(parts, count)


def returns(rewards: FloatArray, gamma: float) -> FloatArray:
    """Return the discounted sum of the rewards of each episode, `[N]`, of rewards `[T, N]`."""
    return np.power(gamma, np.arange(len(rewards))) @ rewards


def by_group(
    played: LearntEpisodes, summed: Callable[..., FloatArray], *along: Batch
) -> FloatArray:
    """Return what is summed over steps `[B, ...]` for each group of episodes, `[G, *x]`."""
    groups = group_of(np.nonzero(played.alive)[1], played.num_episodes)
    chosen = [groups == group for group in range(groups.max() + 1)]
    return np.stack([summed(*(values[steps] for values in along)) for steps in chosen])


def averaged(sums: FloatArray, count: int, **others: Any) -> Estimate:
    """Return an estimate from sums over the episodes of each group `[G, *x]`, `count` in all."""
    sizes = np.bincount(group_of(np.arange(count), count))
    parts = sums / sizes.reshape(-1, *[1] * (sums.ndim - 1))
    return Estimate(sums.sum(axis=0) / count, parts=parts, **others)


def reward_gradient(
    game: LearntGame,
    upper_params: FloatArray,
    observations: Batch,
    actions: Batch,
    weights: FloatArray,
    terms: FloatArray | None = None,
) -> FloatArray:
    """Return sum_b weights(b) dr_x(s_b, a_b)/dx, shape of x, some steps at a time.

    `terms` `[B, K]` are those of the steps, for games that have some.
    """
    total = np.zeros(upper_params.shape)
    for at in blocks(len(weights), BLOCK):
        said = as_argument(None if terms is None else terms[at])
        total += game.reward_vjp(upper_params, observations[at], actions[at], weights[at], **said)
    return total


def over_actions(
    game: LearntGame, upper_params: FloatArray, observations: Batch, weights: FloatArray
) -> FloatArray:
    """Return sum_ba weights(b, a) dr_x(s_b, a)/dx over all discrete actions, shape of x."""
    total, count = np.zeros(upper_params.shape), weights.shape[1]
    for at in blocks(len(weights), max(1, BLOCK // count)):
        each = np.repeat(observations[at], count, axis=0)
        actions = np.tile(np.arange(count), len(weights[at]))
        total += game.reward_vjp(upper_params, each, actions, weights[at].ravel())
    return total
