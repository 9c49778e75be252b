"""BilevelMarkovGame-v0: a leader who commits to a mixed strategy in a small Markov game."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_horizon, check_not_negative
from ..core.mdp import FloatArray, Kernel
from ..model.jacobians import softmax, softmax_vjp
from ..model.objectives import DiscountedReturn, TruncatedReturn
from ..rendering.canvas import pygame
from ..rendering.graph import GraphScene, Panel, draw_graph
from .base import View, upper_box
from .records import recorded
from .tabular import TabularBilevelEnv

__all__ = ["BilevelMarkovGame"]

IntArray = NDArray[np.int64]

PLACES, MOVES = "SAB", "sab"
S, A, B = range(3)

# Where the follower's moves s, a, b lead from (place, leader's action).
SUCCESSORS = np.array(
    [
        [[S, A, B], [S, A, B]],
        [[S, A, B], [S, S, S]],
        [[S, B, B], [S, B, B]],
    ]
)

# Logits of the leader: a row for each place, a column for each of its actions.
SHAPE = (3, 2)
NUM_STATES = 6

# What the picture calls the follower's policies, and a state of each. In S and B the leader's
# action makes no difference.
POLICIES = {"in S": 2 * S, "in A, seeing 0": 2 * A, "in A, seeing 1": 2 * A + 1, "in B": 2 * B}

# Flow that every move of the picture has at least, when the rewards on an edge are averaged.
SMALL_FLOW = 1e-12


class BilevelMarkovGame(TabularBilevelEnv):
    """A leader commits to a mixed strategy, and the follower answers each action it sees.

    ## Description
    A Markov game with three places S, A and B. In each place the leader shows one of two actions,
    drawn from its strategy, and the follower moves after seeing it. The leader gets a reward when
    the follower goes from S to A; but in A the leader's action 1 costs the follower a reward of -1.
    Action 0 there lets the follower have a bonus on a way through B that takes longer to come back.
    The best strategy mixes the two.

    ## Upper Level
    x in [-10, 10]^(3 x 2): logits of the leader's strategy, a row for each of S, A and B and a
    column for each of its actions 0 and 1; it plays softmax(x[place]). x starts at 0. The
    objective, to be maximised, is the leader's discounted return

        F(x) = E[ sum_t gamma^t u_t ],   u = 1 for the follower's move a in S,

    over the first `horizon` steps; the follower's policy is that of an infinite horizon all the
    same. What the leader shows in S and B changes nothing, so that these logits have no gradient,
    and of the two in A only the difference matters.

    ## Lower Level
    An entropy-regularised MDP with discount `gamma` and temperature `temperature`. The follower
    sees the leader's action, so its states are pairs of a place and that action:

    | place | leader shows | s | a | b |
    |---|---|---|---|---|
    | S | 0 or 1 | stay | to A, reward 1 | to B, reward 1 |
    | A | 0 | to S | stay | to B, reward `bonus` |
    | A | 1 | to S, reward -1 | to S, reward -1 | to S, reward -1 |
    | B | 0 or 1 | to S | stay | stay |

    All other rewards are 0. On arrival, and on staying, the leader draws its next action: x enters
    the kernel and the distribution of the first state, not the reward.

    ## Spaces and Episode
    * Observation: `Discrete(6)`, which is 2 * place + the leader's action, with the places S, A and
      B numbered 0, 1 and 2.
    * Action: `Discrete(3)`: 0 s, 1 a, 2 b.
    * Episode: the follower starts in S, with the leader's action drawn there. The episode never
      terminates and is truncated after 150 steps.

    ## Arguments
    * `bonus` (1): the follower's reward for b in A when the leader shows 0, not negative.
      Published are 1 and 2;
    * `horizon` (150): steps that count for the leader, at least 1; None for all of them;
    * `gamma` (.99), `temperature` (.05; entropy adds up to 5.5 by default), `entropy` ("plain")
      and `render_mode`: see `BilevelEnv`.

    ## Ground Truth
    Objective and hyper-gradient are exact. With p the probability that the leader shows 0 in A, and
    `bonus` 1:

    | x | p | F, 150 steps | F, infinite horizon |
    |---|---|---|---|
    | 0 | .5 | .480792 | .617005 |
    | best of 150 steps (`best_known`) | .833757 | 27.315565 | 34.992636 |
    | best of the infinite horizon | .833544 | 27.315561 | 34.992641 |
    | x[A] = (10, -10) | 1 | 26.217401 | 33.653346 |

    The optimum is mixed. At x = 0 the derivatives to the two logits of A are 3.382636 and -3.382636
    (infinite horizon: 4.338510 and -4.338510), of which the direct parts are -.000600 and .000600
    (-.000933 and .000933): the direct gradient has the wrong sign. 200 normalised steps of .01, .05
    or .2 along it end below .0001, and L-BFGS-B with it finds no ascent. On the hyper-gradient,
    L-BFGS-B from x = 0 reaches the best value in 22 evaluations. F depends on p alone, and 999
    equally spaced p show one local maximum: up to that resolution it is the global one.

    With `bonus` 2 x = 0 is almost the best: F is 31.164146 there (infinite horizon: 39.938204), and
    at most 31.165579 at p = .497474 (39.940211 at p = .497362), again the only local maximum.

    ## References
    M. Kudo, T. Tanabe, A. Wachi, Y. Akimoto, "Sample-efficient hypergradient estimation for
    decentralized bi-level reinforcement learning", ICAPS 2026, arXiv 2603.14867 (BC-HG).
    """

    leader_does, follower_does = "mixes its actions", "answers what it sees"
    leader_wants = "the follower to go from S to A as often as possible"
    follower_wants = "high rewards: yellow moves pay it, blue ones cost it"

    def __init__(
        self,
        *,
        bonus: float = 1.0,
        horizon: int | None = 150,
        gamma: float = 0.99,
        temperature: float = 0.05,
        entropy: str = "plain",
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        self._bonus = check_not_negative("bonus", bonus)
        check_horizon(horizon)
        reward = np.zeros((len(PLACES), 2, len(MOVES)))
        reward[S, :, 1:] = 1.0
        reward[A, 0, 2] = self._bonus
        reward[A, 1, :] = -1.0
        self._reward = np.asfortranarray(reward.reshape(NUM_STATES, len(MOVES)))
        self._reward.flags.writeable = False  # `reward` hands it out
        # The leader's only reward is for the move to A in S.
        upper_reward = np.zeros((NUM_STATES, len(MOVES)), order="F")
        upper_reward[[2 * S, 2 * S + 1], 1] = 1.0
        # At the initial x the leader draws its actions with equal probabilities.
        arrival = np.eye(len(PLACES))[SUCCESSORS.reshape(NUM_STATES, len(MOVES))]
        start = np.zeros(SHAPE)
        start[S] = 0.5
        super().__init__(
            kernel=Kernel.from_dense(0.5 * arrival.repeat(2, axis=2)),
            initial_distribution=start.ravel(),
            objective=DiscountedReturn() if horizon is None else TruncatedReturn(horizon),
            upper_reward=upper_reward,
            upper_space=upper_box(-10.0, 10.0, SHAPE),
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        self.best_known = recorded(BilevelMarkovGame, locals())

    def draw(self, view: View) -> pygame.Surface:
        """Draw the places with the follower's moves, and both strategies beside them."""
        return draw_graph(self.scene(view))

    def scene(self, view: View) -> GraphScene:
        """Return a view as arrays over the places, for `bilevel_gym.rendering.draw_graph`.

        The edges are the moves between places, over both of the leader's actions; their colour is
        the follower's mean reward for them.
        """
        answer, gradient = view.tabular, self.slopes(view)
        ways = _ways()
        flow = values = occupancy = follower = None
        status = view.status
        panels = [
            Panel(
                title="leader's x: chance of",
                labels=self.knob_names(),
                values=softmax(view.upper_params).ravel(),
                limit=1.0,
                gradient=None if gradient is None else gradient.ravel(),
            )
        ]
        if answer is not None:
            visits = answer.occupancy[:, None] * answer.policy / (1.0 - self.gamma)
            flow = np.array([visits[way].sum() for way in ways.values()])
            # Where the follower hardly goes, all moves of an edge count alike.
            values = np.array(
                [
                    np.average(self._reward[way], weights=visits[way] + SMALL_FLOW)
                    for way in ways.values()
                ]
            )
            occupancy = answer.occupancy.reshape(SHAPE).sum(axis=1)
            panels += [
                Panel(f"follower {title}", tuple(MOVES), answer.policy[state], limit=1.0)
                for title, state in POLICIES.items()
            ]
        if view.state is not None:
            follower, action = divmod(view.state, 2)
            status += (("place", PLACES[follower]), ("leader shows", str(action)))
        return GraphScene(
            places=np.array([(0.0, 0.5), (1.0, 0.0), (1.0, 1.0)]),
            names=tuple(PLACES),
            edges=np.array(list(ways)),
            flow=flow,
            values=values,
            value_limit=max(1.0, self._bonus),
            edge_labels=tuple(_way_name(way) for way in ways.values()),
            occupancy=occupancy,
            marks=("S", "T", ""),
            follower=follower,
            title=view.title,
            status=status,
            value_name="follower's reward",
            params_name="logit",
            mark_names={"T": "pays the leader"},
            label_note=("move", "0, 1: after seeing it"),
            panels=tuple(panels),
        )

    def knob_names(self) -> tuple[str, ...]:
        """Return the leader's actions in each place."""
        return tuple(f"{action} in {place}" for place in PLACES for action in range(2))

    def kernel(self, upper_params: FloatArray) -> Kernel:
        """Return the kernel at x: on arrival the leader draws its next action."""
        strategy = softmax(upper_params).ravel()
        kernel = self.model.initial_kernel
        return kernel.with_probabilities(strategy[kernel.matrix.indices])

    def kernel_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_k cotangent(k) dP(k)/dx, `[3, 2]`."""
        successors = self.model.initial_kernel.matrix.indices
        arrivals = np.zeros(NUM_STATES)
        np.add.at(arrivals, successors, cotangent)
        return softmax_vjp(softmax(upper_params), arrivals.reshape(SHAPE))

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        """Return the distribution of the first state: S, and the leader's draw there, `[S]`."""
        start = np.zeros(SHAPE)
        start[S] = softmax(upper_params)[S]
        return start.ravel()

    def start_distribution_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_s cotangent(s) drho(s)/dx, `[3, 2]`."""
        first = np.zeros(SHAPE)
        first[S] = cotangent.reshape(SHAPE)[S]
        return softmax_vjp(softmax(upper_params), first)

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return the follower's reward, the same at every x, `[S, A]`."""
        return self._reward

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return zeros: x enters through the leader's actions alone, `[3, 2]`."""
        return np.zeros(SHAPE)


def _ways() -> dict[tuple[int, int], tuple[IntArray, IntArray]]:
    """Return the states and moves that lead from each place to another one, or the same."""
    successor = SUCCESSORS.reshape(NUM_STATES, len(MOVES))
    place = np.arange(NUM_STATES)[:, None] // 2
    ways = {}
    for origin in range(len(PLACES)):
        for target in range(len(PLACES)):
            way = np.nonzero((place == origin) & (successor == target))
            if way[0].size:
                ways[origin, target] = (way[0], way[1])
    return ways


def _way_name(way: tuple[IntArray, IntArray]) -> str:
    """Return which moves go a way, and in answer to which action where that matters."""
    moves = ["".join(MOVES[m] for s, m in zip(*way, strict=True) if s % 2 == i) for i in range(2)]
    if moves[0] == moves[1]:
        return ", ".join(moves[0])
    return "; ".join(f"{i}: {', '.join(moves[i])}" for i in range(2) if moves[i])
