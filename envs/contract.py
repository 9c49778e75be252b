"""BilevelContract-v0: a principal who pays for outcomes, as it does not see what the agent does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..core.checks import check_at_least, check_not_negative, check_positive, finite_array
from ..core.mdp import FloatArray, Kernel
from ..model.costs import ExpectedCost
from ..rendering.canvas import pygame
from ..rendering.graph import GraphScene, Panel, draw_graph
from ..rendering.picture_charts import nice_limit
from .base import View, upper_box
from .records import recorded
from .rows import checked_matrix
from .tabular import TabularBilevelEnv

__all__ = ["BilevelContract"]

# Of resting, working and rushing: the chances of a setback, no change and progress, and the cost.
OUTCOMES = ((0.1, 0.85, 0.05), (0.05, 0.6, 0.35), (0.3, 0.1, 0.6))
COSTS = (0.0, 0.1, 0.15)
EFFORTS = ("rest", "work", "rush")
MOVES = (-1, 0, 1)

# Stages of the longest project, and most states that are drawn as a graph.
MOST_STAGES, DRAWN = 200, 8

# What the agent gets of the revenue at the initial x.
SHARE = 0.25

# The probabilities of outcomes may miss 1 by this much: the rounding of single precision.
TOLERANCE = 1e-6

# Smaller payments are not written in the picture.
SHOWN_PAYMENT = 0.005


class BilevelContract(TabularBilevelEnv):
    """A principal pays an agent for outcomes, because it does not see what the agent does.

    ## Description
    A principal-agent problem with hidden action and limited liability. An agent takes a project
    through its stages. In each period it rests, works or rushes, at a cost of its own; then the
    project falls back a stage, stays where it is, or advances. The principal (the leader) has the
    revenue of the finished project. It sees the outcome of each period but not the agent's effort,
    so that it can pay for outcomes alone, and it cannot take money back. Pay for progress makes a
    setback worth the agent's while, as the same step is paid again; pay for the end alone leaves it
    a long way to go. With `revenues` it is the textbook's problem: one period, one outcome.

    ## Upper Level
    x in [0, max_payment]^D: the payment for each outcome that some effort makes possible, which is
    a pair of a state and the next one, state by state (D = 3 * stages - 1, or the number of
    outcomes). x starts at a linear contract, a quarter of the revenue of each outcome. The
    objective, to be maximised, is the profit

        F(x) = E[ sum_t gamma^t u_x(s_t, a_t) ],
        u_x(s, a) = sum_s' P(s'|s, a) (revenue(s') - x(s, s'))

    The cost `payments`, to be constrained, is what the agent is expected to be paid,
    E[ sum_t gamma^t x(s_t, s_t+1) ].

    ## Lower Level
    An entropy-regularised MDP, discount `gamma`, temperature `temperature`, with

        r_x(s, a) = sum_s' P(s'|s, a) x(s, s') - cost(a)

    Both rewards are expectations over the outcome: they depend on (s, a), and x enters them alone.
    The efforts are by default

    | effort | setback | no change | progress | cost |
    |---|---|---|---|---|
    | 0 rest | .1 | .85 | .05 | 0 |
    | 1 work | .05 | .6 | .35 | .1 |
    | 2 rush | .3 | .1 | .6 | .15 |

    in each stage; in the first one a setback changes nothing.

    ## Spaces and Episode
    * Observation: `Discrete(stages + 1)`, the stage, and last the finished project; in one period
      `Discrete(O + 1)`: 0, and the outcomes from 1 on.
    * Action: `Discrete(A)`, the effort: 0 rest, 1 work, 2 rush by default.
    * Episode: begins in state 0. It terminates on acting in the finished project, or in one of the
      outcomes (any action, no reward), and is truncated after 200 steps.

    ## Arguments
    * `stages` (4): of the project, 1 to 200;
    * `outcomes` ([[.1, .85, .05], [.05, .6, .35], [.3, .1, .6]]): a row for each effort, chances
      of a setback, of no change and of progress that sum to 1;
    * `costs` ([0, .1, .15]): cost of each effort in a period, not negative;
    * `revenue` (4): the principal's, of the finished project, not negative;
    * `revenues` (None): the principal's revenue of each outcome, not negative, for one period
      instead of a project: rows of `outcomes` may then have any length, and `stages` and `revenue`
      play no part;
    * `gamma` (.95), `temperature` (.005; the entropy of never finishing adds up to .11 by default),
      `entropy` ("plain") and `render_mode`: see `BilevelEnv`;
    * `max_payment` (4): upper end of the box, positive.

    ## Ground Truth
    Objective and hyper-gradient are exact. At the initial x, 1 for the end of the project and
    nothing else, F is .316107, the norm of dF/dx 16.354992 and that of its direct part 13.440836;
    at x = 0, where the agent rests, F is .056517.

    | run | ends at | pays |
    |---|---|---|
    | best of 600 starts (`best_known`) | 1.083657 | 2.08 for the end, and for three setbacks |
    | the climb from many starts | 1.083657 | much the same |
    | best linear contract | 1.080980 | 2.11 for the end |
    | L-BFGS-B on the hyper-gradient | .694362 | 1.47 for the end, too little to begin for |
    | normalised steps of .05 along it | .694347 | much the same |
    | any steps along the direct gradient | .316107 | it only sees costs: F falls at once |

    The best x known earns a revenue of 2.308464 for payments of 1.224807; the agent's costs are
    .889961. Payments for setbacks are payments for rushing, which causes most of them: without
    them, the agent would work in the second stage, and F would be 1.079139. Of 600 random starts
    of L-BFGS-B 161 ended there, 159 at .694, 61 at .171 and most others near x = 0. It is not
    proven optimal.

    As the temperature vanishes, the optimum is known. The least payments for given efforts in all
    stages solve a linear programme in x and the agent's values, and the best of the 81 choices of
    efforts is to rush in the first two stages and to work in the others. It earns 2.512475 -
    1.276814 = 1.235660; of an agent whose efforts are seen, it would be 1.508387. This is F without
    entropy at the solution of the programme, where the agent is indifferent and chooses for the
    principal. The best F found, by climbs with 400 evaluations:

    | temperature | .1 | .05 | .02 | .01 | .005 | .002 | .001 | .0001 | 0 |
    |---|---|---|---|---|---|---|---|---|---|
    | F | .9410 | .9689 | 1.0001 | 1.0362 | 1.0837 | 1.1403 | 1.1738 | 1.2246 | 1.2357 |

    The climb to the last but one went on from the best x at .0002, and so on, in ten steps from .1.
    In one period there is a programme for each effort. With `outcomes` [[.6, .3, .1], [.3, .4, .3],
    [.2, .2, .6]], `costs` [0, .1, .3] and `revenues` [0, .5, 1.5] the three earn .3, .5 and .6, and
    climbs reach .5449 at temperature .01, .5895 at .001 and .5985 at .0001.

    ## References
    One linear programme for each effort: S. J. Grossman, O. D. Hart, "An analysis of the
    principal-agent problem", Econometrica 51, 1983; limited liability: R. D. Innes, "Limited
    liability and incentive contracting with ex-ante action choices", Journal of Economic Theory 52,
    1990. Payments for outcomes in an MDP: D. Ivanov, P. Duetting, I. Talgam-Cohen, T. Wang, D. C.
    Parkes, "Principal-agent reinforcement learning", arXiv 2407.18074. The project is ours.
    """

    leader_does, follower_does = "pays for outcomes", "chooses its effort"
    leader_wants = "the revenue of good outcomes, for little pay; it sees outcomes, not efforts"
    follower_wants = "to be paid for outcomes, with little effort"

    def __init__(
        self,
        *,
        stages: int = 4,
        outcomes: Sequence[Sequence[float]] = OUTCOMES,
        costs: Sequence[float] = COSTS,
        revenue: float = 4.0,
        revenues: Sequence[float] | None = None,
        gamma: float = 0.95,
        temperature: float = 0.005,
        entropy: str = "plain",
        max_payment: float = 4.0,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; arguments, described above, out of range raise a `ValueError`."""
        stages = check_at_least("stages", stages, 1, MOST_STAGES)
        revenue = check_not_negative("revenue", revenue)
        self._max_payment = check_positive("max_payment", max_payment)
        chances = _checked_outcomes(outcomes, revenues)
        effort_costs = _not_negative("costs", costs, len(chances), "[A]")
        self._one_period = revenues is not None
        if self._one_period:
            transition, gains = _one_period(chances), np.zeros(chances.shape[1] + 1)
            gains[1:] = _not_negative("revenues", revenues, chances.shape[1], "[O]")
        else:
            transition, gains = _project(stages, chances), np.zeros(stages + 1)
            gains[-1] = revenue
        self._gains = gains
        # The last states have no transitions, and acting there costs nothing.
        self._costs = np.outer(transition.sum(axis=(1, 2)) > 0.0, effort_costs)
        self._revenue = transition @ gains
        # The states before and after each outcome that is paid for, and its probabilities.
        self._before, self._after = np.nonzero(transition.sum(axis=1))
        self._chances = transition[self._before, :, self._after]
        upper_space = upper_box(0.0, self._max_payment, self._before.shape)
        super().__init__(
            kernel=Kernel.from_dense(transition),
            initial_distribution=np.arange(len(gains)) == 0,
            upper_space=upper_space,
            initial_upper_params=np.minimum(SHARE * gains[self._after], upper_space.high),
            gamma=gamma,
            temperature=temperature,
            entropy=entropy,
            render_mode=render_mode,
        )
        self.model.costs = {"payments": ExpectedCost(self.payments, self.reward_vjp)}
        same = ("stages", "revenue") if self._one_period else ()
        self.best_known = recorded(BilevelContract, locals(), same)

    # The model -----------------------------------------------------------------------------

    def payments(self, upper_params: FloatArray) -> FloatArray:
        """Return what the agent is paid on average, sum_s' P(s'|s, a) x(s, s'), `[S, A]`."""
        payments = np.zeros((self.num_actions, self.num_states)).T
        np.add.at(payments, self._before, upper_params[:, None] * self._chances)
        return payments

    def reward(self, upper_params: FloatArray) -> FloatArray:
        """Return r_x(s, a), the expected payment less the cost of the effort, `[S, A]`."""
        return self.payments(upper_params) - self._costs

    def reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return sum_a cotangent(s, a) P(s'|s, a) for each outcome, `[D]`."""
        return (cotangent[self._before] * self._chances).sum(axis=1)

    def upper_reward(self, upper_params: FloatArray) -> FloatArray:
        """Return u_x(s, a), the expected revenue less the expected payment, `[S, A]`."""
        return self._revenue - self.payments(upper_params)

    def upper_reward_vjp(self, upper_params: FloatArray, cotangent: FloatArray) -> FloatArray:
        """Return -sum_a cotangent(s, a) P(s'|s, a) for each outcome, `[D]`."""
        return -self.reward_vjp(upper_params, cotangent)

    # The picture ---------------------------------------------------------------------------

    def draw(self, view: View) -> pygame.Surface:
        """Draw the outcomes with payments and flow, and the efforts; a long project as a table."""
        return draw_graph(self.scene(view)) if self.num_states <= DRAWN else super().draw(view)

    def scene(self, view: View) -> GraphScene:
        """Return a view as arrays over the states, for `bilevel_gym.rendering.draw_graph`.

        The edges are the outcomes, their values the payments.
        """
        x, answer = view.upper_params, view.tabular
        visits = np.zeros(self._costs.shape)
        if answer is not None:
            visits = answer.occupancy[:, None] * answer.policy / (1.0 - self.gamma)
        return GraphScene(
            places=self._places(),
            names=self._state_names(),
            edges=np.stack([self._before, self._after], axis=1),
            flow=(visits[self._before] * self._chances).sum(axis=1),
            values=x,
            value_limit=self._max_payment,
            signed=False,
            edge_labels=tuple(f"{pay:.2f}" if pay > SHOWN_PAYMENT else "" for pay in x.tolist()),
            gradient=self.slopes(view),
            occupancy=None if answer is None else answer.occupancy,
            marks=("S", *("T" if gain > 0.0 else "" for gain in self._gains[1:])),
            follower=view.state,
            title=view.title,
            status=view.status,
            value_name="payment for an outcome",
            flow_name="how often it happens",
            mark_names={"T": "revenue of the leader"},
            panels=tuple(self._panels(x, visits, None if answer is None else answer.policy)),
        )

    def _panels(
        self, x: FloatArray, visits: FloatArray, policy: FloatArray | None
    ) -> Iterator[Panel]:
        """Yield bars of what both get and spend, and of the efforts in each state.

        `visits` are discounted, `[S, A]`.
        """
        spent = [(visits * of).sum() for of in (self._revenue, self.payments(x), self._costs)]
        profit = spent[0] - spent[1]
        limit = nice_limit(float(np.abs(self._gains).max()))
        labels = ("revenue", "payments", "profit" if profit >= 0.0 else "loss")
        yield Panel("leader's account", labels, np.abs([*spent[:2], profit]), limit)
        yield Panel("agent's account", ("payments", "costs"), np.array(spent[1:]), limit)
        if self._one_period:
            yield Panel("revenue of an outcome", self._state_names()[1:], self._gains[1:], limit)
        known = self.num_actions == len(EFFORTS)
        efforts = EFFORTS if known else tuple(f"effort {a}" for a in range(self.num_actions))
        for state in np.unique(self._before).tolist():
            chances = np.zeros(self.num_actions) if policy is None else policy[state]
            title = "agent" if self._one_period else f"agent in stage {state + 1}"
            yield Panel(title, efforts, chances, 1.0)

    def _state_names(self) -> tuple[str, ...]:
        """Return what the states are called in the picture."""
        numbers = map(str, range(1, self.num_states))
        return ("agent", *numbers) if self._one_period else (*numbers, "end")

    def _places(self) -> FloatArray:
        """Return where the states are in the picture, right and down in [0, 1], `[S, 2]`."""
        places = np.zeros((self.num_states, 2))
        if self._one_period:
            places[0, 1] = 0.5
            places[1:] = [(1.0, share) for share in np.linspace(0.0, 1.0, self.num_states - 1)]
        else:  # in zigzag, downward
            places[:, 0] = np.arange(self.num_states) % 2
            places[:, 1] = np.linspace(0.0, 1.0, self.num_states)
        return places


def _checked_outcomes(outcomes: object, revenues: object) -> FloatArray:
    """Return the probabilities of the outcomes, a row for each effort `[A, O]`."""
    form = "rows of equally many probabilities, a row for each effort"
    chances = checked_matrix("outcomes", outcomes, form)
    if revenues is None and chances.shape[1] != len(MOVES):
        raise ValueError(
            "`outcomes` of a project must be chances of a setback, no change and progress, got "
            f"{chances.shape[1]} in a row; for one period give `revenues`"
        )
    wrong = (chances < 0.0).any(axis=1) | (np.abs(chances.sum(axis=1) - 1.0) > TOLERANCE)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            "each row of `outcomes` must be probabilities that sum to 1, got "
            f"{chances[row].tolist()} in row {row}"
        )
    return chances / chances.sum(axis=1, keepdims=True)


def _not_negative(name: str, values: object, size: int, letters: str) -> FloatArray:
    """Return numbers that are not negative, one for each effort or outcome."""
    checked = finite_array(name, values, (size,), letters)
    if (checked < 0.0).any():
        raise ValueError(f"`{name}` must not be negative, got {checked.min()}")
    return checked


def _project(stages: int, chances: FloatArray) -> FloatArray:
    """Return the transitions of a project, `[S, A, S]`: from each stage to its neighbours."""
    transition = np.zeros((stages + 1, len(chances), stages + 1))
    for stage in range(stages):
        for move, chance in zip(MOVES, chances.T, strict=True):
            transition[stage, :, max(stage + move, 0)] += chance
    return transition


def _one_period(chances: FloatArray) -> FloatArray:
    """Return the transitions of one period, `[S, A, S]`: from the first state to an outcome."""
    size = chances.shape[1] + 1
    transition = np.zeros((size, len(chances), size))
    transition[0, :, 1:] = chances
    return transition
