"""How many images pass through a network, whoever passes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Passes:
    """Images passed through a network so far."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(network: nn.Module) -> Iterator[Passes]:
    """Count the images that pass through a network, forward and backward, as long as the context lasts."""
    passes = Passes()

    def count_backward(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def count(module: nn.Module, inputs: Any, logits: Tensor) -> None:
        passes.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(count_backward)  # type: ignore[no-untyped-call]

    handle = network.register_forward_hook(count)
    try:
        yield passes
    finally:
        handle.remove()
