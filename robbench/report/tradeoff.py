"""Median p* over clean accuracy: figures 6.5 and B.9 of the thesis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robbench.report import drawing
from robbench.report.labels import Label, place_labels
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of

_NUMBERS = "numbers: k, the blocks retrained"


def draw_tradeoff(group: Group) -> bytes:
    """Median p* over clean accuracy, transfers joined in order of k."""
    models, scratch = models_of(group.rows), models_of(group.of(None))
    end = max((model.grid_end for model in models if model.tested), default=1.0)
    with drawing.canvas(9.0, 5.4, drawing.title(group, "median p* over clean accuracy")) as figure:
        axes = figure.subplots()
        for model in scratch:
            shape, ink = _shape(group, model), drawing.colour(model.rows[0])
            _points(axes, [model], shape, ink, model.label, end, 10)
            if theirs := model.published:
                at = theirs.accuracy * 100, theirs.median_pstar
                axes.plot(*at, shape, color=ink, fillstyle="none", markersize=10)
        labels = [label for line in group.lines for label in _line(axes, models_of(group.of(line)), line, end)]
        published = {_shape(group, model) for model in scratch if model.published}
        for shape, what in (("^", "published, source data"), ("s", "published, target data")):
            if shape in published:
                axes.plot([], [], shape, color="#555555", fillstyle="none", markersize=10, label=what)
        _frame(axes, models, end)
        _within(axes)
        look: dict[str, Any] = {"title": _NUMBERS if labels else None, "title_fontsize": 9, "fontsize": 9}
        legend = _legend(axes, models)
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "alignment": "left"}
        axes.legend(handles=[*legend.values()], frameon=False, **look, **beside)
        place_labels(figure, axes, labels)
        return drawing.png(figure)


def draw_study_tradeoff(groups: Sequence[Group]) -> bytes:
    """Median p* over clean accuracy of the transfers, a panel per architecture, as figure 6.5."""
    groups = [group for group in groups if any(row.median is not None for row in group.rows if row.line)]
    models = [model for group in groups for model in models_of(group.rows) if model.line]
    across = 2 if len(groups) == 4 else min(3, len(groups))
    end = max((model.grid_end for model in models if model.tested), default=1.0)
    name = drawing.study_title(groups, "median p* over clean accuracy of transferred models")
    with drawing.canvas(4.8 * across, 3.9 * -(-len(groups) // across) + 0.7, name) as figure:
        axes = drawing.panels(figure, len(groups), across)
        labels: list[list[Label]] = []
        legend: dict[str, Artist] = {}
        for panel, group in zip(axes, groups, strict=True):
            lines = [_line(panel, models_of(group.of(line)), line, end) for line in group.lines]
            labels.append([label for line in lines for label in line])
            legend |= _legend(panel, models_of(group.rows))
        for number, (panel, group) in enumerate(zip(axes, groups, strict=True)):
            _frame(panel, models, end)
            panel.set_title(group.architecture)
            bottom = number + across >= len(groups)
            panel.tick_params(labelbottom=bottom)
            panel.set(ylabel="" if number % across else panel.get_ylabel(), xlabel=panel.get_xlabel() if bottom else "")
        _within(axes[0])
        drawing.legend_below(figure, [*legend.values()], 3, title=_NUMBERS, title_fontsize=9)
        for panel, own in zip(axes, labels, strict=True):
            place_labels(figure, panel, own)
        return drawing.png(figure)


def _shape(group: Group, model: Model) -> str:
    return "^" if drawing.is_source(group, model) else "s"


def _legend(axes: Axes, models: Sequence[Model]) -> dict[str, Artist]:
    """What was drawn, by its name."""
    if any(model.published for model in models if model.line):
        axes.plot([], [], "o--", color="#555555", fillstyle="none", linewidth=0.9, label="published transfers")
    handles, names = axes.get_legend_handles_labels()
    return dict(zip(names, handles, strict=True))


def _line(axes: Axes, models: Sequence[Model], line: str, end: float) -> list[Label]:
    """One kind of transfer, ours and published; returns the labels to place."""
    tested, ink = [model for model in models if model.right], drawing.colour(models[0].rows[0])
    points = _points(axes, tested, "o-", ink, line, end, 7)
    labels = [Label(*at, model.rows[0].mark, ink) for at, model in zip(points, tested, strict=True)]
    theirs = [model.published for model in models if model.published]
    if theirs:
        found = [(row.accuracy * 100, row.median_pstar) for row in theirs]
        axes.plot(*zip(*found, strict=True), "o--", color=ink, fillstyle="none", alpha=0.75, linewidth=0.9)
        labels += [Label(*at, str(row.k), ink, small=True) for at, row in zip(found, theirs, strict=True)]
    return labels


def _points(
    axes: Axes, models: Sequence[Model], style: str, ink: str, label: str, end: float, size: float
) -> list[tuple[float, float]]:
    """Models at their medians over seeds, with lines from the least to the greatest seed; censored ones in their band."""
    points = []
    for model in (model for model in models if model.right):
        across, up = model.accuracies, model.medians
        assert across is not None
        assert up is not None
        value, low, high = (min(median, 1.06 * end) for median in (up.value, up.low, up.high))
        at = across.value * 100, value
        points.append(at)
        if up.count > 1:
            sides = drawing.error_bars(at[0], across.low * 100, across.high * 100)
            axes.errorbar(
                *at,
                xerr=sides,
                yerr=drawing.error_bars(value, low, high),
                fmt="none",
                ecolor=ink,
                alpha=0.55,
                elinewidth=1.1,
            )
    if points:
        axes.plot(*zip(*points, strict=True), style, color=ink, markersize=size, linewidth=1.3, label=label)
    return points


def _frame(axes: Axes, models: Sequence[Model], end: float) -> None:
    """Axes from 0, with a band for censored medians where there are any."""
    if any(math.isinf(row.median or 0) for model in models for row in model.right):
        drawing.censored_band(axes, end, 0.97, 1.01, 1.06, 1.12)
    else:
        axes.set_ylim(0, max(1.06 * axes.get_ylim()[1], 1e-3))
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.set(xlabel="clean accuracy (%)", ylabel=f"median p* ({drawing.UNITS})")
    drawing.tidy(axes, grid="both")


def _within(axes: Axes) -> None:
    """No accuracy below 0 or above 100% on the axis, but for half a marker; once everything is drawn."""
    left, right = axes.get_xlim()
    half = 0.015 * (right - left)
    axes.set_xlim(max(left, -half), min(right, 100 + half))
