"""Can the attack be trusted? Signs of masked gradients (Athalye et al. 2018, section 3.1) on a sample of the images.

The attack cannot be trusted where gradients are zero or not finite, where the network draws random numbers or looks at the
other images of its batch, or where something else fools the network within p*: a single step, another radius, a way to an
image of another class (as in Brendel et al. 2018), or Square (Andriushchenko et al. 2020). The last two need no gradient.
Nor can it be where it is too weak: where APGD-T (Croce and Hein 2020) fools most images one grid step below their p*.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import msgspec
import numpy as np

from robbench import spec
from robbench.errors import RobbenchError
from robbench.estimation.checks import Checks, Flags, Indices
from robbench.estimation.masking import warnings
from robbench.estimation.problem import Outcome, Problem
from robbench.estimation.sampling import FEWEST, QUARTILES, looked_at, scan_steps, scanned
from robbench.record import MISCLASSIFIED, Against, Audit


def check_audit(audit: spec.Audit | None) -> None:
    """Raise a RobbenchError where Square is asked for and the library that has it is not installed."""
    if audit is not None and audit.square_queries and find_spec("pyautoattack") is None:
        raise RobbenchError(
            f"audit square_queries: expected pyautoattack to be installed for {audit.square_queries} queries of Square, "
            "got none; pip install 'robbench[audit]', or leave Square out with 0"
        )


class AuditPart:
    """Look for signs that a p* search was misled, on a seeded sample of the correctly classified images.

    Args:
        problem: of the search.
        audit: how much to look at.
        outcome: of the search; its passes bound those of the audit.
        reference: whether the search is the reference, whose p* is a success of the attack that scans.
    """

    def __init__(self, problem: Problem, audit: spec.Audit, outcome: Outcome, *, reference: bool) -> None:
        self._problem, self._audit, self._reference = problem, audit, reference
        self._checks, self._found = Checks(problem, outcome.batch_size), list[Flags]()
        self._draw(outcome)

    @property
    def done(self) -> bool:
        """Whether all checks are done."""
        return len(self._found) == self.progress[1]

    @property
    def progress(self) -> tuple[float, float]:
        """Checks done, and all of them."""
        return len(self._found), 5 if self._audit.square_queries else 4

    def state_dict(self) -> dict[str, Any]:
        """Nothing: an interrupted audit begins again."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin again."""

    def step(self) -> None:
        """Do the next check."""
        checks, sample, grid = self._checks, self._sample, self._problem.grid
        match len(self._found):
            case 0:
                found = checks.one_step(sample, self._epsilons)
            case 1:
                others = sample[next_of_another_class(self._labels[sample])]
                found = checks.towards(sample, others, self._epsilons)
            case 2:
                found = checks.scan(self._image, [grid[at] for at in self._at], self._steps)
            case 3:
                found = checks.apgd(self._apgd, [grid[at - 1] for at in self._pstar[self._apgd]])
            case _ if self._median in self._radii:
                found = checks.square(sample, grid[self._median], self._audit.square_queries, self._audit.seed)
            case _:
                found = np.zeros((len(sample), 0), dtype=np.bool_)
        self._found.append(found)

    def _draw(self, found: Outcome) -> None:
        """Draw the images, and choose the radii at which they are attacked; radii and p* are grid indices."""
        audit, grid = self._audit, self._problem.grid
        self._pstar, self._labels = found.pstar.numpy(), self._problem.images.labels.cpu().numpy()
        self._correct = correct = np.flatnonzero(self._pstar != MISCLASSIFIED)
        ordered = np.sort(self._pstar[correct])
        quartiles = [
            min(int(ordered[int(share * (len(correct) - 1))]), len(grid) - 1) for share in QUARTILES if len(correct)
        ]
        self._median = quartiles[1] if quartiles else 0
        self._radii = sorted({at for at in quartiles if grid[at] > 0})
        self._epsilons = [grid[at] for at in self._radii]
        passes, self._steps = found.forward + found.backward, scan_steps(self._reference, self._problem.attack.steps)
        count = looked_at(audit, len(correct), passes, len(self._radii))
        drawn = np.random.default_rng(audit.seed).permutation(correct)
        self._sample = drawn[:count]
        self._scanned = scanned(audit, count, passes, len(self._radii), self._steps)
        below = self._pstar[drawn] - 1  # the last of the grid where nothing was found
        self._apgd = drawn[(below >= 0) & (np.array(grid)[below] > 0)][: audit.apgd_images]
        pairs = [
            (image, at)
            for image in self._sample[: self._scanned].tolist()
            for at in _scan_radii(int(self._pstar[image]), len(grid), audit.radii)
        ]
        self._image, self._at = np.array(pairs, dtype=np.int64).reshape(-1, 2).T

    @property
    def outcome(self) -> Audit:
        """The counts of all checks, and the warnings that follow."""
        one_step, towards, scan, apgd, *square = self._found
        pstar, image, at, (hit, finite) = self._pstar, self._image, self._at, scan.T
        right, labels = self._labels[self._correct], self._labels
        # Of each image the smallest radius that fools it, and the largest that does not.
        success, failure = np.full_like(pstar, len(self._problem.grid)), np.full_like(pstar, -1)
        np.minimum.at(success, image[hit], at[hit])
        np.maximum.at(failure, image[~hit], at[~hit])
        if self._reference:
            success = np.minimum(success, pstar)
        result = Audit(
            images=len(self._sample),
            one_class=len(right) >= FEWEST and len({*right}) == 1 < len({*labels}),
            zero_gradient=int(one_step[:, 0].sum()),
            not_finite=len({*image[~finite], *self._sample[one_step[:, 1]]}),
            by_chance=int(one_step[:, 2].sum()),
            one_step=self._against(self._radii, one_step[:, 3:]),
            towards=self._against(self._radii, towards),
            scanned=self._scanned,
            probes=len(image),
            not_monotone=int((success < failure).sum()),
            below=len({*image[hit & (at < pstar[image])]}),
            apgd_images=len(self._apgd),
            apgd_fooled=int(apgd.sum()),
            square=next(iter(self._against([self._median], square[0])), None) if square else None,
            square_queries=self._audit.square_queries,
            forward=self._checks.forward,
            backward=self._checks.backward,
        )
        return msgspec.structs.replace(result, warnings=warnings(result))

    def _against(self, radii: Sequence[int], fooled: Flags) -> list[Against]:
        """Attacks at some radii, each a column, against the search on the same images."""
        pstar, compared = self._pstar[self._sample], zip(radii, fooled.T, strict=False)
        return [
            Against(
                epsilon=self._problem.grid[at],
                images=len(attack),
                both=int((attack & (pstar <= at)).sum()),
                attack_alone=int((attack & (pstar > at)).sum()),
                search_alone=int((~attack & (pstar <= at)).sum()),
            )
            for at, attack in compared
        ]


def next_of_another_class(labels: Indices) -> Indices:
    """For each of some images the position of the next one with another label, or its own position if all labels are equal."""
    ends = labels != np.roll(labels, -1)  # of runs with one label; the first image follows the last one
    if not ends.any():
        return np.arange(len(labels))
    starts = (np.flatnonzero(ends) + 1) % len(labels)
    following: Indices = starts[(np.cumsum(ends) - ends) % len(starts)]
    return following


def _scan_radii(pstar: int, grid_size: int, count: int) -> list[int]:
    """Grid indices to attack an image at: evenly spread below and above p*, without 0 and the neighbours of p*.

    At a neighbour, rounding decides as often as the network.
    """
    under = count // 2 if pstar < grid_size else count
    below = np.linspace(1, pstar - 2, under).tolist() if pstar > 2 else []
    above = np.linspace(pstar + 2, grid_size - 1, count - under).tolist() if pstar + 2 < grid_size else []
    return sorted({round(at) for at in [*below, *above]})
