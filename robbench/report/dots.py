"""The answers to the three questions by k, with intervals: retention, relative robustness and speed-up as dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from robbench.gate.verdicts import CONFIDENCE
from robbench.report.answers import Answer, answers, scratch_model, source_model
from robbench.report.comparisons import Ratio, median_ratio, speed_up
from robbench.report.drawing import arrow_to_edge, canvas, colour, crosses, error_bars, png, tidy, title
from robbench.report.rows import Group
from robbench.report.seeds import Spread

_TITLES = (
    "1. median p* ÷ that of the source\n(retention)",
    "2. median p* ÷ that from scratch\n(relative robustness)",
    "3. times faster than adversarial\ntraining from scratch",
)


@dataclass(frozen=True)
class _Point:
    k: int
    ratio: Ratio | None
    factor: Spread | None
    published: float | None


@dataclass(frozen=True)
class _Line:
    """A kind of transfer: its points in the three panels."""

    name: str
    ink: str
    panels: tuple[list[_Point], list[_Point], list[_Point]]


def draw_answers(group: Group) -> bytes:
    """Three panels over k: retention, relative robustness, speed-up; a line per kind of transfer."""
    lines = [_line(group, answer) for answer in answers(group)]
    ks = sorted({point.k for line in lines for point in line.panels[0]})
    top = 1.08 * max([1.0, *(_reach(points) for line in lines for points in line.panels[:2])])
    with canvas(13.2, 4.4) as figure:
        panels = figure.subplots(1, 3)
        for number, line in enumerate(lines):
            shift = min(0.12, 0.5 / len(lines)) * (number - (len(lines) - 1) / 2)
            for panel, points in zip(panels[:2], line.panels, strict=False):
                _ratios(panel, points, line.ink, shift, top)
            _factors(panels[2], line.panels[2], line.ink, shift)
        for panel, name in zip(panels, _TITLES, strict=True):
            _frame(panel, name, ks)
        for panel in panels[:2]:
            panel.set_ylim(0, top)
            panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        _log(panels[2])
        handles = _handles(lines, top, seeds=len(group.seeds))
        figure.legend(handles=handles, loc="outside lower center", frameon=False, ncols=5, fontsize=9)
        figure.suptitle(title(group, f"the three questions, {CONFIDENCE:.0%} intervals over images"), fontweight="bold")
        return png(figure)


def _frame(panel: Axes, name: str, ks: Sequence[int]) -> None:
    panel.set_title(name, fontsize=11)
    panel.set_xlabel("k (blocks retrained)")
    panel.set_xticks(ks)
    panel.set_xlim(ks[0] - 0.5, ks[-1] + 0.5)
    panel.axhline(1.0, color="#777777", linewidth=0.9, linestyle=":")
    tidy(panel)
    if not panel.lines[1:] and not panel.containers:
        panel.text(0.5, 0.5, "not run", transform=panel.transAxes, ha="center", color="#777777")


def _log(panel: Axes) -> None:
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(lambda factor, _: f"× {factor:g}")


def _handles(lines: Sequence[_Line], top: float, *, seeds: int) -> list[Line2D]:
    """Legend entries of what there is to see."""
    points = [point for line in lines for panel in line.panels for point in panel]
    grey: dict[str, Any] = {"color": "#555555", "fillstyle": "none"}
    handles = [Line2D([], [], marker="o", color=line.ink, label=line.name) for line in lines]
    if any(point.published is not None for point in points):
        handles.append(Line2D([], [], marker="o", linestyle="--", label="published", **grey))
    if seeds > 1:
        handles.append(Line2D([], [], marker="x", linestyle="none", label="one seed", **grey))
    if any(point.ratio and point.ratio.high > top for point in points):
        past = "the interval goes on past the axis"
        handles.append(Line2D([], [], marker="^", color="#555555", linestyle="none", label=past))
    return handles


def _line(group: Group, answer: Answer) -> _Line:
    scratch = scratch_model(group, answer.models[0].facts.dataset, "pgd")
    retention, relative, faster = [], [], []
    for model in answer.models:
        k, own = model.facts.k or 0, model.published
        theirs: list[float | None] = [None, None, None]
        if own and own.source_row and own.scratch_row:
            theirs[0] = own.median_pstar / own.source_row.median_pstar
            theirs[1] = own.median_pstar / own.scratch_row.median_pstar
            theirs[2] = own.scratch_row.train_seconds / own.train_seconds
        retention.append(_Point(k, median_ratio(model, source_model(group, model)), None, theirs[0]))
        relative.append(_Point(k, median_ratio(model, scratch), None, theirs[1]))
        faster.append(_Point(k, None, speed_up(scratch, [model]), theirs[2]))
    return _Line(answer.line, colour(answer.models[0].rows[0]), (retention, relative, faster))


def _reach(points: Sequence[_Point]) -> float:
    """How high the axis must reach: intervals may go on past it, figures not."""
    shown = [point.ratio for point in points if point.ratio]
    ends = [min(ratio.high, 1.3 * ratio.value) if math.isfinite(ratio.high) else ratio.value for ratio in shown]
    values = [value for ratio in shown for value in ratio.seeds.values]
    return max([*ends, *values, *(point.published for point in points if point.published)], default=1.0)


def _ratios(axes: Axes, points: Sequence[_Point], ink: str, shift: float, top: float) -> None:
    """Ratios with their intervals on an axis that ends at ``top``."""
    shown = [(point.k + shift, point.ratio) for point in points if point.ratio]
    if shown:
        axes.plot(*zip(*((k, ratio.value) for k, ratio in shown), strict=True), "-", color=ink, linewidth=1.2)
    for k, ratio in shown:
        if ratio.high > top:
            arrow_to_edge(axes, (k, ratio.value), "top", ink)
        ends = error_bars(ratio.value, ratio.low, ratio.high if ratio.high <= top else ratio.value)
        look: dict[str, Any] = {
            "color": ink,
            "markerfacecolor": ink if ratio.relation == "=" else "white",
            "markersize": 6,
        }
        axes.errorbar(k, ratio.value, yerr=ends, fmt={"=": "o", "<": "v", ">": "^"}[ratio.relation], capsize=3, **look)
        crosses(axes, [k + 0.16] * ratio.seeds.count, ratio.seeds.values, ink)
    _published_line(axes, points, ink)


def _factors(axes: Axes, points: Sequence[_Point], ink: str, shift: float) -> None:
    shown = [(point.k + shift, point.factor) for point in points if point.factor]
    if shown:
        axes.plot(*zip(*((k, found.value) for k, found in shown), strict=True), "o-", color=ink, markersize=6)
    for k, found in shown:
        crosses(axes, [k + 0.16] * found.count, found.values, ink)
    _published_line(axes, points, ink)


def _published_line(axes: Axes, points: Sequence[_Point], ink: str) -> None:
    theirs = [(point.k, point.published) for point in points if point.published is not None]
    if theirs:
        axes.plot(*zip(*theirs, strict=True), "o--", color=ink, fillstyle="none", alpha=0.75, linewidth=0.9)
