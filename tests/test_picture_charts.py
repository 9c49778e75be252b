"""Tests of charts: axes, lines, areas, bars and their key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bilevel_gym.rendering.canvas import THEME, Rectangle, frame, new_surface
from bilevel_gym.rendering.key import KEY_ROW, KeyEntry, draw_key
from bilevel_gym.rendering.picture_charts import (
    AXIS_WIDTH,
    Axis,
    BarChart,
    Chart,
    Series,
    draw_bars,
    draw_chart,
    nice_limit,
    nice_ticks,
)
from bilevel_gym.rendering.signs import ICON_SIDE, key_triangle_sprite
from bilevel_gym.rendering.strokes import LineStyle

from .helpers import refusals

SIZE = (400, 240)
WHOLE: Rectangle = (20, 20, 360, 200)

# A division by zero or an overflow would only show as a sign that is missing from a picture.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def drawn(chart: Chart | BarChart, rectangle: Rectangle = WHOLE) -> NDArray[np.int64]:
    surface = new_surface(SIZE)
    if isinstance(chart, Chart):
        draw_chart(surface, rectangle, chart)
    else:
        draw_bars(surface, rectangle, chart)
    return frame(surface).astype(int)


def line(y: list[float], **style: Any) -> Chart:
    points = Series(np.linspace(0.0, 1.0, len(y)), np.array(y), LineStyle(**style))
    return Chart(Axis(0.0, 1.0, "x"), Axis(0.0, 1.0, "y"), (points,))


def like(picture: NDArray[np.int64], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.abs(picture - np.array(colour)).max(axis=2) < 40


def plot_of(picture: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the inside of the plot, found by its frame."""
    rim = (picture == np.array(THEME.muted)).all(axis=2)
    rows, columns = np.flatnonzero(rim.sum(axis=1) > 250), np.flatnonzero(rim.sum(axis=0) > 60)
    return picture[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]


# Numbers on axes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "limit"),
    [(0.0, 1.0), (0.03, 0.05), (1.0, 1.0), (1.01, 2.0), (8.01, 10.0), (20.0, 20.0), (530.0, 1e3)],
)
def test_limits_are_round_and_not_exceeded(value: float, limit: float) -> None:
    assert nice_limit(value) == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.0, 10.0, 3, [0.0, 5.0, 10.0]),
        (-100.0, 100.0, 5, [-100.0, -50.0, 0.0, 50.0, 100.0]),
        (0.0, 0.3, 4, [0.0, 0.1, 0.2, 0.3]),
        (3.0, 9.0, 2, [5.0]),
    ],
)
def test_ticks_are_round_within_the_axis_and_not_too_many(
    low: float, high: float, most: int, ticks: list[float]
) -> None:
    assert nice_ticks(low, high, most) == pytest.approx(ticks)
    rng = np.random.default_rng(most)
    for width in 10.0 ** rng.uniform(-6.0, 6.0, 80):
        found = nice_ticks(low, low + width, most)
        assert len(found) <= most
        assert all(-1e-8 * width <= tick - low <= (1.0 + 1e-8) * width for tick in found)


def test_places_on_an_axis_are_kept_within_it() -> None:
    places = Axis(-1.0, 3.0).place(np.array([-5.0, -1.0, 0.0, 3.0, 9.0]))
    np.testing.assert_array_equal(places, [0.0, 0.0, 0.25, 1.0, 1.0])


# Lines and areas --------------------------------------------------------------------------------


def test_a_line_runs_where_its_points_are() -> None:
    plot = plot_of(drawn(line([0.0, 1.0], colour=(200, 0, 0))))
    height, width = plot.shape[:2]
    rows, columns = np.nonzero(like(plot, (200, 0, 0)))
    # A straight line from the lower left to the upper right corner, two pixels wide.
    offset = (1.0 - rows / (height - 1)) - columns / (width - 1)
    assert np.abs(offset).max() < 4.0 / height
    assert set(range(5, width - 5)) <= set(columns.tolist())


@pytest.mark.parametrize("bend", [1, 3])  # points at equal distances, and not
def test_dashes_leave_parts_of_a_line_out(bend: int) -> None:
    def share(dashes: tuple[float, float] | None) -> float:
        points = Series(
            np.linspace(0.0, 1.0, 50) ** bend, np.full(50, 0.5), LineStyle((0, 0, 0), dashes)
        )
        plot = plot_of(drawn(Chart(Axis(0.0, 1.0), Axis(0.0, 1.0), (points,))))
        return float(like(plot, (0, 0, 0)).any(axis=0).mean())

    assert share(None) > 0.99
    # Round ends lengthen dashes by the width of the line.
    assert share((9.0, 9.0)) == pytest.approx((9 + 2) / 18, abs=0.05)
    assert share((2.0, 8.0)) == pytest.approx((2 + 2) / 10, abs=0.05)


def test_an_area_is_filled_down_to_zero() -> None:
    plot = plot_of(drawn(line([0.5, 0.5], colour=(40, 40, 120), filled=True)))
    height = plot.shape[0]
    assert like(plot, THEME.light)[: height // 2 - 3, 5:-5].mean() > 0.95  # but for the rules
    assert not like(plot, THEME.light)[height // 2 + 3 :, 5:-5].any()


def test_values_beyond_the_axis_stay_within_the_plot() -> None:
    picture = drawn(line([-5.0, 7.0, 0.5], colour=(200, 0, 0)))
    red = like(picture, (200, 0, 0))
    assert red.any()
    rows, columns = np.nonzero(red)
    assert rows.min() > 30 and rows.max() < 190
    assert columns.min() >= 20 + AXIS_WIDTH and columns.max() < 380


def test_the_mark_stands_at_its_place_with_or_without_the_follower() -> None:
    chart = Chart(Axis(-1.0, 1.0, "x"), Axis(0.0, 1.0, "y"), mark=0.5)
    plot = plot_of(drawn(chart))
    columns = np.flatnonzero(like(plot, THEME.accent).mean(axis=0) > 0.9)
    assert np.abs(columns / (plot.shape[1] - 1) - 0.75).max() < 0.01 and len(columns)
    pinned = Chart(chart.x_axis, chart.y_axis, mark=0.5, pinned=True)
    more = like(drawn(pinned), THEME.accent).sum() - like(drawn(chart), THEME.accent).sum()
    assert more > 50


def test_nothing_is_drawn_outside_of_the_rectangle() -> None:
    chart = line([0.0, 1.0, 0.2], filled=True)
    bars = BarChart(Axis(0.0, 1.0, "rates", " %"), ("one", "two"), np.array([0.0, 1.0]), "g")
    for picture in (drawn(chart), drawn(bars)):
        outside = picture.copy()
        outside[20:220, 20:388] = THEME.page  # the last number is centred below the end
        assert (outside == np.array(THEME.page)).all()


# Bars -------------------------------------------------------------------------------------------


def bars(values: list[float], gradient: list[float] | None = None) -> BarChart:
    names = tuple(f"bar {i}" for i in range(len(values)))
    slopes = None if gradient is None else np.array(gradient)
    return BarChart(
        Axis(0.0, 2.0, "rates"), names, np.array(values), "g", slopes, colour=(0, 0, 200)
    )


def test_bars_are_as_high_as_their_values() -> None:
    blue = like(drawn(bars([0.5, 1.0, 2.0])), (0, 0, 200))
    heights = []
    for slot in np.array_split(blue[:, 20 + AXIS_WIDTH : 380], 3, axis=1):
        rows = np.flatnonzero(slot.any(axis=1))
        heights.append(int(rows[-1] - rows[0]))
    assert heights[1] == pytest.approx(2 * heights[0], abs=2)
    assert heights[2] == pytest.approx(4 * heights[0], abs=3)


def test_triangles_show_sign_and_size_of_the_derivatives() -> None:
    picture = drawn(bars([1.0, 1.0, 1.0], [4.0, 1.0, -4.0]))
    without = drawn(bars([1.0, 1.0, 1.0]))
    # The numbers below the triangles are muted.
    dark = (picture != without).any(axis=2) & like(picture, THEME.ink)
    counts = [int(part.sum()) for part in np.array_split(dark[:, 64:380], 3, axis=1)]
    # A quarter of the area for a quarter of the size; the negative one is hollow.
    assert counts[0] > 3 * counts[1] > 0
    assert 0 < counts[2] < 0.6 * counts[0]


@pytest.mark.parametrize("gradient", [[0.0, 0.0], [1e-9, 0.0], [1e300, -1e300]])
def test_any_derivative_can_be_shown(gradient: list[float]) -> None:
    assert (drawn(bars([0.0, 1.0], gradient)) != drawn(bars([0.0, 1.0]))).any()


# The key ----------------------------------------------------------------------------------------


def test_the_key_shows_each_sign_with_words_and_leaves_out_what_does_not_fit() -> None:
    entries = [
        KeyEntry(LineStyle((200, 0, 0)), "a line"),
        KeyEntry(LineStyle((0, 0, 200), filled=True), "an area", "with a note"),
        KeyEntry(key_triangle_sprite(1), "a triangle"),
        KeyEntry(LineStyle((0, 200, 0)), "too much"),
    ]
    surface = new_surface(SIZE)
    draw_key(surface, (10, 10, 300, 3 * KEY_ROW + 5), entries)
    picture = frame(surface).astype(int)
    signs = picture[:, 10 : 10 + ICON_SIDE]
    rows = [signs[10 + i * KEY_ROW : 10 + (i + 1) * KEY_ROW] for i in range(4)]
    assert like(rows[0], (200, 0, 0)).any() and like(rows[1], (0, 0, 200)).any()
    assert like(rows[2], THEME.ink).any()
    assert (rows[3] == np.array(THEME.page)).all()
    words = like(picture[:, 10 + ICON_SIDE :], THEME.ink)
    assert all(words[10 + i * KEY_ROW : 10 + (i + 1) * KEY_ROW].any() for i in range(3))


# Bad arguments ----------------------------------------------------------------------------------


test_bad_arguments_are_refused = refusals(
    None,
    (lambda: Series(np.zeros(3), np.zeros(2)), r"`x` and `y` must be of one shape \[N\]"),
    (lambda: Series(np.zeros(0), np.zeros(0)), r"`x` and `y` must be of one shape \[N\]"),
    (lambda: Series(np.zeros(2), np.array([0.0, np.nan])), "`x` and `y` must be finite"),
    (lambda: Axis(1.0, 1.0), "`low` must be less than `high`, got 1.0 and 1.0"),
    (lambda: Axis(2.0, 1.0), "`low` must be less than `high`"),
    (lambda: Axis(0.0, np.inf), "`low` must be less than `high`"),
    (lambda: Axis(np.nan, 1.0), "`low` must be less than `high`"),
    (
        lambda: BarChart(Axis(0.0, 1.0), ("a", "b"), np.zeros(1)),
        "`values` must have an entry for each of 2 bars, got 1",
    ),
    (
        lambda: BarChart(Axis(0.0, 1.0), ("a",), np.zeros(1), None, np.zeros(2)),
        "`gradient` must have an entry for each of 1 bars, got 2",
    ),
)
