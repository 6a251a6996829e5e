"""Pictures of the performance suite: p* over passes, and how time grows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from robbench.report.drawing import canvas, png, tidy

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6B6B6B", "#E69F00")
_MARKERS = ("o", "*", "s", "^", "D", "v")


class _Point(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def passes_per_image(self) -> float: ...
    @property
    def median_pstar(self) -> float | None: ...


class _Grown(Protocol):
    @property
    def axis(self) -> str | None: ...
    @property
    def value(self) -> float | None: ...
    @property
    def search(self) -> str | None: ...
    @property
    def images(self) -> int: ...
    @property
    def milliseconds_per_image(self) -> float: ...


def quality_png(panels: Sequence[tuple[str, Sequence[_Point]]]) -> bytes | None:
    """Median p* over passes for each image, one panel a network; None without any."""
    panels = [(title, points) for title, points in panels if points]
    if not panels:
        return None
    named: set[str] = set()
    methods = list(dict.fromkeys(point.method for _, points in panels for point in points))
    with canvas(4.6 * len(panels) + 0.4, 3.9) as figure:
        for place, (title, points) in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            for method, colour, marker in zip(methods, cycle(_COLOURS), cycle(_MARKERS), strict=False):
                chosen = sorted(
                    (p.passes_per_image, p.median_pstar)
                    for p in points
                    if p.method == method and p.median_pstar is not None
                )
                if chosen:
                    label = None if method in named else method
                    size = 13 if marker == "*" else 6
                    axes.plot(*zip(*chosen, strict=True), color=colour, marker=marker, markersize=size, label=label)
                    named.add(method)
            axes.set(xscale="log", xlabel="forward passes an image", ylabel="median p*", title=title)
            _plain_ticks(axes)
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
            tidy(axes)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return png(figure)


def growth_png(members: Sequence[_Grown]) -> bytes | None:
    """Seconds over images, grid points and depth, one panel each; None without any."""
    axes_names = list(dict.fromkeys(member.axis for member in members if member.axis))
    if not axes_names:
        return None
    searches = list(dict.fromkeys(member.search for member in members))
    with canvas(3.4 * len(axes_names) + 0.4, 3.4) as figure:
        for place, name in enumerate(axes_names, start=1):
            axes = figure.add_subplot(1, len(axes_names), place)
            for search, colour, marker in zip(searches, cycle(_COLOURS), cycle(_MARKERS), strict=False):
                chosen = sorted(
                    (m.value or 0.0, m.images * m.milliseconds_per_image / 1000)
                    for m in members
                    if (m.axis, m.search) == (name, search)
                )
                if chosen:
                    label = f"{search} search" if place == 1 else None
                    axes.plot(*zip(*chosen, strict=True), color=colour, marker=marker, label=label)
            axes.set(xlabel=name, ylabel="seconds", xscale="log" if name == "grid points" else "linear")
            if name == "grid points":
                _plain_ticks(axes)
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
            tidy(axes)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return png(figure)


def _plain_ticks(axes: Axes) -> None:
    """Numbers as 20, 50, 100 on a logarithmic x axis."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
