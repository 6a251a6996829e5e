"""Empirical distributions of p*: figure B.1 of the thesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from robbench.report import drawing
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of


def draw_ecdf(group: Group) -> bytes:
    """Empirical distribution functions of p*: one panel per kind of transfer, the from-scratch models in each."""
    lines = group.lines or (None,)
    across = min(2, len(lines))
    end = max(row.robustness.grid[-1] for row in group.rows if row.robustness)
    with drawing.canvas(
        7.4 * across, 4.6 * -(-len(lines) // across), drawing.title(group, "distribution of p*")
    ) as figure:
        for panel, line in zip(drawing.panels(figure, len(lines), across), lines, strict=True):
            _panel(panel, group, line, end)
        return drawing.png(figure)


def _panel(panel: Axes, group: Group, line: str | None, end: float) -> None:
    for model in models_of(group.of(None)):
        style = "--" if drawing.is_source(group, model) else "-"
        _curve(panel, model, color=drawing.colour(model.rows[0]), linestyle=style, linewidth=2.0)
    shown = models_of(group.of(line)) if line else ()
    for model, shade in zip(shown, np.linspace(0.0, 0.92, max(len(shown), 2)), strict=False):
        _curve(panel, model, color=colormaps["viridis"](shade), linestyle="-", linewidth=1.4)
    panel.axhline(0.5, color="#777777", linewidth=0.9, linestyle=":", label="half of them: the median")
    panel.set(xlim=(0, 1.02 * end or 1), ylim=(0, 1.02), title=line or "trained from scratch")
    panel.xaxis.set_tick_params(labelbottom=True)
    panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panel.set_xlabel(f"perturbation radius ε ({drawing.UNITS})")
    panel.set_ylabel("correct images fooled at ≤ ε")
    drawing.tidy(panel, grid="both")
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)


def _curve(axes: Axes, model: Model, **look: Any) -> None:
    """The curve over the images of all seeds, and a band between the seeds' own curves."""
    if not model.right or model.right[0].robustness is None:
        return
    grid = model.right[0].robustness.grid
    counts = [row.robustness.distribution() for row in model.right if row.robustness and row.robustness.grid == grid]
    pooled = np.sum(counts, axis=0)
    axes.step(grid, pooled[:-1].cumsum() / pooled.sum(), where="post", label=model.label, **look)
    if len(counts) > 1:
        shares = np.stack([each[:-1].cumsum() / each.sum() for each in counts])
        low, high = shares.min(axis=0), shares.max(axis=0)
        axes.fill_between(grid, low, high, step="post", color=look["color"], alpha=0.15, linewidth=0)
