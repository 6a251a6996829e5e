"""From a model's spec to its network: freshly built, transferred, read from a checkpoint, or from the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from robbench.data import Data
from robbench.errors import RobbenchError, require
from robbench.models import Network, Normalise, build, load_weights, network_of_checkpoint, place, weights
from robbench.models.network import COLOUR, sizes
from robbench.models.weights import in_colour
from robbench.spec import Checkpoint, Model
from robbench.stages.context import RunContext
from robbench.store import Finished
from robbench.training.transfer import Transferred, transfer


def build_network(model: Model, data: Data) -> Network:
    """A freshly initialised network for a model's images and classes."""
    return build(
        model.architecture,
        classes=len(data.classes),
        shape=data.shape,
        mean=model.dataset.mean,
        std=model.dataset.std,
        seed=model.seed,
    )


def built_sha256(model: Model, data: Data) -> str:
    """SHA-256 of the weights that a user's own function builds a network with.

    Raises:
        RobbenchError: they differ from seed to seed, so they are no trained ones.
    """
    first, second = (
        hashlib.sha256(save_tensors(weights(build_network(replace(model, seed=seed), data)))).hexdigest()
        for seed in (0, 1)
    )
    how = "the same weights at every call, since neither a recipe nor a checkpoint gives it any"
    require(first == second, model.architecture, how, "others for another seed")
    return first


def transferred_network(model: Model, data: Data, source: Network) -> Transferred:
    """The target network before retraining.

    It normalises by the target's statistics; but by the source's where those are unknown, or where the source is a
    checkpoint, whose blocks know no other.
    """
    assert model.transfer is not None
    mean, std = model.dataset.mean, model.dataset.std
    if mean is None or of_checkpoint(model):
        mean, std = source.normalise.values or (None, None)
    return transfer(
        source,
        k=model.transfer.k,
        classes=len(data.classes),
        head=model.transfer.head,
        kept=model.transfer.kept,
        mean=mean,
        std=std,
        seed=model.seed,
    )


def first_source(model: Model) -> Model:
    """The model that a chain of transfers begins with."""
    return first_source(model.source) if isinstance(model.source, Model) else model


def of_checkpoint(model: Model) -> bool:
    """Whether a chain of transfers begins with weights from elsewhere."""
    first = first_source(model)
    return first.checkpoint is not None or isinstance(first.source, Checkpoint)


def load_network(model: Model, context: RunContext, trained: Finished) -> Network:
    """The model of a finished training stage, on the device, in eval mode; errors as of :func:`stored_network`."""
    return place(stored_network(model, context, trained), context.device).eval()


def stored_network(model: Model, context: RunContext, trained: Finished) -> Network:
    """The model of a finished training stage in plain layers on the CPU.

    Raises:
        RobbenchError: its weights are not in the store, or damaged.
    """
    data, tensors = context.images(model.dataset), context.store.weights(trained)
    network = _like(model, data, tensors)
    load_weights(network, tensors, f"store, {model.id}")
    facts = trained.record.model
    network.normalise = Normalise(facts.mean, facts.std, network.shape[0])
    return network


def _like(model: Model, data: Data, tensors: Mapping[str, Tensor]) -> Network:
    """A network to read weights into; it takes colour where they are of one that does."""
    network = build(model.architecture, classes=len(data.classes), shape=data.shape)
    if in_colour(network, tensors):
        network = build(model.architecture, classes=len(data.classes), shape=(COLOUR, *data.shape[1:]))
    return network if model.transfer is None else transferred_network(model, data, network).network


def check_takes(model: Model, context: RunContext) -> None:
    """Raise a RobbenchError where the network that a transferred model begins with does not take the model's images."""
    first, data = first_source(model), context.images(model.dataset)
    known = context.images(first.dataset)
    if known.shape == data.shape:
        return
    if first.checkpoint is None:
        network = build_network(first, known).eval()
    else:
        network = network_of_checkpoint(
            first.architecture, first.checkpoint, known.shape, len(known.classes), download=context.download
        ).network
    try:
        with torch.no_grad():
            network(torch.zeros(1, *data.shape))
    except Exception as error:  # whatever the network raises for a shape that it does not know
        how = "make them grey" if data.shape[0] > network.shape[0] else "give them that size"
        raise RobbenchError(
            f"{model.id}: expected images that {first.id} takes, {sizes(network.shape)}, got {sizes(data.shape)}; {how}"
        ) from error
