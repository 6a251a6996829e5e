"""The controller's side of a cluster: an executor that makes stages on the workers and keeps what they send."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from robbench.cluster.connect import LOST, connected
from robbench.cluster.messages import Done, Failed, Needs, PartDone, Run, slot
from robbench.cluster.workers import Workers
from robbench.errors import RobbenchError
from robbench.record import Record
from robbench.spec import Dataset
from robbench.spec.model import modules_of
from robbench.stages.context import RunContext
from robbench.stages.graph import with_needs
from robbench.stages.kinds import KINDS
from robbench.stages.resumable import joined
from robbench.stages.task import Task
from robbench.stages.work import Work, finished_needs, finished_stage, key_of, suffices
from robbench.store import Finished
from robbench.store.files import write_atomically

TRIES = 3
"""How often a stage may fail on workers before it fails, on another one each time where there are as many."""

IN_FLIGHT = 32
"""Stages, or parts of them, that the scheduler has at once, at least: a waiting one's weights lie there."""

LOOK = 10.0
"""Seconds between two looks whether the workers are there that a stage waits for."""

GONE = 600.0
"""Seconds without any worker of a stage's class of machine after which another class begins it anew."""


class ClassGoneError(Exception):
    """No worker of the class of machine is left, but others are there."""


class SchedulerLostError(RobbenchError):
    """The scheduler is gone, and with it the run."""


class Cluster:
    """An executor whose stages are made by the workers of a dask scheduler.

    Everything that a stage needs and leaves goes through the scheduler, from and to the controller's store, unless a
    worker finds that store on a disk of its own. Waiting stages wait here, not there.

    Args:
        address: of a scheduler that runs; None for one of this run's own, with ``workers`` workers.
        workers: how many.
        device: of ``--robbench-device``, on the workers.
        context: of the controller.
        tasks: what will be asked for, whose code and images are compared with those of the workers.
        folders: where a user's own code is imported from.
        deterministic: whether the workers allow deterministic kernels only.

    Raises:
        RobbenchError: no scheduler there; a worker whose versions, code, images or device are not as they should be.
    """

    def __init__(
        self,
        address: str | None,
        workers: int,
        device: str,
        *,
        context: RunContext,
        tasks: Iterable[Task],
        folders: Iterable[str],
        deterministic: bool = False,
    ) -> None:
        self._store, self._say, self._machines = context.store, context.announce, context.machines
        self._events: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._shows: dict[str, tuple[str, float, str] | None] = {}
        """Of every stage, or part of one, that was submitted: where it runs, the share that is done, what is said of it."""
        self._states: set[str] = set()
        """Names of the Variables that hold states of stages that run."""
        self._lost = 0.0
        """When the connection to the scheduler was first seen to be lost; 0: it is there."""
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._say(f"waiting for workers {f'of {address}' if address else 'to start on this machine'}")
        with ExitStack() as stack:
            self.client = stack.enter_context(connected(address, workers, device))
            self._address = self.client.scheduler.address
            tasks = with_needs(tasks)
            self._run = _run(context, tasks, device, folders, deterministic)
            self.workers = Workers(self.client, self._run, self._machines, self._say, self._asked)
            self.workers.wait_for(workers if address is None else 1)
            self._subscribe()
            self.workers.welcome()
            self.in_flight = 0
            """How many stages, and how many of them or of their parts, the scheduler has at once, at most."""
            self._stages, self._room = threading.Semaphore(0), threading.Semaphore(0)
            self._make_room()
            threading.Thread(target=self._listen, name="robbench-events", daemon=True).start()
            self._threads = ThreadPoolExecutor(max(1, len(tasks)), thread_name_prefix="robbench-stage")
            stack.callback(self._threads.shutdown, wait=False, cancel_futures=True)
            self._stack = stack.pop_all()

    def submit(self, task: Task, context: RunContext, fresh: bool) -> Future[Record]:
        """Make a stage on a worker; what it needs is finished. A SchedulerLostError where the scheduler is gone."""

        def make() -> Record:
            try:
                with self._stages:
                    return self._make(task, context, fresh)
            except RobbenchError:
                raise
            except Exception as error:
                if self._connected():
                    raise
                raise SchedulerLostError(f"the scheduler at {self._address} is gone") from error

        return self._threads.submit(make)

    def running(self) -> list[tuple[str, str, float, str]]:
        """Of every stage that runs: its name, the worker's host, the share that is done, and what is said of it."""
        return [(name, *shown) for name, shown in list(self._shows.items()) if shown is not None]

    def close(self) -> None:
        """Stop what runs; a scheduler of one's own ends, another one forgets this run."""
        self._events.put({})
        self.workers.dismiss()
        with suppress(Exception):  # the scheduler may be gone
            self._stack.close()

    # --- stages -------------------------------------------------------------------------------------------------------

    def _make(self, task: Task, context: RunContext, fresh: bool) -> Record:
        needs = finished_needs(task, context)
        if not fresh and (found := finished_stage(task, context)) and suffices(found, context):
            return found.record
        work = Work(task, context, needs)
        if fresh:
            self._drop_states(work)
        done = self._done(work, fresh)
        finished = self._store.unpack(done.key, done.files) if done.files else self._store.finished(done.key)
        assert finished is not None
        self._drop_states(work)
        if done.made:
            context.made.add(done.key)
        return finished.record

    def _drop_states(self, work: Work) -> None:
        for key in _keys(work).values():
            self._store.drop_state(key)

    def _done(self, work: Work, fresh: bool) -> Done:
        """What a worker made of a stage, on another class of machine where no worker of the first one is left."""
        task, state = work.task, f"{self._run.name}-{work.task.digest}"

        def pack() -> Needs:
            if not self.workers.shared:
                self._publish(state, _keys(work).values())
            return self._packed(work.needs)

        while True:
            keys = _keys(work)
            machine = self._machine_for(keys)
            try:
                self._divide(work, keys[machine], machine)
                done: Done = self._on_worker(
                    task.name, machine, "make_stage", task, pack, fresh, state, work.context.tried
                )
                return done
            except ClassGoneError:
                self._say(f"{task.name}: no worker of class {machine} is left, it begins anew on another")
            finally:
                self._withdraw(state)

    def _machine_for(self, keys: Mapping[str, str]) -> str:
        """The class of machine to make a stage on: one where it was begun, or the one with the most workers."""
        count = Counter(facts.machine for facts in self.workers.alive())
        begun = [machine for machine, key in keys.items() if count[machine] and self._store.state_path(key).exists()]
        return begun[0] if begun else max(keys, key=lambda machine: count[machine])

    def _divide(self, work: Work, key: str, machine: str) -> None:
        """Make the parts of a stage that several workers share, and save the state from which it goes on."""
        division, workers = KINDS[work.task.kind].division, len(self.workers.alive())
        if division is None or workers < 2:
            return
        saved = self._store.load_state(key) or {"parts": {}}
        places = division().parts(work)
        if len(places) < 2 or "parts" not in saved:  # else the stage was begun whole, or all parts are joined
            return
        made, lock, pack = saved["parts"], threading.Lock(), partial(self._packed, work.needs)

        def make(place: tuple[int, int]) -> None:
            name = f"{work.task.name} images {place[0]}-{place[1] - 1}"
            done: PartDone = self._on_worker(name, machine, "make_part", work.task, pack, *place)
            with lock:
                made[str(place[0])] = {"state": done.state, "seconds": done.seconds}
                self._store.save_state(key, saved)

        with ThreadPoolExecutor(min(len(places), workers + 1)) as threads:
            list(threads.map(make, [place for place in places if str(place[0]) not in made]))
        parts = [made[str(first)] for first, _ in places]
        seconds = sum((Counter(part["seconds"]) for part in parts), Counter[str]())
        state = joined([part["state"] for part in parts])
        self._store.save_state(key, {**state, "seconds": {name: round(value, 6) for name, value in seconds.items()}})

    def _packed(self, needs: Mapping[str, Finished]) -> Needs:
        """Stages that another one needs, with their files where a worker does not see the store."""
        if self.workers.shared:
            return Needs(needs, None)
        return Needs(needs, {role: self._store.pack(finished.record.key) for role, finished in needs.items()})

    def _on_worker(
        self, name: str, machine: str, function: str, task: Task, pack: Callable[[], Needs], *arguments: Any
    ) -> Any:
        """What a function of :mod:`robbench.cluster.worker` returns on a worker of a class of machine, in a few tries.

        Raises:
            RobbenchError: it failed ``TRIES`` times, or with an error that says that it always will.
            ClassGoneError: no worker of the class was there for ``GONE`` seconds, but others are.
            CancelledError: the scheduler is gone.
        """
        from distributed import KilledWorker

        tried: set[str] = set()

        def make() -> Any:
            with self._room:
                return self._submitted(name, machine, tried, function, task, pack, *arguments)

        for left in reversed(range(TRIES)):
            self._shows[name] = None
            try:
                result = self._asked(make)
            except KilledWorker as error:
                died = f"the workers that made it died, the last one at {error.last_worker.address}"
                raise RobbenchError(f"{name} failed: {died}; look there for memory and logs") from error
            finally:
                self._shows.pop(name, None)
            if not isinstance(result, Failed):
                for path, data in result.beside.items():
                    write_atomically(self._store.folder / path, data)
                return result
            if result.final:
                raise RobbenchError(result.message)
            if left:
                self._say(
                    f"{name} failed on {result.worker} ({result.message}); it is tried again, elsewhere if possible"
                )
            tried.add(result.worker)
        raise RobbenchError(f"{name} failed {TRIES} times, at last on {result.worker}: {result.message}")

    def _submitted(
        self,
        name: str,
        machine: str,
        tried: Collection[str],
        function: str,
        task: Task,
        pack: Callable[[], Needs],
        *arguments: Any,
    ) -> Any:
        """What a function returns on a worker of a class of machine, on one where it was not tried if there is any."""
        from robbench.cluster import worker

        seen = time.monotonic()
        while True:
            others = {each for each in self._alike(machine) if each not in tried} if tried else set()
            future = self.client.submit(
                getattr(worker, function),
                self._run,
                task,
                pack(),
                *arguments,
                key=f"{name}-{uuid.uuid4().hex[:8]}",
                resources=slot(machine),
                workers=[*others] or None,
                pure=False,
            )
            done = threading.Event()
            future.add_done_callback(partial(_set, done))
            while not done.wait(LOOK):
                alike = self._alike(machine)
                seen = time.monotonic() if alike else seen
                if time.monotonic() - seen > GONE and self.workers.alive():
                    future.cancel()
                    raise ClassGoneError
                if others and others.isdisjoint(alike):
                    future.cancel()
                    break
            else:
                if (result := future.result()) is not None:
                    return result
                self.workers.shared = False

    def _alike(self, machine: str) -> list[str]:
        """The addresses of the workers of a class of machine that are there."""
        return [each.address for each in self.workers.alive() if each.machine == machine]

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """What the scheduler answers, asked anew where the connection was lost meanwhile and came back."""
        from distributed.comm.core import CommClosedError

        while True:
            try:
                return ask()
            except (CancelledError, CommClosedError):
                if not self._connected():
                    raise

    def _connected(self) -> bool:
        """Whether the scheduler answers, at once or after a while; then what the workers say is heard as before."""
        while self.client.status == "connecting":  # it may stay so for ever
            self._lost = self._lost or time.monotonic()
            if time.monotonic() - self._lost > LOST:
                return False
            time.sleep(0.1)
        self._lost = 0.0
        if self.client.status == "running" and self.client.scheduler_comm is not self._heard:
            self._subscribe()
            self._events.put({"comes": None})
        return bool(self.client.status == "running")

    def _subscribe(self) -> None:
        self._heard = self.client.scheduler_comm
        self.client.subscribe_topic(self._run.name, lambda event: self._events.put(event[1]))

    # --- state --------------------------------------------------------------------------------------------------------

    def _publish(self, name: str, keys: Iterable[str]) -> None:
        """Give the scheduler the saved states of a stage, if it has none, for workers that do not see the store."""
        from distributed import Variable

        if name in self._states:
            return
        paths = {key: self._store.state_path(key) for key in keys}
        states = {key: path.read_bytes() for key, path in paths.items() if path.exists()}
        self._asked(lambda: Variable(name, client=self.client).set(states))
        self._states.add(name)

    def _withdraw(self, name: str) -> None:
        from distributed import Variable

        if name not in self._states:
            return
        with self._lock:
            self._states.discard(name)
        with suppress(Exception):  # the scheduler may be gone
            Variable(name, client=self.client).delete()

    def _listen(self) -> None:
        """Take the workers' events, until the empty one; dask adds the worker's address to each."""
        takes: dict[str, Callable[[Any], None]] = {
            "saved": self._on_saved,
            "shows": self._on_shows,
            "says": self._say,
            "comes": self._on_comes,
        }
        while event := self._events.get():
            try:
                for kind in takes.keys() & event.keys():
                    takes[kind](event[kind])
            except Exception as error:
                if self.client.status == "running":
                    self._say(f"what a worker sent was not kept: {error}")

    def _on_comes(self, said: Mapping[str, Any] | None) -> None:
        """Take in a worker that says what it is; None: all that came while they could not be heard."""
        if said is None:
            self.workers.look_again()
        else:
            self.workers.comes(said)
        self._make_room()

    def _make_room(self) -> None:
        """Let more stages be in flight where more workers are there than ever before."""
        more = max(IN_FLIGHT, 2 * len(self.workers.alive())) - self.in_flight
        if more > 0:
            self.in_flight += more
            for room in (self._stages, self._room):
                room.release(more)

    def _on_saved(self, name: str) -> None:
        """Keep a state that a worker gave the scheduler."""
        from distributed import Variable

        if name not in self._states:
            return
        with suppress(TimeoutError):  # the stage is finished by now
            states = self._asked(lambda: Variable(name, client=self.client).get(timeout=1))
            with self._lock:
                for key, data in states.items() if name in self._states else ():
                    self._store.keep_state(key, data)

    def _on_shows(self, value: Mapping[str, Any]) -> None:
        if value["name"] in self._shows:
            self._shows[value["name"]] = value["host"], value["share"], value["detail"]


def _keys(work: Work) -> dict[str, str]:
    """The keys of a stage on every class of machine that came."""
    return {each: key_of(work.task, work.context, work.needs, each) for each in work.context.machines}


def _set(event: threading.Event, _: object) -> None:
    event.set()


def _run(context: RunContext, tasks: Sequence[Task], device: str, folders: Iterable[str], deterministic: bool) -> Run:
    from robbench.cluster.worker import versions

    datasets: dict[Dataset, str] = {}
    for task in tasks:
        with suppress(RobbenchError):  # its model's check says so
            datasets.setdefault(task.model.dataset, context.images(task.model.dataset).fingerprint)
    values = [value for task in tasks for value in (task.model, task.spec, KINDS[task.kind].run)]
    return Run(
        name=f"robbench-{uuid.uuid4().hex[:12]}",
        versions=versions(),
        folders=tuple(folders),
        code=tuple(modules_of(*values).items()),
        images=tuple(datasets.items()),
        data=context.data.resolve(),
        store=context.store.folder.resolve(),
        identity=context.store.identity(),
        device=device,
        download=context.download,
        deterministic=deterministic,
        keep_adversarials=context.keep_adversarials,
    )
