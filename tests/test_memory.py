"""What cannot fit into memory is refused before it is begun."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from bilevel_gym.core import kernel, memory
from bilevel_gym.envs import BilevelGridWorld, BilevelRandomMDP
from bilevel_gym.envs.grid_world import random_map


def test_the_memory_that_is_available_is_a_part_of_what_is_built_in() -> None:
    available = memory.available_memory()
    assert available is not None and 2**26 < available < 2**50


def test_what_the_system_says_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:  24000 kB\nMemAvailable:   1000 kB\n", encoding="ascii")
    monkeypatch.setattr(memory, "MEMINFO", str(told))
    assert memory.available_memory() == 1_024_000
    monkeypatch.setattr(memory, "MEMINFO", str(tmp_path / "missing"))
    built_in = memory.available_memory()
    assert built_in is None or built_in > 2**26


def test_sizes_that_cannot_fit_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2_000_000_000)
    fits = "must fit into memory, got {}: about {} GB are needed and 2 GB are available"
    with pytest.raises(ValueError, match="`size` " + fits.format(4000, "17.6")):
        random_map(4000)
    with pytest.raises(ValueError, match="`size` must fit into memory"):
        BilevelGridWorld(size=4000)
    with pytest.raises(ValueError, match="`num_states` " + fits.format(16_000_000, "24")):
        BilevelRandomMDP(num_states=16_000_000, num_actions=3, branching=5)
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # nobody says: it is tried
    assert BilevelGridWorld(size=5).model.num_states > 10


def test_kernels_that_cannot_be_counted_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "LARGEST", 5)
    matrix = csr_array(np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="`matrix` must store at most 3 transitions, got 4"):
        kernel.Kernel(matrix, 2, 1)


@pytest.mark.usefixtures("compiled")
def test_large_kernels_read_their_probabilities_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    game = BilevelGridWorld(size=12)
    x = np.random.default_rng(0).uniform(-0.1, 0.1, game.upper_space.shape)
    expected = game.evaluate(x)
    monkeypatch.setattr(kernel, "COPIED_STATES", 1)
    other = BilevelGridWorld(size=12)
    found = other.evaluate(x)
    np.testing.assert_array_equal(found.hyper_gradient, expected.hyper_gradient)
    assert "_gatherer" not in other.model.lower_mdp(x).kernel.__dict__
