"""The counterexample behind each p* of a record, held to the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robbench.attacks import BALL_TOLERANCE
from robbench.data import Data, Images, pixels
from robbench.errors import RobbenchError
from robbench.machine.memory import Batches, attack_batch
from robbench.machine.onednn import plain_layers
from robbench.machine.precision import full_precision
from robbench.models import Network
from robbench.record import MISCLASSIFIED, Robustness
from robbench.spec import Estimate

ROUNDING = 1e-5
"""A classification is decided by rounding where its margin is at most this share of the largest logit."""

_SHOWN = 4
"""Images that a message names."""

_KEEP = (
    "counterexamples that were not kept: `pytest -m suite … --robbench-resume --robbench-keep-adversarials` estimates p* "
    "again and keeps them"
)

Mark = Literal["agrees", "proven", "unproven", "untimed", "missing", "remark", "problem"]


class Line(NamedTuple):
    """One finding on one record."""

    mark: Mark
    message: str
    proven: int = 0
    """Counterexamples."""
    smaller: int = 0
    """Those of them that lie in a smaller ball of the grid than that of their p*."""
    advice: str = ""


def prove(
    robustness: Robustness,
    estimate: Estimate,
    network: Network,
    data: Data,
    adversarials: Tensor | None,
    device: torch.device,
    because: str,
) -> Iterator[Line]:
    """Findings on the images of a distribution: right or wrong unperturbed, and fooled inside ball and box.

    Args:
        robustness: of the record.
        estimate: that it was taken by.
        network: on the device, in eval mode.
        data: on the CPU.
        adversarials: of :meth:`robbench.store.store.Store.adversarials`.
        device: of the network.
        because: ends the messages of problems.
    """
    names, place = torch.tensor(robustness.images), torch.tensor(robustness.pstar)
    test, radii = data.test.take(names), torch.tensor(estimate.grid.values, dtype=torch.float64)
    problems: list[str] = []
    remarks: list[str] = []
    with full_precision(device):
        batches = Batches("verification", attack_batch(network, pixels(test.images[:1].to(device))), remarks)
    margins = _margins(network, test, batches, device)
    flipped = (margins < 0) != (place == MISCLASSIFIED)
    for chosen, said in (
        (flipped & (place == MISCLASSIFIED), "counted as misclassified unperturbed, but classified correctly"),
        (flipped & (place != MISCLASSIFIED), "counted as classified correctly, but misclassified unperturbed"),
        (margins.isnan(), "with logits that are not finite"),
    ):
        _note(problems, remarks, names, chosen, margins, said)

    found = (place != MISCLASSIFIED) & (place < len(radii))
    proven = smaller = 0
    if adversarials is not None:
        expected = (int(found.sum()), *data.shape)
        if adversarials.shape != expected or adversarials.dtype != torch.float32:
            got = f"{tuple(adversarials.shape)} {str(adversarials.dtype).removeprefix('torch.')}"
            raise RobbenchError(f"counterexamples: expected {expected} float32, one for each p*, got {got}")
        names, radius = names[found], radii[place[found]]
        labels = test.labels[found]
        originals = pixels(test.images[found])
        # In float64: the true distance of what float32 holds.
        distance = (adversarials.double() - originals.double()).abs().flatten(1).amax(1)
        flat, (low, high) = adversarials.flatten(1), estimate.attack.box
        below = torch.where(place[found] > 0, radii[(place[found] - 1).clamp(min=0)], 0.0)
        attacked = _margins(network, _Floats(adversarials, labels), batches, device)
        faults = {
            "p* of 0, where nothing is attacked": radius <= 0,
            "whose counterexample is farther away than p*": ~(distance <= radius + BALL_TOLERANCE),
            "whose counterexample leaves the valid pixels": ~((flat.amin(1) >= low) & (flat.amax(1) <= high)),
        }
        sound = torch.ones_like(radius, dtype=torch.bool)
        for said, chosen in faults.items():
            sound &= ~chosen
            _note(problems, remarks, names, chosen, None, said)
        not_fooled = ~(attacked < 0)
        _note(problems, remarks, names, not_fooled, attacked, "whose counterexample is classified correctly")
        loose = sound & ~not_fooled & (below > 0) & (distance <= below + BALL_TOLERANCE)
        if loose.any():
            remarks.append(f"{_images(names[loose])} whose counterexample lies in a smaller ball than that of p*")
        proven, smaller = int((sound & ~not_fooled).sum()), int(loose.sum())
    for message in remarks:
        yield Line("remark", message)
    for message in problems:
        yield Line("problem", message + because)
    rest = f"{robustness.censored:,} never fooled, {len(place) - robustness.clean.correct:,} wrong unperturbed"
    if adversarials is None and found.any():
        yield Line("unproven", f"the counterexamples of {int(found.sum()):,} images were not kept", advice=_KEEP)
    else:
        mark: Literal["proven", "unproven"] = "unproven" if proven < found.sum() and not problems else "proven"
        yield Line(mark, f"{proven:,} of {int(found.sum()):,} counterexamples; {rest}", proven, smaller)


@dataclass(frozen=True)
class _Floats:
    """(N, C, H, W) floats in [0, 1] and their (N,) labels."""

    images: Tensor
    labels: Tensor


def _margins(network: Network, images: Images | _Floats, batches: Batches, device: torch.device) -> Tensor:
    """(N,) float64 on the CPU: logit of the label less the largest other, as a share of the largest; below 0 is wrong.

    By float32 inference. NaN where logits are not finite; of equal logits the first one wins, as everywhere.
    """
    margins = torch.zeros(len(images.labels), dtype=torch.float64)

    def judge(part: slice) -> None:
        batch, labels = images.images[part].to(device), images.labels[part].to(device)
        logits = network(pixels(batch))
        wrong = logits.argmax(dim=1) != labels
        logits = logits.double()
        scale = logits.abs().amax(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        own = logits.gather(1, labels[:, None]).squeeze(1)
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        share = ((own - other) / scale).abs().clamp(min=torch.finfo(torch.float64).tiny)
        share = torch.where(torch.isfinite(logits).all(dim=1), share, torch.nan)
        margins[part] = torch.where(wrong, -share, share).cpu()

    with torch.no_grad(), full_precision(device), plain_layers():
        batches.over(len(images.labels), device, judge)
    return margins


def _note(
    problems: list[str], remarks: list[str], names: Tensor, chosen: Tensor, margins: Tensor | None, said: str
) -> None:
    """Name the chosen images: as a problem, or as a remark those whose margin is within rounding."""
    close = chosen & (margins.abs() <= ROUNDING) if margins is not None else torch.zeros_like(chosen)
    if close.any():
        remarks.append(f"{_images(names[close])} {said}: by rounding, the margin is at most {ROUNDING:g} of the logits")
    if (chosen & ~close).any():
        problems.append(f"{_images(names[chosen & ~close])} {said}")


def _images(names: Tensor) -> str:
    shown: Sequence[int] = names[:_SHOWN].tolist()
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return f"image{'s' * (len(names) > 1)} {', '.join(map(str, shown))}{more}"
