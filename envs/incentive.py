"""BilevelIncentive-v0: side payments that draw a follower from its own goal to the leader's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_not_negative, check_positive, check_probability
from ..core.mdp import FloatArray, Kernel
from ..model.costs import ExpectedCost
from ..model.objectives import DiscountedReturn, LinearCost, Sum
from ..rendering.canvas import pygame
from ..rendering.graph import GraphScene, draw_graph
from .base import View, shown, upper_box
from .records import recorded
from .rows import checked_pairs
from .tabular import TabularBilevelEnv

__all__ = ["BilevelIncentive"]

IntArray = NDArray[np.int64]

ACTIONS = "abcd"
NUM_STATES = 13
PAIRS = tuple(np.ndindex(NUM_STATES, len(ACTIONS)))

# Where each action leads; an action that is not listed stays.
EDGES: dict[int, dict[str, int]] = {
    0: {"a": 1, "b": 2, "c": 3, "d": 4},
    1: {"a": 5, "b": 8, "c": 6},
    2: {"a": 6, "b": 7},
    3: {"b": 5, "c": 7},
    4: {"c": 7, "d": 5},
    6: {"b": 9, "d": 10},
    7: {"a": 9, "b": 8},
    9: {"b": 11, "c": 12},
}

# Acting here ends the episode: two sinks, the follower's goal and the leader's targets.
FINAL = (5, 8, 10, 11, 12)
GOAL, TARGETS = 10, (11, 12)

# The defined actions as state, action and successor.
ARROWS = np.array(
    [(s, ACTIONS.index(a), t) for s, moves in EDGES.items() for a, t in moves.items()]
)

# Where the states stand in the picture: right and down, in [0, 1].
PLACES = (
    (0.0, 0.5),
    (0.29, 0.36),
    (0.19, 0.06),
    (0.29, 0.64),
    (0.19, 0.94),
    (0.5, 1.0),
    (0.5, 0.1),
    (0.5, 0.45),
    (0.75, 0.94),
    (0.75, 0.38),
    (0.75, 0.0),
    (1.0, 0.18),
    (1.0, 0.58),
)

# Smaller payments are not written in the picture.
SHOWN_PAYMENT = 0.005


class BilevelIncentive(TabularBilevelEnv):
    """A leader pays a follower for single moves, to draw it from its own goal to the leader's.

    ## Description
    A follower moves in a small graph with thirteen states q0 to q12. It gets a reward for acting in
    q10; the leader gets one when it ends up in q11 or q12 instead, which lie behind q9. The leader
    can promise payments for single actions in single states. It bears the cost of each promise
    once, whether or not, and however often, the follower collects the payment.

    ## Upper Level
    x in [0, max_payment]^D: the payment for each pair (state, action) in `paid`, in the order
    given; by default all 52 pairs, state by state, actions a, b, c, d. x starts at 0. The
    objective, to be maximised, is

        F(x) = E[ sum_t gamma^t u(s_t) ] - payment_weight * ||x||_1

    with u = 1 for acting in q11 or q12. The cost `payments`, to be constrained, is what the
    follower is expected to collect, E[ sum_t gamma^t x(s_t, a_t) ].

    ## Lower Level
    An entropy-regularised MDP with r_x(s, a) = 1[s = q10] + x(s, a), discount `gamma`, temperature
    `temperature`. The actions lead

        q0:  a to q1,  b to q2,  c to q3,  d to q4        q4:  c to q7,  d to q5
        q1:  a to q5,  b to q8,  c to q6                  q6:  b to q9,  d to q10
        q2:  a to q6,  b to q7                            q7:  a to q9,  b to q8
        q3:  b to q5,  c to q7                            q9:  b to q11, c to q12

    and all others stay. The chosen action works with probability 1 - slip; else one of the three
    others works in its place, each with slip / 3, whether it moves or stays. Acting in q5, q8, q10,
    q11 or q12 ends the episode. x enters the reward alone; payments are for the chosen action, not
    for the one that works.

    ## Spaces and Episode
    * Observation: `Discrete(13)`, the state.
    * Action: `Discrete(4)`: 0 a, 1 b, 2 c, 3 d.
    * Episode: the follower starts in q0. The episode terminates on acting in q5, q8, q10, q11 or
      q12 (any action, with its reward) and is truncated after 100 steps.

    ## Arguments
    * `paid` (None): the pairs that can be paid for, a list of different [state, action] with the
      state in 0..12 and the action in 0..3, such as [[7, 0], [9, 1]]; None for all 52;
    * `slip` (.3): probability that another action works than the chosen one, in [0, 1];
    * `gamma` (.95), `temperature` (.01; the entropy of never finishing adds up to .28 by default),
      `entropy` ("plain") and `render_mode`: see `BilevelEnv`. The picture shows the graph;
      triangles leave out derivatives that push a payment out of its box;
    * `payment_weight` (.5): weight of ||x||_1, not negative;
    * `max_payment` (2): upper end of the box, positive.

    ## Ground Truth
    Objective and hyper-gradient are exact. At x = 0, F is .147802, the follower's soft value is
    .534445 and its expected reward .504979. The norm of dF/dx is 4.594235; the direct part is -.5
    in every entry, and only one entry of the sum is positive: .996583, for a in q7. At x = 0 the
    derivative of ||x||_1 is that from the right.

    | run | ends at | payments |
    |---|---|---|
    | best of 5326 starts (`best_known`) | .417292 | .26262 for a in q9 |
    | second best | .303343 | .486 for b in q6, .182 for b in q9 |
    | third best | .272365 | .115 for c in q6, .032 for a in q7, .063 for b in q9 |
    | L-BFGS-B from x = 0 | .172858 | .0499 for a in q7 |
    | normalised steps of .01, .05 or .2 from x = 0 | .172858 | the same |
    | the climb from many starts, among them each payment alone | .417292 | the first |
    | any steps along the direct gradient from x = 0 | .147802 | nothing: no step leaves the box |

    The best x known rewards staying in q9: the follower collects until it slips to q11 or q12,
    while the promise costs the leader once. The same payment for d instead of a is as good. It was
    found by L-BFGS-B from 4000 random starts (seed 1; 1 to 8 pairs, payments uniform up to .1, .3
    or 1), of which 139 ended there and 2767 at .1729 or less, and from the best of 36 choices of
    two payments for each of the 1326 choices of two pairs, of which 101 ended there. It is not
    proven optimal. The basin is narrow: with .22 for a in q9, F is .1036, less than at x = 0, and
    with .24 it is .2467.

    Published are .152 for the leader and .531 for the follower at x = 0, the values after eight
    sweeps of soft value iteration from V = 0, which give .152371 and .530529.

    ## References
    H. Ma, S. Han, A. Hemida, C. Kamhoua, J. Fu, "Adaptive incentive design for Markov decision
    processes with unknown rewards", TMLR 2025.
    """

    leader_does, follower_does = "promises payments", "moves"
    leader_wants = "the follower to end in q11 or q12, and small promises"
    follower_wants = "to end in q10, or to be paid on other ways"

    def __init__(
        self,
        *,
        paid: Sequence[Sequence[int]] | None = None,
        slip: float = 0.3,
        gamma: float = 0.95,
        temperature: float = 0.01,
        entropy: str = "plain",
        payment_weight: float = 0.5,
        max_payment: float = 2.0,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        self.paid = PAIRS
        if paid is not None:
            form = "[state, action] pairs such as [[7, 0]]"
            rule = "hold states in 0..12 and actions in 0..3"
            self.paid = checked_pairs("paid", paid, PAIRS, form, "pair", rule)
        slip = check_probability("slip", slip)
        payment_weight = check_not_negative("payment_weight", payment_weight)
        max_payment = self._max_payment = check_positive("max_payment", max_payment)
        self._states, self._actions = np.array(self.paid).T
        # Rewards are for every action in a state.
        self._lower_base = np.zeros((NUM_STATES, len(ACTIONS)), order="F")
        upper_reward = np.zeros_like(self._lower_base)
        self._lower_base[GOAL] = 1.0
        upper_reward[list(TARGETS)] = 1.0
        successor = np.repeat(np.arange(NUM_STATES)[:, None], len(ACTIONS), axis=1)
        successor[ARROWS[:, 0], ARROWS[:, 1]] = ARROWS[:, 2]
        # Which action works, for each that is chosen.
        works = np.full((len(ACTIONS), len(ACTIONS)), slip / (len(ACTIONS) - 1))
        np.fill_diagonal(works, 1.0 - slip)
        transition = works @ np.eye(NUM_STATES)[successor]
        transition[list(FINAL)] = 0.0
        count = len(self.paid)
        super().__init__(
            kernel=Kernel.from_dense(transition),
            initial_distribution=np.arange(NUM_STATES) == 0,
            objective=Sum((DiscountedReturn(), LinearCost(payment_weight))),
            upper_reward=upper_reward,
            upper_space=upper_box(0.0, max_payment, (count,)),
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        self.model.costs = {"payments": ExpectedCost(self.payments, self.reward_vjp)}
        self.best_known = recorded(
            BilevelIncentive, locals(), ("paid",) if self.paid == PAIRS else ()
        )

    def draw(self, view: View) -> pygame.Surface:
        """Draw the graph with payments, the follower's moves and the hyper-gradient."""
        return draw_graph(self.scene(view))

    def scene(self, view: View) -> GraphScene:
        """Return a view as arrays over the graph, for `bilevel_gym.rendering.draw_graph`.

        The edges are the actions that lead elsewhere. A loop stands for all others of its state
        that can be paid for: it shows the sum of their payments and the largest of their
        derivatives. Derivatives that push a payment out of the box are left out.
        """
        x, answer = view.upper_params, view.tabular
        edges, pairs = self._edges
        flow = gradient = None
        if answer is not None:
            visits = answer.occupancy[:, None] * answer.policy / (1.0 - self.gamma)
            flow = np.array([visits[pair].sum() for pair in pairs])
        within = self.slopes(view)
        if within is not None:
            slopes = self._on_pairs(np.where(within == 0.0, np.nan, within))
            gradient = np.array([_largest(slopes[pair]) for pair in pairs])
        payments = self._on_pairs(x)
        values = np.array([payments[pair].sum() for pair in pairs])
        marks = {0: "S", GOAL: "G", **dict.fromkeys(TARGETS, "T")}
        return GraphScene(
            places=np.array(PLACES),
            names=tuple(f"q{state}" for state in range(NUM_STATES)),
            edges=edges,
            flow=flow,
            values=values,
            value_limit=self._max_payment,
            signed=False,
            edge_labels=tuple(map(_label, edges.tolist(), pairs, values.tolist())),
            gradient=gradient,
            occupancy=None if answer is None else answer.occupancy,
            marks=tuple(marks.get(state, "") for state in range(NUM_STATES)),
            follower=view.state,
            title=view.title,
            status=(*view.status, ("payments", shown(float(x.sum())))),
            mark_names={"G": "pays the follower", "T": "pays the leader"},
        )

    @property
    def _edges(self) -> tuple[IntArray, list[tuple[IntArray, IntArray]]]:
        """Return the edges of the picture `[E, 2]`, and the states and actions of each."""
        others = ~np.isnan(self._on_pairs(self.initial_upper_params))
        others[ARROWS[:, 0], ARROWS[:, 1]] = False
        loops = np.flatnonzero(others.any(axis=1))
        pairs = [(state[None], action[None]) for state, action, _ in ARROWS]
        for state in loops:
            actions = np.flatnonzero(others[state])
            pairs.append((np.full_like(actions, state), actions))
        return np.append(ARROWS[:, [0, 2]], np.stack([loops, loops], axis=1), axis=0), pairs

    def _on_pairs(self, values: FloatArray) -> FloatArray:
        """Return numbers per pair in `paid`, `[D]`, as an array `[S, A]`, NaN elsewhere."""
        pairs = np.full((NUM_STATES, len(ACTIONS)), np.nan)
        pairs[self._states, self._actions] = values
        return pairs

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a) = 1[s = q10] + x(s, a), `[S, A]`."""
        reward = self._lower_base.copy(order="F")
        reward[self._states, self._actions] += upper_params
        return reward

    def payments(self, upper_params: FloatArray) -> FloatArray:
        """Return x(s, a), `[S, A]`, zero for pairs that cannot be paid for."""
        return np.nan_to_num(self._on_pairs(upper_params))

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return the cotangents of the pairs in `paid`, `[D]`."""
        return cotangent[self._states, self._actions]


def _largest(slopes: FloatArray) -> float:
    """Return the derivative of largest magnitude, NaN where there is none."""
    given = slopes[~np.isnan(slopes)]
    return float(given[np.abs(given).argmax()]) if given.size else np.nan


def _label(edge: list[int], pair: tuple[IntArray, IntArray], payment: float) -> str:
    """Return the actions of an edge and their payment; nothing for a loop without one."""
    written = f" {payment:.2f}" if payment > SHOWN_PAYMENT else ""
    if edge[0] == edge[1] and not written:
        return ""
    return "".join(ACTIONS[action] for action in pair[1]) + written
