"""A network's tensors, to and from a plain mapping; files are the store's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.models.network import Network

_SHOWN = 4


def weights(network: Network) -> dict[str, Tensor]:
    """The state dict of the body as contiguous copies on the CPU; keys without ``body.`` (``conv1.weight``)."""
    state = network.body.state_dict()
    return {
        key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for key, value in state.items()
    }


def load_weights(network: Network, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict of the body, every tensor of it and no other; keys may begin with ``body.``.

    Args:
        network: changed in place, its device and dtypes stay; not changed at all where this raises.
        tensors: key -> tensor.
        origin: where the tensors come from, for the message.

    Raises:
        RobbenchError: tensors are missing, unexpected, of another shape or kind (floats, integers, …), or hold values
            that are not finite where the network's own are.
    """
    expected = network.body.state_dict()
    given: dict[str, Tensor] = {}
    twice = []
    for key, value in tensors.items():
        name = key if key in expected else key.removeprefix("body.")
        if name in given:
            twice.append(name)
        given[name] = value
    other = [
        f"{key} {tuple(given[key].shape)} where {tuple(value.shape)} is expected"
        for key, value in expected.items()
        if key in given and given[key].shape != value.shape
    ]
    faults = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "given twice": twice,
        "of another shape": other,
        "of another kind": [
            f"{key} {_kind(given[key])} where {_kind(value)} are expected"
            for key, value in expected.items()
            if key in given and _kind(given[key]) != _kind(value)
        ],
        "not finite": not_finite(given, buffers(network.body)),
    }
    if any(faults.values()):
        said = "; ".join(f"{fault}: {_some(keys)}" for fault, keys in faults.items() if keys)
        raise RobbenchError(f"weights from {origin} do not fit {network.describe()}: {said}")
    network.body.load_state_dict(given)


def _kind(tensor: Tensor) -> str:
    """In words: rounding one float to another is no mistake, making one of an integer is."""
    return "floats" if tensor.is_floating_point() else "complex numbers" if tensor.is_complex() else "integers"


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """All of a network's buffers, by every name that its state dict may have for them."""
    return dict(network.named_buffers(remove_duplicate=False))


def not_finite(tensors: Mapping[str, Tensor], begun: Mapping[str, Tensor]) -> list[str]:
    """The tensors with a NaN or an infinity that no buffer was begun with in its place.

    Args:
        tensors: of a state dict.
        begun: the network's buffers before any training: a causal mask, for one, is infinite by design. What is not
            among them, as a parameter, must be finite throughout.
    """
    return [name for name, tensor in tensors.items() if not _finite(tensor, begun.get(name))]


def _finite(tensor: Tensor, begun: Tensor | None) -> bool:
    sound = torch.isfinite(tensor)
    if begun is not None and begun.shape == tensor.shape:
        begun = begun.to(tensor.device)
        sound |= (tensor == begun) | (torch.isnan(tensor) & torch.isnan(begun))
    return bool(sound.all())


def _some(keys: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
