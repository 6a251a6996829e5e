"""Which images are attacked, and how many of them an audit looks at. No torch."""

from __future__ import annotations

import numpy as np

from robbench.spec import Audit

FEWEST = 5
"""Images looked at, whatever they cost: fewer could show nothing."""

SCAN_STEPS = 10
"""Most steps of the scan's attack after another search than the reference, which does not use the estimate's number."""

APGD_STEPS, APGD_TARGETS = 20, 3
"""Of APGD-T: steps towards each wrong class, and how many of these it goes for."""

QUARTILES = (0.25, 0.5, 0.75)
"""Shares of the images whose p* gives the radii of the single steps."""


def choose_images(total: int, count: int, seed: int, model_seed: int = 0) -> list[int]:
    """Ascending indices of at most ``count`` of ``total`` images, drawn at random, the same for all models of one seed.

    Another seed of the models draws other images, so that what seeds disagree on holds the noise of the images, too.
    Seed 0 draws by ``seed`` alone: numpy fills the words of a seed up with zeros.
    """
    if count >= total:
        return list(range(total))
    return sorted(np.random.default_rng((seed, model_seed)).permutation(total)[:count].tolist())


def looked_at(audit: Audit, correct: int, passes: int, radii: int) -> int:
    """How many of the correct images: as many as half of the share pays for."""
    return min(correct, audit.images, max(FEWEST, int(audit.share * passes / 2 / image_passes(radii))))


def scanned(audit: Audit, looked_at: int, passes: int, radii: int, steps: int) -> int:
    """How many of those: as many as the rest of the share pays for."""
    left = audit.share * passes - image_passes(radii) * looked_at
    return min(looked_at, max(FEWEST, int(left / (audit.radii * probe_passes(steps)))))


def image_passes(radii: int) -> int:
    """Passes of an image: its gradient, its logits once more, and two judgements at each radius."""
    return 3 + 2 * radii


def probe_passes(steps: int) -> int:
    """Passes of one attack of the scan: its steps, the gradient at its end, and the judgement."""
    return 2 * steps + 3


def scan_steps(reference: bool, steps: int) -> int:
    """Steps of the scan's attack: those of the estimate's attack, or fewer where the search was not the reference."""
    return steps if reference else min(steps, SCAN_STEPS)
