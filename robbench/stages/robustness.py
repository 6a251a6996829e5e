"""The stage that estimates p* of a trained model, with its final test and its audit."""

from __future__ import annotations

import time

import msgspec
import torch

from robbench.data import Data
from robbench.estimation.audit import audit_search
from robbench.estimation.fixed_radii import FinalTest, attack_accuracies
from robbench.estimation.sampling import choose_images
from robbench.estimation.search import Search, estimate_pstar
from robbench.machine.timing import Stopwatch
from robbench.record import MISCLASSIFIED, Record, Robustness
from robbench.spec import Estimate, Model, describe
from robbench.stages.checkpoints import load_search, save_search
from robbench.stages.context import RunContext, inputs_of, load_trained, record_of
from robbench.stages.resuming import check_search_fits

CHECKPOINT_SECONDS = 30.0
"""Least time between two checkpoints of a p* search and its final test; training writes one every epoch."""


def estimate_robustness(
    model: Model, estimate: Estimate, digest: str, data: Data, trained: Record, context: RunContext
) -> Record:
    """Estimate p* anew, or go on with an unfinished search where the run resumes, and keep the stage in the store.

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
    stopwatch, device = Stopwatch(context.device), context.device

    def refused() -> None:
        context.say(f"{model.id}: p* is estimated from the start, its checkpoint is of former weights")

    with stopwatch.region("io"):
        network, weights = load_trained(model, context)
        chosen = choose_images(len(data.test), estimate.images, estimate.seed)
        test = data.test.take(torch.tensor(chosen)).to(device)
        inputs = inputs_of(model, context)
        state, testing = None, FinalTest()
        found = None
        if context.resume:
            found = load_search(
                context.store,
                digest,
                inputs=inputs,
                made_from=weights,
                refused=refused,
                check=lambda search, testing: check_search_fits(
                    search, testing, test.images, len(estimate.grid.values), len(estimate.final_test)
                ),
            )
        if found is not None:
            if context.keep_adversarials and found[0].adversarials is None:
                context.say(f"{model.id}: p* is estimated from the start, its checkpoint kept no counterexamples")
            else:
                state, testing, before = found
                stopwatch.add(before)
    saved = time.monotonic()

    def save(search: Search) -> None:
        save_search(
            context.store,
            digest,
            search,
            inputs=inputs,
            seconds=stopwatch.seconds,
            testing=testing,
            made_from=weights,
        )

    def keep(search: Search) -> None:
        nonlocal saved
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(search)
            saved = time.monotonic()

    def searching(search: Search) -> None:
        context.show(f"p* of {model.id}", len(test) - len(search.undecided), len(test))
        keep(search)

    def tested(done: int, total: int) -> None:
        context.show(f"final test of {model.id}", done, total)
        keep(search)

    with stopwatch.region("estimation"):
        search = estimate_pstar(
            network,
            test.images,
            test.labels,
            estimate.grid.values,
            estimate.attack,
            search=estimate.search,  # type: ignore[arg-type]
            keep_adversarials=context.keep_adversarials,
            state=state,
            on_progress=searching,
        )
    robustness = Robustness(
        grid=list(estimate.grid.values),
        attack=describe(estimate.attack),
        search=estimate.search_name,
        images=chosen,
        pstar=search.pstar.tolist(),
        forward=search.forward,
        backward=search.backward,
    )
    with stopwatch.region("validation"):
        attacks = attack_accuracies(
            network,
            test.images,
            test.labels,
            search.pstar != MISCLASSIFIED,
            estimate.final_test,
            batch_size=search.size,
            state=testing,
            notes=search.notes,
            on_progress=tested,
        )
        if estimate.audit is not None:
            save(search)  # an interrupted audit begins again, and nothing else with it
        audit = estimate.audit and audit_search(
            network,
            test.images,
            test.labels,
            robustness,
            estimate.attack,
            estimate.audit,
            batch_size=search.size,
            notes=search.notes,
            on_progress=lambda done, total: context.show(f"audit of {model.id}", done, total),
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
        notes=search.notes,
        result=msgspec.structs.replace(robustness, attacks=attacks, audit=audit),
    )
    adversarials = search.adversarials
    if adversarials is not None:
        adversarials = adversarials[(search.pstar != MISCLASSIFIED) & (search.pstar < len(estimate.grid.values))]
    context.store.finish(record, adversarials=adversarials, inputs=inputs if model.source else None, made_from=weights)
    return record
