"""Odd arrays and numbers for kernels, models, objectives, samplers and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy import sparse

from bilevel_gym import model as models
from bilevel_gym import optimizers
from bilevel_gym.core.batch import solve_batch
from bilevel_gym.core.lqr import Coefficients
from bilevel_gym.core.mdp import Kernel, TabularMDP
from bilevel_gym.core.soft import solve_soft_mdp
from bilevel_gym.envs import LinearQuadraticEnv, TabularBilevelEnv
from bilevel_gym.episodes.sampler import Sampler
from bilevel_gym.model import objectives
from bilevel_gym.model.judges import BradleyTerry, checked_answers
from bilevel_gym.model.preferences import PreferenceLikelihood

from .judge import Case, check_answer, check_same, finite
from .odd import ARRAYS, ENTRIES, Draw, case_of, odd_array, odd_like, scribble, spoilt

P = np.array(
    [
        [[0.25, 0.75, 0.0], [0.5, 0.0, 0.5]],
        [[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]],
        [[0.25, 0.0, 0.5], [0.0, 0.0, 0.0]],
    ]
)
ROWS = P.transpose(1, 0, 2).reshape(6, 3)
R = np.array([[0.1, -0.3], [0.7, 0.2], [-0.4, 1.0]])
START = np.array([0.5, 0.25, 0.25])

# States of kernels whose dense copies are looked at.
LARGEST = 1000


def arrays() -> dict[str, Any]:
    """Return arguments of a game of arrays, new ones each time."""
    return {
        "transition": P.copy(),
        "reward": R.copy(),
        "upper_reward": -R[::-1].copy(),
        "initial_distribution": START.copy(),
        "gamma": 0.9,
        "temperature": 0.5,
        "features": np.arange(12.0).reshape(3, 2, 2) / 12.0,
        "upper_low": -1.0,
        "upper_high": 2.0,
        "initial_upper_params": np.array([0.5, -0.5]),
        "upper_gamma": 0.8,
        "upper_cost": 0.25,
        "action_mask": np.array([[1, 1], [1, 0], [1, 1]], bool),
        "name": "array game",
        "objective": None,
    }


def small_game() -> TabularBilevelEnv:
    return TabularBilevelEnv.from_arrays(**arrays())


def answered(game: Any, given: Any) -> None:
    """Answer at the first x, before and after everything given has been overwritten."""
    x = game.initial_upper_params
    before = check_answer(game.evaluate(x))
    if before.converged:
        finite(before.residual, before.value_error_bound)
    scribble(given)
    check_same(before, game.evaluate(x), "the arrays that had been given")


def from_arrays(draw: Draw) -> Case:
    given, said = spoilt(draw, arrays(), most=2)
    if draw(st.integers(0, 3)) == 0:
        given.pop("features"), given.pop("initial_upper_params")
    said = [part for part in said if part.partition(":")[0] in given]

    def call() -> None:
        game = TabularBilevelEnv.from_arrays(**given)
        answered(game, given)

    return case_of("from_arrays", said, call, *arrays(), "bounds of x", "`low`")


def evaluate(draw: Draw) -> Case:
    options = {
        "upper_params": np.array([0.5, -0.5]),
        "warm_start": None,
        "solver": "auto",
        "tolerance": 1e-9,
        "max_iterations": 50,
    }
    given, said = spoilt(draw, options)
    many = draw(st.booleans())

    def call() -> None:
        game = small_game()
        rest = dict(given)
        x, start = rest.pop("upper_params"), rest.pop("warm_start")
        if many:
            for answer in game.evaluate_batch([x, x], warm_starts=start, **rest):
                check_answer(answer)
        else:
            check_answer(game.evaluate(x, warm_start=start, **rest))

    owner = "evaluate_batch" if many else "evaluate"
    return case_of(owner, said, call)


def solvers(draw: Draw) -> Case:
    """Each solver on games with odd entries."""
    from bilevel_gym.core.linear import SOLVERS

    solver = draw(st.sampled_from([*SOLVERS]))
    given, said = spoilt(draw, {**arrays(), "features": None, "initial_upper_params": None})

    def call() -> None:
        game = TabularBilevelEnv.from_arrays(**given)
        check_answer(game.evaluate(game.initial_upper_params, solver=solver, max_iterations=100))

    return case_of(
        f"from_arrays, evaluate(solver={solver!r})", said, call, *arrays(), "bounds of x", "`low`"
    )


def kernel(draw: Draw) -> Case:
    """The ways to a kernel; what is made is solved."""
    states, actions, following = (i.astype(np.int64) for i in np.nonzero(P))
    ways: dict[str, tuple[Callable[..., Kernel], dict[str, Any]]] = {
        "Kernel": (
            Kernel,
            {
                "matrix": sparse.csr_array(ROWS),
                "num_states": 3,
                "num_actions": 2,
                "moves": np.array([0, 1]),
            },
        ),
        "from_dense": (Kernel.from_dense, {"transition": P.copy()}),
        "of": (Kernel.of, {"transition": [sparse.csr_array(P[:, a]) for a in (0, 1)]}),
        "from_sparse": (
            Kernel.from_sparse,
            {"transition": [sparse.csr_array(P[:, a]) for a in (0, 1)], "rows": None},
        ),
        "from_sparse, one": (
            Kernel.from_sparse,
            {"transition": sparse.csr_array(ROWS), "rows": "action-major"},
        ),
        "from_triplets": (
            Kernel.from_triplets,
            {
                "states": states,
                "actions": actions,
                "next_states": following,
                "probabilities": P[states, actions, following],
                "num_states": 3,
                "num_actions": 2,
            },
        ),
        "with_probabilities": (
            lambda probabilities: Kernel.from_dense(P).with_probabilities(probabilities),
            {"probabilities": Kernel.from_dense(P).matrix.data.copy()},
        ),
        "with_moves": (
            lambda moves: Kernel.from_dense(P).with_moves(moves),
            {"moves": np.array([0, 1, 1, 0])},
        ),
    }
    name = draw(st.sampled_from([*ways]))
    make, good = ways[name]
    given, said = spoilt(draw, good)
    matrix = given.get("matrix", given.get("transition"))
    if sparse.issparse(matrix) and draw(st.booleans()):
        label = draw(st.sampled_from([n for n in ARRAYS if "sr_" in n or "_array" in n]))
        key = "matrix" if "matrix" in given else "transition"
        given[key] = ARRAYS[label](ROWS)
        said.append(f"{key}: {label}")

    def call() -> None:
        made = make(**given)
        reward = np.ones((made.num_states, made.num_actions))
        before = solve_soft_mdp(TabularMDP(made, reward, 0.5, 1.0))
        finite(before.soft_value)
        if made.num_states <= LARGEST:  # a dense copy of a million states is beyond any memory
            assert made.to_dense().shape == (made.num_states, made.num_actions, made.num_states)
        scribble(given)
        after = solve_soft_mdp(TabularMDP(made, reward, 0.5, 1.0))
        assert np.array_equal(before.soft_value, after.soft_value), "the kernel has changed"

    return case_of(f"Kernel, {name}", said, call, *good, "transition", "moves")


def mdp(draw: Draw) -> Case:
    made = {
        "kernel": Kernel.from_dense(P),
        "reward": R.copy(),
        "gamma": 0.9,
        "temperature": 0.5,
        "action_mask": np.ones((3, 2), bool),
    }
    solved = {
        "initial_value": np.zeros(3),
        "solver": "auto",
        "tolerance": 1e-8,
        "max_iterations": 20,
    }
    given, said = spoilt(draw, {**made, **solved})
    many = draw(st.booleans())

    def call() -> None:
        problem = TabularMDP(**{name: given[name] for name in made})
        options = {name: given[name] for name in solved}
        if many:
            start = options.pop("initial_value")
            solutions = solve_batch([problem, problem], initial_values=start, **options)
        else:
            solutions = [solve_soft_mdp(problem, **options)]
            kept = problem.reward.copy()
            scribble(given)
            assert np.array_equal(problem.reward, kept), "the reward has changed"
        for solution in solutions:
            check_answer(solution)
            if solution.converged:
                finite(solution.residual, solution.value_error_bound, solution.policy_error_bound)

    owner = "TabularMDP, solve_batch" if many else "TabularMDP, solve_soft_mdp"
    return case_of(owner, said, call, "transition", "initial_value")


def objective(draw: Draw) -> Case:
    kinds: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "DiscountedReturn": (objectives.DiscountedReturn, {"gamma": 0.9}),
        "TruncatedReturn": (objectives.TruncatedReturn, {"horizon": 4, "gamma": 0.9}),
        "QuadraticCost": (objectives.QuadraticCost, {"weight": 0.5}),
        "LinearCost": (objectives.LinearCost, {"weight": 0.5}),
        "PolicyCost": (objectives.PolicyCost, {"weight": 0.5}),
        "LogLikelihood": (objectives.LogLikelihood, {"counts": np.ones((3, 2))}),
        "Sum": (objectives.Sum, {"terms": (objectives.DiscountedReturn(0.5),)}),
        "PreferenceLikelihood": (
            PreferenceLikelihood,
            {"true_reward": R.copy(), "horizon": 3, "answers": "drawn"},
        ),
    }
    name = draw(st.sampled_from([*kinds]))
    make, good = kinds[name]
    given, said = spoilt(draw, good)

    def call() -> None:
        made = make(**given)
        whole = {**arrays(), "action_mask": None, "features": None, "initial_upper_params": None}
        answered(TabularBilevelEnv.from_arrays(**{**whole, "objective": made}), given)

    return case_of(name, said, call, *good)


def sampler(draw: Draw) -> Case:
    good = {"policy": np.full((3, 2), 0.5), "count": 3, "steps": 4, "upper_params": np.zeros(2)}
    given, said = spoilt(draw, good)

    def call() -> None:
        game = small_game()
        x = game.validate_upper_params(given["upper_params"])
        made: Sampler = game.model.sampler(x, given["policy"])
        if is_long(given):
            return
        for episodes in made.episodes(given["count"], given["steps"], np.random.default_rng(0)):
            finite(np.asarray(episodes.upper_rewards))

    return case_of("sampler", said, call, "horizon", "num_episodes")


def judges(draw: Draw) -> Case:
    given, said = spoilt(draw, {"rationality": 1.0, "answers": np.array([0.0, 1.0, np.nan])})

    def call() -> None:
        BradleyTerry(given["rationality"])
        checked_answers(given["answers"], 3)

    return case_of("judges", said, call, "judge")


A_MATRIX, B_MATRIX = np.array([[0.9, 0.1], [0.0, 0.8]]), np.array([[0.0], [1.0]])


def linear_quadratic(draw: Draw) -> Case:
    good = {
        "low": -np.ones(1),
        "high": np.ones(1),
        "initial_upper_params": np.zeros(1),
        "gamma": 0.9,
        "temperature": 0.5,
        "name": "lq",
        "upper_state_cost": np.eye(2),
        "upper_action_cost": np.eye(1),
        "upper_cost": 0.5,
        "start_std": 1.0,
        "noise_std": 0.1,
        "horizon": 5,
        "action_limit": 10.0,
    }
    given, said = spoilt(draw, good)
    parts = {"dynamics": A_MATRIX, "control": B_MATRIX, "state_cost": np.eye(2)}
    parts["action_cost"] = np.eye(1)
    if draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from([*parts]))
        label, parts[name] = odd_array(draw, parts[name])
        said.append(f"{name}: {label}")

    def coefficients(x: Any) -> Coefficients:
        return Coefficients(**parts)

    def vjp(x: Any, cotangent: Coefficients) -> Any:
        return np.array([cotangent.dynamics.sum()])

    def call() -> None:
        options = {**given}
        limit = options.pop("action_limit")
        model = models.LinearQuadraticModel(coefficients, vjp, **options)
        game = LinearQuadraticEnv(model, action_limit=limit)
        x = game.initial_upper_params
        before = check_answer(game.evaluate(x))
        scribble(given)
        check_same(before, game.evaluate(x), "the arrays that had been given")
        game.reset(seed=0)
        finite(game.step({"upper": x, "lower": np.zeros(1)})[1])

    return case_of("LinearQuadraticModel", said, call, "coefficients", "bounds of x", *good)


def bowl(x: Any) -> tuple[float, Any]:
    """Return an objective with its best x at .25, and its gradient."""
    x = np.clip(x, -1.0, 1.0)
    return -float(((x - 0.25) ** 2).sum()), -2.0 * (x - 0.25)


OPTIMIZER_OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {
        "steps": 5,
        "learning_rate": 0.1,
        "schedule": "cosine",
        "stop_at_zero": True,
        "beta1": 0.9,
        "beta2": 0.99,
        "epsilon": 1e-8,
        "max_gradient_norm": 1.0,
    },
    "normalized": {"steps": 5, "learning_rate": 0.1, "schedule": "constant"},
    "projected": {"steps": 5, "learning_rate": 0.1, "max_gradient_norm": 1.0},
    "lbfgsb": {"max_evaluations": 10, "tolerance": 1e-6},
    "slsqp": {"max_evaluations": 10, "tolerance": 1e-6, "constraints": None},
    "trust-constr": {"max_evaluations": 10, "tolerance": 1e-6, "constraints": None},
    "restarted-lbfgsb": {
        "restarts": 2,
        "spread": 0.02,
        "seed": 0,
        "steps": 4,
        "learning_rate": 0.05,
        "polished": 1,
        "max_evaluations": 5,
        "tolerance": 1e-6,
    },
    "cobyqa": {
        "max_evaluations": 12,
        "radius": 0.5,
        "tolerance": 1e-3,
        "spread": 0.02,
        "seed": 0,
    },
}

# Options with which a run takes as long as it is told to.
BUDGETS = ("steps", "max_evaluations", "restarts", "polished", "num_envs", "count", "episodes")


def optimizer(draw: Draw) -> Case:
    name = draw(st.sampled_from([*OPTIMIZER_OPTIONS]))
    good = {"start": np.zeros(2), "low": -np.ones(2), "high": np.ones(2)}
    given, said = spoilt(draw, {**good, **OPTIMIZER_OPTIONS[name]})
    ways = ["make_optimizer", "continuation", "starts_around", "multistart"]
    way = draw(st.sampled_from(ways[:1] * 5 + ways))

    def call() -> None:
        options = {key: value for key, value in given.items() if key not in good}
        box = [given[key] for key in good]
        if way == "make_optimizer":
            optimizers.check_optimizer(name, *box, **options)
            if is_long(options):
                return
            best = optimizers.make_optimizer(name, **options)(bowl, *box).best
            finite(best.value, best.gradient)
            assert np.isfinite(best.upper_params).all()
        elif way == "continuation":
            optimizers.check_optimizer(name, *box, **options)
            if not is_long(options):
                optimizers.continuation([bowl, bowl], *box, optimizer=name, **options)
        elif way == "starts_around":
            spread = {k: v for k, v in options.items() if k in ("spread", "seed")}
            finite(optimizers.starts_around(box[0], box[1], box[2], 3, **spread))
        else:
            many = [np.zeros(2), given["start"]]
            if not is_long(options) and name in ("adam", "normalized", "projected"):
                optimizers.multistart_ascent(batch, many, *box[1:], rule=name, **options)

    return case_of(f"{way}, {name}", said, call, "start", "option", "schedule", "gradient")


def climb(draw: Draw) -> Case:
    """A climb on an objective that at some point is odd."""
    name = draw(st.sampled_from([*OPTIMIZER_OPTIONS]))
    at, part = draw(st.integers(1, 4)), draw(st.sampled_from(["value", "gradient"]))
    entry = draw(st.sampled_from([*ENTRIES]))

    def call() -> None:
        count = 0

        def objective(x: Any) -> tuple[float, Any]:
            nonlocal count
            count += 1
            value, gradient = bowl(x)
            if count == at and part == "value":
                value = ENTRIES[entry]
            elif count == at:
                gradient[0] = ENTRIES[entry]
            return value, gradient

        run = optimizers.make_optimizer(name, **OPTIMIZER_OPTIONS[name])
        best = run(objective, np.zeros(2), -np.ones(2), np.ones(2)).best
        finite(best.value, best.upper_params)
        if name != "cobyqa":  # it looks at values alone
            finite(best.gradient)

    return Case(
        f"{name}: the {part} of evaluation {at} is {entry}", call, ["objective", "gradient"]
    )


def batch(xs: Any, rows: Any = None) -> Any:
    """Return values and gradients of `bowl` for many x."""
    answers = [bowl(x) for x in xs]
    return np.array([value for value, _ in answers]), np.array([g for _, g in answers])


def is_long(options: dict[str, Any]) -> bool:
    """Return whether options ask for more than a moment's work."""
    return any(
        isinstance(options.get(name), int | np.integer) and options[name] > 1000 for name in BUDGETS
    )


def rules(draw: Draw) -> Case:
    name = draw(st.sampled_from(["adam", "normalized", "projected"]))
    good = {"low": -np.ones(2), "high": np.ones(2)}
    options = {"adam": {"beta1": 0.9, "epsilon": 1e-8}, "projected": {"max_gradient_norm": 1.0}}
    given, said = spoilt(draw, {**good, **options.get(name, {})})

    def call() -> None:
        rule = optimizers.make_rule(name, **given)
        x = rule.step(np.zeros(rule.low.shape), 1.0, np.ones(rule.low.shape), 0.1)
        assert np.isfinite(x).all(), x

    return case_of(f"make_rule, {name}", said, call, "option")


def checks(draw: Draw) -> Case:
    """`x` in the box, wherever it is checked."""
    label, x = odd_like(draw, np.array([0.5, -0.5]))

    def call() -> None:
        game = small_game()
        checked = game.validate_upper_params(x)
        before = checked.copy()
        scribble(x)
        assert np.array_equal(checked, before), "x has changed with what was given"

    return case_of("validate_upper_params", [f"upper_params: {label}"], call)


TARGETS = {
    f.__name__: f
    for f in (
        from_arrays,
        evaluate,
        solvers,
        kernel,
        mdp,
        objective,
        sampler,
        judges,
        linear_quadratic,
        optimizer,
        climb,
        rules,
        checks,
    )
}
