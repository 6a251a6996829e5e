"""Can the attack be trusted? Signs of masked gradients (Athalye et al. 2018, section 3.1) on a sample of the images.

A large p* tells of a robust network only where the attack could have found a smaller one. It could not where gradients
are zero or not finite, and it was not the best one where a single step, another radius, a way to an image of another class
(where the attack of Brendel et al. 2018 begins) or Square (Andriushchenko et al. 2020) fools the network within the p*
that the search came to; the last two need no gradient. And a network that draws random numbers, or looks at the other
images of its batch, has no p* to repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from robbench import spec
from robbench.attacks import evaluating, gradient_of, is_counterexample, pgd, without_parameter_gradients
from robbench.data import pixels
from robbench.errors import RobbenchError
from robbench.estimation.sampling import FEWEST, QUARTILES, looked_at, scan_steps, scanned
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import Batches, attack_batch
from robbench.machine.precision import full_precision
from robbench.record import MISCLASSIFIED, Against, Audit, Robustness

LEVEL = 0.001
"""Of the one-sided exact tests: in a thousand sound models, a check suspects about one."""

TOLERATED_ZERO = 0.01
"""Share of images whose gradient may vanish: where a network is very sure, its loss rounds to zero."""

TOLERATED_SCAN = 0.05
"""Share of images whose success may depend on the radius otherwise than a binary search takes it to."""

BLOCKED = 0.9
"""Share of an image's pixels with a gradient of exactly zero from which on the image counts as one without any."""


ROUNDING = 1e-3
"""Share of an image's largest logit by which its logits may differ when the network is asked again."""


def check_audit(audit: spec.Audit | None) -> None:
    """Raise a RobbenchError where Square is asked for and the library that has it is not installed."""
    if audit is not None and audit.square_queries and find_spec("torchattacks") is None:
        raise RobbenchError(
            f"audit square_queries: expected torchattacks to be installed for {audit.square_queries} queries of Square, "
            "got none; pip install --no-deps torchattacks==3.5.1, or leave Square out with 0"
        )


def audit_search(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    found: Robustness,
    attack: spec.PGD,
    audit: spec.Audit,
    *,
    batch_size: int | None = None,
    notes: list[str] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Look for signs that a p* search was misled, on a seeded sample of the correctly classified images.

    Attacked and judged as in the search: float32 outside autocast and without TF32, eval mode, from the image itself.

    Args:
        model: classifier, (N, C, H, W) floats in [0, 1] -> (N, classes); its modes are restored.
        images: (N, C, H, W) uint8, or floats in [0, 1], on the device of the model.
        labels: (N,) int64, on the same device.
        found: what the search came to on these images; its passes bound those of the audit.
        attack: of the search; the scan uses it at every radius, with :func:`robbench.estimation.sampling.scan_steps`.
        audit: how much to look at.
        batch_size: images attacked at once, halved when memory runs out; None for what device and free memory allow.
        notes: gets a line where it was halved, or a step could not be captured.
        on_progress: gets the checks done so far, and all of them.

    Raises:
        RobbenchError: Square is asked for, and not installed, or not even one image fits into memory.
    """
    check_audit(audit)
    places, grid = np.asarray(found.pstar), found.grid
    correct = np.flatnonzero(places != MISCLASSIFIED)
    quartiles = [_place(places[correct], share, grid) for share in QUARTILES] if len(correct) else []
    radii = sorted({at for at in quartiles if grid[at] > 0})
    passes, steps = found.forward + found.backward, scan_steps(found.search, attack.steps)
    count = looked_at(audit, len(correct), passes, len(radii))
    scan = scanned(audit, count, passes, len(radii), steps)
    sample = np.random.default_rng(audit.seed).permutation(correct)[:count]
    pairs = [(image, at) for image in sample[:scan] for at in _scanned(int(places[image]), grid, audit.radii)]
    with evaluating(model), full_precision(images.device), without_parameter_gradients(model):
        attacks = _Attacks(model, images, labels, attack.box, batch_size, [] if notes is None else notes)
        one_step = attacks.one_step(sample, [grid[at] for at in radii])
        others = _of_another_class(labels[torch.from_numpy(sample).to(labels.device)].cpu().numpy())
        towards = attacks.towards(sample, sample[others], [grid[at] for at in radii])
        on_progress(1, 3)
        probes = attacks.probes([image for image, _ in pairs], [grid[at] for _, at in pairs], steps)
        on_progress(2, 3)
        square, middle = None, quartiles[1] if quartiles else 0
        if audit.square_queries and middle in radii:
            fooled = attacks.square(sample, grid[middle], audit.square_queries, audit.seed)
            square = _against(grid[middle], fooled, places[sample] <= middle)
        on_progress(3, 3)
    outcomes: dict[int, dict[int, bool]] = {image: {} for image in sample[:scan]}
    for (image, at), success in zip(pairs, probes[:, 0], strict=True):
        outcomes[image][at] = bool(success)
    broken = {image for (image, _), finite in zip(pairs, probes[:, 1], strict=True) if not finite}
    # The binary search's p* is a success of the attack that scans; the other search's is one of its own steps.
    known = {image: {int(places[image]): True} if found.search == "reference" else {} for image in outcomes}
    right = labels.cpu().numpy()
    result = Audit(
        images=count,
        one_class=len(correct) >= FEWEST and len({*right[correct]}) == 1 < len({*right}),
        zero_gradient=int(one_step[:, 0].sum()),
        not_finite=len(broken | {*sample[one_step[:, 1]]}),
        by_chance=int(one_step[:, 2].sum()),
        one_step=[_against(grid[at], one_step[:, 3 + number], places[sample] <= at) for number, at in enumerate(radii)],
        towards=[_against(grid[at], towards[:, number], places[sample] <= at) for number, at in enumerate(radii)],
        scanned=len(outcomes),
        probes=len(pairs),
        not_monotone=sum(not monotone(known[image] | hits, len(grid)) for image, hits in outcomes.items()),
        below=sum(any(hit and at < places[image] for at, hit in hits.items()) for image, hits in outcomes.items()),
        square=square,
        square_queries=audit.square_queries,
        forward=attacks.forward,
        backward=attacks.backward,
    )
    return msgspec.structs.replace(result, warnings=warnings(result))


def warnings(audit: Audit) -> list[str]:
    """A sentence for every sign of masked gradients; none where there is no more of it than in sound models."""
    found = []
    if audit.by_chance:
        found.append(
            f"the network gives {audit.by_chance} of {audit.images} images other logits the second time, in other company: p* "
            "depends on chance, or on the batch"
        )
    if audit.one_class:
        found.append(
            "all images that the network gets right are of one class: if it answers that class to everything, nothing "
            "fools it"
        )
    if audit.not_finite:
        found.append(
            f"gradients are not finite on {audit.not_finite} of {audit.images} images: the sign of NaN is 0, and steps do "
            "not move them"
        )
    if _more_than(TOLERATED_ZERO, audit.zero_gradient, audit.images):
        found.append(
            f"gradients are exactly zero (on {BLOCKED:.0%} of the pixels or more) on {audit.zero_gradient} of {audit.images} "
            "images: steps do not move them"
        )
    for attacks, what in (
        (audit.one_step, "one step fools more images than the search with all its steps"),
        (audit.towards, "the way to an image of another class fools more images than the search"),
    ):
        beaten = [against for against in attacks if _beats(against, len(attacks))]
        if beaten:
            worst = max(beaten, key=lambda against: against.attack_alone - against.search_alone)
            found.append(f"{what}: {_said(worst)}")
    if _more_than(TOLERATED_SCAN, audit.not_monotone, audit.scanned):
        found.append(
            f"success is not monotone in ε on {audit.not_monotone} of {audit.scanned} scanned images: fooled at some "
            "radius, and not at a larger one"
        )
    if _more_than(TOLERATED_SCAN, audit.below, audit.scanned):
        found.append(
            f"a linear scan disagrees with the search on {audit.below} of {audit.scanned} scanned images: the same "
            "attack fools the network at a radius below p*"
        )
    if audit.square is not None and _beats(audit.square):
        found.append(
            f"an attack without gradients (Square, {audit.square_queries:,} queries) fools more images than the search: "
            f"{_said(audit.square)}"
        )
    return found


def monotone(success: Mapping[int, bool], censored: int) -> bool:
    """Whether every radius above one that succeeded did so, too; by place, ``censored`` being none."""
    inside = [success[at] for at in sorted(success) if at < censored]
    return inside == sorted(inside)


def _more_than(tolerated: float, count: int, total: int) -> bool:
    """Whether so many of so many are significantly more than a share that a sound model may show."""
    return bool(count and stats.binom.sf(count - 1, total, tolerated) < LEVEL)


def _beats(against: Against, radii: int = 1) -> bool:
    """Whether an attack fools significantly more images than the search: an exact sign test, at each of some radii."""
    alone = against.attack_alone
    return bool(alone and stats.binom.sf(alone - 1, alone + against.search_alone, 0.5) < LEVEL / radii)


def _said(against: Against) -> str:
    return (
        f"{against.both + against.attack_alone} against {against.both + against.search_alone} of {against.images} "
        f"at ε = {against.epsilon:.4g}"
    )


def _against(epsilon: float, fooled: NDArray[np.bool_], searched: NDArray[np.bool_]) -> Against:
    return Against(
        epsilon=epsilon,
        images=len(fooled),
        both=int((fooled & searched).sum()),
        attack_alone=int((fooled & ~searched).sum()),
        search_alone=int((~fooled & searched).sum()),
    )


def _of_another_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of some images the place of the next one with another label; its own where there is none."""
    ends = labels != np.roll(labels, -1)  # of runs with one label; the first image follows the last one
    if not ends.any():
        return np.arange(len(labels))
    starts = (np.flatnonzero(ends) + 1) % len(labels)
    following: NDArray[np.int64] = starts[(np.cumsum(ends) - ends) % len(starts)]
    return following


def _place(places: NDArray[np.int64], share: float, grid: Sequence[float]) -> int:
    """The place in the grid within which the search fooled a share of the images; its end where that is censored."""
    return min(int(np.sort(places)[int(share * (len(places) - 1))]), len(grid) - 1)


def _scanned(pstar: int, grid: Sequence[float], count: int) -> list[int]:
    """Places to attack an image at: evenly spread below p* and above it, but for 0 and the neighbours of p*.

    A neighbour's outcome is decided by rounding as often as by the network.
    """
    under = count // 2 if pstar < len(grid) else count
    below = np.linspace(1, pstar - 2, under).tolist() if pstar > 2 else []
    above = np.linspace(pstar + 2, len(grid) - 1, count - under).tolist() if pstar + 2 < len(grid) else []
    return sorted({round(at) for at in [*below, *above]})


class _Attacks:
    """Attacks on some images of a set, in batches; counts their passes."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        box: tuple[float, float],
        batch_size: int | None,
        notes: list[str],
    ) -> None:
        self._model, self._images, self._labels, self._box = model, images, labels, box
        self._batches = Batches("the audit", batch_size or attack_batch(model, pixels(images[:1])), notes)
        self.forward = self.backward = 0

    def one_step(self, chosen: NDArray[np.int64], radii: Sequence[float]) -> NDArray[np.bool_]:
        """(N, 3 + R) of N images: gradient zero, not finite, other logits the second time, and fooled by a step of each of the R radii."""

        def look(originals: Tensor, labels: Tensor, part: slice) -> Tensor:
            gradient, logits = self._gradient(originals, labels)
            flat = gradient.flatten(1)
            columns = [(flat == 0).sum(dim=1) >= BLOCKED * flat.shape[1], ~torch.isfinite(flat).all(dim=1)]
            again = torch.empty_like(logits)
            for start in range(min(2, len(originals))):  # every second image: other neighbours, in another place
                again[start::2] = self._logits(originals[start::2].contiguous())[1].detach()
            largest = logits.abs().amax(dim=1)
            columns.append(~((again - logits).abs().amax(dim=1) <= ROUNDING * largest))  # NaN is no number again
            for radius in radii:
                adversarial = torch.add(originals, gradient.sign(), alpha=radius)
                adversarial = adversarial.clamp_(originals - radius, originals + radius).clamp_(*self._box)
                columns.append(self._fooled(adversarial, originals, labels, radius))
            return torch.stack(columns, dim=1)

        return self._batched(look, chosen, 3 + len(radii))

    def towards(
        self, chosen: NDArray[np.int64], others: NDArray[np.int64], radii: Sequence[float]
    ) -> NDArray[np.bool_]:
        """(N, R) of N images: fooled at each of the R radii by the image of the ball that is nearest to another one."""

        def look(originals: Tensor, labels: Tensor, part: slice) -> Tensor:
            goals = pixels(self._images[torch.from_numpy(others[part]).to(labels.device)])
            columns = [
                self._fooled(
                    goals.clamp(originals - radius, originals + radius).clamp_(*self._box), originals, labels, radius
                )
                for radius in radii
            ]
            return torch.stack(columns, dim=1) if columns else labels.new_zeros((len(labels), 0), dtype=torch.bool)

        return self._batched(look, chosen, len(radii))

    def probes(self, chosen: Sequence[int], radii: Sequence[float], steps: int) -> NDArray[np.bool_]:
        """(N, 2) of N pairs of image and radius: fooled by the search's attack, and its gradient finite in the end."""
        loop = GraphedLoop(self._images.device, self._batches.notes)

        def look(originals: Tensor, labels: Tensor, part: slice) -> Tensor:
            epsilon = torch.tensor(radii[part], dtype=torch.float64, device=labels.device)
            adversarial = pgd(
                self._model,
                originals,
                labels,
                epsilon.to(originals),
                steps=steps,
                step_size=(epsilon / steps).to(originals),  # divided before it is rounded, as in the search
                random_start=False,
                box=self._box,
                loop=loop,
            )
            self.forward += len(originals) * steps
            self.backward += len(originals) * steps
            finite = torch.isfinite(self._gradient(adversarial, labels)[0].flatten(1)).all(dim=1)
            return torch.stack([self._fooled(adversarial, originals, labels, epsilon), finite], dim=1)

        return self._batched(look, np.asarray(chosen, dtype=np.int64), 2)

    def square(self, chosen: NDArray[np.int64], epsilon: float, queries: int, seed: int) -> NDArray[np.bool_]:
        """(N,) of N images: fooled by Square."""
        import torchattacks

        attack = torchattacks.Square(self._model, eps=epsilon, n_queries=queries, seed=seed)
        attack.set_device(self._images.device)
        devices = [self._images.device] if self._images.is_cuda else []

        def look(originals: Tensor, labels: Tensor, part: slice) -> Tensor:
            with torch.random.fork_rng(devices=devices):  # it seeds the generator of the whole process
                adversarial = attack(originals, labels)
            return self._fooled(adversarial, originals, labels, epsilon)[:, None]

        counted = self.forward
        fooled = self._batched(look, chosen, 1)[:, 0]
        self.forward = counted
        return fooled

    def _gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of the loss, and the logits that it came from."""
        iterate, logits = self._logits(images)
        self.backward += len(images)
        with torch.enable_grad():
            loss = F.cross_entropy(logits, labels, reduction="sum")
        return gradient_of(loss, iterate), logits.detach()

    def _logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images as ones that want a gradient, and their logits: some layers take another way where none is wanted."""
        self.forward += len(images)
        with torch.enable_grad():
            iterate = images.detach().requires_grad_()
            return iterate, self._model(iterate)

    def _fooled(self, adversarial: Tensor, originals: Tensor, labels: Tensor, epsilon: float | Tensor) -> Tensor:
        self.forward += len(originals)
        if isinstance(epsilon, float):
            epsilon = torch.full(labels.shape, epsilon, dtype=torch.float64, device=labels.device)
        return is_counterexample(self._model, adversarial, originals, labels, epsilon, box=self._box)

    def _batched(
        self,
        look: Callable[[Tensor, Tensor, slice], Tensor],
        chosen: NDArray[np.int64],
        width: int,
    ) -> NDArray[np.bool_]:
        """The rows of ``look`` for images, their labels and their places in ``chosen``, one batch after the other."""
        device, rows = self._images.device, np.zeros((len(chosen), width), dtype=np.bool_)

        def fill(part: slice) -> None:
            index = torch.from_numpy(chosen[part]).to(device)
            before = self.forward, self.backward
            try:
                found = look(pixels(self._images[index]), self._labels[index], part)
            except (RuntimeError, MemoryError):
                self.forward, self.backward = before
                raise
            rows[part] = found.cpu().numpy()

        self._batches.over(len(chosen), device, fill)
        return rows
