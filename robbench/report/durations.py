"""Training seconds on a log axis: figures 6.6, 6.7 and 6.9 of the thesis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from robbench.report.answers import scratch_model
from robbench.report.comparisons import speed_up
from robbench.report.drawing import canvas, colour, error_bars, png, study_title, tidy, title
from robbench.report.markdown import seconds as show_seconds
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of

_INK: dict[str, Any] = {"color": "black", "linestyle": "none", "fillstyle": "none"}
_BESIDE: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}


def draw_seconds(group: Group) -> bytes:
    """Training seconds on a log axis, values and speed-ups written beside them; no bars: a log axis has no zero."""
    models = [model for model in models_of(group.rows) if model.seconds]
    theirs = {line: model.published.train_seconds for line, model in enumerate(models) if model.published}
    seeds = [seconds for model in models for row in model.rows if (seconds := row.seconds)]
    totals = [model.value(lambda row: row.total_seconds) or 0.0 for model in models]
    with canvas(9.6, 1.6 + 0.34 * len(models)) as figure:
        axes = figure.subplots()
        for line, model in enumerate(models):
            _model(axes, line, group, model)
        if len(group.seeds) > 1:
            axes.plot([], [], color="black", linewidth=1.2, label="from the fastest to the slowest seed")
        axes.plot(totals, range(len(models)), "|", markersize=15, label="with validation, warm-up, I/O", **_INK)
        if theirs:
            axes.plot([*theirs.values()], [*theirs], "D", markersize=7, label="published (NVIDIA L4)", **_INK)
        _log(axes, min([*seeds, *theirs.values()]), max(*totals, *theirs.values(), *seeds))
        axes.set_yticks(range(len(models)), [model.label for model in models])
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.set_xlabel("training seconds (log scale)")
        tidy(axes, grid="x")
        figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=3)
        figure.suptitle(title(group, f"training time on {_machines(models)}"), fontweight="bold")
        return png(figure)


def _model(axes: Axes, line: int, group: Group, model: Model) -> None:
    axes.axhline(line, color="#dddddd", linewidth=0.8, zorder=0)
    axes.plot(model.seconds or 0.0, line, "o", color=colour(model.rows[0]), markersize=9)
    found = model.spread(lambda row: row.seconds)
    if found and found.count > 1:
        ends = error_bars(found.value, found.low, found.high)
        axes.errorbar(found.value, line, xerr=ends, color="black", linewidth=1.2)
    factor = speed_up(scratch_model(group, model.facts.dataset, "pgd"), [model]) if model.facts.k else None
    text = f"{show_seconds(model.seconds)} s"
    text += f", speed-up × {factor.value:.3g}" if factor else ""
    text += f"; published {model.published.train_seconds:,.0f} s" if model.published else ""
    axes.annotate(text, (1.01, line), fontsize=9, **_BESIDE)


def _machines(models: Iterable[Model]) -> str:
    return ", ".join(sorted({row.trained.environment.slug for model in models for row in model.rows if row.trained}))


def _log(axes: Axes, low: float, high: float) -> None:
    """A log axis with a tick at every power of ten, and at 2 and 5 where it spans little."""
    low, high = low / 2, high * 2
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    if math.log10(high / low) < 3.2:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


@dataclass(frozen=True)
class _Entry:
    """A model from scratch, or all models of a kind of transfer, on a line of the study's picture."""

    height: float
    name: str
    models: list[Model]

    @property
    def seconds(self) -> list[float]:
        return [model.seconds or 0.0 for model in self.models]

    @property
    def published(self) -> list[float]:
        return [model.published.train_seconds for model in self.models if model.published]


def draw_study_seconds(groups: Sequence[Group]) -> bytes:
    """Seconds of the models from scratch and of each kind of transfer, a block of lines per architecture."""
    entries: list[_Entry] = []
    ticks: dict[str, float] = {}
    height = 0.0
    for group in groups:
        first = height
        for name, models in _kinds(group):
            entries.append(_Entry(height, name, models))
            height += 1
        if height > first:
            ticks[group.architecture] = (first + height - 1) / 2
            height += 0.8
    values = [value for entry in entries for value in (*entry.seconds, *entry.published)]
    with canvas(9.6, 1.9 + 0.27 * height) as figure:
        axes = figure.subplots()
        for entry in entries:
            _entry(axes, entry)
        _log(axes, min(values), max(values))
        axes.set_yticks([*ticks.values()], [*ticks])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(height - 0.8, -0.8)
        axes.set_xlabel("training seconds (log scale)")
        tidy(axes, grid="x")
        if any(entry.published for entry in entries):
            handle = Line2D([], [], marker="D", color="#555555", fillstyle="none", linestyle="none")
            figure.legend([handle], ["published (NVIDIA L4)"], loc="outside lower center", frameon=False, fontsize=9)
        machines = _machines(model for entry in entries for model in entry.models)
        figure.suptitle(study_title(groups, f"training time on {machines}"), fontweight="bold")
        return png(figure)


def _kinds(group: Group) -> Iterable[tuple[str, list[Model]]]:
    """Each model from scratch by itself, then the kinds of transfer."""
    for line in (None, *group.lines):
        models = [model for model in models_of(group.of(line)) if model.seconds]
        if line is None:
            yield from ((model.label, [model]) for model in models)
        elif models:
            yield line, models


def _entry(axes: Axes, entry: _Entry) -> None:
    seconds, ink = entry.seconds, colour(entry.models[0].rows[0])
    mean = statistics.mean(seconds)
    ends = error_bars(mean, min(seconds), max(seconds))
    axes.errorbar(mean, entry.height, xerr=ends, fmt="o", color=ink, markersize=6)
    text = f"{entry.name}: {show_seconds(mean)} s" + (f" (mean of {len(seconds)})" if len(seconds) > 1 else "")
    axes.annotate(text, (1.01, entry.height), fontsize=8, color=ink, **_BESIDE)
    if entry.published:
        mean = statistics.mean(entry.published)
        axes.plot(mean, entry.height, "D", color=ink, fillstyle="none", markersize=7)
