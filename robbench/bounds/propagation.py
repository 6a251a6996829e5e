"""Lower bounds of linear functions of a network's logits over boxes of images: IBP, CROWN-IBP and CROWN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from robbench.bounds.layers import MARGIN, Affine, Interval, Relaxed, Sum
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

    @classmethod
    def around(cls, images: Tensor, radii: Tensor) -> Boxes:
        """Of (B, C, H, W) images in [0, 1] and (B,) radii in pixel units, rounded outwards."""
        # A pixel is rounded to the nearest float: the box is made larger by one step of that.
        far = radii.to(images).view(-1, *[1] * (images.dim() - 1)) * (1 + 2**-20)
        low, high = (images - far - 2**-24).clamp(0, 1), (images + far + 2**-24).clamp(0, 1)
        return cls(low, high)


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
        self._intervals(boxes, relax=method != "ibp", tighten=method == "crown")
        # Intervals of the values in front of the last linear layers lose less than those of the logits.
        stop = self._front(last) if method == "ibp" else {0}
        return self._over(boxes, last, functions, owners, stop)

    def worst_logits(self, boxes: Boxes, labels: Tensor, classes: int) -> Tensor:
        """(B, classes) upper bounds by IBP of every logit minus the label's, as certified training minimises them."""
        count = len(labels)
        owners = torch.arange(count, device=labels.device).repeat_interleave(classes)
        one_hot = torch.eye(classes, device=boxes.low.device, dtype=boxes.low.dtype)
        functions = one_hot[labels].repeat_interleave(classes, 0) - one_hot.repeat(count, 1)
        self._intervals(boxes, relax=False)
        last = len(self.nodes)
        found = self._backwards(boxes, last, functions, owners, self._front(last), outwards=False)
        return -found.view(count, classes)

    def _front(self, at: int) -> set[int]:
        """The values in front of the linear layer whose output this value is, or the value itself."""
        layer = self.nodes[at - 1].layer if at else None
        return set(self.nodes[at - 1].inputs) if isinstance(layer, Affine) and at else {at}

    def _intervals(self, boxes: Boxes, *, relax: bool, tighten: bool = False) -> None:
        """Bounds of every value by intervals, and relaxations; to tighten, CROWN bounds what goes into nonlinear layers."""
        boxes.bounds[0] = boxes.low, boxes.high
        # Values that are made of one pixel each, and those that are one linear function of separate ones: IBP is exact.
        boxes.relaxed.clear()
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
                    self._tighten(boxes, value)
                if relax:
                    boxes.relaxed[number] = layer.relaxed(boxes.bounds[value])
                boxes.bounds[number] = layer.interval(boxes.bounds[value])

    def _tighten(self, boxes: Boxes, value: int) -> None:
        """Put CROWN's bounds of a value in place of looser ones, where they leave its sign open."""
        low, high = (bound.flatten(1).clone() for bound in boxes.bounds[value])
        shape = boxes.bounds[value][0].shape[1:]
        owners, places = ((low < 0) & (high > 0)).nonzero(as_tuple=True)
        for bound, sign in ((low, 1.0), (high, -1.0)):
            found = self._of_places(boxes, value, owners, places, sign, shape)
            old = bound[owners, places]
            bound[owners, places] = torch.maximum(old, found) if sign > 0 else torch.minimum(old, -found)
        boxes.bounds[value] = low.view(-1, *shape), high.view(-1, *shape)

    def _of_places(
        self, boxes: Boxes, value: int, owners: Tensor, places: Tensor, sign: float, shape: Sequence[int]
    ) -> Tensor:
        found = torch.empty(len(owners), dtype=boxes.low.dtype, device=boxes.low.device)

        def work(part: slice) -> None:
            rows = part.stop - part.start
            functions = found.new_zeros(rows, int(torch.Size(shape).numel()))
            functions[torch.arange(rows, device=found.device), places[part]] = sign
            found[part] = self._backwards(boxes, value, functions.view(rows, *shape), owners[part], {0})

        self.batches.over(len(owners), found.device, work)
        return found

    def _over(self, boxes: Boxes, value: int, functions: Tensor, owners: Tensor, stop: set[int]) -> Tensor:
        found = torch.empty(len(owners), dtype=boxes.low.dtype, device=boxes.low.device)

        def work(part: slice) -> None:
            found[part] = self._backwards(boxes, value, functions[part].to(found), owners[part], stop)

        self.batches.over(len(owners), found.device, work)
        return found

    def _backwards(
        self, boxes: Boxes, value: int, functions: Tensor, owners: Tensor, stop: set[int], *, outwards: bool = True
    ) -> Tensor:
        """(R,) lower bounds of linear functions of a value, through the layers back to the values in ``stop``."""
        self.rows += len(owners)
        waiting: dict[int, Tensor] = {value: functions}
        bound = functions.new_zeros(len(functions))
        size = torch.zeros_like(bound)
        for number in range(value, -1, -1):
            if number not in waiting:
                continue
            function = waiting.pop(number)
            if number in stop or number == 0:
                low, high = (each[owners] for each in boxes.bounds[number])
                middle, radius = (low + high) / 2, (high - low) / 2
                absolute = function.abs()
                bound = bound + (function * middle - absolute * radius).flatten(1).sum(1)
                size = size + (absolute * (middle.abs() + radius)).flatten(1).sum(1)
                continue
            node = self.nodes[number - 1]
            added: Tensor | None = None
            if isinstance(node.layer, Sum):
                found = [function, function]
            elif isinstance(node.layer, Affine):
                shape = boxes.bounds[node.inputs[0]][0].shape[1:]
                found = [node.layer.transposed(function, shape)]
                added = None if node.layer.bias is None else function * node.layer.bias
            else:
                shape = boxes.bounds[node.inputs[0]][0].shape[1:]
                relaxed = _rows(boxes.relaxed[number], owners)
                (*found, added) = node.layer.transposed(function, relaxed, shape)
            if added is not None:
                bound = bound + added.flatten(1).sum(1)
                size = size + added.abs().flatten(1).sum(1)
            for each, part in zip(node.inputs, found, strict=True):
                waiting[each] = waiting[each] + part if each in waiting else part
        return bound - MARGIN * size if outwards else bound


def _rows(relaxed: Relaxed, owners: Tensor) -> Relaxed:
    at = None if relaxed.at is None else relaxed.at[owners]
    return Relaxed(relaxed.low[owners], relaxed.high[owners], relaxed.added[owners], at)


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
