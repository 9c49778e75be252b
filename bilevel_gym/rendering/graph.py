"""Pictures of games on graphs: states as circles, moves as arrows, and small bar charts.

Left stands the graph, right of it the colour scale and a key that names every sign in words, and,
if there are any, panels of bars. The value of an edge is its colour; the follower's
flow is its width, occupancy and hyper-gradient are shapes, so that the picture can be read in
greyscale. Edges with a value have a dark outline, those without are plain grey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..core.checks import check_positive
from . import signs
from .canvas import (
    SUPERSAMPLING,
    THEME,
    Colour,
    ColourScale,
    draw_centred,
    draw_note,
    draw_text,
    enlarged,
    fitting_size,
    new_page,
    pygame,
    shrunk,
    text_size,
)
from .graph_layout import (
    CASING,
    EDGE_WIDTHS,
    PANEL_ROW,
    PANEL_WIDTH,
    GraphLayout,
    Label,
    arrow_shape,
    label_places,
    lay_out_graph,
)
from .key import (
    PLACE_NAMES,
    KeyEntry,
    draw_key,
    follower_entry,
    gradient_entries,
    occupancy_entry,
)
from .scene_checks import check_array, check_range
from .strokes import LineStyle

FloatArray = NDArray[np.float64]

MARK_NAMES = {**PLACE_NAMES, signs.HAZARD: "hazard"}

# Sizes in pixels
TRIANGLE = 15
"""Side of the largest triangle of a derivative."""
NAME_SIZES, LABEL_SIZE = (17, 28), 22
"""Of letters: in nodes the least and the largest, and beside edges."""
LABEL_STEP = 6
"""Room for labels grows in these steps, so that they stay where they are as numbers change."""

NEUTRAL: Colour = (150, 154, 163)
OCCUPANCY: Colour = (190, 202, 231)
BAR: Colour = (74, 84, 112)
PAPER = THEME.light


@dataclass(frozen=True, eq=False)
class Panel:
    """A small chart of labelled horizontal bars, one row per label.

    Attributes:
        labels: Names of the `n` rows.
        values: Lengths of the bars `[n]`, not negative.
        limit: End of the axis; longer bars are cut.
        gradient: Derivative of the leader's objective by the value `[n]`; NaN for none.
    """

    title: str
    labels: tuple[str, ...]
    values: FloatArray
    limit: float
    gradient: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check shapes and values."""
        rows = len(self.labels)
        check_array("values", self.values, (rows,))
        check_range("values", self.values, math.inf)
        check_positive("limit", self.limit)
        if self.gradient is not None:
            _check_with_gaps("gradient", self.gradient, rows)


@dataclass(frozen=True, eq=False)
class GraphScene:
    """Everything that one picture of a game on a graph shows.

    `N` is the number of nodes, `E` that of directed edges.

    Attributes:
        places: Where the nodes are, right and down, in [0, 1] `[N, 2]`.
        names: Short labels `N`, drawn in the nodes.
        edges: Indices of the nodes that each edge leads from and to, no two alike, `[E, 2]`.
            Opposite edges lie side by side; an edge from a node to itself is a loop.
        flow: Width of the edges, relative to the largest `[E]`; not negative.
        values: Colour of the edges `[E]`; NaN for edges that have no value.
        value_limit: Value of the last colour, as in `ColourScale`; larger values have it too.
        signed: Whether values of edges may have either sign.
        edge_labels: Small text beside the edges, `E` or none; "" for no label.
        gradient: Derivative of the leader's objective by the value of the edge `[E]`; NaN for none.
        occupancy: Share of the follower's time at the nodes `[N]` in [0, 1].
        marks: Signs at the nodes, `N` or none: 'S' start, 'G' goal, 'T' the leader's target, 'H'
            hazard, '' no sign.
        value_name: What `values` are called in the key; `flow_name` likewise.
        params_name: What `gradient` is taken by, in the key.
        label_note: What the labels of edges are, for the key: words, and a note.
        mark_names: Words for the marks in the key, instead of the usual ones.
        panels: Bar charts right of the key. Those that find no room are left out; about two
            dozen rows fit.
    """

    places: FloatArray
    names: tuple[str, ...]
    edges: NDArray[np.int64]
    flow: FloatArray | None = None
    values: FloatArray | None = None
    value_limit: float = 1.0
    signed: bool = True
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
    label_note: tuple[str, str] | None = None
    panels: tuple[Panel, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and values."""
        nodes = len(self.names)
        if nodes == 0:
            raise ValueError("`names` must hold at least one node, got none")
        edges = len(self.edges)
        for name, given, shape, largest in (
            ("places", self.places, (nodes, 2), 1.0),
            ("flow", self.flow, (edges,), math.inf),
            ("occupancy", self.occupancy, (nodes,), 1.0),
        ):
            if given is not None:
                check_array(name, given, shape)
                check_range(name, given, largest)
        _check_edges(self.edges, nodes)
        check_positive("value_limit", self.value_limit)
        for name, values in (("values", self.values), ("gradient", self.gradient)):
            if values is not None:
                _check_with_gaps(name, values, edges)
        for name, texts, length, each in (
            ("edge_labels", self.edge_labels, edges, "edge"),
            ("marks", self.marks, nodes, "node"),
        ):
            if len(texts) not in (0, length):
                raise ValueError(
                    f"`{name}` must have one text per {each} ({length}), got {len(texts)}"
                )
        for name, marks in (("marks", self.marks), ("mark_names", tuple(self.mark_names))):
            unknown = [mark for mark in marks if mark and mark not in MARK_NAMES]
            if unknown:
                raise ValueError(f"`{name}` must be among 'S', 'G', 'T', 'H', got {unknown[0]!r}")
        if self.follower is not None and not 0 <= self.follower < nodes:
            raise ValueError(f"`follower` must lie in 0..{nodes - 1}, got {self.follower}")


def _check_with_gaps(name: str, values: FloatArray, length: int) -> None:
    """Check that values have a shape and are finite, or NaN for none."""
    check_array(name, values, (length,), missing=np.isnan(values), accepted="finite or NaN")


def _check_edges(edges: NDArray[np.int64], nodes: int) -> None:
    """Check that edges join existing nodes, no two the same ones."""
    shape, kind = np.shape(edges), np.asarray(edges).dtype
    if len(shape) != 2 or shape[1] != 2:
        raise ValueError(f"`edges` must have shape [E, 2], got {shape}")
    if kind.kind not in "iu":
        raise ValueError(f"`edges` must hold integers, got dtype {kind}")
    outside = ((edges < 0) | (edges >= nodes)).any(axis=1)
    if outside.any():
        edge = int(outside.argmax())
        raise ValueError(
            f"`edges[{edge}]` must join nodes in 0..{nodes - 1}, got {edges[edge].tolist()}"
        )
    different, counts = np.unique(edges, axis=0, return_counts=True)
    if (counts > 1).any():
        twice = different[counts > 1][0].tolist()
        raise ValueError(f"`edges` must differ from each other, got {twice} twice")


# The picture


def graph_layout(scene: GraphScene) -> GraphLayout:
    """Lay out the picture of a graph; depends on its shape, not on its flows and values."""
    places = np.asarray(scene.places, dtype=np.float64).tobytes()
    edges = np.asarray(scene.edges, dtype=np.int64).tobytes()
    return lay_out_graph(places, edges, tuple(len(panel.labels) for panel in scene.panels))


def draw_graph(scene: GraphScene) -> pygame.Surface:
    """Draw a scene on a new surface; needs no display."""
    layout = graph_layout(scene)
    surface = new_page(layout.size, scene.title, scene.status)
    _draw_edges(surface, layout, scene)
    pygame.draw.rect(surface, THEME.rule, layout.area, 1)
    _draw_nodes(surface, layout, scene)
    slopes = _slopes(scene)
    largest = 0.0 if slopes is None else float(np.abs(slopes).max(initial=0.0))
    _draw_labels(surface, layout, scene, largest)
    _draw_pins(surface, layout, scene)
    scale = None
    if scene.values is not None:
        scale = ColourScale(scene.value_limit, scene.value_name, signed=scene.signed)
    draw_key(surface, layout.key, _key_entries(scene), scale=scale)
    _draw_panels(surface, layout, scene, largest)
    return surface


def _slopes(scene: GraphScene) -> FloatArray | None:
    """Return all derivatives that the scene shows `[M]`, 0 for NaN; None if it shows none."""
    given = [scene.gradient, *(panel.gradient for panel in scene.panels)]
    values = [np.nan_to_num(slopes) for slopes in given if slopes is not None]
    return np.concatenate(values) if values else None


def _draw_edges(surface: pygame.Surface, layout: GraphLayout, scene: GraphScene) -> None:
    """Draw the edges, those with a value and then the thin ones last."""
    share = np.full(len(scene.edges), 0.15)
    if scene.flow is not None:
        share = np.clip(scene.flow / (float(np.max(scene.flow, initial=0.0)) or 1.0), 0.0, 1.0)
    widths = EDGE_WIDTHS[0] + share * (layout.widest - EDGE_WIDTHS[0])
    values = np.full(len(widths), np.nan) if scene.values is None else np.asarray(scene.values)
    plain, limit = np.isnan(values), scene.value_limit
    colours = ColourScale(limit, scene.value_name, signed=scene.signed).colours(values)
    colours[plain] = NEUTRAL
    looks = zip(widths.tolist(), map(tuple, colours.tolist()), plain.tolist(), strict=True)
    surface.blit(_painted_edges(layout, tuple(looks)), layout.area[:2])


@lru_cache(maxsize=8)
def _painted_edges(
    layout: GraphLayout, looks: tuple[tuple[float, Colour, bool], ...]
) -> pygame.Surface:
    """Return the edges, given width, colour and whether they are plain; an episode keeps them."""
    left, top, width, height = layout.area
    large = enlarged(width, height, PAPER)
    large.fill(PAPER)
    for k in sorted(range(len(looks)), key=lambda k: (not looks[k][2], -looks[k][0])):
        thickness, colour, plain = looks[k]
        shape = (arrow_shape(layout.strokes[k], thickness) - (left, top)) * SUPERSAMPLING
        ink, casing = PAPER if plain else THEME.ink, round(CASING * SUPERSAMPLING)
        signs.paint_outlined(large, shape.tolist(), colour, ink, casing)
    return shrunk(large)


def _draw_nodes(surface: pygame.Surface, layout: GraphLayout, scene: GraphScene) -> None:
    """Draw the circles of the nodes with their occupancy and their names."""
    radius = layout.radius
    levels = np.zeros(len(scene.names), dtype=int)
    if scene.occupancy is not None:
        levels = signs.size_levels(
            np.clip(scene.occupancy, 0.0, None), float(scene.occupancy.max())
        )
    size = fitting_size(scene.names, (1.6 * radius, 1.6 * radius), NAME_SIZES) or NAME_SIZES[0]
    for node, (x, y) in enumerate(layout.nodes.astype(int).tolist()):
        hazard = bool(scene.marks) and scene.marks[node] == signs.HAZARD
        draw_centred(surface, _node_sprite(radius, int(levels[node]), hazard), (x, y))
        room = round(2 * radius) - 4
        draw_text(
            surface, scene.names[node], (x, y + 1), size=size, anchor="center", max_width=room
        )


@lru_cache(maxsize=256)
def _node_sprite(radius: float, level: int, hazard: bool) -> pygame.Surface:
    """Return the circle of a node, with a disc as large as its occupancy and perhaps with tape."""
    side = 2 * math.ceil(radius + 1)
    surface = enlarged(side, side, THEME.ink)
    centre = surface.get_rect().center
    outer = radius * SUPERSAMPLING
    pygame.draw.circle(surface, THEME.ink, centre, outer)
    inner = outer - 1.5 * SUPERSAMPLING
    if hazard:
        pygame.draw.circle(surface, signs.HAZARD_COLOUR, centre, inner)
        for stripe in range(12):
            turns = math.pi / 6 * (stripe + np.arange(5) / 8)
            corners = centre + inner * np.stack([np.cos(turns), np.sin(turns)], axis=1)
            pygame.draw.polygon(surface, THEME.ink, [centre, *corners.tolist()])
        inner -= max(3.0, 0.16 * radius) * SUPERSAMPLING
    pygame.draw.circle(surface, PAPER, centre, inner)
    disc = inner * level / signs.LEVELS
    if 2 * disc >= signs.MIN_SIGN * SUPERSAMPLING:
        pygame.draw.circle(surface, OCCUPANCY, centre, disc)
    return shrunk(surface)


def _draw_pins(surface: pygame.Surface, layout: GraphLayout, scene: GraphScene) -> None:
    """Draw the signs at the nodes and the follower, in their free corners."""
    diameter = round(min(max(1.15 * layout.radius, 22.0), 26.0))
    pins = [
        (node, 0, signs.pin_sprite(mark, diameter))
        for node, mark in enumerate(scene.marks)
        if mark and mark != signs.HAZARD
    ]
    if scene.follower is not None:
        pins.append((scene.follower, 1, signs.pin_sprite(signs.FOLLOWER, diameter)))
    distance = layout.radius + 0.28 * diameter
    for node, corner, sprite in pins:
        angle = layout.corners[node, corner]
        x, y = layout.nodes[node] + distance * np.array([math.cos(angle), math.sin(angle)])
        draw_centred(surface, sprite, (x, y))


def _draw_labels(
    surface: pygame.Surface, layout: GraphLayout, scene: GraphScene, largest: float
) -> None:
    """Draw the labels of the edges on plates and their triangles beside them."""
    texts = scene.edge_labels or ("",) * len(scene.edges)
    slopes = np.full(len(texts), np.nan) if scene.gradient is None else scene.gradient
    levels = signs.size_levels(slopes, largest, TRIANGLE).tolist()
    sides = np.where(np.isnan(slopes), 0, TRIANGLE).tolist()
    height = text_size("0", LABEL_SIZE)[1]
    labels, edges = [], scene.edges.tolist()
    for edge, (text, side) in enumerate(zip(texts, sides, strict=True)):
        if text or side:
            width = _in_steps(text_size(text, LABEL_SIZE)[0]) + 6 if text else 0
            labels.append(Label(edge, edges[edge][::-1] in edges, width + side, max(height, side)))
    places = label_places(layout, tuple(labels))
    for label, (x, y) in zip(labels, places, strict=True):
        text, side = texts[label.edge], sides[label.edge]
        box = pygame.Rect(0, 0, label.width, label.height)
        box.center = (x, y)
        if text:
            pygame.draw.rect(surface, PAPER, box, border_radius=3)
            place = (box.left + (box.width - side) // 2, y + 1)
            draw_text(surface, text, place, "center", size=LABEL_SIZE)
        middle = (box.right - side // 2 - 1, y)
        signs.draw_triangle(surface, middle, TRIANGLE, levels[label.edge])


def _in_steps(width: int) -> int:
    """Return the room for a text of a width."""
    return -(-width // LABEL_STEP) * LABEL_STEP


# The key


def _key_entries(scene: GraphScene) -> Iterator[KeyEntry]:
    """Name the signs that this scene shows."""
    for kind, name in MARK_NAMES.items():
        if kind in scene.marks:
            ring = _node_sprite(signs.ICON_SIDE / 2 - 1, 0, True)
            sign = ring if kind == signs.HAZARD else signs.pin_sprite(kind, signs.ICON_SIDE)
            yield KeyEntry(sign, scene.mark_names.get(kind, name))
    if scene.follower is not None:
        yield follower_entry()
    if scene.values is not None and np.isnan(scene.values).any():
        yield KeyEntry(LineStyle(NEUTRAL), f"no {scene.params_name}")
    if scene.label_note is not None:
        letter = enlarged(signs.ICON_SIDE, signs.ICON_SIDE, PAPER)
        sign = shrunk(letter)
        draw_text(sign, "a, b", sign.get_rect().center, "center", size=LABEL_SIZE)
        yield KeyEntry(sign, *scene.label_note)
    if scene.flow is not None:
        largest = float(np.max(scene.flow, initial=0.0))
        yield KeyEntry(_flow_icon(), scene.flow_name, f"width; largest {largest:.2g}")
    if scene.occupancy is not None:
        disc = _node_sprite(signs.ICON_SIDE / 2 - 1, round(0.7 * signs.LEVELS), False)
        yield occupancy_entry(disc, scene.occupancy)
    yield from gradient_entries(scene.params_name, _slopes(scene))


@lru_cache(maxsize=1)
def _flow_icon() -> pygame.Surface:
    """Return three lines of growing width for the key."""
    surface = enlarged(signs.ICON_SIDE, signs.ICON_SIDE, NEUTRAL)
    side = surface.get_width()
    for place, width in ((0.2, 0.05), (0.42, 0.13), (0.75, 0.28)):
        box = (0, round(side * (place - width / 2)), side, round(side * width))
        pygame.draw.rect(surface, NEUTRAL, box)
    return shrunk(surface)


# Panels


def _draw_panels(
    surface: pygame.Surface, layout: GraphLayout, scene: GraphScene, largest: float
) -> None:
    """Draw the charts of bars, with the same places for labels, bars and numbers in all."""
    panels = scene.panels[: len(layout.panels)]
    labels = [label for panel in panels for label in panel.labels]
    numbers = [f"{abs(value):.2f}" for panel in panels for value in panel.values.tolist()]
    label_room, number_room = (
        min(_in_steps(max(widths, default=0)), PANEL_WIDTH // 3)
        for widths in ([text_size(t, THEME.small_size)[0] for t in ts] for ts in (labels, numbers))
    )
    triangles = any(panel.gradient is not None for panel in panels)
    gap, triangle_room = THEME.gap // 2, TRIANGLE + 7 if triangles else 0
    for (left, top, _, _), panel in zip(layout.panels, panels, strict=True):
        right = left + PANEL_WIDTH - triangle_room
        track = pygame.Rect(left + label_room + gap, 0, 0, PANEL_ROW * 3 // 5)
        track.width = right - number_room - gap - track.left
        place = (left + PANEL_WIDTH, top + text_size(panel.title, THEME.text_size)[1])
        scale = draw_note(surface, f"0…{panel.limit:.3g}", place, "bottomright")
        draw_text(surface, panel.title, (left, top), max_width=PANEL_WIDTH - scale - gap)
        slopes = np.zeros(len(panel.labels)) if panel.gradient is None else panel.gradient
        levels = signs.size_levels(slopes, largest, TRIANGLE).tolist()
        y = top + PANEL_ROW + 4 + PANEL_ROW // 2
        for label, value, level in zip(panel.labels, panel.values.tolist(), levels, strict=True):
            track.centery = y
            draw_note(surface, label, (left, y + 1), "midleft", max_width=label_room)
            pygame.draw.rect(surface, THEME.rule, track)
            bar = track.copy()
            bar.width = round(track.width / panel.limit * min(max(value, 0.0), panel.limit))
            pygame.draw.rect(surface, BAR, bar)
            if value > panel.limit:
                pygame.draw.rect(surface, THEME.page, (bar.right - 6, bar.top, 2, bar.height))
            ends = (track.left, track.top - 1), (track.left, track.bottom)
            pygame.draw.line(surface, THEME.ink, *ends)
            place, number = (right, y + 1), f"{abs(value):.2f}"
            draw_note(surface, number, place, "midright", colour=THEME.ink, max_width=number_room)
            middle = (left + PANEL_WIDTH - TRIANGLE // 2 - 1, y)
            signs.draw_triangle(surface, middle, TRIANGLE, level)
            y += PANEL_ROW
