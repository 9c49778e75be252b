"""Where everything is in the picture of a graph: nodes, edges as curves, labels and panels.

Numbers only; `bilevel_gym.rendering.graph` draws with them. Edges bend around the nodes in their
way, opposite ones lie side by side, loops stand where their node is free, and labels cover as
little as possible of what is drawn. A layout depends on the shape of the graph, not on what it
shows, so that a film of it stands still.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .canvas import HEADER_HEIGHT, THEME, Rectangle
from .key import KEY_WIDTH
from .strokes import lengths_along, points_along

FloatArray = NDArray[np.float64]

# Sizes in pixels
SIZE = (1100, 784)
PANEL_WIDTH = 256
PANEL_ROW = 21
"""Height of a row of bars."""
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

LABEL_SHARES = (0.5, 0.44, 0.56, 0.38, 0.62, 0.32, 0.68, 0.26, 0.74, 0.2, 0.8)
"""Where along its edge a label may be."""
LABEL_SIDES = {True: (1, 0, -1), False: (0, 1, -1)}
"""On which side, for labels that stand beside their edge and for others, the best first: 1 right of
it, away from the opposite edge and outside of a loop; 0 on it; −1 left of it."""
SWEEPS = 3
"""How often each label moves to the place that is best beside all others."""

CURVE_POINTS, FINE_POINTS = 41, 2001
BENDS = (0.0, 0.09, -0.09, 0.14, -0.14, 0.2, -0.2, 0.27, -0.27, 0.35, -0.35)
"""Shares of their length by which edges may bend around nodes in their way, the best first."""
BEND_COST = 20.0
"""Pixels hidden by a node that are as bad as bending by all of the length."""


# Layout


@dataclass(frozen=True, eq=False)
class GraphLayout:
    """Where everything is in the picture of a graph.

    Attributes:
        size: Width and height of the frame, both even as video encoders want them.
        area: Rectangle of the graph; like the following, (left, top, width, height).
        key: Rectangle of the colour scale and the key.
        panels: Rectangles of the panels, as many as there is room for.
        radius: Radius of the nodes.
        widest: Width of the edge with the largest flow.
        nodes: Centres of the nodes in pixels of the frame `[N, 2]`.
        curves: Middle lines of the edges from node to node `[E, CURVE_POINTS, 2]`.
        strokes: What of them is drawn, each `[P, 2]`.
        corners: Directions as angles in which the sign of a node and the follower stand `[N, 2]`.
    """

    size: tuple[int, int]
    area: Rectangle
    key: Rectangle
    panels: tuple[Rectangle, ...]
    radius: float
    widest: float
    nodes: FloatArray
    curves: FloatArray
    strokes: tuple[FloatArray, ...]
    corners: FloatArray


@lru_cache(maxsize=32)
def lay_out_graph(places: bytes, edges: bytes, panels: tuple[int, ...]) -> GraphLayout:
    """Lay out the picture of a graph with panels of so many rows.

    `places` are the bytes of where the nodes are, in [0, 1], float64 `[N, 2]`; `edges` those of the
    indices of the nodes that they join, int64 `[E, 2]`, no two alike.
    """
    margin, (width, height) = THEME.margin, SIZE
    top, room = HEADER_HEIGHT, height - margin - HEADER_HEIGHT
    area_width = width - 3 * margin - KEY_WIDTH - (PANEL_WIDTH + margin if panels else 0)
    area = (margin, top, area_width, room)
    ends = np.frombuffer(edges, dtype=np.int64).reshape(-1, 2)
    nodes, radius = _node_places(
        np.frombuffer(places).reshape(-1, 2), area, bool((ends[:, 0] == ends[:, 1]).any())
    )
    widest = min(EDGE_WIDTHS[1], EDGE_SHARE * radius)
    curves = _edge_curves(nodes, ends, radius, widest, area)
    corners = _free_corners(nodes, curves, radius)
    for array in (nodes, curves, corners):
        array.setflags(write=False)
    return GraphLayout(
        size=SIZE,
        area=area,
        key=(margin + area_width + margin, top, KEY_WIDTH, room),
        panels=_place_panels(panels, (width - margin - PANEL_WIDTH, top, PANEL_WIDTH, room)),
        radius=radius,
        widest=widest,
        nodes=nodes,
        curves=curves,
        strokes=tuple(
            _trimmed(curve, nodes[start], nodes[end], radius)
            for curve, (start, end) in zip(curves, ends.tolist(), strict=True)
        ),
        corners=corners,
    )


def _place_panels(panels: tuple[int, ...], column: Rectangle) -> tuple[Rectangle, ...]:
    """Place panels of so many rows below each other, until there is no more room."""
    left, top, width, room = column
    places, y = [], 0
    for rows in panels:
        height = (rows + 1) * PANEL_ROW + 4
        if y + height > room:
            break
        places.append((left, top + y, width, height))
        y += height + PANEL_ROW // 2
    return tuple(places)


def _node_places(places: FloatArray, area: Rectangle, loops: bool) -> tuple[FloatArray, float]:
    """Return the centres of the nodes `[N, 2]` and their radius; loops need room around them."""
    left, top, width, height = area
    radius, centres = NODE_RADII[1], places
    # The smaller the nodes, the nearer they may come to the edge of the area.
    for _ in range(3):
        pad = radius * (3.0 if loops else 1.0) + 24.0
        inner = np.array([width - 2 * pad, height - 2 * pad])
        centres = np.array([left + pad, top + pad]) + np.clip(places, 0.0, 1.0) * inner
        gaps = np.linalg.norm(centres[:, None] - centres, axis=2)
        gaps[np.diag_indices(len(gaps))] = np.inf
        radius = min(max(NODE_SHARE * float(gaps.min()), NODE_RADII[0]), NODE_RADII[1])
    return np.rint(centres), round(2 * radius) / 2


# Edges as curves


def _unit(vectors: FloatArray) -> FloatArray:
    """Return vectors `[..., 2]` of length one; those without a direction point right."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(lengths > 1e-9, vectors / np.maximum(lengths, 1e-9), np.array([1.0, 0.0]))


def _normals(vectors: FloatArray) -> FloatArray:
    """Return the directions to the right of vectors `[..., 2]`, as y grows downward."""
    units = _unit(vectors)
    return np.stack([-units[..., 1], units[..., 0]], axis=-1)


def _edge_curves(
    centres: FloatArray, edges: NDArray[np.int64], radius: float, widest: float, area: Rectangle
) -> FloatArray:
    """Return the middle lines of the edges, from within a node to within a node."""
    lane, corner = widest / 2 + CASING + 1.5, np.array(area[:2])
    pairs = {tuple(edge) for edge in edges.tolist()}
    curves = np.zeros((len(edges), CURVE_POINTS, 2))
    for k, (start, end) in enumerate(edges.tolist()):
        if start == end:
            continue
        offset = lane if (end, start) in pairs else 0.0
        others = np.delete(centres, [start, end], axis=0)
        best = math.inf
        for bend in BENDS:
            if best <= BEND_COST * abs(bend):
                break
            curve = _bent(centres[start], centres[end], offset, bend)
            distances = np.linalg.norm(others[:, None] - curve, axis=2).min(axis=1)
            hits = np.maximum(radius + widest / 2 + 4.0 - distances, 0.0).sum()
            ends = np.concatenate([curve - corner, corner + area[2:] - curve])
            outside = np.maximum(16.0 - ends.min(axis=0), 0.0).sum()
            cost = float(hits + outside) + BEND_COST * abs(bend)
            if cost < best:
                best, curves[k] = cost, curve
    turns, size = np.linspace(0.0, 2 * math.pi, CURVE_POINTS), 0.85 * radius + 5.0
    for k in np.flatnonzero(edges[:, 0] == edges[:, 1]).tolist():
        # A ring that leaves a node where it is free and comes back to it, its outside on the right.
        centre = centres[edges[k, 0]]
        taken = _directions(centre, curves, 1.6 * radius)
        angle = _freest(taken, centre - centres.mean(axis=0))
        middle = centre + (radius + 0.62 * size) * np.array([math.cos(angle), math.sin(angle)])
        around = angle + math.pi - turns
        curves[k] = middle + size * np.stack([np.cos(around), np.sin(around)], axis=-1)
    return curves


def _bent(start: FloatArray, end: FloatArray, offset: float, bend: float) -> FloatArray:
    """Return a curve from node to node, moved to its right and bent by a share of its length."""
    t = np.linspace(0.0, 1.0, CURVE_POINTS)[:, None]
    along = end - start
    height = offset + bend * math.hypot(*along) * 4 * t * (1 - t)
    curve: FloatArray = start + t * along + height * _normals(along)
    return curve


def _directions(centre: FloatArray, curves: FloatArray, distance: float) -> FloatArray:
    """Return the angles of the points of curves `[M, P, 2]` around a node at about a distance."""
    gaps = (curves - centre).reshape(-1, 2)
    share = np.hypot(*gaps.T) / distance
    near = gaps[(share > 0.8) & (share < 1.6)]
    return np.arctan2(near[:, 1], near[:, 0])


def _freest(taken: FloatArray, preferred: FloatArray) -> float:
    """Return the angle farthest from all that are taken, near a preferred direction if tied."""
    angles = np.linspace(-math.pi, math.pi, 48, endpoint=False)
    score = 0.25 * np.cos(angles - math.atan2(preferred[1], preferred[0]))
    if len(taken):
        gaps = np.abs((angles[:, None] - taken[None] + math.pi) % (2 * math.pi) - math.pi)
        score = score + np.minimum(gaps.min(axis=1), 1.2)
    return float(angles[int(score.argmax())])


def _free_corners(centres: FloatArray, curves: FloatArray, radius: float) -> FloatArray:
    """Choose at each node a free place for its sign, best up and left, and for the follower."""
    corners = np.zeros((len(centres), 2))
    for node, centre in enumerate(centres):
        taken = _directions(centre, curves, 1.3 * radius)
        corners[node, 0] = _freest(taken, np.array([-1.0, -1.0]))
        taken = np.append(taken, corners[node, 0])
        corners[node, 1] = _freest(taken, np.array([-1.0, 1.0]))
    return corners


def _trimmed(curve: FloatArray, start: FloatArray, end: FloatArray, radius: float) -> FloatArray:
    """Cut off what lies within the nodes, or nothing where the nodes overlap."""
    fine = _even(curve, FINE_POINTS)
    left = np.hypot(*(fine - start).T) >= radius
    coming = np.hypot(*(fine - end).T) >= radius + HEAD_GAP + CASING
    between = fine[left.argmax() : len(fine) - coming[::-1].argmax()]
    return _even(between, CURVE_POINTS) if len(between) else curve


def _even(points: FloatArray, count: int) -> FloatArray:
    """Return so many points of a line at equal distances."""
    return points_along(points, np.linspace(0.0, lengths_along(points)[-1], count))


def arrow_shape(points: FloatArray, width: float) -> FloatArray:
    """Return the polygon of an arrow along a line, `[M, 2]`."""
    lengths = lengths_along(points)
    total = float(lengths[-1])
    head = max(min(6.5 + 1.05 * width, 0.62 * total), 1.0)
    neck = total - head
    shaft = points_along(points, np.append(lengths[lengths < neck - 0.5], neck))
    along = _unit(points[-1] - shaft[-1])
    normals = _normals(np.gradient(shaft, axis=0)) if len(shaft) > 1 else _normals(along[None])
    normals[-1] = _normals(along)
    sides, wing = normals * width / 2, normals[-1] * (3.2 + 0.6 * width)
    ends = [shaft[-1] + wing, points[-1], shaft[-1] - wing]
    return np.concatenate([shaft + sides, ends, (shaft - sides)[::-1]])


# Labels


class Label(NamedTuple):
    """The room for the text and the triangle of an edge, and whether they stand beside it."""

    edge: int
    beside: bool
    width: int
    height: int


@lru_cache(maxsize=8)
def label_places(layout: GraphLayout, labels: tuple[Label, ...]) -> tuple[tuple[int, int], ...]:
    """Choose for each label a centre beside or on its edge that covers as little as possible."""
    choices = [_label_choices(layout, label) for label in labels]
    sizes = np.array([(label.width + 4, label.height + 2) for label in labels])
    places = np.array([middles[costs.argmin()] for middles, costs in choices])
    for _ in range(SWEEPS):
        for k in reversed(range(len(labels))):
            middles, costs = choices[k]
            gaps = np.abs(middles[:, None] - np.delete(places, k, axis=0))
            overlap = ((sizes[k] + np.delete(sizes, k, axis=0)) / 2 - gaps).min(axis=-1)
            clashes = np.where(overlap > 0, 40.0 + 8.0 * overlap, 0.0).sum(axis=1)
            places[k] = middles[(costs + clashes).argmin()]
    return tuple((int(x), int(y)) for x, y in places)


def _label_choices(layout: GraphLayout, label: Label) -> tuple[FloatArray, FloatArray]:
    """Return centres `[C, 2]` where a label may be, and what speaks against each `[C]`."""
    curve = layout.curves[label.edge]
    size = np.array([label.width, label.height], dtype=float)
    shares, sides = np.array(LABEL_SHARES), np.array(LABEL_SIDES[label.beside])
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
    inside = ((points > low - layout.widest / 2) & (points < high + layout.widest / 2)).all(axis=-1)
    edges = inside.reshape(len(middles), -1, CURVE_POINTS)
    heads = edges[..., -CURVE_POINTS // 4 :].any(axis=-1)
    covered += 14.0 * (edges.any(axis=-1) + 0.5 * heads).sum(axis=-1)
    corner = np.array(layout.area[:2])
    room = np.minimum(low[:, 0] - corner, corner + layout.area[2:] - high[:, 0]).min(axis=-1)
    costs = 20.0 * hits + covered + 400.0 * (room < 4)
    costs += (16.0 * np.abs(shares - 0.5)[:, None] + 8.0 * np.arange(len(sides))).ravel()
    return middles, costs
