"""The stage that bounds p* from below: certified radii, and a complete verifier for what they leave open."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robbench.bounds import METHODS, BoundSearch, Certification
from robbench.bounds.search import IMAGES
from robbench.bounds.verifier import Verification
from robbench.data import attacked_images, pixels
from robbench.estimation.problem import Problem
from robbench.estimation.sampling import choose_images
from robbench.machine.precision import full_precision
from robbench.models import Network
from robbench.models.exported import as_onnx
from robbench.record import MISCLASSIFIED, LowerBounds, Robustness
from robbench.spec import Bounded
from robbench.stages.networks import stored_network
from robbench.stages.resumable import Planned, drive, pieces, states_of
from robbench.stages.robustness_stage import SAVE_SECONDS
from robbench.stages.work import Made, Work, images_used

PART = IMAGES
"""Correct images of a part where several workers share a stage: one batch, as one worker bounds together."""


def bound_model(work: Work) -> Made:
    """Certify the largest radius of each image below its p*; let the verifier decide what is open."""
    spec: Bounded = work.task.spec
    images, pstar = _chosen(work)
    right, notes = pstar != MISCLASSIFIED, list[str]()
    network, problem, parts = _parts(work, 0, int(right.sum()), notes)
    with full_precision(work.context.device):
        made = drive(parts, work, save_every=SAVE_SECONDS)
    search, verified = made["bounds"], made.get("verification")
    lower, upper = torch.full_like(pstar, MISCLASSIFIED), pstar.clone()
    lower[right] = verified.lower if verified else search.certified
    upper[right] = verified.upper if verified else problem.pstar
    by = {name: int((search.by == number).sum()) for number, name in enumerate(METHODS)}
    facts = work.needs["model"].record.data
    return Made(
        result=LowerBounds(
            grid=list(problem.grid),
            method=spec.bounds.method,
            images=images.tolist(),
            lower=lower.tolist(),
            upper=upper.tolist(),
            certified_by={name: count for name, count in by.items() if count},
            one_class=_one_class(work, network),
            rows=search.rows,
            verifier=spec.bounds.verifier.engine.split()[0] if spec.bounds.verifier else None,
            verified=[problem.names[place] for place in verified.asked] if verified else [],
            verdicts=verified.verdicts if verified else {},
            verifying_seconds=verified.seconds if verified else 0.0,
        ),
        network=network,
        data=images_used(work, train=facts.train, validation=facts.validation, test=len(images)),
        notes=notes,
    )


def images_of_parts(work: Work) -> list[tuple[int, int]]:
    """Where parts of :data:`PART` correct images begin and end."""
    return pieces(int((_chosen(work)[1] != MISCLASSIFIED).sum()), PART)


def bound_part(work: Work, first: int, last: int) -> dict[str, Any]:
    """Bound some of the correct images; the state of bounds and verification in the end."""
    _, _, parts = _parts(work, first, last, [])
    with full_precision(work.context.device):
        return states_of(parts, work)


def _chosen(work: Work) -> tuple[Tensor, Tensor]:
    """(N,) int64 indices in the test set of the images that are bounded, and grid indices of their p*."""
    spec: Bounded = work.task.spec
    found = work.needs["pstar"].record.result
    assert isinstance(found, Robustness)
    places = choose_images(len(found.images), spec.bounds.images, spec.estimate.seed, work.task.model.seed)
    return torch.tensor(found.images)[places], torch.tensor(found.pstar)[places]


def _parts(work: Work, first: int, last: int, notes: list[str]) -> tuple[Network, Certification, dict[str, Planned]]:
    """The model, the problem on some of its correct images, and the parts of the stage that solve it."""
    spec: Bounded = work.task.spec
    bounds, estimate, device, model = spec.bounds, spec.estimate, work.context.device, work.task.model
    found, trained = work.needs["pstar"].record.result, work.needs["model"]
    assert isinstance(found, Robustness)
    with work.stopwatch.region("io"):
        network = stored_network(model, work.context, trained).to(device).eval()
        images, pstar = _chosen(work)
        right = pstar != MISCLASSIFIED
        images, pstar = images[right][first:last], pstar[right][first:last]
        data = attacked_images(work.data.test, images)
        test = data.take(torch.arange(len(data)))
    problem = Certification(
        network=network,
        images=pixels(test.images).to(device),
        labels=test.labels.to(device),
        grid=found.grid,
        pstar=pstar,
        names=images.tolist(),
        classes=network.classes,
        method=bounds.method,
        probes=bounds.probes,
    )
    parts = {"bounds": Planned(lambda made: BoundSearch(problem, notes), "estimation")}
    if bounds.verifier is None:
        return network, problem, parts
    verifier, attacked = (
        bounds.verifier,
        Problem(network=network, images=data, device=device, grid=found.grid, attack=estimate.attack, notes=notes),
    )
    drawn = np.random.default_rng(model.seed).permutation(int(right.sum()))[: verifier.images]
    asked = sorted(place - first for place in drawn.tolist() if first <= place < last)

    def confirm(place: int, image: Tensor, radius: float) -> int | None:
        original, label = problem.images[place : place + 1], problem.labels[place : place + 1]
        near = torch.minimum(torch.maximum(image[None], original - radius), original + radius).clamp(0, 1)
        fooled = bool(attacked.fooled(near, original, label, radius))
        return int(attacked.grid_index(near, original)) if fooled else None

    # torch writes ONNX in its own precision, so before full precision is switched on.
    onnx = as_onnx(stored_network(model, work.context, trained).eval(), work.data.shape) if asked else b""

    def verification(made: dict[str, Any]) -> Verification:
        return Verification(
            problem,
            made["bounds"],
            verifier,
            asked=asked,
            onnx=onnx,
            kept=work.context.store.folder / "verifier" / model.id,
            confirm=confirm,
            notes=notes,
        )

    return network, problem, parts | {"verification": Planned(verification, "validation")}


def _one_class(work: Work, network: torch.nn.Module) -> str | None:
    """The class that all test images get, if it is the same."""
    test = work.data.test
    given: set[int] = set()
    for part in torch.split(torch.arange(len(test)), 256):
        with torch.no_grad():
            batch = pixels(test.take(part).images).to(work.context.device)
            given |= set(network(batch).argmax(1).tolist())
        if len(given) > 1:
            return None
    return str(work.data.classes[given.pop()])
