"""The ``fast`` search: a ball that shrinks around every image for as long as a warm-started attack finds a way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.attacks import BALL_TOLERANCE, is_counterexample, without_parameter_gradients
from robbench.errors import RobbenchError
from robbench.graphs import Loop, Tensors

APPROACH = 20
"""Steps of the whole grid's length in the first descent, which looks for any counterexample; twice as many at most."""

PATIENCE = 20
"""Steps without a counterexample after which a ball holds."""

STEP_SHARES = (0.2, 0.02)
"""Step ÷ radius right after the ball shrank, and after PATIENCE steps; linear in between."""

_STEPS_BETWEEN_LOOKS = 4
"""On a GPU, where a look at the results waits for the device; a settled row stays as it is until then."""

_DENSE = {"cpu": 0.75, "cuda": 0.5}
"""Least share of places that must be busy, by device type: below it they are moved together, a new shape to capture."""


@dataclass
class _Slots:
    """Images under attack, one a row; the fields are all that a step reads and writes."""

    adversarial: Tensor
    best_image: Tensor
    """The counterexample in the smallest ball so far."""
    best: Tensor
    """(B,) int64: grid index of that ball; ``len(radii)`` before the first counterexample."""
    age: Tensor
    """(B,) int64: steps since the ball shrank, or began."""
    originals: Tensor
    labels: Tensor
    index: Tensor
    """(B,) int64: which image this is."""

    def rows(self, chosen: Tensor) -> _Slots:
        """Some of the rows."""
        return _Slots(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def replace(self, rows: Tensor, new: _Slots) -> None:
        """Put other images in some of the rows."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(new, field.name)


def descend(
    model: nn.Module,
    images: Callable[[Tensor], tuple[Tensor, Tensor]],
    waiting: Tensor,
    radii: Tensor,
    *,
    box: tuple[float, float],
    size: int,
    device: torch.device,
    on_step: Callable[[int], None],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Find a small p* for every image, in one pass of a batch whose places are refilled as images are settled.

    From the image, sign steps on the cross-entropy until some iterate fools the network (Goodfellow et al. 2015's sign,
    Madry et al. 2018's projection). From then on, whenever an iterate fools it, p* is the smallest grid radius that
    holds the iterate at its *true* distance; the ball shrinks to the radius below, the iterate is projected into it
    and goes on from there, with steps that get shorter, until PATIENCE of them found nothing. That a ball shrinks
    around the last counterexample is the idea of FMN (Pintor et al. 2021). Counterexamples are confirmed by float32
    inference in ball and box at the end.

    One image's result depends on the others of its batch by rounding only.

    Args:
        model: in eval mode.
        images: takes (B,) indices; the (B, C, H, W) float images and their (B,) labels, on the device.
        waiting: (N,) int64 indices of the images to attack, on the CPU; all of them classified correctly.
        radii: (K,) ascending float64 grid in pixel units, on the device.
        box: range of valid pixels.
        size: places in the batch.
        device: of the model.
        on_step: called with the number of images in every step, forward and backward.

    Yields:
        Indices of settled images and the grid index of their p*, (B,) int64 on the CPU; ``len(radii)`` where no
        counterexample was found or confirmed.

    Raises:
        RobbenchError: no image was settled in more steps than any can take.
    """
    # An approach, and at every radius its patience: a ball that neither shrinks nor ages would keep its image for ever.
    longest, waited = 2 * APPROACH + 1 + len(radii) * (PATIENCE + 1), 0
    loop, steps = Loop(device), 1 if device.type == "cpu" else _STEPS_BETWEEN_LOOKS
    slots, after = _fill(images, waiting[:size], len(radii), device), size

    def step(state: Tensors, constants: Tensors) -> Tensors:
        return _step(model, state, constants, radii, box)

    while len(slots.index):
        state: Tensors = (slots.adversarial, slots.best_image, slots.best, slots.age)
        with without_parameter_gradients(model):
            state = loop(step, state, (slots.originals, slots.labels), steps)
        slots.adversarial, slots.best_image, slots.best, slots.age = state
        on_step(len(slots.index) * steps)
        settled = (_settled(slots.best, slots.age, radii) & (slots.index >= 0)).nonzero().flatten()
        waited = 0 if len(settled) else waited + steps
        if waited > longest:
            raise RobbenchError(
                f"the fast search: expected an image to be settled within {longest} steps, got none; use search 'reference'"
            )
        if not len(settled):
            continue
        yield _confirm(model, slots.rows(settled), radii, box)
        new = waiting[after : after + len(settled)]
        if len(new):
            slots.replace(settled[: len(new)], _fill(images, new, len(radii), device))
            after += len(new)
        slots.index[settled[len(new) :]] = -1
        busy = slots.index >= 0
        if int(busy.sum()) < _DENSE.get(device.type, 0.75) * len(busy):
            slots = slots.rows(busy.nonzero().flatten())


def _fill(
    images: Callable[[Tensor], tuple[Tensor, Tensor]], index: Tensor, values: int, device: torch.device
) -> _Slots:
    originals, labels = images(index)
    return _Slots(
        adversarial=originals.clone(),
        best_image=originals.clone(),
        best=torch.full_like(labels, values),
        age=torch.zeros_like(labels),
        originals=originals,
        labels=labels,
        index=index.to(device),
    )


def _step(model: nn.Module, state: Tensors, constants: Tensors, radii: Tensor, box: tuple[float, float]) -> Tensors:
    """One gradient for every row: judge the iterate, shrink its ball where it fools, and go on inside the ball."""
    adversarial, best_image, best, age = state
    originals, labels = constants
    spread = (-1, *(1,) * (originals.ndim - 1))
    with torch.enable_grad():
        iterate = adversarial.detach().requires_grad_()
        logits = model(iterate)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), iterate)
    logits = logits.detach()
    fooled = (logits.argmax(dim=1) != labels) & torch.isfinite(logits).all(dim=1) & ~_settled(best, age, radii)
    distance = (adversarial - originals).abs().flatten(1).amax(dim=1)
    place = torch.searchsorted(radii, distance.to(radii.dtype) - BALL_TOLERANCE)
    place = torch.where(radii[0] > 0, place, place.clamp(min=1))  # at ε = 0 there is no attack
    shrunk = fooled & (place < best)  # not where images are so coarse that an iterate rounds out of its ball
    best_image = torch.where(shrunk.view(spread), adversarial, best_image)
    best = torch.where(shrunk, place, best)
    age = torch.where(shrunk, 0, age)
    searching = best == len(radii)
    radius = torch.where(searching, radii[-1], radii[(best - 1).clamp(min=0)])
    first, final = STEP_SHARES
    share = first + (final - first) * (age / PATIENCE).clamp(max=1)
    length = torch.where(searching, radii[-1] / APPROACH, radius * share).to(originals.dtype).view(spread)
    radius = radius.to(originals.dtype).view(spread)
    lower, upper = (originals - radius).clamp_(min=box[0]), (originals + radius).clamp_(max=box[1])
    projected = adversarial.clamp(lower, upper)
    return torch.addcmul(projected, gradient.sign(), length).clamp_(lower, upper), best_image, best, age + 1


def _settled(best: Tensor, age: Tensor, radii: Tensor) -> Tensor:
    """Which rows are: their ball holds or cannot shrink, or no counterexample was found at all."""
    searching = best == len(radii)
    held = age > torch.where(searching, 2 * APPROACH, PATIENCE)
    return held | (best == 0) | (~searching & (radii[(best - 1).clamp(min=0)] <= 0))


def _confirm(model: nn.Module, slots: _Slots, radii: Tensor, box: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Index and p* of settled rows, whose counterexamples float32 inference has confirmed."""
    radius = radii[slots.best.clamp(max=len(radii) - 1)]
    confirmed = is_counterexample(model, slots.best_image, slots.originals, slots.labels, radius, box=box)
    return slots.index.cpu(), torch.where(confirmed, slots.best, len(radii)).cpu()
