"""Files that are whole, whoever else writes them."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

import bilevel_gym
from bilevel_gym.core.files import ABANDONED, replacing


def test_two_writers_of_one_path_do_not_meet(tmp_path: Path) -> None:
    path, failures, seen = tmp_path / "both.json", list[Exception](), set[str]()

    def write(name: str) -> None:
        try:
            for _ in range(200):
                with replacing(path) as temporary:
                    temporary.write_text(json.dumps(5000 * [name]))
                (only,) = set(json.loads(path.read_text()))
                seen.add(only)
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures and seen == {"a", "b"}
    assert [*tmp_path.iterdir()] == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        assert temporary.suffix == ".txt" and temporary.parent == tmp_path
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_only_abandoned_temporary_files_of_the_path_are_removed(tmp_path: Path) -> None:
    path, age = tmp_path / "kept.npz", time.time() - 2 * ABANDONED
    names = (
        ".kept.0123456789abcdef.npz",
        "..kept.0123456789abcdef.fedcba9876543210.npz",  # of a writer within a writer
        ".kept.0123456789abcdee.npz",  # new
        ".kept.npz",
        ".kept.0123456789abcdef.zip",
        ".other.0123456789abcdef.npz",
    )
    for name in names:
        (tmp_path / name).write_text("left")
        if name != names[2]:
            os.utime(tmp_path / name, (age, age))
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert {found.name for found in tmp_path.iterdir()} == {path.name, *names[2:]}


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 251}.npz"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_writer_that_is_killed_leaves_the_last_whole_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    path, parts = tmp_path / "killed.json", 200
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # it must not come back to pytest
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for count in itertools.count():
                with replacing(path) as temporary, temporary.open("w") as file:
                    for _ in range(parts):
                        file.write(f"{count}\n")
                        file.flush()
                os.write(writing, f"{count}\n".encode())
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as lines:
        assert lines.readline() == "0\n"
        time.sleep(0.02)
        os.kill(child, number)
        os.waitpid(child, 0)
        told = int([line for line in ["0\n", *lines] if line.endswith("\n")][-1])
    found = path.read_text().split()
    assert len(found) == parts and len(set(found)) == 1 and int(found[0]) >= told
    left = {entry.name for entry in tmp_path.iterdir()} - {path.name}
    assert all(name.startswith(".killed.") for name in left)
    assert not left or number != signal.SIGINT


# A file is opened to be written, or something is written to a path.
WRITES = re.compile(r"""\.write_text\(|\.write_bytes\(|savefig\(|open\([^)]*["'][wx]b?["']""")


def test_the_package_writes_files_beside_their_place() -> None:
    package = Path(bilevel_gym.__file__).parent
    lines = [
        f"{path.name}: {line.strip()}"
        for folder in (package, package / "envs", package / "wrappers")  # links, not followed
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if WRITES.search(line)
    ]
    assert len(lines) > 5
    beside = ("temporary", "part.write", "archive.open")
    assert not [line for line in lines if not any(word in line for word in beside)]


def test_who_reads_the_old_file_reads_it_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "read.txt"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as temporary:
            temporary.write_text("new, and longer")
        assert reader.read() == "old" and path.read_text() == "new, and longer"
