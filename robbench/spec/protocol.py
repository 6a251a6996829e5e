"""The fields in which the thesis's published code departs from sound practice, one by one."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, get_args

from robbench.spec.catalogue import DATASETS
from robbench.spec.estimate import EpsilonGrid, Estimate
from robbench.spec.objectives import IBP
from robbench.spec.training import PGD, Dataset, Recipe

Protocol = Literal["sound", "thesis"]

ProtocolField = Literal[
    "statistics",
    "kept_statistics",
    "kept",
    "split",
    "orientation",
    "box",
    "kept_epoch",
    "kept_scale",
    "epochs",
    "oracle_box",
    "grid",
    "search",
    "random_start",
]

PROTOCOL_FIELDS: tuple[ProtocolField, ...] = get_args(ProtocolField)
"""All fields that the thesis protocol sets."""

EFFECTS: dict[ProtocolField, str] = {
    "statistics": "adversarial updates use running batch-norm statistics, which never change, and no dropout",
    "kept_statistics": "frozen blocks are in training mode, so that their batch-norm statistics drift to the target's",
    "kept": "adversarial retraining, but of MNIST and EMNIST, freezes nothing: the whole network is retrained from the "
    "source's weights, the last k blocks from new ones, in batches of at most 128",
    "split": "validation images are drawn independently of the training images, so that most are trained on; "
    "those of MNIST and EMNIST are disjoint",
    "orientation": "the target's letters are transposed, as torchvision stores EMNIST",
    "box": "training attacks may leave the valid pixels, up to [−2.5, 2.5]",
    "kept_epoch": "the epoch of the best clean validation accuracy is kept, in adversarial training too",
    "kept_scale": "fine-tuned kept blocks learn at 0.001 of the rate",
    "epochs": "adversarial retraining of MNIST and EMNIST ends after 20 epochs",
    "oracle_box": "the search may leave the valid pixels where networks normalise their input, up to [−0.13, 1.11]",
    "grid": "the grid leaves out its end, as numpy's arange does",
    "search": "p* is found by a binary search with one PGD of 40 steps, a weak attack on adversarially trained networks",
    "random_start": "PGD at fixed radii starts at random",
}
"""What the thesis's value of each field does."""

_BOX = (-2.5, 2.5)

_ORACLE_BOX = (-0.13, 1.11)
"""About ±2.5 in normalised space: of CIFAR-10's red, −0.126 to 1.109; of other channels, −0.25 to 1.18 at most."""

_MNIST = frozenset({"mnist", "emnist"})
"""Their published scripts make one split, freeze what is kept, and end adversarial retraining after 20 epochs."""


def thesis_recipe(recipe: Recipe, fields: Collection[ProtocolField]) -> Recipe:
    """The recipe with the thesis's values of these fields, where they can change weights."""
    if recipe.adversarial and "statistics" in fields:
        recipe = replace(recipe, statistics="running")
    # Without an attack, the best robust accuracy is the best clean one already.
    published = not isinstance(recipe.objective, IBP)  # whose early epochs are no candidates
    if "kept_epoch" in fields and published and (recipe.adversarial or recipe.kept_epoch == "last"):
        recipe = replace(recipe, kept_epoch="clean")
    if "box" in fields:
        recipe = replace(recipe, attack=_wide(recipe.attack), validation_attack=_wide(recipe.validation_attack))
    return recipe


def _wide(attack: PGD | None) -> PGD | None:
    return attack and replace(attack, box=_BOX)


def thesis_dataset(dataset: Dataset, fields: Collection[ProtocolField]) -> Dataset:
    """The dataset with the thesis's values of these fields: letters are stored transposed, MNIST's splits disjoint."""
    if "orientation" in fields and dataset.name in DATASETS and DATASETS[dataset.name].transposed:
        dataset = replace(dataset, orientation="stored")
    overlapping = "split" in fields and dataset.name not in _MNIST
    return replace(dataset, split="overlapping") if overlapping else dataset


def thesis_kept(kept: str, fields: Collection[ProtocolField]) -> dict[str, Any]:
    """The thesis's values of those fields of a transfer that its kept blocks use."""
    if kept == "frozen" and "kept_statistics" in fields:
        return {"kept_statistics": "train"}
    return {"kept_scale": 0.001} if kept == "finetuned" and "kept_scale" in fields else {}


def froze_nothing(kept: str, recipe: Recipe, target: Dataset) -> bool:
    """Whether the published code retrained the whole network in such a transfer, which is declared to freeze."""
    return kept == "frozen" and recipe.adversarial and target.name not in _MNIST


def thesis_retraining(recipe: Recipe, target: Dataset, fields: Collection[ProtocolField], *, warm: bool) -> Recipe:
    """The recipe of a transfer with the thesis's batch, if ``warm``, and epochs, if of MNIST or EMNIST."""
    if warm:
        recipe = replace(recipe, batch_size=min(recipe.batch_size, 128))
    if "epochs" in fields and recipe.adversarial and target.name in _MNIST:
        recipe = replace(recipe, epochs=min(recipe.epochs, 20))
    return recipe


def thesis_estimate(estimate: Estimate, fields: Collection[ProtocolField], *, normalised: bool) -> Estimate:
    """The estimate with the thesis's values of these fields; ``normalised``: networks normalise their input."""
    if "oracle_box" in fields and normalised:
        estimate = replace(estimate, attack=replace(estimate.attack, box=_ORACLE_BOX))
    if "grid" in fields:
        estimate = replace(estimate, grid=_without_end(estimate.grid))
    if "search" in fields:
        estimate = replace(estimate, search="reference")
    if "random_start" in fields:
        tests = (
            replace(attack, random_start=attack.steps > 1) if isinstance(attack, PGD) else attack
            for attack in estimate.final_test
        )
        estimate = replace(estimate, final_test=tuple(tests))
    return estimate


def _without_end(grid: EpsilonGrid) -> EpsilonGrid:
    """The grid that numpy's ``arange`` makes, which excludes its end."""
    return replace(grid, stop=grid.values[-2]) if math.isclose(grid.values[-1], grid.stop) else grid
