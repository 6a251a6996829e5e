"""Whether training can go on from a state that was read: all of it is there, and fits what is to be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from robbench.models.weights import buffers, not_finite
from robbench.spec import Recipe
from robbench.training.loop import Progress
from robbench.training.optimisers import Layout, layout, state_layout
from robbench.training.schedule import kept_epoch


def check_fits(
    progress: Progress, network: nn.Module, recipe: Recipe, groups: Sequence[dict[str, object]] | None = None
) -> None:
    """Compare names, shapes and dtypes of a state's tensors with those that training would have left.

    Args:
        progress: what was read.
        network: as training began with it, the values of its buffers included.
        recipe: of the training.
        groups: parameter groups of the optimiser, as in :func:`robbench.training.loop.train`.

    Raises:
        ValueError: something is missing, too much, or of another kind; names the first.
    """
    epochs = [epoch.epoch for epoch in progress.history]
    if not 1 <= len(epochs) <= recipe.epochs or epochs != [*range(1, len(epochs) + 1)]:
        raise ValueError(f"history: expected epochs from 1 to at most {recipe.epochs}, got {epochs}")
    kept = kept_epoch(recipe, progress.history)
    if kept < len(epochs) and progress.best is progress.weights:
        raise ValueError(f"best: expected the weights of epoch {kept}, got none")
    own = network.state_dict()
    for part, tensors in (("weights", progress.weights), ("best", progress.best)):
        _compare(part, tensors, {name: layout(value) for name, value in own.items()})
        if overflown := not_finite(tensors, buffers(network)):
            raise ValueError(f"{part}: {overflown[0]} is not finite")
    states = state_layout(network, recipe, groups)
    # A parameter that never had a gradient has no state, but one at least had.
    held = [state for state in states if state.keys() & progress.optimiser.keys()] or states
    _compare("optimiser", progress.optimiser, {name: kind for state in held for name, kind in state.items()})


def _compare(part: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Layout]) -> None:
    found = {name: layout(tensor) for name, tensor in tensors.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            wanted, got = (_words(layouts.get(name)) for layouts in (expected, found))
            raise ValueError(f"{part}: expected {wanted} as {name}, got {got}")


def _words(kind: Layout | None) -> str:
    return "none" if kind is None else f"{str(kind[0]).removeprefix('torch.')} {tuple(kind[1])}"
