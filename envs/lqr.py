"""BilevelLQR-v0: a linear-quadratic regulator whose costs or dynamics the leader shapes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from ..core.checks import check_at_least, check_choice, check_positive
from ..core.lqr import Coefficients, solve_riccati
from ..core.mdp import FloatArray
from ..model.base import single_precision_bounds
from ..model.linear_quadratic import LinearQuadraticModel
from ..rendering.canvas import HEADER_HEIGHT, THEME, new_page, pygame
from ..rendering.key import KEY_ROW, KeyEntry, draw_key, gradient_entries
from ..rendering.picture_charts import Axis, BarChart, draw_bars, draw_column
from ..rendering.strokes import LineStyle, line_style
from .base import View
from .linear_quadratic import LinearQuadraticEnv
from .records import recorded
from .rows import checked_matrix

__all__ = ["BilevelLQR"]

Matrix = Sequence[Sequence[float]]

# What x may change, and what its entries are then.
X_LABELS = {
    "reward": "the follower's log-weights",
    "dynamics": "damping of states, log-gain of controls",
}

# Matrices that may be given: whether their rows and columns belong to states or actions.
MATRICES = {
    "dynamics": "ss",
    "control": "sa",
    "state_cost": "ss",
    "action_cost": "aa",
    "upper_state_cost": "ss",
    "upper_action_cost": "aa",
}
KINDS = {"s": "states", "a": "actions"}

# A matrix may miss symmetry, and its eigenvalues zero, by this share of its largest entry.
SYMMETRY_TOLERANCE = 1e-9

# Smaller ones of the leader's own weights are shown as this.
SMALLEST_WEIGHT = 1e-9

# Sizes in the picture, in pixels.
PICTURE_SIZE = (1000, 740)


class BilevelLQR(LinearQuadraticEnv):
    """A leader shapes the costs, or the dynamics, of a follower who controls a linear system.

    ## Description
    The smallest continuous bilevel problem with everything in closed form, and hence the ground
    truth for estimators with continuous actions. The follower keeps a linear system near zero. The
    leader has costs of its own, with other weights of states and controls, and changes the
    follower's costs (`enters="reward"`) or its system (`enters="dynamics"`).

    ## Upper Level
    x in R^(S+A), one entry for each state, then one for each control, 0 at the start.

    * "reward": log-weights, in [-max_weight, max_weight]. The follower's costs become
      Q_ij exp((x_i + x_j) / 2), and likewise R with the entries of the controls.
    * "dynamics": damping of each state, in [0, max_weight], and log-gain of each control, in
      [-max_weight, max_weight]. Row i of A is multiplied by exp(-x_i), column j of B by exp(x_j).

    The objective, to be maximised, is

        F(x) = -E[ sum_t gamma^t (s_t^T M s_t + a_t^T N a_t + upper_cost ||x||^2) ]

    ## Lower Level
    A linear-quadratic problem with discount `gamma` and, at weight `temperature`, the differential
    entropy of the policy,

        s' = A s + B a + w,  w ~ N(0, noise_std^2 I),  r(s, a) = -(s^T Q s + a^T R a)

    The follower's policy is N(-K s, (temperature / 2) S^-1); see `bilevel_gym.core.lqr`.

    Matrices that are not given are drawn from `seed`: A is `norm` times a random orthogonal matrix
    (without control, the state turns without end if `norm` is 1); B has normal entries of variance
    1 / S; Q = I, R = I; M and N are diagonal, with entries exp(z), z standard normal.

    With sqrt(gamma) times the spectral norm of A below one the follower's value is finite at every
    x. Given matrices are checked at x = 0, which settles it for "reward"; for "dynamics" an x at
    which no policy keeps the discounted cost finite raises an `ArithmeticError`.

    ## Spaces and Episode
    * Observation: the state, `Box(-inf, inf, [S])` in float64.
    * Action: `Box(-action_limit, action_limit, [A])`. The exact follower is not clipped: by default
      the limit is seven of its standard deviations, whatever x. A larger action is refused.
    * Episode: the follower starts with s ~ N(0, start_std^2 I). The episode never terminates and is
      truncated after 100 steps.

    ## Arguments
    * `num_states` (4): S, at least 1, where no matrix gives it;
    * `num_actions` (2): A, at least 1, where no matrix gives it;
    * `seed` (2): of the matrices that are not given;
    * `enters` ("reward"): what x changes, or "dynamics";
    * `dynamics` (None): A, `[S, S]`, as a list of rows; None to draw it, as for all matrices;
    * `control` (None): B, `[S, A]`;
    * `state_cost`, `action_cost` (None): Q and R, symmetric and positive definite;
    * `upper_state_cost`, `upper_action_cost` (None): M and N, symmetric, positive semidefinite;
    * `norm` (1): of A if it is drawn, positive;
    * `upper_cost` (.05): the leader's price of ||x||^2 in each step, not negative;
    * `max_weight` (2): bound of x, positive;
    * `noise_std` (.1): standard deviation of the noise, not negative;
    * `start_std` (1): standard deviation of each entry of the first state, not negative;
    * `action_limit` (20): largest action, positive; a learner does better with a smaller one, since
      an action at the limit costs thousands of times as much as those of the exact policy;
    * `horizon` (None): steps that count for the leader, at least 1; None for all of them. The
      follower's policy is stationary in either case;
    * `gamma` (.95), `temperature` (.1) and `render_mode`: see `BilevelEnv`. The picture shows
      states and controls over time.

    ## Ground Truth
    Objective and hyper-gradient are exact, to rounding. With the default arguments, at x = 0
    F = -35.561010 and the norm of dF/dx is 8.076933; its direct part is zero. 200 hyper-gradient
    steps of length .05 falling to 0 and L-BFGS-B both end at -27.071829, the best value known
    (`best_known`). With `enters="dynamics"` F is the same at x = 0, the norm of dF/dx is 54.426342,
    that of its direct part 79.773716, and

    | run from x = 0, "dynamics" | ends at |
    |---|---|
    | L-BFGS-B on the hyper-gradient | -18.079125 |
    | 200 hyper-gradient steps of length .05 falling to 0 | -18.079125 |
    | the same along the direct gradient | -18.134751, past -18.082709 |

    In both, L-BFGS-B from 24 more starts, uniform in the box (seed 0), ended at the same value
    every time, with all entries of x inside the box. It is not proven optimal.

    ## References
    D. P. Bertsekas, "Dynamic Programming and Optimal Control", Athena Scientific, for the
    linear-quadratic problem.
    """

    leader_does, follower_does = "sets costs", "controls a system"
    leader_wants = "small states and controls, by its own weights"
    follower_wants = "small states and controls, by the weights that x sets"

    def __init__(
        self,
        num_states: int = 4,
        num_actions: int = 2,
        *,
        seed: int = 2,
        enters: str = "reward",
        dynamics: Matrix | None = None,
        control: Matrix | None = None,
        state_cost: Matrix | None = None,
        action_cost: Matrix | None = None,
        upper_state_cost: Matrix | None = None,
        upper_action_cost: Matrix | None = None,
        norm: float = 1.0,
        upper_cost: float = 0.05,
        max_weight: float = 2.0,
        noise_std: float = 0.1,
        start_std: float = 1.0,
        action_limit: float = 20.0,
        horizon: int | None = None,
        gamma: float = 0.95,
        temperature: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        check_at_least("num_states", num_states, 1)
        check_at_least("num_actions", num_actions, 1)
        self.enters = check_choice("enters", enters, X_LABELS)
        norm, max_weight = check_positive("norm", norm), check_positive("max_weight", max_weight)
        arguments, sizes = locals(), {"s": int(num_states), "a": int(num_actions)}
        given = _checked({name: arguments[name] for name in MATRICES}, sizes)
        known = _drawn(sizes["s"], sizes["a"], norm, seed) | given
        self._base = Coefficients(*(known[name] for name in Coefficients._fields))
        high = np.full(sizes["s"] + sizes["a"], max_weight)
        low = -high
        if enters == "dynamics":
            low[: sizes["s"]] = 0.0
        low, high = single_precision_bounds(low, high, low.shape)
        model = LinearQuadraticModel(
            self.coefficients,
            self.coefficients_vjp,
            low=low,
            high=high,
            initial_upper_params=np.zeros(len(high)),
            gamma=gamma,
            temperature=temperature,
            upper_state_cost=known["upper_state_cost"],
            upper_action_cost=known["upper_action_cost"],
            upper_cost=upper_cost,
            start_std=start_std,
            noise_std=noise_std,
            horizon=horizon,
            name=type(self).__name__,
        )
        if enters == "dynamics":
            self.leader_does = "changes a system"
            self.follower_wants = "small states and controls, by weights of its own"
        super().__init__(model, action_limit=action_limit, render_mode=render_mode)
        try:
            solve_riccati(self.coefficients(model.initial_upper_params), model.gamma)
        except ArithmeticError as error:
            raise ValueError(f"`dynamics` and `control` do not suit `gamma`: {error}") from error
        self.best_known = recorded(BilevelLQR, locals())

    def coefficients(self, upper_params: FloatArray) -> Coefficients:
        """Return A, B, Q and R at x."""
        dynamics, control, state_cost, action_cost = self._base
        by_state, by_action = np.split(upper_params, [len(dynamics)])
        if self.enters == "dynamics":
            dynamics = np.exp(-by_state)[:, None] * dynamics
            return Coefficients(dynamics, control * np.exp(by_action), state_cost, action_cost)
        return Coefficients(
            dynamics, control, _weighted(state_cost, by_state), _weighted(action_cost, by_action)
        )

    def coefficients_vjp(self, upper_params: FloatArray, cotangent: Coefficients) -> FloatArray:
        """Return the sum of cotangent * d/dx over all entries of A, B, Q and R, `[S + A]`."""
        at = self.coefficients(upper_params)
        if self.enters == "dynamics":
            by_state = -(cotangent.dynamics * at.dynamics).sum(axis=1)
            return np.concatenate([by_state, (cotangent.control * at.control).sum(axis=0)])
        products = (cotangent.state_cost * at.state_cost, cotangent.action_cost * at.action_cost)
        return np.concatenate([0.5 * (p.sum(axis=0) + p.sum(axis=1)) for p in products])

    def knob_names(self) -> tuple[str, ...]:
        """Return the states and the controls whose costs, or dynamics, x changes."""
        states, controls = self.model.num_states, self.model.num_actions
        names = [f"state {i + 1}" for i in range(states)]
        return (*names, *(f"control {i + 1}" for i in range(controls)))

    @property
    def _own_weights(self) -> FloatArray:
        """Logarithms of the leader's costs over the follower's at x = 0, `[S + A]`."""
        own = (self.model.upper_state_cost, self.model.upper_action_cost)
        costs = np.concatenate([np.diag(cost) for cost in own])
        base = np.concatenate([np.diag(self._base.state_cost), np.diag(self._base.action_cost)])
        return np.log(np.maximum(costs / base, SMALLEST_WEIGHT))

    def draw(self, view: View) -> pygame.Surface:
        """Draw x, and states and controls over time."""
        names, controls = np.split(self.knob_names(), [self.model.num_states])
        gradient = self.slopes(view)
        entries = [
            KeyEntry(line_style(i), ", ".join(filter(None, both)))
            for i, both in enumerate(zip_longest(names, controls))
        ]
        entries += gradient_entries("this", gradient)
        limit, label = float(self.model.high[-1]), X_LABELS[self.enters]
        axis = Axis(-limit, limit, f"the leader's x: {label}")
        own = self._own_weights if self.enters == "reward" else None
        if own is not None:
            entries.append(KeyEntry(LineStyle(THEME.accent), "leader's own weight"))
        bars = BarChart(axis, self.knob_names(), view.upper_params, "+.2f", gradient, own)

        width, height = PICTURE_SIZE
        surface, margin = new_page(PICTURE_SIZE, view.title, view.status), THEME.margin
        left, room = width // 2 + margin // 2, width // 2 - 3 * margin // 2
        place = (left, HEADER_HEIGHT, room, height - HEADER_HEIGHT - margin)
        draw_column(surface, place, self.time_charts(view, "states", "controls"))
        key_height = KEY_ROW * -(-len(entries) // 2)
        key_top = height - margin - key_height
        draw_key(surface, (margin, key_top, room, key_height), entries)
        draw_bars(surface, (margin, HEADER_HEIGHT, room, key_top - margin - HEADER_HEIGHT), bars)
        return surface


def _weighted(matrix: FloatArray, log_weights: FloatArray) -> FloatArray:
    """Return matrix_ij exp((x_i + x_j) / 2), definite as the matrix is."""
    roots = np.exp(0.5 * log_weights)
    return roots[:, None] * matrix * roots


def _drawn(num_states: int, num_actions: int, norm: float, seed: int) -> dict[str, FloatArray]:
    """Draw every matrix, always in the same order, so that giving one leaves the others alone."""
    rng = np.random.default_rng(check_at_least("seed", seed, 0))
    orthogonal, upper = np.linalg.qr(rng.standard_normal((num_states, num_states)))
    return {
        # The factor's signs are no more than LAPACK's convention.
        "dynamics": norm * orthogonal * np.where(np.diag(upper) < 0.0, -1.0, 1.0),
        "control": rng.standard_normal((num_states, num_actions)) / np.sqrt(num_states),
        "state_cost": np.eye(num_states),
        "action_cost": np.eye(num_actions),
        "upper_state_cost": np.diag(np.exp(rng.standard_normal(num_states))),
        "upper_action_cost": np.diag(np.exp(rng.standard_normal(num_actions))),
    }


def _checked(given: dict[str, Matrix | None], sizes: dict[str, int]) -> dict[str, FloatArray]:
    """Return the matrices that are given, and change numbers of states and actions to theirs."""
    matrices: dict[str, FloatArray] = {}
    given_by: dict[str, str] = {}
    for name, values in given.items():
        if values is None:
            continue
        matrix = matrices[name] = checked_matrix(name, values, "a list of equally long rows")
        for axis, length in zip(MATRICES[name], matrix.shape, strict=True):
            if length != sizes[axis] and axis in given_by:
                what = f"fit `{given_by[axis]}`, which has {sizes[axis]} {KINDS[axis]}"
                what = "be square" if given_by[axis] == name else what
                raise ValueError(f"`{name}` must {what}, got shape {matrix.shape}")
            sizes[axis] = length
            given_by.setdefault(axis, name)
        if name.endswith("cost"):
            _check_definite(name, matrix, strictly=not name.startswith("upper"))
    return matrices


def _check_definite(name: str, matrix: FloatArray, *, strictly: bool) -> None:
    """Raise a `ValueError` unless a cost is symmetric and positive (semi)definite."""
    slack = SYMMETRY_TOLERANCE * float(np.abs(matrix).max())
    if np.abs(matrix - matrix.T).max() > slack:
        raise ValueError(f"`{name}` must be symmetric, got {matrix.tolist()}")
    least = float(np.linalg.eigvalsh(matrix).min())
    if least < -slack or (strictly and least <= slack):
        kind = "definite" if strictly else "semidefinite"
        raise ValueError(f"`{name}` must be positive {kind}, got least eigenvalue {least:g}")
