"""BilevelFourRooms-v0: penalties that lead a follower with random goals past the leader's cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..core.checks import check_between, check_not_negative, check_positive
from ..core.mdp import FloatArray
from ..model.jacobians import softmax, softmax_vjp
from ..rendering import GridScene
from .base import View, shown, upper_box
from .grids import GridBilevelEnv, per_move, slippery_kernel
from .records import recorded
from .rows import checked_pairs

__all__ = ["BilevelFourRooms"]

# `S` the follower's start, `T` the leader's target, `#` wall, `.` free.
ROOMS = (
    "#############",
    "#.....#.....#",
    "#.....#.....#",
    "#...........#",
    "#S....#.....#",
    "#.....#.....#",
    "##.####.....#",
    "#.....###.###",
    "#...T.#.....#",
    "#.....#.....#",
    "#...........#",
    "#.....#.....#",
    "#############",
)

# A slip of p leaves the intended move 1 - 4p/3 and gives each other move 4p/9.
SLIP_SCALE = 4.0 / 3.0

CELLS = np.array([list(row) for row in ROOMS])
FREE = CELLS != "#"
PLACES = [(int(row), int(column)) for row, column in np.argwhere(FREE)]
START, TARGET = (int(np.flatnonzero(CELLS[FREE] == sign)[0]) for sign in "ST")

# Rooms in the picture share their outer walls.
STRIDE = len(ROOMS) - 1


class BilevelFourRooms(GridBilevelEnv):
    """A leader deters a follower with random goals, so that it passes by the leader's cell.

    ## Description
    Four rooms on a map of 13x13 cells, with doors between them. In each episode the follower walks
    from its start to one of several goals, drawn at random. The leader wants it to visit a target
    cell on the way. Before it knows the goal, it spreads a budget of penalties over the cells; it
    pays for what it has spread when the follower reaches its goal.

    ## Upper Level
    x in [-10, 10]^105: a logit for each of the 104 free cells, row by row, and a last one for the
    budget that stays unspent. x starts at 0. The incentive of cell i is

        inc_x(i) = -budget * softmax(x)_i

    The objective, to be maximised, is the mean over the goals of E[ sum_t gamma^t u(s_t) ] with
    u = 1 for acting in the target (8, 4) and u = -payment_cost * ||inc_x||_1 for acting in the
    goal. The norm is over all 104 cells, whether or not the follower comes by.

    ## Lower Level
    An entropy-regularised MDP for each goal, r_x(s, a) = 1[s = goal] + inc_x(s), discount `gamma`,
    temperature `temperature`; the goal's own cell has no incentive. All goals form one MDP with a
    block of 104 states each. Moves go up, right, down, left, and walls bounce. With a slip of p
    the intended move is made with probability 1 - 4p/3 and each other one with 4p/9: .56 and
    .14667 by default, for the planner and the simulator alike. x enters the reward alone.

    ## Spaces and Episode
    * Observation: `Discrete(104 * number of goals)`, which is 104 * (index of the goal) + cell,
      cells numbered as x is.
    * Action: `Discrete(4)`: 0 up, 1 right, 2 down, 3 left.
    * Episode: the follower starts in (4, 1), with each goal equally likely. The episode terminates
      on acting in the goal (any action, rewarded; the goal's soft value is 1 + temperature * log 4)
      and is truncated after 200 steps.

    ## Arguments
    * `goals` ([(1, 9), (11, 11)]): (row, column) of different free cells other than start and
      target; [(1, 9)] is the published variant with one goal;
    * `slip` (.33): p above, in [0, .75];
    * `gamma` (.99), `temperature` (.003; published are .001, .003 and .005; entropy adds up to .42
      at most by default), `entropy` ("plain") and `render_mode`: see `BilevelEnv`. The picture
      shows the rooms once for each goal;
    * `payment_cost` (1): weight of ||inc_x||_1, not negative. Published are 1, 3 and 5 with two
      goals and 5 with one;
    * `budget` (.2): the sum of all penalties if none is left unspent, positive.

    ## Ground Truth
    Objective and hyper-gradient are exact. At x = 0 with one goal:

    | goal | temperature | payment_cost | F | norm of dF/dx | norm of its direct part |
    |---|---|---|---|---|---|
    | (1, 9) | .001 | 5 | -.740644 | .007138 | .007096 |
    | (1, 9) | .003 | 5 | -.725819 | .007222 | .006956 |
    | (11, 11) | .001 | 1 | .723777 | .219806 | .001211 |
    | (11, 11) | .003 | 1 | .544285 | .106267 | .001172 |

    With the default arguments F = .200006 at x = 0, the norm of dF/dx is .053192 and that of its
    direct part .001282. From there:

    | run | ends at | why |
    |---|---|---|
    | L-BFGS-B on the hyper-gradient | 1.017685 | the way past the target, for both goals |
    | no steps: all of the budget on (3, 5), the door to the right | .697643 | the obvious guess |
    | no steps: nothing spent | .320986 | one goal's way passes the target by itself |
    | L-BFGS-B, or steps of length .5, along the direct gradient | .3209 | it only sees costs |

    The best value known, 1.017686 (`best_known`), spends the whole budget, .144 of it on the door
    (3, 5). It comes of 500 to 1000 normalised steps from each of 384 starts (224 Gaussian, 64 with
    rectangles and 96 with single cells of large logits), then L-BFGS-B from the best 19 ends, of
    which 18 reached it within 1e-6. The ascents end in many places, often near .50 and .98. It is
    not proven optimal. Published for this instance (mean of 10 seeds): .95, 1.00 and .91 with HPGD,
    AMD and a zero-order method. With the one goal (1, 9) and `payment_cost` 5, x = 0 lies next to a
    poor optimum: L-BFGS-B from there ends at .0015, spending almost nothing.

    Best of ten seeds, and their mean in brackets; the last row has the one goal (1, 9). A seed
    fixes 48 random starts for each setting, besides the six best ends at the next lower payment
    cost; 300 normalised steps from each, then L-BFGS-B from the best six
    (`tests/benchmarks/four_rooms.py`, 543 s for all seeds on two cores):

    | payment_cost | temperature .001 | .003 | .005 |
    |---|---|---|---|
    | 1 | 1.1772 (1.1772) | 1.0177 (1.0177) | 1.4736 (1.4718) |
    | 3 | .9473 (.9450) | .7982 (.7982) | 1.3539 (1.3539) |
    | 5 | .7448 (.7411) | .5789 (.5789) | 1.2358 (1.2358) |
    | 5, one goal | .7684 (.7676) | .6161 (.6159) | 1.6179 (1.5758) |

    Every mean is above the best published one, and no value rises with the payment cost.

    ## References
    V. Thoma, B. Pasztor, A. Krause, G. Ramponi, Y. Hu, "Contextual bilevel reinforcement learning
    for incentive alignment", NeurIPS 2024, arXiv 2406.01575 (HPGD). The variant with one goal:
    Kudo et al., ICAPS 2026, arXiv 2603.14867 (BC-HG). Rooms: R. S. Sutton, D. Precup, S. Singh,
    "Between MDPs and semi-MDPs", Artificial Intelligence 112, 1999.
    """

    leader_does, follower_does = "spreads penalties", "walks"
    leader_wants = "the target passed on the way to any goal, and small penalties"
    follower_wants = "to reach its goal soon, past few penalties"

    def __init__(
        self,
        goals: Sequence[Sequence[int]] = ((1, 9), (11, 11)),
        *,
        slip: float = 0.33,
        gamma: float = 0.99,
        temperature: float = 0.003,
        entropy: str = "plain",
        payment_cost: float = 1.0,
        budget: float = 0.2,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        form = "(row, column) pairs such as [(1, 9)]"
        rule = "be free cells (row, column) of the 13x13 map other than start and target"
        known = [place for place in PLACES if CELLS[place] == "."]
        self.goals = checked_pairs("goals", goals, known, form, "cell", rule)
        slip = check_between("slip", slip, 0.0, 1.0 / SLIP_SCALE)
        self._payment_cost = check_not_negative("payment_cost", payment_cost)
        self._budget = check_positive("budget", budget)
        count = len(self.goals)
        # Where the goal is in each context, [C, 104].
        self._at_goal = np.array([[place == goal for place in PLACES] for goal in self.goals])
        start = np.zeros((count, len(PLACES)))
        start[:, START] = 1.0 / count
        # The picture has the rooms once for each goal.
        columns = math.ceil(math.sqrt(count))
        corners = STRIDE * np.stack(np.divmod(np.arange(count), columns), axis=1)
        places = (corners[:, None] + np.array(PLACES)).reshape(-1, 2)
        picture = np.full(corners.max(axis=0) + len(ROOMS), "#")
        picture[tuple(places.T)] = np.where(self._at_goal, "G", CELLS[FREE]).ravel()
        self._lay_out(picture, places, np.tile(np.arange(len(PLACES)), count))
        rooms = self._entries[: len(ROOMS), : len(ROOMS)]
        super().__init__(
            kernel=slippery_kernel(rooms, self._at_goal, SLIP_SCALE * slip),
            initial_distribution=start.ravel(),
            upper_space=upper_box(-10.0, 10.0, (len(PLACES) + 1,)),
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        self.best_known = recorded(BilevelFourRooms, locals())

    def scene(self, view: View) -> GridScene:
        """Return a view as arrays over the rooms, once for each goal."""
        incentive = self._incentive(view.upper_params)
        shaping = np.where(self._at_goal, 0.0, incentive)
        gradient = self.slopes(view)
        if gradient is not None:
            # Every goal's rooms show the same derivatives; the unspent logit has no cell.
            gradient = np.tile(gradient[:-1], len(self.goals))
        spent = f"{shown(-float(incentive.sum()))} of {self._budget:g}"
        return self._scene(
            view,
            shaping=shaping.ravel(),
            shaping_limit=-self._budget,
            signed=False,
            gradient=gradient,
            status=(*view.status, ("spent", spent)),
            shaping_name="penalty",
            params_name="logit",
        )

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a) = 1[s = goal] + inc_x(s), `[S, A]`."""
        return per_move(np.where(self._at_goal, 1.0, self._incentive(upper_params)))

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) d inc_x(s)/dx, `[105]`."""
        per_cell = np.where(self._at_goal, 0.0, cotangent.sum(axis=1).reshape(self._at_goal.shape))
        cotangents = np.append(per_cell.sum(axis=0), 0.0)
        return -self._budget * softmax_vjp(softmax(upper_params), cotangents)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return u_x(s, a) = 1[s = target] - payment_cost 1[s = goal] ||inc_x||_1, `[S, A]`."""
        spent = self._budget * softmax(upper_params)[:-1].sum()
        reward = np.where(self._at_goal, -self._payment_cost * spent, 0.0)
        reward[:, TARGET] += 1.0
        return per_move(reward)

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_sa cotangent(s, a) du_x(s, a)/dx, `[105]`."""
        visits = cotangent.sum(axis=1)[self._at_goal.ravel()].sum()
        cotangents = np.append(np.full(len(PLACES), -self._payment_cost * visits), 0.0)
        return self._budget * softmax_vjp(softmax(upper_params), cotangents)

    def _incentive(self, upper_params: FloatArray) -> FloatArray:
        """Return inc_x of every cell `[104]`."""
        return -self._budget * softmax(upper_params)[:-1]
