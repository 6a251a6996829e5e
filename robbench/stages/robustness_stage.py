"""The stage that estimates p* of a trained model, with robust accuracy at fixed radii and the audit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robbench.data import attacked_images
from robbench.estimation.audit import AuditPart
from robbench.estimation.estimators import estimator
from robbench.estimation.fixed_radii import FixedRadii
from robbench.estimation.problem import Problem
from robbench.estimation.sampling import choose_images
from robbench.record import MISCLASSIFIED, Counts, OfClass, Robustness, median_pstar
from robbench.spec import Attack, Estimate, describe
from robbench.spec.searches import parts as searches_of
from robbench.stages.examples import examples
from robbench.stages.resumable import Planned, drive
from robbench.stages.work import Made, Work, images_used

SAVE_SECONDS = 30.0
"""Least time between two saves of a search; training saves every epoch."""


def estimate_model(work: Work) -> Made:
    """Estimate p* of a model on its test images; attack the same ones at fixed radii, and audit the search."""
    estimate: Estimate = work.task.spec
    with work.stopwatch.region("io"):
        network = work.network("model")
        chosen = choose_images(len(work.data.test), estimate.images, estimate.seed, work.task.model.seed)
        test = attacked_images(work.data.test, torch.tensor(chosen))
    problem = Problem(
        network=network,
        images=test,
        device=work.context.device,
        grid=estimate.grid.values,
        attack=estimate.attack,
        keep_adversarials=work.context.keep_adversarials,
        norm=estimate.norm,
    )
    name = "p* and counterexamples" if problem.keep_adversarials else "p*"
    parts = drive(_parts(problem, estimate, name), work, save_every=SAVE_SECONDS)
    search = parts[name].outcome
    with work.stopwatch.region("validation"):
        shown = examples(problem, search, estimate.search, chosen, work.data.classes)
    others = all(isinstance(each, Attack) for each in searches_of(estimate.search))
    result = Robustness(
        grid=list(estimate.grid.values),
        attack=describe(estimate.search if others else estimate.attack),
        search=estimate.search_name,
        images=chosen,
        pstar=search.pstar.tolist(),
        forward=search.forward,
        backward=search.backward,
        attacks=parts["fixed radii"].outcome if "fixed radii" in parts else [],
        audit=parts["audit"].outcome if "audit" in parts else None,
        norm=estimate.norm,
        found_by=search.found_by,
        classes=_of_classes(work.data.classes, test.labels, search.pstar, estimate) if work.data.imbalanced else [],
        examples=shown,
    )
    trained = work.needs["model"].record.data
    found = (search.pstar != MISCLASSIFIED) & (search.pstar < len(estimate.grid.values))
    return Made(
        result=result,
        network=network,
        data=images_used(work, train=trained.train, validation=trained.validation, test=len(test)),
        adversarials=None if search.adversarials is None else search.adversarials[found],
        notes=search.notes,
    )


def _of_classes(names: Sequence[str], labels: Tensor, pstar: Tensor, estimate: Estimate) -> list[OfClass]:
    """The images of each class: how many are right, and the median p* of these."""
    found, grid = [], list(estimate.grid.values)
    for label, name in enumerate(names):
        own = pstar[labels.cpu() == label]
        right = own[own != MISCLASSIFIED]
        median = median_pstar(right.tolist(), grid)
        censored = median is not None and math.isinf(median)
        counts = Counts(correct=len(right), total=len(own))
        found.append(OfClass(name=name, clean=counts, median_pstar=None if censored else median, censored=censored))
    return found


def _parts(problem: Problem, estimate: Estimate, search: str) -> dict[str, Planned]:
    """The search, and what follows it on the same images."""
    parts = {search: Planned(lambda made: estimator(estimate.search, problem), "estimation")}
    audit = estimate.audit

    def audited(made: dict[str, Any]) -> AuditPart:
        assert audit is not None
        return AuditPart(problem, audit, made[search].outcome, reference=estimate.search == "reference")

    if estimate.final_test:
        attacks = estimate.final_test
        parts["fixed radii"] = Planned(lambda made: FixedRadii(problem, attacks, made[search].outcome), "validation")
    if audit is not None:
        parts["audit"] = Planned(audited, "validation")
    return parts
