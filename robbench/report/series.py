"""Figures of models over a series of places: several bundles side by side, or the commits of their baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from robbench.report import markdown, svg
from robbench.report.bundle import Bundle
from robbench.report.drawing import of_k
from robbench.report.html import FOLDER, environment
from robbench.report.rows import group_records
from robbench.report.seeds import models_of

FIGURES = ("clean accuracy", "median p*", "training seconds")
_SHOWN = 60
"""Lines of a picture; more cannot be told apart."""

Values = Mapping[str, Sequence[float | None]]
"""By model, one value a place; None where there is none."""


@dataclass(frozen=True)
class Place:
    """A bundle or a commit."""

    name: str
    """Short: the head of a column."""
    said: str = ""
    """What more is known of it: a date, a subject."""


def series_html(title: str, places: Sequence[Place], values: Mapping[str, Values]) -> str:
    """One page: a picture and a table for every figure that any model has, the series from left to right.

    Args:
        title: of the page.
        places: in their order.
        values: by figure (of FIGURES), then by model.
    """
    parts = [
        (figure, Markup(_picture(figure, places, found)), _table(figure, places, found))
        for figure, found in values.items()
        if any(value is not None for line in found.values() for value in line)
    ]
    files = {name: Markup((FOLDER / f"report.{end}").read_text(encoding="utf-8")) for name, end in _FILES.items()}
    return environment().get_template("series.html.j2").render(title=title, places=places, parts=parts, **files)


_FILES = {"style": "css", "script": "js"}


def beside(bundles: Mapping[str, Bundle]) -> tuple[list[Place], Mapping[str, Values]]:
    """The figures of every model that two bundles have at least, medians over seeds; for :func:`series_html`.

    Args:
        bundles: by the name of their column.
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {figure: {} for figure in FIGURES}
    several = len({record.suite for bundle in bundles.values() for record in bundle.records}) > 1
    for column, bundle in bundles.items():
        for group in group_records(bundle.records):
            for model in models_of(group.all_rows):
                name = f"{group.suite}: " * several + f"{group.architecture} {model.rows[0].name}"
                accuracy = model.accuracies.value if model.accuracies else None
                for figure, value in zip(FIGURES, (accuracy, model.median, model.seconds), strict=True):
                    found[figure].setdefault(name, {})[column] = value
    lines: dict[str, Values] = {
        figure: {name: [own.get(column) for column in bundles] for name, own in models.items() if len(own) > 1}
        for figure, models in found.items()
    }
    said = {
        column: max((record.created for record in bundle.records), default="") for column, bundle in bundles.items()
    }
    return [Place(column, said[column]) for column in bundles], lines


def text_of(figure: str, value: float | None) -> str:
    """A value as a reader wants it."""
    if value is None:
        return markdown.NOTHING
    if figure == "clean accuracy":
        return markdown.percent(value)
    return markdown.seconds(value) if figure == "training seconds" else markdown.pstar(value, math.nan)


def _picture(figure: str, places: Sequence[Place], values: Values) -> str:
    lines, marks = [], []
    for number, (model, line) in enumerate([*values.items()][:_SHOWN]):
        ink = of_k(number + 1)
        known = [(at, value) for at, value in enumerate(line) if value is not None and math.isfinite(value)]
        if len(known) > 1:
            lines.append(svg.Line(points=known, title=model, colour=ink))
        for at, value in known:
            place = f"{places[at].name} {places[at].said}".strip()
            said = f"{model}: {text_of(figure, value)}, {place}"
            marks.append(svg.Mark(x=at, y=value, title=said, colour=ink))
    reached = [mark.y for mark in marks] or [1.0]
    logarithmic = figure == "training seconds" and min(reached) > 0
    low, high = (min(reached) / 1.3, max(reached) * 1.3) if logarithmic else (0.0, 1.08 * max(reached) or 1.0)
    y = svg.Axis(low=low, high=high, label=figure, log=logarithmic, percent=figure == "clean accuracy")
    x = svg.Axis(low=-0.3, high=len(places) - 0.7, names=[place.name for place in places])
    return svg.plot(figure, x, y, marks, lines)


def _table(figure: str, places: Sequence[Place], values: Values) -> pd.DataFrame:
    """A row per model, a column per place, and the change from the first to the last."""
    rows = [
        [markdown.escape(model), *(text_of(figure, value) for value in line), _change(figure, line)]
        for model, line in values.items()
    ]
    return pd.DataFrame(rows, columns=["Model", *(place.name for place in places), "change"], dtype=object)


def _change(figure: str, line: Sequence[float | None]) -> str:
    """From the first value there is to the last: in points of an accuracy, else relative."""
    known = [value for value in line if value is not None]
    if len(known) < 2 or not known[0] or not math.isfinite(known[0] + known[-1]):
        return markdown.NOTHING
    if figure == "clean accuracy":
        return f"{markdown.points(known[-1] - known[0])} points"
    return f"{known[-1] / known[0] - 1:+.1%}"
