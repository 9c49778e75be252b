"""What is planted in files by those who want it to run, or to fill the memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch as th

Members = dict[str, bytes]

MARK = Path("a stranger was here")


class Planted:
    """What makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        """Return the call that unpickling makes."""
        return os.mkdir, (str(MARK),)


def objects() -> bytes:
    """Return a `.npy` of objects."""
    memory = io.BytesIO()
    np.save(memory, np.array([Planted()], dtype=object), allow_pickle=True)
    return memory.getvalue()


def huge() -> bytes:
    """Return a `.npy` that claims to be an exabyte."""
    memory = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**17,)}
    np.lib.format.write_array_header_1_0(memory, header)
    return memory.getvalue() + bytes(64)


def torches(code: bytes | None = None) -> bytes:
    """Return what `torch.save` makes of an object, or of code in place of it."""
    memory = io.BytesIO()
    th.save(dict.fromkeys(("state_dict", "data"), Planted()), memory)
    if code is None:
        return memory.getvalue()
    with zipfile.ZipFile(memory) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return archived({**members, "archive/data.pkl": code})


def spread() -> bytes:
    """Return a tensor of an exabyte in four bytes."""
    memory = io.BytesIO()
    th.save({"step": th.zeros(1).expand(10**17)}, memory)
    return memory.getvalue()


def table(name: str) -> Any:
    """Return an instance of what the name says, as the codec writes it."""
    return {"root": {"at": 0}, "objects": [["instance", name, {"at": 1}], ["dict", []]]}


CONTENTS: dict[str, Callable[[], bytes]] = {
    "pickle": lambda: pickle.dumps(Planted()),
    "old pickle": lambda: pickle.dumps(Planted(), protocol=0),
    "import": lambda: b"cstranger\nClass\n.",
    "import of tensors": lambda: torches(b"cstranger\nClass\n."),
    "cloudpickle": lambda: cloudpickle.dumps(Planted()),
    "object array": objects,
    "huge array": huge,
    "tensors": torches,
    "spread tensor": spread,
    "archive": lambda: archived(
        {"data": pickle.dumps(Planted()), "data.pkl": pickle.dumps(Planted())}
    ),
    "brackets": lambda: b"[" * 200_000,
    "digits": lambda: b"1" * 20_000,
    "class": lambda: json.dumps(table("stranger.Class")).encode(),
    "function": lambda: json.dumps({"root": {"known": "os.system"}, "objects": []}).encode(),
    "nothing": lambda: b"",
}


def archived(members: Mapping[str, bytes], *, compressed: bool = False) -> bytes:
    """Return an archive."""
    memory = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(memory, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return memory.getvalue()


def members_of(path: Path) -> Members:
    """Return the members of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
