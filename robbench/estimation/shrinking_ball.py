"""The ``fast`` search: a ball that shrinks around every image for as long as a warm-started attack finds a way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.attacks import BALL_TOLERANCE, gradient_of, is_counterexample, without_parameter_gradients
from robbench.errors import RobbenchError
from robbench.machine.graphs import GraphedLoop, Tensors

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
class Slots:
    """Images under attack, one a row: on the device, except for what says which images they are."""

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
    """(B,) int64 on the CPU: which image this is; -1 where the row's image is settled and no other took its place."""

    @property
    def images(self) -> list[Tensor]:
        """Those of its tensors that are images."""
        return [self.adversarial, self.best_image, self.originals]

    def rows(self, chosen: Tensor) -> Slots:
        """Some of the rows, by their places on the CPU."""
        there = chosen.to(self.labels.device)
        return self._each(lambda name, tensor: tensor[chosen if name == "index" else there])

    def replace(self, rows: Tensor, new: Slots) -> None:
        """Put other images in some of the rows, by their places on the CPU."""
        there = rows.to(self.labels.device)
        for field in fields(self):
            getattr(self, field.name)[rows if field.name == "index" else there] = getattr(new, field.name)

    def to(self, device: torch.device) -> Slots:
        """The same rows for a device."""
        return self._each(lambda name, tensor: tensor.to("cpu" if name == "index" else device))

    def _each(self, change: Callable[[str, Tensor], Tensor]) -> Slots:
        return Slots(**{field.name: change(field.name, getattr(self, field.name)) for field in fields(self)})


@dataclass
class Descent:
    """Where a descent stands between two steps: enough to go on after an interruption, bit for bit on the CPU."""

    waiting: Tensor
    """(M,) int64 on the CPU: images that it has not begun with, all of them classified correctly."""
    slots: Slots | None = None
    """The images under attack; None before the first step and after the last."""

    def put_back(self) -> None:
        """Let the images under attack wait again, from the start."""
        if self.slots is not None:
            index = self.slots.index
            self.waiting = torch.cat([index[index >= 0], self.waiting])
            self.slots = None


def descend(
    model: nn.Module,
    images: Callable[[Tensor], tuple[Tensor, Tensor]],
    state: Descent,
    radii: Tensor,
    *,
    box: tuple[float, float],
    size: int,
    device: torch.device,
    on_step: Callable[[int], None],
    loop: GraphedLoop | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
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
        state: the images to attack, or an interrupted descent to go on with; what is yet to be done, at every yield.
        radii: (K,) ascending float64 grid in pixel units, on the device.
        box: range of valid pixels.
        size: places in the batch; the images of an interrupted descent that had more of them begin again.
        device: of the model.
        on_step: called with the number of images in every step, forward and backward.
        loop: repeats the steps; None for one of its own.

    Yields:
        After every step, indices of the images that it settled and the grid index of their p*, (B,) int64 on the CPU;
        ``len(radii)`` where no counterexample was found or confirmed. Then their counterexamples, (B, C, H, W) on the
        device; anything where there is none.

    Raises:
        RobbenchError: no image was settled in more steps than any can take.
    """
    # An approach, and at every radius its patience: a ball that neither shrinks nor ages would keep its image for ever.
    longest, waited = 2 * APPROACH + 1 + len(radii) * (PATIENCE + 1), 0
    loop, steps = loop or GraphedLoop(device), 1 if device.type == "cpu" else _STEPS_BETWEEN_LOOKS
    if state.slots is not None and len(state.slots.index) > size:
        state.put_back()
    if state.slots is None:
        state.slots = _fill(images, state.waiting[:size], len(radii))
        state.waiting = state.waiting[size:]
    slots = state.slots = state.slots.to(device)

    def step(tensors: Tensors, constants: Tensors) -> Tensors:
        return _step(model, tensors, constants, radii, box)

    while (busy := slots.index >= 0).any():
        if int(busy.sum()) < _DENSE.get(device.type, 0.75) * len(busy):
            slots = state.slots = slots.rows(busy.nonzero().flatten())
        tensors: Tensors = (slots.adversarial, slots.best_image, slots.best, slots.age)
        with without_parameter_gradients(model):
            tensors = loop(step, tensors, (slots.originals, slots.labels), steps)
        slots.adversarial, slots.best_image, slots.best, slots.age = tensors
        on_step(len(slots.index) * steps)
        # What follows is known on the CPU but for this, one wait for the device; settled images take another.
        settled = (_settled(slots.best, slots.age, radii).cpu() & (slots.index >= 0)).nonzero().flatten()
        waited = 0 if len(settled) else waited + steps
        if waited > longest:
            raise RobbenchError(
                f"the fast search: expected an image to be settled within {longest} steps, got none; use search 'reference'"
            )
        found = _confirm(model, slots.rows(settled), radii, box)
        new = state.waiting[: len(settled)]
        if len(new):
            slots.replace(settled[: len(new)], _fill(images, new, len(radii)))
            state.waiting = state.waiting[len(new) :]
        slots.index[settled[len(new) :]] = -1
        yield found
    state.slots = None


def _fill(images: Callable[[Tensor], tuple[Tensor, Tensor]], index: Tensor, values: int) -> Slots:
    originals, labels = images(index)
    return Slots(
        adversarial=originals.clone(),
        best_image=originals.clone(),
        best=torch.full_like(labels, values),
        age=torch.zeros_like(labels),
        originals=originals,
        labels=labels,
        index=index.clone(),
    )


def _step(model: nn.Module, state: Tensors, constants: Tensors, radii: Tensor, box: tuple[float, float]) -> Tensors:
    """One gradient for every row: judge the iterate, shrink its ball where it fools, and go on inside the ball."""
    adversarial, best_image, best, age = state
    originals, labels = constants
    spread = (-1, *(1,) * (originals.ndim - 1))
    with torch.enable_grad():
        iterate = adversarial.detach().requires_grad_()
        logits = model(iterate)
        gradient = gradient_of(F.cross_entropy(logits, labels, reduction="sum"), iterate)
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


def _confirm(model: nn.Module, slots: Slots, radii: Tensor, box: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Index, p* and counterexample of settled rows, where float32 inference has confirmed it."""
    if not len(slots.index):
        return slots.index, slots.best.cpu(), slots.best_image
    radius = radii[slots.best.clamp(max=len(radii) - 1)]
    confirmed = is_counterexample(model, slots.best_image, slots.originals, slots.labels, radius, box=box)
    return slots.index, torch.where(confirmed, slots.best, len(radii)).cpu(), slots.best_image
