"""Files of models that are read without trust.

The layout is that of Stable-Baselines3: `data`, a JSON of attributes, beside the state of networks
and optimisers. What JSON does not have, the library pickles, and a pickle runs whatever code its
writer chose. Here such attributes are written by a `Codec` that knows a fixed list of classes. Only
what is not on it, a function of the user's for one, is still a pickle; `load` refuses it unless it
is replaced by `custom_objects` or the file is trusted.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common import torch_layers
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import open_path, recursive_getattr, save_to_zip_file
from stable_baselines3.common.type_aliases import (
    GymEnv,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import (
    ConstantSchedule,
    FloatSchedule,
    LinearSchedule,
)
from stable_baselines3.sac import policies as sac_policies
from torch.nn.modules import activation
from torch.overrides import TorchFunctionMode

from ..core.files import write_whole
from ..core.plain import (
    Codec,
    NotPlain,
    Untrusted,
    checked_members,
    dumps,
    loads,
    name_of,
    readable,
)

__all__ = [
    "Archived",
    "ArchivedPolicy",
    "allow",
    "opened",
    "tensors",
]

# Keys of an entry of `data`: what the codec has written, and the library's pickles.
ENCODED, PICKLED = ":plain:", ":serialized:"

# Attributes that are made again from others, and those that are never read from a file: a string
# as environment would be imported by its name.
REMADE = (
    "lr_schedule",
    "exploration_schedule",
    "batch_norm_stats",
    "batch_norm_stats_target",
    "_flat",
)
NEVER = {
    "policy",
    "device",
    "env",
    "replay_buffer",
    "rollout_buffer",
    "_vec_normalize_env",
    "_logger",
    "_custom_logger",
}

VARIABLES = "pytorch_variables.pth"

KNOWN: dict[str, Any] = {}


def allow(*known: Any) -> None:
    """Add classes and functions to those that may be part of what is read."""
    KNOWN.update({name_of(each): each for each in known})


allow(
    *(spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete),
    *(spaces.Dict, spaces.Tuple),
    *(ConstantSchedule, FloatSchedule, LinearSchedule, TrainFreq, TrainFrequencyUnit),
    *(ReplayBuffer, BasePolicy._dummy_schedule),
    *(sac_policies.SACPolicy, sac_policies.CnnPolicy, sac_policies.MultiInputPolicy),
    *(torch_layers.FlattenExtractor, torch_layers.NatureCNN, torch_layers.CombinedExtractor),
    *(getattr(activation, name) for name in activation.__all__),
    *(each for each in vars(th.optim).values() if isinstance(each, type)),
    *(np.float32, np.float64),
)


Self = TypeVar("Self", bound="Archived")
P = TypeVar("P", bound="ArchivedPolicy")


class Archived(BaseAlgorithm):
    """An algorithm whose files are whole, and run no code when they are loaded."""

    # Names of what `_get_torch_save_params` returns: a file has no others.
    states: ClassVar[frozenset[str]]
    variables: ClassVar[frozenset[str]] = frozenset()

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the model; the arguments are those of `save` in Stable-Baselines3.

        ".zip" is added to a path without an extension. A file is whole or as it was. Attributes
        that are not plain data, nor classes of this package, Stable-Baselines3 and torch, are
        pickled: `load` needs `custom_objects` for them, or `trust=True`.
        """
        left = {*(exclude or ())}
        states, variables = self._get_torch_save_params()
        skipped = {*self._excluded_save_params(), *left} - {*(include or ())}
        skipped |= {name.split(".")[0] for name in (*states, *variables)}
        data = {name: _encoded(value) for name, value in vars(self).items() if name not in skipped}
        extra = {name: recursive_getattr(self, name) for name in variables}

        def write(target: Any) -> None:
            save_to_zip_file(target, data, self.get_parameters(), extra)
            with zipfile.ZipFile(target, "a") as archive:
                self._write(archive, left)

        write_whole(path, ".zip", write)

    @classmethod
    def load(
        cls: type[Self],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a model; the arguments are those of `load` in Stable-Baselines3.

        Nothing in the file is run. Files of Stable-Baselines3 itself and of earlier versions, and
        attributes that `save` had to pickle, contain code: `custom_objects={name: value}` replaces
        an attribute of that name, and `trust=True` runs what the file says. Trust only files whose
        writer you trust.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is damaged or none of `save`, contains code and is not trusted,
                or the environment does not fit.
        """
        if custom_objects is not None and not isinstance(custom_objects, dict):
            raise ValueError(f"`custom_objects` must be a dict or None, got {custom_objects!r}")
        # What is set in any case need not be read; of `policy_kwargs` the library checks that they
        # are those that were saved.
        given = {name: value for name, value in kwargs.items() if name != "policy_kwargs"}
        given |= custom_objects or {}
        options = print_system_info, force_reset
        with opened(path, "zip") as file:
            with readable(_name(path)), zipfile.ZipFile(file) as archive:
                data, allowed = cls._checked(archive, given, trust)
            refused = [name for name, value in data.items() if _is_pickled(value)]
            if refused and not trust:
                raise Untrusted(
                    f"{_name(path)} has pickles, which can run code, as {', '.join(refused)}; pass "
                    "`custom_objects={name: value}` for each, or `trust=True` if you trust whoever "
                    "wrote it"
                )
            found = {name: value for name, value in data.items() if not _is_pickled(value)}
            with _built(_name(path)), allowed:
                model = super().load(file, env, device, {**found, **given}, *options, **kwargs)
                with zipfile.ZipFile(file) as archive:
                    model._read(archive)
        return model

    def set_parameters(
        self,
        load_path_or_dict: Any,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """Set the state of networks and optimisers; see `set_parameters` in Stable-Baselines3.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If a file is damaged, or has other parts than this model.
        """
        if isinstance(load_path_or_dict, dict):
            super().set_parameters(load_path_or_dict, exact_match, device)
            return
        path = load_path_or_dict
        with opened(path, "zip") as file:
            with readable(_name(path)), zipfile.ZipFile(file) as archive:
                self._check_states(archive)
            with _built(_name(path)):
                super().set_parameters(file, exact_match, device)

    @classmethod
    def _checked(
        cls, archive: zipfile.ZipFile, given: Mapping[str, Any], trust: bool
    ) -> tuple[dict[str, Any], _Allowance]:
        """Return the attributes in a file, pickles as they are, and the memory that it may ask for.

        Attributes that are given are not read.
        """
        checked_members(archive)
        stored = dict(json.loads(archive.read("data")))
        given = {**dict.fromkeys(REMADE), **given}
        data = {name: given[name] if name in given else _decoded(stored[name]) for name in stored}
        if trust:
            return data, _Allowance(math.inf)
        for name, value in data.items():
            taken = inspect.getattr_static(cls, name, None)  # a method, or a property
            method = callable(taken) or hasattr(type(taken), "__get__")
            if name not in given and (method or (name in NEVER and value is not None)):
                raise ValueError(f"{name!r} is no attribute of a model in a file")
        return data, _Allowance(cls._check_states(archive))

    @classmethod
    def _check_states(cls, archive: zipfile.ZipFile) -> int:
        """Return how many numbers the tensors of an archive have, and check what has them."""
        names = [name for name in checked_members(archive) if name.endswith(".pth")]
        count = 0
        for name in names:
            if name != VARIABLES and name.removesuffix(".pth") not in cls.states:
                raise ValueError(f"{name!r} is no part of a {cls.__name__}")
            state = tensors(archive.read(name))
            if name == VARIABLES and state is not None and not cls.variables >= {*state}:
                raise ValueError(f"{[*state]} are no variables of a {cls.__name__}")
            count += _numbers(state)
        return count

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *REMADE]

    def _write(self, archive: zipfile.ZipFile, exclude: set[str]) -> None:
        """Write what a file has beside the library's members."""

    def _read(self, archive: zipfile.ZipFile) -> None:
        """Read what `_write` has written."""


class ArchivedPolicy(BasePolicy):
    """A policy whose own files run no code when they are loaded."""

    def save(self, path: Any) -> None:
        """Save the policy alone, as `save` in Stable-Baselines3, to a path or an open file.

        Where its arguments are not plain data they are pickled, and `load` needs `trust=True`.
        """
        arguments = self._get_constructor_parameters()
        try:
            data: Any = dumps(arguments, KNOWN)
        except NotPlain:
            data = arguments
        memory = io.BytesIO()
        th.save({"state_dict": self.state_dict(), "data": data}, memory)
        content = memory.getvalue()
        if isinstance(path, str | pathlib.Path):
            write_whole(path, "", lambda temporary: temporary.write_bytes(content))
        else:
            path.write(content)

    @classmethod
    def load(
        cls: type[P], path: Any, device: th.device | str = "auto", *, trust: bool = False
    ) -> P:
        """Load a policy alone; see `load` in Stable-Baselines3.

        `trust` is whether code in the file may run; files of earlier versions contain some.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is damaged or none of `save`, or contains code and is not
                trusted.
        """
        with opened(path, "") as file:
            content = file.read()
        try:
            saved = tensors(content)
            arguments, allowance = loads(saved["data"], KNOWN), _Allowance(_numbers(saved))
        except Exception as error:
            if trust:
                return super().load(io.BytesIO(content), device)  # type: ignore[arg-type]
            raise ValueError(
                f"{_name(path)} cannot be read: it is damaged, or has pickles, which can run code; "
                f"pass `trust=True` if you trust whoever wrote it ({type(error).__name__})"
            ) from error
        with readable(_name(path)), allowance:
            policy = cls(**arguments)
            policy.load_state_dict(saved["state_dict"])
        return policy.to(device if device != "auto" else policy.device)


@contextmanager
def opened(path: Any, suffix: str) -> Iterator[Any]:
    """Open a file to read from, with the suffix if there is none without; streams stay open.

    Raises:
        FileNotFoundError: If there is none.
    """
    file: Any = open_path(path, "r", suffix=suffix)
    try:
        yield file
    finally:
        if isinstance(path, str | pathlib.Path):
            file.close()


class _Allowance(TorchFunctionMode):
    """Refuses to make networks much larger than those in a file.

    Widths are but numbers in it: those of a forged one would fill the memory.
    """

    def __init__(self, numbers: float) -> None:
        super().__init__()
        self._left = 4.0 * numbers + 1e6

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is th.empty:
            sizes = args[0] if args and not isinstance(args[0], int) else args
            self._left -= math.prod(sizes)
            if self._left < 0:
                raise ValueError("the networks are larger than those that were saved")
        return func(*args, **(kwargs or {}))


@contextmanager
def _built(name: str) -> Iterator[None]:
    """Turn errors of a model that is built from what does not fit together into one line."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name} does not make a model: {type(error).__name__}: {first}"
        ) from error


def _name(path: Any) -> str:
    return str(path) if isinstance(path, str | pathlib.Path) else "the file"


def _is_plain(value: Any) -> bool:
    """Return whether JSON has a value exactly, and nobody takes it for another entry."""
    if type(value) in (list, dict):
        keys = value if isinstance(value, dict) else ()
        parts = value.values() if isinstance(value, dict) else value
        plain = all(type(key) is str and not key.startswith(":") for key in keys)
        return plain and all(map(_is_plain, parts))
    return type(value) in (type(None), bool, int, float, str)


def _encoded(value: Any) -> Any:
    """Return an attribute as JSON has it, or as it is if only a pickle does."""
    try:
        return value if _is_plain(value) else {ENCODED: Codec(KNOWN).encode(value)}
    except NotPlain:
        return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and ENCODED in value:
        return Codec(KNOWN).decode(value[ENCODED])
    return value


def _is_pickled(value: Any) -> bool:
    return isinstance(value, dict) and PICKLED in value


def tensors(content: bytes) -> Any:
    """Return what `torch.save` has written, of tensors and containers only.

    Raises:
        Exception: Of any kind, if it holds anything else or is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        checked_members(archive)
    return th.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _numbers(state: Any) -> int:
    """Return how many numbers there are in the tensors of nested containers."""
    if isinstance(state, th.Tensor):
        # Entries may share memory, so that a few bytes are a tensor of any size.
        if state.numel() * state.element_size() > state.untyped_storage().nbytes():
            raise ValueError(f"a tensor of shape {tuple(state.shape)} is larger than its memory")
        return state.numel()
    if isinstance(state, Mapping):
        return sum(map(_numbers, state.values()))
    return sum(map(_numbers, state)) if isinstance(state, list | tuple) else 0
