"""Tests of the drawing helpers and of the pictures of grid games."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pygame
import pytest
from numpy.typing import NDArray

from bilevel_gym.rendering.canvas import (
    HEADER_HEIGHT,
    THEME,
    ColourScale,
    contrast_ink,
    diverging_colours,
    draw_colour_bar,
    draw_help,
    draw_status,
    draw_text,
    frame,
    luminance,
    new_surface,
    text_size,
)
from bilevel_gym.rendering.curves import StepCurve, draw_curves
from bilevel_gym.rendering.grid import GridLayout, GridScene, draw_grid, grid_layout
from bilevel_gym.rendering.key import KEY_ROW, KEY_WIDTH, KeyEntry, draw_key
from bilevel_gym.rendering.signs import (
    ICON_SIDE,
    LEVELS,
    MIN_SIGN,
    pin_sprite,
    size_levels,
    wall_sprite,
)
from bilevel_gym.rendering.window import Window

from .helpers import changed, refusals

UP, RIGHT, DOWN, LEFT = range(4)
LINES = ("S..#", ".H..", "..H.", "#..G")
SHAPES = ((1, 1), (4, 4), (8, 8), (3, 12), (12, 3), (30, 30), (1, 40))

Frame = NDArray[np.uint8]

# A division by zero or an overflow would only show as a sign that is missing from a picture.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def _cells(lines: tuple[str, ...] = LINES) -> NDArray[np.str_]:
    return np.array([list(line) for line in lines])


def _open_cells(shape: tuple[int, int]) -> NDArray[np.str_]:
    return np.full(shape, ".")


def _policy(shape: tuple[int, int], move: int) -> NDArray[np.float64]:
    policy = np.zeros((*shape, 4))
    policy[..., move] = 1.0
    return policy


def _scene(cells: NDArray[np.str_] | None = None, **changes: Any) -> GridScene:
    cells = _cells() if cells is None else cells
    shaping = np.where(cells == "#", np.nan, 0.0)
    return GridScene(cells, **{"shaping": shaping, "shaping_limit": 1.0, **changes})


def _draw(cells: NDArray[np.str_] | None = None, **changes: Any) -> Frame:
    return frame(draw_grid(_scene(cells, **changes)))


def _cell(picture: Frame, layout: GridLayout, row: int, column: int) -> Frame:
    """Cut one cell out of a frame, without the lines around it."""
    x, y = layout.cell_corner(row, column)
    side = int(layout.cell)
    return picture[y + 1 : y + side, x + 1 : x + side]


def _changed_cells(before: Frame, after: Frame, layout: GridLayout) -> set[tuple[int, int]]:
    return {
        (row, column)
        for row, column in np.ndindex(layout.shape)
        if (_cell(before, layout, row, column) != _cell(after, layout, row, column)).any()
    }


# Palette


def test_luminance_rises_with_the_value_and_ink_contrasts_with_it() -> None:
    grey = luminance(diverging_colours(np.linspace(-2.0, 2.0, 401), 2.0))
    assert (np.diff(grey) > -1.0).all()  # the rounding of three channels to whole numbers
    assert grey[0] + 80 < grey[200] < grey[-1] - 30
    assert contrast_ink(THEME.missing) == THEME.light
    assert contrast_ink(THEME.diverging[-1]) == THEME.ink


def test_zero_is_grey_larger_values_get_the_colours_of_the_ends_and_nan_has_its_own() -> None:
    colours = diverging_colours([-9.0, -3.0, 0.0, 3.0, 9.0, np.nan], 3.0)
    ends = THEME.diverging[0], THEME.diverging[-1]
    expected = [ends[0], ends[0], THEME.diverging[2], ends[1], ends[1], THEME.missing]
    assert colours.tolist() == [list(colour) for colour in expected]
    # A power below one brings out small values.
    rooted = diverging_colours([-4.0, -1.0, 0.0, 1.0, 4.0], 4.0, power=0.5)
    assert (rooted == diverging_colours([-4.0, -2.0, 0.0, 2.0, 4.0], 4.0)).all()


@pytest.mark.parametrize("limit", [2.0, -2.0])
def test_values_of_one_sign_go_from_light_to_dark_and_zero_is_their_lightest(limit: float) -> None:
    scale = ColourScale(limit, "", 1.0, signed=False)
    colours = scale.colours(np.linspace(0.0, limit, 101))
    assert (np.diff(luminance(colours)) < 1.0).all()
    assert luminance(colours[0]) > luminance(colours[-1]) + 150
    beyond = scale.colours([-limit, 2.0 * limit, np.nan]).tolist()
    assert beyond == [colours[0].tolist(), colours[-1].tolist(), list(THEME.missing)]


def test_sizes_of_signs_have_areas_like_their_values() -> None:
    values = np.array([4.0, 1.0, -1.0, 0.25, 0.0, np.nan])
    assert size_levels(values, 4.0).tolist() == [LEVELS, LEVELS / 2, -LEVELS / 2, LEVELS / 4, 0, 0]
    # The smallest one but for zero has a quarter of the largest diameter.
    assert size_levels(values, 4.0, 4 * MIN_SIGN)[3] == LEVELS / 4
    assert size_levels(values, 4.0, 4 * MIN_SIGN - 1)[3] == 0
    assert not size_levels(np.zeros(3), 0.0).any()


# Layout and frames


@pytest.mark.parametrize("with_curves", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_of_a_picture_lie_in_it_and_apart(shape: tuple[int, int], with_curves: bool) -> None:
    layout = grid_layout(shape, with_curves=with_curves)
    curves = (StepCurve("objective", ()),) if with_curves else ()
    picture = _draw(_open_cells(shape), curves=curves)
    assert picture.shape == (layout.size[1], layout.size[0], 3)
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and picture.flags.writeable
    assert layout.size[0] % 2 == layout.size[1] % 2 == 0  # as video encoders want them
    parts = [layout.map, (0, 0, layout.size[0], HEADER_HEIGHT), layout.key]
    parts += [layout.curves] if layout.curves is not None else []
    rectangles = [pygame.Rect(part) for part in parts]
    for i, part in enumerate(rectangles):
        assert pygame.Rect(0, 0, *layout.size).contains(part)
        assert part.collidelist(rectangles[i + 1 :]) == -1


@pytest.mark.parametrize("shape", [*SHAPES, (200, 200)])
def test_cells_are_found_at_corners_and_centre_and_none_outside(shape: tuple[int, int]) -> None:
    layout = grid_layout(shape)
    last = int(layout.cell) - 1
    for row, column in np.ndindex(shape):
        x, y = layout.cell_corner(row, column)
        places = [(x, y), (x + last, y + last), layout.cell_centre(row, column)]
        assert [layout.cell_at(place) for place in places] == [(row, column)] * 3
    left, top, width, height = layout.map
    outside = [(left - 1, top), (left, top - 1), (left + width, top), (left, top + height)]
    assert [layout.cell_at(place) for place in outside] == [None] * 4


@pytest.mark.parametrize("shape", [(1000, 1000), (1, 2000), (2000, 1), (200, 200)])
def test_huge_maps_are_drawn_as_images_of_their_shaping(shape: tuple[int, int]) -> None:
    shaping = np.broadcast_to(np.linspace(-1, 1, shape[1]), shape)
    picture = _draw(_open_cells(shape), shaping=shaping)
    layout = grid_layout(shape)
    left, top, width, height = layout.map
    grey = luminance(picture[top : top + height, left : left + width])
    assert max(layout.size) < 1000 and grey.shape == (height, width)
    if width > 1:
        assert grey[:, -1].min() > grey[:, 0].max() + 100


# What a scene shows


@pytest.mark.parametrize("side", [4, 8, 30, 100, 200])
def test_the_sign_of_the_shaping_shows_in_colour_and_in_greyscale(side: int) -> None:
    shaping = np.zeros((side, side))
    shaping[1, 1], shaping[2, 2] = -0.25, 0.25
    picture, layout = _draw(_open_cells((side, side)), shaping=shaping), grid_layout((side, side))
    (x0, y0), (x1, y1), (x2, y2) = (layout.cell_centre(i, i) for i in (0, 1, 2))
    zero, negative, positive = picture[y0, x0], picture[y1, x1], picture[y2, x2]
    assert negative[2] > negative[0] and positive[0] > positive[2]  # blue and yellow
    assert luminance(negative) + 40 < luminance(zero) < luminance(positive) - 20


@pytest.mark.parametrize("side", [4, 8, 16, 30, 40])
def test_arrows_change_where_the_policy_changes_and_nowhere_else(side: int) -> None:
    layout, cells = grid_layout((side, side)), _open_cells((side, side))
    before, after = _policy((side, side), UP), _policy((side, side), UP)
    after[2, 1] = [0.0, 0.0, 0.0, 1.0]
    pictures = _draw(cells, policy=before), _draw(cells, policy=after)
    assert _changed_cells(*pictures, layout) == {(2, 1)}


@pytest.mark.parametrize("side", [8, 30])
@pytest.mark.parametrize("move", [UP, RIGHT, DOWN, LEFT])
def test_an_arrow_has_its_head_on_the_side_that_it_points_to(side: int, move: int) -> None:
    shape = (side, side)
    empty = _cell(_draw(_open_cells(shape)), grid_layout(shape), 1, 1)
    shown = _draw(_open_cells(shape), policy=_policy(shape, move))
    changed = (_cell(shown, grid_layout(shape), 1, 1) != empty).any(axis=-1)
    half = changed.shape[0] // 2
    halves = [changed[:half], changed[:, -half:], changed[-half:], changed[:, :half]]
    opposite = halves[(move + 2) % 4]
    assert halves[move].sum() > opposite.sum()


def test_arrows_grow_with_the_probability_and_tiny_ones_are_left_out() -> None:
    shape, cells = (8, 8), _open_cells((8, 8))
    empty = _cell(_draw(cells), grid_layout(shape), 1, 1)
    pixels = []
    for probability in (0.01, 0.06, 0.3, 0.6, 0.99):
        policy = probability * _policy(shape, RIGHT) + (1 - probability) * _policy(shape, LEFT)
        cell = _cell(_draw(cells, policy=policy), grid_layout(shape), 1, 1)
        right = (cell != empty).any(axis=-1)[:, 3 * cell.shape[1] // 5 :]
        pixels.append(int(right.sum()))
    assert pixels[:2] == [0, 0] and 0 < pixels[2] < pixels[3] < pixels[4]


def test_what_has_no_direction_and_no_size_leaves_no_trace() -> None:
    shape, cells = (30, 30), _open_cells((30, 30))  # cells with room for one arrow
    uniform, flat = np.full((*shape, 4), 0.25), np.zeros(shape)
    shown = _draw(cells, policy=uniform, gradient=flat, occupancy=flat)
    assert not _changed_cells(_draw(cells), shown, grid_layout(shape))
    walls = np.full((3, 3), "#")
    _draw(walls, policy=np.zeros((3, 3, 4)), gradient=np.ones((3, 3)), occupancy=np.ones((3, 3)))


@pytest.mark.parametrize(
    ("field", "low", "high"),
    # Sizes come in steps, and triangles have an outline.
    [("occupancy", 3.6, 4.4), ("gradient", 2.5, 4.5)],
)
def test_discs_and_triangles_have_areas_like_values(field: str, low: float, high: float) -> None:
    values = np.zeros((4, 4))
    values[1, 1], values[2, 2] = 0.8, 0.2
    layout, cells = grid_layout((4, 4)), _open_cells((4, 4))
    empty, shown = _draw(cells), _draw(cells, **{field: values})
    assert _changed_cells(empty, shown, layout) == {(1, 1), (2, 2)}
    large, small = (
        (_cell(shown, layout, i, i) != _cell(empty, layout, i, i)).any(axis=-1).sum()
        for i in (1, 2)
    )
    assert low < large / small < high


@pytest.mark.parametrize("side", [4, 8, 30])
def test_the_gradient_sign_shows_without_colour(side: int) -> None:
    gradient = np.zeros((side, side))
    gradient[1, 1], gradient[2, 2] = 0.3, -0.3
    layout, cells = grid_layout((side, side)), _open_cells((side, side))
    empty, shown = _draw(cells), _draw(cells, gradient=gradient)
    assert _changed_cells(empty, shown, layout) == {(1, 1), (2, 2)}
    ground = float(luminance(diverging_colours(0.0, 1.0)))
    up, down = (luminance(_cell(shown, layout, i, i)) for i in (1, 2))
    assert up.min() < ground / 2 and down.max() > ground + 40
    # Up is broad at its foot, down at its head.
    rows = [np.abs(glyph - ground).sum(axis=1) for glyph in (up, down)]
    feet = [float(row @ np.arange(len(row)) / row.sum()) for row in rows]
    assert feet[0] > feet[1]


@pytest.mark.parametrize("side", [4, 8, 16])
def test_the_follower_and_the_cursor_are_seen_in_their_cells(side: int) -> None:
    layout, cells = grid_layout((side, side)), _open_cells((side, side))
    pictures = _draw(cells, follower=(1, 1)), _draw(cells, follower=(1, 2))
    assert _changed_cells(*pictures, layout) == {(1, 1), (1, 2)}
    x, y = layout.cell_corner(2, 1)
    assert tuple(_draw(cells, cursor=(2, 1))[y - 1, x + 10]) == THEME.accent
    assert tuple(_draw(cells)[y - 1, x + 10]) != THEME.accent


@pytest.mark.parametrize("side", [4, 8, 16, 30, 100, 200])
def test_start_goal_hazard_wall_and_free_cells_look_different(side: int) -> None:
    cells = _open_cells((side, side))
    last = side - 1  # pins are larger than small cells: far apart
    marked = ((0, 0, "S"), (0, last, "G"), (last, 0, "H"), (last, last, "#"))
    for row, column, kind in marked:
        cells[row, column] = kind
    picture, layout = _draw(cells), grid_layout((side, side))
    looks = {_cell(picture, layout, row, column).tobytes() for row, column, _ in marked}
    assert len(looks | {_cell(picture, layout, side // 2, side // 2).tobytes()}) == 5


def test_the_key_names_the_signs_of_the_scene_only() -> None:
    left, top, width, height = grid_layout((4, 4)).key
    key = (slice(top, top + height), slice(left, left + width))
    plain = _draw(_open_cells((4, 4)))[key]
    for change in ("S", "G", "H", "#"):
        cells = _open_cells((4, 4))
        cells[0, 0] = change
        assert (_draw(cells)[key] != plain).any()
    policy = _policy((4, 4), UP)
    assert (_draw(_open_cells((4, 4)), policy=policy)[key] != plain).any()


@pytest.mark.parametrize(
    ("gradient", "notes"),
    [
        ([0.5, 0.0, 0.25, 0.0], ("dF/dx up to +0.5", "no such dF/dx here")),
        ([-0.5, -0.125, -0.25, -0.5], ("no such dF/dx here", "dF/dx down to −0.5")),
    ],
)
def test_the_key_tells_the_ends_of_the_gradient(
    gradient: list[float], notes: tuple[str, str], words_of_key: list[str]
) -> None:
    _draw(_open_cells((2, 2)), gradient=np.array(gradient).reshape(2, 2))
    assert words_of_key == ["raise shaping", notes[0], "lower shaping", notes[1]]


def test_a_wide_key_has_columns_and_nothing_is_drawn_outside() -> None:
    surface, sign = new_surface((600, 200)), wall_sprite(ICON_SIDE, False)
    rectangle = (30, 20, 2 * KEY_WIDTH + THEME.margin, 2 * KEY_ROW)
    draw_key(surface, rectangle, [KeyEntry(sign, "a long name " * 9, "a note " * 9)] * 5)
    picture = frame(surface)
    signs = (picture == THEME.missing).all(axis=-1)
    columns = [slice(x, x + KEY_WIDTH) for x in (30, 30 + KEY_WIDTH + THEME.margin)]
    for column in columns:
        assert signs[20 : 20 + 2 * KEY_ROW, column].sum() == 2 * ICON_SIDE**2
    assert not _ink_outside(surface, rectangle)
    between = picture[:, columns[0].stop : columns[1].start]
    assert (between == THEME.page).all()


def test_tiles_show_and_let_the_shaping_through_where_they_are_dark() -> None:
    cells = _cells(("..#", "*.."))
    layout = grid_layout(cells.shape)
    side = int(layout.cell)
    tiles = np.zeros((2 * side, 3 * side, 3), np.uint8)
    tiles[:, 2 * side :] = tiles[side:, :side] = (0, 200, 0)  # a wall, an event and a cell
    policy = _policy(cells.shape, UP)
    policy[cells == "*"] = np.nan
    changes: dict[str, Any] = {"tiles": tiles, "policy": policy}
    before, after = (
        _draw(cells, shaping=np.where(cells == "#", np.nan, value), **changes)
        for value in (0.0, 0.8)
    )
    assert _changed_cells(before, after, layout) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for row, column in ((0, 2), (1, 2)):
        corner = _cell(after, layout, row, column)[2:4, 2:4]
        assert (corner == (0, 200, 0)).all()
    patch = _cell(after, layout, 1, 0)
    assert (patch[2, 2] == (0, 200, 0)).all() and (patch[side // 2, side // 2] != (0, 200, 0)).any()


def test_values_on_walls_are_ignored() -> None:
    wall = _cells() == "#"
    pictures = []
    for value in (np.nan, 9.0):
        gradient, occupancy = np.full((4, 4), 0.3), np.full((4, 4), 0.1)
        policy = np.full((4, 4, 4), 0.25)
        policy[wall] = gradient[wall] = occupancy[wall] = value
        pictures.append(_draw(policy=policy, gradient=gradient, occupancy=occupancy))
    assert (pictures[0] == pictures[1]).all()


test_bad_scenes_are_rejected = refusals(
    lambda **changes: GridScene(
        **{"cells": _cells(), "shaping": np.zeros((4, 4)), "shaping_limit": 1, **changes}
    ),
    ({"cells": _cells(("S?", "..")), "shaping": np.zeros((2, 2))}, "`cells` must be among.*'?'"),
    ({"cells": np.array(["S.", ".."])}, "two positive numbers, got .2,"),
    ({"shaping": np.zeros((4, 5))}, r"`shaping` must have shape \(4, 4\), got \(4, 5\)"),
    (
        {"shaping": changed(np.zeros((4, 4)), (1, 2), np.nan)},
        r"`shaping\[1, 2\]` must be finite.*got nan",
    ),
    ({"shaping_limit": 0.0}, "`shaping_limit` must be positive and finite, got 0.0"),
    ({"shaping_limit": np.inf}, "`shaping_limit` must be positive and finite, got inf"),
    ({"policy": np.zeros((4, 4))}, r"`policy` must have shape \(4, 4, 4\), got \(4, 4\)"),
    ({"policy": np.full((4, 4, 4), 0.3)}, "`policy` must sum to 1 over the moves, got 1.2"),
    (
        {"policy": changed(np.full((4, 4, 4), 0.25), (0, 1, 2), np.inf)},
        r"`policy\[0, 1, 2\]` must be",
    ),
    ({"policy": np.tile([2.0, -1.0, 0.0, 0.0], (4, 4, 1))}, r"`policy` must lie in \[0, 1\]"),
    ({"occupancy": np.full((4, 4), 1.5)}, r"`occupancy` must lie in \[0, 1\], got 1.5"),
    ({"occupancy": np.zeros(16)}, r"`occupancy` must have shape \(4, 4\), got \(16,\)"),
    ({"gradient": np.full((4, 4), -np.inf)}, r"`gradient\[0, 0\]` must be finite outside the"),
    ({"follower": (4, 0)}, r"`follower` must lie within the \(4, 4\) map, got \(4, 0\)"),
    ({"cursor": (0, -1)}, r"`cursor` must lie within the \(4, 4\) map, got \(0, -1\)"),
)


test_bad_arguments_are_rejected = refusals(
    None,
    (lambda: diverging_colours(0.0, np.nan), "`limit` must be positive and finite, got nan"),
    (lambda: diverging_colours(0.0, 1.0, power=0.0), "`power` must be positive and finite"),
    (lambda: grid_layout((0, 3)), "`shape` of the map must be two positive numbers"),
    (lambda: grid_layout((2, 2, 2)), "`shape` of the map must be two positive numbers"),
    (lambda: StepCurve("a", np.zeros((2, 2))), r"`values` must have shape \[N\], got shape"),
    (lambda: Window("title", 0), "`fps` must be positive and finite, got 0"),
)


# Shared helpers


def _ink_outside(surface: pygame.Surface, rectangle: tuple[int, int, int, int]) -> bool:
    picture = (frame(surface) != THEME.page).any(axis=-1)
    left, top, width, height = rectangle
    picture[top : top + height, left : left + width] = False
    return bool(picture.any())


@pytest.mark.parametrize("count", [1, 5, 12, 60])
def test_the_status_line_stays_in_its_rectangle(count: int) -> None:
    surface, rectangle = new_surface((400, 100)), (20, 20, 360, 40)
    pairs = [(f"label {i}", "−0.00093" * (i % 3 + 1)) for i in range(count)]
    for status in (pairs, [*pairs, ("label", "long value " * 50)]):
        draw_status(surface, rectangle, status)
        assert (frame(surface) != THEME.page).any() and not _ink_outside(surface, rectangle)


def test_text_is_cut_to_its_room_and_the_status_line_shrinks() -> None:
    surface = new_surface((200, 40))
    width = text_size("some words", THEME.text_size)[0]
    assert draw_text(surface, "some words", (0, 0), max_width=150) == width
    assert 0 < draw_text(surface, "some words " * 9, (0, 0), max_width=150) <= 150
    pictures = []
    for last in ("0.12", "0.34"):
        surface = new_surface((400, 40))
        values = ["0.000001"] * 8 + [last]
        draw_status(surface, (0, 0, 400, 40), [("label", value) for value in values])
        pictures.append(frame(surface))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize(
    "values",
    [(), (1.0,), (2.0, 2.0), (0.0, 1.0, -3.0), (1.0, np.nan, np.inf, 2.0), (-1e308, 1e308)],
)
@pytest.mark.parametrize("log_scale", [False, True])
def test_any_curve_is_drawn_in_its_rectangle(values: tuple[float, ...], log_scale: bool) -> None:
    surface, rectangle = new_surface((300, 200)), (20, 20, 260, 160)
    draw_curves(surface, rectangle, [StepCurve("a label " * 9, values, log_scale)])
    assert (frame(surface) != THEME.page).any() and not _ink_outside(surface, rectangle)


@pytest.mark.parametrize("values", [(3.0, 3.0), (-1e308, 1e308)])
def test_constant_and_extreme_curves_show_all_their_points(values: tuple[float, ...]) -> None:
    surface = new_surface((300, 200))
    draw_curves(surface, (0, 0, 300, 200), [StepCurve("", values)])
    # Inside of the plot, away from its frame and notes.
    columns = np.nonzero((frame(surface)[60:140, 4:296] != THEME.light).any(axis=(0, 2)))[0]
    assert len(columns) > 100 and np.diff(columns).max() == 1


def test_a_rising_curve_rises_and_geometric_decay_is_straight_on_a_logarithmic_axis() -> None:
    surface = new_surface((300, 200))
    draw_curves(surface, (0, 0, 300, 200), [StepCurve("", np.linspace(0, 1, 100_000))])
    # The strip spares the last point's number above and the notes in the corners.
    line = (frame(surface)[30:180] == THEME.curves[0]).all(axis=-1)
    rows, columns = np.nonzero(line)
    assert np.corrcoef(rows, columns)[0, 1] < -0.9
    pictures = []
    for curve in (StepCurve("", 0.5 ** np.arange(30.0), True), StepCurve("", -np.arange(30.0))):
        surface = new_surface((300, 200))
        draw_curves(surface, (0, 0, 300, 200), [curve])
        pictures.append((frame(surface)[60:150, 60:280] == THEME.curves[0]).all(axis=-1))
    assert (pictures[0] == pictures[1]).all() and pictures[0].any()


@pytest.mark.parametrize("signed", [True, False])
def test_the_colour_bar_runs_over_its_scale(signed: bool) -> None:
    surface, scale = new_surface((200, 80)), ColourScale(2.0, "caption", 1.0, signed)
    draw_colour_bar(surface, (0, 0, 200, 80), scale)
    row = frame(surface)[40]
    ends = scale.colours([-2.0, 0.0, 2.0] if signed else [0.0, 1.0, 2.0]).astype(int)
    assert np.abs(row[[2, 100, 197]] - ends).max() < 8  # two pixels from the frame of the bar


@pytest.mark.parametrize(("width", "limit"), [(212, 1.0), (212, 1e-7), (130, 0.123456)])
def test_the_numbers_of_the_colour_bar_do_not_touch(width: int, limit: float) -> None:
    surface = new_surface((width, 80))
    draw_colour_bar(surface, (0, 0, width, 80), ColourScale(limit, "", 0.5))
    gaps = np.diff(np.flatnonzero((frame(surface)[-12:] != THEME.page).any(axis=(0, 2))))
    # One wide gap between neighbours among the five numbers, or the three that fit everywhere.
    assert (gaps > THEME.gap // 3).sum() in (2, 4)


@pytest.mark.parametrize("size", [(640, 480), (200, 100)])
def test_the_help_overlay_dims_the_picture_and_stays_inside(size: tuple[int, int]) -> None:
    surface = new_surface(size)
    draw_help(surface, [("Space", "one step"), ("H", "show or hide this help")] * 4)
    picture = frame(surface)
    assert luminance(picture[0, 0]) < luminance(THEME.page) - 50
    # The card's paper, a key on it, or the dimmed picture beside it.
    beside = tuple(picture[size[1] // 2, THEME.margin * 2])
    assert beside in {THEME.page, THEME.light, tuple(picture[0, 0])}
    assert (picture[: THEME.margin] == picture[0, 0]).all()


def test_drawing_goes_on_after_pygame_was_quit() -> None:
    surface = draw_grid(_scene(title="title"))
    before, spoilt = frame(surface), frame(surface)
    spoilt[...] = 0  # each is an array of its own
    assert before.any() and (frame(surface) == before).all()
    pygame.quit()
    assert (_draw(title="title") == before).all()
    _draw(title="another title")


def test_pins_are_distinguishable_in_greyscale() -> None:
    greys = []
    for kind in ("S", "G", "follower"):
        surface = new_surface((ICON_SIDE, ICON_SIDE))
        surface.blit(pin_sprite(kind, ICON_SIDE), (0, 0))
        greys.append(luminance(frame(surface)))
    for i in range(3):
        assert np.abs(greys[i] - greys[i - 1]).mean() > 10


def test_drawing_opens_no_display() -> None:
    program = """
import numpy as np
from bilevel_gym.rendering.grid import GridScene, draw_grid
from bilevel_gym.rendering import Window, draw_help, frame
surface = draw_grid(GridScene(np.array([["S", "G"]]), np.zeros((1, 2)), 1.0, title="t"))
draw_help(surface, [("H", "help")])
frame(surface)
Window("unused", 30).close()
import pygame
assert not pygame.display.get_init()
"""
    # A driver that does not exist: opening any display would fail.
    environment = {**os.environ, "SDL_VIDEODRIVER": "none"}
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout  # pygame's greeting
