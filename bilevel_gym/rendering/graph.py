"""Pictures of games on graphs: states as circles, moves as arrows, and small bar charts.

Left stands the graph, right of it the colour scale and a key that names every sign in words, and,
if there are any, panels of bars. What the leader pays on an edge is its colour; the follower's
flow is its width, occupancy and hyper-gradient are shapes, so that the picture can be read in
greyscale. Edges with a value have a dark outline, those without are plain grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checks import check_positive
from .canvas import (
    SUPERSAMPLING,
    THEME,
    Colour,
    Rectangle,
    Sprite,
    diverging_colours,
    draw_colour_bar,
    draw_status,
    draw_text,
    import_pygame,
    make_sprite,
    new_surface,
    text_size,
)
from .grid import (
    COLOUR_BAR_HEIGHT,
    COLOUR_BAR_SLOTS,
    HAZARD,
    KEY_ROW,
    KEY_WIDTH,
    MIN_SIGN,
    STATUS_HEIGHT,
    TARGET,
    TITLE_HEIGHT,
    TOLERANCE,
    _draw_key_entry,
    _KeyEntry,
    _place_sprite,
)
from .signs import (
    CORNER,
    FOLLOWER,
    GOAL,
    HAZARD_COLOUR,
    ICON_SIDE,
    LEVELS,
    START,
    TRIANGLE_SIDE,
    key_triangle_sprite,
    pin_sprite,
    triangle_sprite,
)

if TYPE_CHECKING:
    from pygame import Surface

__all__ = ["GraphLayout", "GraphScene", "Panel", "draw_graph", "graph_layout"]

FloatArray = NDArray[np.float64]

MARK_NAMES = {START: "start", GOAL: "goal", TARGET: "leader's target", HAZARD: "hazard"}

# Sizes in pixels
SIZE = (1100, 712)
PANEL_WIDTH = 248
PANEL_ROWS = (20, 18, 16, 14, 12)
"""Heights of a row of bars, in the order tried."""
READABLE_ROWS = 3
"""How many of them are tried before panels are spread over one more column."""
NODE_RADII = (11.0, 30.0)
NODE_SHARE = 0.25
"""Radius of the nodes as a share of the distance between the two nearest."""
EDGE_WIDTHS = (2.2, 12.0)
"""Width without flow, and the largest width on graphs of few nodes."""
EDGE_SHARE = 0.55
"""Largest width as a share of the radius of the nodes."""
CASING = 1.1
"""Width of the outline of edges."""
HEAD_GAP = 3.0
"""Distance of the arrowheads from the nodes."""
TRIANGLE = 15
"""Side of the largest triangle of a derivative."""
LABEL_SIZE = 19
LABEL_STEP = 6
"""Room for labels grows in these steps, so that they stay where they are as numbers change."""

LABEL_SHARES = (0.5, 0.44, 0.56, 0.38, 0.62, 0.32, 0.68, 0.26, 0.74, 0.2, 0.8)
"""Where along its edge a label may be."""
LABEL_SIDES = {"loop": (-1, 0), "pair": (1, 0, -1), "single": (0, 1, -1)}
"""On which side, the best first: 1 right of the edge, away from the opposite one; 0 on it; −1 left
of it, which is outside of a loop."""
LABEL_PASSES = 2

EDGE_SUPERSAMPLING = 3
CURVE_POINTS = 41
MOST_OFFSET = 0.7
"""Share of the radius by which edges are moved sideways at most."""
FEW_NODES = 9
"""Up to this number of nodes opposite edges bend away from each other; else they are parallel."""
BEND = 0.06
"""By this share of their length."""
BENT_LANE = 0.35
"""How far such edges are moved apart at their ends, as a share of what parallel ones are."""
BENDS = (0.0, 0.09, 0.14, 0.2, 0.27, 0.35)
"""Shares of their length by which edges bend around nodes in their way, in the order tried."""

NEUTRAL: Colour = (150, 154, 163)
OCCUPANCY: Colour = (190, 202, 231)
BAR: Colour = (74, 84, 112)
PAPER = THEME.light


@dataclass(frozen=True, eq=False)
class Panel:
    """A small chart of labelled horizontal bars, one row per label.

    Attributes:
        title: Headline.
        labels: Names of the `n` rows.
        values: Lengths of the bars `[n]`. If one is negative, zero is in the middle of the axis.
        limit: End of the axis; bars of larger magnitude are cut.
        texts: What to print at the end of the rows instead of the values.
        gradient: Derivative of the leader's objective by the value `[n]`; NaN for none.
    """

    title: str
    labels: tuple[str, ...]
    values: FloatArray
    limit: float
    texts: tuple[str, ...] = ()
    gradient: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check shapes and values."""
        rows = len(self.labels)
        _check_array("values", self.values, (rows,))
        check_positive("limit", self.limit)
        _check_length("texts", self.texts, rows, "label")
        if self.gradient is not None:
            _check_array("gradient", self.gradient, (rows,), nan=True)


@dataclass(frozen=True, eq=False)
class GraphScene:
    """Everything that one picture of a game on a graph shows.

    `N` is the number of nodes, `E` that of directed edges.

    Attributes:
        places: Where the nodes are, right and down, in [0, 1] `[N, 2]`.
        names: Short labels `N`, drawn in the nodes.
        edges: Indices of the nodes that each edge leads from and to `[E, 2]`. Opposite edges lie
            side by side; an edge from a node to itself is a loop.
        flow: Width of the edges, relative to the largest `[E]`; not negative.
        values: Colour of the edges `[E]`; NaN for edges that have no value.
        value_limit: The colours run from −`value_limit` to +`value_limit`; larger values get the
            colours of the ends.
        edge_labels: Small text beside the edges, `E` or none; "" for no label.
        gradient: Derivative of the leader's objective by the value of the edge `[E]`; NaN for none.
        occupancy: Share of the follower's time at the nodes `[N]` in [0, 1].
        marks: Signs at the nodes, `N` or none: 'S' start, 'G' goal, 'T' the leader's target, 'H'
            hazard, '' no sign.
        follower: Node where the follower is now.
        title: Headline.
        status: Pairs of label and value below the headline.
        value_name: What `values` are called in the key.
        flow_name: What `flow` is called in the key.
        params_name: What `gradient` is taken by, in the key.
        mark_names: Words for the marks in the key, instead of the usual ones.
        panels: Bar charts right of the graph, below the key or beside it. Those that find no room
            are left out; several dozen rows fit.
    """

    places: FloatArray
    names: tuple[str, ...]
    edges: NDArray[np.int64]
    flow: FloatArray | None = None
    values: FloatArray | None = None
    value_limit: float = 1.0
    edge_labels: tuple[str, ...] = ()
    gradient: FloatArray | None = None
    occupancy: FloatArray | None = None
    marks: tuple[str, ...] = ()
    follower: int | None = None
    title: str = ""
    status: tuple[tuple[str, str], ...] = ()
    value_name: str = "payment"
    flow_name: str = "follower's flow"
    params_name: str = "payment"
    mark_names: Mapping[str, str] = field(default_factory=dict)
    panels: tuple[Panel, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and values."""
        nodes = len(self.names)
        if nodes == 0:
            raise ValueError("`names` must hold at least one node, got none")
        _check_array("places", self.places, (nodes, 2))
        _check_range("places", self.places, 0.0, 1.0)
        edges = _check_edges(self.edges, nodes)
        check_positive("value_limit", self.value_limit)
        for name, nan in (("flow", False), ("values", True), ("gradient", True)):
            values = getattr(self, name)
            if values is not None:
                _check_array(name, values, (edges,), nan=nan)
        if self.flow is not None:
            _check_range("flow", self.flow, 0.0, math.inf)
        if self.occupancy is not None:
            _check_array("occupancy", self.occupancy, (nodes,))
            _check_range("occupancy", self.occupancy, 0.0, 1.0)
        _check_length("edge_labels", self.edge_labels, edges, "edge")
        _check_length("marks", self.marks, nodes, "node")
        for name, marks in (("marks", self.marks), ("mark_names", tuple(self.mark_names))):
            unknown = [mark for mark in marks if mark and mark not in MARK_NAMES]
            if unknown:
                raise ValueError(f"`{name}` must be among 'S', 'G', 'T', 'H', got {unknown[0]!r}")
        if self.follower is not None and not 0 <= self.follower < nodes:
            raise ValueError(f"`follower` must lie in 0..{nodes - 1}, got {self.follower}")


def _check_array(
    name: str, values: FloatArray, shape: tuple[int, ...], *, nan: bool = False
) -> None:
    """Check the shape, and that every value is finite or, if that is allowed, NaN."""
    if np.shape(values) != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {np.shape(values)}")
    bad = ~np.isfinite(values) & ~(np.isnan(values) & nan)
    if bad.any():
        entry = tuple(np.argwhere(bad)[0].tolist())
        accepted = "finite or NaN" if nan else "finite"
        where = ", ".join(map(str, entry))
        raise ValueError(f"`{name}[{where}]` must be {accepted}, got {float(values[entry])}")


def _check_range(name: str, values: FloatArray, low: float, high: float) -> None:
    """Check that values lie in an interval, apart from rounding."""
    outside = (values < low - TOLERANCE) | (values > high + TOLERANCE)
    if outside.any():
        accepted = "not be negative" if high == math.inf else f"lie in [{low:g}, {high:g}]"
        raise ValueError(f"`{name}` must {accepted}, got {float(values[outside][0])}")


def _check_edges(edges: NDArray[np.int64], nodes: int) -> int:
    """Return the number of edges after checking that they join existing nodes."""
    shape = np.shape(edges)
    if len(shape) != 2 or shape[1] != 2:
        raise ValueError(f"`edges` must have shape [E, 2], got {shape}")
    if np.asarray(edges).dtype.kind not in "iu":
        raise ValueError(f"`edges` must hold integers, got dtype {np.asarray(edges).dtype}")
    outside = (edges < 0) | (edges >= nodes)
    if outside.any():
        edge = int(np.argwhere(outside)[0, 0])
        raise ValueError(
            f"`edges[{edge}]` must join nodes in 0..{nodes - 1}, got {edges[edge].tolist()}"
        )
    return int(shape[0])


def _check_length(name: str, values: tuple[str, ...], length: int, each: str) -> None:
    """Check that there is a text for each thing, or none at all."""
    if len(values) not in (0, length):
        raise ValueError(f"`{name}` must have one text per {each} ({length}), got {len(values)}")


# Layout


class _Stroke(NamedTuple):
    """The middle line of an edge between its nodes: points `[P, 2]` and the lengths up to them."""

    points: FloatArray
    lengths: FloatArray


class _PanelPlace(NamedTuple):
    """Which panel goes where, and the height of its rows."""

    panel: int
    rectangle: Rectangle
    row: int


@dataclass(frozen=True, eq=False)
class GraphLayout:
    """Where everything is in the picture of a graph.

    Attributes:
        size: Width and height of the frame, both even as video encoders want them.
        area: Rectangle of the graph; like the following, (left, top, width, height).
        title: Rectangle of the headline.
        status: Rectangle of the status line.
        key: Rectangle of the colour scale and the key.
        panels: Which panels are where.
        radius: Radius of the nodes.
        nodes: Centres of the nodes in pixels of the frame `[N, 2]`.
        curves: Middle lines of the edges from node to node `[E, CURVE_POINTS, 2]`.
        strokes: What of them is drawn.
        corners: Directions as angles in which the sign of a node and the follower stand `[N, 2]`.
    """

    size: tuple[int, int]
    area: Rectangle
    title: Rectangle
    status: Rectangle
    key: Rectangle
    panels: tuple[_PanelPlace, ...]
    radius: float
    nodes: FloatArray
    curves: FloatArray
    strokes: tuple[_Stroke, ...]
    corners: FloatArray

    @property
    def widest(self) -> float:
        """Width of the edge with the largest flow."""
        return min(EDGE_WIDTHS[1], EDGE_SHARE * self.radius)


def graph_layout(scene: GraphScene) -> GraphLayout:
    """Lay out the picture of a graph; depends on its shape, not on its flows and values."""
    edges = np.asarray(scene.edges, dtype=np.int64)
    return _layout(
        np.ascontiguousarray(scene.places, dtype=np.float64).tobytes(),
        edges.tobytes(),
        tuple(len(panel.labels) for panel in scene.panels),
        _reserved_slots(scene),
    )


def _reserved_slots(scene: GraphScene) -> int:
    """Count the rows of the longest key that a scene of this kind may have."""
    slots = len(set(scene.marks) - {""}) + 5  # follower, flow, occupancy and two triangles
    if scene.values is not None:
        slots += COLOUR_BAR_SLOTS + bool(np.isnan(scene.values).any())
    return slots


@lru_cache(maxsize=32)
def _layout(
    place_bytes: bytes, edge_bytes: bytes, panels: tuple[int, ...], key_slots: int
) -> GraphLayout:
    """Lay out a graph given by the bytes of its arrays, with panels of so many rows."""
    margin, (width, height) = THEME.margin, SIZE
    top = margin + TITLE_HEIGHT + STATUS_HEIGHT + margin
    room = height - margin - top
    places, wide = _place_panels(panels, top, room, key_slots * KEY_ROW)
    column = 0 if wide else PANEL_WIDTH + margin
    area_width = width - 3 * margin - KEY_WIDTH - column
    area = (margin, top, area_width, room)
    centres, radius = _node_places(np.frombuffer(place_bytes).reshape(-1, 2), area, edge_bytes)
    edges = np.frombuffer(edge_bytes, dtype=np.int64).reshape(-1, 2)
    curves = _edge_curves(centres, edges, radius, area)
    for array in (centres, curves):
        array.setflags(write=False)
    return GraphLayout(
        size=SIZE,
        area=area,
        title=(margin, margin, width - 2 * margin, TITLE_HEIGHT),
        status=(margin, margin + TITLE_HEIGHT, width - 2 * margin, STATUS_HEIGHT),
        key=(margin + area_width + margin, top, KEY_WIDTH, room),
        panels=places,
        radius=radius,
        nodes=centres,
        curves=curves,
        strokes=tuple(
            _trimmed(curve, centres[start], centres[end], radius)
            for curve, (start, end) in zip(curves, edges.tolist(), strict=True)
        ),
        corners=_free_corners(centres, edges, curves, radius),
    )


def _place_panels(
    panels: tuple[int, ...], top: int, room: int, key_height: int
) -> tuple[tuple[_PanelPlace, ...], bool]:
    """Place panels below the key if they fit there, else in a column beside it and then below.

    Returns:
        The places, and whether the panels leave the whole width to the graph.
    """
    margin = THEME.margin
    right = SIZE[0] - margin
    key_height += THEME.gap // 2
    below = (right - KEY_WIDTH, top + key_height, KEY_WIDTH, room - key_height)
    for row in PANEL_ROWS[:READABLE_ROWS]:
        places = _fill(panels, (below,), row)
        if len(places) == len(panels):
            return _lowered(places, top + room), True
    beside = (right - PANEL_WIDTH, top, PANEL_WIDTH, room)
    below = (below[0] - PANEL_WIDTH - margin, *below[1:])
    tries: list[tuple[tuple[Rectangle, ...], int]] = [
        ((beside,), row) for row in PANEL_ROWS[:READABLE_ROWS]
    ]
    tries += [((beside, below), row) for row in PANEL_ROWS]
    for columns, row in tries:
        places = _fill(panels, columns, row)
        if len(places) == len(panels):
            break
    return tuple(places), False


def _lowered(places: list[_PanelPlace], bottom: int) -> tuple[_PanelPlace, ...]:
    """Move panels down to the bottom of the picture: the key may be shorter than reserved."""
    shift = bottom - max((p.rectangle[1] + p.rectangle[3] for p in places), default=0)
    moved = []
    for place in places:
        left, top, width, height = place.rectangle
        moved.append(place._replace(rectangle=(left, top + shift, width, height)))
    return tuple(moved)


def _fill(panels: tuple[int, ...], columns: tuple[Rectangle, ...], row: int) -> list[_PanelPlace]:
    """Fill columns with panels from the top until there is no more room."""
    places: list[_PanelPlace] = []
    column, used = 0, 0
    for index, rows in enumerate(panels):
        height = _panel_height(rows, row)
        while column < len(columns) and used + height > columns[column][3]:
            column, used = column + 1, 0
        if column == len(columns):
            break
        left, top, width, _ = columns[column]
        places.append(_PanelPlace(index, (left, top + used, width, height), row))
        used += height + row // 2
    return places


def _panel_height(rows: int, row: int) -> int:
    return (rows + 1) * row + 4


def _node_places(
    places: FloatArray, area: Rectangle, edge_bytes: bytes
) -> tuple[FloatArray, float]:
    """Return the centres of the nodes `[N, 2]` and their radius."""
    edges = np.frombuffer(edge_bytes, dtype=np.int64).reshape(-1, 2)
    loops = bool((edges[:, 0] == edges[:, 1]).any())
    left, top, width, height = area
    radius, centres = NODE_RADII[1], places
    # The smaller the nodes, the nearer they may come to the edge of the area.
    for _ in range(3):
        pad = radius * (3.0 if loops else 1.0) + 24.0
        inner = np.array([width - 2 * pad, height - 2 * pad])
        centres = np.array([left + pad, top + pad]) + np.clip(places, 0.0, 1.0) * inner
        gaps = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
        gaps[np.diag_indices(len(gaps))] = np.inf
        radius = min(max(NODE_SHARE * float(gaps.min()), NODE_RADII[0]), NODE_RADII[1])
    return np.rint(centres), round(2 * radius) / 2


# Edges as curves


def _unit(vectors: FloatArray) -> FloatArray:
    """Return vectors `[..., 2]` of length one; those without a direction point right."""
    lengths = np.hypot(vectors[..., 0], vectors[..., 1])[..., None]
    return np.where(lengths > 1e-9, vectors / np.maximum(lengths, 1e-9), np.array([1.0, 0.0]))


def _normals(vectors: FloatArray) -> FloatArray:
    """Return the directions to the right of vectors `[..., 2]`, as y grows downward."""
    units = _unit(vectors)
    return np.stack([-units[..., 1], units[..., 0]], axis=-1)


def _edge_curves(
    centres: FloatArray, edges: NDArray[np.int64], radius: float, area: Rectangle
) -> FloatArray:
    """Return the middle lines of the edges, from within a node to within a node."""
    widest = min(EDGE_WIDTHS[1], EDGE_SHARE * radius)
    lane = widest / 2 + CASING + 1.5
    pairs = {tuple(edge) for edge in edges.tolist()}
    seen: dict[tuple[int, ...], int] = {}
    curves = np.zeros((len(edges), CURVE_POINTS, 2))
    for k, (start, end) in enumerate(edges.tolist()):
        if start == end:
            continue
        repeat = seen[start, end] = seen.get((start, end), -1) + 1
        opposite = (end, start) in pairs
        bend = BEND if opposite and len(centres) <= FEW_NODES else 0.0
        offset = lane * (2 * repeat + opposite * (BENT_LANE if bend else 1.0))
        offset = min(offset, MOST_OFFSET * radius)
        bend += BEND * repeat
        others = np.delete(centres, [start, end], axis=0)
        best = math.inf
        for extra in BENDS:
            for side in (1.0,) if extra == 0.0 else (1.0, -1.0):
                curve = _bent(centres[start], centres[end], offset, bend + side * extra)
                hits = radius + widest / 2 + 4.0 - _distances(others, curve)
                cost = float(np.maximum(hits, 0.0).sum()) + 4.0 * extra + (side < 0)
                cost += _outside(curve, area)
                if cost < best - 1e-9:
                    best, curves[k] = cost, curve
            if best < 4.0 * extra + 2.0:
                break
    for k, (start, end) in enumerate(edges.tolist()):
        if start == end:
            repeat = seen[start, end] = seen.get((start, end), -1) + 1
            touching = (edges == start).any(axis=1) & (curves != 0.0).any(axis=(1, 2))
            taken = _directions(centres[start], curves[touching], 1.6 * radius)
            angle = _freest(taken, centres[start] - centres.mean(axis=0))
            curves[k] = _loop(centres[start], angle, radius)
    return curves


def _bent(start: FloatArray, end: FloatArray, offset: float, bend: float) -> FloatArray:
    """Return a curve from node to node, moved to its right and bent by a share of its length."""
    t = np.linspace(0.0, 1.0, CURVE_POINTS)[:, None]
    along = end - start
    height = offset + bend * math.hypot(*along) * 4 * t * (1 - t)
    curve: FloatArray = start + t * along + height * _normals(along)
    return curve


def _loop(centre: FloatArray, angle: float, radius: float) -> FloatArray:
    """Return a ring that leaves a node and comes back to it."""
    size = 0.85 * radius + 5.0
    turns = angle + math.pi + np.linspace(0.0, 2 * math.pi, CURVE_POINTS)
    middle = centre + (radius + 0.62 * size) * np.array([math.cos(angle), math.sin(angle)])
    ring: FloatArray = middle + size * np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    return ring


def _distances(points: FloatArray, curve: FloatArray) -> FloatArray:
    """Return the distance of each point `[M, 2]` to a curve."""
    if len(points) == 0:
        return np.zeros(0)
    gaps = np.hypot(*(points[:, None] - curve[None]).transpose(2, 0, 1))
    nearest: FloatArray = gaps.min(axis=1)
    return nearest


def _outside(curve: FloatArray, area: Rectangle) -> float:
    """Return by how many pixels a curve leaves the area."""
    left, top, width, height = area
    low, high = curve.min(axis=0) - (left, top), (left + width, top + height) - curve.max(axis=0)
    return float(np.maximum(16.0 - np.concatenate([low, high]), 0.0).sum())


def _directions(centre: FloatArray, curves: FloatArray, distance: float) -> FloatArray:
    """Return the angles at which curves `[M, P, 2]` pass a node at a distance."""
    if len(curves) == 0:
        return np.zeros(0)
    gaps = curves - centre
    near = np.abs(np.hypot(gaps[..., 0], gaps[..., 1]) - distance)
    half = CURVE_POINTS // 2
    angles = []
    # A loop passes twice; other curves have one end elsewhere, which is ignored.
    for part in (slice(0, half + 1), slice(half, None)):
        index = near[:, part].argmin(axis=1)
        rows = np.arange(len(curves))
        shown = near[:, part][rows, index] < distance
        points = gaps[:, part][rows, index][shown]
        angles.append(np.arctan2(points[:, 1], points[:, 0]))
    return np.concatenate(angles)


def _freest(taken: FloatArray, preferred: FloatArray) -> float:
    """Return the angle farthest from all that are taken, near a preferred direction if tied."""
    angles = np.linspace(-math.pi, math.pi, 48, endpoint=False)
    score = 0.25 * np.cos(angles - math.atan2(preferred[1], preferred[0]))
    if len(taken):
        gaps = np.abs((angles[:, None] - taken[None] + math.pi) % (2 * math.pi) - math.pi)
        score = score + np.minimum(gaps.min(axis=1), 1.2)
    return float(angles[int(score.argmax())])


def _free_corners(
    centres: FloatArray, edges: NDArray[np.int64], curves: FloatArray, radius: float
) -> FloatArray:
    """Choose at each node a free place for its sign, best up and left, and for the follower."""
    corners = np.zeros((len(centres), 2))
    for node, centre in enumerate(centres):
        touching = (edges == node).any(axis=1)
        taken = _directions(centre, curves[touching], 1.3 * radius)
        corners[node, 0] = _freest(taken, np.array([-1.0, -1.0]))
        taken = np.append(taken, corners[node, 0])
        corners[node, 1] = _freest(taken, np.array([-1.0, 1.0]))
    corners.setflags(write=False)
    return corners


class _Outline(NamedTuple):
    """The polygons of an edge with its head, `[M, 2]`: what is filled and what surrounds it."""

    body: FloatArray
    casing: FloatArray


def _trimmed(curve: FloatArray, start: FloatArray, end: FloatArray, radius: float) -> _Stroke:
    """Cut off what lies within the nodes."""
    from_start = np.hypot(*(curve - start).T) >= radius
    from_end = np.hypot(*(curve - end).T) >= radius + HEAD_GAP + CASING
    lengths = np.append(0.0, np.cumsum(np.hypot(*np.diff(curve, axis=0).T)))
    if not (from_start.any() and from_end.any()):
        return _Stroke(curve, lengths)
    first = _crossing(lengths, np.hypot(*(curve - start).T) - radius, int(from_start.argmax()))
    gap = np.hypot(*(curve - end).T)[::-1] - radius - HEAD_GAP - CASING
    last = _crossing(lengths[::-1], gap, int(from_end[::-1].argmax()))
    if last <= first:
        return _Stroke(curve, lengths)
    places = np.linspace(first, last, CURVE_POINTS)
    points = np.stack([np.interp(places, lengths, axis) for axis in curve.T], axis=-1)
    return _Stroke(points, places - first)


def _crossing(lengths: FloatArray, gaps: FloatArray, index: int) -> float:
    """Return the length at which a gap turns from negative to positive before an index."""
    if index == 0:
        return float(lengths[0])
    share = gaps[index - 1] / (gaps[index - 1] - gaps[index])
    return float(lengths[index - 1] + share * (lengths[index] - lengths[index - 1]))


def _outline(stroke: _Stroke, width: float) -> _Outline:
    """Return an arrow of a width along a trimmed curve."""
    points, lengths = stroke
    total = float(lengths[-1])
    head = max(min(6.5 + 1.05 * width, 0.62 * total), 1.0)
    half = 3.2 + 0.6 * width
    neck = total - head
    places = np.append(lengths[lengths < neck - 0.5], neck)
    shaft = np.stack([np.interp(places, lengths, axis) for axis in points.T], axis=-1)
    tip = points[-1]
    along = _unit(tip - shaft[-1])
    normals = _normals(np.gradient(shaft, axis=0)) if len(shaft) > 1 else _normals(along[None])
    normals[-1] = side = _normals(along)
    polygons = []
    for grown in (0.0, CASING):
        sides = normals * (width / 2 + grown)
        # A grown triangle is larger by more than the growth at its corners.
        point = tip + along * grown * math.hypot(half, head) / half
        base = shaft[-1] - along * grown
        wing = side * (half + grown * (math.hypot(half, head) + half) / head)
        ends = [base + wing, point, base - wing]
        polygons.append(np.concatenate([shaft + sides, ends, (shaft - sides)[::-1]]))
    return _Outline(*polygons)


# Labels


class _Label(NamedTuple):
    """The room for the text and the triangle of an edge."""

    edge: int
    width: int
    height: int


@lru_cache(maxsize=64)
def _label_places(
    layout: GraphLayout, labels: tuple[_Label, ...], kinds: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Choose for each label a centre beside or on its edge that covers as little as possible."""
    choices = [_label_choices(layout, label, kinds[label.edge]) for label in labels]
    chosen = [int(costs.argmin()) for _, costs in choices]
    clashes = _clashes(labels, [middles for middles, _ in choices])
    near: list[dict[int, FloatArray]] = [{} for _ in labels]
    for (i, j), penalty in clashes.items():
        near[i][j], near[j][i] = penalty, penalty.T

    def cost(k: int, moving: int) -> FloatArray:
        """Return what each choice for a label costs while all others but one stay."""
        stay = [penalty[:, chosen[j]] for j, penalty in near[k].items() if j != moving]
        total: FloatArray = choices[k][1] + sum(stay)
        return total

    # Two at a time: either alone might find no better place before the other has moved.
    for _ in range(LABEL_PASSES):
        for (i, j), penalty in clashes.items():
            joint = cost(i, j)[:, None] + cost(j, i) + penalty
            chosen[i], chosen[j] = divmod(int(joint.argmin()), joint.shape[1])
    places = [choices[k][0][chosen[k]] for k in range(len(labels))]
    return tuple((int(x), int(y)) for x, y in places)


def _clashes(
    labels: tuple[_Label, ...], middles: list[FloatArray]
) -> dict[tuple[int, int], FloatArray]:
    """Return for pairs of labels that may overlap what each pair of choices `[C, D]` costs."""
    clashes = {}
    sizes = [np.array([label.width + 4, label.height + 2]) for label in labels]
    lows = [points.min(axis=0) - size / 2 for points, size in zip(middles, sizes, strict=True)]
    highs = [points.max(axis=0) + size / 2 for points, size in zip(middles, sizes, strict=True)]
    for i, j in combinations(range(len(labels)), 2):
        if (lows[i] < highs[j]).all() and (lows[j] < highs[i]).all():
            gaps = np.abs(middles[i][:, None] - middles[j])
            overlap = ((sizes[i] + sizes[j]) / 2 - gaps).min(axis=-1)
            if overlap.max() > 0:
                clashes[i, j] = np.where(overlap > 0, 40.0 + 8.0 * overlap, 0.0)
    return clashes


def _label_choices(layout: GraphLayout, label: _Label, kind: str) -> tuple[FloatArray, FloatArray]:
    """Return centres `[C, 2]` where a label may be, and what speaks against each `[C]`."""
    curve = layout.curves[label.edge]
    size = np.array([label.width, label.height], dtype=float)
    shares, sides = np.array(LABEL_SHARES), np.array(LABEL_SIDES[kind])
    index = np.rint(shares * (CURVE_POINTS - 1)).astype(int)
    normals = _normals(np.gradient(curve, axis=0))[index]
    away = layout.widest / 2 + CASING + 1.0 + np.abs(normals) @ size / 2
    shifts = (sides * away[:, None])[..., None] * normals[:, None]
    middles = np.rint(curve[index][:, None] + shifts).reshape(-1, 2)
    low, high = (middles - size / 2)[:, None], (middles + size / 2)[:, None]

    nearest = np.clip(layout.nodes, low, high) - layout.nodes
    distances = np.hypot(nearest[..., 0], nearest[..., 1])
    hits = np.maximum(layout.radius + 3.0 - distances, 0.0).sum(axis=1)
    points = np.delete(layout.curves, label.edge, axis=0).reshape(-1, 2)
    own_head = curve[-CURVE_POINTS // 4 :]
    covered = 12.0 * ((own_head > low) & (own_head < high)).all(axis=-1).any(axis=-1)
    # An edge below the plate is worse than one that may touch it when it is wide.
    for reach, weight in ((1.0, 14.0), (layout.widest / 2, 4.0)):
        inside = ((points > low - reach) & (points < high + reach)).all(axis=-1)
        edges = inside.reshape(len(middles), -1, CURVE_POINTS)
        heads = edges[..., -CURVE_POINTS // 4 :].any(axis=-1)
        covered += weight * (edges.any(axis=-1) + 0.5 * heads).sum(axis=-1)
    corner = np.array(layout.area[:2])
    room = np.minimum(low[:, 0] - corner, corner + layout.area[2:] - high[:, 0]).min(axis=-1)
    costs = 20.0 * hits + covered + 400.0 * (room < 4)
    costs += (16.0 * np.abs(shares - 0.5)[:, None] + 8.0 * np.arange(len(sides))).ravel()
    return middles, costs


# The picture


def draw_graph(scene: GraphScene) -> Surface:
    """Draw a scene on a new surface; needs no display."""
    pygame = import_pygame()
    layout = graph_layout(scene)
    surface = new_surface(layout.size)
    left, top, width, _ = layout.title
    draw_text(surface, scene.title, (left, top), size=THEME.title_size, max_width=width)
    draw_status(surface, layout.status, scene.status)
    _draw_edges(surface, layout, scene)
    pygame.draw.rect(surface, THEME.rule, layout.area, 1)
    _draw_nodes(surface, layout, scene)
    largest = _largest_gradient(scene)
    _draw_labels(surface, layout, scene, largest)
    _draw_pins(surface, layout, scene)
    _draw_key(surface, layout, scene)
    _draw_panels(surface, layout, scene, largest)
    return surface


def _largest_gradient(scene: GraphScene) -> float:
    """Return the largest magnitude among the derivatives by edges and by rows of panels."""
    return max((float(np.abs(values).max(initial=0.0)) for values in _gradients(scene)), default=0)


def _gradients(scene: GraphScene) -> list[FloatArray]:
    """Return all derivatives that the scene shows, without NaN."""
    given = [scene.gradient, *(panel.gradient for panel in scene.panels)]
    return [np.nan_to_num(values) for values in given if values is not None]


def _widths(layout: GraphLayout, scene: GraphScene) -> FloatArray:
    """Return the widths of the edges `[E]`."""
    least, most = EDGE_WIDTHS[0], layout.widest
    if scene.flow is None:
        return np.full(len(scene.edges), least + 0.15 * (most - least))
    largest = float(np.max(scene.flow, initial=0.0))
    share = np.clip(scene.flow / largest, 0.0, 1.0) if largest > 0 else np.zeros(len(scene.flow))
    widths: FloatArray = least + share * (most - least)
    return widths


def _draw_edges(surface: Surface, layout: GraphLayout, scene: GraphScene) -> None:
    """Draw the edges, those with a value and then the thin ones last."""
    pygame = import_pygame()
    left, top, width, height = layout.area
    scale = EDGE_SUPERSAMPLING
    large = pygame.Surface((width * scale, height * scale), depth=32)
    large.fill(PAPER)
    widths = _widths(layout, scene)
    values = np.full(len(widths), np.nan) if scene.values is None else np.asarray(scene.values)
    plain = np.isnan(values)
    limit = scene.value_limit
    colours = diverging_colours(np.clip(values, -limit, limit), limit)
    colours[plain] = NEUTRAL
    for k in np.lexsort((-widths, ~plain)).tolist():
        outline = _outline(layout.strokes[k], float(widths[k]))
        casing = PAPER if plain[k] else THEME.ink
        for polygon, colour in ((outline.casing, casing), (outline.body, colours[k].tolist())):
            pygame.draw.polygon(large, colour, ((polygon - (left, top)) * scale).tolist())
    small = pygame.transform.smoothscale(large, (width, height))
    # Rounding down in both directions leaves white a little grey, which plates would show.
    small.fill((2, 2, 2), special_flags=pygame.BLEND_ADD)
    surface.blit(small, (left, top))


def _draw_nodes(surface: Surface, layout: GraphLayout, scene: GraphScene) -> None:
    """Draw the circles of the nodes with their occupancy and their names."""
    radius = layout.radius
    levels = np.zeros(len(scene.names), dtype=int)
    if scene.occupancy is not None and scene.occupancy.max() > 0:
        share = np.clip(scene.occupancy, 0.0, None) / scene.occupancy.max()
        levels = np.rint(np.sqrt(share) * LEVELS).astype(int)
    size = _name_size(scene.names, radius)
    for node, (x, y) in enumerate(layout.nodes.astype(int).tolist()):
        hazard = bool(scene.marks) and scene.marks[node] == HAZARD
        sprite = _node_sprite(radius, int(levels[node]), hazard)
        half = _node_side(radius) // 2
        surface.blit(*sprite.at(x - half, y - half))
        room = round(2 * radius) - 4
        draw_text(
            surface, scene.names[node], (x, y + 1), size=size, anchor="center", max_width=room
        )


def _name_size(names: tuple[str, ...], radius: float) -> int:
    """Return the size of letters in which all names fit in their nodes, if any does."""
    for size in range(THEME.text_size + 3, 11, -1):
        boxes = (text_size(name, size) for name in names)
        if all(math.hypot(w, 0.6 * h) <= 1.7 * radius for w, h in boxes):
            return size
    return 12


def _node_side(radius: float) -> int:
    """Return the side of the square of a node's sprite, even so that its middle is a corner."""
    return 2 * math.ceil(radius + 1)


@lru_cache(maxsize=256)
def _node_sprite(radius: float, level: int, hazard: bool) -> Sprite:
    """Return the circle of a node, with a disc as large as its occupancy and perhaps with tape."""

    def paint(surface: Surface) -> None:
        pygame = import_pygame()
        side = surface.get_width()
        centre = (side / 2, side / 2)
        outer = radius * SUPERSAMPLING
        pygame.draw.circle(surface, THEME.ink, centre, outer)
        inner = outer - 1.5 * SUPERSAMPLING
        if hazard:
            pygame.draw.circle(surface, HAZARD_COLOUR, centre, inner)
            for stripe in range(12):
                corners = [
                    (centre[0] + inner * math.cos(turn), centre[1] + inner * math.sin(turn))
                    for turn in (math.pi / 6 * (stripe + part / 8) for part in range(5))
                ]
                pygame.draw.polygon(surface, THEME.ink, [centre, *corners])
            inner -= max(3.0, 0.16 * radius) * SUPERSAMPLING
        pygame.draw.circle(surface, PAPER, centre, inner)
        disc = inner * level / LEVELS
        if 2 * disc >= MIN_SIGN * SUPERSAMPLING:
            pygame.draw.circle(surface, OCCUPANCY, centre, disc)

    return make_sprite(_node_side(radius), THEME.ink, paint)


def _pin_diameter(radius: float) -> int:
    return round(min(max(1.15 * radius, 16.0), 26.0))


def _draw_pins(surface: Surface, layout: GraphLayout, scene: GraphScene) -> None:
    """Draw the signs at the nodes and the follower, in their free corners."""
    diameter = _pin_diameter(layout.radius)
    pins = [
        (node, 0, _place_sprite(mark, diameter))
        for node, mark in enumerate(scene.marks)
        if mark and mark != HAZARD
    ]
    if scene.follower is not None:
        pins.append((scene.follower, 1, pin_sprite(FOLLOWER, diameter)))
    distance = layout.radius + 0.28 * diameter
    for node, corner, sprite in pins:
        angle = layout.corners[node, corner]
        x, y = layout.nodes[node] + distance * np.array([math.cos(angle), math.sin(angle)])
        surface.blit(*sprite.at(round(x - diameter / 2), round(y - diameter / 2)))


def _gradient_level(value: float, largest: float) -> int:
    """Return the signed size of a triangle, 0 where none is drawn."""
    if math.isnan(value) or largest <= 0:
        return 0
    level = round(math.copysign(math.sqrt(abs(value) / largest), value) * LEVELS)
    return level if abs(level) >= math.ceil(MIN_SIGN / TRIANGLE * LEVELS) else 0


def _draw_triangle(surface: Surface, middle: tuple[int, int], level: int) -> None:
    """Draw the triangle of a derivative around a pixel."""
    if not level:
        return
    # The sprite is made for the corner of a cell.
    cell = round(TRIANGLE / TRIANGLE_SIDE)
    share = 1 - CORNER - TRIANGLE_SIDE / 2
    left, top = round(middle[0] - share * cell), round(middle[1] - (1 - share) * cell)
    surface.blit(*triangle_sprite(cell, level).at(left, top))


def _draw_labels(surface: Surface, layout: GraphLayout, scene: GraphScene, largest: float) -> None:
    """Draw the labels of the edges on plates and their triangles beside them."""
    pygame = import_pygame()
    texts = scene.edge_labels or ("",) * len(scene.edges)
    triangles = np.full(len(texts), np.nan) if scene.gradient is None else scene.gradient
    height = text_size("0", LABEL_SIZE)[1]
    labels = []
    for edge, text in enumerate(texts):
        letters = text_size(text, LABEL_SIZE)[0] if text else 0
        letters = -(-letters // LABEL_STEP) * LABEL_STEP
        side = 0 if math.isnan(triangles[edge]) else TRIANGLE
        if letters or side:
            width = letters + side + (6 if letters else 0)
            labels.append(_Label(edge, width, max(height, side)))
    places = _label_places(layout, tuple(labels), _label_kinds(scene))
    for label, (x, y) in zip(labels, places, strict=True):
        text = texts[label.edge]
        level = _gradient_level(float(triangles[label.edge]), largest)
        if not text:
            _draw_triangle(surface, (x, y), level)
            continue
        side = TRIANGLE if not math.isnan(triangles[label.edge]) else 0
        box = pygame.Rect(0, 0, label.width, label.height)
        box.center = (x, y)
        place = (box.left + (box.width - side) // 2, y + 1)
        plate = box.copy()
        if not level:
            plate.width = text_size(text, LABEL_SIZE)[0] + 4
            plate.centerx = place[0]
        pygame.draw.rect(surface, PAPER, plate, border_radius=3)
        draw_text(surface, text, place, size=LABEL_SIZE, anchor="center")
        _draw_triangle(surface, (box.right - side // 2 - 1, y), level)


def _label_kinds(scene: GraphScene) -> tuple[str, ...]:
    """Return which `LABEL_SIDES` each edge has; triangles without a text are best on the edge."""
    edges = scene.edges.tolist()
    pairs = {tuple(edge) for edge in edges}
    kinds = []
    for edge, text in zip(edges, scene.edge_labels or ("",) * len(edges), strict=True):
        beside = "loop" if edge[0] == edge[1] else "pair" if (edge[1], edge[0]) in pairs else ""
        kinds.append((text and beside) or "single")
    return tuple(kinds)


# The key


def _draw_key(surface: Surface, layout: GraphLayout, scene: GraphScene) -> None:
    """Draw the colour scale and the signs that occur in this picture."""
    left, top, width, height = layout.key
    slot = 0
    if scene.values is not None:
        bar = (left, top, width, COLOUR_BAR_HEIGHT)
        draw_colour_bar(surface, bar, scene.value_limit, scene.value_name)
        slot = COLOUR_BAR_SLOTS
    for entry in _key_entries(scene):
        _draw_key_entry(surface, (left, top + slot * KEY_ROW), entry)
        slot += 1


def _key_entries(scene: GraphScene) -> Iterator[_KeyEntry]:
    """Name the signs that this scene shows."""
    for kind, name in MARK_NAMES.items():
        if kind in scene.marks:
            ring = _node_sprite(ICON_SIDE / 2 - 1, 0, True)
            sign = ring if kind == HAZARD else _place_sprite(kind, ICON_SIDE)
            yield _KeyEntry((sign,), scene.mark_names.get(kind, name))
    if scene.follower is not None:
        yield _KeyEntry((pin_sprite(FOLLOWER, ICON_SIDE),), "follower", "where it is now")
    if scene.values is not None and np.isnan(scene.values).any():
        yield _KeyEntry((_edge_icon(False),), f"no {scene.params_name}")
    if scene.flow is not None:
        largest = float(np.max(scene.flow, initial=0.0))
        yield _KeyEntry((_flow_icon(),), scene.flow_name, f"width; largest {largest:.2g}")
    if scene.occupancy is not None:
        largest = float(scene.occupancy.max())
        disc = _node_sprite(ICON_SIDE / 2 - 1, round(0.7 * LEVELS), False)
        yield _KeyEntry((disc,), "occupancy", f"area; largest {largest:.2g}")
    gradients = _gradients(scene)
    if gradients:
        values = np.concatenate(gradients)
        up, down = float(values.max(initial=0.0)), abs(float(values.min(initial=0.0)))
        up_sign, down_sign = key_triangle_sprite(1), key_triangle_sprite(-1)
        yield _KeyEntry((up_sign,), f"raise {scene.params_name}", f"dF/dx up to +{up:.2g}")
        yield _KeyEntry((down_sign,), f"lower {scene.params_name}", f"dF/dx down to −{down:.2g}")


@lru_cache(maxsize=2)
def _edge_icon(valued: bool) -> Sprite:
    """Return an arrow for the key."""

    def paint(surface: Surface) -> None:
        side = surface.get_width()
        points = np.linspace([0.06 * ICON_SIDE, 0.5 * ICON_SIDE], [0.94 * ICON_SIDE] * 2, 5)
        points[:, 1] = 0.5 * ICON_SIDE
        lengths = points[:, 0] - points[0, 0]
        outline = _outline(_Stroke(points, lengths), 4.0)
        polygon = outline.casing if valued else outline.body
        shape = (polygon * side / ICON_SIDE).tolist()
        import_pygame().draw.polygon(surface, THEME.ink if valued else NEUTRAL, shape)

    return make_sprite(ICON_SIDE, NEUTRAL, paint)


@lru_cache(maxsize=1)
def _flow_icon() -> Sprite:
    """Return three lines of growing width for the key."""

    def paint(surface: Surface) -> None:
        side = surface.get_width()
        for place, width in ((0.2, 0.05), (0.42, 0.13), (0.75, 0.28)):
            box = (0, round(side * (place - width / 2)), side, round(side * width))
            import_pygame().draw.rect(surface, NEUTRAL, box)

    return make_sprite(ICON_SIDE, NEUTRAL, paint)


# Panels


def _draw_panels(surface: Surface, layout: GraphLayout, scene: GraphScene, largest: float) -> None:
    """Draw the charts of bars, those of one column with the same places for everything."""
    columns: dict[int, list[_PanelPlace]] = {}
    for place in layout.panels:
        columns.setdefault(place.rectangle[0], []).append(place)
    for places in columns.values():
        row, width = places[0].row, places[0].rectangle[2]
        size = min(THEME.small_size, row + 1)
        panels = [scene.panels[place.panel] for place in places]
        names = [label for panel in panels for label in panel.labels]
        texts = [text for panel in panels for text in _panel_texts(panel)]
        label_room, text_room = (_text_room(group, size, width // 3) for group in (names, texts))
        triangles = any(panel.gradient is not None for panel in panels)
        rooms = (label_room, text_room, TRIANGLE + 7 if triangles else 0)
        for place, panel in zip(places, panels, strict=True):
            _draw_panel(surface, place, panel, rooms, largest)


def _panel_texts(panel: Panel) -> tuple[str, ...]:
    """Return what is printed at the end of the rows."""
    return panel.texts or tuple(f"{value:.2f}".replace("-", "−") for value in panel.values)


def _text_room(texts: list[str], size: int, most: int) -> int:
    """Return the width for a column of texts, in steps as numbers change."""
    widest = max((text_size(text, size)[0] for text in texts), default=0)
    return min(-(-widest // LABEL_STEP) * LABEL_STEP, most)


def _draw_panel(
    surface: Surface,
    place: _PanelPlace,
    panel: Panel,
    rooms: tuple[int, int, int],
    largest: float,
) -> None:
    """Draw one chart: labels, bars from zero, numbers, triangles."""
    pygame = import_pygame()
    (left, top, width, _), row = place.rectangle, place.row
    label_room, text_room, triangle_room = rooms
    size = min(THEME.small_size, row + 1)
    gap = THEME.gap // 2
    right = left + width - triangle_room
    track = pygame.Rect(left + label_room + gap, 0, 0, max(4, row * 3 // 5))
    track.width = right - text_room - gap - track.left
    signed = bool((panel.values < 0).any())
    title = min(THEME.text_size, row + 3)
    bottom = top + text_size(panel.title, title)[1]
    scale = draw_text(
        surface,
        f"{'±' if signed else '0…'}{panel.limit:.3g}",
        (left + width, bottom),
        size=size,
        colour=THEME.muted,
        anchor="bottomright",
    )
    room = width - scale - gap
    draw_text(surface, panel.title, (left, top), size=title, max_width=room)
    zero = track.left + (track.width // 2 if signed else 0)
    unit = (track.width // 2 if signed else track.width) / panel.limit
    texts = _panel_texts(panel)
    y = top + row + 4 + row // 2
    for i, value in enumerate(panel.values.tolist()):
        track.centery = y
        draw_text(
            surface,
            panel.labels[i],
            (left, y + 1),
            size=size,
            colour=THEME.muted,
            anchor="midleft",
            max_width=label_room,
        )
        pygame.draw.rect(surface, THEME.rule, track)
        reach = round(unit * min(max(value, -panel.limit), panel.limit))
        bar = pygame.Rect(min(zero, zero + reach), track.top, abs(reach), track.height)
        pygame.draw.rect(surface, BAR, bar)
        if abs(value) > panel.limit:
            cut = bar.right - 6 if value > 0 else bar.left + 4
            pygame.draw.rect(surface, THEME.page, (cut, bar.top, 2, bar.height))
        pygame.draw.line(surface, THEME.ink, (zero, track.top - 1), (zero, track.bottom))
        draw_text(
            surface, texts[i], (right, y + 1), size=size, anchor="midright", max_width=text_room
        )
        if panel.gradient is not None:
            level = _gradient_level(float(panel.gradient[i]), largest)
            _draw_triangle(surface, (left + width - TRIANGLE // 2 - 1, y), level)
        y += row
