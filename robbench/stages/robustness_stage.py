"""The stage that estimates p* of a trained model, with robust accuracy at fixed radii and the audit."""

from __future__ import annotations

from typing import Any

import msgspec
import torch

from robbench.estimation import AuditPart, FixedRadii, Problem, estimator
from robbench.estimation.sampling import choose_images
from robbench.record import MISCLASSIFIED, Robustness
from robbench.spec import Estimate, describe
from robbench.stages.resumable import Planned, drive
from robbench.stages.work import Made, Work, images_used

SAVE_SECONDS = 30.0
"""Least time between two saves of a search; training saves every epoch."""


def estimate_model(work: Work) -> Made:
    """Estimate p* of a model on its test images; attack the same ones at fixed radii, and audit the search."""
    estimate: Estimate = work.task.spec
    with work.stopwatch.region("io"):
        network = work.network("model")
        chosen = choose_images(len(work.data.test), estimate.images, estimate.seed)
        test = work.data.test.take(torch.tensor(chosen)).to(work.context.device)
    problem = Problem(
        network=network,
        images=test,
        device=work.context.device,
        grid=estimate.grid.values,
        attack=estimate.attack,
        keep_adversarials=work.context.keep_adversarials,
    )
    parts = drive(_parts(problem, estimate, chosen), work, save_every=SAVE_SECONDS)
    search = parts["p*"].outcome
    result = _robustness(search, estimate, chosen)
    if "fixed radii" in parts:
        result = msgspec.structs.replace(result, attacks=parts["fixed radii"].accuracies)
    if "audit" in parts:
        result = msgspec.structs.replace(result, audit=parts["audit"].found)
    trained = work.needs["model"].record.data
    found = (search.pstar != MISCLASSIFIED) & (search.pstar < len(estimate.grid.values))
    return Made(
        result=result,
        network=network,
        data=images_used(work, train=trained.train, validation=trained.validation, test=len(test)),
        adversarials=None if search.adversarials is None else search.adversarials[found],
        notes=search.notes,
    )


def _parts(problem: Problem, estimate: Estimate, chosen: list[int]) -> dict[str, Planned]:
    parts = {"p*": Planned(lambda made: estimator(estimate.search, problem), "estimation")}

    def fixed_radii(made: dict[str, Any]) -> FixedRadii:
        return FixedRadii(problem, made["p*"].outcome, estimate.final_test)

    def audit(made: dict[str, Any]) -> AuditPart:
        assert estimate.audit is not None
        search = made["p*"].outcome
        return AuditPart(problem, search, _robustness(search, estimate, chosen), estimate.audit)

    if estimate.final_test:
        parts["fixed radii"] = Planned(fixed_radii, "validation")
    if estimate.audit is not None:
        parts["audit"] = Planned(audit, "validation")
    return parts


def _robustness(search: Any, estimate: Estimate, chosen: list[int]) -> Robustness:
    return Robustness(
        grid=list(estimate.grid.values),
        attack=describe(estimate.attack),
        search=estimate.search_name,
        images=chosen,
        pstar=search.pstar.tolist(),
        forward=search.forward,
        backward=search.backward,
    )
