"""Curves of a run, with matplotlib, imported at use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..plotting import INK, LINE, MUTED, new_figure, save_figure, tidy
from .run_folder import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Evaluations up to which each is marked.
FEW = 20


def plot_history(history: Sequence[RunRecord], path: Path, title: str) -> None:
    """Draw objective and gradient norm against evaluations."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(7.0, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True)
    steps = np.array([record.step for record in history])
    objective = np.array([record.objective for record in history])
    # A gradient of zero has no place on a logarithmic axis.
    norms = np.array([record.projected_gradient_norm or np.nan for record in history])
    marker = "o" if len(history) <= FEW else ""
    upper.plot(steps, objective, color=LINE, linewidth=1.6, marker=marker)
    lower.plot(steps, norms, color=LINE, linewidth=1.2, marker=marker)
    if np.isfinite(norms).any():
        lower.set_yscale("log")
    else:
        lower.set_yticks([])
        lower.text(0.5, 0.5, "zero", transform=lower.transAxes, ha="center", color=MUTED)
    upper.set_title(title, loc="left", fontsize=11, color=INK)
    upper.set_ylabel("objective F(x)")
    lower.set_ylabel("projected gradient norm")
    lower.set_xlabel("evaluations of the objective")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(history) == 1:
        lower.set_xticks([0])
    for axes in (upper, lower):
        tidy(axes)
        _mark_phases(axes, history, label=axes is upper)
    best = int(np.argmax(objective))
    upper.annotate(
        f"best {objective[best]:.6g}".replace("-", "\N{MINUS SIGN}"),  # as on the axis
        (steps[best], objective[best]),
        xytext=(0, 6),  # above, where no curve is
        textcoords="offset points",
        horizontalalignment="left" if 2 * best < len(history) else "right",
        verticalalignment="bottom",
        fontsize=9,
        color=LINE,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    upper.margins(y=0.12)
    save_figure(figure, path)


def _mark_phases(axes: Axes, history: Sequence[RunRecord], *, label: bool) -> None:
    for before, after in zip(history, history[1:], strict=False):
        if before.phase != after.phase:
            axes.axvline(after.step, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
            if label:
                axes.annotate(
                    f"{after.phase} from here ",
                    (after.step, 0.04),
                    xycoords=("data", "axes fraction"),
                    horizontalalignment="right",
                    fontsize=9,
                    color=MUTED,
                )
