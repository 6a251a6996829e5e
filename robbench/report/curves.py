"""Distributions of p*, and median p* over clean accuracy: figures B.1, 6.5 and B.9 of the thesis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from robbench.report.drawing import (
    HATCHED,
    UNITS,
    Label,
    canvas,
    colour,
    error_bars,
    place_labels,
    png,
    pstar_ticks,
    study_title,
    tidy,
    title,
)
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of

_PUBLISHED_LINE = "published transfers"
_NUMBERS = "numbers: k, the blocks retrained"


def draw_ecdf(group: Group) -> bytes:
    """Empirical distribution functions of p*: one panel per kind of transfer, the from-scratch models in each."""
    lines = group.lines or (None,)
    across = min(2, len(lines))
    down = math.ceil(len(lines) / across)
    end = max(row.robustness.grid[-1] for row in group.rows if row.robustness)
    with canvas(7.4 * across, 4.6 * down) as figure:
        panels = np.atleast_1d(np.array(figure.subplots(down, across, sharex=True, sharey=True))).ravel()
        for panel, line in zip(panels, lines, strict=False):
            for model in models_of(group.of(None)):
                _ecdf(panel, model, colour(model.rows[0]), "--" if is_source(group, model) else "-", 2.0)
            shown = models_of(group.of(line)) if line else ()
            for model, shade in zip(shown, np.linspace(0.0, 0.92, max(len(shown), 2)), strict=False):
                _ecdf(panel, model, colormaps["viridis"](shade), "-", 1.4)
            panel.axhline(0.5, color="#777777", linewidth=0.9, linestyle=":", label="half of them: the median")
            panel.set(xlim=(0, 1.02 * end or 1), ylim=(0, 1.02), title=line or "trained from scratch")
            panel.xaxis.set_tick_params(labelbottom=True)
            panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
            panel.set_xlabel(f"perturbation radius ε ({UNITS})")
            panel.set_ylabel("correct images fooled at ≤ ε")
            tidy(panel, grid="both")
            panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
        for panel in panels[len(lines) :]:
            panel.set_visible(False)
        figure.suptitle(title(group, "distribution of p*"), fontweight="bold")
        return png(figure)


def _ecdf(axes: Axes, model: Model, ink: object, style: str, width: float) -> None:
    """The curve over the images of all seeds, and a band between the seeds' own curves."""
    if not model.right or model.right[0].robustness is None:
        return
    grid = model.right[0].robustness.grid
    counts = [row.robustness.distribution() for row in model.right if row.robustness and row.robustness.grid == grid]
    pooled = np.sum(counts, axis=0)
    axes.step(
        grid,
        pooled[:-1].cumsum() / pooled.sum(),
        where="post",
        color=ink,
        linestyle=style,
        linewidth=width,
        label=model.label,
    )
    if len(counts) > 1:
        shares = np.stack([each[:-1].cumsum() / each.sum() for each in counts])
        axes.fill_between(grid, shares.min(axis=0), shares.max(axis=0), step="post", color=ink, alpha=0.15, linewidth=0)


def is_source(group: Group, model: Model) -> bool:
    """Whether a model was trained on the data that transfers start from."""
    return model.facts.dataset in {row.facts.source for row in group.rows}


def draw_tradeoff(group: Group) -> bytes:
    """Median p* over clean accuracy, transfers joined in order of k."""
    with canvas(9.0, 5.4) as figure:
        axes = figure.subplots()
        labels: list[Label] = []
        past = _past(models_of(group.rows))
        for model in models_of(group.of(None)):
            shape = "^" if is_source(group, model) else "s"
            _points(axes, [model], shape, colour(model.rows[0]), model.label, past, 10)
            theirs = model.published
            if theirs:
                at = theirs.accuracy * 100, theirs.median_pstar
                axes.plot(*at, shape, color=colour(model.rows[0]), fillstyle="none", markersize=10)
        for line in group.lines:
            labels += _line(axes, models_of(group.of(line)), line, past)
        _frame(axes, models_of(group.rows), past)
        _within(axes)
        handles, names = axes.get_legend_handles_labels()
        for handle, name in _published_handles(group):
            handles.append(handle)
            names.append(name)
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "alignment": "left"}
        axes.legend(
            handles, names, title=_NUMBERS if labels else None, title_fontsize=9, fontsize=9, frameon=False, **beside
        )
        figure.suptitle(title(group, "median p* over clean accuracy"), fontweight="bold")
        place_labels(figure, axes, labels)
        return png(figure)


def draw_study_tradeoff(groups: Sequence[Group]) -> bytes:
    """Median p* over clean accuracy of the transfers, a panel per architecture, as figure 6.5."""
    groups = [group for group in groups if any(m.median is not None for m in models_of(group.rows) if m.line)]
    across = 2 if len(groups) == 4 else min(3, len(groups))
    down = math.ceil(len(groups) / across)
    with canvas(4.8 * across, 3.9 * down + 0.7) as figure:
        panels = np.atleast_1d(np.array(figure.subplots(down, across, sharex=True, sharey=True))).ravel()
        models = [model for group in groups for model in models_of(group.rows) if model.line]
        past = _past(models)
        placed: list[tuple[Axes, list[Label]]] = []
        legend: dict[str, Artist] = {}
        for panel, group in zip(panels, groups, strict=False):
            labels = [label for line in group.lines for label in _line(panel, models_of(group.of(line)), line, past)]
            placed.append((panel, labels))
            handles, names = panel.get_legend_handles_labels()
            legend |= dict(zip(names, handles, strict=True))
            legend |= {name: handle for handle, name in _published_handles(group) if name == _PUBLISHED_LINE}
        for number, (panel, group) in enumerate(zip(panels, groups, strict=False)):
            _frame(panel, models, past)
            last = number + across >= len(groups)
            panel.tick_params(labelbottom=last)
            panel.set(
                title=group.architecture,
                ylabel=panel.get_ylabel() if number % across == 0 else "",
                xlabel=panel.get_xlabel() if last else "",
            )
        _within(panels[0])
        for panel in panels[len(groups) :]:
            panel.set_visible(False)
        below: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "fontsize": 9, "frameon": False}
        figure.legend([*legend.values()], [*legend], title=_NUMBERS, title_fontsize=9, **below)
        figure.suptitle(study_title(groups, "median p* over clean accuracy of transferred models"), fontweight="bold")
        for panel, labels in placed:
            place_labels(figure, panel, labels)
        return png(figure)


def _past(models: Sequence[Model]) -> float:
    """Where a censored median is drawn."""
    return 1.06 * max((model.grid_end for model in models if model.tested), default=1.0)


def _line(axes: Axes, models: Sequence[Model], line: str, past: float) -> list[Label]:
    """One kind of transfer, ours and published; returns the labels to place."""
    tested = [model for model in models if model.right]
    ink = colour(models[0].rows[0])
    places = _points(axes, tested, "o-", ink, line, past, 7)
    labels = [Label(*at, str(model.facts.k), ink) for at, model in zip(places, tested, strict=True)]
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
    places = []
    for model in (model for model in models if model.right):
        across, up = model.spread(lambda row: row.accuracy), model.spread(lambda row: row.median)
        assert across is not None
        assert up is not None
        at = across.value * 100, min(up.value, past)
        places.append(at)
        if up.count > 1:
            sides = error_bars(at[0], across.low * 100, across.high * 100)
            ends = error_bars(at[1], min(up.low, past), min(up.high, past))
            axes.errorbar(*at, xerr=sides, yerr=ends, fmt="none", ecolor=ink, alpha=0.55, elinewidth=1.1)
    if places:
        axes.plot(*zip(*places, strict=True), style, color=ink, markersize=size, linewidth=1.3, label=label)
    return places


def _frame(axes: Axes, models: Sequence[Model], past: float) -> None:
    """Axes from 0, with a band for censored medians where there are any."""
    end = past / 1.06
    if any(math.isinf(row.median or 0) for model in models for row in model.right):
        axes.axhspan(1.01 * end, 1.12 * end, **HATCHED)
        ticks = pstar_ticks(end)
        ticks = [tick for tick in ticks if tick < 0.97 * end]
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


def _published_handles(group: Group) -> list[tuple[Line2D, str]]:
    """Legend entries of published figures in the shapes that they are drawn in."""
    shown = [model for model in models_of(group.rows) if model.published]
    kinds = {"line" if model.line else "source" if is_source(group, model) else "target" for model in shown}
    shapes: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("source", {"marker": "^", "markersize": 10, "linestyle": "none"}, "published, source data"),
        ("target", {"marker": "s", "markersize": 10, "linestyle": "none"}, "published, target data"),
        ("line", {"marker": "o", "linestyle": "--", "linewidth": 0.9}, _PUBLISHED_LINE),
    )
    return [
        (Line2D([], [], color="#555555", fillstyle="none", **shape), name)
        for kind, shape, name in shapes
        if kind in kinds
    ]
