"""Which model to choose: the Pareto front of accuracy and median p*, and a recommendation for each of three purposes.

Nothing is recommended below an accuracy floor or on fewer than FEW correct images. A model of several seeds is
one candidate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robbench.report import bootstrap
from robbench.report.bootstrap import Resamples, difference, interval
from robbench.report.ranking import ranking_epsilon
from robbench.report.rows import FEW, Group, Row
from robbench.report.seeds import Model, models_of, resampled, source_model

Purpose = Literal["most robustness", "best balance", "least cost"]

PRICE = 0.1
"""Exponent of seconds in the balance: ten times the training time must buy 10^0.1, a quarter, more expected robustness."""

KEPT = 0.5
"""Share of the most robust model's median p* that the cheapest must have at least."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One model to choose, with the figures that decide."""

    name: str
    model: Model
    floor: float
    """Least clean accuracy with which it may be recommended."""
    epsilon: float
    """End of the range of radii that its expected robustness is taken over."""
    comparable: bool
    """Whether its seconds were measured on the machine class of most of the others."""
    source: Model | None = None
    """What it was transferred from, where that was trained on the same machine class."""

    @property
    def eligible(self) -> bool:
        """Whether it may be recommended."""
        return may_be_crowned(self.model, self.floor)

    @property
    def accuracy(self) -> float:
        """Clean accuracy, median over seeds."""
        return self.model.accuracies.value if self.model.accuracies else 0.0

    @property
    def pstar(self) -> float:
        """Median p*, median over seeds; the grid's end where it is censored, 0 without a correct image."""
        return min(self.model.median or 0.0, self.model.grid_end)

    @property
    def seconds(self) -> float | None:
        """Training seconds, median over seeds; None where they were not measured, or on another machine class."""
        return self.model.seconds if self.comparable else None

    @property
    def seconds_with_source(self) -> float | None:
        """The same with the training of its source counted in, where it is known."""
        source = self.source.seconds if self.source else None
        return None if self.seconds is None else self.seconds + (source or 0.0)

    @property
    def expected(self) -> float:
        """Expected robustness over radii from 0 to ``epsilon``, median over seeds."""
        return self.model.value(lambda row: expected_robustness(row, 0.0, self.epsilon)) or 0.0

    @property
    def balance(self) -> float:
        """Expected robustness ÷ seconds^PRICE."""
        return float(self.expected / (self.seconds or 1.0) ** PRICE)

    @property
    def balance_with_source(self) -> float:
        """The same with the training of its source counted in."""
        return float(self.expected / (self.seconds_with_source or 1.0) ** PRICE)

    @cached_property
    def accuracies(self) -> Resamples:
        """Clean accuracy in every resampling."""
        return self._resampled(lambda row: row.resampled_accuracy)

    @property
    def medians(self) -> Resamples:
        """Median p* in every resampling."""
        return self.model.resampled_medians

    @cached_property
    def expectations(self) -> Resamples:
        """Expected robustness in every resampling."""
        return self._resampled(lambda row: resampled_expectation(row, 0.0, self.epsilon))

    @cached_property
    def durations(self) -> Resamples:
        """Training seconds in every resampling of the seeds."""
        return self._resampled(lambda row: np.full(bootstrap.RESAMPLES, row.seconds or math.nan))

    @property
    def balances(self) -> Resamples:
        """Expected robustness ÷ seconds^PRICE in every resampling."""
        seconds = self.durations if self.seconds else np.ones(bootstrap.RESAMPLES)
        return np.asarray(self.expectations / seconds**PRICE)

    def _resampled(self, figure: Callable[[Row], Resamples]) -> Resamples:
        return resampled(self.model.tested, [figure(row) for row in self.model.tested])


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The model for one purpose."""

    purpose: Purpose
    best: Candidate
    low: float
    """Of the interval of what decides: median p*, expected robustness, or seconds."""
    high: float
    rivals: tuple[Candidate, ...]
    """Candidates that nothing separates from it: the interval of the paired difference holds 0. The nearest first."""
    with_source: Candidate | None = None
    """For the best balance and the least cost: the model where the training of its source is counted in."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The candidates of a study on one data set, and what to choose among them."""

    dataset: str
    candidates: tuple[Candidate, ...]
    recommendations: tuple[Recommendation, ...]
    """None of them where fewer than two candidates may be recommended: then there is no choice."""
    on_front: tuple[Candidate, ...]
    """Eligible candidates that no other beats in clean accuracy and median p* at once, by accuracy, descending."""
    on_front_with_cost: tuple[Candidate, ...]
    """The same with the training seconds as a third dimension."""
    area: float
    """Below the front in the plane of clean accuracy (a share) and median p* (pixel units), from 0."""
    area_interval: tuple[float, float]
    epsilon: float
    """Expected robustness is over radii drawn uniformly from 0 to this one."""
    floors: tuple[float, ...]
    """The accuracy floors, of each architecture, ascending."""

    def recommended(self, purpose: Purpose) -> Recommendation | None:
        """The recommendation for a purpose."""
        return next((each for each in self.recommendations if each.purpose == purpose), None)


def may_be_crowned(model: Model, floor: float) -> bool:
    """Whether a model is as accurate as the floor, and has FEW correct images in every tested seed."""
    accuracy, counts = model.accuracies, [row.correct or 0 for row in model.tested]
    return accuracy is not None and accuracy.value >= floor and min(counts, default=0) >= FEW


def accuracy_floor(group: Group, dataset: str) -> float:
    """The study's floor; without one, half of the conventional model's accuracy on these data.

    Without a conventional model, half of that of the most accurate one.
    """
    if group.accuracy_floor is not None:
        return group.accuracy_floor
    on_data = [model for model in models_of(group.rows) if model.facts.dataset == dataset and model.accuracies]
    conventional = [model for model in on_data if model.facts.method == "standard"] or on_data
    return max((model.accuracies.value / 2 for model in conventional if model.accuracies), default=0.0)


def expected_robustness(row: Row, low: float, high: float) -> float | None:
    """Chance that a test image is classified correctly at a radius drawn uniformly from ``low`` to ``high``.

    That is the mean over ε of the robust accuracy, from the stored p*; misclassified images count as 0, censored ones as 1.
    """
    found = row.robustness
    if found is None or not found.pstar:
        return None
    return float(np.mean(_shares_survived(row, low, high)))


def resampled_expectation(row: Row, low: float, high: float) -> Resamples:
    """Expected robustness in every resampling of the test images."""
    return bootstrap.means(row.facts.dataset, row.record.result, _shares_survived(row, low, high))


def _shares_survived(row: Row, low: float, high: float) -> NDArray[np.float64]:
    """(N,) the share of the radii from ``low`` to ``high`` below each image's p*."""
    found = row.record.result
    radii = np.asarray([*found.grid, math.inf, low])  # the last is that of a misclassified image, whose index is -1
    return np.asarray(np.clip((radii[found.pstar] - low) / (high - low), 0.0, 1.0))


def front(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of (N, D) points no other dominates: is at least as large in every dimension, and larger in one."""
    at_least = (points[None] >= points[:, None]).all(axis=2)
    larger = (points[None] > points[:, None]).any(axis=2)
    return np.asarray(~np.any(at_least & larger, axis=1))


def area_below(across: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area below the staircase over (N, …) points, from 0 in both dimensions: (…) in units of the product."""
    order = np.argsort(-across, axis=0)
    across, up = np.take_along_axis(across, order, axis=0), np.take_along_axis(up, order, axis=0)
    widths = across - np.concatenate([across[1:], np.zeros_like(across[:1])])
    return np.asarray((widths * np.maximum.accumulate(up, axis=0)).sum(axis=0))


def best_under(
    candidates: Sequence[Candidate], *, accuracy: float = 0.0, seconds: float = math.inf
) -> Candidate | None:
    """The most robust eligible candidate with at least so much clean accuracy and at most so many training seconds."""
    within = [
        each
        for each in candidates
        if each.eligible
        and each.accuracy >= accuracy
        and (seconds == math.inf or (each.seconds is not None and each.seconds <= seconds))
    ]
    return max(within, key=lambda each: (each.pstar, each.accuracy), default=None)


def choices(groups: Sequence[Group]) -> tuple[Choice, ...]:
    """What to choose among the models of one study: on the data transferred to, or on each where nothing is transferred."""
    rows = [row for group in groups for row in group.rows if row.accuracy is not None]
    transferred = [row for row in rows if row.facts.k]
    targets = [row.facts.dataset for row in [row for row in transferred if not row.on_source] or transferred or rows]
    return tuple(_choice(_candidates(groups, dataset)) for dataset in dict.fromkeys(targets))


def _candidates(groups: Sequence[Group], dataset: str) -> tuple[Candidate, ...]:
    """The tested models on a data set."""
    owned = [(group, model) for group in groups for model in models_of(group.rows) if model.facts.dataset == dataset]
    owned = [(group, model) for group, model in owned if model.tested]
    trained = [row.trained for _, model in owned for row in model.rows if row.trained and row.seconds]
    slugs = Counter(record.environment.slug for record in trained)
    usual = max(slugs, key=slugs.__getitem__, default="")

    def measured_alike(model: Model | None) -> bool:
        return model is not None and all(row.trained and row.trained.environment.slug == usual for row in model.rows)

    several = len({group.architecture for group, _ in owned}) > 1
    epsilon = next((found for group in groups if (found := ranking_epsilon(group))), None)
    return tuple(
        Candidate(
            name=f"{group.architecture} {model.label}" if several else model.label,
            model=model,
            floor=accuracy_floor(group, dataset),
            epsilon=epsilon or max(model.grid_end for _, model in owned),
            comparable=measured_alike(model),
            source=source if measured_alike(source) else None,
        )
        for group, model in owned
        for source in (source_model(group, model),)
    )


def _choice(candidates: tuple[Candidate, ...]) -> Choice:
    eligible = [each for each in candidates if each.eligible]
    flat = np.asarray([(each.accuracy, each.pstar) for each in eligible]).reshape(-1, 2)
    costs = np.asarray([-each.seconds if each.seconds else -math.inf for each in eligible])
    descending = sorted(zip(eligible, front(flat), strict=True), key=lambda pair: -pair[0].accuracy)
    return Choice(
        dataset=candidates[0].model.facts.dataset,
        candidates=candidates,
        recommendations=_recommendations(eligible) if len(eligible) > 1 else (),
        on_front=tuple(each for each, there in descending if there),
        on_front_with_cost=tuple(
            each for each, there in zip(eligible, front(np.column_stack([flat, costs])), strict=True) if there
        ),
        area=float(area_below(flat[:, 0], flat[:, 1])) if eligible else 0.0,
        area_interval=_area_interval(eligible),
        epsilon=candidates[0].epsilon,
        floors=tuple(sorted({each.floor for each in candidates})),
    )


def _area_interval(eligible: Sequence[Candidate]) -> tuple[float, float]:
    if not eligible:
        return 0.0, 0.0
    medians = [np.minimum(np.nan_to_num(each.medians, posinf=math.inf), each.model.grid_end) for each in eligible]
    return interval(area_below(np.stack([each.accuracies for each in eligible]), np.stack(medians)))


def _recommendations(eligible: Sequence[Candidate]) -> tuple[Recommendation, ...]:
    robust = max(eligible, key=lambda each: (each.model.median or 0.0, each.accuracy))
    timed = [each for each in eligible if each.seconds]
    balanced = max(timed or eligible, key=lambda each: each.balance)
    found = [
        _recommend("most robustness", robust, eligible, lambda each: each.medians),
        replace(
            _recommend("best balance", balanced, timed or eligible, lambda each: each.balances, _expectations),
            with_source=max(timed, key=lambda each: each.balance_with_source, default=None),
        ),
    ]
    kept = [each for each in timed if each.pstar >= KEPT * robust.pstar]
    if kept:
        cheapest = min(kept, key=lambda each: each.seconds or math.inf)
        found.append(
            replace(
                _recommend("least cost", cheapest, kept, lambda each: -each.durations, lambda each: each.durations),
                with_source=min(kept, key=lambda each: each.seconds_with_source or math.inf),
            )
        )
    return tuple(found)


def _expectations(candidate: Candidate) -> Resamples:
    return candidate.expectations


def _recommend(
    purpose: Purpose,
    best: Candidate,
    among: Sequence[Candidate],
    deciding: Callable[[Candidate], Resamples],
    shown: Callable[[Candidate], Resamples] | None = None,
) -> Recommendation:
    """The best by a figure, of which more is better; its interval is that of the figure, or of ``shown`` in its place."""
    rivals = []
    for other in (each for each in among if each is not best):
        apart = difference(deciding(best), deciding(other))
        low, high = interval(apart)
        if low <= 0 <= high:
            rivals.append((float(np.nanmedian(apart)), other))
    low, high = interval((shown or deciding)(best))
    nearest = sorted(rivals, key=lambda pair: pair[0])
    return Recommendation(purpose=purpose, best=best, low=low, high=high, rivals=tuple(each for _, each in nearest))
