"""A network as the list of its layers, for bounds: what is not in it cannot be bounded, which is one clear error."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from robbench.bounds.layers import (
    Affine,
    Convolution,
    Dense,
    MaxPool,
    Positive,
    Relu,
    Sum,
    batch_norm,
    normalisation,
)
from robbench.errors import RobbenchError
from robbench.machine.onednn import FusedConvolution
from robbench.models import Normalise
from robbench.models.network import COLOUR

Layer = Affine | Relu | MaxPool | Sum


@dataclass(frozen=True)
class Node:
    """One layer, and which values go into it: 0 are the images, i + 1 the output of the i-th node."""

    name: str
    layer: Layer
    inputs: tuple[int, ...]


KNOWN = (
    "linear, convolution, ReLU, batch norm in eval mode, average and max pooling, sums, flatten, zero padding and "
    "dropout in eval mode"
)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Layers of torch, fused ones, and the input normalisation."""
        return isinstance(module, Normalise | FusedConvolution) or super().is_leaf_module(module, name)


def nodes_of(network: nn.Module) -> tuple[Node, ...]:
    """The layers of a network in the order in which they run; the last one gives the logits.

    Raises:
        RobbenchError: a layer has no bounds, or what runs depends on the values of the images.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # whatever a network's code makes of a tracer's proxy
        what = "layers that run in one order, whatever the images"
        raise RobbenchError(f"bounds of {_name(network)}: expected {what}, got {error!r}") from error
    for node in reversed(graph.nodes):  # a head that is not returned would be the last layer
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    modules = dict(network.named_modules())
    values: dict[fx.Node, int] = {}
    found: list[Node] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = 0
        elif node.op == "output":
            break
        elif not _is_size(node):
            layers, name = _layers(node, modules)
            inputs = tuple(values[each] for each in node.all_input_nodes if each in values)
            for layer in layers:
                if len(inputs) != (2 if isinstance(layer, Sum) else 1):
                    raise _unknown(name)
                found.append(Node(name, layer, inputs))
                inputs = (len(found),)
            values[node] = inputs[0]
    return tuple(found)


def _is_size(node: fx.Node) -> bool:
    """Whether a node is a size (``x.size(0)``, ``x.shape[0]``) or a value of the network, and no layer."""
    if node.op == "get_attr" or (node.op == "call_method" and node.target == "size"):
        return True
    shape = node.target is getattr and node.args[1:] == ("shape",)
    first = node.args[0] if node.args else None
    return shape or (node.target is operator.getitem and isinstance(first, fx.Node) and _is_size(first))


def _name(network: nn.Module) -> str:
    return getattr(network, "architecture", type(network).__name__)


def _unknown(name: str) -> RobbenchError:
    return RobbenchError(
        f"bounds: expected layers with known bounds ({KNOWN}), got {name}; leave this model's bounds out"
    )


def _layers(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[list[Layer], str]:
    """What a traced operation does, first to last; nothing where it changes nothing; and its name."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        name = f"{node.target} ({type(module).__name__})"
        return _of_module(module, name), name
    target = node.target if callable(node.target) else str(node.target)
    name = f"{node.name} ({target if isinstance(target, str) else getattr(target, '__name__', target)})"
    return _of_function(node, target, name), name


def _of_module(module: nn.Module, name: str) -> list[Layer]:
    match module:
        case nn.Linear():
            return [Dense(module)]
        case nn.Conv2d(padding_mode="zeros"):
            return [Convolution(module)]
        case FusedConvolution():
            pool = [MaxPool(nn.MaxPool2d(module.pool))] if module.pool > 1 else []
            return [Convolution(module), Relu(), *pool]
        case nn.ReLU():
            return [Relu()]
        case nn.BatchNorm1d() | nn.BatchNorm2d() if module.running_mean is not None:
            return [batch_norm(module)]
        case nn.MaxPool2d(ceil_mode=False):
            return [MaxPool(module)]
        case nn.AvgPool2d() | nn.AdaptiveAvgPool2d() | nn.Flatten():
            return [Positive(module, mixes=not isinstance(module, nn.Flatten))]
        case Normalise():
            grey = [Positive(_three_channels, mixes=False)] if module.channels == COLOUR else []
            return [*grey, *normalisation(module)]
        case nn.Dropout() | nn.Dropout2d() | nn.Identity():
            return []
    raise _unknown(name)


def _three_channels(values: torch.Tensor) -> torch.Tensor:
    """A grey image as three equal channels; one in colour as it is."""
    return values.expand(-1, COLOUR, -1, -1)


_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_LINEAR: dict[Any, bool] = {
    torch.flatten: False,
    "flatten": False,
    torch.mean: True,
    "mean": True,
    F.avg_pool2d: True,
    F.adaptive_avg_pool2d: True,
}
"""Maps with weights ≥ 0 and no others, by function or method; whether they mix inputs."""


def _of_function(node: fx.Node, target: Callable[..., Any] | str, name: str) -> list[Layer]:
    options = dict(node.kwargs)
    if target in _SUMS and len(node.all_input_nodes) == 2 and not options:
        return [Sum()]
    if target in _RELUS:
        return [Relu()]
    if target is F.dropout and not (options.get("training", True) if len(node.args) < 3 else node.args[2]):
        return []
    if target is F.pad:
        given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | options
        if given.get("mode", "constant") == "constant" and not given.get("value"):
            return [Positive(partial(F.pad, pad=given["pad"]), mixes=False)]
    if target in ("view", "reshape") and len(node.args) == 3 and node.args[2] == -1:
        return [Positive(partial(torch.flatten, start_dim=1), mixes=False)]
    if target in _LINEAR:
        function = partial(_call, target, node.args[1:], options)
        return [Positive(function, mixes=_LINEAR[target])]
    raise _unknown(name)


def _call(target: Any, positional: tuple[Any, ...], options: dict[str, Any], values: torch.Tensor) -> torch.Tensor:
    function = getattr(torch.Tensor, target) if isinstance(target, str) else target
    return function(values, *positional, **options)  # type: ignore[no-any-return]
