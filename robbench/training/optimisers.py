"""The optimisers of recipes, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.spec import Recipe


def new_optimiser(
    network: nn.Module, recipe: Recipe, groups: Sequence[dict[str, object]] | None
) -> torch.optim.Optimizer:
    """The recipe's optimiser, of these parameter groups or of all trainable parameters; fused on a GPU.

    A group has its factor on the learning rate as ``scale``; and as ``first``, perhaps, another for so many epochs.

    Raises:
        RobbenchError: there is no trainable parameter.
    """
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trainable:
        raise RobbenchError("training: expected a network with parameters to train, got one that is frozen as a whole")
    given = [{"params": trainable}] if groups is None else groups
    scaled = [{"scale": 1.0, "first": (0.0, 1.0), **group, "lr": recipe.learning_rate} for group in given]
    decay = recipe.weight_decay
    if recipe.optimiser == "adam":
        return torch.optim.Adam(scaled, weight_decay=decay, fused=fused(network))
    return torch.optim.SGD(scaled, momentum=recipe.momentum, weight_decay=decay, fused=fused(network))


def set_rates(optimiser: torch.optim.Optimizer, rate: float, position: float) -> None:
    """Give each group its learning rate at a position in epochs; while its factor is 0, nothing in it learns."""
    for group in optimiser.param_groups:
        epochs, scale = group["first"]
        group["lr"] = rate * (scale if position < epochs else group["scale"])
        if epochs:
            for parameter in group["params"]:
                parameter.requires_grad_(group["lr"] > 0)


def fused(network: nn.Module) -> bool | None:
    """Whether the optimiser runs one kernel for all parameters: on a GPU; None leaves the choice to torch."""
    return True if next(network.parameters()).is_cuda else None


def state_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by ``<parameter>.<name>``; its settings follow from the recipe."""
    return {
        f"{index}.{name}": torch.as_tensor(value).detach()
        for index, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }


def restore(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take up what :func:`state_tensors` gave; a RuntimeError or IndexError, and no change, if it is of other parameters."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        # Fused optimisers want a parameter and its state in the same layout. A number, such as Adam's step, has none.
        if tensor.ndim:
            tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
