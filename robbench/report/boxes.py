"""Box plots of p* under bars of clean accuracy, after figures 6.1 to 6.4 of the thesis."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from robbench.record import WRONG, Robustness
from robbench.report.drawing import NEVER, canvas, colour, lighter, png, tidy, title
from robbench.report.rows import Group, Row

_PERCENTILES = (12.5, 25.0, 50.0, 75.0, 87.5)
_WIDEST = 15.0
"""Inches of panels side by side; more go below."""

_Panel = tuple[str | None, list[Row]]


def box_places(robustness: Robustness) -> tuple[float, float, float, float, float]:
    """The 12.5th, 25th, 50th, 75th and 87.5th percentile of p* over the correct images; inf where censored.

    Each is an image's own p* (no interpolation, which a censored value would not allow), the median excepted.
    """
    correct = [place for place in robustness.pstar if place != WRONG]
    values = np.asarray([*robustness.grid, np.inf])[correct]
    low, first, _, third, high = (float(v) for v in np.percentile(values, _PERCENTILES, method="inverted_cdf"))
    median = robustness.median
    assert median is not None
    return low, first, median, third, high


def draw_boxes(group: Group) -> bytes:
    """Accuracy above, p* below; models from scratch in the first column, a column per kind of transfer after it."""
    panels = [(line, rows) for line in (None, *group.lines) if (rows := [r for r in group.of(line) if r.robustness])]
    bands: dict[int, list[_Panel]] = {}
    for panel, reach in zip(panels, accumulate(_width(panel) for panel in panels), strict=True):
        bands.setdefault(int(reach // _WIDEST), []).append(panel)
    top = _axis_end([row.robustness for _, rows in panels for row in rows if row.robustness])
    width = max(5.0, 1.3 + max(sum(_width(panel) for panel in band) for band in bands.values()))
    with canvas(width, 6.2 * len(bands) + 0.2) as figure:
        figure.suptitle(title(group, "clean accuracy and p* per model"), fontweight="bold")
        parts = np.atleast_1d(np.array(figure.subfigures(len(bands), 1)))
        for part, band in zip(parts, bands.values(), strict=True):
            _band(part, band, top)
        return png(figure)


def _width(panel: _Panel) -> float:
    line, rows = panel
    return max(2.0, (0.95 if line is None else 0.62) * len(rows))


def _axis_end(distributions: Sequence[Robustness]) -> float:
    """Where the axis of found p* ends: above the highest whisker, the grid's end at most."""
    found = [value for each in distributions if each.clean.correct for value in box_places(each)]
    finite = [value for value in found if np.isfinite(value) and value > 0]
    end = max(each.grid[-1] for each in distributions) or 1.0
    return min(end, 1.1 * max(finite, default=end))


def _band(figure: SubFigure, panels: Sequence[_Panel], top: float) -> None:
    widths = [_width(panel) for panel in panels]
    grid = figure.subplots(
        2, len(panels), sharex="col", sharey="row", squeeze=False, width_ratios=widths, height_ratios=[1, 2.6]
    )
    for column, ((line, rows), width) in enumerate(zip(panels, widths, strict=True)):
        above, below = grid[0][column], grid[1][column]
        above.set_title("\n".join(textwrap.wrap(line or "trained from scratch", int(width * 11))), fontsize=11)
        _accuracies(above, rows)
        _boxes(below, rows, top)
        below.set_xlim(-0.6, len(rows) - 0.4)
        names = [str(row.facts.k) if line else _short(row.label) for row in rows]
        below.set_xticks(range(len(rows)), names)
        if line:
            below.set_xlabel("k (blocks retrained)")
    grid[0][0].set_ylabel("clean accuracy (%)")
    grid[1][0].set_ylabel("p* (L∞, pixel units)")


def _short(label: str) -> str:
    """Method over dataset, a long dataset's name cut in its middle."""
    method, _, dataset = label.partition(" ")
    return f"{method}\n{dataset if len(dataset) <= 11 else f'{dataset[:5]}…{dataset[-5:]}'}"


def _accuracies(axes: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        accuracy = (row.accuracy or 0.0) * 100
        axes.bar(place, accuracy, color=colour(row), width=0.62)
        axes.annotate(f"{accuracy:.1f}", (place, accuracy), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.set_ylim(0, 115)
    axes.set_yticks(range(0, 101, 25))
    tidy(axes)


def _boxes(axes: Axes, rows: Sequence[Row], top: float) -> None:
    drawn_at, written_at = 1.05 * top, 1.12 * top
    axes.axhspan(1.02 * top, 1.16 * top, facecolor="#F4F4F4", edgecolor="#CCCCCC", hatch="////", linewidth=0)
    for place, row in enumerate(rows):
        robustness = row.robustness
        assert robustness is not None
        if not robustness.clean.correct:
            axes.text(place, top / 2, "no correct image", rotation=90, ha="center", va="center", fontsize=9)
            continue
        low, first, median, third, high = (drawn_at if v > top else v for v in box_places(robustness))
        axes.bxp(
            [{"whislo": low, "q1": first, "med": median, "q3": third, "whishi": high}],
            positions=[place],
            widths=0.55,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": lighter(colour(row)), "edgecolor": "black"},
            medianprops={"color": "black", "linewidth": 2},
        )
        share = robustness.censored / robustness.clean.correct
        if share:
            text = f"{share:.0%}" if share >= 0.005 else "<1%"
            white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(place, written_at, text, ha="center", va="center", fontsize=8, bbox=white)
    axes.set_ylim(0, 1.16 * top)
    locator = MaxNLocator(8, steps=[1, 2, 2.5, 5, 10])
    ticks = [float(tick) for tick in locator.tick_values(0, top) if tick <= 1.001 * top]
    axes.set_yticks([*ticks, 1.09 * top], [*(f"{tick:.4g}" for tick in ticks), NEVER])
    tidy(axes)
