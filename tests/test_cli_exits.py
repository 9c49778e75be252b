"""How commands end: 0, 1 for a failure, 2 for wrong usage, 130 where they are interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bilevel_gym.cli import main
from bilevel_gym.cli.arguments import FAILED, INTERRUPTED, USAGE
from bilevel_gym.envs.grid_world import BilevelGridWorld
from bilevel_gym.methods.exact import Exact

from .commands import GRID, LEARNT, SMALL, Run

Patch = pytest.MonkeyPatch

BENCHMARK = f"""
steps = 1
seeds = 1
[engine]
workers = 1
[[tasks]]
id = "{GRID}"
kwargs = {{ map_name = "4x4" }}
[[methods]]
name = "exact"
[[optimizers]]
name = "normalized"
"""

OWN = """
from bilevel_gym.methods.exact import Exact

class Wrong(Exact):
    def step(self, x):
        return super().step(x).objective

def terms(observation, action, next_observation, info):
    return {"place": observation[0]}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: Patch) -> Iterator[Path]:
    """Yield the working directory, with a benchmark and a module in it."""
    (tmp_path / "small.toml").write_text(BENCHMARK)
    (tmp_path / "wrong.toml").write_text(BENCHMARK.replace("exact", "own_exits:Wrong"))
    (tmp_path / "own_exits.py").write_text(OWN)
    (tmp_path / "notes.txt").write_text("no claims")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_exits", None)


def wrong_gradient(patch: Patch) -> None:
    vjp = BilevelGridWorld.reward_vjp
    patch.setattr(BilevelGridWorld, "reward_vjp", lambda *a: 1.001 * vjp(*a))


def overflow(patch: Patch) -> None:
    def raised(*_: Any) -> None:
        raise FloatingPointError("F is not finite")

    patch.setattr(Exact, "step", raised)


def full_disk(patch: Patch) -> None:
    def raised(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(Path, "mkdir", raised)


CHECK = ("check", GRID, *SMALL, "--points", "1", "--coordinates", "2")
SOLVE = ("solve", GRID, *SMALL, "--steps", "1")

SUCCESSES: dict[str, tuple[str, ...]] = {
    "help": (),
    "version": ("--version",),
    "list": ("list",),
    "show": ("show", GRID),
    "methods": ("methods", "amd"),
    "check": CHECK,
    "check-method": ("check-method", "exact", "--task", GRID),
    "solve": SOLVE,
    "play": ("play", GRID, *SMALL, "--headless", "film.gif"),
    "gallery": ("gallery", "out", "BilevelIncentive-v0"),
    "benchmark": ("benchmark", "small.toml"),
}

FAILURES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a check that finds something": (wrong_gradient, CHECK),
    "a method that is checked and wrong": (None, ("check-method", "own_exits:Wrong")),
    "a method that gives a wrong answer": (None, (*SOLVE, "--method", "own_exits:Wrong")),
    "numbers that overflow": (overflow, SOLVE),
    "a run of a benchmark": (None, ("benchmark", "wrong.toml")),
    "a disk that is full": (full_disk, SOLVE),
}

MISTAKES: dict[str, tuple[str, ...]] = {
    "an unknown command": ("lst",),
    "an unknown task": ("show", "BilevelGridWrld-v0"),
    "an unknown method": ("methods", "trice"),
    "a missing argument": ("solve",),
    "an option out of range": ("solve", GRID, "--steps", "0"),
    "an argument out of range": ("check", GRID, "--set", "slip=2"),
    "a method that does not suit": ("solve", "BilevelLQR-v0", "--method", "trace"),
    "a file that is not there": ("benchmark", "nowhere.toml"),
    "a file of something else": ("rescore", "notes.txt"),
    "a folder without a benchmark": ("report", "."),
    "a folder without results": ("export", "nowhere"),
    "a folder that cannot be": ("gallery", "notes.txt/out"),
    "no terms": ("design", "CartPole-v1"),
    "a film of another kind": ("play", GRID, "--headless", "film.mp4"),
}


def test_every_command_is_in_the_tables() -> None:
    named = {words[0] for words in [*SUCCESSES.values(), *MISTAKES.values()] if words}
    assert {*main.commands} <= named | {"lst", "--version"}


@pytest.mark.parametrize("case", SUCCESSES)
def test_what_is_done_ends_with_0(run: Run, here: Path, case: str) -> None:
    run(*SUCCESSES[case], exits=0)


@pytest.mark.parametrize("case", FAILURES)
def test_what_fails_ends_with_1(run: Run, here: Path, monkeypatch: Patch, case: str) -> None:
    spoil, words = FAILURES[case]
    if spoil is not None:
        spoil(monkeypatch)
    result = run(*words, exits=FAILED)
    assert isinstance(result.exception, SystemExit), result.exception


@pytest.mark.parametrize("case", MISTAKES)
def test_what_is_wrong_usage_ends_with_2(run: Run, here: Path, case: str) -> None:
    result = run(*MISTAKES[case], exits=USAGE)
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("command", main.commands)
def test_every_command_refuses_unknown_options_and_is_interrupted_alike(
    run: Run, monkeypatch: Patch, command: str
) -> None:
    run(command, "--no-such-option", exits=USAGE)
    run(command, "--help", exits=0)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[command], "invoke", interrupted)
    monkeypatch.setattr(main.commands[command], "parse_args", lambda *_: [])
    assert run(command, exits=INTERRUPTED).stderr == "interrupted\n"


def test_an_interrupt_while_a_method_is_made_or_asked_ends_with_130(
    run: Run, monkeypatch: Patch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bilevel_gym.cli.solving.make_leader", interrupted)
        run(*SOLVE, exits=INTERRUPTED)
    monkeypatch.setattr(Exact, "step", interrupted)
    for words in (SOLVE, CHECK, ("gallery", "out", GRID)):
        run(*words, exits=INTERRUPTED)


# Interrupts from outside --------------------------------------------------------------------------

# What ends a command takes so many seconds at most on an idle machine; tests share theirs.
SOON = 10.0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("words", "sign", "kept"),
    [
        (("solve", GRID, "--steps", "1000000", "--out", "out"), "[", "progress.png"),
        (("solve", *LEARNT, "--steps", "10000", "--out", "out"), "[", "progress.png"),
        (("gallery", "out", "BilevelIncentive-v0", "BilevelTaxDesign-v0"), "[", "incentive.png"),
    ],
)
def test_a_signal_ends_long_work_soon_and_keeps_what_was_done(
    tmp_path: Path, words: tuple[str, ...], sign: str, kept: str, sent: signal.Signals
) -> None:
    if "BilevelPendulum-v0" in words:
        pytest.importorskip("stable_baselines3")
    command = [sys.executable, "-c", "from bilevel_gym.cli import main; main()", *words]
    with subprocess.Popen(
        command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        seen = 0
        for line in process.stdout:
            seen += line.startswith("BilevelIncentive") or "gallery" not in words
            if seen and line.startswith(sign):
                break
        process.send_signal(sent)
        began = time.monotonic()
        output, errors = process.communicate(timeout=SOON)
    assert process.returncode == INTERRUPTED, errors
    assert "Traceback" not in errors and "interrupted" in output + errors
    assert (tmp_path / "out" / kept).exists()
    assert not [*tmp_path.rglob(".*.tmp*")] and time.monotonic() - began < SOON


def test_nothing_is_collected_where_a_command_ends() -> None:
    # What is registered first is called last.
    script = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 1000))
import bilevel_gym.cli
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "True\n"
