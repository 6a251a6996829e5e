"""What a worker does: say what it is, make a stage, and send what must not be lost with it."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
from distributed import Status, Variable, Worker, WorkerPlugin, get_worker

from robbench.cluster.messages import PACKAGES, Done, Facts, Failed, Needs, PartDone, Run, slot
from robbench.errors import RobbenchError
from robbench.spec.model import LIBRARY_MODULES, identified
from robbench.spec.suite_files import find_code_in
from robbench.stages.kinds import KINDS
from robbench.store import Finished, Store

if TYPE_CHECKING:
    from robbench.stages import Task
    from robbench.stages.checks import Tried
    from robbench.stages.context import RunContext

SHOWN_EVERY = 0.5
"""Least seconds between two reports of a worker's progress."""


class Welcome(WorkerPlugin):
    """Every worker, whenever it comes, says what it is."""

    def __init__(self, run: Run) -> None:
        self.run, self.name = run, run.name
        self.facts: Facts | None = None

    async def setup(self, worker: Worker) -> None:
        """Look at what the worker has, without blocking it."""
        self.facts = await asyncio.to_thread(look, self.run, worker.address, worker.state.nthreads)
        worker.log_event(self.run.name, {"comes": self.facts.__dict__})


async def give_slot(run: str, dask_worker: Worker) -> None:
    """Let a worker get stages; the controller asks it to, when it found nothing wrong with it."""
    welcome = dask_worker.plugins[run]
    assert isinstance(welcome, Welcome)
    assert welcome.facts is not None
    await dask_worker.set_resources(**slot(welcome.facts.machine))
    # Stages that wait are offered to a worker that begins to run, not to one that gets a resource.
    dask_worker.status = Status.paused
    dask_worker.status = Status.running


def versions() -> tuple[tuple[str, str | None], ...]:
    """The versions of :data:`PACKAGES` that are installed here."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return tuple((package, installed(package)) for package in PACKAGES)


def mismatch(here: Mapping[str, str | None], there: Mapping[str, str | None]) -> str | None:
    """What a worker must install, in one sentence; None where it has the controller's versions."""
    wrong = [package for package in here if there.get(package) != here[package]]
    if not wrong:
        return None
    expected = ", ".join(f"{package} {here[package]}" for package in wrong)
    got = ", ".join(f"{there.get(package)}" for package in wrong)
    return f"expected {expected}, as on the controller, got {got}; install the same there"


def look(run: Run, address: str, threads: int) -> Facts:
    """What this worker is, and what is wrong with it."""
    facts = Facts(address=address, host=platform.node(), shared=shared(run))
    try:
        if wrong := mismatch(dict(run.versions), dict(versions())):
            raise RobbenchError(wrong)
        with _as_the_run_says(run, threads) as context:
            from robbench.machine.environment import environment

            here = environment(context.device)
            facts = replace(facts, machine=here.slug, device=here.device, gpu=_gpu(context))
            for dataset, expected in run.images:
                found = context.images(dataset).fingerprint
                if found != expected:
                    raise RobbenchError(
                        f"dataset {dataset.name!r}: expected the images of the controller, got others in {context.data}; copy "
                        "its files there"
                    )
    except Exception as error:
        fault = str(error) if isinstance(error, RobbenchError) else f"{type(error).__name__}: {error}"
        return replace(facts, fault=f"worker {address} on {facts.host}: {fault}")
    return facts


def make_stage(
    run: Run, task: Task, needs: Needs, fresh: bool, state: str, tried: dict[Hashable, Tried]
) -> Done | Failed | None:
    """Make a stage, from the newest state that any worker has sent of it; None where it needs files that did not come.

    Args:
        run: what this worker was told of the run.
        task: the stage.
        needs: what it needs.
        fresh: make it although a shared store has it.
        state: name of the Variable that holds the state, by the stage's key.
        tried: what the controller found when it tried the networks.
    """

    def made(context: RunContext, finished: Mapping[str, Finished]) -> Done:
        from robbench.stages.work import run_task

        record = run_task(task, replace(context, tried=tried), fresh, finished)
        files = context.store.pack(record.key) if isinstance(context.store, Sending) else {}
        return Done(record.key, files, record.key in context.made)

    found: Done | Failed | None = _attempt(run, task, needs, state, made)
    return found


def make_part(run: Run, task: Task, needs: Needs, first: int, last: int) -> PartDone | Failed | None:
    """Make the part of a stage that has some of its images; arguments as of :func:`make_stage`."""

    def made(context: RunContext, finished: Mapping[str, Finished]) -> PartDone:
        from robbench.stages.work import Work

        work, division = Work(task, context, finished), KINDS[task.kind].division
        assert division is not None
        state = division().make(work, first, last)
        return PartDone(state, msgspec.to_builtins(work.stopwatch.seconds))

    found: PartDone | Failed | None = _attempt(run, task, needs, "", made)
    return found


def _attempt(
    run: Run,
    task: Task,
    needs: Needs,
    state: str,
    work: Callable[[RunContext, Mapping[str, Finished]], Any],
) -> Any:
    """What ``work`` returns of the run's context and the finished stages that the task needs, or why it failed.

    None on a worker that does not see the store where all did that were there when the stage was submitted.
    """
    worker = get_worker()
    try:
        with _as_the_run_says(run, worker.state.nthreads) as context, ExitStack() as stack:
            store = Store(run.store)
            if not shared(run):
                if needs.files is None:
                    return None
                folder = stack.enter_context(TemporaryDirectory(dir=worker.local_directory))
                store = Sending(Path(folder), state, run.name)
                for role, finished in needs.finished.items():
                    store.unpack(finished.record.key, needs.files[role])
            _Progress.of(run.name).name = str(worker.get_current_task()).rpartition("-")[0]
            result = work(replace(context, store=store, failed={}, made=set()), needs.finished)
            return replace(result, beside=store.beside()) if isinstance(store, Sending) else result
    except Exception as error:
        message = str(error) if isinstance(error, RobbenchError) else f"{type(error).__name__}: {error}"
        return Failed(worker.address, message, isinstance(error, RobbenchError))


class Sending(Store):
    """A folder of one worker: begins with the state that was saved last, and sends what is saved to the scheduler."""

    def __init__(self, folder: Path, state: str, topic: str) -> None:
        super().__init__(folder)
        self._state, self._topic = state, topic
        for key, data in Variable(state).get().items() if state else ():
            self.keep_state(key, data)

    def save_state(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep it here, and with the scheduler; the controller is told."""
        super().save_state(key, state)
        Variable(self._state).set({key: self.state_path(key).read_bytes()})
        get_worker().log_event(self._topic, {"saved": self._state})

    def beside(self) -> dict[str, bytes]:
        """By their path in the store, the counterexamples of a verifier that are none, which no record holds."""
        paths = (path for path in self.folder.glob("verifier/*/*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}


def shared(run: Run) -> bool:
    """Whether the controller's store is here, too."""
    try:
        return (run.store / "identity").read_text(encoding="utf-8") == run.identity
    except OSError:
        return False


class _Progress:
    """Sends progress and sentences of a run's stages to the controller."""

    def __init__(self, topic: str) -> None:
        self._topic, self._shown = topic, 0.0
        self.name = ""

    @classmethod
    @cache
    def of(cls, topic: str) -> _Progress:
        """That of a run: the same one each time, since images are remembered by whom they tell."""
        return cls(topic)

    def show(self, what: str, done: float, total: float, detail: str = "") -> None:
        """Send progress from time to time."""
        now = time.monotonic()
        if self.name and now - self._shown >= SHOWN_EVERY:
            self._shown = now
            if not _wanted():
                raise RobbenchError("nobody waits for this stage any longer")
            share = done / total if total else 1.0
            message = {"name": self.name, "share": share, "host": platform.node(), "detail": detail}
            get_worker().log_event(self._topic, {"shows": message})

    def announce(self, text: str) -> None:
        """Send a sentence."""
        if self.name:
            get_worker().log_event(self._topic, {"says": f"{platform.node()}: {text}"})


def _wanted() -> bool:
    """Whether somebody still waits for what this thread makes: no longer where the controller ended."""
    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is not None and task.state != "cancelled"


@cache
def _context(run: Run, threads: int) -> RunContext:
    """The context of a run, but for its store; a RobbenchError where code or device of the run are not here."""
    from robbench.machine.environment import choose_device
    from robbench.stages.context import RunContext

    find_code_in(*(Path(folder) for folder in run.folders if Path(folder).is_dir()))
    for module, expected in run.code:
        if (found := _found(module)) != expected:
            raise RobbenchError(
                f"{module}: expected the controller's ({expected}), got {found}; copy it, and start anew"
            )
    progress = _Progress.of(run.name)
    return RunContext(
        store=Store(run.store),
        data=Path(environ.get("ROBBENCH_DATA", run.data)),
        device=choose_device(run.device),
        download=run.download,
        keep_adversarials=run.keep_adversarials,
        show=progress.show,
        announce=progress.announce,
    )


def _found(module: str) -> str | None:
    """What identifies a module of the user's own, which is imported, or another library."""
    if module not in LIBRARY_MODULES:
        try:
            import_module(module)
        except ImportError as error:
            raise RobbenchError(
                f"cannot import {module} ({error}); put the project's folder on PYTHONPATH there"
            ) from error
    return identified(module)


@contextmanager
def _as_the_run_says(run: Run, threads: int) -> Iterator[RunContext]:
    """The context, with the run's switches, and on a CPU with as many threads as the worker has."""
    with ExitStack() as switches:
        if run.deterministic:
            from robbench.machine.determinism import cublas_workspace, deterministic_algorithms

            switches.enter_context(cublas_workspace())
            switches.enter_context(deterministic_algorithms())
        context = _context(run, threads)
        if context.device.type == "cpu":
            import torch

            torch.set_num_threads(threads)
        yield context


def _gpu(context: RunContext) -> str | None:
    import torch

    if context.device.type != "cuda":
        return None
    return f"{platform.node()} {torch.cuda.get_device_properties(context.device).uuid}"
