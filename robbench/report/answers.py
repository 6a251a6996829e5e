"""The study's three questions in figures: pure functions of a group of models, no text, no pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from robbench.report.bootstrap import Resamples, difference, interval, over_seeds
from robbench.report.robust_accuracy import comparison_epsilon, robust_share
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, Spread, models_of, spread


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians, its median over seeds; a bound where one of them is censored."""

    value: float
    relation: Literal["=", "<", ">"]
    low: float
    """Of the bootstrap interval over images."""
    high: float
    seeds: Spread


@dataclass(frozen=True)
class Change:
    """A difference of two models' figures, its median over seeds."""

    value: float
    low: float
    """Of the bootstrap interval over images, drawn alike for both."""
    high: float
    seeds: Spread


@dataclass(frozen=True)
class Drop:
    """Where median p* falls most from one k to the next."""

    k: int
    following: int
    before: float
    after: float
    stability: float = 1.0
    """Share of the bootstrap resamplings of the images whose largest fall is the same."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One kind of transfer at its best k, held against the models trained from scratch."""

    line: str
    models: tuple[Model, ...]
    """Every k of the line, tested or not."""
    best: Model | None
    """Highest median p*, then highest clean accuracy; None where no median could be taken."""
    source: Model | None
    standard: Model | None
    """Conventionally trained on the target."""
    scratch: Model | None
    """Adversarially trained on the target."""
    retention: Ratio | None
    over_standard: Ratio | None
    relative: Ratio | None
    points: Change | None
    """Clean accuracy of the best transfer less that of the model from scratch, as a share."""
    robust_points: Change | None
    """The same of robust accuracy at ``epsilon``."""
    drop: Drop | None
    """Of the medians over seeds."""
    drops: dict[int, Drop | None]
    """Per seed."""
    epsilon: float | None
    """Radius of the robust accuracies: that of the adversarial training, else the largest fixed one."""
    speed_up: Spread | None
    """Training seconds from scratch ÷ of the best transfer, measured on the same machine class."""
    speed_up_with_source: Spread | None
    """The same with the source model's training counted in."""

    @property
    def alike(self) -> tuple[int, ...]:
        """Seeds that have the drop point of the medians over seeds."""
        k = self.drop and self.drop.k
        return tuple(seed for seed, own in self.drops.items() if (own and own.k) == k)

    @property
    def tested(self) -> list[int]:
        """Every k whose median p* is known."""
        return [model.facts.k for model in self.models if model.facts.k and model.median is not None]

    @property
    def machines(self) -> list[str]:
        """Where the best transfer was trained."""
        return sorted({row.trained.environment.slug for row in (self.best.rows if self.best else ()) if row.trained})

    @property
    def robust_shares(self) -> list[float | None]:
        """Robust accuracy at ``epsilon`` of the best transfer and of the model from scratch."""
        pair = self.best, self.scratch
        return [model.value(lambda row: robust_share(row, self.epsilon or 0.0)) if model else None for model in pair]


def answers(group: Group) -> tuple[Answer, ...]:
    """The answers for every kind of transfer of a group."""
    return tuple(_answer(group, line) for line in group.lines)


def _answer(group: Group, line: str) -> Answer:
    models, target = models_of(group.of(line)), group.of(line)[0].facts.dataset
    best = best_transfer(models)
    source, standard = source_model(group, best or models[0]), scratch_model(group, target, "standard")
    scratch = scratch_model(group, target, "pgd")
    grid = best.right[0].robustness.grid if best and best.right[0].robustness else None
    reference = scratch or source
    epsilon = comparison_epsilon(grid, reference.rows[0] if reference else None) if grid else None
    seeds = sorted({row.facts.seed for model in models for row in model.rows})
    return Answer(
        line=line,
        models=models,
        best=best,
        source=source,
        standard=standard,
        scratch=scratch,
        retention=median_ratio(best, source),
        over_standard=median_ratio(best, standard),
        relative=median_ratio(best, scratch),
        points=change(best, scratch, lambda row: row.accuracy, lambda row: row.resampled_accuracy),
        robust_points=robust_change(best, scratch, epsilon),
        drop=largest_drop(models),
        drops={seed: largest_drop(models_of(group.seed(seed).of(line))) for seed in seeds},
        epsilon=epsilon,
        speed_up=speed_up(scratch, [best]),
        speed_up_with_source=speed_up(scratch, [best, source]),
    )


def scratch_model(group: Group, dataset: str, method: str) -> Model | None:
    """The model trained from scratch on a data set by a method."""
    found = [row for row in group.of(None) if (row.facts.method, row.facts.dataset) == (method, dataset)]
    return Model(tuple(found)) if found else None


def source_model(group: Group, transferred: Model) -> Model | None:
    """The model that a transfer started from, in each seed."""
    cases = [row.facts.source_case for row in transferred.rows]
    found = tuple(row for row in group.all_rows if row.case in cases)
    return Model(found) if found else None


def best_transfer(models: Sequence[Model]) -> Model | None:
    """The model with the highest median p* (censored is highest), then clean accuracy, then the smallest k."""
    tested = [model for model in models if model.median is not None]
    return max(
        tested,
        key=lambda model: (model.median, model.value(lambda row: row.accuracy), -(model.facts.k or 0)),
        default=None,
    )


def largest_drop(models: Sequence[Model]) -> Drop | None:
    """The largest fall of median p* from one tested k to the next; None where it never falls."""
    tested = [model for model in models if model.facts.k is not None and model.median is not None]
    falls = [
        Drop(a.facts.k, b.facts.k, a.median, b.median)
        for a, b in pairwise(tested)
        if a.facts.k and b.facts.k and a.median is not None and b.median is not None and b.median < a.median
    ]
    if not falls:
        return None
    found = max(falls, key=lambda drop: drop.before - drop.after)
    samples = np.stack([over_seeds([row.resampled_medians for row in model.right]) for model in tested])
    # Between two censored medians nothing is known to fall; a fall from a censored one is the largest there is.
    drops = np.nan_to_num(np.stack([difference(a, b) for a, b in pairwise(samples)]), nan=0.0)
    at = [model.facts.k for model in tested].index(found.k)
    same = (drops.argmax(axis=0) == at) & (drops.max(axis=0) > 0)
    return Drop(found.k, found.following, found.before, found.after, float(np.mean(same)))


def _pairs(above: Model | None, below: Model | None) -> list[tuple[Row, Row]]:
    """Both models' rows, seed by seed."""
    if above is None or below is None:
        return []
    return [(row, other) for row in above.rows if (other := partner(below, row.facts.seed)) is not None]


def median_ratio(numerator: Model | None, denominator: Model | None) -> Ratio | None:
    """Median p* of one model ÷ that of another, with a bootstrap interval over images.

    A censored median is only known to exceed the grid, so the ratio becomes a bound. None where it is undefined: a
    model is missing, has no correct image or a median of 0 to divide by, or both medians are censored.
    """
    ratios = [ratio for above, below in _pairs(numerator, denominator) if (ratio := _ratio(above, below))]
    relations = {relation for _, relation, _, _ in ratios} - {"="}
    seeds = spread(value for value, _, _, _ in ratios)
    if seeds is None or len(relations) > 1:
        return None
    low, _ = interval(over_seeds([least for _, _, least, _ in ratios]))
    _, high = interval(over_seeds([most for _, _, _, most in ratios]))
    relation: Any = relations.pop() if relations else "="
    return Ratio(seeds.value, relation, low, high, seeds)


def _ratio(numerator: Row, denominator: Row) -> tuple[float, str, Resamples, Resamples] | None:
    """Value, relation, and per resampling what the ratio is at least and at most."""
    above, below = numerator.robustness, denominator.robustness
    if not above or not below or above.median is None or not below.median:
        return None
    if math.isinf(above.median) and math.isinf(below.median):
        return None
    relation = "<" if math.isinf(below.median) else ">" if math.isinf(above.median) else "="
    value = min(above.median, above.grid[-1]) / min(below.median, below.grid[-1])
    top, bottom = numerator.resampled_medians, denominator.resampled_medians
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.nan_to_num(np.minimum(top, above.grid[-1]) / bottom, nan=0.0, posinf=math.inf)
        most = np.nan_to_num(top / np.minimum(bottom, below.grid[-1]), nan=math.inf, posinf=math.inf)
    return value, relation, least, most


def change(
    above: Model | None,
    below: Model | None,
    figure: Callable[[Row], float | None],
    resampled: Callable[[Row], Resamples],
) -> Change | None:
    """A figure of one model less that of another; None where either lacks it in every seed."""
    values, samples = [], []
    for a, b in _pairs(above, below):
        ours, theirs = (figure(row) if row.robustness and row.robustness.pstar else None for row in (a, b))
        if ours is not None and theirs is not None:
            values.append(0.0 if ours == theirs else ours - theirs)
            samples.append(difference(resampled(a), resampled(b)))
    seeds = spread(values)
    return Change(seeds.value, *interval(over_seeds(samples)), seeds) if seeds else None


def robust_change(above: Model | None, below: Model | None, epsilon: float | None) -> Change | None:
    """Difference of robust accuracy at a radius that both models' grids have."""
    if epsilon is None:
        return None
    return change(above, below, lambda row: robust_share(row, epsilon), lambda row: row.resampled_robust(epsilon))


def speed_up(scratch: Model | None, instead: Sequence[Model | None]) -> Spread | None:
    """Training seconds of one model ÷ those of others together, seed by seed; None unless all ran on one machine class."""
    if scratch is None or not instead or any(model is None for model in instead):
        return None
    models = [scratch, *(model for model in instead if model)]
    found = []
    for first in models[1].rows:
        rows = [partner(model, first.facts.seed) for model in models]
        trained = [row.trained for row in rows if row and row.trained and row.seconds]
        if len(trained) == len(rows) and len({record.environment.slug for record in trained}) == 1:
            found.append(trained[0].seconds.measured / sum(record.seconds.measured for record in trained[1:]))
    return spread(found)


def partner(model: Model, seed: int) -> Row | None:
    """The row to hold against another model's row of this seed: the same seed's, or the only one there is."""
    return model.rows[0] if len(model.rows) == 1 else model.seed(seed)
