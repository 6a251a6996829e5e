"""Run one stage of one case: training, which composes data, models, transfer and the loop, or p* of what was trained.

A stage is a function of its spec, the store and a device, and of nothing else; it runs the same in this process, in a
pytest-xdist worker, or on another machine that shares the store.
"""

from __future__ import annotations

from torch import nn

from robbench.attacks import evaluating, is_right
from robbench.data import Data, Images, pixels
from robbench.errors import RobbenchError
from robbench.estimation.audit import check_audit
from robbench.machine.environment import multiplies_in_tf32
from robbench.machine.memory import Batches
from robbench.machine.timing import Stopwatch
from robbench.models import Network, blocks, place, weights
from robbench.record import Counts, DataUsed, Record, Training, as_case
from robbench.spec import Estimate, Model, describe
from robbench.stages.checkpoints import load_training, save_training
from robbench.stages.context import RunContext, inputs_of, load_trained, record_of, reusable, stage
from robbench.stages.networks import (
    build_network,
    check_takes,
    read_checkpoint,
    training_parts,
    transferred_network,
)
from robbench.stages.resuming import check_fits
from robbench.stages.robustness import estimate_robustness
from robbench.training.loop import train
from robbench.training.schedule import kept_epoch
from robbench.training.transfer import parameter_groups
from robbench.training.updates import VALIDATION_BATCH


def check(model: Model, context: RunContext) -> None:
    """Find every fault that can be known before training: of store, data, shapes and checkpoints, sources included.

    Raises:
        RobbenchError: the first of them.
    """
    if not context.checked:
        context.store.check_writable()
    if model.source is not None:
        check(model.source, context)
    data = context.images(model.dataset)
    statistics = model.dataset.mean, model.dataset.std
    kind = (model.architecture, data.shape, len(data.classes), statistics, model.checkpoint)
    if kind not in context.checked:
        try:
            network = build_network(model, data)
        except RobbenchError as error:
            raise RobbenchError(f"{model.id}: {error}") from error
        if model.checkpoint is not None:
            read_checkpoint(network, model.checkpoint)
        context.checked[kind] = len(blocks(network))
    if model.transfer is not None and model.transfer.k > context.checked[kind]:
        raise RobbenchError(f"k: expected 1…{context.checked[kind]} for {model.architecture}, got {model.transfer.k}")
    if model.source is not None:
        check_takes(model.source, context.images(model.source.dataset), model, data)


def run_training(model: Model, context: RunContext, *, suite: str, under_test: bool = True) -> Record:
    """Train a model, or transfer and retrain it, or take a user's checkpoint; its weights go to the store.

    The stage under test always runs, unless it finished in this session (here, or in another worker), or in another run of
    the same code on the same machine that shares the store with it, or resuming was asked for; what is only needed by another
    stage comes from the store where it is there.

    Raises:
        RobbenchError: bad input, a diverging loss, or a source model that failed before.
    """
    check(model, context)
    with stage(context, model.digest, f"{model.id} (training)"):
        data = context.images(model.dataset)
        record = reusable(context, model.digest, model, under_test)
        if record is None:
            record = _train(model, data, context, suite)
    return _named(record, model, suite)


def run_estimate(
    model: Model, estimate: Estimate, context: RunContext, *, suite: str, under_test: bool = True
) -> Record:
    """Estimate p* of a model on its test images; run its final test and the audit on the same ones.

    The model is trained first where the store does not have it.

    Raises:
        RobbenchError: as :func:`run_training`, and logits that are not finite.
    """
    check_audit(estimate.audit)
    trained = run_training(model, context, suite=suite, under_test=False)
    digest = model.estimate_digest(estimate)
    with stage(context, digest, f"{model.id} (robustness)"):
        data = context.images(model.dataset)
        record = reusable(context, digest, model, under_test)
        if record is None:
            before = context.store.undamaged(digest)
            record = estimate_robustness(model, estimate, digest, data, trained, context)
            if before is not None and before.adversarials_sha256 is not None and not context.keep_adversarials:
                context.say(
                    f"{model.id}: p* was estimated again without --robbench-keep-adversarials, the counterexamples that "
                    "were kept are gone"
                )
    return _named(record, model, suite)


def _train(model: Model, data: Data, context: RunContext, suite: str) -> Record:
    stopwatch, device, recipe = Stopwatch(context.device), context.device, model.recipe
    inputs = inputs_of(model, context)
    source = made_from = None
    if model.source is not None:
        run_training(model.source, context, suite=suite, under_test=False)
        source, made_from = load_trained(model.source, context)
    held: tuple[nn.Module, ...] = ()
    groups = None
    notes: list[str] = []
    with stopwatch.region("io"):
        training, validation = training_parts(model.dataset, data, device)
        if model.transfer is not None:
            assert source is not None
            ready = transferred_network(model, data, source)
            network, groups = ready.network, parameter_groups(ready, model.transfer.kept_scale)
            if model.transfer.kept == "frozen" and model.transfer.kept_statistics == "eval":
                held = ready.kept
        else:
            network = build_network(model, data)
            if model.checkpoint is not None:
                read_checkpoint(network, model.checkpoint)
        network = place(network, device)
    if recipe is None:
        result = _untrained(network, validation, notes)
    else:
        progress = found = None

        def refused() -> None:
            context.say(
                f"{model.id}: trained from the start, its checkpoint began with former weights of {model.source}"
            )

        if context.resume:
            found = load_training(
                context.store,
                model.digest,
                inputs=inputs,
                made_from=made_from,
                refused=refused,
                check=lambda read: check_fits(read, network, recipe, groups),
            )
        if found is not None:
            progress, before = found
            stopwatch.add(before)
        outcome = train(
            network,
            recipe,
            training,
            validation,
            stopwatch=stopwatch,
            groups=groups,
            held=held,
            augmentation=model.dataset.augmentation or "none",
            seed=model.seed,
            progress=progress,
            on_epoch=lambda state: save_training(
                context.store, model.digest, state, inputs=inputs, seconds=stopwatch.seconds, made_from=made_from
            ),
            on_update=lambda epoch, update, updates: context.show(
                f"training {model.id}", (epoch - 1) + (update - 1) / updates, recipe.epochs
            ),
        )
        notes = outcome.notes
        best = kept_epoch(recipe, outcome.history)
        kept = outcome.history[best - 1]
        result = Training(
            epochs=outcome.history,
            best=best,
            stopped_early=len(outcome.history) < recipe.epochs,
            validation=kept.validation,
            robust=kept.robust,
            forward=outcome.forward,
            backward=outcome.backward,
            tf32=multiplies_in_tf32(device),
        )
    used = DataUsed(
        name=data.name,
        train=len(training),
        validation=len(validation),
        test=len(data.test),
        sha256=data.sha256,
        test_limit=model.dataset.test,
    )
    record = record_of(
        model,
        model.digest,
        describe(model),
        used,
        network,
        stopwatch.seconds,
        context,
        stage="training",
        notes=notes,
        result=result,
    )
    context.store.finish(record, weights(network), inputs=inputs if model.source else None, made_from=made_from)
    return record


def _untrained(network: Network, validation: Images, notes: list[str]) -> Training:
    """What is known of a user's checkpoint without any training: its validation accuracy.

    Raises:
        RobbenchError: its logits are not finite.
    """
    right = 0

    def judge(part: slice) -> None:
        nonlocal right
        right += int(is_right(network, pixels(validation.images[part]), validation.labels[part], "validation").sum())

    with evaluating(network):
        Batches("validation", VALIDATION_BATCH, notes).over(len(validation), validation.images.device, judge)
    return Training(
        epochs=[],
        best=0,
        stopped_early=False,
        validation=Counts(correct=right, total=len(validation)),
        forward=len(validation),
        backward=0,
    )


def _named(record: Record, model: Model, suite: str) -> Record:
    source = model.source.id if model.source else None
    return as_case(record, suite=suite, case=model.id, source_case=source, variant=model.variant)
