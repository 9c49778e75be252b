"""An environment as a table: what `tabulate` and `discretize` return, saved and loaded."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ..core.checks import check_at_least, first_line, received
from ..core.files import check_regular, write_whole
from ..core.mdp import FloatArray, IntArray, Kernel
from ..model import TabularModel
from ..model.tabular import ArrayModel
from .fingerprints import Key, fingerprint
from .tabular import TabularBilevelEnv

__all__ = ["Tabulated"]

# Version of the file, and the entry that describes it.
FORMAT, HEADER = 1, "header"

# Arrays that every file has.
ARRAYS = ("matrix", "rows", "columns", "reward", "initial_distribution", "keys", "terms")

# Those that only some tables have.
OPTIONAL = ("previous", "actions_before", "probability_error", "reward_error")


@dataclass(frozen=True, eq=False)
class Tabulated:
    """States, transitions and rewards of an environment.

    Where an episode terminates, the row of the kernel lacks mass: the state in which it ends is no
    state of the table, but its reward is counted. Truncation is no state: episodes go on.

    Attributes:
        name: What messages call the environment.
        kernel: P of S states and A actions.
        reward: Expected reward `[S, A]`.
        initial_distribution: Distribution of the first state `[S]`.
        observations: What is observed in each state, `[S, ...]`, by the names of the observation's
            parts; that of an observation without parts is "".
        keys: Digest of each state's key, `[S]`.
        terms: Expected terms of the reward `[S, A, T]`; T is 0 where none were asked for.
        term_names: Names of the terms.
        clocks: Attributes of the environment that count steps, and are no part of the state.
        previous: State from which each state was first reached, -1 where episodes begin, `[S]`;
            None for tables that are not made by stepping copies.
        actions_before: The action that led there `[S]`, -1 likewise.
        samples: How often each action of each state was sampled; 0 for exact tables.
        probability_error: Standard error of each stored transition `[K]`, None for exact tables.
        reward_error: Standard error of each reward `[S, A]`, None for exact tables.
    """

    name: str
    kernel: Kernel
    reward: FloatArray
    initial_distribution: FloatArray
    observations: Mapping[str, NDArray[Any]]
    keys: NDArray[np.str_]
    terms: FloatArray
    term_names: tuple[str, ...] = ()
    clocks: tuple[str, ...] = ()
    previous: IntArray | None = None
    actions_before: IntArray | None = None
    samples: int = 0
    probability_error: FloatArray | None = None
    reward_error: FloatArray | None = None
    _numbers: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check shapes, and make the arrays read-only: tables are shared."""
        shape = (self.kernel.num_states, self.kernel.num_actions)
        counts, states = len(self.term_names), shape[:1]
        for name, values, expected in (
            ("reward", self.reward, shape),
            ("initial_distribution", self.initial_distribution, states),
            ("keys", self.keys, states),
            ("terms", self.terms, (*shape, counts)),
            ("previous", self.previous, states),
            ("actions_before", self.actions_before, states),
            ("probability_error", self.probability_error, (self.kernel.matrix.nnz,)),
            ("reward_error", self.reward_error, shape),
            *((f"observations[{part!r}]", seen, None) for part, seen in self.observations.items()),
        ):
            if values is None:
                continue
            if np.shape(values)[: len(expected or states)] != (expected or states):
                raise ValueError(f"`{name}` must have shape {expected}, got {np.shape(values)}")
            values.flags.writeable = False
        numbers = {key: number for number, key in enumerate(self.keys.tolist())}
        object.__setattr__(self, "_numbers", numbers)

    @property
    def num_states(self) -> int:
        """S."""
        return self.kernel.num_states

    @property
    def num_actions(self) -> int:
        """A."""
        return self.kernel.num_actions

    def model(self, **options: Any) -> ArrayModel:
        """Return a bilevel problem on the table, see `bilevel_gym.model.ArrayModel` for options.

        By default both players have the environment's reward, and x the weights of the terms, or,
        where there are none, a shaping reward of each state.
        """
        options.setdefault("upper_reward", self.reward)
        options.setdefault("initial_distribution", self.initial_distribution)
        options.setdefault("name", self.name)
        if self.term_names:
            options.setdefault("features", self.terms)
        reward = options.pop("reward", self.reward)
        return TabularModel.from_arrays(self.kernel, reward, **options)

    def game(self, *, render_mode: str | None = None, **options: Any) -> TabularBilevelEnv:
        """Return a game of `model(**options)`."""
        return TabularBilevelEnv(self.model(**options), render_mode=render_mode)

    def state_of(self, env: gym.Env[Any, Any], key: Key | None = None) -> int | None:
        """Return the number of the state that an environment is in; None if it is not in the table.

        Args:
            env: The environment, after a reset.
            key: The one that the table was made with.

        Raises:
            ValueError: If the environment's state cannot be told by the default key.
        """
        return self._numbers.get(fingerprint(env, key, self.clocks))

    def actions_to(self, state: int) -> list[int]:
        """Return actions that lead from the first state to a state, in an exact table.

        They are numbered from 0, whatever the first action of the environment is called.

        Raises:
            ValueError: If there is no such state, or the table knows no paths.
        """
        state = check_at_least("state", state, 0, self.num_states - 1)
        if self.previous is None or self.actions_before is None:
            raise ValueError(f"the table of {self.name} knows no paths: it has none of its own")
        path = []
        while self.previous[state] >= 0:
            path.append(int(self.actions_before[state]))
            state = int(self.previous[state])
        return path[::-1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, `.npz` unless there is another suffix."""
        matrix = self.kernel.expanded().matrix
        described = {
            "format": FORMAT,
            "name": self.name,
            "term_names": self.term_names,
            "clocks": self.clocks,
            "samples": self.samples,
            "parts": [*self.observations],
        }
        arrays = {
            "matrix": matrix.data,
            "rows": matrix.indptr,
            "columns": matrix.indices,
            **{name: getattr(self, name) for name in ARRAYS[3:]},
            **{name: getattr(self, name) for name in OPTIONAL if getattr(self, name) is not None},
            **{f"observation{i}": seen for i, seen in enumerate(self.observations.values())},
            HEADER: np.array(json.dumps(described)),
        }
        write_whole(path, ".npz", lambda target: np.savez_compressed(target, **arrays))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tabulated:
        """Read a table that `save` wrote, `.npz` if no suffix is given; reading runs no code.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds something else.
        """
        path = path if Path(path).suffix else f"{os.fspath(path)}.npz"
        check_regular(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(str(file[HEADER]))
                if header["format"] != FORMAT:
                    raise ValueError(f"its format is {received(header['format'])}, not {FORMAT}")
                arrays = {name: file[name] for name in ARRAYS}
                others = {name: file[name] for name in OPTIONAL if name in file}
                parts = {part: file[f"observation{i}"] for i, part in enumerate(header["parts"])}
            size, count = arrays["reward"].shape
            stored = arrays.pop("matrix"), arrays.pop("columns"), arrays.pop("rows")
            return cls(
                name=str(header["name"]),
                kernel=Kernel(csr_array(stored, shape=(size * count, size)), size, count),
                observations=parts,
                term_names=tuple(map(str, header["term_names"])),
                clocks=tuple(map(str, header["clocks"])),
                samples=int(header["samples"]),
                **arrays,
                **others,
            )
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(f"{os.fspath(path)} holds no table of `tabulate` ({reason})") from None
