"""Figures of a benchmark, with matplotlib, imported at use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.mdp import FloatArray
from ..plotting import GRID, INK, MUTED, PALETTE, new_figure, save_figure, tidy
from .statistics import CONFIDENCE, Interval, bootstrap_interval, mean, pooled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


# Points of a curve that are drawn; a figure has about as many pixels to show them.
POINTS = 200
WINDOWS = 20
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
DOTTED: Any = (0, (1, 2))
# A curve may fall this far below the start, in units of the climb, before the panel cuts it.
DEPTH = 0.5
SMALL = 8
# How a method looks, in every figure of a report alike: arguments of its lines.
Style = dict[str, Any]
# What the objective's axis says.
EXACT, HELD_OUT = "exact objective F(x)", "leader's return in held-out episodes"
BAND = f"{CONFIDENCE:.0%} bootstrap interval".replace("%", " %")


@dataclass(frozen=True)
class Curve:
    """Mean of the objective over the seeds of one cell.

    Attributes:
        steps: Leader's steps, `[T]`, ascending.
        env_steps: Mean environment steps used by then, `[T]`.
        objective: Mean over seeds and its interval, `[T]`.
    """

    steps: NDArray[np.int64]
    env_steps: FloatArray
    objective: Interval


def make_styles(labels: Iterable[str]) -> dict[str, Style]:
    """Return how each method looks; curves that coincide show through the gaps of dashes."""
    size = len(PALETTE)
    styles = {}
    for k, label in enumerate(sorted(labels)):
        dashes = DASHES[(k + k // size) % len(DASHES)]
        zorder = 2.0 if dashes == "solid" else 2.1  # above the lines that show through
        styles[label] = {"color": PALETTE[k % size], "linestyle": dashes, "zorder": zorder}
    return styles


def decimals(span: float) -> Callable[[float], str]:
    """Return how to write numbers of a range: to about a ten-thousandth of it."""
    size = span if np.isfinite(span) and span > 0.0 else 1.0
    places = int(np.clip(4 - np.round(np.log10(size)), 0, 8))
    return lambda value: f"{round(value, places) + 0.0:.{places}f}"  # + 0.0: no negative zero


def learning_curve(cell: DataFrame) -> Curve:
    """Return the curve of one task and method.

    A run that stopped early stays at its last value: its leader does not move any more.
    """
    held = cell.pivot(index="step", columns="seed", values=["objective", "env_steps"])
    held = held.ffill().bfill()
    drawn = np.unique(np.linspace(0, len(held) - 1, POINTS).round().astype(int))
    return Curve(
        held.index.to_numpy()[drawn],
        held["env_steps"].to_numpy()[drawn].mean(axis=1),
        bootstrap_interval([held["objective"].to_numpy()[drawn]], pooled(mean)),
    )


def windows(cell: DataFrame, column: str, width: int, mean: str) -> tuple[FloatArray, FloatArray]:
    """Return middles of windows of `width` steps and a "mean" or "median" in each, over all seeds.

    Steps at which the column has no number are left out.
    """
    known = cell[np.isfinite(cell[column])]
    by_window = known.groupby(known["step"] // width)
    return by_window["step"].mean().to_numpy(), by_window[column].agg(mean).to_numpy()


def draw_task(
    task: Any, curves: Mapping[str, Curve], styles: Mapping[str, Style], path: Path
) -> None:
    """Draw every method's curve on a task, a row of the table of tasks, named at its end."""
    height = max(4.4, 0.8 + 0.22 * len(curves))
    figure = new_figure(8.0, height)
    axes = figure.add_subplot()
    _draw_panel(axes, task.task, task, curves, styles, against="step")
    axes.set_ylabel(EXACT if np.isnan(task.standard_error) else HELD_OUT)
    axes.set_xlabel(f"leader's steps   (line: mean over seeds; band: {BAND})")
    # Title and axis label take the rest.
    _name_ends(axes, curves, styles, height - 0.8, decimals(task.best - task.start))
    save_figure(figure, path)


def draw_objectives(
    tasks: DataFrame,
    curves: Mapping[str, Mapping[str, Curve]],
    styles: Mapping[str, Style],
    path: Path,
    *,
    against: str,
) -> None:
    """Draw the curves of all tasks, rows of the table of tasks, into a PNG, a panel each.

    The axis is that of "step", or of "env_steps", logarithmic.
    """
    unit = "leader's steps" if against == "step" else "environment steps"
    shown = [task for task in tasks.itertuples() if task.task in curves]
    kinds = {bool(np.isnan(task.standard_error)) for task in shown}
    label = "objective F(x)" if len(kinds) > 1 else EXACT if kinds == {True} else HELD_OUT
    figure, panels = _grid(len(curves), styles, sorted(set().union(*curves.values())), unit, label)
    for axes, task in zip(panels, shown, strict=True):
        noted = len(kinds) > 1 and not np.isnan(task.standard_error)
        title = f"{task.task}, held-out episodes" if noted else task.task
        _draw_panel(axes, title, task, curves[task.task], styles, against=against)
    save_figure(figure, path)


def draw_stationarity(
    cells: Mapping[str, Mapping[str, DataFrame]], styles: Mapping[str, Style], path: Path
) -> None:
    """Draw the squared norm of the projected hyper-gradient, a panel a task.

    A run that stopped early stays at its last value. The axis has no place for zero.
    """

    def held(cell: DataFrame) -> DataFrame:
        table = cell.pivot(index="step", columns="seed", values="stationarity").ffill()
        return table.melt(value_name="stationarity", ignore_index=False).reset_index()

    whole = {
        task: {name: held(cell) for name, cell in by_label.items()}
        for task, by_label in cells.items()
    }
    label = "squared norm of projected dF/dx"
    figure, panels = _windowed(whole, styles, "stationarity", "median", label)
    for axes in panels:
        axes.set_yscale("log", nonpositive="mask")
    save_figure(figure, path)


def draw_cosines(
    cells: Mapping[str, Mapping[str, DataFrame]], styles: Mapping[str, Style], path: Path
) -> None:
    """Draw the cosine of each method's hyper-gradient and the exact one, a panel a task."""
    label = "cosine to the exact hyper-gradient"
    figure, panels = _windowed(cells, styles, "cosine", "mean", label)
    for axes in panels:
        lowest = min(np.min(line.get_ydata(), initial=0.0) for line in axes.get_lines())
        axes.axhline(0.0, color=MUTED, linewidth=0.8)
        axes.set_ylim(lowest - 0.05, 1.02)
    save_figure(figure, path)


def _windowed(
    cells: Mapping[str, Mapping[str, DataFrame]],
    styles: Mapping[str, Style],
    column: str,
    mean: str,
    label: str,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of a column's means or medians over windows of steps, a panel a task."""
    from matplotlib.ticker import MaxNLocator

    names = sorted(set().union(*cells.values()))
    figure, panels = _grid(len(cells), styles, names, "leader's steps", label)
    dots: dict[str, Any] = {"linewidth": 1.4, "marker": "o", "markersize": 2.2, "clip_on": False}
    for axes, (task, by_label) in zip(panels, cells.items(), strict=True):
        longest = max(int(cell["step"].max()) for cell in by_label.values())
        width = max(1, -(-(longest + 1) // WINDOWS))
        for name, cell in by_label.items():
            axes.plot(*windows(cell, column, width, mean), **styles[name], **dots)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _head(axes, f"{task}, {mean}s of {width} steps" if width > 1 else task)
    return figure, panels


def draw_profiles(
    profiles: Mapping[str, Interval],
    thresholds: FloatArray,
    styles: Mapping[str, Style],
    path: Path,
) -> None:
    """Draw the share of runs above each score `[T]`, each method's profile `[T]`, into a PNG."""
    words = (f"normalised score t   (band: {BAND})", "share of runs with score > t")
    figure, (axes,) = _grid(1, styles, profiles, *words, width=7.5, height=3.4)
    steps: dict[str, Any] = {"linewidth": 1.6, "drawstyle": "steps-post", "clip_on": False}
    band: dict[str, Any] = {"step": "post", "alpha": 0.1, "linewidth": 0}
    for label, profile in profiles.items():
        color = styles[label]["color"]
        axes.fill_between(thresholds, profile.low, profile.high, color=color, **band)
        axes.plot(thresholds, profile.value, **styles[label], **steps)
    tidy(axes)
    axes.set_xlim(thresholds[0], thresholds[-1])
    axes.set_ylim(-0.01, 1.01)
    save_figure(figure, path)


def draw_aggregate(
    names: Sequence[str], scores: Sequence[Interval], colors: Sequence[str], path: Path
) -> None:
    """Draw the interquartile mean of each method with its interval, the first on top."""
    # The axes keep their width beside long names.
    figure = new_figure(5.8 + 0.08 * max(map(len, names)), 1.1 + 0.27 * len(names))
    axes = figure.add_subplot()
    places = np.arange(len(names))
    lows, values, highs = np.array(
        [(float(s.low), float(s.value), float(s.high)) for s in scores]
    ).T
    left = max(-DEPTH, min(0.0, lows.min())) - 0.04
    right = max(1.0, highs.max()) + 0.02
    for mark in (0.0, 1.0):
        axes.axvline(mark, color=MUTED, linewidth=0.8, zorder=0)
    axes.hlines(places, lows, highs, colors=colors, linewidth=7, alpha=0.3)
    axes.scatter(values, places, color=colors, s=42, zorder=3)
    for k in np.flatnonzero(values < left).tolist():  # beyond the axes
        axes.scatter(left, k, color=colors[k], marker="<", s=42, zorder=3, clip_on=False)
    for place, value, low, high in zip(places, values, lows, highs, strict=True):
        around = f" [{low:.3f}, {high:.3f}]" if high > low else ""
        _write(axes, _signed(f"{value:.3f}{around}"), (1.01, place), ("axes fraction", "data"), INK)
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_xlim(left, right)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(places, [_plain(name) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        f"interquartile mean of the normalised score, {BAND}\n(0: the start, 1: the best value)",
        fontsize=9,
    )
    save_figure(figure, path)


def _grid(
    count: int,
    styles: Mapping[str, Style],
    named: Iterable[str],
    xlabel: str,
    ylabel: str,
    *,
    width: float = 3.9,
    height: float = 2.7,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, labelled at its margins, and a legend below them."""
    from matplotlib.lines import Line2D

    names = list(named)
    columns = 1 if count == 1 else 2 if count <= 4 else 3
    rows = -(-count // columns)
    width = max(width, 6.5 / columns)
    # Characters of the legend's font in an inch; a handle and the gaps take six.
    fit = int(columns * width * 13 / (6 + max((len(name) for name in names), default=0)))
    lines = -(-len(names) // max(1, min(fit, len(names))))
    figure = new_figure(columns * width, rows * height + 0.3 + 0.18 * lines)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in panels[count:]:
        unused.remove()
    for k, axes in enumerate(panels[:count]):
        if k + columns >= count:
            axes.set_xlabel(xlabel, fontsize=9, color=INK)
        if k % columns == 0:
            axes.set_ylabel(ylabel, fontsize=9, color=INK)
    figure.legend(
        [Line2D([], [], **styles[name], linewidth=1.8) for name in names],
        [_plain(name) for name in names],
        loc="outside lower center",
        ncols=-(-len(names) // lines),
        fontsize=SMALL,
        frameon=False,
        handlelength=2.6,
    )
    return figure, panels[:count]


def _draw_panel(
    axes: Axes,
    title: str,
    task: Any,
    curves: Mapping[str, Curve],
    styles: Mapping[str, Style],
    *,
    against: str,
) -> None:
    """Draw the curves of one task, what it is measured by and the limits that show both."""
    from matplotlib.ticker import MaxNLocator

    by_step = against == "step"
    longest = max(int(curve.steps[-1]) for curve in curves.values())
    for label, curve in curves.items():
        style, score = styles[label], curve.objective
        positions = curve.steps if by_step else curve.env_steps
        shown = np.ones(len(positions), bool) if by_step else positions > 0
        xs = positions[shown]
        band: dict[str, Any] = {"color": style["color"], "alpha": 0.07, "linewidth": 0}
        axes.fill_between(xs, score.low[shown], score.high[shown], **band)
        axes.plot(xs, score.value[shown], **style, linewidth=1.5)
        axes.plot(positions[-1], score.value[-1], "o", color=style["color"], markersize=3.2)
        if by_step and curve.steps[-1] < longest:  # stopped: the leader stays there
            ends = score.value[-1], curve.steps[-1], longest
            axes.hlines(*ends, colors=style["color"], linewidth=0.8, linestyles=DOTTED)
    # Bands may be cut: a single run far below would take the panel from all others.
    lows = min(float(curve.objective.value.min()) for curve in curves.values())
    highs = max(float(curve.objective.high.max()) for curve in curves.values())
    climb = highs - task.start
    bottom = max(lows, task.start - DEPTH * climb) if climb > 0 else lows
    known, span = task.best_known, (highs - bottom) or abs(highs) or 1.0
    top = max(highs, known) if known <= highs + 0.35 * span else highs
    axes.set_ylim(bottom - 0.05 * span, top + 0.08 * span)
    if np.isfinite(known):
        seen = known <= top
        if seen:
            axes.axhline(known, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            _signed(f"best known {known:.5g}") + ("" if seen else " lies above"),
            (0.01 if by_step else 0.99, known if seen else 1.0),
            xycoords=("axes fraction", "data" if seen else "axes fraction"),
            xytext=(0, 2 if seen else -2),
            textcoords="offset points",
            verticalalignment="bottom" if seen else "top",
            horizontalalignment="left" if by_step else "right",
            fontsize=SMALL - 1,
            color=MUTED,
        )
    if by_step:
        axes.set_xlim(-0.02 * max(longest, 1), 1.02 * max(longest, 1))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        axes.set_xscale("log")
    _head(axes, title)


def _head(axes: Axes, title: str) -> None:
    tidy(axes)
    axes.set_title(_plain(title), loc="left", fontsize=10, color=INK)
    axes.tick_params(which="both", labelsize=SMALL)  # a short logarithmic axis names minor ticks


def _name_ends(
    axes: Axes,
    curves: Mapping[str, Curve],
    styles: Mapping[str, Style],
    inches: float,
    number: Callable[[float], str],
) -> None:
    """Write each method's name and last value right of the axes, joined to its end by a line."""
    low, high = axes.get_ylim()
    ends = sorted(
        (float(np.clip((curve.objective.value[-1] - low) / (high - low), 0.0, 1.0)), label)
        for label, curve in curves.items()
    )
    # A line of text takes 14 points of the height of the axes.
    places = _spread([end for end, _ in ends], min(14.0 / 72.0 / inches, 1.0 / len(ends)))
    outside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for (end, label), place in zip(ends, places, strict=True):
        line = {**outside, "color": styles[label]["color"]}
        axes.plot([1.0, 1.025], [end, place], linewidth=0.8, linestyle="solid", **line)
        dashes = styles[label]["linestyle"]
        axes.plot([1.025, 1.075], [place, place], linewidth=1.5, linestyle=dashes, **line)
        value = _signed(number(float(curves[label].objective.value[-1])))
        text = f"{_plain(label)}  {value}"
        _write(axes, text, (1.085, place), "axes fraction", styles[label]["color"])


def _write(axes: Axes, text: str, at: tuple[Any, Any], units: Any, color: str) -> None:
    """Write small text beside the axes, its middle at the height of a point."""
    axes.annotate(
        text,
        at,
        xycoords=units,
        verticalalignment="center",
        fontsize=SMALL,
        color=color,
        annotation_clip=False,
    )


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Return ascending places in [0, 1] moved no more than it takes to keep them a gap apart."""
    spread: list[float] = []
    for place in places:
        spread.append(max(place, spread[-1] + gap) if spread else place)
    ceiling = 1.0
    for k in reversed(range(len(spread))):
        spread[k] = min(spread[k], ceiling)
        ceiling = spread[k] - gap
    return spread


def _plain(text: str) -> str:
    """Return text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _signed(text: str) -> str:
    """Return text with minus signs for hyphens before numbers."""
    return text.replace("-", "\N{MINUS SIGN}")
