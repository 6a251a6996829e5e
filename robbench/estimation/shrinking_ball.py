"""The ``fast`` search: a ball that shrinks around every image for as long as a warm-started attack finds a way out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.attacks import BALL_TOLERANCE, gradient_of, without_parameter_gradients
from robbench.estimation.bisection import Bisection
from robbench.estimation.problem import Problem
from robbench.machine.graphs import Tensors

APPROACH = 20
"""Steps that go through the whole grid before the first counterexample; at most twice as many are taken."""

PATIENCE = 20
"""Steps without a counterexample after which a ball shrinks no more."""

STEP_SHARES = (0.2, 0.02)
"""Step ÷ radius right after the ball shrank, and after PATIENCE steps; linear in between."""

_STEPS_BETWEEN_LOOKS = 4
"""On a GPU, where a look at the results waits for the device."""

_DENSE = {"cpu": 0.75, "cuda": 0.5}
"""Least share of busy rows, by device type: below it the batch is made smaller, which is a new shape to capture."""


class Rows(NamedTuple):
    """The images under attack, one a row, on the device."""

    adversarial: Tensor
    best_image: Tensor
    """The counterexample in the smallest ball so far."""
    best: Tensor
    """(B,) int64: grid index of that ball; ``len(grid)`` before the first counterexample."""
    age: Tensor
    """(B,) int64: steps since the ball shrank, or since the attack began."""
    originals: Tensor
    labels: Tensor

    def at(self, rows: Tensor) -> Rows:
        """Some of the rows."""
        return Rows(*(tensor[rows.to(tensor.device)] for tensor in self))


class ShrinkingBall(Bisection):
    """Find a small p* for every image, in one pass of a batch whose rows are refilled as images are settled.

    The attack takes sign steps on the cross-entropy, from the image until some iterate fools the network. From then on,
    whenever an iterate fools it, p* is the smallest grid radius that holds the iterate at its *true* distance. The ball
    shrinks to the radius below (the idea of FMN, Pintor et al. 2021), and the projected iterate goes on with steps that get
    shorter, until PATIENCE of them found nothing. In the end, counterexamples are confirmed as by the binary search.
    Images that are never fooled go through the binary search, which alone uses the attack's number of steps.

    p* is at most one grid step above the reference's on at least 99 % of the images, and not above it on average
    (``suites/perf/test_pstar.py``).
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._device_radii = self.radii.to(problem.device)
        self._waiting: Tensor | None = None
        """(M,) int64: images whose attack has not begun; None until all images were classified unperturbed."""
        self._rows: Rows | None = None
        self._index = torch.empty(0, dtype=torch.int64)
        """(B,) int64 on the CPU: which image each row is; -1 where it is settled and no image waits."""

    @property
    def done(self) -> bool:
        """Whether p* of every image was found."""
        return super().done and self._rows is None

    def step(self) -> None:
        """Attack the images in hand by one step (on a GPU by a few), or do a step of the binary search."""
        if self._waiting is None and self.judged == len(self.first):
            self._waiting = self.undecided
        if self._rows is not None or (self._waiting is not None and len(self._waiting)):
            self.batching(self._shrink)
        else:
            super().step()

    def state_dict(self) -> dict[str, Any]:
        """The state of the binary search, the images that wait, and those under attack."""
        state = super().state_dict()
        if self._waiting is not None:
            state["waiting"] = self._waiting.clone()
        if self._rows is not None:
            rows = self._rows._asdict() | {"index": self._index}
            plain = {"memory_format": torch.contiguous_format}
            state["rows"] = {name: tensor.cpu().clone(**plain) for name, tensor in rows.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same problem."""
        super().load_state_dict(state)
        if "waiting" in state:
            self._waiting = state["waiting"].clone()
        if "rows" in state:
            rows = {name: tensor.to(self.problem.device, copy=True) for name, tensor in state["rows"].items()}
            self._index = rows.pop("index").cpu()
            self._rows = Rows(**rows)

    def _shrink(self) -> None:
        """Take a step with every row, settle what it settles, and let waiting images take the settled rows."""
        problem, size = self.problem, self.batching.size
        rows = self._ready(size)
        steps = 1 if problem.device.type == "cpu" else _STEPS_BETWEEN_LOOKS

        def step(tensors: Tensors, constants: Tensors) -> Tensors:
            return _step(problem.network, tensors, constants, self._device_radii, problem.attack.box)

        with without_parameter_gradients(problem.network):
            moved = self.batching.loop(step, rows[:4], rows[4:], steps)
        self._rows = rows = rows._replace(**dict(zip(Rows._fields, moved, strict=False)))
        self.forward += len(self._index) * steps
        self.backward += len(self._index) * steps
        # The only wait for the device where nothing is settled.
        settled = (_settled(rows.best, rows.age, self._device_radii).cpu() & (self._index >= 0)).nonzero().flatten()
        if len(settled):
            self._settle(rows, settled)
        if not (self._index >= 0).any():
            self._rows = None
            self.batching.renew_loop()

    def _ready(self, size: int) -> Rows:
        """The rows to attack next: at most ``size``, and most of them busy."""
        assert self._waiting is not None
        busy = self._index >= 0
        if self._rows is not None and len(busy) > size:  # memory ran out: all of them begin again
            self._waiting, self._rows = torch.cat([self._index[busy], self._waiting]), None
        if self._rows is None:
            self._rows, self._index = self._fresh(self._waiting[:size]), self._waiting[:size].clone()
            self._waiting = self._waiting[size:]
        elif int(busy.sum()) < _DENSE.get(self.problem.device.type, 0.75) * len(busy):
            rows = busy.nonzero().flatten()
            self._rows, self._index = self._rows.at(rows), self._index[rows]
        return self._rows

    def _fresh(self, index: Tensor) -> Rows:
        originals, labels = self.problem.take(index)
        best = torch.full_like(labels, len(self.radii))
        return Rows(originals.clone(), originals.clone(), best, torch.zeros_like(labels), originals, labels.clone())

    def _settle(self, rows: Rows, settled: Tensor) -> None:
        """Confirm the counterexamples of settled rows, and let waiting images take these rows."""
        assert self._waiting is not None
        found, index = rows.at(settled), self._index[settled]
        radius = self._device_radii[found.best.clamp(max=len(self.radii) - 1)]
        confirmed = self.problem.fooled(found.best_image, found.originals, found.labels, radius)
        grid_index = torch.where(confirmed, found.best, len(self.radii)).cpu()
        new = self._waiting[: len(settled)]
        if len(new):
            taken = settled[: len(new)]
            for tensor, fresh in zip(rows, self._fresh(new), strict=True):
                tensor[taken.to(tensor.device)] = fresh
            self._index[taken], self._waiting = new, self._waiting[len(new) :]
        self._index[settled[len(new) :]] = -1
        self.forward += len(index)
        fooled = (grid_index < len(self.radii)).nonzero().flatten()
        index, grid_index = index[fooled], grid_index[fooled]
        self.settle(index, grid_index, found.best_image[fooled.to(found.best_image.device)])
        self.first[index] = grid_index


def _step(network: nn.Module, state: Tensors, constants: Tensors, radii: Tensor, box: tuple[float, float]) -> Tensors:
    """Judge every row's iterate, shrink its ball where it fools the network, and take a step inside the ball."""
    adversarial, best_image, best, age = state
    originals, labels = constants
    spread = (-1, *(1,) * (originals.ndim - 1))
    with torch.enable_grad():
        iterate = adversarial.detach().requires_grad_()
        logits = network(iterate)
        gradient = gradient_of(F.cross_entropy(logits, labels, reduction="sum"), iterate)
    logits = logits.detach()
    fooled = (logits.argmax(dim=1) != labels) & torch.isfinite(logits).all(dim=1) & ~_settled(best, age, radii)
    distance = (adversarial - originals).abs().flatten(1).amax(dim=1)
    grid_index = torch.searchsorted(radii, distance.to(radii.dtype) - BALL_TOLERANCE)
    grid_index = torch.where(radii[0] > 0, grid_index, grid_index.clamp(min=1))  # at ε = 0 there is no attack
    shrunk = fooled & (grid_index < best)  # float16 iterates may round out of their ball
    best_image = torch.where(shrunk.view(spread), adversarial, best_image)
    best = torch.where(shrunk, grid_index, best)
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
    """Which rows are settled: their ball holds or cannot shrink, or no counterexample was found."""
    searching = best == len(radii)
    settled = age > torch.where(searching, 2 * APPROACH, PATIENCE)
    return settled | (best == 0) | (~searching & (radii[(best - 1).clamp(min=0)] <= 0))
