"""The graph of stages: which tasks a study has, and how they are run, in this process or by any executor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from robbench.errors import RobbenchError, unknown
from robbench.record import Record
from robbench.spec import Model, Study
from robbench.stages.kinds import KINDS, StageKind
from robbench.stages.task import Task

if TYPE_CHECKING:
    from robbench.stages.context import RunContext

T = TypeVar("T")


class Executor(Protocol):
    """Runs functions somewhere: :class:`InProcess`, any ``concurrent.futures.Executor``, a client of a cluster."""

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """A future of the function's result; function and arguments can be pickled."""
        ...


class InProcess:
    """Runs every function at once, in this process."""

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """A future that is done."""
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def tasks_of(study: Study) -> tuple[Task, ...]:
    """Every stage of a study, all of one kind before the next kind, each after the stages that it needs."""
    models = study.models()
    return tuple(task for kind in KINDS.values() for model in models for task in _tasks(kind, study, model))


def task_of(study: Study, stage: str, model: Model) -> Task:
    """The stage of this name that a study asks of a model; a RobbenchError if it asks for none."""
    asked = {task.stage: task for kind in KINDS.values() for task in _tasks(kind, study, model)}
    if stage not in asked:
        raise unknown(f"stage of {model.id} in study {study.name!r}", stage, asked)
    return asked[stage]


def _tasks(kind: StageKind, study: Study, model: Model) -> list[Task]:
    return [Task(kind.name, model, spec, label) for label, spec in kind.specs(study, model).items()]


def with_needs(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks and all that they need, each after its needs."""
    found: dict[Task, None] = {}
    for task in tasks:
        found |= dict.fromkeys(with_needs(task.needs.values()))
        found[task] = None
    return tuple(found)


def run_graph(tasks: Collection[Task], context: RunContext, executor: Executor | None = None) -> dict[Task, Record]:
    """Run tasks and all that they need, each as soon as its needs are finished; their records.

    What is finished already is taken from the store. A run that asks for fresh stages makes the ``tasks`` themselves
    again.

    Raises:
        RobbenchError: as of :func:`robbench.stages.work.run_task`; tasks that other processes run go on there.
    """
    from robbench.stages.checks import check
    from robbench.stages.work import run_task

    for task in tasks:
        check(task.model, context)
    executor = executor or InProcess()
    waiting = dict.fromkeys(with_needs(tasks))
    running: dict[Future[Record], Task] = {}
    records: dict[Task, Record] = {}
    while waiting or running:
        for task in [task for task in waiting if records.keys() >= set(task.needs.values())]:
            del waiting[task]
            running[executor.submit(run_task, task, context, context.fresh and task in tasks)] = task
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            records[running.pop(future)] = future.result()
    return records


def run_stage(task: Task, context: RunContext, *, suite: str = "") -> Record:
    """The record of one stage under the names of a suite, after the stages that it needs, in this process."""
    return _named(run_graph([task], context)[task], task, suite)


def _named(record: Record, task: Task, suite: str) -> Record:
    """A record that another study may have stored, under the names of the study that asks for it."""
    model, source = task.model, task.model.parents().get("source")
    facts = msgspec.structs.replace(record.model, source_case=source.id if source else None, variant=model.variant)
    return msgspec.structs.replace(record, suite=suite, case=model.id, stage=task.stage, model=facts)


def finished_records(tasks: Iterable[Task], context: RunContext, *, suite: str = "") -> dict[Task, Record]:
    """The records of the tasks that the store has, made from what the store has now of their needs, as of this suite.

    Images are loaded only for tasks that the store may have.
    """
    from robbench.stages.work import finished_needs, key_of

    found = {}
    for task in (task for task in tasks if context.store.knows(task.digest)):
        try:
            finished = context.store.finished(key_of(task, context, finished_needs(task, context)))
        except RobbenchError:  # a stage that it needs is missing, or its data are
            continue
        if finished is not None:
            found[task] = _named(finished.record, task, suite)
    return found
