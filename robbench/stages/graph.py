"""The graph of stages: which tasks a study has, and how they are run, in this process or by any executor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import msgspec

from robbench.errors import RobbenchError, unknown
from robbench.record import Record
from robbench.spec import Model, Study
from robbench.stages.kinds import KINDS, StageKind
from robbench.stages.task import Task

if TYPE_CHECKING:
    from robbench.stages.context import RunContext


class Executor(Protocol):
    """Makes stages somewhere: :class:`InProcess`, or :class:`robbench.cluster.Cluster`."""

    def submit(self, task: Task, context: RunContext, fresh: bool) -> Future[Record]:
        """A future of the stage's record, as of :func:`robbench.stages.work.run_task`; what it needs is finished."""
        ...


class InProcess:
    """Makes every stage at once, in this process."""

    def submit(self, task: Task, context: RunContext, fresh: bool) -> Future[Record]:
        """A future that is done."""
        from robbench.stages.work import run_task

        future: Future[Record] = Future()
        try:
            future.set_result(run_task(task, context, fresh))
        except Exception as error:
            future.set_exception(error)
        return future


class Graph:
    """Tasks under way on an executor: each is submitted as soon as its needs are finished."""

    def __init__(self, context: RunContext, executor: Executor) -> None:
        self._context, self._executor = context, executor
        self.futures: dict[Task, Future[Record]] = {}
        """Of every task that was started; one whose need failed fails with a RobbenchError that says so."""

    def start(self, tasks: Collection[Task]) -> None:
        """Start tasks and all that they need, but for what was started before.

        Raises:
            RobbenchError: a model is at fault (:func:`robbench.stages.checks.check`); then none is started.
        """
        from robbench.stages.checks import check

        for task in tasks:
            check(task.model, self._context)
        for task in with_needs(tasks):
            if task not in self.futures:
                needs = {need: self.futures[need] for need in task.needs.values()}
                submit = partial(self._executor.submit, task, self._context, self._context.fresh and task in tasks)
                self.futures[task] = _after(needs, submit)


def _after(needs: dict[Task, Future[Record]], submit: Callable[[], Future[Record]]) -> Future[Record]:
    """What ``submit`` returns, once all needs are finished; a need's failure is passed on."""
    result: Future[Record] = Future()
    left, lock = set[Task | None](needs), Lock()

    def pass_on(made: Future[Record]) -> None:
        if made.cancelled():
            result.cancel()
        elif (error := made.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(made.result())

    def finished(need: Task | None, _: object = None) -> None:
        with lock:
            left.discard(need)
            if left:
                return
        if any(future.cancelled() for future in needs.values()):
            result.cancel()
            return
        for task, future in needs.items():
            if (error := future.exception()) is not None:
                said = str(error)
                again = " failed before: " in said
                result.set_exception(RobbenchError(said if again else f"{task.name} failed before: {said}"))
                return
        try:
            submit().add_done_callback(pass_on)
        except RuntimeError as error:  # the executor was shut down
            result.set_exception(error)

    for need, future in needs.items():
        future.add_done_callback(partial(finished, need))
    if not needs:
        finished(None)
    return result


def tasks_of(study: Study, models: Collection[Model] | None = None) -> tuple[Task, ...]:
    """Every stage of a study, or of some of its models, all of one kind before the next, each after what it needs."""
    models = study.models() if models is None else models
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
    graph = Graph(context, executor or InProcess())
    graph.start(tasks)
    failed = [error for future in graph.futures.values() if (error := future.exception()) is not None]
    if failed:
        raise failed[0]
    return {task: future.result() for task, future in graph.futures.items()}


def run_stage(task: Task, context: RunContext, *, suite: str = "") -> Record:
    """The record of one stage under the names of a suite, after the stages that it needs, in this process."""
    return named(run_graph([task], context)[task], task, suite)


def named(record: Record, task: Task, suite: str) -> Record:
    """A record that another study may have stored, under the names of the study that asks for it."""
    model, source = task.model, task.model.parents().get("source")
    facts = msgspec.structs.replace(record.model, source_case=source.id if source else None, variant=model.variant)
    return msgspec.structs.replace(record, suite=suite, case=model.id, stage=task.stage, model=facts)


def finished_records(tasks: Iterable[Task], context: RunContext, *, suite: str = "") -> dict[Task, Record]:
    """The records of the tasks that the store has, made from what the store has now of their needs, as of this suite.

    Images are loaded only for tasks that the store may have.
    """
    from robbench.stages.work import finished_stage

    found = {}
    for task in (task for task in tasks if context.store.knows(task.digest)):
        try:
            finished = finished_stage(task, context)
        except RobbenchError:  # a stage that it needs is missing, or its data are
            continue
        if finished is not None:
            found[task] = named(finished.record, task, suite)
    return found
