"""The tables of an architecture: as B.1 to B.9 of the thesis, three views on robustness, and the final test."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import methodcaller

import pandas as pd

from robbench.report import markdown
from robbench.report.bootstrap import CONFIDENCE, interval
from robbench.report.comparisons import fixed_epsilons
from robbench.report.markdown import NOTHING
from robbench.report.published import Published
from robbench.report.ranking import common_images, ranking_epsilon
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, Spread, models_of, spread

SUSPECT = "⚠"
"""Stands behind the name of a model whose audit has a warning."""

_Column = tuple[str, list[str]]
_Figure = Callable[[Row], float | None]
_Cells = Callable[[Sequence[Model], Sequence[Spread | None]], list[str]]


def study_table(group: Group) -> pd.DataFrame:
    """Accuracy, median p* with its interval, robust accuracy, training seconds and epochs of every model."""
    models, epsilon = models_of(group.rows), ranking_epsilon(group)
    robust = [] if epsilon is None else [_robust(models, epsilon)]
    columns = [
        _column("clean accuracy", models, lambda row: row.accuracy, _accuracies),
        _column("median p\\*", models, lambda row: row.median, _medians),
        (f"{CONFIDENCE:.0%} interval", [_interval(model) for model in models]),
        *robust,
        _column("training seconds", models, lambda row: row.seconds, _seconds),
        ("epoch kept", [_epochs(model) for model in models]),
    ]
    return _table(models, [column for column in columns if {*column[1]} - {NOTHING}])


def published_table(group: Group, *, differences: bool = False) -> pd.DataFrame | None:
    """Our figures and the published ones, and how they differ, of the models that were published; None without any."""
    models = [model for model in models_of(group.rows) if model.published]
    if not models:
        return None
    columns = [
        *_beside("clean accuracy", models, lambda row: row.accuracy, lambda row: row.accuracy, _accuracies),
        *_beside("median p\\*", models, lambda row: row.median, lambda row: row.median_pstar, _medians),
        *_beside("seconds in all", models, lambda row: row.total_seconds, lambda row: row.train_seconds, _seconds),
    ]
    return _table(models, columns if differences else [column for column in columns if column[0] not in _DIFFERENCES])


def _table(models: Sequence[Model], columns: Sequence[_Column]) -> pd.DataFrame:
    names = [markdown.escape(model.label) + f" {SUSPECT}" * any(row.suspect for row in model.rows) for model in models]
    rows = zip(names, *(cells for _, cells in columns), strict=True)
    return pd.DataFrame([*rows], columns=["Model", *(header for header, _ in columns)], dtype=object)


def _column(header: str, models: Sequence[Model], figure: _Figure, show: _Cells) -> _Column:
    return header, show(models, [model.spread(figure) for model in models])


def _beside(
    header: str, models: Sequence[Model], figure: _Figure, published: Callable[[Published], float], show: _Cells
) -> Iterable[_Column]:
    yield _column(header, models, figure, show)
    theirs = [published(model.published) if model.published else None for model in models]
    yield "published", (_whole if show is _seconds else show)(models, [spread([value]) for value in theirs])
    pairs = zip([model.value(figure) for model in models], theirs, strict=True)
    name, how = _DIFFERENCE[show]
    yield name, [markdown.NOTHING if our is None or value is None else how(our, value) for our, value in pairs]


def _robust(models: Sequence[Model], epsilon: float) -> _Column:
    return _column(
        f"robust accuracy at ε = {markdown.radius(epsilon)}", models, methodcaller("robust", epsilon), _accuracies
    )


def _epochs(model: Model) -> str:
    """``4 of 6``: the kept epoch and how many there were, of the first seed."""
    training = model.rows[0].training
    return f"{training.best} of {len(training.epochs)}" if training and training.epochs else NOTHING


def spread_text(found: Spread | None, show: Callable[[float], str]) -> str:
    """``0.205 [0.200 to 0.210]``: median over seeds, least and greatest; one figure of one seed."""
    if found is None:
        return NOTHING
    value, low, high = show(found.value), show(found.low), show(found.high)
    return value if low == high == value else f"{value} [{low} to {high}]"


def _accuracies(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return [spread_text(each, markdown.percent) for each in found]


def _medians(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    shows = [partial(markdown.pstar, grid_end=model.grid_end) for model in models]
    return [spread_text(each, show) for each, show in zip(found, shows, strict=True)]


def _seconds(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return [spread_text(each, markdown.seconds) for each in found]


def _whole(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return [spread_text(each, lambda value: f"{value:,.{0 if value == int(value) else 1}f}") for each in found]


_DIFFERENCE: dict[_Cells, tuple[str, Callable[[float, float], str]]] = {
    _accuracies: ("points", lambda ours, theirs: markdown.points(ours - theirs)),
    _medians: ("difference", lambda ours, theirs: markdown.signed(ours - theirs, 3) if ours < math.inf else NOTHING),
    _seconds: ("factor", lambda ours, theirs: f"× {ours / theirs:.2g}"),
}
"""How a published figure differs from ours, by what shows both."""

_DIFFERENCES = tuple(name for name, _ in _DIFFERENCE.values())


def views_table(group: Group) -> pd.DataFrame | None:
    """Median over common images, and robust accuracies at other radii than :func:`study_table`; None without an estimate."""
    models = [model for model in models_of(group.rows) if model.tested]
    if not models:
        return None
    found = common_images(group.rows)
    common = [Model(tuple(found[row.case] for row in model.tested)) for model in models]
    radii = fixed_epsilons(models[0].tested[0].record.result.grid)
    columns = [
        _column("correct images", models, lambda row: row.correct, _whole),
        _column("common images", common, lambda row: row.correct, _whole),
        _column("median p\\* of them", common, lambda row: row.median, _medians),
        *(_robust(models, epsilon) for epsilon in radii if epsilon != ranking_epsilon(group)),
    ]
    if any(row.censored_share for model in models for row in model.tested):
        columns.append(_column("censored", models, lambda row: row.censored_share, _accuracies))
    return _table(models, columns)


def _interval(model: Model) -> str:
    """The bootstrap interval of the model's median."""
    low, high = (markdown.pstar(end, model.grid_end) for end in interval(model.resampled_medians))
    return low if low == NOTHING else f"{low} to {high}"


def without_ranges(frame: pd.DataFrame) -> pd.DataFrame:
    """A table without the ranges over seeds in its cells: ``0.205`` of ``0.205 [0.200 to 0.210]``."""
    return frame.map(lambda cell: re.sub(r" \[[^\]]* to [^\]]*\]", "", cell))


def other_table(group: Group) -> pd.DataFrame | None:
    """The figures of stages of other kinds, a line per model; None without any."""
    found = {row.name: row.other_figures for row in group.all_rows if row.other_figures}
    frame = pd.DataFrame.from_dict(found, orient="index", dtype=object).map(
        lambda value: markdown.escape(f"{value:.4g}")
    )
    return (
        frame.rename(columns=markdown.escape).rename(markdown.escape).rename_axis("Model").reset_index()
        if found
        else None
    )


def attack_table(group: Group) -> pd.DataFrame | None:
    """Robust accuracies of the final test; None where no record has them."""
    models = [model for model in models_of(group.rows) if any(_attacks(row) for row in model.rows)]
    if not models:
        return None
    columns = []
    for kind in sorted({key for model in models for row in model.rows for key in _attacks(row)}):
        name = _attack_name(*kind)
        columns.append(_column(name, models, lambda row, kind=kind: _attacks(row).get(kind), _accuracies))  # type: ignore[misc]
    return _table(models, columns)


def _attacks(row: Row) -> dict[tuple[str, float, int | None], float]:
    attacks = row.robustness.attacks if row.robustness else []
    return {(each.attack, each.epsilon, each.steps): each.robust.share for each in attacks}


def _attack_name(attack: str, epsilon: float, steps: int | None) -> str:
    """``PGD-20, ε = 2/255``; attacks of other libraries by their own names."""
    name = markdown.escape(attack) if steps is None else f"{attack.upper()}{f'-{steps}' if attack != 'fgsm' else ''}"
    return f"{name}, ε = {markdown.radius(epsilon)}"
