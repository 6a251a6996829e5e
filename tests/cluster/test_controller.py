"""Stages on a scheduler's workers: what comes back, what is kept on the way, and when a stage fails."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from distributed import LocalCluster, Status, Worker, get_worker
from line import Line
from stages import comparable

import robbench.stages.training_stage
from robbench.cluster import controller
from robbench.cluster.controller import Cluster
from robbench.errors import RobbenchError
from robbench.spec import Bounded, Bounds
from robbench.stages import Task, bounds_stage, run_graph
from robbench.stages.graph import Graph, finished_records
from robbench.store import Store
from robbench.store.files import write_atomically
from robbench.training import Trainer


@pytest.fixture
def apart(monkeypatch):
    """No worker sees the controller's store."""
    monkeypatch.setattr(Store, "identity", lambda store: "seen by nobody")


@pytest.fixture
def tries(monkeypatch):
    """Let training fail with an error; returns the threads in which it was tried, one a worker."""

    def fail_with(error):
        tried = []

        def train(work):
            tried.append(threading.current_thread().name)
            raise error

        monkeypatch.setattr(robbench.stages.training_stage, "train_model", train)
        return tried

    return fail_with


def test_what_workers_make_comes_to_the_controllers_store(connect, context, estimated, apart, monkeypatch):
    """Records, weights and what a verifier got wrong, although no worker sees it; a second run takes all from there."""
    train = robbench.stages.training_stage.train_model

    def train_and_keep(work):
        write_atomically(work.context.store.folder / "verifier" / work.task.model.id / "image3.txt", b"sat")
        return train(work)

    monkeypatch.setattr(robbench.stages.training_stage, "train_model", train_and_keep)
    cluster = connect([estimated])
    records = run_graph([estimated], context, cluster)
    assert len(records) == len(context.made) == 2
    assert finished_records([*records], context).keys() == records.keys()
    training = context.store.finished(records[estimated.needs["model"]].key)
    assert context.store.weights(training)
    assert (context.store.folder / "verifier" / estimated.model.id / "image3.txt").read_text() == "sat"
    context.made.clear()
    assert run_graph([estimated], context, cluster) == records
    assert context.made == set()


def test_a_saved_state_comes_to_the_controllers_store_at_once(connect, context, task, apart, monkeypatch):
    """After every epoch; when the stage is finished, nothing of it is left."""
    kept, keep = [], Store.keep_state
    monkeypatch.setattr(Store, "keep_state", lambda store, *state: [kept.append(store.folder), keep(store, *state)])
    record = run_graph([task], context, connect())[task]
    assert context.store.folder in kept
    assert context.store.load_state(record.key) is None


def test_a_stage_goes_on_from_the_state_that_the_controller_has(connect, context, task, apart, monkeypatch):
    """Saved by a run that ended before its end: only what is left is made."""
    states, keep = [], Store.keep_state
    monkeypatch.setattr(Store, "keep_state", lambda store, *state: [states.append(state), keep(store, *state)])
    expected = run_graph([task], context, connect())[task]
    shutil.rmtree(context.store.folder)
    context.store.keep_state(*states[0])
    epochs, step = [], Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda trainer: [epochs.append(1), step(trainer)])
    assert run_graph([task], context, connect())[task].training.validation == expected.training.validation
    assert len(epochs) == 1


def test_bounds_that_workers_share_are_those_of_one_process(connect, context, estimated, apart, monkeypatch):
    """Image by image, in a record with the same key and digest."""
    monkeypatch.setattr(bounds_stage, "PART", 2)
    monkeypatch.setattr("robbench.bounds.search.IMAGES", 2)
    parts, bound = [], bounds_stage.bound_part
    monkeypatch.setattr(bounds_stage, "bound_part", lambda *args: [parts.append(args[1:]), bound(*args)][1])
    model = estimated.model
    model = replace(model, architecture="relu_2_64", recipe=replace(model.recipe, epochs=10))
    task = Task("bounds", model, Bounded(bounds=Bounds(images=12), estimate=replace(estimated.spec, images=12)))
    expected = run_graph([task], replace(context, store=Store(context.store.folder / "alone")))[task]
    found = run_graph([task], context, connect([task]))[task]
    assert len(parts) > 1
    assert comparable(found) == comparable(expected)


def test_bad_input_is_told_at_once_and_with_its_reason(connect, context, task, tries):
    """It would be the same everywhere."""
    tried = tries(RobbenchError("loss: expected finite values, got nan"))
    with pytest.raises(RobbenchError, match=r"^loss: expected finite values, got nan$"):
        run_graph([task], context, connect())
    assert len(tried) == 1


def test_a_stage_that_fails_on_three_workers_fails(connect, context, task, tries):
    """Each another one."""
    tried = tries(OSError("no space left on device"))
    with pytest.raises(RobbenchError, match=r"training failed 3 times, at last on \S+: OSError: no space left"):
        run_graph([task], context, connect())
    assert len(tried) == len(set(tried)) == 3


class Machines:
    """Workers that join a scheduler one by one, and leave it."""

    def __init__(self, local):
        self._local, self.scheduler, self.workers = local, local.scheduler, []

    def join(self, threads=1):
        """A new worker. Without a limit of its memory: it would not stay paused."""

        async def worker():
            return await Worker(self.scheduler.address, nthreads=threads, memory_limit=0)

        self.workers.append(self._local.sync(worker))
        return self.workers[-1]

    def pause(self, worker):
        """Let it take no more stages."""
        worker.loop.add_callback(setattr, worker, "status", Status.paused)
        while self.scheduler.workers[worker.address].status is not Status.paused:
            time.sleep(0.01)

    def leave(self, worker):
        """Close it."""
        self._local.sync(worker.close)

    def wait_for_unrunnable(self, count):
        """Wait until so many stages wait for a worker."""
        while len(self.scheduler.unrunnable) < count:
            time.sleep(0.01)


@pytest.fixture
def machines():
    """Of a scheduler that begins without any."""
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as local:
        machines = Machines(local)
        yield machines
        for worker in machines.workers:
            machines.leave(worker)


@pytest.fixture
def begin(machines, context):
    """Connect a controller to that scheduler, until the end of the test."""
    with ExitStack() as stack:

        def begin(tasks, context=context):
            cluster = Cluster(machines.scheduler.address, 1, "cpu", context=context, tasks=tasks, folders=())
            return stack.enter_context(closing(cluster))

        yield begin


def test_a_stage_that_waits_for_a_worker_that_leaves_is_made_by_another(machines, begin, context, task, monkeypatch):
    """It failed on one, and was meant for the other, which left before it began."""
    monkeypatch.setattr(controller, "LOOK", 0.1)
    workers, tried = [machines.join(), machines.join()], []

    def train(work):
        tried.append(get_worker())
        if len(tried) == 2:
            raise RobbenchError("tried again")
        for other in {*workers} - {*tried}:
            machines.pause(other)
        raise OSError("no space left on device")

    monkeypatch.setattr(robbench.stages.training_stage, "train_model", train)
    graph = Graph(context, begin([task]))
    graph.start([task])
    while not any(each.worker_restrictions for each in [*machines.scheduler.tasks.values()]):
        time.sleep(0.05)
    for other in {*workers} - {*tried}:
        machines.leave(other)
    with pytest.raises(RobbenchError, match=r"^tried again$"):
        graph.futures[task].result(60)
    assert tried[0] is tried[1]


def test_a_stage_whose_class_of_machine_is_gone_is_begun_by_another(machines, begin, context, task, tries, monkeypatch):
    """After a while; a class that comes later takes nothing that waits for the first one."""
    monkeypatch.setattr(controller, "LOOK", 0.1)
    monkeypatch.setattr(controller, "GONE", 1.0)
    tries(RobbenchError("begun"))
    said = []
    context = replace(context, announce=said.append)
    first = machines.join()
    graph = Graph(context, begin([task], context))
    machines.pause(first)
    graph.start([task])
    machines.wait_for_unrunnable(1)
    machines.join(threads=2)
    while len(context.machines) < 2:
        time.sleep(0.05)
    assert machines.scheduler.unrunnable
    machines.leave(first)
    with pytest.raises(RobbenchError, match=r"^begun$"):
        graph.futures[task].result(60)
    assert any(each.startswith(f"worker {first.address} on ") and "is gone" in each for each in said)


def test_a_run_says_that_it_waits_for_its_first_worker(machines, begin, context, task, monkeypatch):
    """And takes the one that comes."""
    monkeypatch.setattr("robbench.cluster.workers.PATIENCE", 0.1)
    said = []

    def announce(text):
        said.append(text)
        if text.startswith("waiting for a worker at "):
            threading.Thread(target=machines.join).start()

    cluster = begin([task], replace(context, announce=announce))
    assert said[-1] == f"waiting for a worker at {machines.scheduler.address}"
    assert len(cluster.workers.alive()) == 1


def test_a_worker_that_comes_later_to_a_gpu_that_is_taken_gets_no_stage(machines, begin, context, task, monkeypatch):
    """One with a GPU of its own does, and stages wait for both that have one."""
    said, gpus = [], iter("001")
    monkeypatch.setattr("robbench.cluster.worker._gpu", lambda context: next(gpus))
    monkeypatch.setattr(controller, "IN_FLIGHT", 0)
    context = replace(context, announce=said.append)
    first = machines.join()
    cluster = begin([task], context)
    said.clear()
    late = []
    for number in (1, 2):
        late.append(machines.join())
        while len(said) < number:
            time.sleep(0.05)
    assert "expected a GPU for each, got one for both" in said[0]
    assert said[1].endswith("joins")
    slots = [worker.state.total_resources.get("robbench") for worker in (first, *late)]
    assert slots == [1, None, 1]
    while cluster.in_flight < 4:
        time.sleep(0.05)


def test_a_worker_that_came_while_the_controller_could_not_hear_gets_stages(machines, begin, context, task):
    """The controller asks who is there, once it is connected again."""
    machines.join()
    cluster = begin([task])
    cluster.client.unsubscribe_topic(cluster._run.name)
    late = machines.join()
    cluster._heard = None
    assert cluster._connected()
    while "robbench" not in late.state.total_resources:
        time.sleep(0.05)


def test_a_worker_that_comes_later_need_not_see_the_store(machines, begin, context, estimated, monkeypatch):
    """It gets files and states, although all that were there before saw the store."""
    first = machines.join()
    cluster = begin([estimated])
    training = estimated.needs["model"]
    run_graph([training], context, cluster)
    machines.pause(first)
    graph = Graph(context, cluster)
    graph.start([estimated, Task("training", replace(training.model, seed=1))])
    machines.wait_for_unrunnable(2)
    monkeypatch.setattr("robbench.cluster.worker.shared", lambda run: False)
    machines.join()
    assert all(future.result(60).key for future in graph.futures.values())


def test_a_stage_ends_when_its_run_does(connect, context, task, monkeypatch):
    """Its worker is free for the next run, however long the stage would have taken."""
    ended = threading.Event()

    def train(work):
        try:
            while True:
                work.context.show("training", 0, 1)
                time.sleep(0.01)
        except RobbenchError:
            ended.set()
            raise

    monkeypatch.setattr(robbench.stages.training_stage, "train_model", train)
    cluster = connect()
    Graph(context, cluster).start([task])
    while not cluster.running():
        time.sleep(0.05)
    assert [name for name, *_ in cluster.running()] == [task.name]
    assert not ended.is_set()
    cluster.close()
    assert ended.wait(30)


@pytest.mark.parametrize("dropped", [False, True], ids=["stalled", "dropped"])
def test_a_run_goes_on_after_its_network_was_cut(context, task, monkeypatch, dropped):
    """What waits arrives; or the controller connects anew, and a new worker goes on from the last saved epoch."""
    expected = run_graph([task], replace(context, store=Store(context.store.folder / "alone")))[task]
    steps, step, begun, over = [], Trainer.step, threading.Event(), threading.Event()

    def stop_in_the_second(trainer):
        if len(steps) == 1 and not over.is_set():
            begun.set()
            over.wait()
            if dropped:
                raise OSError("a worker that is cut off ends")
        steps.append(step(trainer))

    monkeypatch.setattr(Trainer, "step", stop_in_the_second)
    with LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0") as local:
        line = Line(local.scheduler_address)

        async def join():
            return await Worker(line.address, nthreads=1)

        workers = [local.sync(join)]
        with closing(Cluster(line.address, 1, "cpu", context=context, tasks=[task], folders=())) as cluster:
            graph = Graph(context, cluster)
            graph.start([task])
            assert begun.wait(60)
            line.cut(1.0, dropped=dropped)
            over.set()
            if dropped:
                while not local.scheduler.unrunnable:  # the stage waits for a worker
                    time.sleep(0.05)
                workers.append(local.sync(join))
            record = graph.futures[task].result(120)
        for worker in workers:
            local.sync(worker.close)
        line.close()
    assert len(steps) == 2
    assert comparable(record) == comparable(expected)


def test_a_fresh_stage_goes_on_from_what_it_was_in_this_run(connect, context, task, apart, monkeypatch):
    """A finished one is made again, from the beginning, but not from the beginning for each worker that is lost."""
    run_graph([task], context, connect())
    fresh = replace(context, fresh=True)
    packed = []
    monkeypatch.setattr(Store, "drop_state", lambda store, key: packed.append(store.folder))
    run_graph([task], fresh, connect())
    assert set(packed) == {context.store.folder}


def test_a_run_for_gpus_is_refused_where_the_workers_have_none(connect, monkeypatch):
    """Before anything is trained."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RobbenchError, match=r"^worker \S+ on \S+: device: expected a CUDA device"):
        connect(device="cuda")
