"""Pictures of households that are taxed: the rates, and what each type does over its assets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas import HEADER_HEIGHT, THEME, draw_text, new_page, pygame
from .key import KEY_ROW, KeyEntry, draw_key, gradient_entries
from .picture_charts import Axis, BarChart, Chart, Series, draw_bars, draw_column, nice_limit
from .signs import FOLLOWER, ICON_SIDE, pin_sprite
from .strokes import LineStyle, line_style

FloatArray = NDArray[np.float64]

# In pixels
HEIGHT, TOP, HEADING = 790, HEADER_HEIGHT, 28
TAXES_WIDTH, PANEL_WIDTH = 308, 340
KEY_SIGNS = 5
"""Signs in the key that do not stand for a good."""

ROWS = (
    "hours worked per period",
    "money spent per period, on each good",
    "tax revenue per period",
    "share of time, discounted",
)
AREA = LineStyle(THEME.muted, filled=True)


@dataclass(frozen=True, eq=False)
class TaxScene:
    """Everything that one picture of taxed households shows.

    There are `C` types of household, `J` goods, and `N` points of assets.

    Attributes:
        rates: Tax on each good and on income, as shares, `[J + 1]`.
        max_rate: Largest rate.
        preferences: Exponents of the goods, `[C, J]`.
        assets: The points, rising, `[N]`.
        limits: Largest hours, spending, revenue and share of time that are shown.
        schedules: Mean hours, spending on each good, revenue, and share of this type's time, over
            the assets: `[C, N, 1]`, `[C, N, J]`, `[C, N, 1]` and `[C, N, 1]`; None where unknown.
        gradient: Derivative of the leader's objective by the rates, `[J + 1]`.
        follower: Type and point of the follower.
    """

    rates: FloatArray
    max_rate: float
    preferences: FloatArray
    assets: FloatArray
    limits: tuple[float, float, float, float]
    schedules: tuple[FloatArray, FloatArray, FloatArray, FloatArray] | None = None
    gradient: FloatArray | None = None
    follower: tuple[int, int] | None = None
    title: str = ""
    status: tuple[tuple[str, str], ...] = ()


def draw_taxes(scene: TaxScene) -> pygame.Surface:
    """Draw a scene on a new surface; needs no display."""
    (households, goods), margin = scene.preferences.shape, THEME.margin
    left = margin + TAXES_WIDTH + 2 * margin
    width = left + households * (PANEL_WIDTH + margin)
    surface = new_page((width + width % 2, HEIGHT), scene.title, scene.status)
    # Room for every sign there is, so that the bars stay where they are.
    key_height = KEY_ROW * (KEY_SIGNS + goods)
    key_top = HEIGHT - margin // 2 - key_height
    bars = BarChart(
        axis=Axis(0.0, 100.0 * scene.max_rate, "tax rates: the leader's x", " %"),
        names=(*(f"good {j + 1}" for j in range(goods)), "income"),
        values=100.0 * scene.rates,
        number_format=".3g",
        gradient=scene.gradient,
    )
    draw_bars(surface, (margin, TOP, TAXES_WIDTH, key_top - margin - TOP), bars)
    draw_key(surface, (margin, key_top, TAXES_WIDTH, key_height), _key(scene))
    for household, exponents in enumerate(scene.preferences.tolist()):
        x = left + household * (PANEL_WIDTH + margin)
        likes = ", ".join(f"{exponent:g}" for exponent in exponents)
        heading = f"household {household + 1} likes goods {likes}"
        draw_text(surface, heading, (x, TOP - 4), max_width=PANEL_WIDTH)
        column = (x, TOP + HEADING, PANEL_WIDTH, HEIGHT - margin // 2 - TOP - HEADING)
        draw_column(surface, column, [_chart(scene, household, row) for row in range(len(ROWS))])
    return surface


def _chart(scene: TaxScene, household: int, row: int) -> Chart:
    """Return one of the charts of a type of household."""
    series: tuple[Series, ...] = ()
    last = row == len(ROWS) - 1
    if scene.schedules is not None:
        lines = scene.schedules[row][household].T
        styles = [LineStyle(), None, LineStyle(), AREA]
        series = tuple(
            Series(scene.assets, y, styles[row] or line_style(j)) for j, y in enumerate(lines)
        )
    mark = None
    if scene.follower is not None and scene.follower[0] == household:
        mark = float(scene.assets[scene.follower[1]])
    return Chart(
        x_axis=Axis(float(scene.assets[0]), float(scene.assets[-1]), "assets (money)"),
        y_axis=Axis(0.0, nice_limit(scene.limits[row]), ROWS[row]),
        series=series,
        mark=mark,
        pinned=last,
        with_x_numbers=last,
    )


def _key(scene: TaxScene) -> Iterator[KeyEntry]:
    """Name the signs that this scene shows."""
    yield from gradient_entries("this rate", scene.gradient)
    if scene.schedules is not None:
        yield KeyEntry(LineStyle(), "hours, revenue", "mean over the policy")
        for j in range(scene.preferences.shape[1]):
            yield KeyEntry(line_style(j), f"money spent on good {j + 1}")
        yield KeyEntry(AREA, "households", "share of time by assets")
    if scene.follower is not None:
        yield KeyEntry(pin_sprite(FOLLOWER, ICON_SIDE), "follower's assets now")
