"""From a spec to images and networks: what a stage is made of before it runs."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from robbench.data import Data, Images, load, split
from robbench.errors import RobbenchError
from robbench.models import Network, build, load_weights
from robbench.models.network import sizes
from robbench.spec import Checkpoint, Dataset, Model
from robbench.training.transfer import Transferred, transfer


@lru_cache(maxsize=4)
def _load(
    name: str, folder: Path, download: bool, orientation: str, train: int | None, test: int | None, seed: int
) -> Data:
    return load(name, folder=folder, download=download, orientation=orientation, train=train, test=test, seed=seed)


def load_data(dataset: Dataset, folder: Path, *, download: bool) -> Data:
    """A dataset's images on the CPU, kept in memory for the next stage; errors as of :func:`robbench.data.load`."""
    return _load(
        dataset.name,
        folder,
        download,
        dataset.orientation,
        dataset.train,
        dataset.test,
        dataset.seed,
    )


def training_parts(dataset: Dataset, data: Data, device: torch.device) -> tuple[Images, Images]:
    """Training and validation images on the device."""
    try:
        train, validation = split(
            len(data.train),
            validation=dataset.validation,
            seed=dataset.seed,
            overlapping=dataset.split == "overlapping",
        )
    except RobbenchError as error:
        raise RobbenchError(f"dataset {dataset.name!r} {error}") from error
    return data.train.take(train).to(device), data.train.take(validation).to(device)


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


def transferred_network(model: Model, data: Data, source: Network | None) -> Transferred:
    """The target network before retraining; without a source, one of the same layout to read weights into."""
    assert model.transfer is not None
    assert model.source is not None
    mean, std = model.dataset.mean, model.dataset.std
    if mean is None:  # the target's statistics are unknown: what the kept blocks are used to is the best guess
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
