"""The model that every stage handles: input normalisation and a classifier body, with pixels as its input."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robbench.machine.generators import generators_at
from robbench.machine.onednn import swap

COLOUR = 3
"""Channels of a colour image."""


class Normalise(nn.Module):
    """(images − mean) ÷ std per channel, or the identity without them.

    It is the network's first layer, so every ε outside stays in pixel units. The statistics are buffers that move with
    the network but are no part of its state dict. Where ``channels`` is 3, a grey image becomes three equal channels.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, channels: int | None = None
    ) -> None:
        super().__init__()
        self.values = None if mean is None or std is None else (tuple(mean), tuple(std))
        self.channels = channels
        for name, values in (("mean", mean), ("std", std)):
            buffer = None if values is None else torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32, both ways."""
        if self.channels == COLOUR and images.shape[1] == 1:
            images = images.expand(-1, COLOUR, -1, -1)
        if self.mean is None or self.std is None:
            return images
        return (images - self.mean) / self.std


class Network(nn.Module):
    """A classifier of pixels: (N, C, H, W) float32 in [0, 1] -> (N, classes) logits.

    ``body`` classifies normalised images of ``shape`` (C, H, W). ``head`` is the path in it of the module that gives the
    logits (``fc``, ``head.fc``). ``architecture`` is its name for :func:`robbench.models.build`.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        architecture: str,
        shape: tuple[int, int, int],
        head: str,
        normalise: Normalise | None = None,
    ) -> None:
        super().__init__()
        self.normalise = normalise or Normalise(channels=shape[0])
        self.body = body
        self.architecture = architecture
        self.shape = shape
        self.head = head
        self.class_names: tuple[str, ...] = ()
        """Of the logits, where :func:`robbench.load_model` read them."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 in [0, 1] -> (N, classes) float32 logits."""
        logits: Tensor = self.body(self.normalise(images))
        return logits

    @property
    def head_layers(self) -> tuple[nn.Linear, ...]:
        """The fully connected layers of the head, first to last."""
        return tuple(m for m in self.body.get_submodule(self.head).modules() if isinstance(m, nn.Linear))

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.head_layers[-1].out_features


def place(network: Network, device: torch.device) -> Network:
    """Move the network to a device, with channels last; on the CPU swap its convolutions for faster ones, too.

    The network is changed in place; its results change by rounding alone. ``suites/perf`` measures what both gain.
    """
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        swap(network)
    return network


def layers(**modules: nn.Module) -> nn.Sequential:
    """The layers one after another, under their names: state-dict keys read ``conv1.weight``, ``fc1.bias``."""
    return nn.Sequential(OrderedDict(modules))


def sizes(shape: Sequence[int]) -> str:
    """A shape for messages: ``3x32x32``."""
    return "x".join(map(str, shape))


def bring_to(shape: Sequence[int]) -> str:
    """For messages: how pictures get a shape."""
    return f"pictures get that by size={shape[1]}, channels={shape[0]} of their Dataset"


def parameter_count(network: nn.Module) -> int:
    """Number of trained values, shared ones counted once."""
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, new modules are made on the CPU, and every global generator begins at ``seed``."""
    with generators_at(seed, torch.device("cpu")), torch.device("cpu"):
        yield
