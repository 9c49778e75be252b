"""BilevelInverseRL-v0: rewards inferred from demonstrations."""

from __future__ import annotations

import string
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from ..core.checks import (
    check_at_least,
    check_in_box,
    check_not_negative,
    check_positive,
    check_probability,
    checked_sides,
    optional,
    received,
)
from ..core.mdp import FloatArray, TabularMDP
from ..core.soft import SoftSolution, solve_soft_mdp
from ..episodes.transitions import TransitionArrays
from ..model.objectives import LogLikelihood, QuadraticCost, Sum
from ..rendering import GridScene
from ..rendering.canvas import pygame
from ..rendering.comparison import draw_comparison, weights_chart
from .base import BestKnown, View, shown, upper_box
from .grids import MOVES, GridBilevelEnv, parsed_map, per_move, slippery_kernel
from .records import recorded
from .rows import checked_matrix, checked_rows

__all__ = ["BilevelInverseRL", "random_terrain"]

START, GOAL = "S", "G"
KINDS = string.ascii_lowercase

# Half the width of the box of x, and the range from which true weights are drawn.
BOUND = 1.0
TRUE_RANGE = (-0.5, -0.1)

# Demonstrations are cut after this many steps.
MAX_LENGTH = 200

# Episodes that are sampled at most: more would fill the memory.
MOST_EPISODES = 1_000_000

# Random maps: the longest side in cells, the default side, kinds of terrain, cells for each patch.
MAX_SIDE, SIDE, NUM_KINDS, PATCH = 300, 8, 5, 4


class BilevelInverseRL(GridBilevelEnv):
    """A leader infers the rewards of a walker from demonstrations of how it walks.

    ## Description
    A demonstrator walks over terrain of several kinds to a goal. The leader sees its walks, not
    the rewards behind them: it proposes weights x, under which the follower acts, and wants the
    demonstrations to be as likely as possible. This is maximum causal entropy inverse reinforcement
    learning; as the demonstrations come from known weights, the result can be compared with them.

    ## Upper Level
    x in [-1, 1]^D: the reward of a step on each kind of terrain, in alphabetical order (D = 5 by
    default). x starts at 0. The objective, to be maximised, is the mean log-likelihood of the
    demonstrated actions under the follower's policy,

        F(x) = sum_sa n(s, a) log pi*_x(a|s) / sum_sa n(s, a) - ridge * ||x||^2

    with n(s, a) the number of times that action a was demonstrated in state s. With unlimited
    demonstrations (`num_demonstrations=None`) n is its expectation in an episode of at most 200
    steps, not discounted; then, if `ridge` is 0, the true weights maximise F: in every state no
    policy has a larger expected log-likelihood than the one that acts.

    ## Lower Level
    An entropy-regularised MDP with r_x(s, a) = 1[s = G] + sum_k phi_k(s) x_k, discount `gamma`,
    temperature `temperature`. phi_k(s) is 1 where the cell is of kind k, else 0; the goal and cells
    `S` have no terrain. Moves go up, right, down, left; with probability `slip` the move is one of
    the three others. The rim of the map bounces. x enters the reward alone. The demonstrator has
    the same kernel, discount and temperature.

    ## Spaces and Episode
    * Observation: `Discrete(S)`, the cell, row by row (S = 64 by default).
    * Action: `Discrete(4)`: 0 up, 1 right, 2 down, 3 left.
    * Rewards: F is no sum over the follower's steps: `upper_reward` is zero.
    * Episode: the follower starts in a cell `S`, each equally likely, or anywhere but in the goal
      on maps without one. The episode terminates on acting in a goal (any action, rewarded) and is
      truncated after 200 steps.

    ## Arguments
    * `desc`: the map, a list of strings: `a` to `z` kinds of terrain, `G` goals (at least one), `S`
      starts (if any); or else
    * `size` (8): side, or (rows, columns), of a random map, up to 300, drawn with `seed`, of
    * `num_kinds` (5): kinds of terrain in patches, in 1..26;
    * `features` (None): phi(s) for each cell, row by row, `[S, D]`, in place of the terrain; those
      of goals are ignored;
    * `true_params` (None): the true weights `[D]`, in the box; None draws them from U[-.5, -.1];
    * `num_demonstrations` (50): sampled episodes, 1 to 1e6, each cut after 200 steps; None for
      unlimited ones. Ignored where `demonstrations` are given;
    * `demonstrations` (None): your own, a list of episodes, each a list of [state, action]; gaps do
      not matter. The truth is unknown then, unless `true_params` are given too;
    * `slip` (.1): probability of another move than the intended one, in [0, 1];
    * `gamma` (.95), `entropy` ("plain", also of who demonstrates) and `render_mode`: see
      `BilevelEnv`;
    * `temperature` (.05): positive. Entropy adds up to .05 * log 4 = .069 a step by default,
      less than the terrain costs, as the true weights are at most -.1;
    * `ridge` (0): weight of ||x||^2, not negative; it shrinks weights that few demonstrations do
      not determine, which otherwise only the box bounds;
    * `seed` (0): seed of map, true weights and demonstrations, not negative. They have streams of
      their own: the same seed with more demonstrations has the same demonstrator.

    Attributes `true_params`, `true_policy`, `counts` (n above), `demonstrations` (arrays of states
    and actions, `[T, 2]` each), `features` and `kinds` say what was drawn.

    ## Ground Truth
    The true weights of the default instance are (-.1228, -.3735, -.2111, -.4498, -.3308). With
    unlimited demonstrations they are the maximum, exactly: F = -.410223, and the hyper-gradient is
    zero. They are identified: the eigenvalues of -d2F/dx2 there are .329, 1.52, 1.92, 7.48 and 30.7
    (at seeds 1 to 5 the least is .14 or more), as the known goal reward, the known temperature and
    rewards of the state alone fix level and scale. L-BFGS-B from x = 0 and from 60 uniform random
    starts in the box returned to the truth every time, to 1e-7. With the 50 demonstrations of the
    default (397 decisions) the same 61 starts all led to `best_known`, within 1e-7 of each other:
    no other local maximum is known, none is excluded.

    | x | F, these demonstrations | unlimited ones | distance to the truth |
    |---|---|---|---|
    | 0, the start | -2.079269 | -2.042516 | .7147 |
    | the true weights | -.420225 | -.410223 | 0 |
    | `best_known`: (-.1324, -.3222, -.2064, -.4526, -.3104) | -.413562 | -.417168 | .0562 |

    The best x explains these demonstrations better than the truth does, and new ones worse: its
    policy is .0069 nats a decision away from the true one (Kullback-Leibler, mean over the true
    visits; the differences in the third column). With 10, 200, 1000 and 5000 demonstrations the
    distance to the truth is .69, .075, .012 and .005. At x = 0 the norm of dF/dx is 21.271865. Its
    direct part is zero for every x (with a `ridge` it leads to x = 0).

    ## References
    The task is this project's. B. D. Ziebart, A. Maas, J. A. Bagnell, A. K. Dey, "Maximum entropy
    inverse reinforcement learning", AAAI 2008. B. D. Ziebart, J. A. Bagnell, A. K. Dey, "Modeling
    interaction via the principle of maximum causal entropy", ICML 2010.
    """

    leader_does, follower_does = "guesses rewards", "walks"
    leader_wants = "weights under which the demonstrated walks are likely"
    follower_wants = "to reach the goal over terrain of high reward"

    def __init__(
        self,
        desc: Sequence[str] | None = None,
        *,
        size: int | Sequence[int] | None = None,
        num_kinds: int | None = None,
        features: Sequence[Sequence[float]] | None = None,
        true_params: Sequence[float] | None = None,
        num_demonstrations: int | None = 50,
        demonstrations: Sequence[Sequence[Sequence[int]]] | None = None,
        slip: float = 0.1,
        gamma: float = 0.95,
        temperature: float = 0.05,
        entropy: str = "plain",
        ridge: float = 0.0,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        check_at_least("seed", seed, 0)
        slip = check_probability("slip", slip)
        check_not_negative("ridge", ridge)
        optional(check_at_least, "num_demonstrations", num_demonstrations, 1, MOST_EPISODES)
        for_truth, for_demonstrations = np.random.default_rng(seed).spawn(2)
        cells = self._map = _checked_map(_chosen_map(desc, size, num_kinds, features, seed))
        self.desc = tuple("".join(row) for row in cells)
        self._at_goal = (cells == GOAL).ravel()
        self.kinds, self.features = _features(cells, features)
        # The picture: the map, a column between, and the map again.
        height, width = cells.shape
        states = np.arange(cells.size).reshape(cells.shape)
        places = np.argwhere(states >= 0)
        drawn = np.where(np.isin(cells, (START, GOAL)), cells, ".")
        entries = [self.kinds.index(kind) if kind in self.kinds else -1 for kind in cells.flat]
        self._lay_out(
            np.hstack([drawn, np.full((height, 1), "#"), drawn]),
            np.concatenate([places, places + (0, width + 1)]),
            2 * entries,
        )
        count, shape = len(self.kinds), (cells.size, len(MOVES))
        box = upper_box(-BOUND, BOUND, (count,))
        kernel = slippery_kernel(states, self._at_goal[None], slip)
        first = (cells == START) if (cells == START).any() else (cells != GOAL)
        start = first.ravel() / first.sum()
        self.true_params: FloatArray | None = None
        if true_params is not None:
            self.true_params = check_in_box("true_params", true_params, box.low, box.high)
        elif demonstrations is None:
            self.true_params = for_truth.uniform(*TRUE_RANGE, count)
            self.true_params.flags.writeable = False
        truth: SoftSolution | None = None
        if self.true_params is not None:
            reward = self.reward(self.true_params)
            if entropy == "relative":
                reward = reward - check_positive("temperature", temperature) * np.log(len(MOVES))
            truth = solve_soft_mdp(TabularMDP(kernel, reward, gamma, temperature))
        self.true_policy = None if truth is None else truth.policy
        self.demonstrations: tuple[NDArray[np.int64], ...] | None = None
        if demonstrations is not None:
            self.demonstrations = _checked_demonstrations(demonstrations, shape)
        elif num_demonstrations is not None:
            assert truth is not None
            self.demonstrations = _sampled(truth, start, num_demonstrations, for_demonstrations)
        if self.demonstrations is not None:
            self.counts = np.zeros(shape)
            np.add.at(self.counts, tuple(np.concatenate(self.demonstrations).T), 1.0)
        else:
            assert truth is not None
            self.counts = _expected_visits(truth, start)
        shares = self.counts / self.counts.sum()
        super().__init__(
            kernel=kernel,
            initial_distribution=start,
            objective=Sum((LogLikelihood(shares), QuadraticCost(ridge))),
            upper_reward=np.zeros(shape, order="F"),
            upper_space=box,
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        for constant in (self.counts, self.features, self.true_policy):
            if constant is not None:
                constant.flags.writeable = False  # they are handed out
        if self.demonstrations is None and ridge == 0.0:
            assert truth is not None and self.true_params is not None
            taken = shares > 0.0
            self.best_known = BestKnown(
                self.true_params,
                float((shares[taken] * truth.log_policy[taken]).sum()),
                "proven: the true policy maximises the expected log-likelihood in every state",
            )
        else:
            self.best_known = recorded(BilevelInverseRL, locals())

    def draw(self, view: View) -> pygame.Surface:
        """Draw what the leader believes beside what is true, with the weights of both below."""
        return draw_comparison(
            self.scene(view),
            (
                "believed: reward under x",
                "true: who demonstrated" if self.true_params is not None else "demonstrated",
            ),
            self._map if self._has_terrain else None,
            weights_chart(
                self.kinds,
                "terrain" if self._has_terrain else "feature",
                view.upper_params,
                self.true_params,
                self.slopes(view),
                BOUND,
            ),
        )

    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the picture: the leader's map, a wall, the demonstrator's.

        In the right one colours are the true reward, arrows the true policy and discs the visits.
        Where the truth is not known, there are no colours, and the arrows are how often each
        action was taken, all alike where no demonstration was.
        """
        answer, changes = view.tabular, {}
        believed, true = self.features @ view.upper_params, np.zeros(len(self.features))
        status = view.status
        if self.true_params is not None:
            true = self.features @ self.true_params
            distance = float(np.linalg.norm(view.upper_params - self.true_params))
            status = (*status, ("distance to true x", shown(distance)))
        number = "unlimited" if self.demonstrations is None else f"{len(self.demonstrations):,}"
        if answer is not None:
            visits = self.counts.sum(axis=1, keepdims=True)
            shares = np.full_like(self.counts, 0.25)
            np.divide(self.counts, visits, out=shares, where=visits > 0.0)
            right = shares if self.true_policy is None else self.true_policy
            changes["policy"] = np.concatenate([answer.policy, right])
            occupancy = (answer.occupancy, visits[:, 0])
            changes["occupancy"] = np.concatenate([times / times.sum() for times in occupancy])
        gradient = None
        slopes = self.slopes(view)
        if slopes is not None and self._has_terrain:
            per_cell = self.features @ slopes
            gradient = np.concatenate([per_cell, np.zeros_like(per_cell)])
        shaping = np.concatenate([believed, true])
        return self._scene(
            view,
            shaping=shaping,
            shaping_limit=BOUND * max(1.0, float(np.abs(self.features).sum(axis=1).max())),
            shaping_power=0.5,
            gradient=gradient,
            status=(*status, ("demonstrations", number)),
            shaping_name="reward of a step",
            params_name="weight",
            **changes,
        )

    def knob_names(self) -> tuple[str, ...]:
        """Return the kinds of terrain, or the features."""
        return tuple(self.kinds)

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a) = 1[s = G] + sum_k phi_k(s) x_k, `[S, A]`."""
        return per_move(np.where(self._at_goal, 1.0, self.features @ upper_params))

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) phi(s), `[D]`."""
        return self.features.T @ cotangent.sum(axis=1)  # no features in the goal

    @property
    def _has_terrain(self) -> bool:
        """Whether x weighs kinds of terrain, not features of the user's."""
        return len(self.kinds[0]) == 1


def random_terrain(
    size: int | Sequence[int], num_kinds: int = NUM_KINDS, seed: int = 0
) -> tuple[str, ...]:
    """Return the rows of a random map of patches of terrain with a goal.

    Each cell has the terrain of the nearest of some random places, about one for four cells, to
    which the kinds of terrain are dealt in turn.

    Args:
        size: Side of a square map, or (rows, columns), each in 1..300.
        num_kinds: Kinds of terrain, in 1..26 and fewer than there are cells.
        seed: Seed of the draw, not negative.

    Raises:
        ValueError: If an argument is out of range.
    """
    from scipy.spatial import KDTree

    rows, columns = checked_sides(size, 1, MAX_SIDE)
    check_at_least("num_kinds", num_kinds, 1)
    most = min(len(KINDS), rows * columns - 1)
    if num_kinds > most:
        raise ValueError(
            f"`num_kinds` must be at most {most} on this map, got {received(num_kinds)}"
        )
    rng = np.random.default_rng(check_at_least("seed", seed, 0))
    drawn = rng.permutation(rows * columns)
    goal, places = drawn[0], drawn[1 : 1 + max(num_kinds, rows * columns // PATCH)]
    everywhere = np.stack(np.unravel_index(np.arange(rows * columns), (rows, columns)), axis=1)
    _, nearest = KDTree(everywhere[places]).query(everywhere)
    cells = np.array(list(KINDS))[nearest % num_kinds]
    cells[goal] = GOAL
    return tuple("".join(row) for row in cells.reshape(rows, columns))


def _chosen_map(
    desc: Sequence[str] | None,
    size: int | Sequence[int] | None,
    num_kinds: int | None,
    features: object,
    seed: int,
) -> Sequence[str]:
    """Return the rows of the map, after checking that the arguments do not contradict."""
    for name, value in (("size", size), ("num_kinds", num_kinds)):
        if desc is not None and value is not None:
            raise ValueError(
                f"`{name}` is for random maps, got {name}={received(value)} with `desc`"
            )
    if num_kinds is not None and features is not None:
        raise ValueError(
            f"`features` replace kinds of terrain, got num_kinds={received(num_kinds)}"
        )
    if desc is not None:
        return desc
    return random_terrain(
        SIDE if size is None else size, NUM_KINDS if num_kinds is None else num_kinds, seed
    )


def _checked_map(desc: Sequence[str]) -> NDArray[np.str_]:
    """Return the map as characters `[H, W]`, after checking it."""
    cells = parsed_map(desc, KINDS + START + GOAL, "'a' to 'z' terrain, 'S' start, 'G' goal")
    if not (cells == GOAL).any():
        raise ValueError("`desc` must have a goal ('G'), got none")
    if not np.isin(cells, list(KINDS)).any():
        raise ValueError("`desc` must have a cell of terrain ('a' to 'z'), got none")
    return cells


def _features(
    cells: NDArray[np.str_], features: Sequence[Sequence[float]] | None
) -> tuple[tuple[str, ...], FloatArray]:
    """Return the names of the features and phi `[S, D]`: of the terrain, or the given ones."""
    if features is None:
        kinds = sorted(set(np.unique(cells).tolist()) - {START, GOAL})
        return tuple(kinds), (cells.reshape(-1, 1) == np.array(kinds)).astype(np.float64)
    form = f"a list of equally many numbers for each of {cells.size} cells"
    given = checked_matrix("features", features, form, cells.size)
    given[(cells == GOAL).ravel()] = 0.0
    return tuple(f"phi{k}" for k in range(given.shape[1])), given


def _sampled(
    truth: SoftSolution, start: FloatArray, number: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], ...]:
    """Return episodes of the demonstrator, states and actions `[T, 2]` each."""
    transitions = TransitionArrays(truth.mdp, np.zeros_like(truth.policy))
    first, choice = start.cumsum(), truth.policy.cumsum(axis=1)
    first, choice = first / first[-1], choice / choice[:, -1:]
    states = np.searchsorted(first, rng.random(number), side="right")
    episodes, parts = np.arange(number), []
    for _ in range(MAX_LENGTH):
        actions = (choice[states] <= rng.random(len(states))[:, None]).sum(axis=1)
        parts.append(np.stack([episodes, states, actions], axis=1))
        states, ended, _, _ = transitions.sample(states, actions, rng.random(len(states)))
        states, episodes = states[~ended], episodes[~ended]
        if not len(states):
            break
    steps = np.concatenate(parts).astype(np.int64)
    steps = steps[np.argsort(steps[:, 0], kind="stable")]
    ends = np.searchsorted(steps[:, 0], np.arange(1, number))
    return tuple(np.split(steps[:, 1:], ends))


def _expected_visits(truth: SoftSolution, start: FloatArray) -> FloatArray:
    """Return how often an episode of the demonstrator takes each action, on average, `[S, A]`."""
    present, visits = start, np.zeros_like(start)
    for _ in range(MAX_LENGTH):
        visits = visits + present
        present = truth.mdp.kernel.flow(present[:, None] * truth.policy)
    return visits[:, None] * truth.policy


def _checked_demonstrations(
    demonstrations: object, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], ...]:
    """Return the user's episodes as arrays `[T, 2]`, after checking them."""
    if isinstance(demonstrations, str) or not isinstance(demonstrations, Sequence | np.ndarray):
        raise ValueError(
            "`demonstrations` must be a list of episodes, each a list of [state, action], got "
            f"{received(demonstrations)}"
        )
    if len(demonstrations) == 0:
        raise ValueError("`demonstrations` must have at least one episode, got none")
    checked = []
    for number, episode in enumerate(demonstrations):
        form, owner = "[state, action], two integers", f"demonstrations[{number}]"
        steps = np.array(checked_rows(owner, episode, 2, form, "step", Integral), dtype=np.int64)
        for name, column, bound in zip(("state", "action"), steps.T, shape, strict=True):
            wrong = np.flatnonzero((column < 0) | (column >= bound))
            if wrong.size:
                raise ValueError(
                    f"{name}s of `demonstrations` must lie in 0..{bound - 1}, got "
                    f"{column[wrong[0]]} in episode {number}, step {wrong[0]}"
                )
        checked.append(steps)
    return tuple(checked)
