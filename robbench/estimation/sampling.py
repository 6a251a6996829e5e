"""Which images are attacked, and how many of them an audit looks at. No torch."""

from __future__ import annotations

import numpy as np

from robbench.spec import Audit

FEWEST = 5
"""Images looked at, whatever they cost: fewer could show nothing."""

SCAN_STEPS = 10
"""Steps at most of the scan's attack beside the ``fast`` search, which makes no use of the estimate's number of them."""

QUARTILES = (0.25, 0.5, 0.75)
"""Shares of the images whose p* gives the radii of the single steps: as many as these where all differ."""


def choose_images(total: int, count: int, seed: int) -> list[int]:
    """Ascending indices of at most ``count`` of ``total`` test images, a seeded choice, the same for every model."""
    if count >= total:
        return list(range(total))
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


def looked_at(audit: Audit, correct: int, passes: int, radii: int) -> int:
    """How many of the correct images: for half of the share, at the passes of :func:`image_passes`."""
    return min(correct, audit.images, max(FEWEST, int(audit.share * passes / 2 / image_passes(radii))))


def scanned(audit: Audit, looked_at: int, passes: int, radii: int, steps: int) -> int:
    """How many of those: what the others leave of the share, at every radius an attack, a gradient and a judgement."""
    left = audit.share * passes - image_passes(radii) * looked_at
    return min(looked_at, max(FEWEST, int(left / (audit.radii * probe_passes(steps)))))


def image_passes(radii: int) -> int:
    """Passes of an image that is looked at: its gradient, its logits once more in half a batch, and two judgements at each radius."""
    return 3 + 2 * radii


def probe_passes(steps: int) -> int:
    """Forward and backward passes of one attack of the scan: its steps, the gradient at its end, and the judgement."""
    return 2 * steps + 3


def scan_steps(search: str, steps: int) -> int:
    """Steps of the scan's attack, where the estimate's has so many."""
    return steps if search == "reference" else min(steps, SCAN_STEPS)
