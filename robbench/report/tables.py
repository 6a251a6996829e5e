"""The tables of an architecture: as B.1 to B.9 of the thesis, three views on robustness, and the final test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import methodcaller

import pandas as pd

from robbench.record import OfClass
from robbench.report import markdown
from robbench.report.bootstrap import CONFIDENCE, interval
from robbench.report.comparisons import fixed_epsilons
from robbench.report.markdown import NOTHING
from robbench.report.published import Published
from robbench.report.ranking import common_images
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, Spread, models_of, spread

SUSPECT = "⚠"
"""Stands behind the name of a model whose audit has a warning."""

_Column = tuple[str, list[str]]
_Figure = Callable[[Row], float | None]
_Cells = Callable[[Sequence[Model], Sequence[Spread | None]], list[str]]


def study_table(group: Group) -> pd.DataFrame:
    """Accuracy, median p*, training time and epochs of every model, the published ones and the differences beside."""
    models = models_of(group.rows)
    columns = [
        *_beside("clean accuracy", models, lambda row: row.accuracy, _accuracies),
        *_beside("median p\\*", models, lambda row: row.median, _medians),
        _column("training seconds", models, lambda row: row.seconds, _seconds),
        *_beside("seconds in all", models, lambda row: row.total_seconds, _seconds),
        *_beside("epochs", models, lambda row: (row.training and len(row.training.epochs)) or None, _whole),
        _column("epoch kept", models, lambda row: (row.training and row.training.best) or None, _whole),
    ]
    return _table(models, [column for column in columns if {*column[1]} - {NOTHING}])


def _table(models: Sequence[Model], columns: Sequence[_Column]) -> pd.DataFrame:
    names = [markdown.escape(model.label) + f" {SUSPECT}" * any(row.suspect for row in model.rows) for model in models]
    rows = zip(names, *(cells for _, cells in columns), strict=True)
    return pd.DataFrame([*rows], columns=["Model", *(header for header, _ in columns)], dtype=object)


def _column(header: str, models: Sequence[Model], figure: _Figure, show: _Cells) -> _Column:
    return header, show(models, [model.spread(figure) for model in models])


def _beside(header: str, models: Sequence[Model], figure: _Figure, show: _Cells) -> Iterable[_Column]:
    """Our column; where any model was published, the published figure and the difference of our median over seeds."""
    yield _column(header, models, figure, show)
    if any(model.published for model in models):
        published, difference, name = _COMPARED[header]
        theirs = [published(model.published) if model.published else None for model in models]
        yield "published", (_whole if show is _seconds else show)(models, [spread([value]) for value in theirs])
        pairs = zip([model.value(figure) for model in models], theirs, strict=True)
        yield name, [NOTHING if our is None or value is None else difference(our, value) for our, value in pairs]


def _median_change(ours: float, theirs: float) -> str:
    return (
        markdown.signed(ours - theirs, 4 if round((ours - theirs) * 1e4) % 10 else 3)
        if math.isfinite(ours)
        else NOTHING
    )


_COMPARED: dict[str, tuple[Callable[[Published], float], Callable[[float, float], str], str]] = {
    "clean accuracy": (lambda row: row.accuracy, lambda ours, theirs: markdown.points(ours - theirs), "points"),
    "median p\\*": (lambda row: row.median_pstar, _median_change, "difference"),
    "seconds in all": (lambda row: row.train_seconds, lambda ours, theirs: f"× {ours / theirs:.2g}", "factor"),
    "epochs": (lambda row: row.epochs, lambda ours, theirs: markdown.signed(ours - theirs, 0), "difference"),
}
"""By column: the published figure, how the difference is written, and the name of its column."""


def spread_text(found: Spread | None, show: Callable[[float], str]) -> str:
    """``0.205 [0.2 to 0.21]``: median over seeds, least and greatest; one figure of one seed."""
    if found is None:
        return NOTHING
    value, low, high = show(found.value), show(found.low), show(found.high)
    return value if low == high == value else f"{value} [{low} to {high}]"


def _accuracies(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return [spread_text(each, markdown.percent) for each in found]


def _medians(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    digits = markdown.pstar_digits(value for each in found if each for value in (each.value, each.low, each.high))
    shows = [partial(markdown.pstar, grid_end=model.grid_end, digits=digits) for model in models]
    return [spread_text(each, show) for each, show in zip(found, shows, strict=True)]


def _seconds(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    digits = markdown.seconds_digits(each.value for each in found if each)
    return [spread_text(each, partial(markdown.seconds, digits=digits)) for each in found]


def _whole(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return [spread_text(each, lambda value: f"{value:,.{0 if value == int(value) else 1}f}") for each in found]


def views_table(group: Group) -> pd.DataFrame | None:
    """Medians over correct and over common images and robust accuracy over all images; None without an estimate."""
    models = [model for model in models_of(group.rows) if model.tested]
    if not models:
        return None
    found = common_images(group.rows)
    common = [Model(tuple(found[row.case] for row in model.tested)) for model in models]
    columns = [
        _column("correct images", models, lambda row: row.correct, _whole),
        _column("median p\\* of them", models, lambda row: row.median, _medians),
        (f"{CONFIDENCE:.0%} interval", _intervals(models)),
        _column("common images", common, lambda row: row.correct, _whole),
        _column("median p\\* of them", common, lambda row: row.median, _medians),
    ]
    for epsilon in fixed_epsilons(models[0].tested[0].record.result.grid):
        header = f"robust accuracy at ε = {epsilon:.4g}"
        columns.append(_column(header, models, methodcaller("robust", epsilon), _accuracies))
    return _table(models, [*columns, _column("censored", models, lambda row: row.censored_share, _accuracies)])


def _intervals(models: Sequence[Model]) -> list[str]:
    """The bootstrap intervals of the models' medians."""
    pairs = [interval(model.resampled_medians) for model in models]
    digits = markdown.pstar_digits(end for pair in pairs for end in pair)
    texts = [
        [markdown.pstar(end, model.grid_end, digits) for end in pair] for model, pair in zip(models, pairs, strict=True)
    ]
    return [low if low == NOTHING else f"{low} to {high}" for low, high in texts]


def classes_table(group: Group) -> pd.DataFrame | None:
    """Median p* and clean accuracy of each class, balanced accuracy first; None where the classes are of one size."""
    models = [model for model in models_of(group.rows) if any(_of_class(row, 0) for row in model.rows)]
    if not models:
        return None
    found = models[0].rows[0].robustness
    names = [each.name for each in found.classes] if found else []
    lines = [["balanced accuracy", *_shares(models, lambda row: row.balanced_accuracy)]]
    for number, name in enumerate(names):
        medians = _medians(models, [model.spread(partial(_class_median, number=number)) for model in models])
        shares = _shares(models, partial(_class_accuracy, number=number))
        pairs = (f"{median} ({share})" for median, share in zip(medians, shares, strict=True))
        lines.append([markdown.escape(name), *pairs])
    labels = [markdown.escape(model.label) for model in models]
    return pd.DataFrame(lines, columns=["Class", *labels], dtype=object)


def _shares(models: Sequence[Model], figure: _Figure) -> list[str]:
    return _accuracies(models, [model.spread(figure) for model in models])


def _of_class(row: Row, number: int) -> OfClass | None:
    found = row.robustness.classes if row.robustness else []
    return found[number] if number < len(found) else None


def _class_median(row: Row, number: int) -> float | None:
    found = _of_class(row, number)
    return None if found is None else math.inf if found.censored else found.median_pstar


def _class_accuracy(row: Row, number: int) -> float | None:
    found = _of_class(row, number)
    return found.clean.share if found else None


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
    columns = [_column("clean accuracy", models, lambda row: row.accuracy, _accuracies)]
    for kind in sorted({key for model in models for row in model.rows for key in _attacks(row)}):
        name = _attack_name(*kind)
        columns.append(_column(name, models, lambda row, kind=kind: _attacks(row).get(kind), _accuracies))  # type: ignore[misc]
    return _table(models, columns)


def _attacks(row: Row) -> dict[tuple[str, float, int | None], float]:
    attacks = row.robustness.attacks if row.robustness else []
    return {(each.attack, each.epsilon, each.steps): each.robust.share for each in attacks}


def _attack_name(attack: str, epsilon: float, steps: int | None) -> str:
    """``PGD-20, ε = 2/255``; radii of 0.1 and more are decimal. Attacks of other libraries by their own names."""
    parts = epsilon * 255
    radius = f"{parts:.3g}/255" if epsilon < 0.1 and abs(parts - round(parts)) < 1e-6 else f"{epsilon:.4g}"
    name = markdown.escape(attack) if steps is None else f"{attack.upper()}{f'-{steps}' if attack != 'fgsm' else ''}"
    return f"{name}, ε = {radius}"
