"""An ablation's changes of median p*, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from robbench.report import drawing
from robbench.report.ablation import Effect, effects
from robbench.report.rows import Group


def draw_ablation(group: Group) -> bytes:
    """Change of median p* per field and model, with its interval; past the grid's end, an arrowhead at the edge."""
    found = [effect for effect in effects(group) if effect.median and not math.isnan(effect.median.value)]
    heights: list[float] = []
    for at, effect in enumerate(found):
        gap = 1.5 if at and found[at - 1].field != effect.field else 1.0  # half a line more between fields
        heights.append(heights[-1] + gap if heights else 0.0)
    name = drawing.title(group, "one field as in the published code")
    with drawing.canvas(9.0, 1.7 + 0.36 * (max(heights, default=0) + 1), name) as figure:
        axes = figure.subplots()
        axes.axvline(0.0, color="#777777", linewidth=1.0)
        for height, effect in zip(heights, found, strict=True):
            _effect(axes, height, effect)
        axes.set_yticks(heights, [effect.varied.label for effect in found])
        _fields(axes, heights, found)
        if heights:
            axes.set_ylim(max(heights) + 0.6, -0.6)
        else:
            axes.text(0.5, 0.5, "no model to compare with", transform=axes.transAxes, ha="center")
        axes.set_xlabel(f"change of median p* ({drawing.UNITS})")
        drawing.tidy(axes, grid="x")
        return drawing.png(figure)


def _fields(axes: Axes, heights: Sequence[float], found: Sequence[Effect]) -> None:
    """The name of each field to the right of its models, and a line between two fields."""
    for field in dict.fromkeys(effect.field for effect in found):
        own = [height for height, effect in zip(heights, found, strict=True) if effect.field == field]
        drawing.beside(axes, field, sum(own) / len(own), fontweight="bold")
        if min(own) > 0:
            axes.axhline(min(own) - 0.75, color="#BBBBBB", linewidth=0.8)


def _effect(axes: Axes, height: float, effect: Effect) -> None:
    change, ink = effect.median, drawing.colour(effect.varied.rows[0])
    assert change is not None
    look: dict[str, Any] = {"color": ink, "markerfacecolor": ink if "median p*" in effect.moved else "white"}
    if math.isinf(change.value):
        edge, marker = (1.0, ">") if change.value > 0 else (0.0, "<")
        beyond: dict[str, Any] = {"clip_on": False, "transform": axes.get_yaxis_transform()}
        axes.plot(edge, height, marker, markersize=9, **look, **beyond)
        return
    if change.low == -math.inf:
        drawing.arrow_to_edge(axes, (change.value, height), "left", ink)
    if change.high == math.inf:
        drawing.arrow_to_edge(axes, (change.value, height), "right", ink)
    low, high = (end if math.isfinite(end) else change.value for end in (change.low, change.high))
    ends = drawing.error_bars(change.value, low, high)
    axes.errorbar(change.value, height, xerr=ends, fmt="o", markersize=7, capsize=3, **look)
    drawing.crosses(axes, change.seeds.values, [height] * change.seeds.count, ink)
