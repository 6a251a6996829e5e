"""Pictures of the performance report: p* over passes, and how time grows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from suites.perf.tables import Measurement, milliseconds

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6B6B6B", "#E69F00")
MARKERS = ("o", "*", "s", "^", "D", "v")


def draw_quality(members: Sequence[Measurement], path: Path) -> None:
    """Median p* over passes for each image, one panel a network."""
    figure, panels = _panels([member["case"] for member in members], width=4.6)
    methods = list(dict.fromkeys(point["method"] for member in members for point in member["quality"]))
    for axes, member in zip(panels, members, strict=True):
        for method, colour, marker in zip(methods, cycle(COLOURS), cycle(MARKERS), strict=False):
            points = [point for point in member["quality"] if point["method"] == method]
            line = sorted((p["passes_per_image"], p["median_pstar"]) for p in points if p["median_pstar"] is not None)
            size = 13 if marker == "*" else 6
            axes.plot([x for x, _ in line], [y for _, y in line], color=colour, marker=marker, ms=size, label=method)
        axes.set(xlabel="forward passes an image", ylabel="median p*", title=member["case"])
        _logarithmic(axes)
    _save(figure, path)


def draw_growth(members: Sequence[Measurement], path: Path) -> None:
    """Seconds over images, grid points and depth, one panel each."""
    names = list(dict.fromkeys(member["axis"] for member in members))
    searches = list(dict.fromkeys(member["search"] for member in members))
    figure, panels = _panels(names, width=3.4)
    for axes, name in zip(panels, names, strict=True):
        for search, colour, marker in zip(searches, cycle(COLOURS), cycle(MARKERS), strict=False):
            line = sorted(
                (member["value"], milliseconds(member) / 1000)
                for member in members
                if (member["axis"], member["search"]) == (name, search)
            )
            label = f"{search} search"
            axes.plot([x for x, _ in line], [y for _, y in line], color=colour, marker=marker, label=label)
        axes.set(xlabel=name, ylabel="seconds")
        if name == "grid points":
            _logarithmic(axes)
    _save(figure, path)


def _panels(names, width):
    figure = Figure(figsize=(width * len(names) + 0.4, 3.8), dpi=150, layout="constrained")
    return figure, [figure.add_subplot(1, len(names), number) for number in range(1, len(names) + 1)]


def _logarithmic(axes):
    """A logarithmic x axis with numbers such as 20, 50, 100."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _save(figure, path):
    for axes in figure.axes:
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Software": None})
