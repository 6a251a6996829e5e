"""Retraining by RiFT: the new head alone, then it and the least critical of the kept blocks, then part of the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from robbench.data import ImageSource, pixels
from robbench.errors import require
from robbench.models import Network, blocks
from robbench.record import Training
from robbench.spec import PGD, Model, Recipe
from robbench.stages.resumable import Planned, drive
from robbench.stages.work import Work
from robbench.training import Trainer
from robbench.training.rift import SHARES, STEPS, criticality, interpolate, layers_of
from robbench.training.updates import attacked

IMAGES = 256
"""Images to train on, the first of them, that criticality is measured with."""


def train_critical(
    network: Network,
    training: ImageSource,
    validation: ImageSource,
    trainer: Callable[[Recipe, list[dict[str, Any]] | None], Trainer],
    work: Work,
) -> tuple[Training, list[str]]:
    """Retrain a transferred network whose head alone learns so far; how that went, and notes.

    RiFT starts from a robust network of the classes at hand, and in a transfer that is the source's blocks with a head
    trained for the target. So one half of the epochs trains the head. Then criticality is measured on the target's images,
    the other half fine-tunes the least critical block and the head at ``kept_scale`` times the rate, and the weights are
    interpolated between those after the first half and the second.
    """
    model = work.task.model
    assert model.recipe is not None
    assert model.transfer is not None
    recipe, scale = model.recipe, model.transfer.kept_scale
    attack = _attack(model)
    later, earlier = max(1, recipe.epochs // 2), (recipe.epochs + 1) // 2
    found: dict[str, Any] = {}

    def fine_tuning(made: dict[str, Any]) -> Trainer:
        found["head"] = made["head"].result()
        found["robust"] = {name: value.clone() for name, value in network.state_dict().items()}
        with work.stopwatch.region("training"):
            index = torch.arange(min(IMAGES, len(training)), device=training.labels.device)
            taken = training.take(index)
            found["rises"] = _criticalities(network, attack, pixels(taken.images), taken.labels, model.seed)
        block = next(block for block in blocks(network) if block.name == min(found["rises"], key=found["rises"].get))
        for parameter in block.parameters():
            parameter.requires_grad_(True)
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        return trainer(replace(recipe, epochs=later), [{"params": learning, "scale": scale}])

    parts = {
        "head": Planned(lambda made: trainer(replace(recipe, epochs=earlier), None)),
        "fine-tuning": Planned(fine_tuning),
    }
    made = drive(parts, work, save_every=0.0)
    second = made["fine-tuning"].result()
    tuned = {name: value.clone() for name, value in network.state_dict().items()}
    with work.stopwatch.region("validation"):
        judging = replace(recipe, attack=attack, validation_attack=None)
        share, clean, safe = interpolate(network, found["robust"], tuned, judging, validation, seed=model.seed)
    least, *others = (f"{name} {rise:.3g}" for name, rise in sorted(found["rises"].items(), key=lambda pair: pair[1]))
    images = min(IMAGES, len(training)) * (attack.steps + len(found["rises"]) * (STEPS + 1))
    judged = len(SHARES) * len(validation)
    first: Training = found["head"]
    before = len(first.epochs)
    result = msgspec.structs.replace(
        second,
        epochs=[*first.epochs, *(msgspec.structs.replace(e, epoch=before + e.epoch) for e in second.epochs)],
        best=before + second.best,
        stopped_early=first.stopped_early or second.stopped_early,
        validation=clean,
        robust=safe,
        forward=first.forward + second.forward + images + judged * (attack.steps + 2),
        backward=first.backward + second.backward + images + judged * attack.steps,
    )
    told = (
        f"{model.id}: fine-tuned the block whose worst nearby weights raise the loss least, {least} "
        f"({', '.join(others)}); kept {share:.0%} of the way to it"
    )
    return result, [*dict.fromkeys([*made["head"].notes, *made["fine-tuning"].notes]), told]


def _attack(model: Model) -> PGD:
    """What robustness is measured with: the recipe's own attack, else the source's."""
    assert model.recipe is not None
    source = model.parents().get("source")
    trained = source.recipe.attack if source is not None and source.recipe is not None else None
    found = model.recipe.validation_attack or model.recipe.attack or trained
    assert found is not None
    return found


def _criticalities(network: Network, attack: PGD, images: Tensor, labels: Tensor, seed: int) -> dict[str, float]:
    """The criticality of every kept block that has layers, on the images as the network's own PGD attacks them."""
    kept = [block for block in blocks(network)[:-1] if layers_of(block)]
    require(bool(kept), "kept='critical'", "a network with layers before its head", network.architecture)
    generator = torch.Generator(images.device).manual_seed(seed)
    found = attacked(network, attack, "float32", images, labels, generator)
    return {block.name: criticality(network, block, found, labels) for block in kept}
