"""Files that are whole, whoever else writes them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from bilevel_gym.core.files import replacing


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
