"""p*: the smallest ε of a grid at which an attack fools the network, for every image that it classifies correctly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from robbench.attacks import evaluating, full_precision, is_counterexample, pgd
from robbench.data import pixels
from robbench.errors import RobbenchError, require
from robbench.record import WRONG
from robbench.spec import PGD

BATCH_SIZE = {"cpu": 256, "cuda": 2048}
"""Images attacked at once, by device type; halved when memory runs out."""


@dataclass
class Search:
    """State of a p* search over N images: enough to go on after an interruption.

    ``first`` and ``last`` bracket the grid indices still in question (none where first > last); ``pstar`` holds the
    smallest index at which the attack succeeded, ``len(grid)`` before any success, ``WRONG`` for images misclassified
    unperturbed. All (N,) int64 on the CPU.
    """

    first: Tensor
    last: Tensor
    pstar: Tensor
    forward: int = 0
    """Images passed forward so far."""
    backward: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def undecided(self) -> Tensor:
        """Indices of the images whose bracket is not closed."""
        return (self.first <= self.last).nonzero().flatten()


def estimate_pstar(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    grid: Sequence[float],
    attack: PGD,
    *,
    batch_size: int | None = None,
    state: Search | None = None,
    on_progress: Callable[[Search], None] = lambda state: None,
) -> Search:
    """The ``reference`` search: binary search over the grid, image by image, in batches (protocol of ADA-VERONA).

    Every image has its own bracket: probe ``(first + last) // 2`` with the whole attack, judge its last iterate, go up
    after a failure and down after a success. A success counts only when float32 inference, outside autocast and
    without TF32, confirms the counterexample inside ball and box. A batch holds the next undecided images, each at its
    own radius, so images leave it when their bracket closes, and memory is bounded by the batch. At ε = 0 nothing is
    attacked: the image itself is not misclassified.

    Args:
        model: classifier, (N, C, H, W) floats in [0, 1] -> (N, classes); evaluated in eval mode, its modes restored.
        images: (N, C, H, W) uint8, or floats in [0, 1], on the device of the model.
        labels: (N,) int64, on the same device.
        grid: ascending radii in pixel units.
        attack: PGD without epsilon and step size, which follow from the grid (step ε ÷ steps).
        batch_size: images attacked at once; None for a default by device.
        state: an interrupted search to go on with.
        on_progress: called after every batch.

    Raises:
        RobbenchError: no image, mismatched labels, a grid that does not ascend, logits that are not finite.
    """
    require(len(images) > 0 and len(labels) == len(images), "labels", f"{len(images)} (at least one)", len(labels))
    require(
        len(grid) > 0 and grid[0] >= 0 and all(low < high for low, high in pairwise(grid)),
        "grid",
        "ascending radii ≥ 0",
        grid,
    )
    size = batch_size or BATCH_SIZE.get(images.device.type, 256)
    radii = torch.tensor(grid, dtype=torch.float64)
    with evaluating(model):
        if state is None:
            state = _start(model, images, labels, len(grid), min(size, BATCH_SIZE["cpu"]))
        while len(undecided := state.undecided):
            batch = undecided[:size]
            try:
                _probe(model, images, labels, radii, attack, state, batch)
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
                torch.cuda.empty_cache()
                state.notes.append(f"out of device memory: p* went on with batches of {size} images")
                continue
            on_progress(state)
    return state


def _start(model: nn.Module, images: Tensor, labels: Tensor, values: int, size: int) -> Search:
    """A search in which the correctly classified images have the whole grid before them."""
    correct = []
    with torch.no_grad(), full_precision(images.device):
        for start in range(0, len(images), size):
            logits = model(_floats(images[start : start + size]))
            if not torch.isfinite(logits).all():
                raise RobbenchError("the network's logits are not finite on unperturbed test images; was it trained?")
            correct.append(logits.argmax(dim=1) == labels[start : start + size])
    right = torch.cat(correct).cpu()
    last = torch.where(right, values - 1, -1)
    return Search(
        first=torch.zeros(len(images), dtype=torch.int64),
        last=last,
        pstar=torch.where(right, values, WRONG),
        forward=len(images),
    )


def _probe(
    model: nn.Module, images: Tensor, labels: Tensor, radii: Tensor, attack: PGD, state: Search, batch: Tensor
) -> None:
    """Attack each image of the batch at the middle of its bracket, and halve the brackets."""
    middle = (state.first[batch] + state.last[batch]) // 2
    fooled = torch.zeros(len(batch), dtype=torch.bool)
    attacked = radii[middle] > 0
    if attacked.any():
        chosen = batch[attacked].to(images.device)
        originals, targets = _floats(images[chosen]), labels[chosen]
        epsilon = radii[middle[attacked]].to(originals)
        with full_precision(images.device):
            adversarial = pgd(
                model,
                originals,
                targets,
                epsilon,
                steps=attack.steps,
                random_start=False,
                box=attack.box,
            )
        fooled[attacked] = is_counterexample(model, adversarial, originals, targets, epsilon, box=attack.box).cpu()
        state.forward += len(chosen) * (attack.steps + 1)
        state.backward += len(chosen) * attack.steps
    state.pstar[batch[fooled]] = middle[fooled]
    state.last[batch[fooled]] = middle[fooled] - 1
    state.first[batch[~fooled]] = middle[~fooled] + 1


def _floats(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; floats are in [0, 1] already and keep their dtype."""
    return pixels(images) if images.dtype == torch.uint8 else images
