"""Median p* over clean accuracy: figures 6.5 and B.9 of the thesis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from robbench.report.drawing import (
    HATCHED,
    UNITS,
    canvas,
    colour,
    error_bars,
    is_source,
    png,
    pstar_ticks,
    study_title,
    tidy,
    title,
)
from robbench.report.labels import Label, place_labels
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of

_PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "source": ("published, source data", {"marker": "^", "markersize": 10, "linestyle": "none"}),
    "target": ("published, target data", {"marker": "s", "markersize": 10, "linestyle": "none"}),
    "line": ("published transfers", {"marker": "o", "linestyle": "--", "linewidth": 0.9}),
}
"""Legend entries of published figures, in the shapes that they are drawn in."""

_NUMBERS = "numbers: k, the blocks retrained"


def draw_tradeoff(group: Group) -> bytes:
    """Median p* over clean accuracy, transfers joined in order of k."""
    models = models_of(group.rows)
    past = _past(models)
    with canvas(9.0, 5.4) as figure:
        axes = figure.subplots()
        for model in models_of(group.of(None)):
            shape, ink = "^" if is_source(group, model) else "s", colour(model.rows[0])
            _points(axes, [model], shape, ink, model.label, past, 10)
            if theirs := model.published:
                at = theirs.accuracy * 100, theirs.median_pstar
                axes.plot(*at, shape, color=ink, fillstyle="none", markersize=10)
        labels = [label for line in group.lines for label in _line(axes, models_of(group.of(line)), line, past)]
        _frame(axes, models, past)
        _within(axes)
        legend = _legend(axes) | _published(group, _PUBLISHED)
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "alignment": "left"}
        look: dict[str, Any] = {"title": _NUMBERS if labels else None, "title_fontsize": 9, "fontsize": 9}
        axes.legend([*legend.values()], [*legend], frameon=False, **look, **beside)
        figure.suptitle(title(group, "median p* over clean accuracy"), fontweight="bold")
        place_labels(figure, axes, labels)
        return png(figure)


def draw_study_tradeoff(groups: Sequence[Group]) -> bytes:
    """Median p* over clean accuracy of the transfers, a panel per architecture, as figure 6.5."""
    groups = [group for group in groups if any(m.median is not None for m in models_of(group.rows) if m.line)]
    models = [model for group in groups for model in models_of(group.rows) if model.line]
    across = 2 if len(groups) == 4 else min(3, len(groups))
    down = math.ceil(len(groups) / across)
    past = _past(models)
    with canvas(4.8 * across, 3.9 * down + 0.7) as figure:
        panels = np.atleast_1d(np.array(figure.subplots(down, across, sharex=True, sharey=True))).ravel()
        labels: list[list[Label]] = []
        legend: dict[str, Artist] = {}
        for panel, group in zip(panels, groups, strict=False):
            lines = [_line(panel, models_of(group.of(line)), line, past) for line in group.lines]
            labels.append([label for line in lines for label in line])
            legend |= _legend(panel) | _published(group, ["line"])
        for number, (panel, group) in enumerate(zip(panels, groups, strict=False)):
            _frame(panel, models, past)
            panel.set_title(group.architecture)
            _inner(panel, left=number % across == 0, bottom=number + across >= len(groups))
        _within(panels[0])
        for panel in panels[len(groups) :]:
            panel.set_visible(False)
        _legend_below(figure, legend)
        figure.suptitle(study_title(groups, "median p* over clean accuracy of transferred models"), fontweight="bold")
        for panel, own in zip(panels, labels, strict=False):
            place_labels(figure, panel, own)
        return png(figure)


def _inner(panel: Axes, *, left: bool, bottom: bool) -> None:
    """The names of axes only at the left and the bottom of all panels."""
    panel.tick_params(labelbottom=bottom)
    panel.set(ylabel=panel.get_ylabel() if left else "", xlabel=panel.get_xlabel() if bottom else "")


def _legend_below(figure: Figure, legend: dict[str, Artist]) -> None:
    look: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "fontsize": 9, "frameon": False}
    figure.legend([*legend.values()], [*legend], title=_NUMBERS, title_fontsize=9, **look)


def _legend(axes: Axes) -> dict[str, Artist]:
    handles, names = axes.get_legend_handles_labels()
    return dict(zip(names, handles, strict=True))


def _published(group: Group, kinds: Sequence[str] | dict[str, Any]) -> dict[str, Artist]:
    """Legend entries of the published figures that are drawn."""
    shown = [model for model in models_of(group.rows) if model.published]
    there = {"line" if model.line else "source" if is_source(group, model) else "target" for model in shown}
    entries = [_PUBLISHED[kind] for kind in kinds if kind in there]
    return {name: Line2D([], [], color="#555555", fillstyle="none", **shape) for name, shape in entries}


def _past(models: Sequence[Model]) -> float:
    """Where a censored median is drawn."""
    return 1.06 * max((model.grid_end for model in models if model.tested), default=1.0)


def _line(axes: Axes, models: Sequence[Model], line: str, past: float) -> list[Label]:
    """One kind of transfer, ours and published; returns the labels to place."""
    tested, ink = [model for model in models if model.right], colour(models[0].rows[0])
    points = _points(axes, tested, "o-", ink, line, past, 7)
    labels = [Label(*at, str(model.facts.k), ink) for at, model in zip(points, tested, strict=True)]
    theirs = [model.published for model in models if model.published]
    if theirs:
        found = [(row.accuracy * 100, row.median_pstar) for row in theirs]
        axes.plot(*zip(*found, strict=True), "o--", color=ink, fillstyle="none", alpha=0.75, linewidth=0.9)
        labels += [Label(*at, str(row.k), ink, small=True) for at, row in zip(found, theirs, strict=True)]
    return labels


def _points(
    axes: Axes, models: Sequence[Model], style: str, ink: str, label: str, past: float, size: float
) -> list[tuple[float, float]]:
    """Models at their medians over seeds, with lines from the least to the greatest seed."""
    points = []
    for model in (model for model in models if model.right):
        across, up = model.accuracies, model.medians
        assert across is not None
        assert up is not None
        at = across.value * 100, min(up.value, past)
        points.append(at)
        if up.count > 1:
            sides = error_bars(at[0], across.low * 100, across.high * 100)
            ends = error_bars(at[1], min(up.low, past), min(up.high, past))
            axes.errorbar(*at, xerr=sides, yerr=ends, fmt="none", ecolor=ink, alpha=0.55, elinewidth=1.1)
    if points:
        axes.plot(*zip(*points, strict=True), style, color=ink, markersize=size, linewidth=1.3, label=label)
    return points


def _frame(axes: Axes, models: Sequence[Model], past: float) -> None:
    """Axes from 0, with a band for censored medians where there are any."""
    end = past / 1.06
    if any(math.isinf(row.median or 0) for model in models for row in model.right):
        axes.axhspan(1.01 * end, 1.12 * end, **HATCHED)
        ticks = [tick for tick in pstar_ticks(end) if tick < 0.97 * end]
        axes.set_yticks([*ticks, past], [*(f"{tick:.4g}" for tick in ticks), "never\nfooled"])
        axes.set_ylim(0, 1.12 * end or 1)
    else:
        axes.set_ylim(0, max(1.06 * axes.get_ylim()[1], 1e-3))
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.set(xlabel="clean accuracy (%)", ylabel=f"median p* ({UNITS})")
    tidy(axes, grid="both")


def _within(axes: Axes) -> None:
    """No accuracy below 0 or above 100% on the axis, but for half a marker; once everything is drawn."""
    left, right = axes.get_xlim()
    half = 0.015 * (right - left)
    axes.set_xlim(max(left, -half), min(right, 100 + half))
