"""Figures with their intervals as dots: the answers to the three questions by k, and an ablation's changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from robbench.gate.verdicts import CONFIDENCE
from robbench.report.ablation import Effect, effects
from robbench.report.answers import Answer, Ratio, answers, median_ratio, scratch_model, source_model, speed_up
from robbench.report.drawing import UNITS, arrow_to_edge, canvas, colour, error_bars, png, tidy, title
from robbench.report.published import Published, published_rows
from robbench.report.rows import Group
from robbench.report.seeds import Model, Spread


@dataclass(frozen=True)
class _Point:
    k: int
    ratio: Ratio | None
    published: float | None
    spread: Spread | None = None


@dataclass(frozen=True)
class _Line:
    """A kind of transfer in the three panels."""

    name: str
    ink: str
    ratios: tuple[list[_Point], list[_Point]]
    factors: list[_Point]


def draw_answers(group: Group) -> bytes:
    """Three panels over k: retention, relative robustness, speed-up; a line per kind of transfer."""
    found = answers(group)
    with canvas(13.2, 4.4) as figure:
        panels = figure.subplots(1, 3)
        lines = [_line(group, answer) for answer in found]
        top = 1.08 * max([1.0, *(_reach(points) for line in lines for points in line.ratios)])
        for number, line in enumerate(lines):
            shift = min(0.12, 0.5 / len(lines)) * (number - (len(lines) - 1) / 2)
            for panel, points in zip(panels[:2], line.ratios, strict=True):
                _ratios(panel, points, line.ink, shift, top)
            _factors(panels[2], line.factors, line.ink, shift)
        names = (
            "1. median p* ÷ that of the source\n(retention)",
            "2. median p* ÷ that from scratch\n(relative robustness)",
            "3. times faster than adversarial\ntraining from scratch",
        )
        ks = sorted({model.facts.k for answer in found for model in answer.models if model.facts.k})
        for panel, name in zip(panels, names, strict=True):
            panel.set_title(name, fontsize=11)
            panel.set_xlabel("k (blocks retrained)")
            panel.set_xticks(ks)
            panel.set_xlim(ks[0] - 0.5, ks[-1] + 0.5)
            panel.axhline(1.0, color="#777777", linewidth=0.9, linestyle=":")
            tidy(panel)
            if not panel.lines[1:] and not panel.containers:
                panel.text(0.5, 0.5, "not run", transform=panel.transAxes, ha="center", color="#777777")
        for panel in panels[:2]:
            panel.set_ylim(0, top)
            panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        panels[2].set_yscale("log")
        panels[2].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panels[2].yaxis.set_minor_formatter(NullFormatter())
        panels[2].yaxis.set_major_formatter(lambda factor, _: f"× {factor:g}")
        handles = _handles(lines, top, seeds=len(group.seeds))
        figure.legend(handles=handles, loc="outside lower center", frameon=False, ncols=5, fontsize=9)
        figure.suptitle(title(group, f"the three questions, {CONFIDENCE:.0%} intervals over images"), fontweight="bold")
        return png(figure)


def _handles(lines: Sequence[_Line], top: float, *, seeds: int) -> list[Line2D]:
    """Legend entries of what there is to see."""
    points = [point for line in lines for points in (*line.ratios, line.factors) for point in points]
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
    models = [model for model in answer.models if model.facts.k]
    ratios = _retention(group, models), _relative(group, models)
    return _Line(answer.line, colour(models[0].rows[0]), ratios, _faster(group, models))


def _retention(group: Group, models: Sequence[Model]) -> list[_Point]:
    return [
        _Point(
            model.facts.k or 0, median_ratio(model, source_model(group, model)), _published_ratio(model, source=True)
        )
        for model in models
    ]


def _relative(group: Group, models: Sequence[Model]) -> list[_Point]:
    scratch = scratch_model(group, models[0].facts.dataset, "pgd")
    return [
        _Point(model.facts.k or 0, median_ratio(model, scratch), _published_ratio(model, source=False))
        for model in models
    ]


def _faster(group: Group, models: Sequence[Model]) -> list[_Point]:
    scratch = scratch_model(group, models[0].facts.dataset, "pgd")
    points = []
    for model in models:
        theirs = _published_scratch(model, source=False)
        factor = theirs.train_seconds / model.published.train_seconds if theirs and model.published else None
        points.append(_Point(model.facts.k or 0, None, factor, speed_up(scratch, [model])))
    return points


def _published_scratch(model: Model, *, source: bool) -> Published | None:
    """The published adversarially trained model of the source or of the target data."""
    own = model.published
    if own is None:
        return None
    key = own.architecture, "pgd", own.source if source else own.dataset
    return next((row for row in published_rows() if (row.architecture, row.method, row.dataset) == key), None)


def _published_ratio(model: Model, *, source: bool) -> float | None:
    theirs = _published_scratch(model, source=source)
    return model.published.median_pstar / theirs.median_pstar if theirs and model.published else None


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
        marker = {"=": "o", "<": "v", ">": "^"}[ratio.relation]
        if ratio.high > top:
            arrow_to_edge(axes, (k, ratio.value), "top", ink)
        high = ratio.high if ratio.high <= top else ratio.value
        fill = ink if ratio.relation == "=" else "white"
        axes.errorbar(
            k,
            ratio.value,
            yerr=error_bars(ratio.value, ratio.low, high),
            fmt=marker,
            color=ink,
            markerfacecolor=fill,
            markersize=6,
            capsize=3,
        )
        _seeds(axes, [k + 0.16] * ratio.seeds.count, ratio.seeds.values, ink)
    _published_line(axes, points, ink)


def _factors(axes: Axes, points: Sequence[_Point], ink: str, shift: float) -> None:
    shown = [(point.k + shift, point.spread) for point in points if point.spread]
    if shown:
        axes.plot(*zip(*((k, found.value) for k, found in shown), strict=True), "o-", color=ink, markersize=6)
    for k, found in shown:
        _seeds(axes, [k + 0.16] * found.count, found.values, ink)
    _published_line(axes, points, ink)


def _published_line(axes: Axes, points: Sequence[_Point], ink: str) -> None:
    theirs = [(point.k, point.published) for point in points if point.published is not None]
    if theirs:
        axes.plot(*zip(*theirs, strict=True), "o--", color=ink, fillstyle="none", alpha=0.75, linewidth=0.9)


def draw_ablation(group: Group) -> bytes:
    """Change of median p* per field and model, with its interval; past the grid's end, an arrowhead at the edge."""
    found = [effect for effect in effects(group) if effect.median and not math.isnan(effect.median.value)]
    fields = [*dict.fromkeys(effect.field for effect in found)]
    places = _places(found)
    with canvas(9.0, 1.7 + 0.36 * (max(places, default=0) + 1)) as figure:
        axes = figure.subplots()
        axes.axvline(0.0, color="#777777", linewidth=1.0)
        for place, effect in zip(places, found, strict=True):
            _effect(axes, place, effect)
        axes.set_yticks(places, [effect.varied.label for effect in found])
        for field in fields:
            own = [place for place, effect in zip(places, found, strict=True) if effect.field == field]
            axes.annotate(
                field,
                (1.01, sum(own) / len(own)),
                xycoords=("axes fraction", "data"),
                va="center",
                fontweight="bold",
                annotation_clip=False,
            )
            if min(own) > 0:
                axes.axhline(min(own) - 0.75, color="#BBBBBB", linewidth=0.8)
        if places:
            axes.set_ylim(max(places) + 0.6, -0.6)
        else:
            axes.text(0.5, 0.5, "no model to compare with", transform=axes.transAxes, ha="center")
        axes.set_xlabel(f"change of median p* ({UNITS})")
        tidy(axes, grid="x")
        figure.suptitle(title(group, "one field as in the published code"), fontweight="bold")
        return png(figure)


def _places(found: Sequence[Effect]) -> list[float]:
    """A line each, half a line between fields."""
    places: list[float] = []
    for at, effect in enumerate(found):
        gap = 1.5 if at and found[at - 1].field != effect.field else 1.0
        places.append(places[-1] + gap if places else 0.0)
    return places


def _effect(axes: Axes, place: float, effect: Effect) -> None:
    change, ink = effect.median, colour(effect.varied.rows[0])
    assert change is not None
    if math.isinf(change.value):
        edge, marker = (1.0, ">") if change.value > 0 else (0.0, "<")
        fill = ink if "median p*" in effect.moved else "white"
        axes.plot(
            edge,
            place,
            marker,
            color=ink,
            markerfacecolor=fill,
            markersize=9,
            clip_on=False,
            transform=axes.get_yaxis_transform(),
        )
        return
    low, high = (end if math.isfinite(end) else change.value for end in (change.low, change.high))
    if change.low == -math.inf:
        arrow_to_edge(axes, (change.value, place), "left", ink)
    if change.high == math.inf:
        arrow_to_edge(axes, (change.value, place), "right", ink)
    fill = ink if "median p*" in effect.moved else "white"
    axes.errorbar(
        change.value,
        place,
        xerr=error_bars(change.value, low, high),
        fmt="o",
        color=ink,
        markerfacecolor=fill,
        markersize=7,
        capsize=3,
    )
    _seeds(axes, change.seeds.values, [place] * change.seeds.count, ink)


def _seeds(axes: Axes, across: Sequence[float], up: Sequence[float], ink: str) -> None:
    """A cross per seed where there are several."""
    if len(across) > 1:
        axes.plot(across, up, "x", color=ink, markersize=5, alpha=0.8)
