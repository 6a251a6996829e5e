"""Lower bounds of linear functions of a network's logits over boxes of images: IBP, CROWN-IBP and CROWN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.bounds.layers import MARGIN, Affine, Interval, Relaxed, Sum, Window
from robbench.bounds.network import Node, nodes_of
from robbench.machine.memory import Batches

Method = Literal["ibp", "crown-ibp", "crown"]

ROWS = 512
"""Linear functions that go backwards through the network at once, if memory allows it (``suites/perf/test_bounds.py``)."""


@dataclass
class Boxes:
    """Images with a radius each: all images at most so far away, with pixels in [0, 1]; and what is known of the layers."""

    low: Tensor
    """(B, C, H, W) smallest pixels."""
    high: Tensor
    bounds: dict[int, Interval] = field(default_factory=dict)
    """Of the value with this number: 0 are the images, i + 1 the output of the i-th node."""
    relaxed: dict[int, Relaxed] = field(default_factory=dict)
    """Of the nonlinear layer whose output is the value with this number."""
    sizes: dict[int, Tensor] = field(default_factory=dict)
    """Of the value with this number: at most how much is added up for it, in absolute values."""

    @classmethod
    def around(cls, images: Tensor, radii: Tensor) -> Boxes:
        """Of (B, C, H, W) images in [0, 1] and (B,) radii in pixel units, rounded outwards."""
        # A pixel is rounded to the nearest float: the box is made larger by one step of that.
        far = radii.to(images).view(-1, *[1] * (images.dim() - 1)) * (1 + 2**-20)
        low, high = (images - far - 2**-24).clamp(0, 1), (images + far + 2**-24).clamp(0, 1)
        return cls(low, high)


Tighten = Callable[[Boxes, int], None]


class BoundedNetwork:
    """Bounds of one network in eval mode, whose weights may go on changing.

    ``rows`` is how many linear functions go backwards at once, and how long that may be is up to the memory.

    Raises:
        RobbenchError: a layer has no bounds.
    """

    def __init__(self, network: nn.Module, rows: int = ROWS, notes: list[str] | None = None) -> None:
        self.nodes: tuple[Node, ...] = nodes_of(network)
        self.batches = Batches("bounds", rows, [] if notes is None else notes)
        self.rows = 0
        """Linear functions that went backwards so far."""

    def margins(self, boxes: Boxes, functions: Tensor, owners: Tensor, method: Method) -> Tensor:
        """(R,) lower bounds over their boxes of linear functions of the logits, moved outwards by :data:`MARGIN`.

        Args:
            boxes: B of them; what is found out about the layers is kept there for the next call.
            functions: (R, classes) coefficients: 1 and −1 for a margin between two classes.
            owners: (R,) int64, to which box each belongs.
            method: how: from intervals (IBP, Gowal et al. 2018); by linear functions backwards through the network with
                relaxations from intervals (CROWN-IBP, Zhang et al. 2020), or from bounds that were found likewise (CROWN,
                Zhang et al. 2018).
        """
        last = len(self.nodes)
        self._prepare(boxes, method)
        # Intervals of the values in front of the last linear layers lose less than those of the logits.
        stop = self._front(last) if method == "ibp" else {0}
        found = boxes.low.new_empty(len(owners))

        def work(part: slice) -> None:
            found[part] = self._backwards(boxes, last, Window(functions[part].to(found)), owners[part], stop)

        self.batches.over(len(owners), found.device, work)
        return found

    def worst_logits(self, boxes: Boxes, labels: Tensor, classes: int, method: Method) -> Tensor:
        """(B, classes) upper bounds of every logit minus the label's, as certified training minimises them.

        They can be differentiated, and are not moved outwards.
        """
        count = len(labels)
        owners = torch.arange(count, device=labels.device).repeat_interleave(classes)
        one_hot = torch.eye(classes, device=boxes.low.device, dtype=boxes.low.dtype)
        functions = one_hot[labels].repeat_interleave(classes, 0) - one_hot.repeat(count, 1)
        self._prepare(boxes, method)
        last = len(self.nodes)
        stop = self._front(last) if method == "ibp" else {0}
        found = self._backwards(boxes, last, Window(functions), owners, stop, outwards=False)
        return -found.view(count, classes)

    def _prepare(self, boxes: Boxes, method: Method) -> None:
        self._intervals(boxes, relax=method != "ibp", tighten=self._tighten if method == "crown" else None)

    def neurons(self, shape: Sequence[int]) -> int:
        """How many values of an image of (C, H, W) go into nonlinear layers and have no exact interval: CROWN bounds each."""
        counted: list[int] = []
        boxes = Boxes(torch.zeros(1, *shape), torch.ones(1, *shape))
        with torch.no_grad():
            self._intervals(
                boxes, relax=False, tighten=lambda boxes, value: counted.append(boxes.bounds[value][0].numel())
            )
        return sum(counted)

    def row_seconds(self, boxes: Boxes, timed: Callable[[Callable[[], object]], float]) -> float:
        """Seconds of a linear function of CROWN, averaged over all neurons, by what ``timed`` finds a call to take.

        One place of the planes stands for all others of its layer; functions that are not needed count as no time.
        """
        rows, seconds = 0, 0.0

        def one_place(boxes: Boxes, value: int) -> None:
            nonlocal rows, seconds
            low, high = boxes.bounds[value]
            planes = low.shape[2:]
            corner = (planes[0] // 2, planes[1] // 2) if planes else (0, 0)
            here = (..., *corner) if planes else (...,)
            owners, channels = ((low < 0) & (high > 0))[here].nonzero(as_tuple=True)
            took = timed(lambda: self._of_channels(boxes, value, owners, channels, corner))
            rows, seconds = rows + 2 * low.numel(), seconds + planes.numel() * took

        with torch.no_grad():
            self._intervals(boxes, relax=True, tighten=one_place)
        return seconds / rows

    def _front(self, at: int) -> set[int]:
        """The values in front of the linear layer whose output this value is, or the value itself."""
        layer = self.nodes[at - 1].layer if at else None
        return set(self.nodes[at - 1].inputs) if isinstance(layer, Affine) and at else {at}

    def _intervals(self, boxes: Boxes, *, relax: bool, tighten: Tighten | None = None) -> None:
        """Bounds of every value by intervals, and relaxations; ``tighten`` sees each value that goes into a nonlinear layer.

        But for those whose intervals are exact: one linear layer after single pixels.
        """
        boxes.bounds[0] = boxes.low, boxes.high
        # Values that are made of one pixel each, and those that are one linear function of separate ones: IBP is exact.
        boxes.relaxed.clear()
        boxes.sizes.clear()
        separate, exact = {0}, {0}
        for number, node in enumerate(self.nodes, 1):
            layer, inputs = node.layer, [boxes.bounds[each] for each in node.inputs]
            if isinstance(layer, Sum):
                (low, high), (other_low, other_high) = inputs
                boxes.bounds[number] = low + other_low, high + other_high
            elif isinstance(layer, Affine):
                boxes.bounds[number] = layer.interval(inputs[0])
                if node.inputs[0] in (separate if layer.mixes else exact):
                    exact.add(number)
                if node.inputs[0] in separate and not layer.mixes:
                    separate.add(number)
            else:
                value = node.inputs[0]
                if tighten and value not in exact:
                    tighten(boxes, value)
                if relax:
                    boxes.relaxed[number] = layer.relaxed(boxes.bounds[value])
                boxes.bounds[number] = layer.interval(boxes.bounds[value])

    def _tighten(self, boxes: Boxes, value: int) -> None:
        """Put CROWN's bounds of a value in place of looser ones, where they leave its sign open."""
        low, high = (bound.clone() for bound in boxes.bounds[value])
        planes = low.dim() == 4
        open_ = (low < 0) & (high > 0)
        places = open_.flatten(2).any(0).any(0).nonzero().flatten().tolist() if planes else [0]
        for place in places:  # the functions of one place of the planes look at the same window
            row, column = divmod(place, low.shape[-1]) if planes else (0, 0)
            here = (..., row, column) if planes else (...,)
            owners, channels = open_[here].nonzero(as_tuple=True)
            found = self._of_channels(boxes, value, owners, channels, (row, column))
            low[here][owners, channels] = torch.maximum(low[here][owners, channels], found[0])
            high[here][owners, channels] = torch.minimum(high[here][owners, channels], -found[1])
        boxes.bounds[value] = low, high

    def _of_channels(
        self, boxes: Boxes, value: int, owners: Tensor, channels: Tensor, corner: tuple[int, int]
    ) -> Tensor:
        """(2, R) lower bounds of some channels' values at one place, and of these values with the other sign."""
        shape = boxes.bounds[value][0].shape[1:]
        found = boxes.low.new_empty(2, len(owners))

        def work(part: slice) -> None:
            one_hot = F.one_hot(channels[part], shape[0]).to(found)
            functions = torch.cat([one_hot, -one_hot]).view(-1, shape[0], *(1 for _ in shape[1:]))
            both = self._backwards(boxes, value, Window(functions, corner), owners[part].repeat(2), {0})
            found[:, part] = both.view(2, -1)

        self.batches.over(len(owners), found.device, work)
        return found

    def _backwards(
        self, boxes: Boxes, value: int, functions: Window, owners: Tensor, stop: set[int], *, outwards: bool = True
    ) -> Tensor:
        """(R,) lower bounds of linear functions of a value, through the layers back to the values in ``stop``."""
        self.rows += len(owners)
        waiting: dict[int, Window] = {value: functions}
        bound = functions.values.new_zeros(len(owners))
        size = torch.zeros_like(bound)
        for number in range(value, -1, -1):
            if number not in waiting:
                continue
            function = waiting.pop(number)
            if outwards:
                sizes = function.of(self._size(boxes, number))[owners]
                size = size + (function.values.abs() * sizes).flatten(1).sum(1)
            if number in stop or number == 0:
                low, high = (function.of(each)[owners] for each in boxes.bounds[number])
                middle, radius = (low + high) / 2, (high - low) / 2
                bound = bound + (function.values * middle - function.values.abs() * radius).flatten(1).sum(1)
                continue
            node = self.nodes[number - 1]
            shapes = [boxes.bounds[each][0].shape[1:] for each in node.inputs]
            added: Tensor | None = None
            if isinstance(node.layer, Sum):
                found = [function, function]
            elif isinstance(node.layer, Affine):
                found = [node.layer.transposed(function, shapes[0], boxes.bounds[number][0].shape[1:])]
                added = None if node.layer.bias is None else function.values * node.layer.bias
            else:
                relaxed = _rows(boxes.relaxed[number], function, owners)
                one, added = node.layer.transposed(function, relaxed, shapes[0])
                found = [one]
            if added is not None:
                bound = bound + added.flatten(1).sum(1)
            for each, part in zip(node.inputs, found, strict=True):
                waiting[each] = waiting[each].plus(part) if each in waiting else part
        return bound - MARGIN * size if outwards else bound

    def _size(self, boxes: Boxes, number: int) -> Tensor:
        """(B, *shape): what is added up for a value, at most, in absolute values.

        Coefficients c of the value y = Wx + b become cW, rounded by a share of |c||W|: that moves the bound by this share of
        |c||W||x|, even where cW itself is almost zero.
        """
        if number == 0:
            return boxes.high
        if number not in boxes.sizes:
            node = self.nodes[number - 1]
            inputs = (boxes.bounds[each] for each in node.inputs)
            boxes.sizes[number] = node.layer.size(*(torch.maximum(-low, high) for low, high in inputs))
        return boxes.sizes[number]


def _rows(relaxed: Relaxed, function: Window, owners: Tensor) -> Relaxed:
    """The relaxation of each function's box, where the function looks."""
    low, high, added = (function.of(each)[owners] for each in (relaxed.low, relaxed.high, relaxed.added))
    return Relaxed(low, high, added, None if relaxed.at is None else function.of(relaxed.at)[owners])


def margin_functions(labels: Tensor, open_classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The margins between each image's label and the classes that are open, as functions of the logits.

    Args:
        labels: (B,) int64.
        open_classes: (B, classes) bool.

    Returns:
        (R, classes) float32 coefficients, the (R,) images and the (R,) other classes.
    """
    owners, others = open_classes.nonzero(as_tuple=True)
    functions = torch.zeros(len(owners), open_classes.shape[1], device=labels.device)
    rows = torch.arange(len(owners), device=labels.device)
    functions[rows, labels[owners]] += 1
    functions[rows, others] -= 1
    return functions, owners, others
