"""Imports point downward and never in a circle."""

from __future__ import annotations

import pytest

from . import layers


@pytest.fixture(scope="module")
def measured() -> layers.Measured:
    """Measure the tree once."""
    return layers.measure()


def test_no_import_points_upward_or_names_a_higher_module_in_a_string(
    measured: layers.Measured,
) -> None:
    assert measured.upward == []


def test_no_modules_import_each_other(measured: layers.Measured) -> None:
    assert measured.circles == []


def test_names_in_strings_are_found() -> None:
    module = "bilevel_gym.envs.tasks"
    entry_points = layers.named_in_strings(module, ["bilevel_gym.envs.grid_world"])
    assert entry_points == {"bilevel_gym.envs.grid_world"}
