"""The tensors of a file that safetensors or torch wrote, without running any code that it may hold."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from robbench.errors import RobbenchError

OWN = "robbench"
"""Key of the metadata in which robbench's own safetensors files say, as JSON, what rebuilds their network."""


def read_tensors(data: bytes, path: str) -> dict[str, Tensor]:
    """Every tensor of a file of safetensors, or of what ``torch.save`` wrote, on the CPU.

    Names of nested dicts are joined by ``/``: ``state_dict/module.conv1.weight``. Mean and std that robbench wrote into the
    metadata of its own files are ``normalise.mean`` and ``normalise.std``; without them the network sees plain pixels.

    Raises:
        RobbenchError: the file at ``path`` is neither, or holds what ``torch.load(weights_only=True)`` does not read.
    """
    if path.endswith(".safetensors"):
        try:
            return load_safetensors(data) | _own_normalisation(data)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RobbenchError(f"checkpoint {path!r}: expected a safetensors file ({error})") from error
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            how = "in a process where you trust the file, save the state_dict in it alone: torch.save(state_dict, path)"
            message = f"expected tensors and plain values only, it also holds {refused[1]}, which can run code; {how}"
        else:
            message = "expected what torch.save writes of a state_dict, or a file of safetensors, got neither"
        raise RobbenchError(f"checkpoint {path!r}: {message}") from error
    tensors = dict(_flat(found))
    if not tensors:
        raise RobbenchError(f"checkpoint {path!r}: expected a state_dict, got {type(found).__name__} without tensors")
    return tensors


def _own_normalisation(data: bytes) -> dict[str, Tensor]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # safetensors' layout: its length, then JSON
    own = header.get("__metadata__", {}).get(OWN)
    if own is None:
        return {}
    facts = json.loads(own)
    pair = {"mean": facts["mean"] or [0.0], "std": facts["std"] or [1.0]}
    return {f"normalise.{name}": torch.tensor(values) for name, values in pair.items()}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path.removesuffix("/"), value.detach()
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}{name}/")
