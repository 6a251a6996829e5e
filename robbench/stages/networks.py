"""From a model's spec to its network: freshly built, transferred, read from a checkpoint, or from the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from safetensors.torch import save as save_tensors
from torch import Tensor

from robbench.data import Data
from robbench.errors import require
from robbench.models import Network, Normalise, build, load_weights, network_of_checkpoint, place, weights
from robbench.models.network import COLOUR
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
    if mean is None or first_source(model)[1] is not None:
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


def first_source(model: Model) -> tuple[Model, Checkpoint | None]:
    """The model that a chain of transfers begins with, or that begins with a checkpoint by itself; and the checkpoint."""
    while isinstance(model.source, Model):
        model = model.source
    return model, model.checkpoint or model.source


def layout(model: Model, context: RunContext) -> tuple[int, int, int]:
    """The images that a model's network is built for, (C, H, W): those of the model that its first weights come from."""
    first, checkpoint = first_source(model)
    shape = context.images(first.dataset).shape
    if checkpoint is None or shape[0] != 1:
        return shape
    return _layout_of(first.architecture, checkpoint, shape, context.download)


@lru_cache(maxsize=16)
def _layout_of(
    architecture: str, checkpoint: Checkpoint, shape: tuple[int, int, int], download: bool
) -> tuple[int, int, int]:
    """Whether the checkpoint is of a network for colour takes reading it, which is done once."""
    return network_of_checkpoint(architecture, checkpoint, shape, download=download).network.shape


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
