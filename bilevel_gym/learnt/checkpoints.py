"""Methods whose follower learns, and their files: all that was learnt, as one archive.

In it are `about.json`, what the method that loads it must have in common with the one that saved
it; `state.json`, numbers that the method goes on from; the follower (see `Follower.save`); the
critic (`critic.pt`), if there is one; and what else a method has. None of it is code.
"""

from __future__ import annotations

import copy
import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th

from ..core.files import check_regular, replacing
from ..core.plain import Untrusted, checked_members, readable
from ..core.progress import Progress
from ..core.reprs import MadeFor
from ..model.protocols import LearntGame
from ..sb3.archive import tensors
from .critics import LeaderCritics, Trained
from .followers import ANSWERED, MODEL, Follower

__all__ = ["Checkpointed"]

ABOUT, STATE, CRITIC = "about.json", "state.json", "critic.pt"


class Checkpointed(MadeFor):
    """What methods whose follower learns have in common: the follower, a critic, files of both.

    Attributes:
        follower: The follower, who goes on from one x to the next with what it has learnt.
        critic: The leader's critic, None for methods without one.
    """

    exact: ClassVar[bool] = False
    saved: ClassVar[tuple[str, ...]] = ()  # attributes in `state.json`: of JSON types, or arrays
    members: ClassVar[tuple[str, ...]] = ()  # of the archive, beside those of every method

    critic: Trained | LeaderCritics | None

    def __init__(
        self,
        game: LearntGame,
        *,
        inner: str | None = None,
        inner_steps: int = 1000,
        first_inner_steps: int | None = None,
        inner_options: dict[str, Any] | None = None,
        standardise: bool = True,
    ) -> None:
        """Bind the method to a game.

        `inner` is the algorithm of a `Follower`; the others are its `steps`, `first_steps`,
        `options` and `standardise`.

        Raises:
            TypeError: If the learner does not take an argument.
            ValueError: If an option is out of range.
        """
        self._game = game
        self._rng = np.random.default_rng(0)
        self.follower = Follower(
            game,
            algorithm=inner,
            steps=inner_steps,
            first_steps=first_inner_steps,
            options=inner_options,
            standardise=standardise,
        )
        self._forget()

    def reset(self, rng: np.random.Generator) -> None:
        """Forget everything learnt; draw all randomness from `rng` from now on."""
        self._rng = rng
        self.follower.reset(rng)
        self._forget()

    @property
    def progress(self) -> Progress | None:
        """What is called with how far the follower is under the present x; see `Follower`."""
        return self.follower.progress

    @progress.setter
    def progress(self, progress: Progress | None) -> None:
        self.follower.progress = progress

    def _forget(self) -> None:
        """Begin with nothing learnt beside what the follower has."""
        self.critic = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save all that has been learnt, and the state of the random numbers, as one file.

        A method that loads it goes on bit by bit as the one that saved it. The episode in which the
        follower learns is part of it where the environment can be copied, as those of the
        registered tasks can. Other environments of MuJoCo and Atari, and those of Box2D, cannot,
        unless `make_environment` puts them in a `bilevel_gym.envs.simulators.Restorable`; there the
        follower goes on in a new episode, as it does where an attribute is more than plain data. A
        file is whole or as it was. ".zip" is added to a path without an extension.
        """
        path = _zipped(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {name.lstrip("_"): getattr(self, name) for name in self.saved}
        state["generator"] = self._rng.bit_generator.state
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(ABOUT, json.dumps(self._identity()))
            archive.writestr(STATE, json.dumps(state, default=np.ndarray.tolist))
            self.follower.save(archive)
            if self.critic is not None:
                memory = io.BytesIO()
                th.save(self.critic.state_dict(), memory)
                archive.writestr(CRITIC, memory.getvalue())
            self._write(archive)

    def load(self, path: str | os.PathLike[str], *, trust: bool = False) -> None:
        """Go on where the method that was saved is; this one must be made as that one was.

        Nothing in the file is run. With `trust`, files of earlier versions are accepted, whose
        pickles can run code, and a game console (`BilevelBeamRider`) goes on in the episode under
        way, which begins anew otherwise: a forged state of it can overwrite memory. Trust only
        files whose writer you trust.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is none of `save`, of another method or game, incomplete or damaged,
                or contains code and is not trusted; nothing changes.
        """
        needed = [MODEL, ANSWERED, *self.members, *([] if self.critic is None else [CRITIC])]
        with _opened(_zipped(path), self._identity(), needed) as (archive, state):
            generator = copy.deepcopy(self._rng.bit_generator)
            generator.state = state["generator"]
            found = {name: state[name.lstrip("_")] for name in self.saved}
            self._read(archive, found)
            if self.critic is not None:
                found["critic"] = copy.deepcopy(self.critic, {id(self._game): self._game})
                found["critic"].load_state_dict(tensors(archive.read(CRITIC)))
            found["follower"] = copy.copy(self.follower)
            found["follower"].load(archive, trust=trust)
        vars(self).update(found)
        # The generator is the game's own: it is set, not replaced.
        self._rng.bit_generator.state = generator.state

    def _identity(self) -> dict[str, Any]:
        """Return what a method that loads a file must have in common with the one that saved it."""
        game = self._game
        return {
            "method": type(self).__name__,
            "game": game.title,
            "number of parameters": game.initial_upper_params.size,
            "observation space": str(game.observation_space),
            "action space": str(game.lower_space),
            "gamma": game.gamma,
            "temperature": game.temperature,
            "upper_gamma": game.upper_gamma,
        }

    def _write(self, archive: zipfile.ZipFile) -> None:
        """Write the `members`."""

    def _read(self, archive: zipfile.ZipFile, found: dict[str, Any]) -> None:
        """Add what `_write` has written to the attributes `found`, which are as JSON has them."""


@contextmanager
def _opened(
    path: Path, about: dict[str, Any], needed: list[str]
) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any]]]:
    """Yield the archive to read from, and the state that was written.

    Whatever goes wrong while it is read is a `ValueError`: what is read should be assigned later.
    """
    check_regular(path)
    with open(path, "rb") as file:
        whole = zipfile.is_zipfile(file)
    if not whole:
        raise ValueError(f"{path} is no file of a method's `save`")
    with zipfile.ZipFile(path) as archive:
        with readable(path):
            members = checked_members(archive)
        if not {ABOUT, STATE} <= {*members}:
            raise ValueError(f"{path} is no file of a method's `save`")
        with readable(path):
            found = dict(json.loads(archive.read(ABOUT)))
        for name, value in about.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{path} is of another {name}: expected {value!r}, got {found.get(name)!r}"
                )
        for name in needed:
            if name not in members:
                raise ValueError(f"{path} is incomplete: it has no {name}")
        try:
            with readable(path):
                yield archive, dict(json.loads(archive.read(STATE)))
        except Untrusted as error:
            raise Untrusted(
                f"{path} has pickles, as files of earlier versions do, which can run code; pass "
                "`trust=True` if you trust whoever wrote it"
            ) from error


def _zipped(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(".zip")
