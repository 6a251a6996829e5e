"""Run one stage of one case: the only place that composes data, models, training, transfer and estimation.

A stage is a function of its spec, the store and a device, and of nothing else; it runs the same in this process, in a
pytest-xdist worker, or on another machine that shares the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from robbench.assembly import (
    build_network,
    check_takes,
    load_data,
    placed,
    read_checkpoint,
    training_parts,
    transferred_network,
)
from robbench.attacks import evaluating
from robbench.checkpoints import load_search, load_training, save_search, save_training
from robbench.data import Data, Images, pixels
from robbench.determinism import explained
from robbench.environment import environment
from robbench.errors import RobbenchError
from robbench.estimation import Search, estimate_pstar
from robbench.final_test import FinalTest, attack_accuracies
from robbench.masking import audit_search, check_audit
from robbench.memory import Batches, indivisible
from robbench.models import Network, blocks, load_weights, parameter_count, weights
from robbench.record import (
    WRONG,
    Counts,
    DataUsed,
    ModelFacts,
    Record,
    Robustness,
    Seconds,
    Training,
    as_case,
    choose_images,
)
from robbench.spec import Dataset, Estimate, Model, describe, digest_of
from robbench.store import Finished, Store
from robbench.timing import Stopwatch
from robbench.training import VALIDATION_BATCH, kept_epoch, train
from robbench.transfer import parameter_groups

CHECKPOINT_SECONDS = 30.0
"""Least time between two checkpoints of a p* search and its final test; training writes one every epoch."""


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where and how stages run. Nothing here changes a result."""

    store: Store
    data: Path
    device: torch.device
    download: bool = False
    resume: bool = False
    """Reuse finished stages of the same digest, and go on from checkpoints."""
    keep_adversarials: bool = False
    """Keep the counterexample that every p* rests on, for ``robbench verify``."""
    show: Callable[[str, float, float], None] = lambda what, done, total: None
    """Gets progress: what runs, how much of it is done, of how much."""
    say: Callable[[str], None] = lambda text: None
    """Gets what a user should know of a stage beside its result, a sentence each."""
    failed: dict[str, str] = field(default_factory=dict)
    """Messages of stages that failed in this session, by digest: they are not tried twice."""
    began: float = field(default_factory=time.time)
    """When the session began, in seconds since 1970: what finished later is not made again."""
    checked: dict[Hashable, int] = field(default_factory=dict)
    """Number of blocks of every combination of architecture, images and checkpoint that was found sound."""

    def images(self, dataset: Dataset) -> Data:
        """A dataset's images, from the data folder; errors as of :func:`robbench.data.load`."""
        return load_data(dataset, self.data, download=self.download)


def check(model: Model, workplace: Workplace) -> None:
    """Find every fault that can be known before training: of store, data, shapes and checkpoints, sources included.

    Raises:
        RobbenchError: the first of them.
    """
    if not workplace.checked:
        workplace.store.check_writable()
    if model.source is not None:
        check(model.source, workplace)
    data = workplace.images(model.dataset)
    statistics = model.dataset.mean, model.dataset.std
    kind = (model.architecture, data.shape, len(data.classes), statistics, model.checkpoint)
    if kind not in workplace.checked:
        try:
            network = build_network(model, data)
        except RobbenchError as error:
            raise RobbenchError(f"{model.id}: {error}") from error
        if model.checkpoint is not None:
            read_checkpoint(network, model.checkpoint)
        workplace.checked[kind] = len(blocks(network))
    if model.transfer is not None and model.transfer.k > workplace.checked[kind]:
        raise RobbenchError(f"k: expected 1…{workplace.checked[kind]} for {model.architecture}, got {model.transfer.k}")
    if model.source is not None:
        check_takes(model.source, workplace.images(model.source.dataset), model, data)


def run_training(model: Model, workplace: Workplace, *, suite: str, under_test: bool = True) -> Record:
    """Train a model, or transfer and retrain it, or take a user's checkpoint; its weights go to the store.

    The stage under test always runs, unless it finished since this session began (here, in another worker, or in another
    run of the same code on the same machine) or resuming was asked for; what is only needed by another stage comes from
    the store where it is there.

    Raises:
        RobbenchError: bad input, a diverging loss, or a source model that failed before.
    """
    check(model, workplace)
    with _stage(workplace, model.digest, model.id):
        data = workplace.images(model.dataset)
        record = _reusable(workplace, model.digest, model, under_test)
        if record is None:
            record = _train(model, data, workplace, suite)
    return _named(record, model, suite)


def run_estimate(
    model: Model, estimate: Estimate, workplace: Workplace, *, suite: str, under_test: bool = True
) -> Record:
    """Estimate p* of a model on its test images; run its final test and the audit on the same ones.

    The model is trained first where the store does not have it.

    Raises:
        RobbenchError: as :func:`run_training`, and logits that are not finite.
    """
    check_audit(estimate.audit)
    trained = run_training(model, workplace, suite=suite, under_test=False)
    digest = model.estimate_digest(estimate)
    with _stage(workplace, digest, f"{model.id} (robustness)"):
        data = workplace.images(model.dataset)
        record = _reusable(workplace, digest, model, under_test)
        if record is None:
            record = _estimate(model, estimate, digest, data, trained, workplace)
    return _named(record, model, suite)


def load_network(model: Model, workplace: Workplace) -> Network:
    """A trained model from the store, on the workplace's device, in eval mode.

    Raises:
        RobbenchError: it is not in the store, or damaged.
    """
    data = workplace.images(model.dataset)
    network = transferred_network(model, data, None).network if model.transfer else build_network(model, data)
    load_weights(network, workplace.store.weights(model.digest), f"store, {model.id}")
    return placed(network, workplace.device).eval()


# --- stages -----------------------------------------------------------------------------------------------------------


def _train(model: Model, data: Data, workplace: Workplace, suite: str) -> Record:
    stopwatch, device, recipe = Stopwatch(workplace.device), workplace.device, model.recipe
    source = None
    if model.source is not None:
        run_training(model.source, workplace, suite=suite, under_test=False)
        source = load_network(model.source, workplace)
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
        network = placed(network, device)
    if recipe is None:
        result = _untrained(network, validation, notes)
    else:
        inputs, progress = _inputs(model, workplace), None
        if workplace.resume and (found := load_training(workplace.store, model.digest, inputs=inputs)):
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
                workplace.store, model.digest, state, inputs=inputs, seconds=stopwatch.seconds
            ),
            on_update=lambda epoch, update, updates: workplace.show(
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
        )
    used = DataUsed(
        name=data.name,
        train=len(training),
        validation=len(validation),
        test=len(data.test),
        sha256=data.sha256,
        test_limit=model.dataset.test,
    )
    record = _record(
        model,
        model.digest,
        describe(model),
        used,
        network,
        stopwatch.seconds,
        workplace,
        stage="training",
        notes=notes,
        training=result,
    )
    workplace.store.finish(record, weights(network), inputs=_inputs(model, workplace) if model.source else None)
    return record


def _estimate(
    model: Model, estimate: Estimate, digest: str, data: Data, trained: Record, workplace: Workplace
) -> Record:
    stopwatch, device = Stopwatch(workplace.device), workplace.device
    with stopwatch.region("io"):
        network = load_network(model, workplace)
        chosen = choose_images(len(data.test), estimate.images, estimate.seed)
        test = data.test.take(torch.tensor(chosen)).to(device)
        inputs = _inputs(model, workplace)
        state, testing = None, FinalTest()
        if workplace.resume and (found := load_search(workplace.store, digest, inputs=inputs)):
            if workplace.keep_adversarials and found[0].adversarials is None:
                workplace.say(f"{model.id}: p* is estimated from the start, its checkpoint kept no counterexamples")
            else:
                state, testing, before = found
                stopwatch.add(before)
    saved = time.monotonic()

    def keep(search: Search) -> None:
        nonlocal saved
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save_search(workplace.store, digest, search, inputs=inputs, seconds=stopwatch.seconds, testing=testing)
            saved = time.monotonic()

    def searching(search: Search) -> None:
        workplace.show(f"p* of {model.id}", len(test) - len(search.undecided), len(test))
        keep(search)

    def tested(done: int, total: int) -> None:
        workplace.show(f"final test of {model.id}", done, total)
        keep(search)

    with stopwatch.region("estimation"):
        search = estimate_pstar(
            network,
            test.images,
            test.labels,
            estimate.grid.values,
            estimate.attack,
            search=estimate.search,
            keep_adversarials=workplace.keep_adversarials,
            state=state,
            on_progress=searching,
        )
    robustness = Robustness(
        grid=list(estimate.grid.values),
        attack=describe(estimate.attack),
        search=estimate.search,
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
            search.pstar != WRONG,
            estimate.final_test,
            batch_size=search.size,
            state=testing,
            notes=search.notes,
            on_progress=tested,
        )
        audit = estimate.audit and audit_search(
            network,
            test.images,
            test.labels,
            robustness,
            estimate.attack,
            estimate.audit,
            on_progress=lambda done, total: workplace.show(f"audit of {model.id}", done, total),
        )
    spec = {"model": describe(model), "estimate": describe(estimate)}
    used = msgspec.structs.replace(trained.data, test=len(test), test_limit=model.dataset.test)
    record = _record(
        model,
        digest,
        spec,
        used,
        network,
        stopwatch.seconds,
        workplace,
        stage="robustness",
        notes=search.notes,
        robustness=msgspec.structs.replace(robustness, attacks=attacks, audit=audit),
    )
    adversarials = search.adversarials
    if adversarials is not None:
        adversarials = adversarials[(search.pstar != WRONG) & (search.pstar < len(estimate.grid.values))]
    workplace.store.finish(record, adversarials=adversarials, inputs=inputs if model.source else None)
    return record


def _untrained(network: Network, validation: Images, notes: list[str]) -> Training:
    """What is known of a user's checkpoint without any training: its validation accuracy."""
    right = 0

    def judge(part: slice) -> None:
        nonlocal right
        right += int((network(pixels(validation.images[part])).argmax(1) == validation.labels[part]).sum())

    with evaluating(network), torch.no_grad():
        Batches("validation", VALIDATION_BATCH, notes).over(len(validation), validation.images.device, judge)
    return Training(
        epochs=[],
        best=0,
        stopped_early=False,
        validation=Counts(correct=right, total=len(validation)),
        forward=len(validation),
        backward=0,
    )


# --- parts of a stage -------------------------------------------------------------------------------------------------


@contextmanager
def _stage(workplace: Workplace, digest: str, name: str) -> Iterator[None]:
    """Hold a digest's lock; remember a failure, so that what depends on it fails at once with the same reason."""
    if digest in workplace.failed:
        raise RobbenchError(f"{name} failed before: {workplace.failed[digest]}")
    with workplace.store.lock(digest):
        try:
            with indivisible(
                f"{name} does not fit on {workplace.device.type}", "free memory there, or use another device"
            ):
                yield
        except Exception as error:
            fault = explained(error)
            workplace.failed[digest] = str(fault)
            if fault is error:
                raise
            raise fault from error


def _named(record: Record, model: Model, suite: str) -> Record:
    source = model.source.id if model.source else None
    return as_case(record, suite=suite, case=model.id, source_case=source, variant=model.variant)


def _reusable(workplace: Workplace, digest: str, model: Model, under_test: bool) -> Record | None:
    """The finished stage's record, where it may stand for a new run: same digest, same images, its sources' too.

    A run that asks for determinism takes nothing that was made without.
    """
    finished = workplace.store.finished(digest)
    if finished is None or finished.record.data.sha256 != workplace.images(model.dataset).sha256:
        return None
    if finished.inputs is not None and finished.inputs != _inputs(model, workplace):
        return None
    if torch.are_deterministic_algorithms_enabled() and not finished.record.environment.deterministic:
        return None
    if under_test and not workplace.resume and not _of_this_session(finished, workplace):
        return None
    if workplace.keep_adversarials and finished.record.robustness and finished.adversarials_sha256 is None:
        workplace.say(f"{model.id}: p* is estimated again, the finished stage kept no counterexamples")
        return None
    return finished.record


def _of_this_session(finished: Finished, workplace: Workplace) -> bool:
    """Whether a stage was made by this run, or since it began by another one of the same code in the same surroundings."""
    if finished.run == workplace.store.run:
        return True
    # Whether the tree is dirty changes while a run writes its baselines.
    there, here = (
        msgspec.structs.replace(surroundings, dirty=None)
        for surroundings in (finished.record.environment, environment(workplace.device))
    )
    return finished.finished >= workplace.began and there == here


def _inputs(model: Model, workplace: Workplace) -> str:
    """SHA-256 over the images that a model's weights come from: its own, and those of its sources."""
    own = workplace.images(model.dataset).sha256
    return own if model.source is None else digest_of([own, _inputs(model.source, workplace)])


def _record(
    model: Model,
    digest: str,
    spec: dict[str, Any],
    used: DataUsed,
    network: Network,
    seconds: Seconds,
    workplace: Workplace,
    **result: Any,
) -> Record:
    """A record of a stage; ``result`` holds its stage, its training or robustness, and its notes."""
    transferred, source = model.transfer, model.source
    return Record(
        suite="",
        case=model.id,
        digest=digest,
        spec=spec,
        model=ModelFacts(
            architecture=model.architecture,
            dataset=model.dataset.name,
            method=model.method,
            source=source.dataset.name if source else None,
            source_case=source.id if source else None,
            source_method=source.method if source else None,
            k=transferred.k if transferred else None,
            blocks=len(blocks(network)),
            head=transferred.head if transferred else "linear",
            kept=transferred.kept if transferred else None,
            seed=model.seed,
            variant=model.variant,
            parameters=parameter_count(network),
            trainable=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        ),
        data=used,
        seconds=seconds,
        environment=environment(workplace.device),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **result,
    )
