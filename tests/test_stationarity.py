"""The second score: the squared norm of the exact hyper-gradient projected on the box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilevel_gym.benchmark import charts
from bilevel_gym.benchmark.charts import make_styles
from bilevel_gym.optimizers import projected_gradient_norm

pytest.importorskip("pandas")

from bilevel_gym.benchmark.tables import summarise  # noqa: E402

from .test_report import results  # noqa: E402

Patch = pytest.MonkeyPatch


def test_it_is_zero_exactly_where_no_feasible_direction_ascends() -> None:
    """Entries at a bound count unless they point out of the box, as in the tangent cone."""
    low, high = np.array([-1.0, 0.0, 0.0]), np.array([1.0, 0.5, 2.0])
    rng = np.random.default_rng(0)
    zeros = 0
    for _ in range(200):
        place = rng.integers(3, size=3)  # at the lower bound, at the upper one, inside
        x = np.choose(place, [low, high, 0.5 * (low + high)])
        gradient = rng.choice([-3.0, -1e-9, 0.0, 1e-9, 3.0], size=3)
        outward = ((place == 0) & (gradient < 0.0)) | ((place == 1) & (gradient > 0.0))
        tangent = np.where(outward, 0.0, gradient)
        norm = projected_gradient_norm(x, gradient, low, high)
        assert (norm == 0.0) == (not tangent.any())
        assert norm <= np.linalg.norm(tangent) * (1.0 + 1e-6) + 1e-12
        zeros += norm == 0.0
    assert zeros > 5
    # Just inside a bound it is as small as the way there, where the tangent cone's still is 3.
    x = np.array([1.0 - 1e-9, 0.2, 1.0])
    assert projected_gradient_norm(x, np.array([3.0, 0.0, 0.0]), low, high) < 2e-9


def test_stationarity_is_the_squared_norm_at_the_x_returned_and_its_median_over_runs() -> None:
    frame = results({("hills", "exact"): (2.0, 2.0, 2.0)})
    frame.loc[(frame["seed"] == 2) & (frame["step"] == 1), "estimated_objective"] = 9.0
    tables = summarise(frame)
    # Of seed 2 the x of step 1 is returned, where the norm is 1; of the others, that of step 4.
    np.testing.assert_allclose(tables.runs["returned_stationarity"], [1e-10, 1e-8, 1.0])
    np.testing.assert_allclose(tables.cells["returned_stationarity"], [1e-8])


def test_the_figure_of_stationarity_shows_medians_and_leaves_zeros_out(monkeypatch: Patch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(charts, "save_figure", lambda figure, path: drawn.append(figure))
    rows = summarise(results({("hills", "exact"): (2.0, 2.0, 2.0)})).rows
    rows.loc[rows["step"] == 2, "stationarity"] = 0.0
    rows = rows[(rows["seed"] == 0) | (rows["step"] < 4)]  # two runs stop early, and stay there
    styles = make_styles(["exact"])
    charts.draw_stationarity({"hills": {"exact": rows}}, styles, Path("none.png"))
    (line,) = drawn[0].get_axes()[0].get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(line.get_ydata(), [1.0, 1e-2, 0.0, 1e-6, 1e-6])
    path = line.get_transform().transform_path_non_affine(line.get_path())
    assert list(np.isfinite(path.vertices[:, 1])) == [True, True, False, True, True]
