"""The tables of an architecture: as B.1 to B.9 of the thesis, three views on robustness, and the final test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from robbench.gate.verdicts import CONFIDENCE
from robbench.record import Counts
from robbench.report.bootstrap import interval, over_seeds
from robbench.report.markdown import (
    NOTHING,
    escape,
    percent,
    points,
    pstar,
    pstar_digits,
    seconds,
    seconds_digits,
    signed,
)
from robbench.report.published import Published
from robbench.report.ranking import common_medians
from robbench.report.robust_accuracy import fixed_epsilons, robust_share
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, Spread, models_of, spread

SUSPECT = "⚠"
"""Stands behind the name of a model whose audit has a warning."""

_Column = tuple[str, list[str]]
_Cells = Callable[[Sequence[Model], Sequence[Spread | None]], list[str]]


def study_table(group: Group) -> pd.DataFrame:
    """Accuracy, median p*, training time and epochs of every model, the published ones and the differences beside."""
    models = models_of(group.rows)
    columns = [
        *_beside("clean accuracy", models, lambda row: row.accuracy, _accuracies),
        *_beside("median p\\*", models, lambda row: row.median, _medians),
        ("training seconds", _seconds(models, [model.spread(lambda row: row.seconds) for model in models])),
        *_beside("seconds in all", models, lambda row: row.total_seconds, _seconds),
        *_beside("epochs", models, _epochs, _whole),
        ("epoch kept", _whole(models, [model.spread(_epoch_kept) for model in models])),
    ]
    return _table(models, columns)


def _table(models: Sequence[Model], columns: Sequence[_Column]) -> pd.DataFrame:
    names = [escape(model.label) + f" {SUSPECT}" * any(row.suspect for row in model.rows) for model in models]
    rows = zip(names, *(cells for _, cells in columns), strict=True)
    return pd.DataFrame([*rows], columns=["Model", *(header for header, _ in columns)], dtype=object)


def _beside(
    header: str, models: Sequence[Model], figure: Callable[[Row], float | None], show: _Cells
) -> Iterable[_Column]:
    """Our column; where any model was published, the published figure and the difference of our median over seeds."""
    ours = [model.spread(figure) for model in models]
    yield header, show(models, ours)
    if any(model.published for model in models):
        published, difference, name = _COMPARED[header]
        theirs = [published(model.published) if model.published else None for model in models]
        yield "published", (_whole if show is _seconds else show)(models, [spread([value]) for value in theirs])
        pairs = zip(ours, theirs, strict=True)
        yield name, [difference(our.value, value) if our and value is not None else NOTHING for our, value in pairs]


def _median_change(ours: float, theirs: float) -> str:
    return signed(ours - theirs, 4 if round((ours - theirs) * 1e4) % 10 else 3) if math.isfinite(ours) else NOTHING


_COMPARED: dict[str, tuple[Callable[[Published], float], Callable[[float, float], str], str]] = {
    "clean accuracy": (lambda row: row.accuracy, lambda ours, theirs: points(ours - theirs), "points"),
    "median p\\*": (lambda row: row.median_pstar, _median_change, "difference"),
    "seconds in all": (lambda row: row.train_seconds, lambda ours, theirs: f"× {ours / theirs:.2g}", "factor"),
    "epochs": (lambda row: row.epochs, lambda ours, theirs: signed(ours - theirs, 0), "difference"),
}
"""By column: the published figure, how the difference is written, and the name of its column."""


def spread_text(found: Spread | None, show: Callable[[float], str]) -> str:
    """``0.205 [0.2 to 0.21]``: median over seeds, least and greatest; one figure of one seed."""
    if found is None:
        return NOTHING
    value, low, high = show(found.value), show(found.low), show(found.high)
    return value if low == high == value else f"{value} [{low} to {high}]"


def _accuracies(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return [spread_text(each, percent) for each in found]


def _medians(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    digits = pstar_digits(v for each in found if each for v in (each.value, each.low, each.high))
    ends = [model.grid_end for model in models]
    return [
        spread_text(each, lambda value, end=end: pstar(value, end, digits))  # type: ignore[misc]
        for each, end in zip(found, ends, strict=True)
    ]


def _seconds(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    digits = seconds_digits(each.value for each in found if each)
    return [spread_text(each, lambda value: seconds(value, digits)) for each in found]


def _whole(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return [spread_text(each, lambda value: f"{value:,.{0 if value == int(value) else 1}f}") for each in found]


def _epochs(row: Row) -> float | None:
    return len(row.training.epochs) or None if row.training else None


def _epoch_kept(row: Row) -> float | None:
    return row.training.best or None if row.training else None


def views_table(group: Group) -> pd.DataFrame | None:
    """Medians over correct and over common images and robust accuracy over all images; None without an estimate."""
    models = [model for model in models_of(group.rows) if model.tested]
    if not models or models[0].tested[0].robustness is None:
        return None
    common = common_medians(group.rows)

    def column(header: str, show: _Cells, figure: Callable[[Row], float | None]) -> _Column:
        return header, show(models, [model.spread(figure) for model in models])

    return _table(
        models,
        [
            column("correct images", _whole, _correct),
            column("median p\\* of them", _medians, lambda row: row.median),
            (f"{CONFIDENCE:.0%} interval", _intervals(models)),
            column("common images", _whole, lambda row: common.get(row.case, (None, None))[1]),
            column("median p\\* of them", _medians, lambda row: common.get(row.case, (None, None))[0]),
            *(
                column(
                    f"robust accuracy at ε = {epsilon:.4g}",
                    _accuracies,
                    lambda row, at=epsilon: robust_share(row, at),  # type: ignore[misc]
                )
                for epsilon in fixed_epsilons(models[0].tested[0].robustness.grid)
            ),
            column("censored", _accuracies, censored_share),
        ],
    )


def _correct(row: Row) -> float | None:
    return row.robustness.clean.correct if row.robustness else None


def _intervals(models: Sequence[Model]) -> list[str]:
    """The bootstrap intervals of the models' medians."""
    pairs = [
        interval(over_seeds([row.resampled_medians for row in model.right])) if model.right else (math.nan, math.nan)
        for model in models
    ]
    digits = pstar_digits(end for pair in pairs for end in pair)
    texts = [
        " to ".join(pstar(end, model.grid_end, digits) for end in pair)
        for model, pair in zip(models, pairs, strict=True)
    ]
    return [text if model.right else NOTHING for model, text in zip(models, texts, strict=True)]


def censored_share(row: Row) -> float | None:
    """Share of the correct images that were never fooled inside the grid."""
    robustness = row.robustness
    return robustness.censored / robustness.clean.correct if robustness and robustness.clean.correct else None


_Attack = tuple[str, float, int]


def attack_table(group: Group) -> pd.DataFrame | None:
    """Robust accuracies of the final test under FGSM and PGD; None where no record has them."""
    models = [model for model in models_of(group.rows) if any(_attacks(row) for row in model.rows)]
    if not models:
        return None
    columns = [("clean accuracy", _accuracies(models, [model.accuracies for model in models]))]
    for kind in sorted({key for model in models for row in model.rows for key in _attacks(row)}):
        found = [spread(_attacked(row, kind) for row in model.rows) for model in models]
        columns.append((_attack_name(kind), _accuracies(models, found)))
    return _table(models, columns)


def _attacks(row: Row) -> dict[_Attack, Counts]:
    attacks = row.robustness.attacks if row.robustness else []
    return {(each.attack, each.epsilon, each.steps): each.robust for each in attacks}


def _attacked(row: Row, kind: _Attack) -> float | None:
    counts = _attacks(row).get(kind)
    return counts.share if counts and counts.total else None


def _attack_name(kind: _Attack) -> str:
    """``PGD-20, ε = 2/255``; radii of 0.1 and more are decimal."""
    attack, epsilon, steps = kind
    parts = epsilon * 255
    radius = f"{parts:.3g}/255" if epsilon < 0.1 and abs(parts - round(parts)) < 1e-6 else f"{epsilon:.4g}"
    return f"{attack.upper()}{f'-{steps}' if attack != 'fgsm' else ''}, ε = {radius}"
