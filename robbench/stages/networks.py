"""From a model's spec to its network: freshly built, transferred, read from a checkpoint, or from the store."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from robbench.data import Data
from robbench.errors import RobbenchError, require
from robbench.models import Network, build, load_weights, place, weights
from robbench.models.network import sizes
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


def transferred_network(model: Model, data: Data, source: Network | None) -> Transferred:
    """The target network before retraining; without a source, one of the same layout to read weights into."""
    assert model.transfer is not None
    assert model.source is not None
    mean, std = model.dataset.mean, model.dataset.std
    # Where the target's statistics are unknown, what the kept blocks are used to is the best guess.
    if mean is None and isinstance(model.source, Model):
        mean, std = model.source.dataset.mean, model.source.dataset.std
    if source is None:
        source = build_network(model, data)
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


def load_network(model: Model, context: RunContext, trained: Finished) -> Network:
    """The model of a finished training stage, on the device, in eval mode; errors as of :func:`stored_network`."""
    return place(stored_network(model, context, trained), context.device).eval()


def stored_network(model: Model, context: RunContext, trained: Finished) -> Network:
    """The model of a finished training stage in plain layers on the CPU.

    Raises:
        RobbenchError: its weights are not in the store, or damaged.
    """
    data = context.images(model.dataset)
    network = transferred_network(model, data, None).network if model.transfer else build_network(model, data)
    load_weights(network, context.store.weights(trained), f"store, {model.id}")
    return network


def network_of_checkpoint(architecture: str, checkpoint: Checkpoint, shape: tuple[int, int, int]) -> Network:
    """A user's network by itself, for images of ``shape`` (C, H, W); the file tells the number of its classes.

    Raises:
        RobbenchError: as of :func:`read_checkpoint`.
    """
    tensors = _tensors(checkpoint)
    head = build(architecture, classes=2, shape=shape).head
    logits = next((tensors[key] for key in (f"{head}.weight", f"body.{head}.weight") if key in tensors), None)
    if logits is None:
        found = ", ".join([*tensors][-3:])
        raise RobbenchError(f"checkpoint {checkpoint.path!r}: expected {head}.weight of {architecture}, got …, {found}")
    network = build(architecture, classes=len(logits), shape=shape)
    load_weights(network, tensors, f"checkpoint {checkpoint.path!r}")
    return network


def read_checkpoint(network: Network, checkpoint: Checkpoint) -> None:
    """Read a user's safetensors file into a network.

    Raises:
        RobbenchError: the file cannot be read, is no longer the one that the digest was taken of, or does not fit.
    """
    load_weights(network, _tensors(checkpoint), f"checkpoint {checkpoint.path!r}")


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    path = checkpoint.path
    try:
        data = Path(path).read_bytes()
        tensors = load_tensors(data)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise RobbenchError(f"checkpoint {path!r}: expected a safetensors file ({error})") from error
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise RobbenchError(f"checkpoint {path!r}: the file has changed since this run began; run again")
    return tensors


def check_takes(source: Model, source_data: Data, target: Model, data: Data) -> None:
    """Raise a RobbenchError where a network built for the source's images does not take the target's."""
    if source_data.shape == data.shape:
        return
    try:
        with torch.no_grad():
            build_network(source, source_data).eval()(torch.zeros(1, *data.shape))
    except Exception as error:  # whatever the network raises for a shape that it does not know
        raise RobbenchError(
            f"{target.id}: expected images that {source.id} takes, {sizes(source_data.shape)}, got {sizes(data.shape)}"
        ) from error
