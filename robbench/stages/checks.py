"""Faults of a model that can be found before anything is trained."""

from __future__ import annotations

from robbench.data import Data
from robbench.errors import RobbenchError
from robbench.models import Network, blocks, network_of_checkpoint
from robbench.spec import Model
from robbench.stages.context import RunContext
from robbench.stages.networks import build_network, check_takes


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
    kind = (model.architecture, data.shape, len(data.classes), model.dataset.mean, model.dataset.std, model.checkpoint)
    if kind not in context.checked:
        try:
            network = _network(model, context, data)
        except RobbenchError as error:
            raise RobbenchError(f"{model.id}: {error}") from error
        context.checked[kind] = len(blocks(network))
    if model.transfer is not None and model.transfer.k > context.checked[kind]:
        raise RobbenchError(f"k: expected 1…{context.checked[kind]} for {model.architecture}, got {model.transfer.k}")
    if model.source is not None:
        check_takes(model, context)


def _network(model: Model, context: RunContext, data: Data) -> Network:
    if model.checkpoint is None:
        return build_network(model, data)
    loaded = network_of_checkpoint(
        model.architecture, model.checkpoint, data.shape, len(data.classes), download=context.download
    )
    return loaded.network
