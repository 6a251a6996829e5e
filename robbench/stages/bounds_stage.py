"""The stage that bounds p* from below: certified radii, and a complete verifier for what they leave open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robbench.bounds import METHODS, BoundSearch, Certification
from robbench.bounds.verifier import Verification
from robbench.data import attacked_images, pixels
from robbench.estimation.problem import Problem
from robbench.estimation.sampling import choose_images
from robbench.machine.precision import full_precision
from robbench.models.exported import as_onnx
from robbench.record import MISCLASSIFIED, LowerBounds, Robustness
from robbench.spec import Bounded
from robbench.stages.networks import stored_network
from robbench.stages.resumable import Planned, drive
from robbench.stages.robustness_stage import SAVE_SECONDS
from robbench.stages.work import Made, Work, images_used


def bound_model(work: Work) -> Made:
    """Certify the largest radius of each image below its p*; let the verifier decide what is open."""
    spec: Bounded = work.task.spec
    bounds, estimate, device, model = spec.bounds, spec.estimate, work.context.device, work.task.model
    found = work.needs["pstar"].record.result
    assert isinstance(found, Robustness)
    trained = work.needs["model"]
    with work.stopwatch.region("io"):
        network = stored_network(model, work.context, trained).to(device).eval()
        places = choose_images(len(found.images), bounds.images, estimate.seed, model.seed)
        pstar = torch.tensor(found.pstar)[places]
        images = torch.tensor(found.images)[places]
        right = pstar != MISCLASSIFIED
        data = attacked_images(work.data.test, images[right])
        test = data.take(torch.arange(len(data)))
    notes: list[str] = []
    problem = Certification(
        network=network,
        images=pixels(test.images).to(device),
        labels=test.labels.to(device),
        grid=found.grid,
        pstar=pstar[right],
        names=images[right].tolist(),
        classes=network.classes,
        method=bounds.method,
        probes=bounds.probes,
    )

    attacked = Problem(
        network=network, images=data, device=device, grid=found.grid, attack=estimate.attack, notes=notes
    )

    def confirm(place: int, image: Tensor, radius: float) -> int | None:
        original, label = problem.images[place : place + 1], problem.labels[place : place + 1]
        near = torch.minimum(torch.maximum(image[None], original - radius), original + radius).clamp(0, 1)
        fooled = bool(attacked.fooled(near, original, label, radius))
        return int(attacked.grid_index(near, original)) if fooled else None

    # torch writes ONNX in its own precision, so before full precision is switched on.
    plain = stored_network(model, work.context, trained).eval() if bounds.verifier else None
    onnx = as_onnx(plain, work.data.shape) if plain else b""

    def verification(made: dict[str, Any]) -> Verification:
        assert bounds.verifier is not None
        return Verification(
            problem,
            made["bounds"],
            bounds.verifier,
            seed=model.seed,
            onnx=onnx,
            kept=work.context.store.folder / "verifier" / model.id,
            confirm=confirm,
            notes=notes,
        )

    parts = {"bounds": Planned(lambda made: BoundSearch(problem, notes), "estimation")}
    if bounds.verifier is not None:
        parts["verification"] = Planned(verification, "validation")
    with full_precision(device):
        made = drive(parts, work, save_every=SAVE_SECONDS)
    search, verified = made["bounds"], made.get("verification")
    lower, upper = torch.full_like(pstar, MISCLASSIFIED), pstar.clone()
    lower[right] = verified.lower if verified else search.certified
    upper[right] = verified.upper if verified else problem.pstar
    by = {name: int((search.by == number).sum()) for number, name in enumerate(METHODS)}
    asked = verified.asked if verified else []
    facts = trained.record.data
    return Made(
        result=LowerBounds(
            grid=found.grid,
            method=bounds.method,
            images=images.tolist(),
            lower=lower.tolist(),
            upper=upper.tolist(),
            certified_by={name: count for name, count in by.items() if count},
            one_class=_one_class(work, network),
            rows=search.rows,
            verifier=bounds.verifier.engine.split()[0] if bounds.verifier else None,
            verified=[problem.names[place] for place in asked],
            verdicts=verified.verdicts if verified else {},
            verifying_seconds=verified.seconds if verified else 0.0,
        ),
        network=network,
        data=images_used(work, train=facts.train, validation=facts.validation, test=len(images)),
        notes=notes,
    )


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
