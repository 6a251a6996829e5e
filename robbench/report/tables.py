"""The tables of an architecture: as B.1 to B.9 of the thesis, three views on robustness, and the final test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from robbench.gate.verdicts import CONFIDENCE
from robbench.record import AttackAccuracy, Counts
from robbench.report.bootstrap import interval, over_seeds
from robbench.report.markdown import (
    NOTHING,
    escape,
    model_ranges,
    percent,
    pstar,
    pstar_digits,
    seconds,
    seconds_digits,
    signed,
    table,
)
from robbench.report.published import Published, published_rows
from robbench.report.ranking import common_medians
from robbench.report.robust_accuracy import fixed_epsilons, robust_share
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, Spread, models_of, spread
from robbench.report.trust import SUSPECT

_Column = tuple[str, list[str]]


def study_table(group: Group) -> str:
    """Accuracy, median p*, training time and epochs of every model, the published ones and the differences beside."""
    models = models_of(group.rows)
    theirs = [model.published for model in models]
    columns = [
        *_beside("clean accuracy", models, lambda row: row.accuracy, theirs, _accuracies, _points, "points"),
        *_beside("median p\\*", models, lambda row: row.median, theirs, _medians, _median_change, "difference"),
        ("training seconds", _seconds(models, [model.spread(lambda row: row.seconds) for model in models])),
        *_beside("seconds in all", models, lambda row: row.total_seconds, theirs, _seconds, _factor, "factor"),
        *_beside("epochs", models, _epochs, theirs, _whole, _whole_change, "difference"),
        ("epoch kept", _whole(models, [model.spread(_epoch_kept) for model in models])),
    ]
    return _table(models, columns)


def _table(models: Sequence[Model], columns: Sequence[_Column]) -> str:
    lines = [[_named(model), *(cells[at] for _, cells in columns)] for at, model in enumerate(models)]
    return table(["Model", *(header for header, _ in columns)], lines)


def _named(model: Model) -> str:
    return escape(model.label) + f" {SUSPECT}" * any(row.suspect for row in model.rows)


def _beside(
    header: str,
    models: Sequence[Model],
    figure: Callable[[Row], float | None],
    theirs: Sequence[Published | None],
    show: Callable[[Sequence[Model], Sequence[Spread | None]], list[str]],
    difference: Callable[[float, float], str],
    name: str,
) -> list[_Column]:
    """Our column; with a published row of any model, theirs and the difference of our median over seeds as well."""
    ours = [model.spread(figure) for model in models]
    columns = [(header, show(models, ours))]
    if not any(theirs):
        return columns
    values = [_PUBLISHED[header](row) if row else None for row in theirs]
    shown = [spread([value]) for value in values]
    columns.append(("published", _whole(models, shown) if show is _seconds else show(models, shown)))
    pairs = zip(ours, values, strict=True)
    changes = [difference(our.value, value) if our and value is not None else NOTHING for our, value in pairs]
    return [*columns, (name, changes)]


_PUBLISHED: dict[str, Callable[[Published], float]] = {
    "clean accuracy": lambda row: row.accuracy,
    "median p\\*": lambda row: row.median_pstar,
    "seconds in all": lambda row: row.train_seconds,
    "epochs": lambda row: row.epochs,
}


def _points(ours: float, theirs: float) -> str:
    return signed((ours - theirs) * 100, 1)


def _median_change(ours: float, theirs: float) -> str:
    return signed(ours - theirs, 4 if round((ours - theirs) * 1e4) % 10 else 3) if math.isfinite(ours) else NOTHING


def _factor(ours: float, theirs: float) -> str:
    return f"× {ours / theirs:.2g}"


def _whole_change(ours: float, theirs: float) -> str:
    return signed(ours - theirs, 0)


def _cells(models: Sequence[Model], found: Sequence[Spread | None], show: Callable[[float, Model], str]) -> list[str]:
    return [spread_text(each, lambda v, of=model: show(v, of)) for model, each in zip(models, found, strict=True)]  # type: ignore[misc]


def spread_text(found: Spread | None, show: Callable[[float], str]) -> str:
    """``0.205 [0.2 to 0.21]``: median over seeds, least and greatest; one figure of one seed."""
    if found is None:
        return NOTHING
    if found.count == 1:
        return show(found.value)
    ends = [show(found.low), show(found.high)]
    return show(found.value) if ends == [show(found.value)] * 2 else f"{show(found.value)} [{' to '.join(ends)}]"


def _accuracies(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return _cells(models, found, lambda value, _: percent(value))


def _medians(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    digits = pstar_digits(v for each in found if each for v in (each.value, each.low, each.high))
    return _cells(models, found, lambda value, model: pstar(value, model.grid_end, digits))


def _seconds(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    digits = seconds_digits(each.value for each in found if each)
    return _cells(models, found, lambda value, _: seconds(value, digits))


def _whole(models: Sequence[Model], found: Sequence[Spread | None]) -> list[str]:
    return _cells(models, found, lambda value, _: f"{value:,.0f}" if value == int(value) else f"{value:,.1f}")


def _epochs(row: Row) -> float | None:
    return len(row.training.epochs) or None if row.training else None


def _epoch_kept(row: Row) -> float | None:
    return row.training.best or None if row.training else None


def not_beside(group: Group) -> str | None:
    """Which published models of the architecture have no counterpart here; None where nothing is comparable at all."""
    ours = {row.published.label for row in group.rows if row.published}
    if not ours:
        return None
    table_rows = [row for row in published_rows() if row.architecture == group.architecture]
    absent = [row.label for row in table_rows if row.label not in ours]
    name = f"table {table_rows[0].table}"
    if not absent:
        return f"All {len(table_rows)} models of {name} stand beside ours."
    return (
        f"Of the {len(table_rows)} models of {name}, {len(absent)} have no counterpart here (not run, or run on other "
        f"data): {escape(model_ranges(absent))}."
    )


def views_table(group: Group) -> str | None:
    """Medians over correct and over common images and robust accuracy over all images; None without an estimate."""
    models = [model for model in models_of(group.rows) if model.tested]
    if not models:
        return None
    common = common_medians(group.rows)
    first = models[0].tested[0].robustness
    epsilons = fixed_epsilons(first.grid) if first else ()
    intervals = [
        interval(over_seeds([row.resampled_medians for row in model.right])) if model.right else None
        for model in models
    ]
    digits = pstar_digits(v for pair in intervals if pair for v in pair)
    columns: list[_Column] = [
        ("correct images", _whole(models, [model.spread(_correct) for model in models])),
        ("median p\\* of them", _medians(models, [model.spread(lambda row: row.median) for model in models])),
        (
            f"{CONFIDENCE:.0%} interval",
            [
                f"{pstar(pair[0], model.grid_end, digits)} to {pstar(pair[1], model.grid_end, digits)}"
                if pair
                else NOTHING
                for model, pair in zip(models, intervals, strict=True)
            ],
        ),
        (
            "common images",
            _whole(
                models,
                [model.spread(lambda row: common[row.case][1] if row.case in common else None) for model in models],
            ),
        ),
        (
            "median p\\* of them",
            _medians(models, [model.spread(lambda row: common.get(row.case, (None, 0))[0]) for model in models]),
        ),
        *(
            (
                f"robust accuracy at ε = {epsilon:.4g}",
                _accuracies(models, [model.spread(lambda row, at=epsilon: robust_share(row, at)) for model in models]),  # type: ignore[misc]
            )
            for epsilon in epsilons
        ),
        ("censored", _accuracies(models, [model.spread(censored_share) for model in models])),
    ]
    return _table(models, columns)


def _correct(row: Row) -> float | None:
    return row.robustness.clean.correct if row.robustness else None


def censored_share(row: Row) -> float | None:
    """Share of the correct images that were never fooled inside the grid."""
    robustness = row.robustness
    return robustness.censored / robustness.clean.correct if robustness and robustness.clean.correct else None


def attack_table(group: Group) -> str | None:
    """Robust accuracies of the final test under FGSM and PGD; None where no record has them."""
    models = [model for model in models_of(group.rows) if any(_attacks(row) for row in model.rows)]
    if not models:
        return None
    columns = [("clean accuracy", _accuracies(models, [model.spread(lambda row: row.accuracy) for model in models]))]
    for kind in sorted({key for model in models for row in model.rows for key in _attacks(row)}):
        found = [spread(_attacked(row, kind) for row in model.rows) for model in models]
        columns.append((_attack_name(kind), _accuracies(models, found)))
    return _table(models, columns)


_Attack = tuple[str, float, int]


def _attacks(row: Row) -> dict[_Attack, Counts]:
    found: Iterable[AttackAccuracy] = row.robustness.attacks if row.robustness else ()
    return {(each.attack, each.epsilon, each.steps): each.robust for each in found}


def _attacked(row: Row, kind: _Attack) -> float | None:
    counts = _attacks(row).get(kind)
    return counts.share if counts and counts.total else None


def _attack_name(kind: _Attack) -> str:
    attack, epsilon, steps = kind
    radius = (
        f"{epsilon * 255:.3g}/255"
        if epsilon < 0.1 and abs(epsilon * 255 - round(epsilon * 255)) < 1e-6
        else f"{epsilon:.4g}"
    )
    return f"{attack.upper()}{f'-{steps}' if attack != 'fgsm' else ''}, ε = {radius}"
