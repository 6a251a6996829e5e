"""Faults of a model that can be found before anything is trained."""

from __future__ import annotations

from robbench.data import Data
from robbench.errors import RobbenchError
from robbench.models import Network, blocks, network_of_checkpoint
from robbench.spec import Checkpoint, Model
from robbench.stages.context import RunContext
from robbench.stages.networks import build_network, built_sha256, check_takes


def check(model: Model, context: RunContext) -> None:
    """Try store, data, shapes and checkpoints of a model and of the models that it needs.

    Raises:
        RobbenchError: the first fault.
    """
    if not context.checked:
        context.store.check_writable()
    for parent in model.parents().values():
        check(parent, context)
    data = context.images(model.dataset)
    alone = model.source if isinstance(model.source, Checkpoint) else None
    normalised = model.dataset.mean, model.dataset.std
    kind = (
        model.architecture,
        data.shape,
        len(data.classes),
        normalised,
        model.checkpoint,
        alone,
        model.recipe is None,
    )
    if kind not in context.checked:
        try:
            network = _network(model, context, data)
        except RobbenchError as error:
            raise RobbenchError(f"{model.id}: {error}") from error
        if model.recipe is None and model.checkpoint is None:
            built_sha256(model, data)
        context.checked[kind] = len(blocks(network))
    if model.transfer is not None and model.transfer.k > context.checked[kind]:
        raise RobbenchError(f"k: expected 1…{context.checked[kind]} for {model.architecture}, got {model.transfer.k}")
    if isinstance(model.source, Model):
        check_takes(model, context)


def _network(model: Model, context: RunContext, data: Data) -> Network:
    alone = model.source if isinstance(model.source, Checkpoint) else None
    if (checkpoint := model.checkpoint or alone) is None:
        return build_network(model, data)
    classes = len(data.classes) if model.checkpoint else None
    return network_of_checkpoint(model.architecture, checkpoint, data.shape, classes, download=context.download).network
