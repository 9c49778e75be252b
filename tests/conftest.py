"""Settings that must be in place before the first test module is imported."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bilevel_gym.core import fast

# Windows of `render_mode="human"` need no display then, and pygame prints no greeting.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
# Networks as small as those of tests run slower on more threads, and less repeatably.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def vector_games() -> Iterator[None]:
    """Register the games of tests of vectors, for these alone."""
    from .vectors import register_games

    yield from register_games()


@pytest.fixture
def compiled() -> Iterator[None]:
    """Compiled kernels at hand, whatever the environment says."""
    with fast.switched(True):
        yield


@pytest.fixture(params=["numpy", "numba"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test without and with compiled kernels, and return which it is."""
    if request.param == "numba" and not fast.available():
        pytest.skip("numba is not installed")
    with fast.switched(request.param == "numba"):
        yield request.param


@pytest.fixture
def words_of_key(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the texts that keys of pictures show from now on, in their order."""
    words: list[str] = []

    def note(surface: object, text: str, *_: object, **__: object) -> int:
        words.append(text)
        return 0

    monkeypatch.setattr("bilevel_gym.rendering.key.draw_text", note)
    return words


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs the command in an empty working directory."""
    from click.testing import CliRunner, Result

    from bilevel_gym.cli import main

    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object, exits: int | None = None) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert exits in (None, result.exit_code), result.output
        return result

    return invoke


@pytest.fixture
def demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a demo as a script, without a display, in an empty folder."""
    demos = Path(__file__).parent.parent / "demos"

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        status: int | str = 0
        try:
            runpy.run_path(str(demos / name), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        said, complained = capsys.readouterr()
        if isinstance(status, str):  # what Python prints at the end of a script
            return 1, said, complained + status
        return status, said, complained

    return run
