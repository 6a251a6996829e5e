"""The counterexample behind each p* of a record, held to the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from robbench.attacks import BALL_TOLERANCE, distance
from robbench.data import Data, pixels
from robbench.errors import RobbenchError
from robbench.machine.memory import Batches, attack_batch
from robbench.machine.onednn import plain_layers
from robbench.machine.precision import full_precision
from robbench.models import Network
from robbench.record import MISCLASSIFIED, Robustness

ROUNDING = 1e-5
"""A classification is decided by rounding where its margin is at most this share of the largest logit."""

_SHOWN = 4
"""Images that a message names."""

_KEEP = "counterexamples that were not kept: `pytest -m suite … --robbench-keep-adversarials` keeps them"

Mark = Literal["agrees", "proven", "unproven", "missing", "remark", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of checking one record."""

    mark: Mark
    message: str
    name: str = ""
    """``suite/case.stage``."""
    proven: int = 0
    """Counterexamples."""
    smaller: int = 0
    """Those of them in a smaller ball of the grid than that of their p*."""
    advice: str = ""
    """What would let more be proven."""


@dataclass(frozen=True)
class _Notes:
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def note(self, names: Tensor, chosen: Tensor, said: str, margins: Tensor | None = None) -> None:
        """Name the chosen images as a problem, or as a remark if their margin is within rounding."""
        close = chosen & (margins.abs() <= ROUNDING) if margins is not None else torch.zeros_like(chosen)
        if close.any():
            by = f"by rounding, the margin is at most {ROUNDING:g} of the logits"
            self.remarks.append(f"{_images(names[close])} {said}: {by}")
        if (chosen & ~close).any():
            self.problems.append(f"{_images(names[chosen & ~close])} {said}")


Margins = Callable[[Tensor, Tensor], Tensor]
"""(N, C, H, W) images and (N,) labels -> (N,) float64 on the CPU: the label's logit less the largest other, as a share of
the largest; below 0 is misclassified, NaN is not finite."""


def prove(
    robustness: Robustness,
    network: Network,
    data: Data,
    adversarials: Tensor | None,
    *,
    box: tuple[float, float],
    device: torch.device,
) -> Iterator[Finding]:
    """Findings on the images of a distribution: right or wrong unperturbed, and fooled inside ball and box.

    ``adversarials`` are (F, C, H, W) float32, of the images that have a p*; None if they were not kept.
    """
    names, pstar = torch.tensor(robustness.images), torch.tensor(robustness.pstar)
    test, notes = data.test.take(names), _Notes()
    margins = _margins_of(network, test.images[:1], device, notes.remarks)
    unperturbed, counted = margins(test.images, test.labels), pstar == MISCLASSIFIED
    wrong = unperturbed < 0
    notes.note(names, counted & ~wrong, "counted as misclassified unperturbed, but classified correctly", unperturbed)
    notes.note(names, wrong & ~counted, "counted as classified correctly, but misclassified unperturbed", unperturbed)
    notes.note(names, unperturbed.isnan(), "with logits that are not finite")
    found = ~counted & (pstar < len(robustness.grid))
    count, proven, smaller = int(found.sum()), 0, 0
    if adversarials is not None:
        expected = (count, *data.shape)
        if adversarials.shape != expected or adversarials.dtype != torch.float32:
            got = f"{tuple(adversarials.shape)} {str(adversarials.dtype).removeprefix('torch.')}"
            raise RobbenchError(f"counterexamples: expected {expected} float32, one for each p*, got {got}")
        pair, attacked = (adversarials, pixels(test.images[found])), margins(adversarials, test.labels[found])
        proven, smaller = _check_counterexamples(names[found], pair, attacked, pstar[found], robustness, box, notes)
    for message in notes.remarks:
        yield Finding(mark="remark", message=message)
    for message in notes.problems:
        yield Finding(mark="problem", message=message)
    if adversarials is None and count:
        yield Finding(mark="unproven", message=f"the counterexamples of {count:,} images were not kept", advice=_KEEP)
        return
    others = f"{robustness.censored:,} never fooled, {int(counted.sum()):,} wrong unperturbed"
    yield Finding(
        mark="unproven" if proven < count and not notes.problems else "proven",
        message=f"{proven:,} of {count:,} counterexamples; {others}",
        proven=proven,
        smaller=smaller,
    )


def _check_counterexamples(
    names: Tensor,
    pair: tuple[Tensor, Tensor],
    margins: Tensor,
    pstar: Tensor,
    robustness: Robustness,
    box: tuple[float, float],
    notes: _Notes,
) -> tuple[int, int]:
    """How many counterexamples of (counterexamples, originals) are ones, and how many lie in a smaller ball."""
    adversarials, originals = pair
    flat, radii = adversarials.flatten(1), torch.tensor(robustness.grid, dtype=torch.float64)
    # float64, since the difference of two float32 numbers is rounded
    far = distance(adversarials.double(), originals.double(), robustness.norm)
    radius, below = radii[pstar], torch.where(pstar > 0, radii[(pstar - 1).clamp(min=0)], 0.0)
    inside = (flat.amin(1) >= box[0]) & (flat.amax(1) <= box[1])
    near, attacked, fooled = far <= radius + BALL_TOLERANCE, radius > 0, margins < 0
    notes.note(names, ~attacked, "p* of 0, where nothing is attacked")
    notes.note(names, ~near, "whose counterexample is farther away than p*")
    notes.note(names, ~inside, "whose counterexample leaves the valid pixels")
    notes.note(names, ~fooled, "whose counterexample is classified correctly", margins)
    proven = inside & near & attacked & fooled
    smaller = proven & (below > 0) & (far <= below + BALL_TOLERANCE)
    if smaller.any():
        notes.remarks.append(f"{_images(names[smaller])} whose counterexample lies in a smaller ball than that of p*")
    return int(proven.sum()), int(smaller.sum())


def _margins_of(network: Network, example: Tensor, device: torch.device, remarks: list[str]) -> Margins:
    """How clearly a network classifies images, by float32 inference."""
    with full_precision(device):
        batches = Batches("verification", attack_batch(network, pixels(example.to(device))), remarks)

    def margins(images: Tensor, labels: Tensor) -> Tensor:
        found = torch.zeros(len(labels), dtype=torch.float64)

        def judge(part: slice) -> None:
            found[part] = _margin(network(pixels(images[part].to(device))), labels[part].to(device)).cpu()

        with torch.no_grad(), full_precision(device), plain_layers():
            batches.over(len(labels), device, judge)
        return found

    return margins


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) margins of (N, K) logits; of equal logits the first one wins."""
    wrong, logits = logits.argmax(dim=1) != labels, logits.double()
    tiny = torch.finfo(torch.float64).tiny
    own = logits.gather(1, labels[:, None]).squeeze(1)
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    share = ((own - other) / logits.abs().amax(dim=1).clamp(min=tiny)).abs().clamp(min=tiny)
    share = torch.where(torch.isfinite(logits).all(dim=1), share, torch.nan)
    return torch.where(wrong, -share, share)


def _images(names: Tensor) -> str:
    shown = names[:_SHOWN].tolist()
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return f"image{'s' * (len(names) > 1)} {', '.join(map(str, shown))}{more}"
