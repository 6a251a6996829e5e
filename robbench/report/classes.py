"""Robustness class by class: the table of every model, what the short report says of it, and the CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from robbench.record import OfClass
from robbench.report.answers import Answer
from robbench.report.choice import Choice
from robbench.report.markdown import escape, percent, pstar
from robbench.report.rows import Group
from robbench.report.seeds import Model, models_of, spread

RIGHT = 10
"""Correct images below which the median of a class is shown pale, and the class is not named in a sentence."""

MODELS, CLASSES, NAMED = 4, 10, 3
"""The most models and classes of a table in ``report.md``, and how many classes a sentence names at each end."""


class Cell(NamedTuple):
    """One class in one model."""

    median: float | None
    """Median p*, median over seeds: inf when censored, None without a correct image."""
    share: float | None
    """Clean accuracy, median over seeds; None without a test image."""
    right: int
    """Images classified correctly, in the seed that has the fewest."""
    grid_end: float

    def __str__(self) -> str:
        """``0.205 (77.8%)``."""
        return f"{pstar(self.median, self.grid_end)} ({percent(self.share)})"


def classes_of(model: Model) -> dict[str, Cell]:
    """The classes of a model's data by their names; none where none was recorded."""
    seeds = [row.robustness.classes for row in model.tested if row.robustness and row.robustness.classes]
    return {own[0].name: _cell(own, model.grid_end) for own in zip(*seeds, strict=True)}


def _cell(seeds: Sequence[OfClass], grid_end: float) -> Cell:
    medians = spread(math.inf if each.censored else each.median_pstar for each in seeds)
    shares = spread(each.clean.share for each in seeds)
    right = min(each.clean.correct for each in seeds)
    return Cell(medians.value if medians else None, shares.value if shares else None, right, grid_end)


def balanced(model: Model) -> str:
    """Mean of the classes' clean accuracies, median over seeds."""
    return percent(model.value(lambda row: row.balanced_accuracy))


def by_dataset(models: Sequence[Model]) -> dict[str, list[Model]]:
    """The models whose classes are told apart, by the name of their data."""
    found: dict[str, list[Model]] = {}
    for model in models:
        if classes_of(model):
            found.setdefault(model.rows[0].record.data.name, []).append(model)
    return found


def compared(group: Group, answer: Answer | None, choices: Sequence[Choice]) -> list[Model]:
    """The few models of a group that a report compares or recommends, where their classes differ in size.

    The best transfer and the models from scratch on its data, then what is recommended; of none, the first few models.
    """
    answered = [answer.best, answer.scratch, answer.standard] if answer else []
    chosen = [each.best.model for choice in choices for each in choice.recommendations]
    own = [model for model in [*answered, *chosen] if model and model.facts.architecture == group.architecture]
    named = {model.label: model for model in own if _differ(model)}
    return [*(named.values() or filter(_differ, models_of(group.rows)))][:MODELS]


def _differ(model: Model) -> bool:
    """Whether a model's classes are known, and differ in size."""
    found = [row.robustness for row in model.tested if row.robustness]
    return any(each.classes and each.imbalanced for each in found)


def class_summaries(models: Sequence[Model]) -> list[dict[str, Any]]:
    """What ``report.md`` says of the models on each data set: a table of few classes, else the extremes of two models."""
    found = []
    for dataset, own in by_dataset(models).items():
        count = len(classes_of(own[0]))
        table = classes_table(own) if count <= CLASSES else None
        said = [(model.label, balanced(model), *extremes(model)) for model in own[:2]]
        found.append({"dataset": dataset, "count": count, "table": table, "said": said})
    return found


def classes_table(models: Sequence[Model]) -> pd.DataFrame:
    """Balanced accuracy, then median p* and clean accuracy of each class, of models on one data set."""
    found = [classes_of(model) for model in models]
    lines = [["balanced accuracy", *map(balanced, models)]]
    lines += [[escape(name), *(str(classes[name]) for classes in found)] for name in found[0]]
    return pd.DataFrame(lines, columns=["Class", *(escape(model.label) for model in models)], dtype=object)


def extremes(model: Model) -> tuple[list[str], list[str]]:
    """The least and the most robust classes among those with enough correct images, each with its figures."""
    enough = [(name, cell) for name, cell in classes_of(model).items() if cell.right >= RIGHT]
    ranked = sorted(enough, key=lambda pair: (pair[1].median, pair[1].share))
    texts = [f"{name} {cell}" for name, cell in ranked]
    return texts[:NAMED], texts[: -NAMED - 1 : -1]


def classes_csv(groups: Sequence[Group]) -> bytes:
    """One row per model, seed and class; a censored median is ``inf``, an empty field does not exist; empty of none."""
    rows = [
        {
            "suite": row.suite,
            "case": row.case,
            "label": row.label,
            "class": each.name,
            "test_images": each.clean.total,
            "correct_images": each.clean.correct,
            "median_pstar": math.inf if each.censored else each.median_pstar,
        }
        for group in groups
        for row in group.all_rows
        for each in (row.robustness.classes if row.robustness else ())
    ]
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.10g", lineterminator="\n").encode() if rows else b""
