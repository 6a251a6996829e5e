"""Training seconds on a log axis: figures 6.6, 6.7 and 6.9 of the thesis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from robbench.report import drawing
from robbench.report.answers import scratch_model
from robbench.report.comparisons import speed_up
from robbench.report.markdown import seconds as show_seconds
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of


def draw_seconds(group: Group) -> bytes:
    """Training seconds on a log axis, values and speed-ups written beside them; no bars: a log axis has no zero."""
    models = [model for model in models_of(group.rows) if model.seconds]
    theirs = {line: model.published.train_seconds for line, model in enumerate(models) if model.published}
    seeds = [seconds for model in models for row in model.rows if (seconds := row.seconds)]
    totals = [model.value(lambda row: row.total_seconds) or 0.0 for model in models]
    name = drawing.title(group, f"training time on {_machines(models)}")
    with drawing.canvas(9.6, 1.6 + 0.34 * len(models), name) as figure:
        axes = figure.subplots()
        for line, model in enumerate(models):
            _model(axes, line, group, model)
        if len(group.seeds) > 1:
            axes.plot([], [], color="black", linewidth=1.2, label="from the fastest to the slowest seed")
        ink: dict[str, Any] = {"color": "black", "linestyle": "none", "fillstyle": "none"}
        axes.plot(totals, range(len(models)), "|", markersize=15, label="with validation, warm-up, I/O", **ink)
        if theirs:
            axes.plot([*theirs.values()], [*theirs], "D", markersize=7, label="published (NVIDIA L4)", **ink)
        _log(axes, [*seeds, *totals, *theirs.values()])
        axes.set_yticks(range(len(models)), [model.label for model in models])
        axes.set_ylim(len(models) - 0.4, -0.6)
        drawing.legend_below(figure, axes.get_legend_handles_labels()[0], 3)
        return drawing.png(figure)


def _model(axes: Axes, line: int, group: Group, model: Model) -> None:
    axes.axhline(line, color="#dddddd", linewidth=0.8, zorder=0)
    axes.plot(model.seconds or 0.0, line, "o", color=drawing.colour(model.rows[0]), markersize=9)
    found = model.spread(lambda row: row.seconds)
    if found and found.count > 1:
        ends = drawing.error_bars(found.value, found.low, found.high)
        axes.errorbar(found.value, line, xerr=ends, color="black", linewidth=1.2)
    factor = speed_up(scratch_model(group, model.facts.dataset, "pgd"), [model]) if model.facts.k else None
    text = f"{show_seconds(model.seconds)} s"
    text += f", speed-up × {factor.value:.3g}" if factor else ""
    text += f"; published {model.published.train_seconds:,.0f} s" if model.published else ""
    drawing.beside(axes, text, line, fontsize=9)


def _machines(models: Iterable[Model]) -> str:
    return ", ".join(sorted({row.trained.environment.slug for model in models for row in model.rows if row.trained}))


def _log(axes: Axes, seconds: Sequence[float]) -> None:
    """A log axis with a tick at every power of ten, and at 2 and 5 where it spans little."""
    low, high = min(seconds) / 2, max(seconds) * 2
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    if math.log10(high / low) < 3.2:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training seconds (log scale)")
    drawing.tidy(axes, grid="x")


def draw_study_seconds(groups: Sequence[Group]) -> bytes:
    """Seconds of the models from scratch and of each kind of transfer, a block of lines per architecture."""
    lines: list[tuple[float, str, list[Model]]] = []
    ticks: dict[str, float] = {}
    height = 0.0
    for group in groups:
        if kinds := _kinds(group):
            lines += [(height + at, name, models) for at, (name, models) in enumerate(kinds)]
            ticks[group.architecture] = height + (len(kinds) - 1) / 2
            height += len(kinds) + 0.8
    models = [model for _, _, own in lines for model in own]
    theirs = [model.published.train_seconds for model in models if model.published]
    name = drawing.study_title(groups, f"training time on {_machines(models)}")
    with drawing.canvas(9.6, 1.9 + 0.27 * height, name) as figure:
        axes = figure.subplots()
        for line in lines:
            _kind(axes, *line)
        _log(axes, [*(model.seconds or 0.0 for model in models), *theirs])
        axes.set_yticks([*ticks.values()], [*ticks])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(height - 0.8, -0.8)
        if theirs:
            look: dict[str, Any] = {"marker": "D", "fillstyle": "none", "linestyle": "none"}
            drawing.legend_below(figure, [Line2D([], [], color="#555555", label="published (NVIDIA L4)", **look)])
        return drawing.png(figure)


def _kinds(group: Group) -> list[tuple[str, list[Model]]]:
    """Each model from scratch by itself, then all models of each kind of transfer."""
    scratch = [(model.label, [model]) for model in models_of(group.of(None)) if model.seconds]
    transfers = [(line, [model for model in models_of(group.of(line)) if model.seconds]) for line in group.lines]
    return [*scratch, *((line, models) for line, models in transfers if models)]


def _kind(axes: Axes, height: float, name: str, models: Sequence[Model]) -> None:
    seconds, ink = [model.seconds or 0.0 for model in models], drawing.colour(models[0].rows[0])
    mean = statistics.mean(seconds)
    ends = drawing.error_bars(mean, min(seconds), max(seconds))
    axes.errorbar(mean, height, xerr=ends, fmt="o", color=ink, markersize=6)
    text = f"{name}: {show_seconds(mean)} s" + (f" (mean of {len(seconds)})" if len(seconds) > 1 else "")
    drawing.beside(axes, text, height, fontsize=8, color=ink)
    if theirs := [model.published.train_seconds for model in models if model.published]:
        axes.plot(statistics.mean(theirs), height, "D", color=ink, fillstyle="none", markersize=7)
