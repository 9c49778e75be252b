"""Outer optimizers: ascent on F over the box of x.

Each takes a callable x -> (value, gradient) and knows nothing of games; the leader's seat
(`bilevel_gym.wrappers.LeaderObjective`) and the referee (`exact_objective`) are two such callables.
The best iterate is kept, whatever the last one is.

* On exact values and gradients, from many starts: `climb`.
* By name, with options of JSON types: `OPTIMIZERS` and `make_optimizer`.
* Within constraints on x and on costs: `slsqp` and `trust_constr`.
* From many starts, on a callable that evaluates all of them together: `multistart_ascent`.
* Along a sequence of games, of falling temperature for one: `continuation`.
* A step at a time, evaluated by the caller: `Climb`, which moves x by one of the update rules in
  `RULES`.
"""

from .ascent import (
    Climb,
    adam,
    ascent,
    multistart_ascent,
    normalized_ascent,
    projected_ascent,
)
from .base import (
    FEASIBLE,
    BatchEvaluation,
    Evaluation,
    Iterate,
    Optimizer,
    Optimum,
    Restarts,
    projected_gradient_norm,
)
from .climb import ClimbOptimum, Fate, MultistartClimb, Start
from .constrained import ConstrainedOptimum, slsqp, trust_constr
from .constraints import (
    Constraint,
    CostConstraint,
    LinearConstraint,
    NonlinearConstraint,
    make_constraint,
)
from .libraries import cobyqa, lbfgsb, restarted_lbfgsb, starts_around
from .named import OPTIMIZERS, check_optimizer, continuation, make_optimizer, options_for
from .rules import (
    RULES,
    SCHEDULES,
    AdamRule,
    NormalizedRule,
    ProjectedRule,
    Schedule,
    UpdateRule,
    make_rule,
    make_schedule,
)

__all__ = [
    "FEASIBLE",
    "OPTIMIZERS",
    "RULES",
    "SCHEDULES",
    "AdamRule",
    "BatchEvaluation",
    "Climb",
    "ClimbOptimum",
    "ConstrainedOptimum",
    "Constraint",
    "CostConstraint",
    "Evaluation",
    "Fate",
    "Iterate",
    "LinearConstraint",
    "MultistartClimb",
    "NonlinearConstraint",
    "NormalizedRule",
    "Optimizer",
    "Optimum",
    "ProjectedRule",
    "Restarts",
    "Schedule",
    "Start",
    "UpdateRule",
    "adam",
    "ascent",
    "check_optimizer",
    "cobyqa",
    "continuation",
    "lbfgsb",
    "make_constraint",
    "make_optimizer",
    "make_rule",
    "make_schedule",
    "multistart_ascent",
    "normalized_ascent",
    "options_for",
    "projected_ascent",
    "projected_gradient_norm",
    "restarted_lbfgsb",
    "slsqp",
    "starts_around",
    "trust_constr",
]
