"""Labels beside points that cover no marker, line or other label."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from robbench.report.drawing import DPI


@dataclass(frozen=True)
class Label:
    """What to write beside a point, small where it matters less."""

    x: float
    y: float
    text: str
    ink: str
    small: bool = False


def place_labels(figure: Figure, axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label near its point, where it covers least and is nearest to its own."""
    figure.canvas.draw()
    taken = [box for line in axes.get_lines() for box in _obstacles(line)]
    bars = [bar for bar in axes.collections if isinstance(bar, LineCollection)]
    taken += [box for bar in bars for ends in bar.get_segments() for box in _along(bar.get_transform().transform(ends))]
    (left, bottom), (right, top) = axes.get_window_extent().get_points()
    points = axes.transData.transform([(label.x, label.y) for label in labels] or np.empty((0, 2)))
    written: list[Bbox] = []
    for label, own in zip(labels, points, strict=True):
        notes = [_note(axes, label, angle, far) for far in _DISTANCES for angle in range(90, 450, 30)]
        boxes = [note.get_window_extent() for note in notes]
        clashes = [
            sum(box.overlaps(other) for other in taken)
            + 5 * sum(box.overlaps(other) for other in written)
            + 5 * (box.x0 < left or box.x1 > right or box.y0 < bottom or box.y1 > top)
            + 3 * _nearer_another(box, own, points)
            for box in boxes
        ]
        best = int(np.argmin(clashes))
        for note in notes:
            if note is not notes[best]:
                note.remove()
        if _DISTANCES[best // 12] > 14:
            leader = {"arrowstyle": "-", "color": label.ink, "linewidth": 0.6, "shrinkA": 5, "shrinkB": 4}
            at = label.x, label.y
            axes.annotate("", at, notes[best].xyann, textcoords="offset points", arrowprops=leader)
        written.append(boxes[best].padded(3))


_DISTANCES = (9, 14, 20, 28, 40, 55)
"""Of labels from their points, the nearest first; a label further than 14 points has a line to its point."""


def _note(axes: Axes, label: Label, angle: int, far: int) -> Annotation:
    """The label so many degrees and points from its point."""
    return axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=(far * math.cos(math.radians(angle)), far * math.sin(math.radians(angle))),
        textcoords="offset points",
        ha="center",
        va="center",
        color=label.ink,
        fontsize=7 if label.small else 9,
        fontweight="normal" if label.small else "bold",
    )


def _obstacles(line: Line2D) -> list[Bbox]:
    """Boxes over a line's markers, and small ones along its path."""
    points = line.get_transform().transform(np.asarray(line.get_xydata(), dtype=float))
    half = line.get_markersize() * DPI / 72 / 2
    boxes = [Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half) for x, y in points]
    return boxes if line.get_linestyle() in ("None", "none", "", " ") else boxes + _along(points)


def _along(points: Any) -> list[Bbox]:
    """Small boxes along a path, in pixels."""
    pairs = [(start, stop, max(2, int(np.hypot(*(stop - start)) / 8))) for start, stop in itertools.pairwise(points)]
    return [Bbox.from_bounds(x - 2, y - 2, 4, 4) for pair in pairs for x, y in np.linspace(*pair)]


def _nearer_another(box: Bbox, own: Any, points: Any) -> bool:
    """Whether a label's middle is nearer to another label's point than to its own."""
    middle = box.get_points().mean(axis=0)
    return bool(np.hypot(*(points - middle).T).min() < np.hypot(*(own - middle)) - 0.5)
