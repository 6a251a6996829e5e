"""The fields in which the thesis's published code departs from sound practice, one by one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, get_args

from robbench.spec.catalogue import DATASETS
from robbench.spec.training import PGD, Dataset, Recipe

Protocol = Literal["sound", "thesis"]

ProtocolField = Literal["statistics", "kept_statistics", "split", "orientation", "box", "kept_epoch", "kept_scale"]

PROTOCOL_FIELDS: tuple[ProtocolField, ...] = get_args(ProtocolField)
"""All fields that the thesis protocol sets."""

EFFECTS: dict[ProtocolField, str] = {
    "statistics": "adversarial updates use running batch-norm statistics, which never change, and no dropout",
    "kept_statistics": "frozen blocks are in training mode, so that their batch-norm statistics drift to the target's",
    "split": "validation images are drawn independently of the training images, so that most are trained on",
    "orientation": "the target's letters are transposed, as torchvision stores EMNIST",
    "box": "training attacks may leave the valid pixels, up to [−2.5, 2.5]",
    "kept_epoch": "the epoch of the best clean validation accuracy is kept, in adversarial training too",
    "kept_scale": "fine-tuned kept blocks learn at 0.001 of the rate",
}
"""What the thesis's value of each field does."""

_BOX = (-2.5, 2.5)


def thesis_recipe(recipe: Recipe, fields: Collection[ProtocolField]) -> Recipe:
    """The recipe with the thesis's values of these fields, where they can change weights."""
    if recipe.adversarial and "statistics" in fields:
        recipe = replace(recipe, statistics="running")
    # Without an attack, the best robust accuracy is the best clean one already.
    if "kept_epoch" in fields and (recipe.adversarial or recipe.kept_epoch == "last"):
        recipe = replace(recipe, kept_epoch="clean")
    if "box" in fields:
        recipe = replace(recipe, attack=_wide(recipe.attack), validation_attack=_wide(recipe.validation_attack))
    return recipe


def _wide(attack: PGD | None) -> PGD | None:
    return attack and replace(attack, box=_BOX)


def thesis_dataset(dataset: Dataset, fields: Collection[ProtocolField]) -> Dataset:
    """The dataset with the thesis's values of these fields; only letters are stored transposed."""
    if "orientation" in fields and dataset.name in DATASETS and DATASETS[dataset.name].transposed:
        dataset = replace(dataset, orientation="stored")
    return replace(dataset, split="overlapping") if "split" in fields else dataset


def thesis_kept(kept: str, fields: Collection[ProtocolField]) -> dict[str, Any]:
    """The thesis's values of those fields of a transfer that its kept blocks use."""
    if kept == "frozen":
        return {"kept_statistics": "train"} if "kept_statistics" in fields else {}
    return {"kept_scale": 0.001} if "kept_scale" in fields else {}
