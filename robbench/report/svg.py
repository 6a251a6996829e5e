"""Pictures of ``report.html`` as SVG: dots, lines and boxes whose value stands in a ``<title>``.

Colours of text and axes come from the page's style sheet, so that a picture is light where the page is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

_Scale = Callable[[float], float]

WIDTH = 460
"""Of every picture, in its own units: on a phone one is a pixel, and text of 12 can be read."""

_LEFT, _TOP, _BOTTOM = 54, 10, 40


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From where to where an axis reaches, and what stands on it."""

    low: float
    high: float
    label: str = ""
    log: bool = False
    percent: bool = False
    whole: bool = False
    """Ticks at whole numbers alone."""
    names: Sequence[str] = ()
    """What stands at 0, 1, …, in place of numbers."""

    def share(self, value: float) -> float:
        """Where a value lies on the axis, from 0 to 1; what lies beyond stays at its end."""
        low, high, at = (math.log(max(each, 1e-12)) if self.log else each for each in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / ((high - low) or 1.0)))

    @property
    def ticks(self) -> list[float]:
        """About five round values."""
        if self.names:
            every = -(-len(self.names) // 6)
            return [float(at) for at in range(0, len(self.names), every)]
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1,), (1, 3), (1, 2, 5)):
                within = [
                    tick
                    for power in decades
                    for factor in factors
                    if self.low <= (tick := factor * 10.0**power) <= self.high
                ]
                if len(within) > 2:
                    break
            return within
        step = _round_step((self.high - self.low) / 5)
        step = max(1.0, round(step)) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def text(self, value: float) -> str:
        """A tick's label."""
        if self.names:
            return escape(self.names[round(value)])
        return f"{value:.0%}" if self.percent else f"{value:,.10g}" if value >= 1_000 else f"{value:.4g}"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A dot with what it says on hover."""

    x: float
    y: float
    title: str
    colour: str
    label: str = ""
    """Written beside it."""
    bold: bool = False
    hollow: bool = False
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points."""

    points: Sequence[tuple[float, float]]
    title: str
    colour: str
    dashes: str = ""
    steps: bool = False
    """Level from each point to the next one's x."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Five percentiles along x, in a row of its own."""

    name: str
    percentiles: Sequence[float]
    title: str
    colour: str


def plot(name: str, x: Axis, y: Axis, marks: Sequence[Mark], lines: Sequence[Line] = (), height: int = 300) -> str:
    """Dots and lines over two axes; ``name`` is what a screen reader says."""
    bottom, right = height - _BOTTOM, WIDTH - 12

    def across(value: float) -> float:
        return _LEFT + x.share(value) * (right - _LEFT)

    def up(value: float) -> float:
        return bottom - y.share(value) * (bottom - _TOP)

    parts = [*_grid_x(x, across, bottom), *_grid_y(y, up, right)]
    parts.append(f'<text class="axis" x="{(right + _LEFT) / 2:.0f}" y="{height - 4}">{escape(x.label)}</text>')
    middle = (bottom + _TOP) / 2
    parts.append(
        f'<text class="axis" x="12" y="{middle:.0f}" transform="rotate(-90 12 {middle:.0f})">{escape(y.label)}</text>'
    )
    for line in lines:
        points = [(across(a), up(b)) for a, b in line.points]
        path = " ".join(
            f"H{a:.1f}V{b:.1f}" if number and line.steps else f"{'L' if number else 'M'}{a:.1f} {b:.1f}"
            for number, (a, b) in enumerate(points)
        )
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        drawn = f'<path class="line" d="{path}" stroke="{line.colour}"{dashes}/>'
        parts.append(f'<g class="hover"><path class="near" d="{path}"/>{drawn}{_title(line.title)}</g>')
    parts += [_mark(mark, across, up) for mark in sorted(marks, key=lambda mark: mark.bold)]
    return _picture(name, height, parts)


def boxes(name: str, x: Axis, rows: Sequence[Box]) -> str:
    """Box plots below one another, a name above each."""
    height = 34 * len(rows) + _BOTTOM + _TOP
    bottom, left, right = height - _BOTTOM, 12, WIDTH - 12

    def across(value: float) -> float:
        return left + x.share(value) * (right - left)

    parts = [*_grid_x(x, across, bottom)]
    for number, row in enumerate(rows):
        top = _TOP + 34 * number
        low, first, median, third, high = (across(value) for value in row.percentiles)
        middle = top + 23
        past = f'<path fill="{row.colour}" d="M{right} {middle}l-8 -5v10z"/>' if row.percentiles[-1] > x.high else ""
        parts.append(
            f'<g class="hover"><rect class="near" x="0" y="{top}" width="{WIDTH}" height="33"/>'
            f'<text class="name" x="{left}" y="{top + 13}">{escape(row.name)}</text>'
            f'<path stroke="{row.colour}" d="M{low:.1f} {middle}H{high:.1f}"/>{past}'
            f'<rect x="{first:.1f}" y="{middle - 6}" width="{max(1.0, third - first):.1f}" height="12" '
            f'fill="{row.colour}" fill-opacity=".45" stroke="{row.colour}"/>'
            f'<path class="median" d="M{median:.1f} {middle - 8}v16"/>{_title(row.title)}</g>'
        )
    parts.append(f'<text class="axis" x="{WIDTH / 2:.0f}" y="{height - 4}">{escape(x.label)}</text>')
    return _picture(name, height, parts)


def _mark(mark: Mark, across: _Scale, up: _Scale) -> str:
    a, b = across(mark.x), up(mark.y)
    bars = ""
    if mark.x_ends:
        bars += f"M{across(mark.x_ends[0]):.1f} {b:.1f}H{across(mark.x_ends[1]):.1f}"
    if mark.y_ends:
        bars += f"M{a:.1f} {up(mark.y_ends[0]):.1f}V{up(mark.y_ends[1]):.1f}"
    drawn = f'<path class="bar" stroke="{mark.colour}" d="{bars}"/>' if bars else ""
    fill = "none" if mark.hollow else mark.colour
    drawn += f'<circle class="near" cx="{a:.1f}" cy="{b:.1f}" r="11"/>'
    drawn += f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{6 if mark.bold else 4.5}" fill="{fill}" stroke="{mark.colour}"/>'
    if mark.label:
        beyond = a + 8 + 7.5 * len(mark.label) > WIDTH
        place = f'x="{a - 9:.1f}" text-anchor="end"' if beyond else f'x="{a + 8:.1f}"'
        weight = ' class="bold"' if mark.bold else ' class="small"'
        drawn += f'<text{weight} {place} y="{b - 7:.1f}">{escape(mark.label)}</text>'
    return f'<g class="hover">{drawn}{_title(mark.title)}</g>'


def _grid_x(x: Axis, across: _Scale, bottom: float) -> Iterable[str]:
    for tick in x.ticks:
        at = across(tick)
        yield f'<path class="grid" d="M{at:.1f} {_TOP}V{bottom}"/>'
        yield f'<text class="tick" text-anchor="middle" x="{at:.1f}" y="{bottom + 15}">{x.text(tick)}</text>'


def _grid_y(y: Axis, up: _Scale, right: float) -> Iterable[str]:
    for tick in y.ticks:
        at = up(tick)
        yield f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>'
        yield f'<text class="tick" text-anchor="end" x="{_LEFT - 5}" y="{at + 4:.1f}">{y.text(tick)}</text>'


def _picture(name: str, height: int, parts: Iterable[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">'
    return f"{head}{''.join(parts)}</svg>"


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _round_step(step: float) -> float:
    """The next round number above: 1, 2 or 5 times a power of ten."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next((times * power for times in (1, 2, 5, 10) if times * power >= step * 0.999), 10 * power)
