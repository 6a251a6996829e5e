"""p*: the smallest ε of a grid at which an attack fools the network, for every image that it classifies correctly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from robbench.attacks import evaluating, is_counterexample, is_right, pgd
from robbench.data import check_pixels, pixels
from robbench.errors import require
from robbench.estimation.shrinking_ball import Descent, descend
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import Batches, attack_batch, halved
from robbench.machine.precision import full_precision
from robbench.record import MISCLASSIFIED
from robbench.spec import PGD


@dataclass
class Search:
    """State of a p* search over N images: enough to go on after an interruption.

    ``first`` and ``last`` bracket the grid indices still in question (none where first > last); ``pstar`` holds the
    smallest index at which the attack succeeded, ``len(grid)`` before any success, ``MISCLASSIFIED`` for images misclassified
    unperturbed. All (N,) int64 on the CPU.
    """

    first: Tensor
    last: Tensor
    pstar: Tensor
    forward: int = 0
    """Images passed forward so far."""
    backward: int = 0
    notes: list[str] = field(default_factory=list)
    adversarials: Tensor | None = None
    """(N, C, H, W) on the CPU, as the network saw them: the confirmed counterexample at ``pstar`` of every image that
    has one, zeros of the others; None where they are not kept."""
    size: int = 0
    """Images attacked at once: another number rounds otherwise. 0 before the first batch."""
    descent: Descent | None = None
    """Of the fast search: what it has in hand."""

    @property
    def undecided(self) -> Tensor:
        """Indices of the images whose bracket is not closed."""
        return (self.first <= self.last).nonzero().flatten()

    def settle(self, index: Tensor, place: Tensor, adversarial: Tensor) -> None:
        """Take confirmed counterexamples: images (B,), their new p* (B,), and (B, C, H, W) on any device."""
        if self.adversarials is not None:
            self.adversarials[index] = adversarial.cpu()
        self.pstar[index] = place
        self.last[index] = place - 1


@dataclass(frozen=True)
class _Task:
    """What stays the same throughout a search; arguments of :func:`estimate_pstar`."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    radii: Tensor
    """(K,) float64 on the CPU: the grid."""
    attack: PGD
    on_progress: Callable[[Search], None]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) floats and (B,) labels of images by their (B,) indices, on the device."""
        chosen = index.to(self.images.device)
        return pixels(self.images[chosen]), self.labels[chosen]


def estimate_pstar(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    grid: Sequence[float],
    attack: PGD,
    *,
    search: Literal["reference", "fast"] = "reference",
    batch_size: int | None = None,
    keep_adversarials: bool = False,
    state: Search | None = None,
    on_progress: Callable[[Search], None] = lambda state: None,
) -> Search:
    """The smallest radius of the grid at which each correctly classified image was fooled (p*), image by image.

    ``reference`` is the binary search of the published study (ADA-VERONA), in batches. Every image has its own bracket:
    probe ``(first + last) // 2`` with the whole attack, judge its last iterate, go up after a failure and down after a
    success. A success counts only when float32 inference, outside autocast and without TF32, confirms the
    counterexample inside ball and box. A batch holds the next undecided images, each at its own radius, so images leave
    it when their bracket closes. At ε = 0 nothing is attacked: the image itself is not misclassified.

    ``fast`` is :func:`robbench.estimation.shrinking_ball.descend`: fewer passes, with the same box and the same confirmation; it makes
    no use of the attack's number of steps. Its bound: p* at most one grid step above that of ``reference`` on at least
    99 % of the images, and not above it on average; so measured by ``suites/perf/test_pstar.py`` on cnn7, relu_4_1024,
    cnn4 and wrn10_1, trained conventionally and adversarially, on grey images of 28 x 28 (on adversarially trained
    networks it is much smaller). Images that it never fools go through ``reference``.

    Memory is bounded by the batch; when it runs out, the batch is halved and the search goes on.

    Args:
        model: classifier, (N, C, H, W) floats in [0, 1] -> (N, classes); evaluated in eval mode, its modes restored.
        images: (N, C, H, W) uint8, or floats in [0, 1], on the device of the model.
        labels: (N,) int64, on the same device.
        grid: ascending radii in pixel units.
        attack: PGD without epsilon and step size, which follow from the grid (step ε ÷ steps).
        search: which of the two.
        batch_size: images attacked at once; None for what device and free memory allow.
        keep_adversarials: keep the counterexamples that p* rests on; an interrupted search goes on as it began.
        state: an interrupted search to go on with.
        on_progress: called after every batch, and every step of the fast search; the state is then one to go on from.

    Raises:
        RobbenchError: no image, pixels outside [0, 1], mismatched labels, a grid that does not ascend, logits that are not finite,
            or not even one image fits into memory.
    """
    require(len(images) > 0 and len(labels) == len(images), "labels", f"{len(images)} (at least one)", len(labels))
    require(
        len(grid) > 0 and grid[0] >= 0 and all(low < high for low, high in pairwise(grid)),
        "grid",
        "ascending radii ≥ 0",
        grid,
    )
    check_pixels(images)
    task = _Task(model, images, labels, torch.tensor(grid, dtype=torch.float64), attack, on_progress)
    with evaluating(model), full_precision(images.device):
        size = batch_size or attack_batch(model, pixels(images[:1]))
        if state is None:
            batches = Batches("p*", size)
            state = _start(model, images, labels, len(grid), batches)
            size = batches.size
            if keep_adversarials:
                state.adversarials = torch.zeros_like(pixels(images[:1]), device="cpu").repeat(len(images), 1, 1, 1)
        elif batch_size is None and state.size:
            size = min(size, state.size)
        state.size = size
        for stage in (_descend, _bisect) if search == "fast" else (_bisect,):
            while True:
                try:
                    stage(task, state, size)
                    break
                except (RuntimeError, MemoryError) as error:
                    state.size = size = halved(size, error, images.device)
                state.notes.append(f"out of memory: p* went on with batches of {size} images")
    return state


def _start(model: nn.Module, images: Tensor, labels: Tensor, values: int, batches: Batches) -> Search:
    """A search in which the correctly classified images have the whole grid before them."""
    correct = []

    def judge(part: slice) -> None:
        correct.append(is_right(model, pixels(images[part]), labels[part], "test"))

    batches.over(len(images), images.device, judge)
    right = torch.cat(correct).cpu()
    last = torch.where(right, values - 1, -1)
    return Search(
        first=torch.zeros(len(images), dtype=torch.int64),
        last=last,
        pstar=torch.where(right, values, MISCLASSIFIED),
        forward=len(images),
        notes=batches.notes,
    )


def _descend(task: _Task, state: Search, size: int) -> None:
    """Settle what the shrinking ball settles; the other brackets stay as they were."""
    radii, device = task.radii, task.images.device

    def count(attacked: int) -> None:
        state.forward += attacked
        state.backward += attacked

    if state.descent is None:
        state.descent = Descent(waiting=((state.first == 0) & (state.last == len(radii) - 1)).nonzero().flatten())
    for index, place, adversarial in descend(
        task.model,
        task.take,
        state.descent,
        radii.to(device),
        box=task.attack.box,
        size=size,
        device=device,
        on_step=count,
        loop=GraphedLoop(device, state.notes),
    ):
        state.forward += len(index)
        fooled = (place < len(radii)).nonzero().flatten()
        index, place = index[fooled], place[fooled]
        state.settle(index, place, adversarial[fooled.to(adversarial.device)])
        state.first[index] = place
        task.on_progress(state)


def _bisect(task: _Task, state: Search, size: int) -> None:
    """Halve all brackets until they are closed."""
    loop = GraphedLoop(task.images.device, state.notes)
    while len(undecided := state.undecided):
        _probe(task, state, undecided[:size], loop)
        task.on_progress(state)


def _probe(task: _Task, state: Search, batch: Tensor, loop: GraphedLoop) -> None:
    """Attack each image of the batch at the middle of its bracket, and halve the brackets."""
    radii, attack = task.radii, task.attack
    middle = (state.first[batch] + state.last[batch]) // 2
    fooled = torch.zeros(len(batch), dtype=torch.bool)
    attacked = radii[middle] > 0
    if attacked.any():
        originals, targets = task.take(batch[attacked])
        epsilon = radii[middle[attacked]].to(originals)
        adversarial = pgd(
            task.model,
            originals,
            targets,
            epsilon,
            steps=attack.steps,
            step_size=(radii[middle[attacked]] / attack.steps).to(originals),  # divided before it is rounded
            random_start=False,
            box=attack.box,
            loop=loop,
        )
        success = is_counterexample(task.model, adversarial, originals, targets, epsilon, box=attack.box).cpu()
        fooled[attacked] = success
        state.forward += len(originals) * (attack.steps + 1)
        state.backward += len(originals) * attack.steps
        state.settle(batch[fooled], middle[fooled], adversarial[success.nonzero().flatten().to(adversarial.device)])
    state.first[batch[~fooled]] = middle[~fooled] + 1
