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
from robbench.models import Network
from robbench.record import MISCLASSIFIED, Counts, OfClass, Robustness, median_pstar
from robbench.spec import Attack, Estimate, describe
from robbench.spec.searches import parts as searches_of
from robbench.stages.examples import examples
from robbench.stages.resumable import Planned, drive, pieces, states_of
from robbench.stages.work import Made, Work, images_used

PART = 1000
"""Images of a part where several workers share a search: as many as keep a GPU busy, a tenth of the published 10,000."""

SAVE_SECONDS = 30.0
"""Least time between two saves of a search; training saves every epoch."""


def estimate_model(work: Work) -> Made:
    """Estimate p* of a model on its test images; attack the same ones at fixed radii, and audit the search."""
    estimate: Estimate = work.task.spec
    chosen = _chosen(work)
    network, problem = _problem(work, chosen)
    test, name = problem.images, _name(work)
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
        classes=_of_classes(work.data.classes, test.labels, search.pstar, estimate),
        imbalanced=work.data.imbalanced,
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


def images_of_parts(work: Work) -> list[tuple[int, int]]:
    """Where parts of :data:`PART` images begin and end; one's own search, which may mix images, is not divided."""
    own = any(not isinstance(each, str | Attack) for each in searches_of(work.task.spec.search))
    return [] if own else pieces(len(_chosen(work)), PART)


def search_part(work: Work, first: int, last: int) -> dict[str, Any]:
    """Search p* of some of the attacked images; the state of the search in the end."""
    _, problem = _problem(work, _chosen(work)[first:last])
    return states_of(_search(problem, work.task.spec, _name(work)), work)


def _chosen(work: Work) -> list[int]:
    """Which test images are attacked."""
    estimate = work.task.spec
    return choose_images(len(work.data.test), estimate.images, estimate.seed, work.task.model.seed)


def _problem(work: Work, chosen: Sequence[int]) -> tuple[Network, Problem]:
    """The model, and the search's problem on some of its test images."""
    estimate: Estimate = work.task.spec
    with work.stopwatch.region("io"):
        network = work.network("model")
        test = attacked_images(work.data.test, torch.tensor(chosen))
    return network, Problem(
        network=network,
        images=test,
        device=work.context.device,
        grid=estimate.grid.values,
        attack=estimate.attack,
        keep_adversarials=work.context.keep_adversarials,
        norm=estimate.norm,
    )


def _name(work: Work) -> str:
    """The search's name among the parts of the stage."""
    return "p* and counterexamples" if work.context.keep_adversarials else "p*"


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


def _search(problem: Problem, estimate: Estimate, name: str) -> dict[str, Planned]:
    return {name: Planned(lambda made: estimator(estimate.search, problem), "estimation")}


def _parts(problem: Problem, estimate: Estimate, search: str) -> dict[str, Planned]:
    """The search, and what follows it on the same images."""
    parts = _search(problem, estimate, search)
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
