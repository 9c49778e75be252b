"""Tests of the pictures of games on graphs."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pygame
import pytest
from numpy.typing import NDArray

from bilevel_gym.rendering.canvas import (
    COLOUR_POWER,
    HEADER_HEIGHT,
    THEME,
    diverging_colours,
    frame,
    luminance,
)
from bilevel_gym.rendering.graph import NEUTRAL, GraphScene, Panel, draw_graph, graph_layout
from bilevel_gym.rendering.graph_layout import CASING, HEAD_GAP, PANEL_ROW

from .helpers import changed, refusals

Frame = NDArray[np.uint8]
FloatArray = NDArray[np.float64]

# A division by zero or an overflow would only show as a sign that is missing from a picture.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def _arrange(rows: int, columns: int) -> FloatArray:
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    return np.stack([x / max(1, columns - 1), y / max(1, rows - 1)], axis=-1)


def _both_ways(pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array([edge for i, j in pairs for edge in ((i, j), (j, i))])


def _streets(rows: int = 6, columns: int = 4) -> GraphScene:
    """A street map: neighbours joined in both directions."""
    nodes = range(rows * columns)
    right = [(k, k + 1) for k in nodes if (k + 1) % columns]
    down = [(k, k + columns) for k in nodes if k + columns < rows * columns]
    names = tuple(str(k + 1) for k in nodes)
    return GraphScene(_arrange(rows, columns), names, _both_ways(right + down))


def _row(count: int = 5) -> GraphScene:
    """Nodes in a line, each joined to all later ones and the last to the first."""
    edges = [*combinations(range(count), 2), (count - 1, 0)]
    return GraphScene(_arrange(1, count), tuple("ABCDEFGH"[:count]), np.array(edges))


def _triangle(**changes: Any) -> GraphScene:
    """Three nodes with loops and opposite edges."""
    edges = np.array([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (2, 0)])
    places = np.array([[0.5, 0.0], [1.0, 1.0], [0.0, 1.0]])
    return GraphScene(**{"places": places, "names": ("A", "B", "C"), "edges": edges, **changes})


def _pair(**changes: Any) -> GraphScene:
    """Two edges far from each other, both to the right, with room around them."""
    places, edges = _arrange(2, 2), np.array([(0, 1), (2, 3)])
    return GraphScene(**{"places": places, "names": tuple("abcd"), "edges": edges, **changes})


def _cross(**changes: Any) -> GraphScene:
    """Two edges that cross in the middle of the area."""
    edges = np.array([(0, 3), (1, 2)])
    return _pair(edges=edges, **changes)


def _draw(scene: GraphScene) -> Frame:
    return frame(draw_graph(scene))


def _cut(picture: Frame, rectangle: tuple[int, int, int, int]) -> Frame:
    left, top, width, height = rectangle
    return picture[top : top + height, left : left + width]


def _changed(before: Frame, after: Frame) -> FloatArray:
    """Return the pixels (x, y) that differ, `[M, 2]`."""
    return np.argwhere((before != after).any(axis=-1))[:, ::-1].astype(float)


def _in_area(scene: GraphScene, before: Frame, after: Frame) -> FloatArray:
    """Return the pixels of the graph that differ, `[M, 2]`, the key left out."""
    left, top, width, height = graph_layout(scene).area
    points = _changed(before, after)
    inside = (points >= (left, top)) & (points < (left + width, top + height))
    return points[inside.all(axis=1)]


def _distances(points: FloatArray, others: FloatArray) -> FloatArray:
    """Return the distance of each point to the nearest of the others."""
    gaps = points[:, None] - others[None]
    return np.hypot(gaps[..., 0], gaps[..., 1]).min(axis=1)


def _panels(count: int, rows: int = 3) -> tuple[Panel, ...]:
    labels = tuple(f"row {i}" for i in range(rows))
    return tuple(Panel(f"panel {k}", labels, np.full(rows, 0.5), 1.0) for k in range(count))


SCENES = {"streets": _streets(), "row": _row(), "triangle": _triangle(), "pair": _pair()}
every_scene = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())


# Layout and frames


def test_the_layout_does_not_depend_on_what_flows() -> None:
    full = _triangle(
        flow=np.arange(8.0),
        values=np.linspace(-1, 1, 8),
        edge_labels=("label",) * 8,
        occupancy=np.array([0.5, 0.3, 0.2]),
        follower=1,
        title="A very long title " * 20,
    )
    assert graph_layout(full) is graph_layout(_triangle())  # laid out once, too
    assert _draw(full).shape == _draw(_triangle()).shape


@pytest.mark.parametrize(
    ("count", "rows"), [(0, 1), (1, 3), (6, 3), (2, 12), (1, 20), (8, 1), (60, 3)]
)
def test_the_parts_lie_in_the_frame_and_apart(count: int, rows: int) -> None:
    scene = _triangle(values=np.ones(8), marks=("S", "G", "T"), panels=_panels(count, rows))
    layout, picture = graph_layout(scene), _draw(scene)
    assert picture.shape == (*layout.size[::-1], 3)
    # Panels without end are left out rather than drawn outside.
    assert len(layout.panels) == count if count < 60 else 5 < len(layout.panels) < 60
    parts = [pygame.Rect(part) for part in (layout.area, layout.key, *layout.panels)]
    parts.append(pygame.Rect(0, 0, layout.size[0], HEADER_HEIGHT))
    for i, part in enumerate(parts):
        assert pygame.Rect(0, 0, *layout.size).contains(part)
        assert part.collidelist(parts[i + 1 :]) == -1


@every_scene
def test_nodes_and_edges_lie_in_the_area_and_nodes_apart(scene: GraphScene) -> None:
    layout = graph_layout(scene)
    left, top, width, height = layout.area
    for points, room in ((layout.nodes, layout.radius), (layout.curves.reshape(-1, 2), 8.0)):
        assert (points - room > (left, top)).all()
        assert (points + room < (left + width, top + height)).all()
    gaps = [np.hypot(*(a - b)) for a, b in combinations(layout.nodes, 2)]
    assert min(gaps) > 3 * layout.radius


def test_places_go_right_and_down() -> None:
    nodes = graph_layout(_pair()).nodes
    assert nodes[1, 0] > nodes[0, 0] + 300 and nodes[1, 1] == nodes[0, 1]
    assert nodes[2, 1] > nodes[0, 1] + 300 and nodes[2, 0] == nodes[0, 0]


# Edges


@every_scene
def test_edges_end_before_the_nodes_that_they_point_to(scene: GraphScene) -> None:
    layout = graph_layout(scene)
    for stroke, (start, end) in zip(layout.strokes, scene.edges.tolist(), strict=True):
        tail, tip = stroke[0], stroke[-1]
        assert np.hypot(*(tail - layout.nodes[start])) == pytest.approx(layout.radius, abs=0.5)
        reach = layout.radius + HEAD_GAP + CASING
        assert np.hypot(*(tip - layout.nodes[end])) == pytest.approx(reach, abs=0.5)
        assert (_distances(stroke, layout.nodes) > layout.radius - 0.5).all()


@every_scene
def test_no_edge_runs_through_another_node(scene: GraphScene) -> None:
    layout = graph_layout(scene)
    for curve, edge in zip(layout.curves, scene.edges.tolist(), strict=True):
        others = np.delete(layout.nodes, edge, axis=0)
        assert (_distances(others, curve) > layout.radius + layout.widest / 2).all()


@pytest.mark.parametrize("scene", [_streets(), _triangle()], ids=["streets", "triangle"])
def test_opposite_edges_do_not_touch(scene: GraphScene) -> None:
    layout = graph_layout(scene)
    strokes = {tuple(e): s for e, s in zip(scene.edges.tolist(), layout.strokes, strict=True)}
    opposite = [(i, j) for i, j in strokes if i < j and (j, i) in strokes]
    assert len(opposite) > 1
    for i, j in opposite:
        # At their ends the head of one may stand beside the other.
        gaps = _distances(strokes[i, j][4:-4], strokes[j, i])
        assert gaps.min() > layout.widest + 2 * CASING


def test_a_loop_leaves_the_other_edges_free() -> None:
    scene = _triangle()
    layout = graph_layout(scene)
    loops = scene.edges[:, 0] == scene.edges[:, 1]
    straight = np.concatenate([layout.strokes[k] for k in np.flatnonzero(~loops)])
    for k in np.flatnonzero(loops):
        assert _distances(layout.strokes[k], straight).min() > layout.widest


def test_the_value_is_the_colour_of_the_edge_and_no_value_is_neutral() -> None:
    values = np.array([-2.0, -0.06, 0.0, 0.06, 1.0, 7.0, np.nan])
    places, edges = _arrange(7, 2), np.array([(2 * k, 2 * k + 1) for k in range(7)])
    names = tuple("abcdefghijklmn")
    scene = GraphScene(places, names, edges, np.ones(7), values, value_limit=1.0)
    picture, layout = _draw(scene), graph_layout(scene)
    middles = [curve[len(curve) // 2].astype(int) for curve in layout.curves]
    colours = np.array([picture[y, x] for x, y in middles])
    expected = diverging_colours(values, 1.0, power=COLOUR_POWER)
    expected[-1] = NEUTRAL
    assert (np.abs(colours.astype(int) - expected) <= 1).all()
    assert (np.diff(luminance(colours[:5])) > 12).all()  # greyscale shows the order
    # A dark outline tells a value of zero from none.
    darkest = [luminance(picture[y - 10 : y + 10, x]).min() for x, y in middles]
    assert max(darkest[:-1]) < 120 < darkest[-1]


def test_the_width_of_an_edge_grows_with_its_flow() -> None:
    widths = []
    for flow, largest in ((0.0, 0.0), (0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (1.0, 1.0)):
        scene = _pair(flow=np.array([flow, largest]))
        x, y = graph_layout(scene).curves[0, 20].astype(int)
        strip = luminance(_draw(scene)[y - 20 : y + 20, x])
        widths.append(float((255.0 - strip).sum() / (255.0 - luminance(NEUTRAL))))
    assert 1.0 < widths[0] == widths[1] < 4.0  # it is seen without any flow
    assert np.diff(widths[1:]) == pytest.approx([2.45, 2.45, 4.9], abs=0.5)


def test_a_change_of_one_edge_is_seen_at_that_edge_only() -> None:
    before = _triangle(values=np.zeros(8))
    layout, picture = graph_layout(before), _draw(before)
    for edge, values in enumerate(np.eye(8)):
        points = _in_area(before, picture, _draw(_triangle(values=values)))
        assert len(points) > 50
        assert _distances(points, layout.curves[edge]).max() < layout.widest + 8


def test_an_arrow_is_wider_at_its_end() -> None:
    scene = _pair()
    empty = _draw(_pair(edges=np.zeros((0, 2), dtype=np.int64)))
    points = _in_area(scene, empty, _draw(scene))
    start, end = graph_layout(scene).nodes[[0, 1], 0]
    first = points[(points[:, 1] < 300) & (points[:, 0] < (start + end) / 2)]
    last = points[(points[:, 1] < 300) & (points[:, 0] > (start + end) / 2)]
    assert np.ptp(last[:, 1]) >= np.ptp(first[:, 1]) + 4


# Labels and triangles


@every_scene
def test_labels_show_beside_their_edges_and_off_the_nodes(scene: GraphScene) -> None:
    count, layout, before = len(scene.edges), graph_layout(scene), _draw(scene)
    for edge in range(0, count, 7):
        labels = tuple("0.25" if k == edge else "" for k in range(count))
        points = _in_area(scene, before, _draw(replace(scene, edge_labels=labels)))
        assert len(points) > 30
        assert _distances(points, layout.curves[edge]).max() < 60
        assert _distances(points, layout.nodes).min() > layout.radius


@pytest.mark.parametrize(
    ("scene", "length"),
    [(_streets(), 1), (_triangle(), 1), (_triangle(), 4), (_streets(2, 6), 3), (_cross(), 1)],
    ids=["streets", "triangle", "long", "narrow", "cross"],
)
def test_labels_do_not_cover_each_other(scene: GraphScene, length: int) -> None:
    count = len(scene.edges)

    def draw(changed: int | None) -> Frame:
        labels = tuple(length * ("0.00" if k == changed else "8.88") for k in range(count))
        return _draw(replace(scene, edge_labels=labels))

    before = draw(None)
    covered = np.zeros(before.shape[:2], dtype=int)
    for edge in range(0, count, 1 + count // 12):
        changed = (draw(edge) != before).any(axis=-1)
        assert changed.sum() > 30
        covered += changed
    assert covered.max() == 1


@pytest.mark.parametrize("edge", [0, 1])
def test_edges_with_a_value_and_thin_edges_are_drawn_on_top(edge: int) -> None:
    x, y = graph_layout(_cross()).curves[0, 20].astype(int)
    for others, flows in ((np.nan, None), (-1.0, np.where(np.arange(2) == edge, 0.5, 1.0))):
        values = np.where(np.arange(2) == edge, 1.0, others)
        shown = _draw(_cross(values=values, flow=flows))[y, x]
        assert np.abs(shown.astype(int) - diverging_colours(1.0, 1.0)).max() <= 1


def test_triangles_show_sign_and_size_of_the_gradient_without_colour() -> None:
    scene = _pair(gradient=np.array([0.3, -0.3]))
    before, after = _draw(_pair()), _draw(scene)
    points = _in_area(scene, before, after)
    feet = []
    for edge in (0, 1):
        middle = graph_layout(scene).curves[edge, 20]
        near = points[np.hypot(*(points - middle).T) < 30]
        assert 40 < len(near) < 400
        inked = np.array([luminance(after[int(y), int(x)]) for x, y in near]) < 90
        feet.append(float(inked.mean()))
    assert feet[0] > feet[1] + 0.2  # filled and hollow
    pixels = []
    for value in (1.0, 0.25, 0.0, np.nan):
        scene = _pair(gradient=np.array([value, 1.0]))
        points = _in_area(scene, _draw(_pair()), _draw(scene))
        pixels.append(int((points[:, 1] < 300).sum()))
    assert 2.0 < pixels[0] / pixels[1] < 5.0 and pixels[2:] == [0, 0]
    zero = _pair(gradient=np.zeros(2))
    assert len(_in_area(zero, _draw(_pair()), _draw(zero))) == 0


# Nodes


def test_names_stay_in_their_nodes_and_discs_have_the_area_of_the_occupancy() -> None:
    scene = _pair(names=("a name that is far too long", "b", "c", "d"))
    points = _in_area(scene, _draw(_pair(names=(" ",) * 4)), _draw(scene))
    assert len(points) > 50
    assert _distances(points, graph_layout(scene).nodes).max() < graph_layout(scene).radius
    names = (" ",) * 4
    empty = _pair(names=names)
    shown = _pair(names=names, occupancy=np.array([0.8, 0.2, 0.0, 0.0]))
    points, layout = _in_area(shown, _draw(empty), _draw(shown)), graph_layout(shown)
    near = [int((np.hypot(*(points - node).T) < layout.radius).sum()) for node in layout.nodes]
    assert near[0] / near[1] == pytest.approx(4.0, rel=0.12) and near[2:] == [0, 0]
    assert sum(near) == len(points)


def test_marks_are_seen_at_their_nodes_and_named_in_the_key() -> None:
    plain, looks = _draw(_triangle()), set()
    for mark in "SGTH":
        scene = _triangle(marks=("", mark, ""))
        picture, layout = _draw(scene), graph_layout(scene)
        points = _in_area(scene, plain, picture)
        assert len(points) > 40
        assert _distances(points, layout.nodes[1:2]).max() < 2.2 * layout.radius
        renamed = _draw(replace(scene, mark_names={mark: "some other words"}))
        assert (_cut(renamed, layout.key) != _cut(picture, layout.key)).any()
        assert len(_in_area(scene, picture, renamed)) == 0
        looks.add(_cut(picture, layout.area).tobytes())
    assert len(looks) == 4


def test_the_follower_moves_and_leaves_the_mark_free() -> None:
    marks = ("S", "G", "T")
    plain = _draw(_triangle(marks=marks))
    for node in range(3):
        scene = _triangle(marks=marks, follower=node)
        points, layout = _in_area(scene, plain, _draw(scene)), graph_layout(scene)
        assert len(points) > 100
        assert _distances(points, layout.nodes[[node]]).max() < 2.2 * layout.radius
        gap = layout.corners[node, 0] - layout.corners[node, 1]
        assert np.cos(gap) < 0.75  # pins of less than the node's radius do not touch


# Key


def test_the_key_names_the_signs_of_the_scene_only() -> None:
    layout = graph_layout(_triangle())
    ones, none = np.ones(8), np.full(8, np.nan)
    changes: list[dict[str, Any]] = [{}, {"occupancy": np.full(3, 0.3)}, {"follower": 0}]
    changes += [{"flow": ones}, {"flow": ones, "flow_name": "traffic"}]
    changes += [{"values": ones}, {"values": ones, "value_name": "toll"}, {"values": none}]
    changes += [{"values": none, "params_name": "toll"}]
    changes += [{"gradient": ones}, {"gradient": ones, "params_name": "toll"}]
    keys = [_cut(_draw(_triangle(**change)), layout.key) for change in changes]
    assert (keys[0] == THEME.page).all()
    assert len({key.tobytes() for key in keys}) == len(changes)


def test_the_words_of_the_key(words_of_key: list[str]) -> None:
    draw_graph(
        _triangle(
            flow=np.arange(8.0),
            values=np.full(8, np.nan),
            gradient=np.array([np.nan, 0.25, 0.0, 0.5, np.nan, 0.0, 0.0, 0.0]),
            occupancy=np.array([0.5, 0.3, 0.2]),
            marks=("S", "H", "T"),
            mark_names={"T": "bank"},
            params_name="toll",
        )
    )
    assert words_of_key == [
        *("start", "bank", "hazard", "no toll"),
        *("follower's flow", "width; largest 7", "occupancy", "area; largest 0.5"),
        *("raise toll", "dF/dx up to +0.5", "lower toll", "no such dF/dx here"),
    ]


# Panels


def _bars(values: list[float]) -> NDArray[np.bool_]:
    """Return where the bars of a panel with limit 1 are, one line of pixels per row."""
    panel = Panel("p", ("",) * len(values), np.array(values), 1.0)
    scene = _triangle(panels=(panel,))
    left, top, width, _ = graph_layout(scene).panels[0]
    lines = [top + PANEL_ROW * (i + 1) + 4 + PANEL_ROW // 2 for i in range(len(values))]
    # Numbers stand on the right.
    strip = _draw(scene)[lines, left : left + width - 36]
    return np.asarray((strip.astype(int).sum(axis=-1) < 330) & (strip[..., 2] > 90))


def test_bars_are_as_long_as_their_values_up_to_the_limit() -> None:
    bars = _bars([0.25, 0.5, 1.0]).sum(axis=1)
    assert bars[1] / bars[0] == pytest.approx(2.0, rel=0.05)
    assert bars[2] / bars[0] == pytest.approx(4.0, rel=0.05)
    exact = _bars([1.0, 1.0, 1.0])
    cut = _bars([1.0, 9.0, 9.9])
    assert np.flatnonzero(cut[1]).max() == np.flatnonzero(exact[1]).max()
    assert cut[1].sum() == cut[2].sum() == exact[1].sum() - 2  # the gap that shows the cut


def test_panels_show_titles_labels_texts_and_triangles() -> None:
    values = np.array([0.2, 0.4])
    signs, plain = np.array([1.0, -1.0]), Panel("title", ("a", "b"), values, 1.0)
    panels = [plain, replace(plain, title="other"), replace(plain, labels=("a", "c"))]
    panels += [replace(plain, limit=2.0), replace(plain, values=values / 2)]
    panels += [replace(plain, gradient=signs), replace(plain, gradient=-signs)]
    place = graph_layout(_triangle(panels=panels[:1])).panels[0]
    pictures = {_cut(_draw(_triangle(panels=(panel,))), place).tobytes() for panel in panels}
    assert len(pictures) == len(panels)


@pytest.mark.parametrize("count", [1, 6])
def test_panels_stay_in_their_rectangles(count: int) -> None:
    labels, values = ("a very long label indeed " * 3, "b"), np.array([0.4, 1e12])
    many = tuple(Panel("title " * 30, labels, values, 1e30, values) for _ in range(count))
    scene = _triangle(panels=many, gradient=np.ones(8))
    picture, layout = _draw(scene), graph_layout(scene)
    inked = (picture != THEME.page).any(axis=-1)
    inked[:HEADER_HEIGHT] = inked[:, : layout.key[0] + layout.key[2] + 2] = False
    assert len(layout.panels) == count
    for rectangle in layout.panels:
        assert (_cut(picture, rectangle) != THEME.page).any(axis=(0, 2)).sum() > 200
        place = pygame.Rect(rectangle).inflate(2, 6)
        inked[place.top : place.bottom, place.left : place.right] = False
    assert not inked.any()


# Odd graphs and bad input


@pytest.mark.parametrize(
    "scene",
    [
        GraphScene(np.zeros((1, 2)), ("a",), np.zeros((0, 2), dtype=np.int64)),
        GraphScene(np.zeros((1, 2)), ("a",), np.array([[0, 0]]), np.ones(1)),
        GraphScene(np.full((3, 2), 0.5), tuple("abc"), np.array([[0, 1], [1, 0], [1, 2]])),
        GraphScene(_arrange(1, 2), ("", ""), np.array([[0, 1]]), edge_labels=("x" * 50,)),
        _streets(12, 12),
        _triangle(panels=(Panel("", (), np.zeros(0), 1.0),)),
        _triangle(values=np.full(8, np.nan), gradient=np.full(8, np.nan), occupancy=np.zeros(3)),
        _triangle(values=np.full(8, 1e300), value_limit=1e-9, flow=np.full(8, 1e300)),
        _triangle(flow=np.full(8, 5e-324), gradient=np.full(8, 5e-324)),
    ],
)
def test_odd_graphs_are_drawn(scene: GraphScene) -> None:
    assert (_draw(scene) != THEME.page).any()


test_bad_scenes_are_rejected = refusals(
    _triangle,
    ({"names": ()}, "`names` must hold at least one node, got none"),
    ({"names": ("a", "b")}, r"`places` must have shape \(2, 2\), got \(3, 2\)"),
    ({"places": np.zeros((3, 3))}, r"`places` must have shape \(3, 2\), got \(3, 3\)"),
    ({"places": changed(np.zeros((3, 2)), (1, 0), np.nan)}, r"`places\[1, 0\]` must be finite"),
    ({"places": np.full((3, 2), 1.5)}, r"`places` must lie in \[0, 1\], got 1.5"),
    ({"edges": np.zeros(8, dtype=int)}, r"`edges` must have shape \[E, 2\], got \(8,\)"),
    ({"edges": np.zeros((8, 2))}, "`edges` must hold integers, got dtype float64"),
    ({"edges": np.array([[0, 1], [3, 0]])}, r"`edges\[1\]` must join nodes in 0..2, got .3, 0"),
    ({"edges": np.array([[0, -1]])}, r"`edges\[0\]` must join nodes in 0..2, got .0, -1"),
    ({"edges": np.array([[0, 1], [2, 0], [0, 1]])}, "`edges` must differ.*got .0, 1. twice"),
    ({"flow": np.zeros(7)}, r"`flow` must have shape \(8,\), got \(7,\)"),
    ({"flow": np.full(8, -0.5)}, "`flow` must not be negative, got -0.5"),
    ({"flow": changed(np.ones(8), (2,), np.nan)}, r"`flow\[2\]` must be finite, got nan"),
    ({"values": np.zeros((8, 1))}, r"`values` must have shape \(8,\), got \(8, 1\)"),
    ({"values": np.full(8, np.inf)}, r"`values\[0\]` must be finite or NaN, got inf"),
    ({"value_limit": 0.0}, "`value_limit` must be positive and finite, got 0.0"),
    ({"value_limit": np.nan}, "`value_limit` must be positive and finite, got nan"),
    ({"edge_labels": ("a",)}, r"`edge_labels` must have one text per edge \(8\), got 1"),
    ({"gradient": np.zeros(3)}, r"`gradient` must have shape \(8,\), got \(3,\)"),
    ({"gradient": np.full(8, -np.inf)}, r"`gradient\[0\]` must be finite or NaN, got -inf"),
    ({"occupancy": np.zeros(8)}, r"`occupancy` must have shape \(3,\), got \(8,\)"),
    ({"occupancy": np.full(3, 1.2)}, r"`occupancy` must lie in \[0, 1\], got 1.2"),
    ({"occupancy": np.full(3, np.nan)}, r"`occupancy\[0\]` must be finite, got nan"),
    ({"marks": ("S",)}, r"`marks` must have one text per node \(3\), got 1"),
    ({"marks": ("S", "", "x")}, "`marks` must be among 'S', 'G', 'T', 'H', got 'x'"),
    ({"mark_names": {"Q": "q"}}, "`mark_names` must be among 'S', 'G', 'T', 'H', got 'Q'"),
    ({"follower": 3}, "`follower` must lie in 0..2, got 3"),
    ({"follower": -1}, "`follower` must lie in 0..2, got -1"),
)


test_bad_panels_are_rejected = refusals(
    lambda **changes: Panel(
        **{"title": "p", "labels": ("a", "b"), "values": np.zeros(2), "limit": 1.0, **changes}
    ),
    ({"labels": ("a",)}, r"`values` must have shape \(1,\), got \(2,\)"),
    ({"values": np.array([0.0, np.nan])}, r"`values\[1\]` must be finite, got nan"),
    ({"limit": -1.0}, "`limit` must be positive and finite, got -1.0"),
    ({"values": np.array([0.0, -0.1])}, "`values` must not be negative, got -0.1"),
    ({"gradient": np.zeros(3)}, r"`gradient` must have shape \(2,\), got \(3,\)"),
    ({"gradient": np.full(2, np.inf)}, r"`gradient\[0\]` must be finite or NaN, got inf"),
)
