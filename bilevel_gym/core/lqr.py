"""Linear-quadratic control with entropy regularisation, and derivatives of a cost of its answer.

The follower's problem has dynamics s' = A s + B a + w with noise w ~ N(0, W), reward
-(s^T Q s + a^T R a), discount gamma and temperature tau. Its soft value is quadratic and its
soft-optimal policy is Gaussian,

    S = R + gamma B^T P B,    K = gamma S^-1 B^T P A,    pi(a|s) = N(-K s, (tau / 2) S^-1)
    P = Q + gamma A^T P A - K^T S K          (the discounted Riccati equation)
    V(s) = -s^T P s + c

since Q(s, a) = -(a + K s)^T S (a + K s) - s^T P s + const, and a Boltzmann policy of a quadratic
is Gaussian. The gain K is that of the unregularised problem; only the covariance knows tau.

A leader evaluates the answer by another quadratic cost. The answer is a pair (K, C) of gain and
covariance; `follow` gives what is needed of the states that it leads to, `cost_gradient` the
derivatives at a fixed policy, `response_gradient` those through the policy. All are adjoint forms:
one discounted Lyapunov equation each, whatever the number of parameters.

Scaling A and B by sqrt(gamma) turns the discounted equations into the usual ones. Hence all is
finite if and only if sqrt(gamma) times the spectral radius of A - B K is below one; the closed
loop itself may be unstable.

The classical part is in D. P. Bertsekas, "Dynamic Programming and Optimal Control"; Newton's
method for the Riccati equation is due to D. L. Kleinman (1968), in discrete time to G. A. Hewer
(1971). The bilevel problem made of these is in `bilevel_gym.model.linear_quadratic`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgWarning, solve_discrete_are, solve_discrete_lyapunov

from .mdp import FloatArray
from .threads import single_threaded

__all__ = [
    "Coefficients",
    "Flow",
    "Riccati",
    "action_moments",
    "cost_gradient",
    "discounted_sum",
    "follow",
    "policy_covariance",
    "response_gradient",
    "riccati_step",
    "soft_value_constant",
    "solve_riccati",
]

# Residual of the Riccati equation to reach, relative to the largest entry of P: rounding.
TOLERANCE = 1e-14

# Within this factor of rounding a step that does not lower the residual is the last one.
STALLED = 1e4

# Lyapunov equations of at most so many states are solved as one dense system of their squares.
KRONECKER_SIZE = 8


class Coefficients(NamedTuple):
    """The matrices of a linear-quadratic problem, or a number for each of their entries.

    Attributes:
        dynamics: A, `[S, S]`.
        control: B, `[S, A]`.
        state_cost: Q, symmetric and positive semidefinite, `[S, S]`.
        action_cost: R, symmetric and positive definite, `[A, A]`.
    """

    dynamics: FloatArray
    control: FloatArray
    state_cost: FloatArray
    action_cost: FloatArray


@dataclass(frozen=True, eq=False)
class Riccati:
    """The follower's optimum.

    Attributes:
        value_matrix: P, `[S, S]`.
        curvature: S = R + gamma B^T P B, `[A, A]`.
        gain: K, `[A, S]`.
        residual: Largest entry of the residual of the Riccati equation.
        iterations: Newton steps, and one for a direct solve.
        converged: Whether the residual met the tolerance.
    """

    value_matrix: FloatArray
    curvature: FloatArray
    gain: FloatArray
    residual: float
    iterations: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Flow:
    """The moments of a policy's states, and the derivatives of their cost.

    With L = A - B K the closed loop, M_t = E[s_t s_t^T] and Y_k the cost-to-go matrix with k steps
    left (the same for all k where the horizon is infinite):

    Attributes:
        moments: sum_t gamma^t M_t, `[S, S]`.
        loop_adjoint: sum_t gamma^(t+1) Y_(T-1-t) L M_t, half the derivative of the cost by L,
            `[S, S]`.
        noise_adjoint: sum_t gamma^(t+1) Y_(T-1-t), the derivative by the covariance of the noise
            added in each step, `[S, S]`.
        weight: sum_t gamma^t.
    """

    moments: FloatArray
    loop_adjoint: FloatArray
    noise_adjoint: FloatArray
    weight: float


@single_threaded
def solve_riccati(
    problem: Coefficients,
    gamma: float,
    *,
    initial: FloatArray | None = None,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> Riccati:
    """Solve the discounted Riccati equation to rounding.

    Newton's method starts from SciPy's direct solution, or from an earlier P if its policy keeps
    costs finite. A step evaluates the present policy; convergence is quadratic.

    Args:
        problem: A, B, Q and R.
        gamma: Discount, in [0, 1).
        initial: A P near the solution, `[S, S]`.
        tolerance: Largest entry of the residual to reach; None takes what rounding allows.
        max_iterations: Newton steps allowed.

    Raises:
        ArithmeticError: If no policy keeps the discounted cost finite.
    """
    value, iterations = initial, 0
    if value is None or not _is_finite(problem, gamma, riccati_step(problem, gamma, value)[2]):
        value, iterations = _direct_solution(problem, gamma), 1
    best: Riccati | None = None
    for tried in range(max_iterations + 1):
        image, curvature, gain = riccati_step(problem, gamma, value)
        residual = float(np.abs(image - value).max())
        if not math.isfinite(residual):
            raise ArithmeticError(_infinite(gamma))
        rounding = TOLERANCE * len(value) * float(np.abs(value).max())
        goal = rounding if tolerance is None else tolerance
        # Far from the solution, the first step may well raise the residual.
        if best is not None and best.residual <= residual <= STALLED * rounding:
            break
        best = Riccati(value, curvature, gain, residual, iterations + tried, residual <= goal)
        if best.converged:
            break
        per_step = problem.state_cost + gain.T @ problem.action_cost @ gain
        loop = problem.dynamics - problem.control @ gain
        value = _symmetric(discounted_sum(loop.T, gamma, per_step))
    assert best is not None
    return best


def riccati_step(
    problem: Coefficients, gamma: float, value: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the right-hand side of the Riccati equation at a P, and the S and K of that P.

    P is `[S, S]`, S `[A, A]` and K `[A, S]`.

    Raises:
        ArithmeticError: If S is singular in float64.
    """
    dynamics, control, state_cost, action_cost = problem
    carried = gamma * control.T @ value
    curvature = action_cost + _symmetric(carried @ control)
    try:
        gain = np.asarray(np.linalg.solve(curvature, carried @ dynamics), np.float64)
    except np.linalg.LinAlgError as error:  # costs of the state leave nothing of the control's
        raise ArithmeticError(
            "the cost of the control is lost in rounding beside that of the state"
        ) from error
    image = state_cost + gamma * dynamics.T @ value @ dynamics - gain.T @ curvature @ gain
    return _symmetric(image), curvature, gain


def discounted_sum(loop: FloatArray, gamma: float, source: FloatArray) -> FloatArray:
    """Return sum_t gamma^t loop^t source (loop^t)^T, the solution of a Lyapunov equation.

    All are `[S, S]`. The source is symmetric, sqrt(gamma) times the spectral radius of the loop
    below one.
    """
    size = len(loop)
    if size > KRONECKER_SIZE:
        total: FloatArray = solve_discrete_lyapunov(math.sqrt(gamma) * loop, source)
        return total
    # As SciPy does for small systems, in a third of the time.
    system = -gamma * loop[:, None, :, None] * loop[None, :, None, :]
    system = system.reshape(size * size, size * size)
    system.flat[:: size * size + 1] += 1.0
    solution = np.linalg.solve(system, source.ravel())
    return np.asarray(solution, np.float64).reshape(size, size)


def policy_covariance(riccati: Riccati, temperature: float) -> FloatArray:
    """Return C = (temperature / 2) S^-1, `[A, A]`."""
    inverse = np.asarray(np.linalg.inv(riccati.curvature), np.float64)
    return 0.5 * temperature * _symmetric(inverse)


def soft_value_constant(
    riccati: Riccati, gamma: float, temperature: float, noise: FloatArray
) -> float:
    """Return the constant c of the soft value V(s) = -s^T P s + c; `noise` is W, `[S, S]`.

    c = (tau log Z - gamma tr(P W)) / (1 - gamma), Z being the integral of exp(-a^T S a / tau).
    """
    _, log_determinant = np.linalg.slogdet(riccati.curvature)
    size = len(riccati.curvature)
    log_integral = 0.5 * temperature * (size * math.log(math.pi * temperature) - log_determinant)
    return float((log_integral - gamma * (riccati.value_matrix * noise).sum()) / (1.0 - gamma))


def follow(
    problem: Coefficients,
    gain: FloatArray,
    covariance: FloatArray,
    gamma: float,
    *,
    start: FloatArray,
    noise: FloatArray,
    cost_of_state: FloatArray,
    cost_of_action: FloatArray,
    horizon: int | None = None,
) -> Flow:
    """Follow a Gaussian policy, forward for its moments and backward for their cost.

    Args:
        problem: A and B; Q and R are not used.
        gain: K, `[A, S]`.
        covariance: C, `[A, A]`.
        gamma: Discount, in [0, 1).
        start: E[s_0 s_0^T], `[S, S]`.
        noise: W, `[S, S]`.
        cost_of_state: M of the leader's cost s^T M s + a^T N a per step, `[S, S]`.
        cost_of_action: N, `[A, A]`.
        horizon: Number of steps that count, None for all.
    """
    loop = problem.dynamics - problem.control @ gain
    added = problem.control @ covariance @ problem.control.T + noise
    per_step = cost_of_state + gain.T @ cost_of_action @ gain
    if horizon is None:
        weight = 1.0 / (1.0 - gamma)
        moments = _symmetric(discounted_sum(loop, gamma, start + gamma * weight * added))
        to_go = _symmetric(discounted_sum(loop.T, gamma, per_step))
        return Flow(moments, gamma * to_go @ loop @ moments, gamma * weight * to_go, weight)
    left_to_go = [np.zeros_like(start)]
    for _ in range(horizon - 1):
        left_to_go.append(per_step + gamma * loop.T @ left_to_go[-1] @ loop)
    moments, loop_adjoint, noise_adjoint = (np.zeros_like(start) for _ in range(3))
    moment, discount = start, 1.0
    for to_go in reversed(left_to_go):
        moments += discount * moment
        loop_adjoint += discount * gamma * to_go @ loop @ moment
        noise_adjoint += discount * gamma * to_go
        moment = loop @ moment @ loop.T + added
        discount *= gamma
    return Flow(moments, loop_adjoint, noise_adjoint, (1.0 - discount) / (1.0 - gamma))


def action_moments(flow: Flow, gain: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return sum_t gamma^t E[a_t a_t^T], `[A, A]`."""
    return gain @ flow.moments @ gain.T + flow.weight * covariance


def cost_gradient(
    problem: Coefficients, gain: FloatArray, covariance: FloatArray, flow: Flow
) -> Coefficients:
    """Return the derivatives of the cost by A, B, Q and R at a fixed policy; the last two are 0.

    The policy has a `gain` K, `[A, S]`, and a `covariance`, `[A, A]`.
    """
    by_control = flow.noise_adjoint @ problem.control @ covariance - flow.loop_adjoint @ gain.T
    return Coefficients(
        2.0 * flow.loop_adjoint,
        2.0 * by_control,
        np.zeros_like(problem.state_cost),
        np.zeros_like(problem.action_cost),
    )


def response_gradient(
    problem: Coefficients,
    riccati: Riccati,
    gamma: float,
    temperature: float,
    flow: Flow,
    cost_of_action: FloatArray,
) -> Coefficients:
    """Return the derivatives of the cost by A, B, Q and R through the follower's policy.

    `cost_of_action` is N, `[A, A]`, the leader's cost of actions.

    With G and H the derivatives of the cost by K and by C, U = S^-1 G and C = (tau / 2) S^-1, the
    derivative by S is D = -sym(U K^T) - (2 / tau) C H C and that by gamma B^T P A is U. Through P
    the policy changes by the Riccati equation, whose adjoint is the Lyapunov equation

        Z = gamma (sym(B U A^T) + B D B^T) + gamma L Z L^T

    because the derivative of P by K vanishes at the optimal K (the envelope theorem).
    """
    dynamics, control = problem.dynamics, problem.control
    gain, curvature, value = riccati.gain, riccati.curvature, riccati.value_matrix
    loop = dynamics - control @ gain
    by_gain = 2.0 * (cost_of_action @ gain @ flow.moments - control.T @ flow.loop_adjoint)
    by_covariance = control.T @ flow.noise_adjoint @ control + flow.weight * cost_of_action

    by_numerator = np.linalg.solve(curvature, by_gain)  # U
    inverse = np.linalg.inv(curvature)
    by_curvature = -_symmetric(by_numerator @ gain.T)
    by_curvature -= 0.5 * temperature * inverse @ _symmetric(by_covariance) @ inverse
    by_value = _symmetric(control @ by_numerator @ dynamics.T) + control @ by_curvature @ control.T
    adjoint = _symmetric(discounted_sum(loop, gamma, gamma * by_value))  # Z

    through_value = value @ loop @ adjoint
    through_policy = value @ dynamics @ by_numerator.T + 2.0 * value @ control @ by_curvature
    return Coefficients(
        dynamics=gamma * (value @ control @ by_numerator + 2.0 * through_value),
        control=gamma * (through_policy - 2.0 * through_value @ gain.T),
        state_cost=adjoint,
        action_cost=by_curvature + gain @ adjoint @ gain.T,
    )


def _direct_solution(problem: Coefficients, gamma: float) -> FloatArray:
    root = math.sqrt(gamma)
    dynamics, control, *costs = problem
    try:
        with warnings.catch_warnings():  # the residual tells how good the solution is
            warnings.simplefilter("ignore", LinAlgWarning)
            value = solve_discrete_are(root * dynamics, root * control, *costs)
    except ValueError as error:  # a LinAlgError is one; others tell of costs out of proportion
        raise ArithmeticError(_infinite(gamma)) from error
    if not _is_finite(problem, gamma, riccati_step(problem, gamma, value)[2]):
        raise ArithmeticError(_infinite(gamma))
    return _symmetric(value)


def _is_finite(problem: Coefficients, gamma: float, gain: FloatArray) -> bool:
    loop = problem.dynamics - problem.control @ gain
    return bool(gamma * np.abs(np.linalg.eigvals(loop)).max() ** 2 < 1.0)


def _infinite(gamma: float) -> str:
    return (
        "the follower's value is infinite: no policy keeps sqrt(gamma) times the spectral radius "
        f"of the closed loop below one, gamma = {gamma:g}"
    )


def _symmetric(matrix: FloatArray) -> FloatArray:
    return 0.5 * (matrix + matrix.T)
