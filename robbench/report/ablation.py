"""What each field of the thesis protocol changes: an ablation's models against the same models without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robbench.record import ModelFacts
from robbench.report.answers import Change, change, robust_change, speed_up
from robbench.report.ranking import beyond_noise, ranking_epsilon
from robbench.report.rows import Group
from robbench.report.seeds import Model, Spread, models_of

FEW = 30
"""Correct images below which a median is called out, and no finding rests on it."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One model with one field as in the thesis, against the model as its study declares it."""

    field: str
    varied: Model
    base: Model | None
    accuracy: Change | None
    median: Change | None
    robust: Change | None
    """Robust accuracy at ``epsilon``."""
    epsilon: float | None
    factor: Spread | None
    """Training seconds ÷ those of the base, on the same machine class."""

    @property
    def moved(self) -> tuple[str, ...]:
        """The figures that changed beyond noise: a grid step of median p*, a point of a share, and the interval.

        A median over fewer than FEW correct images is none of them.
        """
        grid = next((row.robustness.grid for row in self.varied.tested if row.robustness), [0.0])
        step = grid[1] - grid[0] if len(grid) > 1 else 0.0
        tested = [row for model in (self.varied, self.base) if model is not None for row in model.tested]
        enough = all(row.robustness.clean.correct >= FEW for row in tested if row.robustness)
        figures = (
            ("median p*", self.median if enough else None, step),
            ("clean accuracy", self.accuracy, 0.01),
            ("robust accuracy", self.robust, 0.01),
        )
        return tuple(
            name for name, found, least in figures if found and abs(found.value) > least + 1e-12 and beyond_noise(found)
        )


def effects(group: Group) -> tuple[Effect, ...]:
    """Every variant of a group, by field."""
    epsilon = ranking_epsilon(group)
    bases = {_key(model.facts): model for model in models_of(group.rows)}
    found = [_effect(model, bases.get(_key(model.facts)), epsilon) for model in models_of(group.variants)]
    fields = [*dict.fromkeys(effect.field for effect in found)]
    return tuple(sorted(found, key=lambda effect: fields.index(effect.field)))


def _effect(varied: Model, base: Model | None, epsilon: float | None) -> Effect:
    if base is not None:
        seeds = {row.facts.seed for row in varied.rows}
        own = tuple(row for row in base.rows if row.facts.seed in seeds)
        base = Model(own) if own else base
    return Effect(
        field=varied.facts.variant or "",
        varied=varied,
        base=base,
        accuracy=change(varied, base, lambda row: row.accuracy, lambda row: row.resampled_accuracy),
        median=change(varied, base, lambda row: row.median, lambda row: row.resampled_medians),
        robust=robust_change(varied, base, epsilon),
        epsilon=epsilon,
        factor=speed_up(varied, [base]),
    )


def _key(facts: ModelFacts) -> tuple[object, ...]:
    """What a variant shares with its base: all but the seed, the variant, and the variants of its source."""
    return facts.dataset, facts.method, facts.source, facts.source_method, facts.k, facts.head, facts.kept


def fields_that_move(found: Sequence[Effect]) -> dict[str, list[Effect]]:
    """Per field the effects beyond noise; an empty list where there is none."""
    fields: dict[str, list[Effect]] = {}
    for effect in found:
        fields.setdefault(effect.field, []).extend([effect] if effect.moved else [])
    return fields
