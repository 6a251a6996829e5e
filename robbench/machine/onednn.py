"""Faster convolutions on a CPU: a convolution, its ReLU and its pooling as one layer in the layout of oneDNN.

:func:`swap` puts such layers into a network of plain ``torch.nn`` layers. ``suites/perf`` measures what they gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_IMAGE_CHANNELS = 4
"""Most input channels of a convolution that a chain of fused layers begins with."""

_SIDE = 4
"""Side of the squares of pixels whose gradients are computed together: their 16 channels fill a vector register."""

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_layers() -> Iterator[None]:
    """Let swapped networks compute with torch's own layers: the fused ones hide NaN, which a judgement must see."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def dense(features: Tensor) -> Tensor:
    """The tensor in a layout that every operation of torch knows."""
    return features.to_dense() if features.is_mkldnn else features


def swap(network: nn.Module) -> None:
    """Replace chains of convolutions by fused layers, in place, in every ``nn.Sequential`` of the network.

    A chain begins with a convolution of few channels. Each link is a convolution (square kernel, stride 1, zero padding),
    a ReLU and, perhaps, a max-pooling. The fused layer takes the place and the parameters of the convolution, identities
    those of ReLU and pooling, so the names of the layers and the state dict stay as they are.
    """
    for module in list(network.modules()):
        if type(module).forward is nn.Sequential.forward:
            _swap_chains(module)  # type: ignore[arg-type]


def _swap_chains(layers: nn.Sequential) -> None:
    latest: FusedConvolution | None = None  # the last link of the chain so far
    index = 0
    while index < len(layers):
        link = _link(list(layers)[index : index + 3])
        if link is None or (latest is None and link[0].in_channels > _IMAGE_CHANNELS):
            latest, index = None, index + 1
            continue
        convolution, pool, length = link
        if latest is not None:
            latest.ends = False
        latest = FusedConvolution(convolution, pool, begins=latest is None)
        for replacement in (latest, *(nn.Identity() for _ in range(length - 1))):
            layers[index] = replacement.train(layers[index].training)
            index += 1


def _link(layers: Sequence[nn.Module]) -> tuple[nn.Conv2d, int, int] | None:
    """The convolution at the front, the side of its pooling (1 for none), and how many layers the link has."""
    convolution, relu, pooling = (*layers, nn.Identity(), nn.Identity())[:3]
    if type(convolution) is not nn.Conv2d or type(relu) is not nn.ReLU or not _fusible(convolution):
        return None
    if type(pooling) is nn.MaxPool2d and isinstance(side := pooling.kernel_size, int):
        usual = (pooling.stride, pooling.padding, pooling.dilation) == (side, 0, 1)
        if usual and not pooling.ceil_mode and not pooling.return_indices:
            return convolution, side, 3
    return convolution, 1, 2


def _fusible(layer: nn.Conv2d) -> bool:
    """Whether the fused layer can do what the convolution does; with a weight norm, the weight is no parameter."""
    height, width = layer.kernel_size
    return (
        isinstance(layer.weight, nn.Parameter)
        and height == width
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and layer.padding in {(side, side) for side in range(height)}
    )


class FusedConvolution(nn.Module):
    """A square convolution of stride 1, a ReLU and, as asked, a max-pooling: the same function as torch's layers.

    In oneDNN's layout the ReLU costs no pass over memory, its backward pass goes over pooled values only, and the gradient
    towards the input is one more convolution, with the mirrored kernel. The gradient cannot be differentiated again.
    NaN does not get through. Only the first layer of a chain turns its input into that layout, only the last one turns
    its output back. Torch's own operations are used wherever oneDNN's cannot be, and within :func:`plain_layers`.
    """

    def __init__(self, convolution: nn.Conv2d, pool: int, *, begins: bool) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.padding, self.pool = int(convolution.padding[0]), pool
        self.begins = begins
        self.ends = True
        self._made: tuple[int, Tensor, Tensor] | None = None

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) floats -> (N, C', H', W')."""
        if features.is_mkldnn or (self.begins and self._takes(features)):
            output = self._fused(features)
            return dense(output) if self.ends else output
        output = F.conv2d(features, self.weight, self.bias, padding=self.padding)
        if self.pool > 1:  # before the ReLU, with the same result: fewer values to go over
            output = F.max_pool2d(output, self.pool, self.pool)
        return F.relu(output, inplace=True)

    def _takes(self, images: Tensor) -> bool:
        right = images.ndim == 4 and images.dtype == self.weight.dtype == torch.float32 and images.device.type == "cpu"
        watched = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined, no-untyped-call]
        return right and not watched and not _plain.get() and not torch.is_autocast_enabled("cpu") and _has_operator()

    def _fused(self, features: Tensor) -> Tensor:
        learns = any(each is not None and each.requires_grad for each in (features, self.weight, self.bias))
        if learns and torch.is_grad_enabled():
            squares = self.begins and not (features.shape[-1] % _SIDE or features.shape[-2] % _SIDE)
            stride = _SIDE if squares else 1
            kernel = self._kernel(stride) if features.requires_grad else None
            given = features, self.weight, self.bias, self.padding, self.pool
            result: Tensor = _Convolution.apply(*given, kernel, stride)
            return result
        output = _convolve(features, self.weight, self.bias, self.padding)
        return F.max_pool2d(output, self.pool, self.pool) if self.pool > 1 else output

    def _kernel(self, stride: int) -> Tensor:
        """The kernel of the gradient towards the input, kept while the weights are the same."""
        weight = self.weight.detach()
        if self._made is None or self._made[0] != stride or not torch.equal(self._made[1], weight):
            mirrored = weight.flip(2, 3).transpose(0, 1).contiguous()
            kernel = mirrored if stride == 1 else _kernel_of_squares(mirrored, stride)
            self._made = stride, weight.clone(), kernel
        return self._made[2]


def _convolve(features: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolution and ReLU in one, as torch's compiler calls it; the result has oneDNN's layout."""
    blocked = features if features.is_mkldnn else features.to_mkldnn()
    operator = torch.ops.mkldnn._convolution_pointwise
    found: Tensor = operator(blocked, weight, bias, [padding] * 2, [1, 1], [1, 1], 1, "relu", [], "")
    return found


@cache
def _has_operator() -> bool:
    """Whether torch has the operator and means the same by it, as it has no public name."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    pixel = torch.tensor([-1.0, 2.0], dtype=torch.float32, device="cpu").view(2, 1, 1, 1)
    try:
        found = _convolve(pixel, pixel.new_full((1, 1, 1, 1), 3.0), None, 0)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return found.is_mkldnn and dense(found).flatten().tolist() == [0, 6]


class _Convolution(torch.autograd.Function):
    """Convolution, ReLU and pooling, and their gradients in oneDNN's layout."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: int,
        pool: int,
        kernel: Tensor | None,
        stride: int,
    ) -> Tensor:
        """The gradient towards the features is a convolution of this stride with this kernel; None: not needed."""
        output = result = _convolve(features, weight, bias, padding)
        if pool > 1:
            with torch.enable_grad():  # else oneDNN would not keep which values were the largest
                result = F.max_pool2d(output.requires_grad_(), pool, pool).detach()
        learns = any(ctx.needs_input_grad[1:3])
        ctx.save_for_backward(features if learns else None, weight, output if pool > 1 else None, result)
        ctx.padding, ctx.pool, ctx.kernel, ctx.stride = padding, pool, kernel, stride
        ctx.blocked = features.is_mkldnn
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients towards features, weight and bias, as far as they are needed."""
        features, weight, output, result = ctx.saved_tensors
        # A square's largest value is positive exactly where the ReLU lets it through.
        gradient = torch.ops.aten.threshold_backward(gradients[0], result, 0)
        if output is not None:
            square = [ctx.pool] * 2
            gradient = torch.ops.aten.mkldnn_max_pool2d_backward(
                gradient, result, output, square, square, [0, 0], [1, 1], False
            )
        towards: list[Tensor | None] = [None, None, None]
        if ctx.kernel is not None:
            margin = weight.shape[-1] - 1 - ctx.padding
            found = F.conv2d(gradient, ctx.kernel, padding=margin, stride=ctx.stride)
            if ctx.stride > 1:
                found = F.pixel_shuffle(dense(found), ctx.stride)
            towards[0] = found if ctx.blocked else dense(found)
        if features is not None:
            blocked = features if features.is_mkldnn else features.to_mkldnn()
            wanted = [False, *ctx.needs_input_grad[1:3]]
            settings = [1, 1], [ctx.padding] * 2, [1, 1], False, [0, 0], 1, wanted
            towards[1:] = torch.ops.aten.convolution_backward(gradient, blocked, weight, [len(weight)], *settings)[1:]
        return *towards, None, None, None, None


def _kernel_of_squares(mirrored: Tensor, side: int) -> Tensor:
    """(channels · side², outputs, …): the mirrored kernel once for each pixel of a square, moved to where the pixel is.

    The gradient towards images is a convolution with one output channel, which leaves most vector lanes idle. With the
    pixels of a square as output channels it does more arithmetic in a third of the time.
    """
    channels, outputs, taps, _ = mirrored.shape
    kernel = mirrored.new_zeros(channels, side, side, outputs, taps + side - 1, taps + side - 1)
    for row in range(side):
        for column in range(side):
            kernel[:, row, column, :, row : row + taps, column : column + taps] = mirrored
    return kernel.flatten(0, 2)
