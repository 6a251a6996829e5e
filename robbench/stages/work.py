"""One stage while it is made: what it works with, what it leaves, and the function that runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import torch
from torch import Tensor

from robbench.data import Data
from robbench.errors import RobbenchError
from robbench.machine.determinism import explained
from robbench.machine.environment import environment
from robbench.machine.memory import must_fit_whole
from robbench.machine.timing import Stopwatch
from robbench.models import Network, blocks, parameter_count
from robbench.record import DataUsed, ModelFacts, Record, Struct
from robbench.spec import Model, digest_of, edited_code
from robbench.stages.context import RunContext
from robbench.stages.kinds import KINDS
from robbench.stages.networks import built_sha256, load_network
from robbench.stages.task import Task
from robbench.store import Finished, Need

WAITING = 0.1
"""Share of a training spent waiting for images from which its record says so."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a stage leaves."""

    result: Struct
    network: Network
    data: DataUsed
    weights: Mapping[str, Tensor] | None = None
    adversarials: Tensor | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """A stage while it is made."""

    task: Task
    context: RunContext
    needs: Mapping[str, Finished]
    """What was made before, by role."""

    @cached_property
    def key(self) -> str:
        """The stage's key in the store."""
        return key_of(self.task, self.context, self.needs)

    @cached_property
    def data(self) -> Data:
        """The images of the task's model."""
        return self.context.images(self.task.model.dataset)

    @cached_property
    def stopwatch(self) -> Stopwatch:
        """Adds up the seconds of this stage."""
        return Stopwatch(self.context.device)

    def network(self, role: str) -> Network:
        """The trained network of a stage that this one needs, on the device, in eval mode."""
        return load_network(self.task.needs[role].model, self.context, self.needs[role])


def key_of(task: Task, context: RunContext, needs: Mapping[str, Finished], machine: str | None = None) -> str:
    """SHA-256 of all that decides what comes out of a stage on a class of machine (None: this one), but for its seconds.

    A model that is trained anew, other images or another machine class give another key, so what is found under a key
    never has to be compared with anything.
    """
    data, model = context.images(task.model.dataset), task.model
    if (as_built := model.recipe is None and model.checkpoint is None) and model.digest not in context.built:
        context.built[model.digest] = built_sha256(model, data)
    return digest_of(
        {
            "task": task.digest,
            "images": data.fingerprint,
            **({"built": context.built[model.digest]} if as_built else {}),
            "needs": {role: finished.weights_sha256 for role, finished in needs.items()},
            "torch": str(torch.__version__),
            "machine": machine or environment(context.device).slug,
        }
    )


def run_task(
    task: Task, context: RunContext, fresh: bool = False, needs: Mapping[str, Finished] | None = None
) -> Record:
    """The record of a stage: from the store where it is there, else made now. The stages that it needs must be finished.

    Args:
        task: what is to be done.
        context: where.
        fresh: make it although the store has it, unless this run made it.
        needs: the finished stages that it needs, by role; None: those that the store has. Who gives them has seen to the
            saved state, too, from which also a fresh stage goes on.

    Raises:
        RobbenchError: bad input, a diverging loss, a stage that failed before, or one that it needs is not finished.
    """
    if task.digest in context.failed:
        raise RobbenchError(f"{task.name} failed before: {context.failed[task.digest]}")
    with _remembered(task, context):
        work = Work(task, context, finished_needs(task, context) if needs is None else needs)
        with context.store.lock(work.key, task.name, context.announce):
            again = fresh and work.key not in context.made
            if again and needs is None:
                context.store.drop_state(work.key)
            finished = None if again else context.store.finished(work.key)
            if finished is None or not suffices(finished, context):
                finished = _make(work)
                context.made.add(work.key)
    return finished.record


def finished_needs(task: Task, context: RunContext) -> dict[str, Finished]:
    """The finished stages that a task needs, by role.

    Raises:
        RobbenchError: one of them is not finished.
    """
    found = {}
    for role, need in task.needs.items():
        finished = finished_stage(need, context)
        if finished is None:
            raise RobbenchError(f"{task.name}: expected {need.name} to be finished before, it is not")
        found[role] = finished
    return found


def finished_stage(task: Task, context: RunContext) -> Finished | None:
    """The stage as the store has it, of the first class of machine that has made it; None where none has.

    Raises:
        RobbenchError: a stage that it needs is not finished, or its file is damaged.
    """
    needs = finished_needs(task, context)
    stages = (context.store.finished(key_of(task, context, needs, each)) for each in context.machines or (None,))
    return next((stage for stage in stages if stage is not None), None)


def _make(work: Work) -> Finished:
    for note in set(_edits(work.task)) - work.context.seen:
        work.context.seen.add(note)
        work.context.announce(note)
    made = KINDS[work.task.kind].run(work)
    record = _record(work, made)
    needs = {
        role: Need(key=finished.record.key, weights_sha256=finished.weights_sha256)
        for role, finished in work.needs.items()
    }
    return work.context.store.finish(work.key, record, made.weights, made.adversarials, needs)


def suffices(finished: Finished, context: RunContext) -> bool:
    """Whether a finished stage has what this run asks for: counterexamples, where they are to be kept."""
    return not (context.keep_adversarials and finished.record.robustness and finished.adversarials_sha256 is None)


@contextmanager
def _remembered(task: Task, context: RunContext) -> Iterator[None]:
    """Remember why a stage failed, so that what depends on it fails at once for the same reason."""
    try:
        with must_fit_whole(
            f"{task.name} does not fit on {context.device.type}", "free memory there, or use another device"
        ):
            yield
    except Exception as error:
        fault = explained(error)
        context.failed[task.digest] = str(fault)
        if fault is error:
            raise
        raise fault from error


def _record(work: Work, made: Made) -> Record:
    task, network = work.task, made.network
    return Record(
        suite="",
        case=task.model.id,
        stage=task.kind,
        digest=task.digest,
        spec=task.described,
        model=_facts(task.model, network),
        data=made.data,
        seconds=work.stopwatch.seconds,
        environment=environment(work.context.device),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        result=made.result,
        notes=[*work.data.notes, *made.notes, *waiting(work), *_edits(task)],
    )


def waiting(work: Work) -> list[str]:
    """A note where updates waited for images for more than :data:`WAITING` of a training."""
    waited, training = work.stopwatch.seconds.waiting_for_data, work.stopwatch.seconds.training
    if waited <= WAITING * training or training < 1:
        return []
    return [f"{work.task.model.id} waited for its images for {waited:.0f} of {training:.0f} s of training"]


def _edits(task: Task) -> list[str]:
    """What a user must know whose code was edited while it was in use."""
    return [
        f"{path.name} was edited after it had been imported: this is what it was before, start Python anew to use the edit"
        for path in edited_code(task.model, task.spec, KINDS[task.kind].run)
    ]


def _facts(model: Model, network: Network) -> ModelFacts:
    source, transfer = model.parents().get("source"), model.transfer
    mean, std = network.normalise.values or (None, None)
    return ModelFacts(
        architecture=model.architecture,
        dataset=model.dataset.name,
        method=model.method,
        source=source.dataset.name if source else None,
        source_case=source.id if source else None,
        source_method=source.method if source else "checkpoint" if transfer else None,
        k=transfer.k if transfer else None,
        blocks=len(blocks(network)),
        head=transfer.head if transfer else "linear",
        kept=transfer.kept if transfer else None,
        objective=model.recipe.method or None if model.recipe and transfer else None,
        seed=model.seed,
        variant=model.variant,
        mean=mean,
        std=std,
        parameters=parameter_count(network),
        trainable=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
    )


def images_used(work: Work, *, train: int, validation: int, test: int) -> DataUsed:
    """What a record says of the images of a stage."""
    return DataUsed(
        name=work.data.name,
        train=train,
        validation=validation,
        test=test,
        sha256=work.data.fingerprint,
        test_limit=work.task.model.dataset.test,
        folder=work.task.model.dataset.folder,
    )
