"""Values as JSON that carries no code, and archives that are read without trust.

A pickle names what is called to build a value, so that whoever writes it decides what runs. Here a
file holds numbers, strings, arrays, generators and containers of them. Where an object or a class
is part of a value, the file has its name, and the reader looks it up among those that it knows:
nothing is imported, and no constructor is called.
"""

from __future__ import annotations

import base64
import io
import json
import math
import random
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from typing import IO, Any

import numpy as np

__all__ = [
    "Codec",
    "NotPlain",
    "Untrusted",
    "checked_members",
    "dumps",
    "loaded_array",
    "loads",
    "name_of",
    "read_arrays",
    "readable",
    "vocabulary",
    "write_arrays",
]

# Archives of ours are not compressed, but for arrays in `.npz`. A small file that fills the memory
# is refused: more than this many bytes, at more than this many times their size in the file.
LARGE, TIMES = 1 << 28, 200

# So much of what was wrong with a file is told.
SAID = 200

# What says that there is no file; others come of places in it that do not exist.
ABSENT = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError

PLAIN = (type(None), bool, int, float, str)
GENERATORS = {
    kind.__name__: kind
    for kind in (
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.MT19937,
        np.random.Philox,
        np.random.SFC64,
    )
}


class Untrusted(ValueError):
    """A file that contains code, and is not trusted."""


class NotPlain(TypeError):
    """A value that has no form without code."""


def name_of(known: Any) -> str:
    """Return the name of a class or a function in a file."""
    return f"{known.__module__}.{known.__qualname__}"


class Codec:
    """Values as JSON and back, by a list of the classes and functions that may be part of them.

    Objects that are referred to several times, or refer to each other, do so again in what is
    decoded. An instance is its class and its attributes; classes that are copied in another way
    are refused.
    """

    def __init__(self, known: Mapping[str, Any]) -> None:
        """Know classes, functions and other constants by their names in files."""
        self._known = dict(known)
        self._names = {id(value): name for name, value in self._known.items()}

    def encode(self, value: Any) -> dict[str, Any]:
        """Return a value as JSON has it.

        Raises:
            NotPlain: If part of it is not known.
        """
        writer = _Writer(self._names)
        root = writer.item(value)
        # The table grows as its entries name others.
        return {"root": root, "objects": [writer.entry(held) for held in writer.held]}

    def decode(self, data: Any) -> Any:
        """Return the value that was encoded.

        Raises:
            Exception: Of any kind, if the data is none of `encode`, or names what is not known.
        """
        return _Reader(self._known, data["objects"]).value(data["root"])


def dumps(value: Any, known: Mapping[str, Any] | None = None) -> str:
    """Return a value as JSON; `known` are classes and functions that may be part of it, by name.

    Raises:
        NotPlain: If part of it is neither plain data nor known.
    """
    return json.dumps(Codec(known or {}).encode(value))


def loads(text: str | bytes, known: Mapping[str, Any] | None = None) -> Any:
    """Return the value that `dumps` has written.

    Raises:
        Exception: Of any kind, if the text is none of `dumps`, or names what is not known.
    """
    return Codec(known or {}).decode(json.loads(text))


class _Writer:
    """Writes mutable values as numbered entries of a table, others where they stand."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._numbers: dict[int, int] = {}
        self.held: list[Any] = []
        self._alive: list[Any] = []

    def item(self, value: Any) -> Any:
        """Return a value, or a reference to its entry."""
        kind = type(value)
        if kind in PLAIN:
            return value
        if id(value) in self._names:
            return {"known": self._names[id(value)]}
        if kind is tuple:
            return {"tuple": [self.item(entry) for entry in value]}
        if kind is frozenset:
            return {"frozenset": sorted(map(self.item, value), key=json.dumps)}
        if kind is bytes:
            return {"bytes": base64.b64encode(value).decode()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if isinstance(value, np.dtype):
            return {"dtype": _checked_dtype(value).str}
        if isinstance(value, np.generic):
            return {"scalar": _array_text(np.asarray(value))}
        if isinstance(value, Enum):
            return {"enum": [self._class(kind), value.name]}
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return {"named": [self._class(kind), [self.item(entry) for entry in value]]}
        number = self._numbers.setdefault(id(value), len(self.held))
        if number == len(self.held):
            self.held.append(value)
        return {"at": number}

    def entry(self, value: Any) -> list[Any]:
        """Return the entry of a mutable value."""
        kind = type(value)
        if kind is list:
            return ["list", [self.item(entry) for entry in value]]
        if kind in (dict, OrderedDict):
            pairs = [[self.item(key), self.item(entry)] for key, entry in value.items()]
            return ["ordered" if kind is OrderedDict else "dict", pairs]
        if kind is set:
            return ["set", sorted(map(self.item, value), key=json.dumps)]
        if kind is deque:
            return ["deque", [self.item(entry) for entry in value], value.maxlen]
        if kind is np.ndarray:
            return ["array", _array_text(value)]
        if kind is np.random.Generator:
            bits = value.bit_generator
            if GENERATORS.get(type(bits).__name__) is type(bits):
                return ["generator", type(bits).__name__, self._kept(bits.state)]
        elif kind is np.random.RandomState:
            return ["random state", self._kept(value.get_state())]
        elif kind is random.Random:
            return ["random", self._kept(value.getstate())]
        return ["instance", self._class(kind), self._kept(_attributes(value))]

    def _kept(self, value: Any) -> Any:
        """Return the item of a value that nobody else holds; numbers go by addresses."""
        self._alive.append(value)
        return self.item(value)

    def _class(self, kind: type) -> str:
        try:
            return self._names[id(kind)]
        except KeyError:
            raise NotPlain(f"{kind.__module__}.{kind.__qualname__}") from None


def vocabulary(value: Any, constant: Callable[[Any], str | None]) -> dict[str, Any]:
    """Return what a `Codec` must know to encode a value: classes and constants, by their names.

    `constant` returns the name of what is to be taken as it is, None for what has parts.

    Raises:
        NotPlain: If two of them have one name, or something is no plain data all the same.
    """
    collector = _Collector(constant)
    collector.item(value)
    for held in collector.held:
        collector.entry(held)
    return collector.found


class _Collector(_Writer):
    """Visits what is written, and collects what must be known."""

    def __init__(self, constant: Callable[[Any], str | None]) -> None:
        super().__init__({})
        self._constant = constant
        self.found: dict[str, Any] = {}

    def item(self, value: Any) -> Any:
        name = None if type(value) in PLAIN else self._constant(value)
        return super().item(value) if name is None else self._found(name, value)

    def entry(self, value: Any) -> list[Any]:
        return [] if type(value) is np.ndarray else super().entry(value)

    def _class(self, kind: type) -> str:
        return self._found(name_of(kind), kind)

    def _found(self, name: str, value: Any) -> str:
        other = self.found.setdefault(name, value)
        if other is not value and not other == value:
            raise NotPlain(f"two different {name}")
        return name


class _Reader:
    """Reads what a `_Writer` has written: first all entries, empty, then what they hold."""

    def __init__(self, known: Mapping[str, Any], table: list[Any]) -> None:
        self._known = known
        self._objects = [self._empty(*entry) for entry in table]
        for made, entry in zip(self._objects, table, strict=True):
            self._fill(made, *entry)
        # These are given containers, which must be full.
        for made, entry in zip(self._objects, table, strict=True):
            self._set_state(made, *entry)
        for made, entry in zip(reversed(self._objects), reversed(table), strict=True):
            self._set_up(made, *entry)

    def value(self, item: Any) -> Any:
        """Return what an item stands for."""
        if type(item) in PLAIN:
            return item
        ((tag, content),) = item.items()
        if tag == "at":
            return self._objects[content]
        if tag == "known":
            return self._known[content]
        if tag in ("tuple", "frozenset"):
            return (tuple if tag == "tuple" else frozenset)(self.value(entry) for entry in content)
        if tag == "bytes":
            return base64.b64decode(content)
        if tag == "complex":
            return complex(*content)
        if tag == "dtype":
            return _checked_dtype(np.dtype(content))
        if tag == "scalar":
            return _array(content)[()]
        if tag == "enum":
            return self._class(content[0], Enum)[content[1]]
        if tag == "named":
            return tuple.__new__(self._class(content[0], tuple), map(self.value, content[1]))
        raise ValueError(f"there are no values of kind {tag!r}")

    def _empty(self, kind: str, content: Any, *options: Any) -> Any:
        """Return the entry of a table as it is before it is filled."""
        if kind == "array":
            return _array(content)
        if kind == "deque":
            return deque(maxlen=options[0])
        if kind == "generator":
            return np.random.Generator(GENERATORS[content](0))
        if kind == "instance":
            return object.__new__(self._class(content, object))
        makers: dict[str, type[Any]] = {
            "list": list,
            "dict": dict,
            "ordered": OrderedDict,
            "set": set,
            "random state": np.random.RandomState,
            "random": random.Random,
        }
        return makers[kind]()

    def _fill(self, made: Any, kind: str, content: Any, *options: Any) -> None:
        if kind in ("list", "deque"):
            made.extend(self.value(entry) for entry in content)
        elif kind in ("dict", "ordered"):
            made.update((self.value(key), self.value(entry)) for key, entry in content)
        elif kind == "set":
            made.update(self.value(entry) for entry in content)

    def _set_state(self, made: Any, kind: str, content: Any, *options: Any) -> None:
        if kind == "generator":
            made.bit_generator.state = self.value(options[0])
        elif kind == "random state":
            made.set_state(self.value(content))
        elif kind == "random":
            made.setstate(self.value(content))
        elif kind == "instance":
            made.__dict__.update(_checked_names(self.value(options[0])))

    def _set_up(self, made: Any, kind: str, content: Any, *options: Any) -> None:
        """Let an instance set its state by itself, as a copy does, once those within it have."""
        if kind == "instance" and hasattr(type(made), "__setstate__"):
            made.__setstate__(self.value(options[0]))

    def _class(self, name: str, base: type) -> Any:
        kind = self._known[name]
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise ValueError(f"{name} is no {base.__name__}")
        return kind


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes that make up an instance, as a copy of it has them."""
    kind: Any = type(value)
    own = kind.__reduce__ is not object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__
    with suppress(TypeError):  # which is raised for what is no Python class throughout
        object.__new__(kind)
        # There is no dict where there are no attributes. A bare object is what it is.
        found = None if own or kind is object else value.__getstate__() or {}
        if isinstance(found, dict):
            return _checked_names(found)
    raise NotPlain(name_of(kind))


def _checked_names(attributes: Any) -> dict[str, Any]:
    for name in attributes:
        if not isinstance(name, str) or name.startswith("__"):
            raise NotPlain(f"attribute {name!r}")
    return attributes


def _checked_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None:
        raise NotPlain(f"dtype {dtype}")
    return dtype


def _array_text(array: np.ndarray[Any, Any]) -> str:
    _checked_dtype(array.dtype)
    memory = io.BytesIO()
    np.lib.format.write_array(memory, array, allow_pickle=False)
    return base64.b64encode(memory.getvalue()).decode()


def _array(text: str) -> np.ndarray[Any, Any]:
    content = base64.b64decode(text)
    return loaded_array(io.BytesIO(content), len(content))


def loaded_array(file: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    """Return the array of a `.npy` file of so many bytes, of the shape that the file says.

    Raises:
        ValueError: If it is none, holds objects, or has another length than it says.
    """
    start, version = file.tell(), np.lib.format.read_magic(file)
    read = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}[version]
    shape, _, dtype = getattr(np.lib.format, read)(file)
    # Before anything is allocated.
    expected = math.prod(shape) * _checked_dtype(dtype).itemsize
    if min(shape, default=0) < 0 or expected != size - (file.tell() - start):
        raise ValueError(f"an array of shape {shape} and dtype {dtype} has not {size} bytes")
    file.seek(start)
    return np.load(file, allow_pickle=False)


def write_arrays(archive: zipfile.ZipFile, folder: str, arrays: Mapping[str, Any]) -> None:
    """Write arrays as members of an archive, in a folder such as "buffer/", "" for none."""
    for name, array in arrays.items():
        with archive.open(f"{folder}{name}.npy", "w", force_zip64=True) as member:
            np.save(member, array)


def read_arrays(archive: zipfile.ZipFile, folder: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays in a folder of an archive by name, of the shapes that the files say.

    Raises:
        ValueError: If one is damaged or holds objects.
    """
    arrays = {}
    for name in checked_members(archive):
        if name.startswith(folder):
            with archive.open(name) as member:
                array = loaded_array(member, archive.getinfo(name).file_size)
            arrays[name[len(folder) :].removesuffix(".npy")] = array
    return arrays


def checked_members(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the members of an archive.

    Raises:
        ValueError: If one occurs twice, or would fill the memory from a small file.
    """
    members = archive.infolist()
    names = [member.filename for member in members]
    if len({*names}) != len(names):
        raise ValueError("a member occurs twice")
    for member in members:
        if member.file_size > max(LARGE, TIMES * member.compress_size):
            raise ValueError(f"{member.filename!r} is {member.file_size} bytes of almost nothing")
    return names


@contextmanager
def readable(what: Any) -> Iterator[None]:
    """Turn what libraries raise where a file is damaged or forged, all sorts of errors, into one.

    Raises:
        ValueError: In place of anything but `Untrusted`, and where there is no such file to open.
    """
    try:
        yield
    except (Untrusted, *ABSENT):
        raise
    except Exception as error:
        # What a library says of a pickle in a file may be advice to trust it.
        said = str(error).partition("\n")[0][:SAID] if isinstance(error, ValueError) else ""
        raise ValueError(
            f"{what} cannot be read: it is damaged, or of other versions of the libraries "
            f"({said or type(error).__name__})"
        ) from error
