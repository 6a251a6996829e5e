"""A few test images of a model beside what fooled it, as small pictures: what a reader of p* wants to see."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from robbench.data import pixels
from robbench.estimation.estimators import estimator
from robbench.estimation.problem import Outcome, Problem
from robbench.machine.onednn import plain_layers
from robbench.machine.precision import full_precision
from robbench.record import MISCLASSIFIED, Example

OF_A_KIND = 2
"""Examples with the smallest p*, and as many with p* nearest to the median."""

LARGEST = 64
"""Pixels a side of a picture's thirds; larger images are shrunk for it."""


def examples(
    problem: Problem, found: Outcome, search: object, chosen: Sequence[int], classes: Sequence[str]
) -> list[Example]:
    """The images with the smallest and with the most typical p*, searched again for their counterexamples.

    Args:
        problem: that the search solved.
        found: what came out.
        search: which it was.
        chosen: indices of the problem's images in the test set.
        classes: names by label.
    """
    kinds = _kinds(found.pstar, len(problem.grid))
    if not kinds:
        return []
    index = torch.tensor([*kinds])
    images = problem.images.take(index)
    part = estimator(search, replace(problem, images=images, keep_adversarials=True, notes=[]))
    while not part.done:
        part.step()
    again = part.outcome
    assert again.adversarials is not None
    with torch.no_grad(), full_precision(problem.device), plain_layers():
        said = problem.network(again.adversarials.to(problem.device)).argmax(dim=1).tolist()
    shown = []
    for number, (at, kind) in enumerate(kinds.items()):
        reached = int(again.pstar[number])
        if not 0 < reached < len(problem.grid):
            continue  # of a search whose course depends on its batch
        original = pixels(images.images[number]).cpu()
        shown.append(
            Example(
                kind=kind,
                image=chosen[at],
                label=classes[int(images.labels[number])],
                says=classes[said[number]],
                pstar=problem.grid[reached],
                png=_png(original, again.adversarials[number]),
            )
        )
    return shown


def _kinds(pstar: Tensor, censored: int) -> dict[int, Literal["worst", "typical"]]:
    """Positions of the examples among the images, by p*, and their kinds; none where nothing was fooled."""
    fooled = ((pstar != MISCLASSIFIED) & (pstar > 0) & (pstar < censored)).nonzero().flatten()
    order = fooled[pstar[fooled].argsort(stable=True)].tolist()
    middle = max(0, (len(order) - OF_A_KIND) // 2)
    typical, worst = order[middle : middle + OF_A_KIND], order[:OF_A_KIND]
    return dict.fromkeys(worst, "worst") | {at: "typical" for at in typical if at not in worst}


def _png(original: Tensor, adversarial: Tensor) -> bytes:
    """Original, perturbation (grey is none, black or white its largest change) and adversarial image, side by side."""
    change = adversarial - original
    change = 0.5 + change / (2 * change.abs().max())
    strip = torch.stack([original, change.clamp(0.0, 1.0), adversarial])
    if max(strip.shape[-2:]) > LARGEST:
        strip = F.interpolate(strip, scale_factor=LARGEST / max(strip.shape[-2:]), mode="area")
    shown = (torch.cat([*strip], dim=2).clamp(0.0, 1.0) * 255).round().to(torch.uint8)
    picture = Image.fromarray(shown[0].numpy() if len(shown) == 1 else shown[:3].permute(1, 2, 0).numpy())
    data = io.BytesIO()
    picture.save(data, format="png", optimize=True)
    return data.getvalue()
