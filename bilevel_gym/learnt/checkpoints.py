"""Files of methods whose follower learns: all that was learnt, as one archive.

In it are `about.json`, of whom it is, and `state.json`, numbers that the method goes on from; the
follower (`learner.zip`, of the library, and `environment.pickle`); and what else a method has.
"""

from __future__ import annotations

import copy
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch as th

from ..core.files import replacing
from ..model.protocols import LearntGame

if TYPE_CHECKING:
    from .critic import Trained

__all__ = ["identity", "opened", "restored", "write_state", "written"]

T = TypeVar("T", bound="Trained")

ABOUT, STATE = "about.json", "state.json"


def identity(method: object, game: LearntGame) -> dict[str, Any]:
    """Return what a method that loads a file must have in common with the one that saved it."""
    return {
        "method": type(method).__name__,
        "game": game.title,
        "number of parameters": game.initial_upper_params.size,
        "observation space": str(game.observation_space),
        "action space": str(game.lower_space),
        "gamma": game.gamma,
        "temperature": game.temperature,
        "upper_gamma": game.upper_gamma,
    }


@contextmanager
def written(
    path: str | os.PathLike[str], about: Mapping[str, Any], state: Mapping[str, Any]
) -> Iterator[zipfile.ZipFile]:
    """Yield the archive to write to; it takes the place of an old one once it is whole.

    Args:
        path: Where to, ".zip" being added to a path without an extension.
        about: Of whom it is, of JSON types; see `identity`.
        state: Where the method is, of JSON types: its generator's state, counts.
    """
    path = _zipped(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(ABOUT, json.dumps(about))
        archive.writestr(STATE, json.dumps(state))
        yield archive


@contextmanager
def opened(
    path: str | os.PathLike[str], about: Mapping[str, Any], needed: Iterable[str]
) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    """Yield the archive to read from, and the state that was written.

    Whatever goes wrong while it is read is a `ValueError`: what is read should be assigned later.

    Args:
        path: The file.
        about: Of whom it must be; see `identity`.
        needed: What must be in it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file, of somebody else, incomplete, or cannot be read.
    """
    path = _zipped(path)
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is no file of a method's `save`")
    with zipfile.ZipFile(path) as archive:
        if not {ABOUT, STATE} <= {*archive.namelist()}:
            raise ValueError(f"{path} is no file of a method's `save`")
        with _readable(path):
            found = dict(json.loads(archive.read(ABOUT)))
        for name, value in about.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{path} is of another {name}: expected {value!r}, got {found.get(name)!r}"
                )
        for name in needed:
            if name not in archive.namelist():
                raise ValueError(f"{path} is incomplete: it has no {name}")
        with _readable(path):
            yield archive, dict(json.loads(archive.read(STATE)))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what libraries raise where a file is damaged, all sorts of errors, into one."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, or of other versions of the libraries "
            f"({type(error).__name__})"
        ) from error


def write_state(archive: zipfile.ZipFile, name: str, state: dict[str, Any]) -> None:
    """Write the `state_dict` of networks and optimisers."""
    memory = io.BytesIO()
    th.save(state, memory)
    archive.writestr(name, memory.getvalue())


def restored(trained: T, archive: zipfile.ZipFile, name: str, game: LearntGame) -> T:
    """Return a copy of networks and optimisers in the state that `write_state` has written.

    Args:
        trained: What is copied, whatever device it was on that was written.
        archive: The archive.
        name: Where in it the state is.
        game: The game, which is not copied.
    """
    made = copy.deepcopy(trained, {id(game): game})
    made.load_state_dict(
        th.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    )
    return made


def _zipped(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")
