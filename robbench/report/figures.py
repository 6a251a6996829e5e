"""The four figures of an architecture: box plots of p*, ECDFs, median p* over accuracy, training seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from robbench.report.answers import speed_up
from robbench.report.boxes import draw_boxes
from robbench.report.drawing import NEVER, Picture, canvas, colour, file_name, place_labels, png, tidy, title
from robbench.report.markdown import seconds as show_seconds
from robbench.report.rows import Group, Row


def draw(group: Group) -> list[Picture]:
    """Every figure that the group's records allow, for each seed."""
    pictures = []
    for seed in group.seeds:
        models = group.seed(seed)
        end = f"seed{seed}" if len(group.seeds) > 1 else ""
        tested = [row for row in models.rows if row.robustness and row.robustness.pstar]
        drawings: list[tuple[str, str, str, Callable[[], bytes]]] = []
        if tested:
            drawings += [
                (
                    "pstar",
                    "box plots of p* and clean accuracy per model",
                    "Clean accuracy, and p* of the correct images: box from the 25th to the 75th percentile, line at the "
                    "median, whiskers from the 12.5th to the 87.5th (75% of the images); values in the hatched band were "
                    f"{NEVER} inside the grid, their share is written there; the axis ends above the highest whisker",
                    lambda models=models: draw_boxes(models),  # type: ignore[misc]
                )
            ]
        if any(_correct(row) for row in tested):
            drawings += [
                (
                    "ecdf",
                    "share of correct images fooled by perturbation radius",
                    "Share of the correctly classified images that the attack fools at radius ε or less; what is missing "
                    f"to 100% at the right edge was {NEVER}",
                    lambda models=models: draw_ecdf(models),  # type: ignore[misc]
                ),
                (
                    "tradeoff",
                    "median p* over clean accuracy",
                    "Median p* over clean accuracy; numbers are k, the blocks retrained; hollow, dashed: published",
                    lambda models=models: draw_tradeoff(models),  # type: ignore[misc]
                ),
            ]
        if any(row.seconds for row in models.rows):
            drawings += [
                (
                    "seconds",
                    "training seconds per model",
                    "Training seconds on a log axis, with the speed-up over adversarial training of the target from "
                    "scratch; the tick adds validation, warm-up and I/O, which is what published seconds span",
                    lambda models=models: draw_seconds(models),  # type: ignore[misc]
                )
            ]
        for kind, alt, caption, picture in drawings:
            about = f"{group.architecture}{', ' + end if end else ''} ({group.suite})"
            name = file_name(group.suite, group.architecture, end, kind)
            pictures.append(Picture(name, f"{about}: {alt}", f"{about}. {caption}.", picture()))
    return pictures


def _correct(row: Row) -> int:
    return row.robustness.clean.correct if row.robustness else 0


def draw_ecdf(group: Group) -> bytes:
    """Empirical distribution functions of p*: one panel per kind of transfer, the from-scratch models in each."""
    lines = group.lines or (None,)
    across = min(2, len(lines))
    down = math.ceil(len(lines) / across)
    end = max(row.robustness.grid[-1] for row in group.rows if row.robustness)
    with canvas(7.4 * across, 4.6 * down) as figure:
        panels = np.atleast_1d(np.array(figure.subplots(down, across, sharex=True, sharey=True))).ravel()
        for panel, line in zip(panels, lines, strict=False):
            for row in group.of(None):
                _ecdf(panel, row, colour(row), "--" if _is_source(group, row) else "-", 2.0)
            shown = group.of(line) if line else ()
            for row, shade in zip(shown, np.linspace(0.0, 0.92, max(len(shown), 2)), strict=False):
                _ecdf(panel, row, colormaps["viridis"](shade), "-", 1.4)
            panel.axhline(0.5, color="#777777", linewidth=0.9, linestyle=":", label="half of them: the median")
            panel.set(xlim=(0, 1.02 * end), ylim=(0, 1.02), title=line or "trained from scratch")
            panel.xaxis.set_tick_params(labelbottom=True)
            panel.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
            panel.set_xlabel("perturbation radius ε (L∞, pixel units)")
            panel.set_ylabel("correct images fooled at ≤ ε")
            tidy(panel, grid="both")
            panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
        for panel in panels[len(lines) :]:
            panel.set_visible(False)
        figure.suptitle(title(group, "distribution of p*"), fontweight="bold")
        return png(figure)


def _ecdf(axes: Axes, row: Row, ink: object, style: str, width: float) -> None:
    if row.robustness is None or not _correct(row):
        return
    counts = row.robustness.distribution()
    shares = counts[:-1].cumsum() / counts.sum()
    axes.step(row.robustness.grid, shares, where="post", color=ink, linestyle=style, linewidth=width, label=row.label)


def _is_source(group: Group, row: Row) -> bool:
    return row.facts.dataset in {other.facts.source for other in group.rows}


def draw_tradeoff(group: Group) -> bytes:
    """Median p* over clean accuracy, transfers joined in order of k."""
    tested = [row for row in group.rows if row.robustness and row.median is not None]
    end = max(row.robustness.grid[-1] for row in tested if row.robustness)
    censored = any(math.isinf(row.median or 0) for row in tested)
    past = 1.06 * end
    with canvas(9.0, 5.4) as figure:
        axes = figure.subplots()
        labels = []
        for line in (None, *group.lines):
            rows = [row for row in tested if row.line == line]
            places = [((row.accuracy or 0) * 100, min(row.median or 0, past)) for row in rows]
            if line and rows:
                ink = colour(rows[0])
                axes.plot(*zip(*places, strict=True), "o-", color=ink, markersize=7, linewidth=1.3, label=line)
                labels += [(*at, str(row.facts.k), ink) for at, row in zip(places, rows, strict=True)]
            for at, row in zip(places, rows, strict=True):
                if line is None:
                    marker = "^" if _is_source(group, row) else "s"
                    axes.plot(*at, marker, color=colour(row), markersize=10, label=row.label, linestyle="none")
            _published(axes, group, [row for row in group.rows if row.line == line], line)
        if censored:
            axes.axhspan(1.01 * end, 1.12 * end, facecolor="#F4F4F4", edgecolor="#CCCCCC", hatch="////", linewidth=0)
            ticks = [
                float(tick) for tick in MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(0, end) if tick <= end
            ]
            axes.set_yticks([*ticks, past], [*(f"{tick:.4g}" for tick in ticks), NEVER])
        axes.set_ylim(0, 1.12 * end if censored else None)
        axes.margins(x=0.08)
        axes.set(xlabel="clean accuracy (%)", ylabel="median p* (L∞, pixel units)")
        tidy(axes, grid="both")
        handles, names = axes.get_legend_handles_labels()
        if any(row.published for row in group.rows):
            handles.append(Line2D([], [], marker="o", color="#555555", fillstyle="none", linestyle="--"))
            names.append("published (hollow)")
        axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)
        figure.suptitle(title(group, "median p* over clean accuracy"), fontweight="bold")
        place_labels(figure, axes, labels)
        return png(figure)


def _published(axes: Axes, group: Group, rows: Sequence[Row], line: str | None) -> None:
    """Hollow markers at the published figures."""
    found = [(row, row.published) for row in rows if row.published]
    places = [(theirs.accuracy * 100, theirs.median_pstar) for _, theirs in found if theirs]
    if line and places:
        ink = colour(found[0][0])
        axes.plot(*zip(*places, strict=True), "o--", color=ink, fillstyle="none", alpha=0.75, linewidth=0.9)
        return
    for at, (row, _) in zip(places, found, strict=True):
        axes.plot(*at, "^" if _is_source(group, row) else "s", color=colour(row), fillstyle="none", markersize=10)


def draw_seconds(group: Group) -> bytes:
    """Training seconds as bars on a log axis, values and speed-ups written beside them."""
    rows = [row for row in group.rows if row.seconds]
    theirs = {row.case: row.published.train_seconds for row in rows if row.published}
    totals = [row.total_seconds or 0 for row in rows]
    with canvas(9.6, 1.6 + 0.34 * len(rows)) as figure:
        axes = figure.subplots()
        places = range(len(rows))
        measured = [row.seconds or 0 for row in rows]
        axes.barh(places, measured, color=[colour(row) for row in rows], height=0.68)
        ink: dict[str, Any] = {"color": "black", "linestyle": "none", "fillstyle": "none"}
        axes.plot(totals, places, "|", markersize=11, label="with validation, warm-up, I/O", **ink)
        shown = [(theirs[row.case], place) for place, row in enumerate(rows) if row.case in theirs]
        if shown:
            axes.plot(*zip(*shown, strict=True), "D", markersize=7, label="published (NVIDIA L4)", **ink)
        axes.set_xscale("log")
        low, high = min(measured), max(*totals, *theirs.values(), *measured)
        axes.set_xlim(low / 3, high * 2)
        axes.set_yticks(places, [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        for place, row in zip(places, rows, strict=True):
            axes.annotate(
                _seconds_text(group, row, theirs.get(row.case)),
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=9,
                annotation_clip=False,
            )
        axes.set_xlabel("training seconds (log scale)")
        tidy(axes, grid="x")
        machines = sorted({row.trained.environment.slug for row in rows if row.trained})
        figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=2)
        figure.suptitle(title(group, f"training time on {', '.join(machines)}"), fontweight="bold")
        return png(figure)


def _seconds_text(group: Group, row: Row, published: float | None) -> str:
    scratch = next(
        (r for r in group.of(None) if r.facts.method == "pgd" and r.facts.dataset == row.facts.dataset), None
    )
    factor = speed_up(scratch, [row]) if row.facts.k else None
    return "".join(
        [
            f"{show_seconds(row.seconds)} s",
            f", speed-up × {factor:.3g}" if factor else "",
            f"; published {published:,.0f} s" if published else "",
        ]
    )
