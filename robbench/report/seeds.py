"""Models that differ in nothing but their seed, as one: the median over seeds, and how far the seeds lie apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robbench.record import ModelFacts
from robbench.report.bootstrap import RESAMPLES, Resamples, over_seeds
from robbench.report.published import Published
from robbench.report.rows import Group, Row


@dataclass(frozen=True)
class Spread:
    """The median of a figure over seeds, and its value in each of them, ascending."""

    value: float
    values: tuple[float, ...]

    @property
    def low(self) -> float:
        """The least."""
        return self.values[0]

    @property
    def high(self) -> float:
        """The greatest."""
        return self.values[-1]

    @property
    def count(self) -> int:
        """How many seeds have the figure."""
        return len(self.values)


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of the values that exist; None of none."""
    found = sorted(value for value in values if value is not None and not math.isnan(value))
    if not found:
        return None
    value = statistics.median(found)  # halfway between -inf and inf there is none: take the lower
    return Spread(statistics.median_low(found) if math.isnan(value) else value, tuple(found))


def resampled(rows: Sequence[Row], samples: Sequence[Resamples]) -> Resamples:
    """A figure over seeds in every resampling, from its resamplings in each seed's row; NaN of none."""
    if not rows:
        return np.full(RESAMPLES, math.nan)
    return over_seeds(samples, anew=len({row.images_drawn for row in rows}) == len(rows))


@dataclass(frozen=True)
class Model:
    """One model in each of its seeds, ascending."""

    rows: tuple[Row, ...]

    @property
    def facts(self) -> ModelFacts:
        """The facts of its first seed."""
        return self.rows[0].facts

    @property
    def label(self) -> str:
        """Its name in tables, without a seed."""
        return self.rows[0].label

    @property
    def line(self) -> str | None:
        """The kind of transfer; None of a model that was not transferred."""
        return self.rows[0].line

    @property
    def published(self) -> Published | None:
        """The published row to compare with."""
        return self.rows[0].published

    @property
    def tested(self) -> tuple[Row, ...]:
        """The seeds with an estimate of p*."""
        return tuple(row for row in self.rows if row.robustness and row.robustness.pstar)

    @property
    def right(self) -> tuple[Row, ...]:
        """The seeds with an estimate and at least one image classified correctly."""
        return tuple(row for row in self.tested if row.median is not None)

    @property
    def grid_end(self) -> float:
        """The largest ε that p* was looked for at; NaN without an estimate."""
        return max((row.robustness.grid[-1] for row in self.tested if row.robustness), default=math.nan)

    @property
    def medians(self) -> Spread | None:
        """Median p* over seeds."""
        return self.spread(lambda row: row.median)

    @property
    def median(self) -> float | None:
        """Median over seeds of median p*."""
        return self.medians.value if self.medians else None

    @cached_property
    def resampled_medians(self) -> Resamples:
        """Its median over seeds in every resampling of seeds and images."""
        return resampled(self.right, [row.resampled_medians for row in self.right])

    @property
    def accuracies(self) -> Spread | None:
        """Clean accuracy over seeds."""
        return self.spread(lambda row: row.accuracy)

    @property
    def seconds(self) -> float | None:
        """Median over seeds of training seconds."""
        return self.value(lambda row: row.seconds)

    def spread(self, figure: Callable[[Row], float | None]) -> Spread | None:
        """A figure of its rows over seeds."""
        return spread(map(figure, self.rows))

    def value(self, figure: Callable[[Row], float | None]) -> float | None:
        """The median of a figure over seeds; None where no seed has it."""
        found = self.spread(figure)
        return found.value if found else None


def models_of(rows: Sequence[Row]) -> tuple[Model, ...]:
    """Rows of one architecture joined over seeds, in their order."""
    models: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        models.setdefault((row.label, row.facts.variant), []).append(row)
    return tuple(Model(tuple(sorted(found, key=lambda row: row.facts.seed))) for found in models.values())


def source_model(group: Group, transferred: Model) -> Model | None:
    """The model that a transfer started from, in each seed; None of models from scratch or from a checkpoint."""
    cases = [row.facts.source_case for row in transferred.rows]
    found = tuple(row for row in group.all_rows if row.case in cases)
    return Model(found) if found else None
