"""Training seconds on a log axis: figures 6.6, 6.7 and 6.9 of the thesis."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from robbench.report.answers import scratch_model, speed_up
from robbench.report.drawing import canvas, colour, error_bars, png, study_title, tidy, title
from robbench.report.markdown import seconds as show_seconds
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of

_INK: dict[str, Any] = {"color": "black", "linestyle": "none", "fillstyle": "none"}


def draw_seconds(group: Group) -> bytes:
    """Training seconds on a log axis, values and speed-ups written beside them; no bars: a log axis has no zero."""
    models = [model for model in models_of(group.rows) if model.seconds]
    theirs = {place: model.published.train_seconds for place, model in enumerate(models) if model.published}
    with canvas(9.6, 1.6 + 0.34 * len(models)) as figure:
        axes = figure.subplots()
        places = range(len(models))
        seeds = [seconds for model in models for row in model.rows if (seconds := row.seconds)]
        totals = [model.value(lambda row: row.total_seconds) or 0.0 for model in models]
        for place, model in enumerate(models):
            axes.axhline(place, color="#dddddd", linewidth=0.8, zorder=0)
            axes.plot(model.seconds or 0.0, place, "o", color=colour(model.rows[0]), markersize=9)
            found = model.spread(lambda row: row.seconds)
            if found and found.count > 1:
                ends = error_bars(found.value, found.low, found.high)
                axes.errorbar(found.value, place, xerr=ends, color="black", linewidth=1.2)
            axes.annotate(
                _text(group, model),
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=9,
                annotation_clip=False,
            )
        if len(group.seeds) > 1:
            axes.plot([], [], color="black", linewidth=1.2, label="from the fastest to the slowest seed")
        axes.plot(totals, places, "|", markersize=15, label="with validation, warm-up, I/O", **_INK)
        if theirs:
            axes.plot([*theirs.values()], [*theirs], "D", markersize=7, label="published (NVIDIA L4)", **_INK)
        _log(axes, min([*seeds, *theirs.values()]), max(*totals, *theirs.values(), *seeds))
        axes.set_yticks(places, [model.label for model in models])
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.set_xlabel("training seconds (log scale)")
        tidy(axes, grid="x")
        machines = sorted({row.trained.environment.slug for model in models for row in model.rows if row.trained})
        figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=3)
        figure.suptitle(title(group, f"training time on {', '.join(machines)}"), fontweight="bold")
        return png(figure)


def _log(axes: Axes, low: float, high: float) -> None:
    """A log axis with a tick at every power of ten, and at 2 and 5 where it spans little."""
    low, high = low / 2, high * 2
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    if math.log10(high / low) < 3.2:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _text(group: Group, model: Model) -> str:
    factor = speed_up(scratch_model(group, model.facts.dataset, "pgd"), [model]) if model.facts.k else None
    return "".join(
        [
            f"{show_seconds(model.seconds)} s",
            f", speed-up × {factor.value:.3g}" if factor else "",
            f"; published {model.published.train_seconds:,.0f} s" if model.published else "",
        ]
    )


def draw_study_seconds(groups: Sequence[Group]) -> bytes:
    """Seconds of the models from scratch and of each kind of transfer, a block of lines per architecture."""
    kinds: dict[str, tuple[float, str]] = {}
    entries: list[tuple[float, list[Model], str]] = []
    ticks: list[tuple[float, str]] = []
    place = 0.0
    for group in groups:
        first = place
        for line in (None, *group.lines):
            models = [model for model in models_of(group.of(line)) if model.seconds]
            for shown in [[model] for model in models] if line is None else [models] if models else []:
                entries.append((place, shown, line or shown[0].label))
                place += 1
        if place > first:
            ticks.append(((first + place - 1) / 2, group.architecture))
            place += 0.8
    with canvas(9.6, 1.9 + 0.27 * place) as figure:
        axes = figure.subplots()
        values: list[float] = []
        for at, models, name in entries:
            seconds = [model.seconds or 0.0 for model in models]
            theirs = [model.published.train_seconds for model in models if model.published]
            ink, mean = colour(models[0].rows[0]), statistics.mean(seconds)
            kinds.setdefault(name, (at, ink))
            axes.errorbar(mean, at, xerr=error_bars(mean, min(seconds), max(seconds)), fmt="o", color=ink, markersize=6)
            axes.annotate(
                f"{name}: {show_seconds(mean)} s" + (f" (mean of {len(seconds)})" if len(seconds) > 1 else ""),
                (1.01, at),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                color=ink,
                annotation_clip=False,
            )
            values += seconds
            if theirs:
                values += theirs
                axes.plot(statistics.mean(theirs), at, "D", color=ink, fillstyle="none", markersize=7)
        _log(axes, min(values), max(values))
        axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(place - 0.8, -0.8)
        axes.set_xlabel("training seconds (log scale)")
        tidy(axes, grid="x")
        if any(model.published for _, models, _ in entries for model in models):
            handle = Line2D([], [], marker="D", color="#555555", fillstyle="none", linestyle="none")
            figure.legend([handle], ["published (NVIDIA L4)"], loc="outside lower center", frameon=False, fontsize=9)
        rows = [row for _, models, _ in entries for model in models for row in model.rows if row.trained]
        machines = sorted({row.trained.environment.slug for row in rows if row.trained})
        figure.suptitle(study_title(groups, f"training time on {', '.join(machines)}"), fontweight="bold")
        return png(figure)
