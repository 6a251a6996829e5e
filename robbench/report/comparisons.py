"""One model against another: ratios of medians, differences of figures, factors of time, each over seeds and images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robbench.record import grid_index
from robbench.report.bootstrap import Resamples, difference, interval
from robbench.report.rows import Row
from robbench.report.seeds import Model, Spread, resampled, spread


@dataclass(frozen=True)
class Change:
    """A difference of two models' figures, its median over seeds."""

    value: float
    low: float
    """Of the bootstrap interval over seeds and images, drawn alike for both."""
    high: float
    seeds: Spread

    @property
    def sureness(self) -> float:
        """The difference in units of its interval's width."""
        width = self.high - self.low
        return abs(self.value) / width if math.isfinite(width) and width > 0 else math.inf

    def beyond_noise(self, step: float) -> bool:
        """Whether it is larger than a step, its interval leaves out 0, and every seed agrees on the sign."""
        same_sign = self.seeds.low > 0 or self.seeds.high < 0
        return same_sign and bool(self.low > 0 or self.high < 0) and abs(self.value) > step + 1e-12


@dataclass(frozen=True)
class Ratio(Change):
    """A ratio of two medians; a bound where one of them is censored."""

    relation: Literal["=", "<", ">"]


@dataclass(frozen=True)
class Best:
    """The best of several models, and which of them is the best in every resampling."""

    model: Model
    models: tuple[Model, ...]
    chosen: NDArray[np.intp]
    """(RESAMPLES,) indices into ``models``."""

    @property
    def stability(self) -> float:
        """Share of the resamplings that choose the same model."""
        return float(np.mean(self.chosen == self.models.index(self.model)))

    def resampled(self, figure: Callable[[Model], Resamples]) -> Resamples:
        """A figure of the model that is the best in each resampling: an interval that repeats the choice."""
        found = np.empty(len(self.chosen))
        for index in np.unique(self.chosen):
            here = self.chosen == index
            found[here] = figure(self.models[index])[here]
        return found


def _resampled(model: Model | Best, figure: Callable[[Model], Resamples]) -> Resamples:
    return model.resampled(figure) if isinstance(model, Best) else figure(model)


def _model(model: Model | Best | None) -> Model | None:
    return model.model if isinstance(model, Best) else model


def _partner(model: Model, seed: int) -> Row | None:
    """The row to hold against another model's row of this seed: the same seed's, or the only one there is."""
    return next((row for row in model.rows if len(model.rows) == 1 or row.facts.seed == seed), None)


def _pairs(above: Model | None, below: Model | None) -> list[tuple[Row, Row]]:
    """Both models' rows, seed by seed."""
    if above is None or below is None:
        return []
    return [(row, other) for row in above.rows if (other := _partner(below, row.facts.seed)) is not None]


def median_ratio(numerator: Model | Best | None, denominator: Model | None) -> Ratio | None:
    """Median p* of one model ÷ that of another: a bound where one is censored, None where both are or either lacks one."""
    ratios = [ratio for above, below in _pairs(_model(numerator), denominator) if (ratio := _ratio(above, below))]
    relations = {relation for _, relation in ratios} - {"="}
    seeds = spread(value for value, _ in ratios)
    if numerator is None or seeds is None or len(relations) > 1:
        return None
    low, _ = interval(_resampled(numerator, lambda model: _ratios(model, denominator, _least)))
    _, high = interval(_resampled(numerator, lambda model: _ratios(model, denominator, _most)))
    relation: Any = relations.pop() if relations else "="
    return Ratio(seeds.value, low, high, seeds, relation)


def _ratios(numerator: Model, denominator: Model | None, end: Callable[[Row, Row], Resamples]) -> Resamples:
    pairs = [pair for pair in _pairs(numerator, denominator) if all(row.median is not None for row in pair)]
    return resampled([above for above, _ in pairs], [end(above, below) for above, below in pairs])


def _ratio(numerator: Row, denominator: Row) -> tuple[float, str] | None:
    """Value and relation."""
    above, below = numerator.robustness, denominator.robustness
    if not above or not below or above.median is None or not below.median or above.median == below.median == math.inf:
        return None
    relation = "<" if math.isinf(below.median) else ">" if math.isinf(above.median) else "="
    value = min(above.median, above.grid[-1]) / min(below.median, below.grid[-1])
    return value, relation


def _least(numerator: Row, denominator: Row) -> Resamples:
    """What the ratio of medians is at least in every resampling."""
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.minimum(numerator.resampled_medians, numerator.record.result.grid[-1])
        return np.asarray(np.nan_to_num(least / denominator.resampled_medians, nan=0.0, posinf=math.inf))


def _most(numerator: Row, denominator: Row) -> Resamples:
    """What the ratio of medians is at most in every resampling."""
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.minimum(denominator.resampled_medians, denominator.record.result.grid[-1])
        return np.asarray(np.nan_to_num(numerator.resampled_medians / least, nan=math.inf, posinf=math.inf))


def change(
    above: Model | Best | None,
    below: Model | None,
    figure: Callable[[Row], float | None],
    samples: Callable[[Row], Resamples],
) -> Change | None:
    """A figure of one model less that of another; None where either lacks it in every seed."""

    def pairs(model: Model | None) -> list[tuple[Row, Row, float]]:
        """Both rows, and the difference of their figures."""
        found = []
        for pair in _pairs(model, below):
            ours, theirs = (figure(row) if row.robustness and row.robustness.pstar else None for row in pair)
            if ours is not None and theirs is not None:
                found.append((*pair, 0.0 if ours == theirs else ours - theirs))
        return found

    def differences(model: Model) -> Resamples:
        found = pairs(model)
        return resampled([a for a, _, _ in found], [difference(samples(a), samples(b)) for a, b, _ in found])

    seeds = spread(value for _, _, value in pairs(_model(above)))
    return Change(seeds.value, *interval(_resampled(above, differences)), seeds) if above and seeds else None


def accuracy_change(above: Model | Best | None, below: Model | None) -> Change | None:
    """Difference of clean accuracy."""
    return change(above, below, lambda row: row.accuracy, lambda row: row.resampled_accuracy)


def robust_change(above: Model | Best | None, below: Model | None, epsilon: float | None) -> Change | None:
    """Difference of robust accuracy at a radius that both models' grids have."""
    return change(above, below, lambda row: row.robust(epsilon), lambda row: row.resampled_shares(epsilon))


def speed_up(scratch: Model | None, instead: Sequence[Model | None]) -> Spread | None:
    """Training seconds of one model ÷ those of others together, seed by seed; None unless all ran on one machine class."""
    models = [model for model in (scratch, *instead) if model]
    if len(models) <= len(instead):
        return None
    found = []
    for first in models[1].rows:
        rows = [_partner(model, first.facts.seed) for model in models]
        trained = [row.trained for row in rows if row and row.trained and row.seconds]
        if len(trained) == len(rows) and len({record.environment.slug for record in trained}) == 1:
            found.append(trained[0].seconds.measured / sum(record.seconds.measured for record in trained[1:]))
    return spread(found)


def fixed_epsilons(grid: Sequence[float]) -> tuple[float, ...]:
    """The radii that robust accuracies are shown at: the thesis's where the grid tells them apart, else shares of it."""
    wanted = (0.1, 0.2, 0.3) if grid[-1] >= 0.3 - 1e-9 else (2 / 255, 4 / 255, 8 / 255)
    if len({grid_index(grid, radius) for radius in wanted if radius <= grid[-1] + 1e-9}) == len(wanted):
        return wanted
    return tuple(sorted({_nearest(grid, share * grid[-1]) for share in (0.25, 0.5, 1.0)} - {0.0}))


def _nearest(grid: Sequence[float], epsilon: float) -> float:
    return min(grid, key=lambda value: abs(value - epsilon))


def comparison_epsilon(grid: Sequence[float], adversarial: Row | None) -> float | None:
    """The radius of a model's adversarial training; the largest fixed one without any, or where the grid ends below."""
    spec = adversarial.record.spec if adversarial else {}
    recipe = spec.get("model", spec).get("recipe") or {}
    radius = (recipe.get("attack") or {}).get("epsilon")
    if radius and radius <= grid[-1] + 1e-9:
        return float(radius)
    return max(fixed_epsilons(grid), default=None)
