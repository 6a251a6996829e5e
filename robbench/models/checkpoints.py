"""From a checkpoint to its network: read, matched to an architecture, behind the normalisation that it was trained with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from robbench.errors import RobbenchError
from robbench.models.build import build, make_timm
from robbench.models.files import read_tensors
from robbench.models.heads import replace_head
from robbench.models.matching import Found, Values, find_weights
from robbench.models.network import COLOUR, Network, Normalise
from robbench.models.weights import in_colour, load_weights
from robbench.spec import Checkpoint
from robbench.spec.catalogue import ARCHITECTURE_SHAPES, TWINS


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's network, and what a reader must know of it."""

    network: Network
    found: Found
    notes: list[str]


def network_of_checkpoint(
    architecture: str,
    checkpoint: Checkpoint,
    shape: tuple[int, int, int],
    classes: int | None = None,
    *,
    download: bool = False,
) -> Loaded:
    """The network of a checkpoint on the CPU, in eval mode, for images of ``shape`` (C, H, W).

    It has the file's own number of classes, which ``classes`` states where it is known, and three channels where the
    weights are of a network for colour: then grey images become three equal channels. ``download`` lets timm's weights be
    downloaded.

    Raises:
        RobbenchError: the file cannot be read, has changed since its digest was taken, does not fit, or its normalisation is
            neither in it nor declared.
    """
    origin = f"checkpoint {checkpoint.path!r}"
    tensors, usual = _tensors(architecture, checkpoint, shape, download)
    network = build(architecture, classes=classes or 2, shape=shape)
    found = _found(network, tensors, checkpoint)
    if in_colour(network, found.tensors):
        network = build(architecture, classes=classes or 2, shape=(COLOUR, *shape[1:]))
        found = _found(network, tensors, checkpoint)
    logits = found.tensors.get(f"{network.head}.weight")
    if logits is not None and classes is None:
        replace_head(network, len(logits))
    elif logits is not None and len(logits) != classes:
        raise RobbenchError(
            f"{origin}: expected a network of {classes} classes, as the images have, got {len(logits)}; a study that only "
            "transfers it to other classes has a target, and no source"
        )
    if not found.names:
        names = ", ".join([*tensors][:4])
        raise RobbenchError(f"{origin}: expected names as {architecture} is published with, got {names}, …")
    try:
        load_weights(network, found.tensors, origin)
    except RobbenchError as error:
        raise RobbenchError(
            f"{error}; `robbench import {checkpoint.path}` says which of the named architectures it fits"
        ) from error
    mean, std, said = _normalisation(architecture, checkpoint, found, usual)
    if len(mean) not in (1, network.shape[0]):
        raise RobbenchError(f"{origin}: expected 1 or {network.shape[0]} values of mean and std, got {len(mean)}")
    network.normalise = Normalise(mean, std, network.shape[0])
    notes = [f"weights of {checkpoint.path!r}: {found.said}; {said}"]
    if network.shape[0] != shape[0]:
        notes.append(
            f"weights of {checkpoint.path!r} are of a network for colour; it sees grey images in three channels"
        )
    if architecture in TWINS:
        notes.append(
            f"weights of {checkpoint.path!r} fit {TWINS[architecture]} as well as {architecture}: if the clean accuracy is "
            "not the published one, it is that"
        )
    return Loaded(network.eval(), found, notes)


def fitting(checkpoint: Checkpoint) -> list[str]:
    """The named architectures of which the file holds all tensors, of the right shapes but for the number of classes."""
    tensors, _ = _tensors("", checkpoint, (COLOUR, 1, 1), download=False)
    names = []
    for name, shape in ARCHITECTURE_SHAPES.items():
        network = build(name, classes=2, shape=shape)
        head, found = f"{network.head}.", _found(network, tensors, checkpoint).tensors
        own = network.body.state_dict()
        if found.keys() == own.keys() and all(
            found[key].shape == value.shape for key, value in own.items() if not key.startswith(head)
        ):
            names.append(name)
    return names


def _found(network: Network, tensors: dict[str, Tensor], checkpoint: Checkpoint) -> Found:
    try:
        return find_weights(network, tensors, checkpoint.part)
    except RobbenchError as error:
        raise RobbenchError(f"checkpoint {checkpoint.path!r}: {error}") from error


def _tensors(
    architecture: str, checkpoint: Checkpoint, shape: tuple[int, int, int], download: bool
) -> tuple[dict[str, Tensor], tuple[Values, Values] | None]:
    """The checkpoint's tensors; and the mean and std of timm's own weights."""
    if checkpoint.timm is not None:
        return _of_timm(checkpoint.timm, shape, download)
    data = checkpoint.read()
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise RobbenchError(f"checkpoint {checkpoint.path!r}: the file has changed since this run began; run again")
    return read_tensors(data, checkpoint.path), None


def _normalisation(
    architecture: str, checkpoint: Checkpoint, found: Found, usual: tuple[Values, Values] | None
) -> tuple[Values, Values, str]:
    """Mean, std, and where they come from: declared, in the file, or timm's."""
    own = found.normalisations
    if checkpoint.mean is not None and checkpoint.std is not None:
        mean, std, whence = checkpoint.mean, checkpoint.std, "as declared"
        if own and any((each.mean, each.std) != (mean, std) for each in own):
            whence += f", although {' and '.join(own[0].names)} in the file are {shown(own[0].mean, own[0].std)}"
    elif len(own) == 1:
        mean, std, whence = own[0].mean, own[0].std, f"{' and '.join(own[0].names)} in the file"
    elif usual is not None:
        mean, std, whence = *usual, "as timm says"
    else:
        several = "; ".join(shown(each.mean, each.std) for each in own)
        what = f"the file holds {several}" if own else "the file does not hold it"
        raise RobbenchError(
            f"checkpoint {checkpoint.path!r}: expected the normalisation that it was trained with, {what}; "
            f"Checkpoint({checkpoint.path!r}, mean=(…), std=(…)) says it, mean=0, std=1 for plain pixels in [0, 1]"
        )
    if max(mean) > 1:
        raise RobbenchError(
            f"checkpoint {checkpoint.path!r}: expected the mean of pixels in [0, 1], got {shown(mean, std)} ({whence}); where "
            f"they are of pixels in 0…255, Checkpoint({checkpoint.path!r}, mean=(…), std=(…)) says both divided by 255"
        )
    return mean, std, f"pixels are normalised by {shown(mean, std)} ({whence})"


def shown(mean: Values, std: Values) -> str:
    """A normalisation for messages."""
    texts = [", ".join(f"{value:.4g}" for value in values) for values in (mean, std)]
    return f"mean ({texts[0]}) and std ({texts[1]})"


def _of_timm(name: str, shape: tuple[int, int, int], download: bool) -> tuple[dict[str, Tensor], tuple[Values, Values]]:
    """The tensors of weights that timm publishes, as timm fits them to images of ``shape``; and their mean and std."""
    import timm

    base = name.partition(".")[0]
    known = timm.list_pretrained(f"{base}.*")
    config = timm.get_pretrained_cfg(name) if known and name in (base, *known) else None
    if config is None or not config.hf_hub_id:
        raise RobbenchError(
            f"unknown weights 'timm:{name}'; timm publishes {', '.join(known) or 'none of that network'}"
        )
    path = _on_hub(name, config.hf_hub_id, config.hf_hub_filename, download)
    tensors = read_tensors(path.read_bytes(), str(path))
    shape = (config.input_size[0], *shape[1:])
    body = make_timm(f"timm:{name}", shape, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors})
    return body.state_dict(), (tuple(config.mean), tuple(config.std))


def _on_hub(name: str, repository: str, file: str | None, download: bool) -> Path:
    """The file of published weights on this machine, downloaded where that is allowed."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    reason: Exception | None = None
    for each in (file,) if file else ("model.safetensors", "pytorch_model.bin"):
        try:
            return Path(hf_hub_download(repository, each, local_files_only=not download))
        except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
            reason = error
    if download:
        raise RobbenchError(f"weights 'timm:{name}' cannot be downloaded from {repository}: {reason}") from reason
    raise RobbenchError(
        f"weights 'timm:{name}' are not on this machine; --robbench-download (`robbench import … --download`) gets them"
    ) from reason
