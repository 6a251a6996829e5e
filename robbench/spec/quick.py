"""The quick scale: a study with few images, epochs and steps, in which every stage still runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from robbench.spec.base import PositiveInt, Spec
from robbench.spec.estimate import Estimate
from robbench.spec.training import PGD, Dataset, Recipe

if TYPE_CHECKING:
    from robbench.spec.study import Study

_SQUARE_QUERIES = 12
"""Of the audit's Square for each image, at most."""


class Quick(Spec):
    """The size a study shrinks to under ``--robbench-quick``: every stage runs, no figure means anything."""

    train: PositiveInt = 256
    test: PositiveInt = 64
    epochs: PositiveInt = 1
    attack_steps: PositiveInt = 2
    images: PositiveInt = 16


def shrink(study: Study) -> Study:
    """The study at its quick scale: sizes shrink, while radii, optimisers and models stay."""
    quick = study.quick
    small = study.with_recipes(lambda recipe: _recipe(recipe, quick)).with_datasets(lambda data: _dataset(data, quick))
    return replace(small, name=f"{study.name}-quick", estimate=_estimate(study.estimate, quick))


def _attack(attack: PGD, quick: Quick) -> PGD:
    return attack if attack.steps <= quick.attack_steps else replace(attack, steps=quick.attack_steps, step_size=None)


def _recipe(recipe: Recipe, quick: Quick) -> Recipe:
    return replace(
        recipe,
        epochs=min(recipe.epochs, quick.epochs),
        batch_size=min(recipe.batch_size, max(2, quick.train // 4)),
        ramp_epochs=min(recipe.ramp_epochs, quick.epochs / 2),
        attack=recipe.attack and _attack(recipe.attack, quick),
        validation_attack=recipe.validation_attack and _attack(recipe.validation_attack, quick),
    )


def _dataset(dataset: Dataset, quick: Quick) -> Dataset:
    train, test = dataset.train or quick.train, dataset.test or quick.test
    return replace(dataset, train=min(train, quick.train), test=min(test, quick.test))


def _estimate(estimate: Estimate, quick: Quick) -> Estimate:
    audit = estimate.audit
    return replace(
        estimate,
        attack=_attack(estimate.attack, quick),
        images=min(estimate.images, quick.images),
        final_test=tuple(dict.fromkeys(_attack(attack, quick) for attack in estimate.final_test)),
        audit=audit and replace(audit, square_queries=min(audit.square_queries, _SQUARE_QUERIES)),
    )
