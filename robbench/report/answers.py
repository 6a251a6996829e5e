"""The study's three questions in figures: each kind of transfer at its best k, against the models trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from robbench.report import comparisons
from robbench.report.bootstrap import difference
from robbench.report.choice import accuracy_floor, may_be_crowned
from robbench.report.rows import Group
from robbench.report.seeds import Model, Spread, models_of, resampled, source_model


@dataclass(frozen=True)
class Drop:
    """Where median p* falls most from one k to the next."""

    k: int
    following: int
    before: float
    after: float
    stability: float = 1.0
    """Share of the bootstrap resamplings whose largest fall is the same."""


def largest_fall(medians: Sequence[tuple[int, float]]) -> Drop | None:
    """The largest fall of medians by k; None where there is none."""
    falls = [Drop(k, after, high, low) for (k, high), (after, low) in pairwise(medians) if low < high]
    return max(falls, key=lambda drop: drop.before - drop.after, default=None)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One kind of transfer at its best k, held against the models trained from scratch."""

    line: str
    models: tuple[Model, ...]
    """Every k of the line, tested or not."""
    best: Model | None
    """Highest median p*, then highest clean accuracy, of those that may be crowned; None where none may."""
    stability: float
    """Share of the bootstrap resamplings in which the same k is the best; all intervals here choose it anew in each."""
    source: Model | None
    standard: Model | None
    """Conventionally trained on the target."""
    scratch: Model | None
    """Adversarially trained on the target."""
    retention: comparisons.Ratio | None
    over_standard: comparisons.Ratio | None
    relative: comparisons.Ratio | None
    points: comparisons.Change | None
    """Clean accuracy of the best transfer less that of the model from scratch, as a share."""
    robust_points: comparisons.Change | None
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
    def robust_shares(self) -> list[float | None]:
        """Robust accuracy at ``epsilon`` of the best transfer and of the model from scratch."""
        pair = self.best, self.scratch
        return [model.value(lambda row: row.robust(self.epsilon)) if model else None for model in pair]


def answers(group: Group) -> tuple[Answer, ...]:
    """The answers for every kind of transfer of a group."""
    return tuple(_answer(group, line) for line in group.lines)


def compared(found: Sequence[Answer]) -> tuple[bool, bool, bool]:
    """Whether there is a model to answer each question against: the source, and the target from scratch for two."""
    scratch = any(answer.scratch for answer in found)
    return any(answer.source for answer in found), scratch, scratch


def _answer(group: Group, line: str) -> Answer:
    rows = group.of(line)
    models, target = models_of(rows), rows[0].facts.dataset
    choice = best_transfer([model for model in models if may_be_crowned(model, accuracy_floor(group, target))])
    best = choice.model if choice else None
    source, standard = source_model(group, best or models[0]), scratch_model(group, target, "standard")
    scratch = scratch_model(group, target, "pgd")
    reference = scratch or source
    tested = best and best.right[0].robustness
    epsilon = comparisons.comparison_epsilon(tested.grid, reference.rows[0] if reference else None) if tested else None
    seeds = sorted({row.facts.seed for row in rows})
    return Answer(
        line=line,
        models=models,
        best=best,
        stability=choice.stability if choice else 1.0,
        source=source,
        standard=standard,
        scratch=scratch,
        retention=comparisons.median_ratio(choice, source),
        over_standard=comparisons.median_ratio(choice, standard),
        relative=comparisons.median_ratio(choice, scratch),
        points=comparisons.accuracy_change(choice, scratch),
        robust_points=comparisons.robust_change(choice, scratch, epsilon),
        drop=largest_drop(models),
        drops={seed: largest_drop(models_of([row for row in rows if row.facts.seed == seed])) for seed in seeds},
        epsilon=epsilon,
        speed_up=comparisons.speed_up(scratch, [best]),
        speed_up_with_source=comparisons.speed_up(scratch, [best, source]),
    )


def scratch_model(group: Group, dataset: str, method: str) -> Model | None:
    """The model trained from scratch on a data set by a method."""
    found = tuple(row for row in group.of(None) if (row.facts.method, row.facts.dataset) == (method, dataset))
    return Model(found) if found else None


def best_transfer(models: Sequence[Model]) -> comparisons.Best | None:
    """The model with the highest median p* (censored is highest), then clean accuracy, then the smallest k.

    Chosen by the same rule in every resampling.
    """
    tested = tuple(model for model in models if model.median is not None)
    tested = tuple(sorted(tested, key=lambda model: model.facts.k or 0))  # of equals, max and argmax take the first
    if not tested:
        return None
    best = max(tested, key=lambda model: (model.median, model.value(lambda row: row.accuracy)))
    medians = np.nan_to_num(np.stack([model.resampled_medians for model in tested]), nan=-1.0, posinf=np.inf)
    highest = medians == medians.max(axis=0)
    accuracies = np.zeros_like(medians)
    for index in np.flatnonzero((highest & (highest.sum(axis=0) > 1)).any(axis=1)):  # of the tied alone
        rows = tested[index].tested
        accuracies[index] = resampled(rows, [row.resampled_accuracy for row in rows])
    return comparisons.Best(best, tested, np.where(highest, accuracies, -1.0).argmax(axis=0))


def largest_drop(models: Sequence[Model]) -> Drop | None:
    """The largest fall of median p* from one tested k to the next; None where it never falls."""
    tested = [model for model in models if model.median is not None]
    found = largest_fall([(model.facts.k or 0, model.median or 0.0) for model in tested])
    if found is None:
        return None
    samples = np.stack([model.resampled_medians for model in tested])
    # Between two censored medians nothing is known to fall; a fall from a censored one is the largest there is.
    drops = np.nan_to_num(np.stack([difference(a, b) for a, b in pairwise(samples)]), nan=0.0)
    at = [model.facts.k for model in tested].index(found.k)
    same = (drops.argmax(axis=0) == at) & (drops.max(axis=0) > 0)
    return replace(found, stability=float(np.mean(same)))
