"""The ``fast`` and ``thorough`` searches: a ball that shrinks around every image for as long as an attack finds a way out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.attacks import BALL_TOLERANCE, distance, gradient_of, without_parameter_gradients
from robbench.estimation.bisection import Bisection
from robbench.estimation.problem import Problem
from robbench.machine.graphs import Tensors
from robbench.spec.searches import Norm

APPROACH = 20
"""Steps in which the first start goes through the whole grid; it gives up after twice as many without a counterexample."""

STEP_SHARES = (1.0, 0.02)
"""Step ÷ radius right after the ball shrank, and when patience ends; linear in between."""

CROSS_ENTROPY_STEPS = 3
"""Age below which the loss is the cross-entropy, and from which it is the margin; aimed starts have the margin alone."""

LONGEST_HOP = 4
"""Grid places that a ball shrinks by at most; at most an eighth of the radius, too."""

_FEWEST_AIMED = 2
"""Aimed starts of an image whose ball is smaller than one start is worth: a fine grid's few places hold several classes."""

_STEPS_BETWEEN_LOOKS = 4
"""On a GPU, where a look at the results waits for the device."""

_DENSE = {"cpu": 1.0, "cuda": 0.5}
"""Least share of busy rows, by device type: below it the batch is made smaller, which is a new shape to capture.

On a CPU, which captures nothing, no row is passed in vain, and who shares a batch changes no number of passes."""


class Effort(NamedTuple):
    """How long a search goes on."""

    patience: tuple[int, ...]
    """Steps without a counterexample after which a ball shrinks no more, for each start that takes any other class."""
    aimed: tuple[int, ...] = ()
    """The same for the starts after them, each of which is aimed at one other class, the likeliest first."""
    places: int = 1
    """One aimed start, but at least two, for so many grid places of the radius found: a small ball has little to lose."""
    last: int = 0
    """Steps without success that end the last start, which goes on from the best counterexample, if there is one, against
    any class; 0: there is no such start."""


EFFORTS = {
    "fast": Effort((4,), aimed=(8,) * 6, places=8, last=12),
    "thorough": Effort((20,) * 4, aimed=(24,) * 9, last=24),
}


class Rows(NamedTuple):
    """The images under attack, one a row, on the device."""

    adversarial: Tensor
    best_image: Tensor
    """The counterexample in the smallest ball so far."""
    best: Tensor
    """(B,) int64: grid index of that ball; ``len(grid)`` before the first counterexample."""
    age: Tensor
    """(B,) int64: steps since the ball shrank, or since the attack began."""
    hop: Tensor
    """(B,) int64: by how many places the ball under attack is smaller than the best one."""
    originals: Tensor
    labels: Tensor
    start: Tensor
    """(B,) int64: which start it is, its place among the patiences."""
    targets: Tensor
    """(B, T) int64: the other classes that are aimed at, in the order of their logits at the original."""

    def at(self, rows: Tensor) -> Rows:
        """Some of the rows."""
        return Rows(*(tensor[rows.to(tensor.device)] for tensor in self))


class ShrinkingBall(Bisection):
    """Find a small p* for every image, in one pass of a batch whose rows are refilled as images are settled.

    The attack takes sign steps on the cross-entropy, from the image until some iterate fools the network. From then on,
    whenever an iterate fools it, p* is the smallest grid radius that holds the iterate at its *true* distance. The ball
    shrinks below it (the idea of FMN, Pintor et al. 2021), by more than one place while the first step in every new ball
    succeeds, and the projected iterate goes on with steps that get shorter, on the cross-entropy at first and then on the
    margin (largest other logit − true logit), until patience ends. Then the attack begins anew, from a corner of the ball
    one place below the best that is drawn for the image alone, as often as the effort says: against any other class, or
    aimed at one after another (logit of that class − true logit, as APGD-T, Croce & Hein 2020), since the nearest one is
    often not the one that the loss prefers; where nothing fooled the network yet, that ball is the grid's largest. The last
    start goes on from the best counterexample, against any class. In the end, counterexamples are confirmed as by the
    binary search. Images that are never fooled go through the binary search, which alone uses the attack's number of steps.

    In L2, a step is as long as said along the gradient itself, an iterate is scaled into its ball and clamped to the box,
    a corner is a random direction, and images that are never fooled stay so.

    How far p* lies above the best known bound: ``suites/perf/test_pstar.py``.
    """

    def __init__(self, problem: Problem, effort: Effort) -> None:
        super().__init__(problem)
        self._effort = effort
        self._device_radii = self.radii.to(problem.device)
        self._patience = torch.tensor((*effort.patience, *effort.aimed, effort.last), device=problem.device)
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

        network = (
            problem.network
        )  # its mode belongs to what a graph is captured for, so the step must hold it by itself

        def step(tensors: Tensors, constants: Tensors) -> Tensors:
            how = self._device_radii, self._patience, len(self._effort.patience), problem.attack.box, problem.norm
            return _step(network, tensors, constants, *how)

        with without_parameter_gradients(network):
            moved = self.batching.loop(step, rows[:5], rows[5:], steps)
        self._rows = rows = rows._replace(**dict(zip(Rows._fields, moved, strict=False)))
        self.forward += len(self._index) * steps
        self.backward += len(self._index) * steps
        # The only wait for the device where nothing ended.
        ended = (_ended(rows, self._device_radii, self._patience).cpu() & (self._index >= 0)).nonzero().flatten()
        if len(ended):
            self._settle(rows, self._begin_anew(rows, ended))
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
        hop, zeros = torch.ones_like(labels), torch.zeros_like(labels)
        moving = originals.clone(), originals.clone(), best, zeros, hop
        return Rows(*moving, originals, labels.clone(), zeros.clone(), self._targets(originals, labels))

    def _targets(self, originals: Tensor, labels: Tensor) -> Tensor:
        """(B, T) int64: the likeliest other classes, as many as the effort aims at, or all."""
        if not self._effort.aimed:
            return labels.new_empty(len(labels), 0)
        with torch.no_grad():
            others = self.problem.network(originals).scatter(1, labels.view(-1, 1), -math.inf)
            targets: Tensor = others.topk(min(len(self._effort.aimed), others.shape[1] - 1), dim=1).indices
        self.forward += len(labels)
        return targets

    def _begin_anew(self, rows: Rows, ended: Tensor) -> Tensor:
        """Begin the next start of the rows that have one left, for the ball one place below the best; the others."""
        at = rows.at(ended)
        aimed = (at.best // self._effort.places).clamp(_FEWEST_AIMED, at.targets.shape[1])
        last, following = len(self._patience) - 1, at.start + 1
        following = torch.where(following < len(self._effort.patience) + aimed, following, last)
        goes_on = (at.start < last) & (at.best < len(self.radii)) & (self._effort.last > 0)
        again = (((following < last) | goes_on) & ~_smallest(at.best, self._device_radii)).cpu()
        if again.any():
            at = at._replace(start=following).at(again.nonzero().flatten())
            where = ended[again].to(rows.best.device)
            spread = (-1, *(1,) * (at.originals.ndim - 1))
            radius = self._device_radii[at.best - 1].to(at.originals.dtype).view(spread)
            radius = radius if self.problem.norm == "linf" else radius / math.sqrt(at.originals[0].numel())
            corner = (at.originals + radius * _signs(at.originals, at.start)).clamp_(*self.problem.attack.box)
            rows.adversarial[where] = torch.where((at.start == last).view(spread), at.best_image, corner)
            rows.age[where], rows.hop[where], rows.start[where] = 0, 1, at.start
        return ended[~again]

    def _settle(self, rows: Rows, settled: Tensor) -> None:
        """Confirm the counterexamples of settled rows, and let waiting images take these rows."""
        assert self._waiting is not None
        if not len(settled):
            return
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
        if self.problem.norm != "linf":  # the binary search, which comes next, attacks in L∞
            self.last[index] = -1
        fooled = (grid_index < len(self.radii)).nonzero().flatten()
        index, grid_index = index[fooled], grid_index[fooled]
        self.settle(index, grid_index, found.best_image[fooled.to(found.best_image.device)])
        self.first[index] = grid_index


def _step(
    network: nn.Module,
    state: Tensors,
    constants: Tensors,
    radii: Tensor,
    patience: Tensor,
    unaimed: int,
    box: tuple[float, float],
    norm: Norm,
) -> Tensors:
    """Judge every row's iterate, shrink its ball where it fools the network, and take a step inside the ball."""
    rows = Rows(*state, *constants)
    adversarial, best_image, best, age, hop, originals, labels, start, targets = rows
    spread = (-1, *(1,) * (originals.ndim - 1))
    with torch.enable_grad():
        iterate = adversarial.detach().requires_grad_()
        logits = network(iterate)
        true = logits.gather(1, labels.view(-1, 1)).squeeze(1)
        other = logits.scatter(1, labels.view(-1, 1), -math.inf).amax(1)
        early = (age < CROSS_ENTROPY_STEPS) | _approaching(rows, radii)
        loss = torch.where(early, F.cross_entropy(logits, labels, reduction="none"), other - true)
        if targets.shape[1]:
            place = (start - unaimed).clamp(min=0, max=targets.shape[1] - 1)
            target = targets.gather(1, place.view(-1, 1))
            loss = torch.where(start - unaimed == place, logits.gather(1, target).squeeze(1) - true, loss)
        gradient = gradient_of(loss.sum(), iterate)
    logits = logits.detach()
    fooled = (logits.argmax(dim=1) != labels) & torch.isfinite(logits).all(dim=1) & ~_ended(rows, radii, patience)
    grid_index = torch.searchsorted(radii, distance(adversarial, originals, norm).to(radii.dtype) - BALL_TOLERANCE)
    grid_index = torch.where(radii[0] > 0, grid_index, grid_index.clamp(min=1))  # at ε = 0 there is no attack
    shrunk = fooled & (grid_index < best)  # float16 iterates may round out of their ball
    quick = shrunk & (age == 1) & (best < len(radii))
    best_image = torch.where(shrunk.view(spread), adversarial, best_image)
    best = torch.where(shrunk, grid_index, best)
    hop = torch.where(quick, 2 * hop, torch.where(shrunk, 1, hop))
    hop = torch.minimum(hop.clamp(max=LONGEST_HOP), best // 8).clamp(min=1)
    age = torch.where(shrunk, 0, age)
    radius = torch.where(best == len(radii), radii[-1], radii[(best - hop).clamp(min=0)])
    first, final = STEP_SHARES
    share = first + (final - first) * (age / patience[start]).clamp(max=1)
    approaching = _approaching(rows._replace(best=best), radii)
    length = torch.where(approaching, radii[-1] / APPROACH, radius * share).to(originals.dtype).view(spread)
    radius = radius.to(originals.dtype).view(spread)
    if norm == "l2":
        projected = _in_ball(adversarial, originals, radius, box)
        moved = _in_ball(torch.addcmul(projected, gradient / _length(gradient), length), originals, radius, box)
    else:
        lower, upper = (originals - radius).clamp_(min=box[0]), (originals + radius).clamp_(max=box[1])
        projected = adversarial.clamp(lower, upper)
        moved = torch.addcmul(projected, gradient.sign(), length).clamp_(lower, upper)
    return moved, best_image, best, age + 1, hop


def _in_ball(adversarial: Tensor, originals: Tensor, radius: Tensor, box: tuple[float, float]) -> Tensor:
    """Images moved towards their originals into the L2 ball, and then into the box, as by FMN."""
    perturbation = adversarial - originals
    shorter = (radius / _length(perturbation)).clamp(max=1)
    return torch.addcmul(originals, perturbation, shorter).clamp_(*box)


def _length(images: Tensor) -> Tensor:
    """(B, 1, 1, 1) L2 norms > 0 of (B, C, H, W) floats."""
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return norms.clamp(min=torch.finfo(images.dtype).tiny).view(-1, *(1,) * (images.ndim - 1))


def _ended(rows: Rows, radii: Tensor, patience: Tensor) -> Tensor:
    """Of which rows the start ended: patience did, their ball cannot shrink, or the approach found no counterexample."""
    limit = torch.where(_approaching(rows, radii), 2 * APPROACH, patience[rows.start])
    return (rows.age > limit) | _smallest(rows.best, radii)


def _approaching(rows: Rows, radii: Tensor) -> Tensor:
    """Which rows are on their way from the image to a first counterexample."""
    return (rows.best == len(radii)) & (rows.start == 0)


def _smallest(best: Tensor, radii: Tensor) -> Tensor:
    """Whether there is no ball with a radius below the best one."""
    return (best == 0) | ((best < len(radii)) & (radii[(best - 1).clamp(min=0)] <= 0))


def _signs(images: Tensor, start: Tensor) -> Tensor:
    """Random signs of the shape of (B, C, H, W) images, drawn for each image and its (B,) start alone, on any device.

    Every sign is a bit of a hash (splitmix64, Steele et al. 2014) of the image, the start and the place.
    """
    flat = images.float().flatten(1)
    place = torch.arange(1, flat.shape[1] + 1, device=images.device)
    seed = (flat.view(torch.int32).long() * (2 * place + 1)).sum(1) + start
    bits = _mixed(_mixed(seed).view(-1, 1) + place * -7046029254386353131)
    return (2 * (bits & 1) - 1).to(images.dtype).view(images.shape)


def _mixed(bits: Tensor) -> Tensor:
    """(…) int64 whose low bits depend on all bits; the sign bit, which a shift repeats, is no good one."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> 31)
