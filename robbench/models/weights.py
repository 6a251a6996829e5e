"""A network's tensors, to and from a mapping."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.models.network import COLOUR, Network, sizes

_SHOWN = 4


def weights(network: Network) -> dict[str, Tensor]:
    """The state dict of the body as contiguous copies on the CPU, without ``body.`` in the keys: ``conv1.weight``."""
    state = network.body.state_dict()
    return {
        key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for key, value in state.items()
    }


def load_weights(network: Network, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict of the body into ``network``, whose device and dtypes stay; keys may begin with ``body.``.

    Raises:
        RobbenchError: tensors of ``origin`` are missing, unexpected, of another shape, or not finite; nothing is changed.
    """
    expected = network.body.state_dict()
    given = {key if key in expected else key.removeprefix("body."): value for key, value in tensors.items()}
    infinite = infinite_by_design(network.body)
    faults = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [
            f"{key} {tuple(given[key].shape)} where {tuple(value.shape)} is expected"
            for key, value in expected.items()
            if key in given and given[key].shape != value.shape
        ],
        "not finite": [key for key in not_finite(given) if key not in infinite],
    }
    if any(faults.values()):
        said = "; ".join(
            f"{fault}: {', '.join(keys[:_SHOWN])}" + (f" and {len(keys) - _SHOWN} more" if keys[_SHOWN:] else "")
            for fault, keys in faults.items()
            if keys
        )
        what = f"{network.architecture} ({sizes(network.shape)} images, {network.classes} classes)"
        raise RobbenchError(f"weights from {origin} do not fit {what}: {said}")
    network.body.load_state_dict(given)


def in_colour(network: Network, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a network for grey images is given the weights of one for colour images, by its first convolution."""
    first = next((key for key, value in network.body.state_dict().items() if value.dim() == 4), "")
    return network.shape[0] == 1 and first in tensors and tensors[first].shape[1:2] == (COLOUR,)


def infinite_by_design(network: nn.Module) -> list[str]:
    """Names of a new network's buffers with an infinity, such as causal masks."""
    return not_finite(dict(network.named_buffers(remove_duplicate=False)))


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a NaN or an infinity."""
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
