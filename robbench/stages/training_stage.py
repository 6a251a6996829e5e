"""The stage that trains a model: from scratch, transferred from its source, or read from a user's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robbench.attacks import evaluating, is_right
from robbench.data import ImageSource, pixels, training_parts
from robbench.machine.memory import Batches
from robbench.models import Loaded, Network, network_of_checkpoint, place, weights
from robbench.record import Counts, Training
from robbench.spec import Checkpoint, LwF, Recipe
from robbench.stages.checks import remarks
from robbench.stages.critical_training import train_critical
from robbench.stages.networks import build_network, transferred_network
from robbench.stages.resumable import Planned, drive
from robbench.stages.work import Made, Work, images_used
from robbench.training import Trainer, TrainingData
from robbench.training.lora import add_branches, merge_branches
from robbench.training.transfer import parameter_groups
from robbench.training.updates import VALIDATION_BATCH


@dataclass(frozen=True)
class _Ready:
    """A network before its training."""

    network: Network
    notes: tuple[str, ...] = ()
    groups: list[dict[str, Any]] | None = None
    """Parameter groups of the optimiser; None for one of all that learns."""
    frozen: tuple[nn.Module, ...] = ()
    """Modules that stay in eval mode."""
    source: Network | None = None
    """Of a transfer, as it was."""


def train_model(work: Work) -> Made:
    """Train a model by its recipe; its weights are those of the kept epoch."""
    model, device = work.task.model, work.context.device
    with work.stopwatch.region("io"):
        training, validation = training_parts(model.dataset, work.data, device)
        ready = _prepared(work)
    network, notes = ready.network, list[str]()
    if model.recipe is None:
        result = _judged(network, validation, notes)
    else:
        parents = {role: _parent(role, ready, work) for role in model.recipe.objective.parents}

        def trainer_of(recipe: Recipe, groups: list[dict[str, Any]] | None) -> Trainer:
            trainer = Trainer(
                network,
                recipe,
                TrainingData(training, validation, model.dataset.augmentation or "none", model.dataset.crop_area),
                stopwatch=work.stopwatch,
                seed=model.seed,
                groups=groups,
                frozen=ready.frozen,
                parents=parents,
                on_update=lambda done, total: work.context.show(f"training of {model.id}", done, total, trainer.detail),
            )
            return trainer

        if model.transfer is not None and model.transfer.kept == "critical":
            result, notes = train_critical(network, training, validation, trainer_of, work)
        else:
            trainer = trainer_of(model.recipe, ready.groups)
            drive({"training": Planned(lambda made: trainer)}, work, save_every=0.0)
            result, notes = trainer.result(), trainer.notes
            merge_branches(network)
    notes = [*remarks(model, work.context), *ready.notes, *notes]
    trained_on = len(training) if model.recipe else 0
    used = images_used(work, train=trained_on, validation=len(validation), test=len(work.data.test))
    return Made(result=result, network=network, data=used, weights=weights(network), notes=notes)


def _prepared(work: Work) -> _Ready:
    """The network as its training begins with it, on the device."""
    model, device = work.task.model, work.context.device
    if model.transfer is None:
        if model.checkpoint is None:
            return _Ready(place(build_network(model, work.data), device))
        loaded = _of_checkpoint(work, model.checkpoint, len(work.data.classes))
        return _Ready(place(loaded.network, device), tuple(loaded.notes))
    notes: tuple[str, ...] = ()
    if isinstance(model.source, Checkpoint):
        loaded = _of_checkpoint(work, model.source)
        source, notes = loaded.network, tuple(loaded.notes)
    else:
        source = work.network("source")
    transferred = transferred_network(model, work.data, source)
    if model.transfer.kept == "lora":
        add_branches(transferred, model.transfer.rank, model.seed)
    kept, recipe = model.transfer.kept, model.recipe
    assert recipe is not None
    lwf = recipe.objective if isinstance(recipe.objective, LwF) else None
    alone = lwf.head_share * recipe.epochs if lwf else 0.0
    still = (kept in ("frozen", "critical", "lora") or lwf is not None) and model.transfer.kept_statistics == "eval"
    return _Ready(
        place(transferred.network, device),
        notes,
        groups=None if kept in ("warm", "lora") else parameter_groups(transferred, model.transfer.kept_scale, alone),
        frozen=transferred.kept if still else (),
        source=source,
    )


def _parent(role: str, ready: _Ready, work: Work) -> Network:
    """The network of a parent on the device, in eval mode; a source may be a checkpoint by itself."""
    if role == "source" and ready.source is not None:
        return place(ready.source, work.context.device).eval()
    return work.network(role)


def _of_checkpoint(work: Work, checkpoint: Checkpoint, classes: int | None = None) -> Loaded:
    architecture, shape = work.task.model.architecture, work.data.shape
    return network_of_checkpoint(architecture, checkpoint, shape, classes, download=work.context.download)


def count_right(network: Network, images: ImageSource, kind: str, notes: list[str]) -> Counts:
    """How many unperturbed images a network classifies correctly; ``kind`` names them: ``validation``, ``test``.

    Raises:
        RobbenchError: its logits are not finite.
    """
    right = 0

    def judge(part: slice) -> None:
        nonlocal right
        batch = images.take(torch.arange(part.start, part.stop))
        right += int(is_right(network, pixels(batch.images), batch.labels, kind).sum())

    with evaluating(network):
        Batches(kind, VALIDATION_BATCH, notes).over(len(images), images.labels.device, judge)
    return Counts(correct=right, total=len(images))


def _judged(network: Network, validation: ImageSource, notes: list[str]) -> Training:
    """What is known of a checkpoint without any training: its validation accuracy."""
    return Training(
        epochs=[],
        best=0,
        stopped_early=False,
        validation=count_right(network, validation, "validation", notes),
        forward=len(validation),
        backward=0,
    )
