"""The drop point, predicted before any p* of the target is known, beside the one that was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robbench.errors import require
from robbench.report.answers import Drop, largest_drop, largest_fall
from robbench.report.markdown import NOTHING, escape, percent
from robbench.report.rows import ON_SOURCE, Group
from robbench.report.seeds import Model, models_of, source_model

FEWEST = 3
"""Tested k from which a drop point can be found."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one predictor says of one kind of transfer, and what was found."""

    line: str
    predictor: str
    predicted: int | None
    """The k after which it expects median p* to fall most; None where it expects no fall."""
    found: Drop | None
    reached: float | None
    """Median p* of TL#predicted ÷ the highest of all k."""

    @property
    def hit(self) -> bool:
        """Whether the predicted drop point is the one found."""
        return self.predicted == (self.found and self.found.k)


def predictions(group: Group) -> tuple[Prediction, ...]:
    """For every kind of transfer that freezes what it keeps, what each predictor says for which there are figures.

    The polynomial knows what retraining of the same kind makes of the source's data.
    """
    found = []
    for line in group.lines:
        models = models_of(group.of(line))
        tested = [model for model in models if model.median is not None]
        if len(tested) < FEWEST or models[0].facts.kept != "frozen" or models[0].rows[0].on_source:
            continue
        own = [model for model in models_of(group.of(f"{line}{ON_SOURCE}")) if model.median is not None]
        medians = {model.facts.k or 0: _median(model) for model in tested}
        for predictor, falls in _predictors(group, own, models).items():
            drop = largest_fall(falls)
            at = medians.get(drop.k) if drop else None
            found.append(
                Prediction(
                    line=line,
                    predictor=predictor,
                    predicted=drop.k if drop else None,
                    found=largest_drop(models),
                    reached=None if at is None else at / max(medians.values()),
                )
            )
    return tuple(found)


def _predictors(group: Group, own: Sequence[Model], models: Sequence[Model]) -> Mapping[str, list[tuple[int, float]]]:
    """By predictor, for each k of the models what falls most at its drop point."""
    predictors: dict[str, list[tuple[int, float]]] = {}
    if len(own) >= FEWEST:
        source = source_model(group, own[0])
        start = [] if source is None or source.median is None else [((0.0, 0.0), _median(source))]
        measured = [*start, *((size(model), _median(model)) for model in own)]
        fitted = fit([at for at, _ in measured], [median for _, median in measured], [size(model) for model in models])
        predictors["polynomial, fitted on the source"] = [
            (model.facts.k or 0, float(value)) for model, value in zip(models, fitted, strict=True)
        ]
        predictors["as found on the source"] = [(model.facts.k or 0, _median(model)) for model in own]
    drifts = [(model.facts.k or 0, drift) for model in models if (drift := model.value(lambda row: row.drift))]
    if len(drifts) >= FEWEST:
        predictors["feature drift"] = [(k, -float(np.log(drift))) for k, drift in drifts]
    return predictors


def _median(model: Model) -> float:
    return min(model.median or 0.0, model.grid_end)


def size(model: Model) -> tuple[float, float]:
    """Share of the blocks, and of the parameters, that are retrained."""
    facts = model.facts
    return (facts.k or 0) / facts.blocks, facts.trainable / facts.parameters


def fit(
    known: Sequence[tuple[float, float]], medians: Sequence[float], wanted: Sequence[tuple[float, float]]
) -> NDArray[np.float64]:
    """The polynomial c0 + c1 l + c2 n + c3 l² + c4 n² of shares of blocks l and parameters n, fitted by least squares.

    After Baumann's study, whose polynomial is not published. Of several that fit equally well, it is the one of the
    smallest coefficients.

    Args:
        known: (l, n) of the models retrained on the source.
        medians: their median p*.
        wanted: (l, n) of the models of the target.

    Returns:
        (len(wanted),) median p* that it predicts.
    """
    coefficients = np.linalg.lstsq(_powers(known), np.asarray(medians), rcond=None)[0]
    return np.asarray(_powers(wanted) @ coefficients)


def _powers(sizes: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    blocks, parameters = np.asarray(sizes, dtype=float).T
    return np.stack([np.ones_like(blocks), blocks, parameters, blocks**2, parameters**2], axis=1)


_HEADER = ["Transfer", "predictor", "predicted drop point", "found", "median p\\* there, of the best"]


def _line(each: Prediction) -> list[str]:
    return [
        escape(each.line),
        each.predictor,
        f"k = {each.predicted}" if each.predicted else "none",
        f"k = {each.found.k}" if each.found else "none",
        NOTHING if each.reached is None else percent(each.reached, 0),
    ]


def prediction_table(group: Group) -> pd.DataFrame | None:
    """Predicted and found drop points, and what the predicted one reaches; None without a prediction."""
    lines = [_line(each) for each in predictions(group)]
    return pd.DataFrame(lines, columns=_HEADER, dtype=object) if lines else None


def predictor_tables(groups: Sequence[Group]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The drop points of several studies: every prediction, and how often each predictor hit and what it reached at least.

    Raises:
        RobbenchError: there is no prediction in any of them.
    """
    found = [(group, each) for group in groups for each in predictions(group)]
    how = "records of transfers by three k at least, and of the source's data or of drift"
    require(bool(found), "predicted drop points", how, None)
    lines = [[escape(group.suite), group.architecture, *_line(each)] for group, each in found]
    of: dict[str, list[Prediction]] = {}
    for _, each in found:
        of.setdefault(each.predictor, []).append(each)
    hits = []
    for predictor, own in of.items():
        reached = [each.reached for each in own if each.reached is not None]
        least = percent(min(reached), 0) if reached else NOTHING
        hits.append([predictor, f"{sum(each.hit for each in own)} of {len(own)}", least])
    columns = ["predictor", "hits", "median p\\* there, of the best, at least"]
    return (
        pd.DataFrame(lines, columns=["Study", "network", *_HEADER], dtype=object),
        pd.DataFrame(hits, columns=columns, dtype=object),
    )
