"""The conformance test of methods: what the package asks of its own, and of those from outside."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
from scipy.stats import t as student

from ..core.checks import accepted_options, check_at_least, check_options, received
from ..core.mdp import FloatArray
from ..core.state import read_tree, write_tree
from ..envs import BilevelEnv, TabularBilevelEnv
from ..methods import Response, make_method
from ..methods.registry import MethodClass, checked_response, method_target, resolve_method
from ..model import BilevelModel, evaluate
from ..model.protocols import Resumable
from ..registration import TASKS
from ..wrappers import HyperGradient
from ..wrappers.entry_points import bare_game

# Small tasks that differ in what matters to methods, each with arguments that keep it small. The
# first four have tables and an x in the rewards alone; then x moves kernel and start, there is no
# table, and the follower learns.
ARRAYS = "arrays"
TASKS_TRIED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("BilevelGridWorld-v0", {"map_name": "4x4"}),
    ("BilevelRandomMDP-v0", {"num_states": 5, "num_actions": 3, "upper_dim": 4, "seed": 1}),
    ("BilevelFrozenLake-v0", {"gamma": 0.9}),
    (ARRAYS, {}),
    ("BilevelMarkovGame-v0", {}),
    ("BilevelLQR-v0", {"num_states": 2, "num_actions": 1}),
    ("BilevelCartPole-v0", {"episode_steps": 20}),
)

# Answers to one x before a method without random numbers is measured: inner learners that go on
# from one answer to the next come to rest.
SETTLING = 50

# An exact gradient may differ by this from the reference, relative to its norm.
EXACT_ERROR = 1e-6

# A mean of estimates may differ from the exact gradient by this, relative to its norm, beside its
# statistical error: episodes are cut where discounts have come down to 1e-4.
CUT_ERROR = 1e-3

# Probability that an unbiased method fails on a task by chance.
FALSE_ALARM = 1e-6


@dataclass(frozen=True)
class TaskReport:
    """How a method did on a task.

    Attributes:
        refusal: Why the method does not suit it, None where it does.
        estimates: Hyper-gradients that were drawn, each from a seed of its own.
        bias: Norm of (their mean - the exact one), relative to that of the exact one; None where
            none is known.
        noise: Their root mean square distance from their mean, likewise.
        cosine: Of the angle between their mean and the exact one, None where one is zero.
    """

    task: str
    refusal: str | None = None
    estimates: int = 0
    bias: float | None = None
    noise: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class MethodReport:
    """What a method was asked, and what came out.

    It has a report for each task, the names of what was found right, and a line for each failure.
    """

    method: str
    exact: bool
    unbiased: bool
    tasks: tuple[TaskReport, ...]
    passed: tuple[str, ...]
    failures: tuple[str, ...]

    def __str__(self) -> str:
        """Return a card: numbers of each task, refusals, what passed and what failed."""
        kind = "exact" if self.exact else "unbiased" if self.unbiased else "an estimate"
        lines = [
            f"method {self.method}, declared {kind}",
            f"{'task':<28}{'estimates':>10}{'bias':>10}{'noise':>10}{'cosine':>10}",
        ]
        for row in self.tasks:
            if row.refusal is None:
                numbers = (row.bias, row.noise, row.cosine)
                texts = ("" if number is None else f"{number:.2g}" for number in numbers)
                columns = "".join(f"{text:>10}" for text in texts)
                lines.append(f"{row.task:<28}{row.estimates:>10}{columns}")
        lines += [f"refuses {row.task}: {row.refusal}" for row in self.tasks if row.refusal]
        lines += [f"passed: {', '.join(self.passed)}"] if self.passed else []
        lines += [f"FAILED: {failure}" for failure in self.failures]
        return "\n".join(lines)


class MethodError(AssertionError):
    """A method does not keep what methods promise; `report` has what was found."""

    def __init__(self, report: MethodReport) -> None:
        """Keep the report beside the message."""
        super().__init__(f"{len(report.failures)} failures\n{report}")
        self.report = report


def check_method(
    method: str | MethodClass,
    env_id: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    estimates: int = 32,
    seed: int = 0,
) -> MethodReport:
    """Check that a method keeps what methods promise, and measure its bias and its noise.

    * Its hyper-gradient is compared with the exact one: it must agree where the class declares
      `exact`, and in the mean, within the statistical error, where it declares `unbiased`.
    * The same seed gives the same answers, bit by bit, after a reset and in another instance.
    * The options, and the specification of an environment with them, survive the way through JSON.
    * The method survives pickling, and goes on as if nothing had happened; with `state_dict` and
      `load_state_dict` it also goes on from what it returns, through a file.
    * It answers x on the bounds of the box, and asks the game for no x outside.
    * The seat's `info` has the keys of the response, and arrays of its own.
    * A game that it does not suit is refused by its constructor with a TypeError.

    The report, printed, is a card.

    Args:
        method: A name, "module:Class" or the class.
        env_id: A registered task to check it on; None for four small tasks with tables, one whose
            x moves the kernel, one without a table and one whose follower learns, of which it may
            refuse any but not all.
        options: Options of the method, of JSON types.
        estimates: Seeds from which a method that draws random numbers is measured, at least 2.
        seed: First of these seeds.

    Raises:
        MethodError: If something was found wrong; it lists everything, and holds the report.
        TypeError: If `method` is no method.
        ValueError: If `method` is unknown.
        ImportError: If its module cannot be imported.

    Example:
        >>> from bilevel_gym.testing import check_method
        >>> report = check_method("exact", "BilevelRandomMDP-v0")
        >>> print(report.tasks[0].bias < 1e-9, report.failures)
        True ()
    """
    check_at_least("estimates", estimates, 2)
    check_at_least("seed", seed, 0)
    if not isinstance(env_id, str | None):
        raise TypeError(f"`env_id` must be the id of a task or None, got {received(env_id)}")
    if not isinstance(options, Mapping | None):
        raise TypeError(f"`options` must be a dict, got {received(options)}")
    games = list(_games(env_id))
    cls = resolve_method(method, games[0][1] if env_id else None)
    name = method if isinstance(method, str) else cls.__qualname__
    check_options(f"method {name!r}", cls, options or {})
    accepted = accepted_options(cls)
    findings: list[tuple[str, str, str | None]] = []  # check, task and what was wrong
    reports = []
    for task, game, quick in games:
        chosen = {**{k: v for k, v in quick.items() if k in accepted}, **(options or {})}
        trial = _Trial(cls, task, game, chosen, seed)
        try:
            trial.fresh()
        except TypeError as error:
            reports.append(TaskReport(task, refusal=str(error)))
            continue
        report = TaskReport(task)
        try:
            report, wrong = trial.measured(estimates)
        except Exception as error:  # whatever the method raises is its verdict
            wrong = (
                f"accepted by the constructor, then {type(error).__name__}: {error}; a game that "
                "the method does not suit is refused by its constructor, with a TypeError"
            )
            findings.append(("answers", task, wrong))
        else:
            findings.append(("hyper-gradient", task, wrong))
            for check, run in CHECKS.items():
                try:
                    wrong = run(trial)
                except Exception as error:
                    wrong = f"{type(error).__name__}: {error}"
                findings.append((check, task, wrong))
        reports.append(report)
    if all(report.refusal for report in reports):
        findings.append(("games", "all", f"it refuses every one: {reports[0].refusal}"))
    failed = {check for check, _, wrong in findings if wrong is not None}
    outcome = MethodReport(
        method=name,
        exact=cls.exact,
        unbiased=_declares_unbiased(cls),
        tasks=tuple(reports),
        passed=tuple(dict.fromkeys(check for check, *_ in findings if check not in failed)),
        failures=tuple(f"{check}, {task}: {wrong}" for check, task, wrong in findings if wrong),
    )
    if outcome.failures:
        raise MethodError(outcome)
    return outcome


def _games(env_id: str | None) -> Iterator[tuple[str, BilevelEnv, dict[str, Any]]]:
    """Yield the id, the game and, where its follower learns, options for a quick answer."""
    own = {task.id: task for task in TASKS}
    if env_id is None:
        chosen = TASKS_TRIED
    else:
        chosen = ((env_id, own[env_id].test_kwargs if env_id in own else {}),)
    for name, kwargs in chosen:
        game: Any = _arrays() if name == ARRAYS else bare_game(name, **kwargs).unwrapped
        yield name, game, own[name].test_options if name in own else {}


def _arrays() -> TabularBilevelEnv:
    """Return a game of a user's own arrays: masked actions, several first states, a cost of x."""
    rng = np.random.default_rng(0)
    transition = 0.95 * rng.dirichlet(np.ones(4), size=(4, 3))
    mask = np.ones((4, 3), bool)
    mask[2, 0] = False
    return TabularBilevelEnv.from_arrays(
        transition,
        rng.normal(size=(4, 3)),
        upper_reward=rng.normal(size=(4, 3)),
        initial_distribution=[0.5, 0.5, 0.0, 0.0],
        action_mask=mask,
        upper_cost=0.1,
        gamma=0.8,
        temperature=0.3,
    )


def _gradient(response: Response) -> FloatArray:
    if response.hyper_gradient is None:
        raise ValueError("the response has no hyper-gradient")
    return response.hyper_gradient


def _declares_unbiased(cls: MethodClass) -> bool:
    """Return whether a class declares that its estimates are; it need not say."""
    return bool(getattr(cls, "unbiased", False))


@dataclass(frozen=True)
class _Trial:
    """A method on a task; what is asked of it returns what went wrong, None if nothing did."""

    cls: MethodClass
    task: str
    game: BilevelEnv
    options: dict[str, Any]
    seed: int

    def fresh(self) -> Any:
        """Return another instance of the method."""
        return make_method(self.cls, self.game, **self.options)

    def point(self, number: int) -> FloatArray:
        """Return one of several x near the initial one."""
        space = self.game.upper_space
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        width = np.minimum(high - low, 1.0)
        offset = 0.1 * width * np.random.default_rng(number).uniform(-1.0, 1.0, low.shape)
        x = np.clip(self.game.initial_upper_params + offset, low, high)
        return self.game.validate_upper_params(x)

    def answer(self, number: int = 0, steps: int = 1) -> tuple[Any, Response]:
        """Return a fresh method of another seed, and its last answer of some to the same x."""
        x, method = self.point(0), self.fresh()
        method.reset(np.random.default_rng(self.seed + number))
        for _ in range(steps):
            response = checked_response(method.step(x), x, method)
        return method, response

    def measured(self, estimates: int) -> tuple[TaskReport, str | None]:
        """Return bias, noise and cosine, and what the class should not have declared."""

        def drawn(count: int, steps: int = 1) -> FloatArray:
            answers = (self.answer(k, steps)[1] for k in range(count))
            return np.array([_gradient(answer).ravel() for answer in answers])

        if not isinstance(self.game.model, BilevelModel):
            return TaskReport(self.task, estimates=len(drawn(1))), None
        reference = evaluate(self.game.model, self.point(0))
        exact = reference.hyper_gradient.ravel()
        samples = drawn(2)
        if not np.array_equal(*samples):
            samples = drawn(estimates)
        else:  # no random numbers
            samples = drawn(1, SETTLING if self.answer()[1].samples is None else 1)
        mean, size = samples.mean(axis=0), float(np.linalg.norm(exact))
        error, spread = float(np.linalg.norm(mean - exact)), samples.std(axis=0)
        norms = float(np.linalg.norm(mean)) * size
        report = TaskReport(
            self.task,
            estimates=len(samples),
            bias=error / size,
            noise=float(np.linalg.norm(spread)) / size,
            cosine=float(mean @ exact) / norms if norms > 0.0 else None,
        )
        if self.cls.exact:
            found, known = self.answer()[1].objective, reference.objective
            if error > EXACT_ERROR * size:
                wrong = f"declared exact, but the hyper-gradient is off by {error / size:.1e}"
                return report, wrong
            if abs(found - known) > EXACT_ERROR * max(1.0, abs(known)):
                return report, f"declared exact, but F(x) is {found}, not {known}"
        elif _declares_unbiased(self.cls):
            # Student's t of every entry, with Bonferroni's correction for their number.
            count = len(samples)
            level = student.isf(FALSE_ALARM / (2 * exact.size), max(1, count - 1))
            allowed = level * spread / np.sqrt(max(1, count - 1)) + CUT_ERROR * size
            worst = int(np.argmax(np.abs(mean - exact) - allowed))
            if abs(mean[worst] - exact[worst]) > allowed[worst]:
                return report, (
                    f"declared unbiased, but the mean of {count} estimates of entry {worst} is "
                    f"{mean[worst]:.4g}, and the exact one {exact[worst]:.4g}, further off than "
                    f"{allowed[worst]:.2g}, which the noise explains"
                )
        return report, None

    def seeds(self) -> str | None:
        """The same seed gives the same answers, in another instance and after a reset."""

        def answers(method: Any) -> list[FloatArray]:
            method.reset(np.random.default_rng(self.seed))
            return [_gradient(method.step(self.point(k))) for k in (0, 1, 0)]

        method = self.fresh()
        once = answers(method)
        again = {"after a reset": answers(method), "in another instance": answers(self.fresh())}
        for where, run in again.items():
            for step, (one, other) in enumerate(zip(once, run, strict=True)):
                if not np.array_equal(one, other):
                    return f"the same seed gives another answer at step {step} {where}"
        return None

    def pickling(self) -> str | None:
        """A method goes on after pickling as if nothing had happened."""
        if not isinstance(method_target(self.cls), str):
            return None  # a class that no module holds cannot be pickled, whatever it does
        method, _ = self.answer()
        pickle.dumps(method)  # what is in it can be found again by its name
        copied = copy.deepcopy(method)  # which is made of the same parts as what is unpickled
        x = self.point(1)
        if np.array_equal(_gradient(method.step(x)), _gradient(copied.step(x))):
            return None
        return "the copy gives another answer than the original"

    def resuming(self) -> str | None:
        """A method with `state_dict` goes on from it in another seat, as if nothing had been."""
        target: Any = method_target(self.cls)
        seat, other = (HyperGradient(self.game, method=target, **self.options) for _ in range(2))
        if not isinstance(seat.method, Resumable):
            return None
        seat.reset(seed=self.seed, options={"upper_params": self.point(0)})
        with TemporaryDirectory() as folder:
            path = Path(folder) / "state.npz"
            write_tree(path, seat.state_dict())
            state, x = read_tree(path), self.point(1)
        gradient = seat.step(x)[-1]["hyper_gradient"]
        other.load_state_dict(state)
        _, info = other.reset(options={"upper_params": x, "keep_learnt": True})
        if np.array_equal(gradient, info["hyper_gradient"]):
            return None
        return "the method that goes on from `state_dict` gives another answer than the original"

    def bounds(self) -> str | None:
        """A method answers x on the bounds, where differences would leave the box."""
        space, x = self.game.upper_space, self.point(0).copy()
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        x.flat[::2], x.flat[1::2] = low.flat[::2], high.flat[1::2]
        method = self.fresh()
        method.reset(np.random.default_rng(self.seed))
        try:
            checked_response(method.step(x), x, method)
        except ValueError as error:
            return f"x on the bounds of its box is not answered: {error}"
        return None

    def information(self) -> str | None:
        """The seat's info has what the response has, in arrays of its own."""
        target: Any = method_target(self.cls)
        seat = HyperGradient(self.game, method=target, **self.options)
        x = self.point(0)
        _, info = seat.reset(seed=self.seed, options={"upper_params": x})
        response = seat.response
        if not np.array_equal(response.upper_params, x):
            return "`upper_params` of the response is not the x asked for"
        for key, name in response.reported.items():
            value = vars(response)[name]
            if (value is None) != (key not in info):
                return f"info[{key!r}] does not agree with `{name}` of the response"
            if value is not None and not np.all(np.isfinite(value)):
                return f"`{name}` of the response is {value}"
        kept = _gradient(response).copy()
        info["hyper_gradient"][...] = 0.0
        return None if np.array_equal(kept, _gradient(response)) else "info shares its array"

    def specification(self) -> str | None:
        """Options, and the specification of an environment with them, go through JSON."""
        if json.loads(json.dumps(self.options)) != self.options:
            return f"they come back from JSON as others: {self.options}"
        target = method_target(self.cls)
        if self.game.spec is None or not isinstance(target, str):
            return None  # neither an id nor a name by which another process would find the class
        seat = HyperGradient(self.game, method=target, **self.options)
        assert seat.spec is not None
        again = gym.make(gym.envs.registration.EnvSpec.from_json(seat.spec.to_json()))
        one, other = (env.reset(seed=self.seed)[1]["hyper_gradient"] for env in (seat, again))
        return None if np.array_equal(one, other) else "the environment made anew answers otherwise"


# What is asked on each task, beside the hyper-gradient.
CHECKS: dict[str, Callable[[_Trial], str | None]] = {
    "seeds": _Trial.seeds,
    "pickling": _Trial.pickling,
    "resuming": _Trial.resuming,
    "bounds": _Trial.bounds,
    "info": _Trial.information,
    "options": _Trial.specification,
}
