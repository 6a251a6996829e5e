"""Layers of a network on small images that a CPU is quick at, most of all where an attack wants the gradient towards them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robbench.machine.onednn import dense, fused_convolution, has_blocked_layout

_SIDE = 4
"""Side of the squares of pixels whose gradients are computed together: 16 channels fill a vector register."""


class ConvReLU2d(nn.Conv2d):
    """A square convolution of stride 1, a ReLU and, as asked, max-pooling; in result and names as torch's layers.

    Where its input comes in oneDNN's own memory layout, from an :class:`ImageConvReLU2d`, its result has that layout too, the
    ReLU costs no pass over memory, its backward pass goes over pooled values only, and the gradient towards the input is
    one more convolution, with the mirrored kernel. These gradients cannot be differentiated again, which raises a
    RuntimeError, as do torch's anomaly detection, ``retain_grad`` and full backward hooks between such layers. NaN does
    not get through them, and an infinite gradient may become NaN: what judges a network for p*, or a checkpoint that
    was not trained here, uses :func:`robbench.machine.onednn.plain_layers`. Training and its validation do not, which
    would round otherwise; the weights of every epoch are looked into instead.

    Args:
        channels: of the input.
        outputs: channels of the result.
        side: of the kernel.
        padding: zeros on every side, fewer than ``side``.
        pool: side of the squares of which the largest value is taken, also their stride; 1 for no pooling.
    """

    _made: tuple[int, Tensor, Tensor] | None = None
    """Stride, weights, and the kernel made of them: an attack takes many steps between two updates."""

    def __init__(self, channels: int, outputs: int, side: int, padding: int = 0, *, pool: int = 1) -> None:
        super().__init__(channels, outputs, side, padding=padding)
        self.pool = pool

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's name
        """(N, C, H, W) floats -> (N, out_channels, H', W')."""
        return self._convolved(input, blocked=True) if input.is_mkldnn else self._by_torch(input)

    def extra_repr(self) -> str:
        """What ``print(network)`` shows of the layer."""
        plain: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{plain}, pool={self.pool}" if self.pool > 1 else plain

    def _by_torch(self, features: Tensor) -> Tensor:
        """Pooling before the ReLU keeps the order of values: the same function and gradients, on fewer of them."""
        output = super().forward(features)
        if self.pool > 1:
            output = F.max_pool2d(output, self.pool, self.pool)
        return F.relu(output, inplace=True)

    def _convolved(self, features: Tensor, *, blocked: bool, stride: int = 1) -> Tensor:
        settings = int(self.padding[0]), blocked
        learns = any(each is not None and each.requires_grad for each in (features, self.weight, self.bias))
        if learns and torch.is_grad_enabled():
            made = self._kernel(stride) if features.requires_grad else None
            kernel = made[2] if made else None
            result: Tensor = _Convolution.apply(features, self.weight, self.bias, *settings, self.pool, kernel, stride)
            self._made = made or self._made  # now that nothing was raised, as by tensors that are no real ones
            return result
        output = _convolution(features, self.weight, self.bias, *settings)
        return F.max_pool2d(output, self.pool, self.pool) if self.pool > 1 else output

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again."""
        return {name: value for name, value in vars(self).items() if name != "_made"}

    def _kernel(self, stride: int) -> tuple[int, Tensor, Tensor]:
        """Of the convolution back to the input; as long as the weights have the same values, the same."""
        weight, made = self.weight.detach(), self._made
        if made is None or made[0] != stride or made[1].dtype != weight.dtype or not torch.equal(made[1], weight):
            make = _mirrored_kernel if stride == 1 else _squares_kernel
            made = stride, weight.clone(), make(weight)
        return made


class ImageConvReLU2d(ConvReLU2d):
    """A :class:`ConvReLU2d` over images of few channels.

    On the CPU in float32 its result has oneDNN's own memory layout, in which one input channel costs a fraction of what it
    costs in torch's; the layers that follow keep it up to :class:`Flatten`, and none has to reorder its input.

    An attack wants the gradient towards the images, a convolution with one output channel, for which CPU libraries leave
    most of their vector lanes idle. Here the pixels of a 4 x 4 square are the output channels of one convolution of
    stride 4, which does more arithmetic in a third of the time; values differ by float rounding only.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's name
        """(N, C, H, W) floats -> (N, out_channels, H', W')."""
        tracing = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or input.device.type != "cpu" or input.ndim != 4:
            return self._by_torch(input)
        blocked = input.dtype == self.weight.dtype == torch.float32 and has_blocked_layout()
        squares = not (input.shape[-1] % _SIDE or input.shape[-2] % _SIDE)
        if blocked or (squares and input.requires_grad):
            return self._convolved(input, blocked=blocked, stride=_SIDE if squares else 1)
        return self._by_torch(input)


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


def _convolution(features: Tensor, weight: Tensor, bias: Tensor | None, padding: int, blocked: bool) -> Tensor:
    """With its ReLU."""
    if blocked and not features.is_mkldnn:
        features = features.to_mkldnn()
    if blocked and (fused := fused_convolution()):
        return fused(features, weight, bias, padding)
    return F.relu(F.conv2d(features, weight, bias, padding=padding), inplace=True)


def _pooled(output: Tensor, side: int) -> tuple[Tensor, Tensor | None]:
    """The largest values of squares, and where they stood; a oneDNN result keeps that itself."""
    if not output.is_mkldnn:
        values, places = torch.ops.aten.max_pool2d_with_indices(output, [side] * 2, [side] * 2)
        return values, places
    with torch.enable_grad():  # else it would not keep it
        return F.max_pool2d(output.requires_grad_(), side, side).detach(), None


def _unpooled(gradient: Tensor, output: Tensor, places: Tensor | None, result: Tensor, side: int) -> Tensor:
    """The gradient towards the output of a convolution, of that towards the largest values of squares."""
    shape = [side] * 2, [side] * 2, [0, 0], [1, 1], False
    if places is None:
        blocked: Tensor = torch.ops.aten.mkldnn_max_pool2d_backward(gradient, result, output, *shape)
        return blocked
    found: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(gradient, output, *shape, places)
    return found


class _Convolution(torch.autograd.Function):
    """Convolution, ReLU and pooling; the gradient towards the input is a convolution of this stride with this kernel."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: int,
        blocked: bool,
        pool: int,
        kernel: Tensor | None,
        stride: int,
    ) -> Tensor:
        output = _convolution(features, weight, bias, padding, blocked)
        result, places = (output, None) if pool == 1 else _pooled(output, pool)
        learns = any(ctx.needs_input_grad[1:3])
        ctx.save_for_backward(features if learns else None, weight, None if pool == 1 else output, places, result)
        ctx.padding, ctx.stride, ctx.pool, ctx.kernel, ctx.blocked = padding, stride, pool, kernel, features.is_mkldnn
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        features, weight, output, places, result = ctx.saved_tensors
        padding, stride, kernel = ctx.padding, ctx.stride, ctx.kernel
        towards: list[Tensor | None] = [None, None, None]
        # A square's largest value is positive exactly where the ReLU lets it through.
        gradient = torch.ops.aten.threshold_backward(gradient, result, 0)
        if output is not None:
            gradient = _unpooled(gradient, output, places, result, ctx.pool)
        if kernel is not None:
            margin = weight.shape[-1] - 1 - padding
            found = F.conv2d(gradient, kernel.to(gradient.dtype), padding=margin, stride=stride)
            if stride > 1:
                found = F.pixel_shuffle(dense(found), stride)
            towards[0] = found if ctx.blocked else dense(found)
        if features is not None:
            if gradient.is_mkldnn and not features.is_mkldnn:
                features = features.to_mkldnn()
            learned = torch.ops.aten.convolution_backward(
                gradient,
                features.to(gradient.dtype),
                weight.to(gradient.dtype),
                [len(weight)],
                [1, 1],
                [padding] * 2,
                [1, 1],
                False,
                [0, 0],
                1,
                [False, *ctx.needs_input_grad[1:3]],
            )
            towards[1:] = [None if value is None else value.to(weight.dtype) for value in learned[1:]]
        return *towards, *[None] * 5


def _mirrored_kernel(weight: Tensor) -> Tensor:
    """(channels, outputs, side, side): what makes of the output's gradient that towards the input."""
    return weight.flip(2, 3).transpose(0, 1).contiguous()


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
