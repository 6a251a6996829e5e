"""Distributions of p*: box plots after figures 6.1 to 6.4 of the thesis, and curves as figure B.1."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from robbench.record import MISCLASSIFIED
from robbench.report import drawing
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of

_WIDEST = 15.0
"""Inches of panels side by side; more go below."""

_Panel = tuple[str | None, list[Model]]


def percentiles(model: Model) -> tuple[float, ...]:
    """The 12.5th, 25th, 50th, 75th and 87.5th percentile of p* over the correct images of all seeds; inf where censored."""
    values = _values(model)
    low, first, third, high = np.percentile(values, (12.5, 25.0, 75.0, 87.5), method="inverted_cdf")
    return tuple(map(float, (low, first, np.median(values), third, high)))


def axis_end(models: Sequence[Model]) -> float:
    """Just above the highest percentile, or the grid's end where one lies past it."""
    found = [value for model in models if model.right for value in percentiles(model) if value > 0]
    end = max(model.grid_end for model in models)
    return min(end, 1.1 * max(found, default=end))


def _values(model: Model) -> NDArray[np.float64]:
    """p* of the correct images of all seeds."""
    seeds = [row.robustness for row in model.right if row.robustness]
    pairs = [(np.asarray([*each.grid, np.inf]), np.asarray(each.pstar)) for each in seeds]
    return np.concatenate([grid[indices[indices != MISCLASSIFIED]] for grid, indices in pairs])


def draw_boxes(group: Group) -> bytes:
    """Accuracy above, p* below; models from scratch in the first column, a column per kind of transfer after it."""
    panels = [
        (line, models)
        for line in (None, *group.lines)
        if (models := [model for model in models_of(group.of(line)) if model.tested])
    ]
    bands: dict[int, list[_Panel]] = {}
    for panel, reach in zip(panels, accumulate(_width(panel) for panel in panels), strict=True):
        bands.setdefault(int(reach // _WIDEST), []).append(panel)
    models = [model for _, models in panels for model in models]
    right = [model for model in models if model.right]
    top = axis_end(models)
    width = max(5.0, 1.0 + max(sum(_width(panel) for panel in band) for band in bands.values()))
    name = drawing.title(group, "clean accuracy and p* per model")
    with drawing.canvas(width, 6.2 * len(bands) + 0.2, name) as figure:
        parts = np.atleast_1d(np.array(figure.subfigures(len(bands), 1)))
        for part, band in zip(parts, bands.values(), strict=True):
            _band(part, band, top)
        if right:
            drawing.legend_below(figure, _keys(right, top), 5)
        return drawing.png(figure)


def _keys(models: Sequence[Model], top: float) -> list[Artist]:
    """What the marks mean that the picture has."""
    ink: dict[str, Any] = {"color": "black", "linestyle": "none"}
    keys: list[Artist] = [
        Patch(facecolor="#dddddd", edgecolor="black", label="p*: 25th to 75th percentile"),
        Line2D([], [], color="black", linewidth=2, label="median"),
        Line2D([], [], marker="|", markersize=11, label="12.5th to 87.5th", **ink),
    ]
    if any(_certified(model) is not None for model in models):
        look = ink | {"color": "#0072B2", "markeredgecolor": "white"}
        keys.append(Line2D([], [], marker="D", markersize=7, label="median certified radius", **look))
    if any(percentiles(model)[-1] > top for model in models):
        keys.append(Line2D([], [], marker="^", markersize=6, label="ends past the grid", **ink))
    if any(len(model.right) > 1 for model in models):
        dots = ink | {"markersize": 4, "markerfacecolor": "white"}
        keys.append(Line2D([], [], marker="o", label="medians of the seeds", **dots))
    return keys


def _certified(model: Model) -> float | None:
    """Median over seeds of the median certified radius; None where the model was not bounded."""
    return model.value(lambda row: row.bounds.median if row.bounds else None)


def _width(panel: _Panel) -> float:
    line, models = panel
    return max(2.0, (0.95 if line is None else 0.62) * len(models))


def _band(figure: SubFigure, panels: Sequence[_Panel], top: float) -> None:
    widths = [_width(panel) for panel in panels]
    grid = figure.subplots(
        2, len(panels), sharex="col", sharey="row", squeeze=False, width_ratios=widths, height_ratios=[1, 2.6]
    )
    for (above, below), (line, models), width in zip(grid.T, panels, widths, strict=True):
        above.set_title("\n".join(textwrap.wrap(line or drawing.untransferred(models), int(width * 11))), fontsize=11)
        _accuracies(above, models)
        _boxes(below, models, top)
        below.set_xlim(-0.6, len(models) - 0.4)
        names = [str(model.facts.k) if line else _short(model.label) for model in models]
        below.set_xticks(range(len(models)), names)
        if line:
            below.set_xlabel("k (blocks retrained)")
    grid[0][0].set_ylabel("clean accuracy (%)")
    grid[1][0].set_ylabel(f"p* ({drawing.UNITS})")
    figure.align_ylabels(grid[:, 0])


def _short(label: str) -> str:
    """Method over dataset, a long dataset's name cut in its middle."""
    method, _, dataset = label.partition(" ")
    return f"{method}\n{dataset if len(dataset) <= 11 else f'{dataset[:5]}…{dataset[-5:]}'}"


def _accuracies(axes: Axes, models: Sequence[Model]) -> None:
    """A bar per model at its median over seeds, from the least to the greatest seed a line."""
    for at, model in enumerate(models):
        found = model.accuracies
        value, low, high = (100 * v for v in (found.value, found.low, found.high)) if found else (0.0, 0.0, 0.0)
        axes.bar(at, value, color=drawing.colour(model.rows[0]), width=0.62)
        if found and found.count > 1:
            axes.errorbar(at, value, yerr=drawing.error_bars(value, low, high), color="black", linewidth=1.2, capsize=2)
        axes.annotate(f"{value:.1f}", (at, high), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.set(yticks=range(0, 101, 25), ylim=(0, 115))
    drawing.tidy(axes)


def _boxes(axes: Axes, models: Sequence[Model], top: float) -> None:
    """A box per model, and the share of its images that were never fooled."""
    drawing.censored_band(axes, top, 1.001, 1.02, 1.09, 1.16)
    for at, model in enumerate(models):
        if not model.right:
            axes.text(at, top / 2, "no correct image", rotation=90, ha="center", va="center", fontsize=9)
            continue
        _box(axes, at, model, top)
        if (certified := _certified(model)) is not None:
            axes.plot(
                at, min(certified, 1.02 * top), "D", color="#0072B2", markeredgecolor="white", markersize=7, zorder=6
            )
        if share := np.isinf(_values(model)).mean():
            text = f"{share:.0%}" if share >= 0.005 else "<1%"
            white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(at, 1.09 * top, text, ha="center", va="center", fontsize=8, bbox=white)
    drawing.tidy(axes)


def _box(axes: Axes, at: int, model: Model, top: float) -> None:
    """The images of all seeds, a dot per seed at its median; what lies past ``top`` ends at the band."""
    edge, found = 1.02 * top, percentiles(model)
    low, first, median, third, high = (min(value, edge) for value in found)
    axes.bxp(
        [{"whislo": low, "q1": first, "med": median, "q3": third, "whishi": high}],
        positions=[at],
        widths=0.55,
        showfliers=False,
        showcaps=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": drawing.lighter(drawing.colour(model.rows[0])), "edgecolor": "black"},
        medianprops={"color": "black", "linewidth": 2},
    )
    ends = [value for value in (found[0], found[4]) if value <= top]
    axes.plot([at] * len(ends), ends, "_", color="black", markersize=11)
    if found[4] > top:
        axes.plot(at, edge, "^", color="black", markersize=6, clip_on=False)
    if len(model.right) > 1:
        dots = [min(row.median, edge) for row in model.right if row.median is not None]
        across = at + 0.09 * (np.arange(len(dots)) - (len(dots) - 1) / 2)
        axes.plot(across, dots, "o", color="white", markeredgecolor="black", markersize=4, zorder=5)


def draw_ecdf(group: Group) -> bytes:
    """Empirical distribution functions of p*: one panel per kind of transfer, the from-scratch models in each."""
    lines = group.lines or (None,)
    across = min(2, len(lines))
    models = [model for model in models_of(group.rows) if model.right]
    found = [float(np.quantile(_values(model), 0.999, method="inverted_cdf")) for model in models]
    end = min(max(model.grid_end for model in models), 1.1 * max(found))
    with drawing.canvas(
        7.4 * across, 4.6 * -(-len(lines) // across), drawing.title(group, "distribution of p*")
    ) as figure:
        for panel, line in zip(drawing.panels(figure, len(lines), across), lines, strict=True):
            _panel(panel, group, line, end)
        return drawing.png(figure)


def _panel(panel: Axes, group: Group, line: str | None, end: float) -> None:
    for model in models_of(group.of(None)):
        dashed = "--" if drawing.is_source(group, model) else "-"
        _curve(panel, model, color=drawing.colour(model.rows[0]), linestyle=dashed, linewidth=2.0)
    shown = models_of(group.of(line)) if line else ()
    for number, model in enumerate(shown):
        ink, style = drawing.of_k(model.facts.k or 1), ("-", (0, (6, 1)), (0, (3, 1, 1, 1)))[number % 3]
        _curve(panel, model, color=ink, linestyle=style, linewidth=1.6)
    panel.axhline(0.5, color="#777777", linewidth=0.9, linestyle=":", label="half of them: the median")
    panel.set(xlim=(0, 1.02 * end), ylim=(0, 1.02), title=line or drawing.untransferred(models_of(group.of(None))))
    panel.xaxis.set_tick_params(labelbottom=True)
    panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panel.set(xlabel=f"perturbation radius ε ({drawing.UNITS})", ylabel="correct images fooled at ≤ ε")
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
