"""From a model's spec to its network: freshly built, transferred, read from a checkpoint, or from the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from robbench.data import Data
from robbench.errors import RobbenchError
from robbench.models import Network, build, load_weights, place
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


def layout(model: Model, context: RunContext) -> tuple[int, int, int]:
    """The images that a model's network is built for, (C, H, W): those of the model that its first weights come from."""
    while model.source is not None:
        model = model.source
    return context.images(model.dataset).shape


def network_like(model: Model, context: RunContext) -> Network:
    """A network of a model's layout, to read its weights into."""
    data = context.images(model.dataset)
    if model.transfer is None:
        return build_network(model, data)
    source = build(model.architecture, classes=len(data.classes), shape=layout(model, context), seed=model.seed)
    return transferred_network(model, data, source).network


def transferred_network(model: Model, data: Data, source: Network) -> Transferred:
    """The target network before retraining."""
    assert model.transfer is not None
    assert model.source is not None
    mean, std = model.dataset.mean, model.dataset.std
    if mean is None:  # the target's statistics are unknown: what the kept blocks are used to is the best guess
        mean, std = model.source.dataset.mean, model.source.dataset.std
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
    """The model of a finished training stage, on the device, in eval mode.

    Raises:
        RobbenchError: its weights are not in the store, or damaged.
    """
    network = network_like(model, context)
    load_weights(network, context.store.weights(trained), f"store, {model.id}")
    return place(network, context.device).eval()


def read_checkpoint(network: Network, checkpoint: Checkpoint) -> None:
    """Read a user's safetensors file into a network.

    Raises:
        RobbenchError: the file cannot be read, is no longer the one that the digest was taken of, or does not fit.
    """
    path = checkpoint.path
    try:
        data = Path(path).read_bytes()
        tensors = load_tensors(data)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise RobbenchError(f"checkpoint {path!r}: expected a safetensors file ({error})") from error
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise RobbenchError(f"checkpoint {path!r}: the file has changed since this run began; run again")
    load_weights(network, tensors, f"checkpoint {path!r}")
