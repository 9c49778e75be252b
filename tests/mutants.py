"""Small changes of the code that no test notices: `python -m tests.mutants` prints them.

    python -m tests.mutants --rooms core model --limit 150 --seed 1

Comparisons are flipped, terms and factors dropped, constants replaced, `max` becomes `min`, loops
end after a round, branches are always or never taken, statements go. Each mutant is written into a
copy of the tree, where only the tests run that execute its lines, the fastest first: which those
are is found once, with coverage. What survives is either a hole in the tests or a change that means
the same.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Tests of the rooms' own numbers; those of tasks, methods and pictures come to their lines too, and
# take minutes.
TESTS = """
adjoint batch bound_terms bounds core_lqr files jacobians linear linear_quadratic mdp model
preferences sampler soft tabular
"""

# A mutant may take so many times as long as its tests do without it, and this many seconds more.
PATIENCE, GRACE = 4.0, 20.0

COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
NAMES = {"max": "min", "min": "max", "maximum": "minimum", "minimum": "maximum"}
NAMES |= {"argmax": "argmin", "argmin": "argmax", "any": "all", "all": "any"}
TRANSPARENT = {"abs", "clip", "sqrt", "log1p", "expm1", "copy"}  # f(x, ...) becomes x


@dataclass(frozen=True)
class Mutant:
    """A change of a file.

    Attributes:
        path: The file, relative to the root.
        line: Line of the change.
        start: Where the text that is replaced begins, in characters.
        end: Where it ends.
        text: What takes its place.
        source: The text that is replaced.
    """

    path: str
    line: int
    start: int
    end: int
    text: str
    source: str

    def __str__(self) -> str:
        """Return place and change in a line."""
        before, after = (" ".join(part.split()) for part in (self.source, self.text))
        return f"{self.path}:{self.line}: {before}  ->  {after or '(nothing)'}"


def mutants(path: str, source: str) -> list[Mutant]:
    """Return the mutants of a file."""
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))

    def at(line: int, column: int) -> int:
        start = offsets[line - 1]
        text = source[start : offsets[line]].encode()[:column].decode()
        return start + len(text)

    def span(node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None and node.end_col_offset is not None
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    found: dict[tuple[int, int, str], Mutant] = {}
    for node, changed, text in _changes(ast.parse(source), lambda n: source[slice(*span(n))]):
        start, end = span(changed)
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.IfExp):
            text = f"({text})"
        if source[start:end] != text:
            number = source.count("\n", 0, start) + 1
            found[start, end, text] = Mutant(path, number, start, end, text, source[start:end])
    return sorted(found.values(), key=lambda m: (m.line, m.start, m.text))


def _changes(
    tree: ast.Module, text: Callable[[ast.AST], str]
) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """Yield nodes, what is replaced of each, and by which text."""
    for node in _executed(tree):
        match node:
            case ast.Compare(ops=[operator]):
                for other in COMPARISONS[type(operator)]:
                    yield node, node, f"{text(node.left)} {other} {text(node.comparators[0])}"
            case ast.BinOp(op=ast.Add() | ast.Mult()):
                yield node, node, text(node.left)
                yield node, node, text(node.right)
            case ast.BinOp(op=ast.Sub() | ast.Div() | ast.Pow() | ast.Mod() | ast.FloorDiv()):
                yield node, node, text(node.left)
            case ast.BoolOp():
                for value in node.values:
                    yield node, node, text(value)
            case ast.UnaryOp(op=ast.USub() | ast.Not()):
                yield node, node, f"({text(node.operand)})"
            case ast.IfExp():
                yield node, node, text(node.body)
                yield node, node, text(node.orelse)
            case ast.Constant():
                for other in _constants(node.value):
                    yield node, node, other
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                yield node, node.func, NAMES[name]
            case ast.Call(func=ast.Attribute(attr=name) as function) if name in NAMES:
                yield node, function, f"{text(function.value)}.{NAMES[name]}"
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]) if (
                name in TRANSPARENT
            ):
                yield node, node, f"({text(first)})"
            case ast.If() | ast.While():
                yield node, node.test, "False"
                if isinstance(node, ast.If):
                    yield node, node.test, "True"
                else:
                    last, indent = node.body[-1], " " * node.body[-1].col_offset
                    yield node, last, f"{text(last)}\n{indent}break"
            case ast.AugAssign():
                yield node, node, f"{text(node.target)} = {text(node.value)}"
                yield node, node, "pass"
            case ast.Expr(value=ast.Call()):
                yield node, node, "pass"


def _constants(value: object) -> tuple[str, ...]:
    """Return what takes the place of a constant."""
    match value:
        case bool():
            return (repr(not value),)
        case int():
            return (repr(value + 1),)
        case float():
            other = 1e4 * value if 0.0 < value < 1e-3 else 2.0 * value
            return repr(other), "1.0" if value == 0.0 else "0.0"
    return ()


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that do something: no annotations, texts of errors or lists of names."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST):
                continue
            if isinstance(
                node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom
            ):
                continue
            if isinstance(node, ast.Assign | ast.AugAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and target.id == "__all__":
                    continue
            yield node
            yield from _executed(node)


class Laboratory:
    """A copy of the tree, and what its tests execute.

    Attributes:
        folder: Where it is.
        seconds: How long each test took, by its name.
    """

    def __init__(self, folder: Path, tests: list[str]) -> None:
        """Copy the tree, and run the tests once.

        Raises:
            SystemExit: If a test fails.
        """
        self.folder = folder
        for name in ("bilevel_gym", "envs", "wrappers", "tests", "pyproject.toml", "README.md"):
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy2(source, folder / name)
        report, data = folder / "times.xml", folder / "lines"
        options = [
            "--cov=bilevel_gym",
            "--cov-context=test",
            "--cov-report=",
            f"--junitxml={report}",
        ]
        status = self._pytest([*tests, *options], None, COVERAGE_FILE=str(data))
        if status:
            raise SystemExit(f"the tests fail without a mutant (status {status})")
        self.seconds = {
            f"{case.get('classname')}::{case.get('name')}": float(case.get("time", "0"))
            for case in ElementTree.parse(report).iter("testcase")
        }
        from coverage import CoverageData

        self._lines = CoverageData(str(data))
        self._lines.read()

    def tests_of(self, mutant: Mutant, budget: float) -> tuple[list[str], float]:
        """Return the tests that execute a line, the fastest first, and how long they take.

        What is executed at import counts for every test of the file. No more tests are named than
        fit into a budget of seconds, but for the first.
        """
        contexts = self._lines.contexts_by_lineno(str((self.folder / mutant.path).resolve()))
        names = {name.split("|")[0] for name in contexts.get(mutant.line, [])} - {""}
        if not names and mutant.line in contexts:
            names = {name.split("|")[0] for found in contexts.values() for name in found} - {""}
        timed = sorted((self._seconds_of(name), name) for name in names)
        chosen: list[str] = []
        total = 0.0
        for seconds, name in timed:
            if chosen and total + seconds > budget:
                break
            chosen, total = [*chosen, name], total + seconds
        return chosen, total

    def dies(self, mutant: Mutant, tests: list[str], seconds: float) -> bool:
        """Return whether tests fail, or take much longer, with a mutant."""
        path = self.folder / mutant.path
        source, times = path.read_text(encoding="utf-8"), path.stat()
        changed = source[: mutant.start] + mutant.text + source[mutant.end :]
        cached = list((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))
        try:
            path.write_text(changed, encoding="utf-8")
            for file in cached:
                file.unlink(missing_ok=True)
            return self._pytest(["-x", *tests], PATIENCE * seconds + GRACE) != 0
        finally:
            path.write_text(source, encoding="utf-8")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            for file in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                file.unlink(missing_ok=True)

    def _seconds_of(self, name: str) -> float:
        file, *rest = name.split("::")
        key = ".".join([*Path(file).with_suffix("").parts, *rest[:-1]]) + "::" + rest[-1]
        return self.seconds.get(key, 1.0)

    def _pytest(self, arguments: list[str], timeout: float | None, **variables: str) -> int:
        """Run tests in the copy, and return the status, 1 where they do not end in time."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        variables |= {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        try:
            return subprocess.run(
                command,
                cwd=self.folder,
                env={**os.environ, **variables},
                timeout=timeout,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ).returncode
        except subprocess.TimeoutExpired:
            return 1


def main() -> None:
    """Print what survives, then how many of how many died."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", nargs="*", default=["core", "model"], help="packages, modules")
    parser.add_argument("--limit", type=int, help="a random sample of so many")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of tests for each")
    parser.add_argument("--tests", nargs="*", help="test files; the default suits core and model")
    options = parser.parse_args()
    every = [mutant for room in options.rooms for mutant in mutants_of(room)]
    if options.limit is not None and options.limit < len(every):
        every = random.Random(options.seed).sample(every, options.limit)
    if options.list:
        print("\n".join(map(str, every)))
        return
    tests = options.tests or [f"tests/test_{name}.py" for name in TESTS.split()]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        laboratory = Laboratory(Path(folder), [test for test in tests if (ROOT / test).exists()])
        print(f"{len(laboratory.seconds)} tests, {time.monotonic() - began:.0f} s", flush=True)
        survived = unseen = 0
        for number, mutant in enumerate(every, 1):
            names, seconds = laboratory.tests_of(mutant, options.budget)
            if not names:
                unseen += 1
                print(f"no test: {mutant}", flush=True)
            elif not laboratory.dies(mutant, names, seconds):
                survived += 1
                print(f"survives {len(names)} tests: {mutant}", flush=True)
            if number % 25 == 0:
                print(f"{number} of {len(every)}, {time.monotonic() - began:.0f} s", flush=True)
    died = len(every) - survived - unseen
    print(f"{died} of {len(every)} died, {survived} survived, {unseen} are executed by no test")


def mutants_of(room: str) -> list[Mutant]:
    """Return the mutants of a package, or of a module such as `core/bounds`.

    Compiled code is left out of packages: each mutant would be compiled anew.
    """
    path = ROOT / "bilevel_gym" / room
    files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return [
        mutant
        for file in files
        for mutant in mutants(str(file.relative_to(ROOT)), file.read_text(encoding="utf-8"))
    ]


if __name__ == "__main__":
    main()
