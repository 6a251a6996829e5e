"""The answers to the three questions by k, with intervals: retention, relative robustness and speed-up as dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from robbench.report import drawing
from robbench.report.answers import Answer, answers, compared
from robbench.report.bootstrap import CONFIDENCE
from robbench.report.comparisons import Ratio, median_ratio, speed_up
from robbench.report.rows import Group
from robbench.report.seeds import Spread, source_model

_TITLES = (
    "1. median p* ÷ that of the source\n(retention)",
    "2. median p* ÷ that from scratch\n(relative robustness)",
    "3. times faster than adversarial\ntraining from scratch",
)


class _Point(NamedTuple):
    k: int
    found: Ratio | Spread | None
    published: float | None


def draw_answers(group: Group) -> bytes:
    """Panels over k for retention, relative robustness, speed-up, as far as known; a line per kind of transfer."""
    found = answers(group)
    numbers = [number for number, there in enumerate(compared(found)) if there]
    lines = [(answer.line, drawing.colour(answer.models[0].rows[0]), _points(group, answer)) for answer in found]
    ks = sorted({point.k for _, _, panels in lines for point in panels[0]})
    top = 1.08 * max([1.0, *(_reach(points) for _, _, panels in lines for points in panels[:2])])
    what = "the three questions" if len(numbers) == 3 else "the questions that can be answered"
    name = drawing.title(
        group, f"{what}, {CONFIDENCE:.0%} intervals over {'seeds and ' * (len(group.seeds) > 1)}images"
    )
    with drawing.canvas(max(6.0, 4.4 * len(numbers)), 4.4, name) as figure:
        panels = dict(zip(numbers, figure.subplots(1, len(numbers), squeeze=False)[0], strict=True))
        for line, (_, ink, points) in enumerate(lines):
            shift = min(0.12, 0.5 / len(lines)) * (line - (len(lines) - 1) / 2)
            for number, panel in panels.items():
                _dots(panel, points[number], ink, shift, top)
        for number, panel in panels.items():
            _frame(panel, _TITLES[number], ks)
            if number == 2:
                _factors(panel)
            else:
                panel.set_ylim(0, top)
                panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        handles = [Line2D([], [], marker="o", color=ink, label=line) for line, ink, _ in lines]
        shown = [point for _, _, points in lines for number in numbers for point in points[number]]
        drawing.legend_below(figure, handles + _keys(shown, top, len(group.seeds)), 5)
        return drawing.png(figure)


def _factors(panel: Axes) -> None:
    """A log axis of factors."""
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(lambda factor, _: f"× {factor:g}")


def _points(group: Group, answer: Answer) -> tuple[list[_Point], list[_Point], list[_Point]]:
    """A kind of transfer in the three panels."""
    retention, relative, faster = [], [], []
    for model in answer.models:
        k, own = model.facts.k or 0, model.published
        retention.append(_Point(k, median_ratio(model, source_model(group, model)), own.retention if own else None))
        relative.append(_Point(k, median_ratio(model, answer.scratch), own.relative if own else None))
        faster.append(_Point(k, speed_up(answer.scratch, [model]), own.speed_up if own else None))
    return retention, relative, faster


def _frame(panel: Axes, name: str, ks: Sequence[int]) -> None:
    panel.set_title(name, fontsize=11)
    panel.set(xlabel="k (blocks retrained)", xticks=ks, xlim=(ks[0] - 0.5, ks[-1] + 0.5))
    panel.axhline(1.0, color="#777777", linewidth=0.9, linestyle=":")
    drawing.tidy(panel)
    if not panel.lines[1:] and not panel.containers:
        panel.text(0.5, 0.5, "not run", transform=panel.transAxes, ha="center", color="#777777")


def _keys(points: Sequence[_Point], top: float, seeds: int) -> list[Line2D]:
    """Legend entries of the marks that there are."""
    grey: dict[str, Any] = {"color": "#555555", "fillstyle": "none"}
    keys = []
    if any(point.published is not None for point in points):
        keys.append(Line2D([], [], marker="o", linestyle="--", label="published", **grey))
    if seeds > 1:
        keys.append(Line2D([], [], marker="x", linestyle="none", label="one seed", **grey))
    if any(isinstance(point.found, Ratio) and point.found.high > top for point in points):
        past = "the interval goes on past the axis"
        keys.append(Line2D([], [], marker="^", color="#555555", linestyle="none", label=past))
    return keys


def _reach(points: Sequence[_Point]) -> float:
    """How high the axis must reach: intervals may go on past it, figures not."""
    values = [point.published or 0.0 for point in points]
    for ratio in (point.found for point in points if isinstance(point.found, Ratio)):
        values += [min(ratio.high, 1.3 * ratio.value) if math.isfinite(ratio.high) else ratio.value]
        values += ratio.seeds.values
    return max(values)


def _dots(axes: Axes, points: Sequence[_Point], ink: str, shift: float, top: float) -> None:
    """Factors, or ratios with their intervals on an axis that ends at ``top``; the published ones beside."""
    shown = [(point.k + shift, point.found) for point in points if point.found]
    ratios = any(isinstance(found, Ratio) for _, found in shown)
    if shown:
        look: dict[str, Any] = {"linewidth": 1.2} if ratios else {"marker": "o", "markersize": 6}
        axes.plot(*zip(*((k, found.value) for k, found in shown), strict=True), color=ink, **look)
    for k, found in shown:
        if isinstance(found, Ratio):
            _interval(axes, k, found, ink, top)
        seeds = found.seeds if isinstance(found, Ratio) else found
        drawing.crosses(axes, [k + 0.16] * seeds.count, seeds.values, ink)
    theirs = [(point.k, point.published) for point in points if point.published is not None]
    if theirs:
        axes.plot(*zip(*theirs, strict=True), "o--", color=ink, fillstyle="none", alpha=0.75, linewidth=0.9)


def _interval(axes: Axes, k: float, ratio: Ratio, ink: str, top: float) -> None:
    if ratio.high > top:
        drawing.arrow_to_edge(axes, (k, ratio.value), "top", ink)
    ends = drawing.error_bars(ratio.value, ratio.low, ratio.high if ratio.high <= top else ratio.value)
    marker, fill = {"=": ("o", ink), "<": ("v", "white"), ">": ("^", "white")}[ratio.relation]
    axes.errorbar(k, ratio.value, yerr=ends, fmt=marker, capsize=3, color=ink, markerfacecolor=fill)
