"""Odd texts: benchmark files, and the command line."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from hypothesis import strategies as st

from bilevel_gym.benchmark.config import parse_benchmark, read_text
from bilevel_gym.cli import main

from .judge import Case, Wrong
from .odd import Draw

SMALL = """steps = 3
seeds = 2
[engine]
workers = 2
[[tasks]]
id = "BilevelGridWorld-v0"
label = "grid"
kwargs = { map_name = "4x4" }
start_spread = 0.05
[[methods]]
name = "exact"
[[methods]]
name = "trace"
label = "traced"
options = { episodes = 8, inner = "sweeps", inner_options = { sweeps = 2 } }
[[optimizers]]
name = "normalized"
options = { learning_rate = 0.1 }
"""

# Values in TOML.
TOML: list[str] = [
    "0",
    "-1",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "true",
    '""',
    '"x"',
    '"a\\nb"',
    '"\\u0000"',
    '"' + "é" * 3000 + '"',
    "'''\nlines\n'''",
    "[]",
    "{}",
    "[1, [2]]",
    "[0, 0]",
    "{ a = 1 }",
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
    "9" * 30,
    "9" * 5000,
    "[" * 1500 + "]" * 1500,
    "[" * 200 + "]" * 200,
    "{ a = " * 600 + "1" + " }" * 600,
    "0x" + "f" * 5000,
    "[" + "1, " * 3000 + "1]",
    "9223372036854775807",
    "9223372036854775808",
    '"os:nope"',
    '"nowhere:Class"',
    "[nan]",
    '["a"]',
    "",
    "=",
    '"unended',
]

KEYS = [
    "id",
    "name",
    "label",
    "options",
    "kwargs",
    "seeds",
    "steps",
    "x",
    "a.b",
    '""',
    "é",
    "workers",
]


def odd_toml(draw: Draw) -> tuple[str, str]:
    """Draw a benchmark's file that has been changed, and what has been changed."""
    lines = SMALL.splitlines()
    said = []
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(
            st.sampled_from(
                ["value", "value", "value", "key", "drop", "twice", "insert", "text", "header"]
            )
        )
        key, equals, _ = lines[at].partition("=")
        value = draw(st.sampled_from(TOML))
        if kind == "value" and equals:
            lines[at] = f"{key}= {value}"
        elif kind == "key":
            lines[at] = f"{draw(st.sampled_from(KEYS))} = {value}"
        elif kind == "drop":
            del lines[at]
        elif kind == "twice":
            lines.insert(at, lines[at])
        elif kind == "insert":
            lines.insert(at, f"{draw(st.sampled_from(KEYS))} = {value}")
        elif kind == "header":
            lines.insert(at, draw(st.sampled_from(["[tasks]", "[[engine]]", "[x]", "[[", "[a.b]"])))
        else:
            lines.insert(at, draw(st.text(max_size=20)))
        said.append(f"{kind} in line {at + 1}: {value[:40]!r}")
        if not lines:
            lines = [""]
    return "\n".join(lines), "; ".join(said)


def toml(draw: Draw) -> Case:
    text, said = odd_toml(draw)
    return Case(f"parse_benchmark: {said}: {text[:400]!r}", lambda: parse_benchmark(text, "b.toml"))


def toml_bytes(draw: Draw) -> Case:
    """The bytes of a file."""
    raw = bytearray(SMALL.encode())
    junk = draw(st.binary(min_size=1, max_size=6))
    at = draw(st.integers(0, len(raw)))
    raw[at:at] = junk

    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "b.toml")
            path.write_bytes(raw)
            parse_benchmark(read_text(path), "b.toml")

    return Case(f"read_benchmark: {junk!r} at {at}", call)


# The command line -----------------------------------------------------------------------------

GRID = "BilevelGridWorld-v0"

WORDS: list[str] = [
    "",
    " ",
    "0",
    "-1",
    "1",
    "3",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e-310",
    "x",
    "é" * 300,
    "a\nb",
    "\udc80",
    ".x:Y",
    "os:nope",
    "nowhere:X",
    "os.path:X",
    ":",
    "a:",
    ":b",
    "..",
    "²",
    "--",
    "9" * 5000,
    "[" * 20000,
    "[" * 3000 + "]" * 3000,
    "{",
    "[1, 2]",
    "null",
    "true",
    "(1, 2)",
    '{"a": 1}',
    "1j",
    "b'x'",
    "9223372036854775808",
    "runs/../x",
    "%s%n",
    "~",
    "exact",
    "trace",
    "adam",
    "cobyqa",
    "lbfgsb",
    GRID,
    "BilevelLQR-v0",
    "CartPole-v1",
    "BilevelGridWorld-v99",
]

NAMES = [
    "slip",
    "size",
    "map_name",
    "desc",
    "gamma",
    "temperature",
    "render_mode",
    "nope",
    "",
    "é",
    "map_seed",
    "hazard_cost",
    "shaping_cost",
]
OPTIONS = [
    "tolerance",
    "max_iterations",
    "episodes",
    "inner",
    "inner_options",
    "learning_rate",
    "schedule",
    "steps",
    "nope",
    "horizon",
    "truncation",
    "spread",
    "seed",
]


def setting(draw: Draw, names: list[str]) -> str:
    """Draw a text for `--set` and its likes."""
    name, word = draw(st.sampled_from(names)), draw(st.sampled_from(WORDS))
    return draw(st.sampled_from([f"{name}={word}", f"{name}={word}", f"{name}={word}", word, name]))


def damaged(path: Path, kind: str) -> None:
    """Write an x as `--start` takes it, and damage it."""
    good: dict[str, Any] = {"best_upper_params": np.zeros(6)}
    np.savez(path, **good)
    raw = bytearray(path.read_bytes())
    if kind == "short":
        raw = raw[: len(raw) // 2]
    elif kind == "bad CRC":
        raw[raw.index(b"NUMPY") + 130] ^= 0xFF
    elif kind == "junk":
        raw = bytearray(b"\x93NUMPY junk" * 9)
    elif kind == "empty":
        raw = bytearray()
    elif kind == "text":
        raw = bytearray(b"best = 1")
    path.write_bytes(raw)
    if kind in ("objects", "nan", "shape", "no best", "junk inside", "strings", "forged header"):
        stored = io.BytesIO()
        values: dict[str, Any] = {
            "objects": np.array([None], dtype=object),
            "nan": np.full(6, np.nan),
            "shape": np.zeros((2, 2)),
            "strings": np.array(["a"]),
        }
        if kind in values:
            np.save(stored, values[kind], allow_pickle=True)
        elif kind == "forged header":
            header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
            text = header.ljust(117) + "\n"
            stored.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
        else:
            stored.write(b"junk")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                "other.npy" if kind == "no best" else "best_upper_params.npy", stored.getvalue()
            )


DAMAGES = [
    "none",
    "short",
    "bad CRC",
    "junk",
    "empty",
    "text",
    "objects",
    "nan",
    "shape",
    "no best",
    "junk inside",
    "strings",
    "forged header",
    "folder",
    "absent",
]


def solve_arguments(draw: Draw) -> list[str]:
    words = ["solve", draw(st.sampled_from([GRID] * 8 + WORDS)), "--set", "desc=['S.G', '..H']"]
    words += ["--steps", "2"]
    given: dict[str, Callable[[], str]] = {
        "--set": lambda: setting(draw, NAMES),
        "--method": lambda: draw(st.sampled_from(WORDS)),
        "--method-set": lambda: setting(draw, OPTIONS),
        "--optimizer": lambda: draw(st.sampled_from(WORDS)),
        "--optimizer-set": lambda: setting(draw, OPTIONS),
        "--lr": lambda: draw(st.sampled_from(WORDS)),
        "--seed": lambda: draw(st.sampled_from(WORDS)),
        "--out": lambda: draw(st.sampled_from(WORDS)),
        "--start": lambda: f"start-{draw(st.sampled_from(DAMAGES))}.npz",
        "--resume": lambda: draw(st.sampled_from(WORDS)),
    }
    for option in draw(st.lists(st.sampled_from([*given]), min_size=1, max_size=2)):
        words += [option, given[option]()]
    return words


def check_arguments(draw: Draw) -> list[str]:
    words = ["check", GRID, "--set", "desc=['S.G', '..H']", "--points", "1", "--coordinates", "1"]
    option: str = draw(
        st.sampled_from(["--set", "--points", "--coordinates", "--tolerance", "--seed"])
    )
    return [
        *words,
        option,
        setting(draw, NAMES)
        if option == "--set"
        else draw(
            st.sampled_from([w for w in WORDS if w not in ("3", "9223372036854775808", "9" * 5000)])
        ),
    ]


def other_arguments(draw: Draw) -> list[str]:
    word = draw(st.sampled_from(WORDS))
    forms: list[list[str]] = [
        ["list", word],
        ["report", word],
        ["report", word, "--out", draw(st.sampled_from(WORDS))],
        ["benchmark", "--print", word],
        ["benchmark", word + ".toml"],
        ["gallery", "out", word if not word.startswith("Bilevel") else "x"],
        ["gallery", "out", "nope", "--seed", word],
        [word or "x"],
        ["check-method", word if word not in ("exact", "trace") else "x"],
        ["check-method", "exact", "--task", GRID, "--method-set", setting(draw, OPTIONS)],
    ]
    return draw(st.sampled_from(forms))


def make_folder(words: list[str]) -> None:
    """Make what arguments name, in the working folder."""
    for word in words:
        if word.startswith("start-"):
            kind = word.removeprefix("start-").removesuffix(".npz")
            if kind == "folder":
                Path(word).mkdir()
            elif kind != "absent":
                damaged(Path(word), kind)
    for odd in ("²", "-1", "x", "1e3", "03"):
        Path("runs", GRID, odd).mkdir(parents=True)


def invoked(words: list[str]) -> None:
    """Run a command in a folder of its own; raise `Wrong` unless it ends well or in one line."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            make_folder(words)
            result = CliRunner().invoke(main, words)
        finally:
            os.chdir(before)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    shown = [line for line in result.stderr.splitlines() if line.strip()]
    if result.exit_code not in (0, 1, 2):
        raise Wrong(f"exit code {result.exit_code}: {result.stderr[-300:]}")
    if result.exit_code == 0 or result.stdout.strip():
        return
    errors = [line for line in shown if not line.startswith(("Usage: ", "Try ", "Warning: "))]
    ours = len(errors) == len(shown)  # click shows the usage, and repeats all of a word
    if len(errors) != 1 or not errors[0].startswith("Error: ") or (ours and len(errors[0]) > 1500):
        raise Wrong(f"not one line: {result.stderr[:600]!r}")


COMMANDS: dict[str, Callable[[Draw], list[str]]] = {
    "solve": solve_arguments,
    "check": check_arguments,
    "other": other_arguments,
}


def cli(draw: Draw) -> Case:
    """A command with odd arguments."""
    words = COMMANDS[draw(st.sampled_from(["solve", "solve", "solve", "check", "other", "other"]))](
        draw
    )
    shown = json.dumps(
        [word if len(word) < 60 else f"{word[:20]}... ({len(word)})" for word in words]
    )
    return Case(f"bilevel-gym {shown}", lambda: invoked(words))


TARGETS = {f.__name__: f for f in (toml, toml_bytes, cli)}
