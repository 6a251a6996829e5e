"""A network's tensors, to and from a mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.models.network import Network

_SHOWN = 4


def weights(network: Network) -> dict[str, Tensor]:
    """The state dict of the body as contiguous copies on the CPU, without ``body.`` in the keys: ``conv1.weight``."""
    state = network.body.state_dict()
    return {
        key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for key, value in state.items()
    }


def load_weights(network: Network, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict of the body into ``network``, whose device and dtypes stay.

    Args:
        network: changed in place; not changed at all if this raises.
        tensors: every tensor of the state dict and no other; keys may begin with ``body.``.
        origin: where the tensors come from, for the message.

    Raises:
        RobbenchError: tensors are missing, unexpected, of another shape, or not finite.
    """
    expected = network.body.state_dict()
    given = {key if key in expected else key.removeprefix("body."): value for key, value in tensors.items()}
    faults = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [
            f"{key} {tuple(given[key].shape)} where {tuple(value.shape)} is expected"
            for key, value in expected.items()
            if key in given and given[key].shape != value.shape
        ],
        "not finite": not_finite(given, buffers(network.body)),
    }
    if any(faults.values()):
        said = "; ".join(f"{fault}: {_some(keys)}" for fault, keys in faults.items() if keys)
        raise RobbenchError(f"weights from {origin} do not fit {network.describe()}: {said}")
    network.body.load_state_dict(given)


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """All buffers of a network, by every name that its state dict may have for them."""
    return dict(network.named_buffers(remove_duplicate=False))


def not_finite(tensors: Mapping[str, Tensor], begun: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a NaN or an infinity.

    Args:
        tensors: of a state dict.
        begun: the network's buffers before any training. A value that was not finite there, as in a causal mask, may stay.
    """
    return [name for name, tensor in tensors.items() if not _finite(tensor, begun.get(name))]


def _finite(tensor: Tensor, begun: Tensor | None) -> bool:
    finite = torch.isfinite(tensor)
    if begun is not None and begun.shape == tensor.shape:
        begun = begun.to(tensor.device)
        finite |= (tensor == begun) | (torch.isnan(tensor) & torch.isnan(begun))
    return bool(finite.all())


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
