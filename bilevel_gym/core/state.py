"""What goes on from one step to the next, as plain data, and files of it that hold no code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from .files import check_regular, replacing
from .plain import read_arrays

__all__ = ["Remembers", "dump_tree", "read_tree", "write_tree"]

# Stands for an array in the tree of a file, with its number.
ARRAY = "array of this file"


class Remembers:
    """Something that goes on, from one step to the next, from attributes that the steps change.

    `remembered` names them. They are numbers, arrays, None, tuples of these, or other things that
    remember. Generators of random numbers are not among them: they belong to whoever seeds them.
    """

    remembered: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, as nested dicts and lists of numbers and arrays."""
        return {name.lstrip("_"): _state(getattr(self, name)) for name in self.remembered}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned, of one that was made alike.

        Raises:
            KeyError, TypeError, ValueError: If the state is that of something else.
        """
        for name in self.remembered:
            setattr(self, name, _restored(getattr(self, name), state[name.lstrip("_")]))


def _state(value: Any) -> Any:
    if isinstance(value, Remembers):
        return value.state_dict()
    if isinstance(value, tuple):
        return [_state(entry) for entry in value]
    # In the same order: sums along an axis round by it.
    return value.copy(order="K") if isinstance(value, np.ndarray) else value


def _restored(now: Any, state: Any) -> Any:
    """Return what a state says, in place of what is there now."""
    if isinstance(now, Remembers):
        now.load_state_dict(state)
        return now
    if isinstance(state, list):
        return tuple(map(_restored, now or [None] * len(state), state))
    if isinstance(state, np.ndarray):
        # What has been counted grows, from an empty array.
        if isinstance(now, np.ndarray) and now.size and now.shape != state.shape:
            raise ValueError(f"a state must have shape {now.shape} here, got {state.shape}")
        return state.copy(order="K")
    if not (state is None or isinstance(state, Number | np.generic)):
        raise TypeError(f"a state is made of numbers and arrays, got {type(state).__name__}")
    return state


def write_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of text, numbers, None and arrays, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        dump_tree(file, tree)


def dump_tree(file: IO[bytes], tree: Mapping[str, Any]) -> None:
    """Write the same to a file that is open."""
    arrays: list[np.ndarray[Any, Any]] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return {ARRAY: len(arrays) - 1}
        return value.item() if isinstance(value, np.generic) else value

    np.savez(file, np.array(json.dumps(plain(tree))), *arrays)


def read_tree(path: Path | IO[bytes]) -> dict[str, Any]:
    """Read what `write_tree` has written; lists and tuples come back as lists.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is none of `write_tree`, or damaged.
    """

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if ARRAY in value:
                return stored[f"arr_{value[ARRAY] + 1}"]
            return {key: whole(entry) for key, entry in value.items()}
        return [whole(entry) for entry in value] if isinstance(value, list) else value

    try:
        if isinstance(path, Path):
            check_regular(path)
        with zipfile.ZipFile(path) as archive:
            stored = read_arrays(archive)
        return dict(whole(json.loads(str(stored["arr_0"]))))
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged files raise whatever the libraries stumble on
        raise ValueError(f"{path} cannot be read: {error or type(error).__name__}") from None
