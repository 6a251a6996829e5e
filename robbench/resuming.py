"""Whether training can go on from a state that was read: all of it is there, and fits network and recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robbench.models.weights import not_finite
from robbench.optimisers import Layout, layout, state_layout
from robbench.schedule import kept_epoch
from robbench.spec import Recipe
from robbench.training import Progress


def check_fits(
    progress: Progress, network: nn.Module, recipe: Recipe, groups: Sequence[dict[str, object]] | None = None
) -> None:
    """Compare names, shapes and dtypes of a state's tensors with those that training would have left.

    Args:
        progress: what was read.
        network: as training began with it, its values included.
        recipe: of the training.
        groups: parameter groups of the optimiser, as in :func:`robbench.training.train`.

    Raises:
        ValueError: something is missing, too much, or of another kind; names the first.
    """
    epochs = [epoch.epoch for epoch in progress.history]
    if not 1 <= len(epochs) <= recipe.epochs or epochs != [*range(1, len(epochs) + 1)]:
        raise ValueError(f"history: expected epochs from 1 to at most {recipe.epochs}, got {epochs}")
    kept = kept_epoch(recipe, progress.history)
    if kept < len(epochs) and progress.best is progress.weights:
        raise ValueError(f"best: expected the weights of epoch {kept}, got none")
    own = network.state_dict(keep_vars=True)
    for part, tensors in (("weights", progress.weights), ("best", progress.best)):
        _compare(part, tensors, {name: layout(value) for name, value in own.items()})
        if overflown := not_finite(tensors):
            raise ValueError(f"{part}: {overflown[0]} is not finite")
    names = {id(value): name for name, value in own.items()}
    expected: dict[str, Layout] = {}
    for index, (parameter, held) in enumerate(state_layout(network, recipe, groups)):
        state = {f"{index}.{name}": kind for name, kind in held.items()}
        moved = not torch.equal(parameter.detach().cpu(), progress.weights[names[id(parameter)]])
        if moved or state.keys() & progress.optimiser.keys():  # one that never had a gradient has no state
            expected |= state
    _compare("optimiser", progress.optimiser, expected)


def _compare(part: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Layout]) -> None:
    found = {name: layout(tensor) for name, tensor in tensors.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            wanted, got = (_words(layouts.get(name)) for layouts in (expected, found))
            raise ValueError(f"{part}: expected {wanted} as {name}, got {got}")


def _words(kind: Layout | None) -> str:
    return "none" if kind is None else f"{str(kind[0]).removeprefix('torch.')} {tuple(kind[1])}"
