"""The stage that estimates p* of a trained model, with its final test and its audit."""

from __future__ import annotations

import msgspec
import torch

from robbench.data import Data
from robbench.estimation.audit import AuditPart
from robbench.estimation.estimators import Estimator, estimator
from robbench.estimation.fixed_radii import FixedRadii
from robbench.estimation.problem import Problem
from robbench.estimation.sampling import choose_images
from robbench.machine.timing import Stopwatch
from robbench.record import MISCLASSIFIED, Record, Robustness
from robbench.spec import Estimate, Model, describe
from robbench.stages.context import RunContext, inputs_of, load_trained, record_of


def estimate_robustness(
    model: Model, estimate: Estimate, digest: str, data: Data, trained: Record, context: RunContext
) -> Record:
    """Estimate p*, and keep the stage in the store.

    Args:
        model: trained; its weights are in the store.
        estimate: how.
        digest: of the stage.
        data: of the model.
        trained: record of the model's training.
        context: where; its store's lock on the digest is held.

    Raises:
        RobbenchError: weights or checkpoint are damaged, or logits are not finite.
    """
    stopwatch = Stopwatch(context.device)
    with stopwatch.region("io"):
        network, weights = load_trained(model, context)
        chosen = choose_images(len(data.test), estimate.images, estimate.seed)
        test = data.test.take(torch.tensor(chosen))
    problem = Problem(
        network=network,
        images=test,
        device=context.device,
        grid=estimate.grid.values,
        attack=estimate.attack,
        keep_adversarials=context.keep_adversarials,
    )
    search = estimator(estimate.search, problem)
    fixed_radii = FixedRadii(problem, estimate.final_test, search)

    def drive(part: Estimator | FixedRadii | AuditPart, what: str) -> None:
        while not part.done:
            part.step()
            done, total = part.progress
            context.show(f"{what} of {model.id}", int(done), int(total))

    with stopwatch.region("estimation"):
        drive(search, "p*")
    with stopwatch.region("validation"):
        drive(fixed_radii, "final test")
        audit = None
        if estimate.audit is not None:
            part = AuditPart(problem, estimate.audit, search, reference=estimate.search == "reference")
            drive(part, "audit")
            audit = part.outcome
    found = search.outcome
    result = Robustness(
        grid=list(estimate.grid.values),
        attack=describe(estimate.attack),
        search=estimate.search,
        images=chosen,
        pstar=found.pstar.tolist(),
        forward=found.forward,
        backward=found.backward,
        attacks=fixed_radii.outcome,
        audit=audit,
    )
    spec = {"model": describe(model), "estimate": describe(estimate)}
    used = msgspec.structs.replace(trained.data, test=len(test), test_limit=model.dataset.test)
    record = record_of(
        model,
        digest,
        spec,
        used,
        network,
        stopwatch.seconds,
        context,
        stage="robustness",
        notes=found.notes,
        result=result,
    )
    adversarials, inputs = found.adversarials, inputs_of(model, context)
    if adversarials is not None:
        adversarials = adversarials[(found.pstar != MISCLASSIFIED) & (found.pstar < len(estimate.grid.values))]
    context.store.finish(record, adversarials=adversarials, inputs=inputs if model.source else None, made_from=weights)
    return record
