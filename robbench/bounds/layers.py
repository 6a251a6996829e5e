"""The layers that bounds are known of: what each does to values, to intervals and, backwards, to linear functions.

Every tensor of values is (N, *shape). R linear functions of a layer's output are a :class:`Window` of coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.machine.onednn import FusedConvolution
from robbench.models import Normalise

MARGIN = 2e-6
"""Of all products that are added up for a bound, in absolute values, the share by which it is moved outwards.

These are 33 roundings of float32, and it loses less than half of that (``tests/bounds/test_propagation.py``)."""

FEW_CHANNELS = 4
"""Of a convolution's inputs, up to which its transpose is a product of matrices (``suites/perf/test_bounds.py``)."""

Interval = tuple[Tensor, Tensor]
"""Smallest and largest values, (N, *shape) each."""


@dataclass(frozen=True)
class Window:
    """Coefficients of linear functions that look at a part of the image planes only; all others are zero.

    A neuron of a convolution sees a few pixels of the layers before it: what it does not see is not computed.
    """

    values: Tensor
    """(R, C, h, w), or (R, features) of values without planes."""
    corner: tuple[int, int] = (0, 0)
    """Row and column of the first coefficient in the planes."""

    def of(self, values: Tensor) -> Tensor:
        """The part of (B, *shape) values that the functions look at."""
        if self.values.dim() < 4:
            return values
        (row, column), (height, width) = self.corner, self.values.shape[2:]
        return values[..., row : row + height, column : column + width]

    def whole(self, shape: Sequence[int]) -> Tensor:
        """(R, *shape): the coefficients of all values."""
        if self.values.dim() < 4 or self.values.shape[1:] == torch.Size(shape):
            return self.values
        (row, column), (height, width) = self.corner, self.values.shape[2:]
        return F.pad(self.values, [column, shape[2] - column - width, row, shape[1] - row - height])

    def inside(self, shape: Sequence[int]) -> Window:
        """Without what lies outside planes of this shape, where there are only zeros."""
        (row, column), (height, width) = self.corner, self.values.shape[2:]
        top, left = max(0, -row), max(0, -column)
        bottom, right = min(height, shape[1] - row), min(width, shape[2] - column)
        return Window(self.values[..., top:bottom, left:right], (row + top, column + left))

    def plus(self, other: Window) -> Window:
        """The sum, of functions of the same values."""
        if self.values.shape == other.values.shape and self.corner == other.corner:
            return Window(self.values + other.values, self.corner)
        first = [min(pair) for pair in zip(self.corner, other.corner, strict=True)]
        last = [
            max(a + m, b + n)
            for a, m, b, n in zip(self.corner, self.values.shape[2:], other.corner, other.values.shape[2:], strict=True)
        ]
        shape = (self.values.shape[1], last[0] - first[0], last[1] - first[1])
        mine, theirs = (
            Window(each.values, (each.corner[0] - first[0], each.corner[1] - first[1])).whole(shape)
            for each in (self, other)
        )
        return Window(mine + theirs, (first[0], first[1]))


class Affine:
    """A layer that is a linear map and, perhaps, a bias."""

    mixes = True
    """Whether an output is made of several inputs, so that intervals through two such layers are not exact."""

    def forward(self, values: Tensor) -> Tensor:
        """The layer's output."""
        raise NotImplementedError

    def absolute(self, values: Tensor) -> Tensor:
        """What the linear map with the absolute values of its weights makes of values ≥ 0."""
        raise NotImplementedError

    def transposed(self, function: Window, shape: Sequence[int], output: Sequence[int]) -> Window:
        """Linear functions of the output, which has that shape, in terms of the inputs, which have this one."""
        raise NotImplementedError

    @property
    def bias(self) -> Tensor | None:
        """What is added, so that it can be broadcast to an output without its first dimension."""
        return None

    def interval(self, bounds: Interval) -> Interval:
        """Bounds of the output (IBP: Gowal et al. 2018, equation 6)."""
        low, high = bounds
        middle, radius = (low + high) / 2, (high - low) / 2
        centre = self.forward(middle)
        # The margin covers what float32 loses in both sums.
        radius = self.absolute(radius + MARGIN * (middle.abs() + radius)) + MARGIN * centre.abs()
        return centre - radius, centre + radius

    def size(self, largest: Tensor) -> Tensor:
        """What is added up for the output, at most, from the inputs' largest absolute values."""
        return self.absolute(largest) if self.bias is None else self.absolute(largest) + self.bias.abs()


@dataclass(frozen=True)
class Dense(Affine):
    """A fully connected layer."""

    layer: nn.Linear

    def forward(self, values: Tensor) -> Tensor:
        """(N, inputs…) -> (N, outputs…)."""
        return self.layer(values)  # type: ignore[no-any-return]

    def absolute(self, values: Tensor) -> Tensor:
        """As the values, with the absolute weights."""
        return F.linear(values, self.layer.weight.abs())

    def transposed(self, function: Window, shape: Sequence[int], output: Sequence[int]) -> Window:
        """(R, outputs) -> (R, inputs)."""
        return Window(function.values @ self.layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """As it is broadcast to the outputs."""
        return self.layer.bias


@dataclass(frozen=True)
class Convolution(Affine):
    """A convolution padded with zeros."""

    layer: nn.Conv2d | FusedConvolution

    def forward(self, values: Tensor) -> Tensor:
        """(N, C, H, W) both ways."""
        return F.conv2d(values, self.layer.weight, self.layer.bias, **self._settings)

    def absolute(self, values: Tensor) -> Tensor:
        """(N, C, H, W) both ways."""
        return F.conv2d(values, self.layer.weight.abs(), None, **self._settings)

    def transposed(self, function: Window, shape: Sequence[int], output: Sequence[int]) -> Window:
        """(R, C', h', w') -> (R, C, h, w): the window grows by the kernel."""
        layer, options = self.layer, dict(self._settings)
        padding = options.pop("padding", 0)
        if padding == "same":
            spans = zip(layer.kernel_size, layer.dilation, strict=True)  # type: ignore[arg-type]
            padding = tuple(dilation * (side - 1) // 2 for side, dilation in spans)
        elif padding == "valid":
            padding = 0
        values = self._spread(function.values, options)
        places = zip(function.corner, _pair(options.get("stride", 1)), _pair(padding), strict=True)
        row, column = (place * stride - margin for place, stride, margin in places)
        return Window(values, (row, column)).inside(shape)

    def _spread(self, values: Tensor, options: dict[str, Any]) -> Tensor:
        """The transposed convolution without padding."""
        weight = self.layer.weight
        if weight.shape[1] > FEW_CHANNELS or options.get("groups", 1) > 1:
            return F.conv_transpose2d(values, weight, None, **options)
        # Towards the few channels of an image the library's transposed convolution is several times slower.
        kernel, stride = weight.shape[2:], _pair(options.get("stride", 1))
        dilation = _pair(options.get("dilation", 1))
        size = tuple(
            (count - 1) * step + apart * (side - 1) + 1
            for count, step, apart, side in zip(values.shape[2:], stride, dilation, kernel, strict=True)
        )
        columns = weight.flatten(1).t() @ values.flatten(2)
        return F.fold(columns, size, kernel, dilation=dilation, stride=stride)

    @property
    def bias(self) -> Tensor | None:
        """(C', 1, 1)."""
        return None if self.layer.bias is None else self.layer.bias.view(-1, 1, 1)

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups")
        return {name: getattr(self.layer, name) for name in names if hasattr(self.layer, name)}


class Scale(Affine):
    """Each channel multiplied, and something added: a batch norm in eval mode, or the input normalisation."""

    mixes = False

    def __init__(self, values: Callable[[], tuple[Tensor, Tensor]]) -> None:
        self._values = values

    def forward(self, values: Tensor) -> Tensor:
        """(N, inputs…) -> (N, outputs…)."""
        factor, added = self._values()
        return values * factor + added

    def absolute(self, values: Tensor) -> Tensor:
        """As the values, with the absolute weights."""
        return values * self._values()[0].abs()

    def transposed(self, function: Window, shape: Sequence[int], output: Sequence[int]) -> Window:
        """As the values."""
        return Window(function.values * self._values()[0], function.corner)

    @property
    def bias(self) -> Tensor | None:
        """As it is broadcast to the outputs."""
        return self._values()[1]


def normalisation(layer: Normalise) -> list[Scale]:
    """The input normalisation; nothing where it changes nothing."""
    mean, std = layer.mean, layer.std
    return [] if mean is None or std is None else [Scale(lambda: (1 / std[0], -mean[0] / std[0]))]


def batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> Scale:
    """A batch norm with the statistics that it has learned."""
    shape = (-1, 1, 1) if isinstance(layer, nn.BatchNorm2d) else (-1,)

    def values() -> tuple[Tensor, Tensor]:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        factor = (layer.running_var.double() + layer.eps).rsqrt()  # what cancels in the sum below is not in its margin
        factor = factor if layer.weight is None else factor * layer.weight
        added = -layer.running_mean * factor
        added = added if layer.bias is None else added + layer.bias
        return factor.to(layer.running_var).view(shape), added.to(layer.running_var).view(shape)

    return Scale(values)


@dataclass(frozen=True)
class Positive(Affine):
    """A linear map without a bias whose weights are all ≥ 0: average pooling, a mean, padding with zeros, flattening."""

    function: Callable[[Tensor], Tensor]
    mixes: bool = True

    def forward(self, values: Tensor) -> Tensor:
        """(N, inputs…) -> (N, outputs…)."""
        return self.function(values)

    def absolute(self, values: Tensor) -> Tensor:
        """As the values, with the absolute weights."""
        return self.function(values)

    def transposed(self, function: Window, shape: Sequence[int], output: Sequence[int]) -> Window:
        """Of all outputs: a map without a window of its own."""
        values = function.whole(output)
        with torch.enable_grad():
            inputs = values.new_zeros((len(values), *shape), requires_grad=True)
            outputs = self.function(inputs)
        return Window(torch.autograd.grad(outputs, inputs, values, create_graph=values.requires_grad)[0])


class Sum:
    """Of two layers: the end of a shortcut."""

    def size(self, one: Tensor, other: Tensor) -> Tensor:
        """As of an affine layer, of two inputs."""
        return one + other


@dataclass(frozen=True)
class Relaxed:
    """Two linear functions that enclose a layer's output: ``low · x ≤ y ≤ high · x + added``, elementwise.

    Of a max-pooling ``x`` is the input at ``at``, flat places in the image planes of the inputs.
    """

    low: Tensor
    high: Tensor
    added: Tensor
    at: Tensor | None = None


class Relu:
    """The only nonlinearity but max-pooling."""

    def interval(self, bounds: Interval) -> Interval:
        """Bounds of the output."""
        low, high = bounds
        return low.clamp(min=0), high.clamp(min=0)

    def size(self, largest: Tensor) -> Tensor:
        """As of an affine layer: both lines add up no more."""
        return largest

    def relaxed(self, bounds: Interval) -> Relaxed:
        """CROWN's adaptive relaxation (Zhang et al. 2018, section 3.3): the lower line has the slope 0 or 1."""
        low, high = bounds
        open_ = (low < 0) & (high > 0)
        slope = high / torch.where(open_, high - low, 1.0) * (1 + 2**-20)  # rounded upwards
        high_slope = torch.where(open_, slope.clamp(max=1), (low >= 0).to(low))
        added = torch.where(open_, -low * high_slope, 0.0)
        return Relaxed(torch.where(high > -low, 1.0, 0.0).to(low), high_slope, added)

    def transposed(self, function: Window, relaxed: Relaxed, shape: Sequence[int]) -> tuple[Window, Tensor]:
        """Lower bounds of linear functions of the output: as functions of the inputs, and what is added by element.

        ``relaxed`` is that of each function's window.
        """
        values, added = _bounded(function.values, relaxed)
        return Window(values, function.corner), added


@dataclass(frozen=True)
class MaxPool:
    """The largest of a window: at least the input with the largest lower bound, at most the largest upper bound.

    It equals that input where no other can be larger (Singh et al. 2019, section 4.4).
    """

    layer: nn.MaxPool2d

    def interval(self, bounds: Interval) -> Interval:
        """Bounds of the output."""
        return self.layer(bounds[0]), self.layer(bounds[1])

    def size(self, largest: Tensor) -> Tensor:
        """As of an affine layer."""
        return self.layer(largest)  # type: ignore[no-any-return]

    def relaxed(self, bounds: Interval) -> Relaxed:
        """From bounds of the input."""
        low, high = (self._windows(value, -torch.inf) for value in bounds)
        shape = self.layer(bounds[0]).shape
        least, chosen = low.max(2, keepdim=True)
        rest = high.scatter(2, chosen, -torch.inf).amax(2)
        decided = (least.squeeze(2) >= rest).view(shape)
        places = torch.arange(bounds[0][0, 0].numel(), device=low.device).view(1, 1, *bounds[0].shape[2:])
        at = self._windows(places.double(), -1).expand(*low.shape).gather(2, chosen).long().view(shape)
        largest = high.amax(2).view(shape)
        return Relaxed(
            low=torch.ones_like(largest),
            high=decided.to(largest),
            added=torch.where(decided, 0.0, largest),
            at=at,
        )

    def transposed(self, function: Window, relaxed: Relaxed, shape: Sequence[int]) -> tuple[Window, Tensor]:
        """As of :meth:`Relu.transposed`; the window grows by that of the pooling."""
        layer, (height, width) = self.layer, function.values.shape[2:]
        reach = [
            dilation * (side - 1) + 1 + stride * (count - 1)
            for side, dilation, stride, count in zip(
                _pair(layer.kernel_size), _pair(layer.dilation), _pair(layer.stride), (height, width), strict=True
            )
        ]
        places = zip(function.corner, _pair(layer.stride), _pair(layer.padding), strict=True)
        row, column = (place * stride - margin for place, stride, margin in places)
        assert relaxed.at is not None
        at = (relaxed.at // shape[2] - row) * reach[1] + relaxed.at % shape[2] - column
        values, added = _bounded(function.values, relaxed)
        found = values.new_zeros(*values.shape[:2], reach[0] * reach[1])
        found = found.scatter_add(2, at.flatten(2), values.flatten(2)).view(*values.shape[:2], *reach)
        return Window(found, (row, column)).inside(shape), added

    def _windows(self, values: Tensor, padding: float) -> Tensor:
        """(N, C, inputs of a window, windows)."""
        layer, (count, channels) = self.layer, values.shape[:2]
        side = F.pad(values, [_pair(layer.padding)[1]] * 2 + [_pair(layer.padding)[0]] * 2, value=padding)
        kernel = {"dilation": layer.dilation, "stride": layer.stride}
        found = F.unfold(side.flatten(0, 1).unsqueeze(1), layer.kernel_size, **kernel)
        return found.view(count, channels, *found.shape[1:])


def _bounded(coefficients: Tensor, relaxed: Relaxed) -> tuple[Tensor, Tensor]:
    """Positive coefficients take the lower line, negative ones the upper: coefficients of the input, and what is added."""
    negative = coefficients.clamp(max=0)
    return (coefficients - negative) * relaxed.low + negative * relaxed.high, negative * relaxed.added


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else value
