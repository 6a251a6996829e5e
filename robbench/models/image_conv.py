"""Layers of a network on small grey images that a CPU is quick at when an attack wants the gradient towards the images."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

_SIDE = 4
"""Side of the squares of pixels whose gradients are computed together: 16 channels fill a vector register."""


class ImageConv2d(nn.Conv2d):
    """A square convolution of stride 1 over images of few channels; as :class:`torch.nn.Conv2d` in result and names.

    On the CPU in float32 its result has oneDNN's own memory layout, in which one input channel costs a fraction of what it
    costs in torch's; the layers that follow keep it up to :class:`Flatten`, and none has to reorder its input.

    An attack wants the gradient towards the images, a convolution with one output channel, for which CPU libraries leave
    most of their vector lanes idle. Here the pixels of a 4 x 4 square are the output channels of one convolution of
    stride 4, which does more arithmetic in a third of the time; values differ by float rounding only. These gradients
    cannot be differentiated again, which raises a RuntimeError.
    """

    _made: tuple[Tensor, Tensor] | None = None
    """Weights, and the kernel made of them: an attack takes many steps between two updates."""

    def __init__(self, channels: int, outputs: int, side: int, padding: int = 0) -> None:
        super().__init__(channels, outputs, side, padding=padding)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's name
        """(N, C, H, W) floats -> (N, out_channels, H', W')."""
        if input.device.type != "cpu":
            return super().forward(input)
        blocked = input.dtype == self.weight.dtype == torch.float32 and _has_blocked_layout()
        squares = not (input.shape[-1] % _SIDE or input.shape[-2] % _SIDE)
        if squares and input.requires_grad and torch.is_grad_enabled():
            padding = int(self.padding[0])
            convolved: Tensor = _Convolution.apply(input, self.weight, self.bias, self._kernel(), padding, blocked)
            return convolved
        return super().forward(input.to_mkldnn() if blocked else input)

    def _kernel(self) -> Tensor:
        """Of :func:`_squares_kernel`; as long as the weights have the same values, the same."""
        weight = self.weight.detach()
        made = self._made
        if made is None or made[0].dtype != weight.dtype or not torch.equal(made[0], weight):
            made = self._made = weight.clone(), _squares_kernel(weight)
        return made[1]


def dense(features: Tensor) -> Tensor:
    """A tensor in a layout that every operation knows."""
    return features.to_dense() if features.is_mkldnn else features


class Dropout(nn.Dropout):
    """As :class:`torch.nn.Dropout`, of any memory layout."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Dropout's name
        """Floats of any shape -> the same shape."""
        return super().forward(dense(input))


class Flatten(nn.Flatten):
    """As :class:`torch.nn.Flatten`, of any memory layout."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Flatten's name
        """(N, C, H, W) floats -> (N, C · H · W)."""
        return super().forward(dense(input))


def _has_blocked_layout() -> bool:
    """Whether oneDNN is there and in use, and no autocast would choose another dtype."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and bool(torch.backends.mkldnn.enabled) and not torch.is_autocast_enabled("cpu")


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, kernel: Tensor, padding: int, blocked: bool
    ) -> Tensor:
        ctx.save_for_backward(images, weight, kernel)
        ctx.padding = padding
        return F.conv2d(images.to_mkldnn() if blocked else images, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        images, weight, kernel = ctx.saved_tensors
        towards_images = towards_weight = towards_bias = None
        if ctx.needs_input_grad[0]:
            margin = weight.shape[-1] - 1 - ctx.padding
            squares = F.conv2d(gradient, kernel.to(gradient.dtype), padding=margin, stride=_SIDE)
            towards_images = F.pixel_shuffle(dense(squares), _SIDE)
        if any(ctx.needs_input_grad[1:3]):
            gradient = dense(gradient)
        if ctx.needs_input_grad[1]:
            found: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
                images.to(gradient.dtype), weight.shape, gradient, padding=ctx.padding
            )
            towards_weight = found.to(weight.dtype)
        if ctx.needs_input_grad[2]:
            towards_bias = gradient.sum((0, 2, 3)).to(weight.dtype)
        return towards_images, towards_weight, towards_bias, None, None, None


def _squares_kernel(weight: Tensor) -> Tensor:
    """(16 · channels, outputs, side + 3, side + 3): what makes of the output's gradient that towards squares of pixels.

    A transposed convolution, as one of stride 4 with a channel for each pixel of a square.
    """
    outputs, channels, side, _ = weight.shape
    wide = side + _SIDE - 1
    flipped = weight.flip(2, 3).permute(1, 2, 3, 0).reshape(channels, side * side, outputs)
    taps = F.pad(flipped, (0, 0, 0, 1))[:, _taps(side)]  # (channels, 16, wide², outputs)
    return taps.view(channels * _SIDE * _SIDE, wide, wide, outputs).permute(0, 3, 1, 2).contiguous()


@cache
def _taps(side: int) -> Tensor:
    """(16, wide²) int64: which tap of the flipped kernel each pixel of a square takes where; side², none, elsewhere."""
    wide = side + _SIDE - 1
    taps = torch.full((_SIDE, _SIDE, wide, wide), side * side)
    for row in range(_SIDE):
        for column in range(_SIDE):
            taps[row, column, row : row + side, column : column + side] = torch.arange(side * side).view(side, side)
    return taps.view(_SIDE * _SIDE, wide * wide)
