"""Responses: the follower's answer to x, and what it means for the leader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import numpy as np

from ..core.mdp import FloatArray
from ..core.reprs import Described, number

__all__ = [
    "CrowdResponse",
    "EpisodicResponse",
    "ExactCrowdResponse",
    "ExactGaussianResponse",
    "ExactResponse",
    "GaussianResponse",
    "LearntResponse",
    "Method",
    "Response",
    "TabularResponse",
    "response_from",
    "response_state",
]

# What the `repr` of a response says, where it is known, beside objective and gradient; and in how
# many digits.
SAID = {
    "hyper_gradient_cosine": 2,
    "trust": 2,
    "coverage": 2,
    "temperature": 3,
    "residual": 1,
}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Response(Described):
    """The follower's answer to x and what it means for the leader.

    None stands for what a method does not compute. Arrays are read-only.

    Attributes:
        upper_params: The x answered.
        objective: F(x) = f(x, pi), maximised.
        hyper_gradient: The method's dF/dx, an ascent direction, shape of x.
        direct_gradient: Its part at a fixed policy, shape of x; the rest is the response term.
        lower_value: The follower's soft value at the start, averaged over first states.
        residual: Sup norm of the follower's Bellman residual.
        iterations: Iterations of the inner learner.
        converged: Whether the inner learner met its tolerance.
        samples: Environment steps that the method consumed.
        objective_se: Standard error of an estimated objective; of followers who learn, 0 where all
            episodes have the same value.
        hyper_gradient_se: Standard error of each entry of an estimated hyper-gradient, shape of x:
            of the episodes, and of a critic. The follower's own distance from its optimum is no
            part.
        hyper_gradient_cosine: Expected cosine to the hyper-gradient without these errors, in
            [0, 1].
        temperature: The follower's temperature, where the method changes it.
        reported: Keys of the leader's `info`, and the fields that they report.
    """

    reported: ClassVar[Mapping[str, str]] = {
        "objective": "objective",
        "hyper_gradient": "hyper_gradient",
        "upper_params": "upper_params",
        "inner_residual": "residual",
        "inner_iterations": "iterations",
        "inner_converged": "converged",
        "inner_samples": "samples",
        "lower_value": "lower_value",
        "objective_se": "objective_se",
        "hyper_gradient_se": "hyper_gradient_se",
        "hyper_gradient_cosine": "hyper_gradient_cosine",
        "temperature": "temperature",
    }

    upper_params: FloatArray
    objective: float
    hyper_gradient: FloatArray | None = None
    direct_gradient: FloatArray | None = None
    lower_value: float | None = None
    residual: float | None = None
    iterations: int | None = None
    converged: bool | None = None
    samples: int | None = None
    objective_se: float | None = None
    hyper_gradient_se: FloatArray | None = None
    hyper_gradient_cosine: float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Protect the arrays: warm starts and pictures rely on them."""
        if self.upper_params.flags.writeable:  # the caller's own array
            object.__setattr__(self, "upper_params", self.upper_params.copy())
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def described(self) -> Iterator[tuple[str, str]]:
        """Yield what is said of the answer, without its arrays; after "±" standard errors."""
        yield "objective", number(self.objective, self.objective_se)
        if self.hyper_gradient is not None:
            error = None
            if self.hyper_gradient_se is not None:  # the root of the expected squared error
                error = float(np.linalg.norm(self.hyper_gradient_se))
            yield "|gradient|", number(float(np.linalg.norm(self.hyper_gradient)), error, 3)
        for name, digits in SAID.items():
            value = getattr(self, name, None)
            if value is not None:
                yield name.removeprefix("hyper_gradient_"), number(value, digits=digits)
        if self.samples is not None:
            yield "samples", str(self.samples)
        if self.converged is False:
            yield "converged", "False"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LearntResponse(Response):
    """An answer of a follower who learns, and what tells how far it can be trusted.

    The leader's value of N watched episodes estimates the objective. Where an estimate is the same
    in all of them, the size of its error is unknown, not zero.

    Attributes:
        critic_loss: What the leader's critic is left with, its mean squared error; None without.
        critic_explained: Share of the variance of watched sums that the critic explains in episodes
            that it has not learnt from, at most 1.
        cut_share: Share of the watched episodes that a limit of steps has cut, in [0, 1].
        kl_predicted: KL of the follower's policy from the one before, a step on average, as
            predicted from the change of x and the last `metric`; 0 in the first answer.
        kl_measured: The same as it was found in watched steps; 0 in the first answer.
        trust: `hyper_gradient_cosine`, lowered by what else is wrong, in [0, 1].
        trust_reason: What limits the trust, one sentence.
        values: The leader's value of each watched episode, `[N]`; the objective is their mean.
        metric: Fisher information of the follower's policy in x, the mean over watched steps,
            `[D, D]`: where x moves by d, the KL is about d^T metric d / 2 a step.
        spread: Standard deviation of dr_x/dx over the replay, by entry of x, `[D]`: temperature /
            spread is a unit of each entry.
    """

    reported: ClassVar[Mapping[str, str]] = {
        **Response.reported,
        "critic_loss": "critic_loss",
        "critic_explained": "critic_explained",
        "cut_share": "cut_share",
        "kl_predicted": "kl_predicted",
        "kl_measured": "kl_measured",
        "trust": "trust",
    }

    critic_loss: float | None = None
    critic_explained: float | None = None
    cut_share: float | None = None
    kl_predicted: float | None = None
    kl_measured: float | None = None
    trust: float | None = None
    trust_reason: str | None = None
    values: FloatArray | None = None
    metric: FloatArray | None = None
    spread: FloatArray | None = None


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class EpisodicResponse(LearntResponse):
    """An answer of a follower of which nothing but episodes is known.

    Attributes:
        summary: Means over episodes: the leader's return, the follower's return, the length.
        trust_ratio: Factor by which the response term was shortened to what the direct term allows,
            in [0, 1]; None where there is no direct term.
    """

    reported: ClassVar[Mapping[str, str]] = {
        **LearntResponse.reported,
        "trust_ratio": "trust_ratio",
    }

    summary: tuple[float, float, float]
    trust_ratio: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TabularResponse(Response):
    """An answer of a tabular game's follower, exact or not.

    Attributes:
        policy: The follower's policy `[S, A]`.
        occupancy: Its discounted state occupancy times (1 - gamma), `[S]`, sums to at most one;
            what was seen of it, where a method sees episodes alone.
        soft_value: What the inner learner takes for the soft value, `[S]`.
        coverage: Share of the follower's actions that were seen, in the states that it visits, in
            [0, 1].
        unregularised_optimistic: F without entropy, ties broken in the leader's favour, where the
            method lowers the temperature; see `bilevel_gym.model.unregularised`.
        unregularised_pessimistic: The same, ties broken to the leader's disadvantage.
    """

    reported: ClassVar[Mapping[str, str]] = {
        **Response.reported,
        "coverage": "coverage",
        "unregularised_optimistic": "unregularised_optimistic",
        "unregularised_pessimistic": "unregularised_pessimistic",
    }

    policy: FloatArray
    occupancy: FloatArray
    soft_value: FloatArray | None = None
    coverage: float | None = None
    unregularised_optimistic: float | None = None
    unregularised_pessimistic: float | None = None

    def draw_action(self, state: int, rng: np.random.Generator) -> int:
        """Draw an action of the policy in a state."""
        return int(rng.choice(self.policy.shape[1], p=self.policy[state]))


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class CrowdResponse(TabularResponse):
    """An answer of many followers, who all have the same policy.

    Where there is no discount, `occupancy` is the share of a follower's steps in each state.

    Attributes:
        crowd: What all of them are to one, z `[K]`; see `bilevel_gym.model.MeanFieldModel`.
    """

    crowd: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ExactCrowdResponse(CrowdResponse):
    """The exact answer of many followers: a mean-field equilibrium. Gradients have the shape of x.

    Attributes:
        residual: Sup norm of Phi(z) - z.
        iterations: Steps of the fixed point.
        damped: How many of them were no steps of Newton's method.
        unique: Whether it is the only equilibrium, as the game is monotone; False where that is not
            known.
        adjoint_residual: Sum norm of the residual of the adjoint of the fixed point, relative to
            the right-hand side.
    """

    hyper_gradient: FloatArray
    direct_gradient: FloatArray
    lower_value: float
    residual: float
    iterations: int
    converged: bool
    soft_value: FloatArray
    damped: int
    unique: bool
    adjoint_residual: float


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class GaussianResponse(Response):
    """An answer that is a Gaussian policy with a linear mean, N(-gain s, covariance).

    Attributes:
        gain: K, `[A, S]`.
        covariance: Of the actions in every state, `[A, A]`.
        value_matrix: P of the soft value -s^T P s + c, `[S, S]`.
        state_moments: (1 - gamma) sum_t gamma^t E[s_t s_t^T], over the steps that count for the
            leader, `[S, S]`.
        action_moments: (1 - gamma) sum_t gamma^t E[a_t a_t^T], `[A, A]`.
    """

    gain: FloatArray
    covariance: FloatArray
    value_matrix: FloatArray
    state_moments: FloatArray
    action_moments: FloatArray

    def draw_action(self, state: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Draw an action of the policy in a state, `[A]`."""
        spread = np.linalg.cholesky(self.covariance)
        action: FloatArray = spread @ rng.standard_normal(len(spread)) - self.gain @ state
        return action


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ExactGaussianResponse(GaussianResponse):
    """The exact answer of a linear-quadratic game; `residual` is that of its Riccati equation.

    Both gradients have the shape of x.
    """

    hyper_gradient: FloatArray
    direct_gradient: FloatArray
    lower_value: float
    residual: float
    iterations: int
    converged: bool


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ExactResponse(TabularResponse):
    """The exact answer of a tabular game, in full.

    Attributes:
        solver: How the linear systems were solved, a key of `bilevel_gym.core.linear.SOLVERS`.
        value_error_bound: Bound on the sup norm of the error of `soft_value`.
        adjoint_residual: Sum norm of the residual of the adjoint system, None where none is solved.
        gradient_error: Computes `gradient_error_bound`.
        linear_solutions: Solutions of the linear systems behind objective and gradient, `[S]`
            each, by name and discount: where iterative solves at a nearby x start.
    """

    hyper_gradient: FloatArray
    direct_gradient: FloatArray
    lower_value: float
    residual: float
    iterations: int
    converged: bool
    soft_value: FloatArray
    solver: str
    value_error_bound: float
    adjoint_residual: float | None = None
    gradient_error: Callable[[], float] = field(default=float, repr=False)
    linear_solutions: Mapping[tuple[str, float], FloatArray] = field(default_factory=dict)

    @cached_property
    def gradient_error_bound(self) -> float:
        """Bound on the sum norm of the error of dF/dr through the follower's answer.

        It is computed when it is asked for, which takes about as long as the answer did; see
        `bilevel_gym.core.bounds`.
        """
        return self.gradient_error()

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle the bound in place of what computes it."""
        return {
            **vars(self),
            "gradient_error": float,
            "gradient_error_bound": self.gradient_error_bound,
        }

    @property
    def response_share(self) -> float:
        """Size of the response term relative to the whole hyper-gradient, 0 if both vanish."""
        norm = float(np.linalg.norm(self.hyper_gradient))
        response = float(np.linalg.norm(self.hyper_gradient - self.direct_gradient))
        return response / norm if norm > 0.0 else 0.0


# The classes of exact answers, from which later ones start.
EXACT: Mapping[str, type[Response]] = {
    kind.__name__: kind for kind in (ExactResponse, ExactGaussianResponse, ExactCrowdResponse)
}


def response_state(response: Response | None) -> dict[str, Any] | None:
    """Return an exact answer as nested dicts of numbers and arrays, without its gradient's bound.

    None stands for no answer, and for one of another class.
    """
    if type(response) not in EXACT.values():
        return None
    assert response is not None
    state = {entry.name: getattr(response, entry.name) for entry in fields(response)}
    state.pop("gradient_error", None)
    if "linear_solutions" in state:
        state["linear_solutions"] = [[*k, v] for k, v in state["linear_solutions"].items()]
    return {"class": type(response).__name__, **state}


def response_from(state: Mapping[str, Any] | None) -> Response | None:
    """Return the answer of which `response_state` has made this.

    Nothing is known of the error of its gradient any more.
    """
    if state is None:
        return None
    content = {**state}
    kind = EXACT[content.pop("class")]
    if "linear_solutions" in content:
        content["linear_solutions"] = {
            (name, discount): array for name, discount, array in content["linear_solutions"]
        }
    if kind is ExactResponse:
        content["gradient_error"] = partial(float, "inf")
    return kind(**content)


class Method(Protocol):
    """An inner learner together with an estimator of the hyper-gradient.

    A method is built as `Method(model, **options)`, with options of JSON types, `model` being what
    `game.model` is. It refuses a model that it does not suit, and options that it does not have,
    with a `TypeError`, options out of range with a `ValueError`.

    Attributes:
        exact: Whether `hyper_gradient` is the derivative of `objective`, so that differences of
            the leader's reward must agree with it.
            It may also declare `unbiased`: whether the expectation of `hyper_gradient` is the
            derivative of the true objective, given the follower's exact policy.
    """

    exact: ClassVar[bool]

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        ...

    def step(self, upper_params: FloatArray) -> Response:
        """Let the follower answer x, and return the answer with a hyper-gradient."""
        ...
