"""The graph of stages: what is made, in which order, what is reused, and by which executor."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from typing import ClassVar

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages import ESTIMATE, FOOLING, comparable, estimate, source, target, train, write_images

import robbench.spec.model
import robbench.stages.work
from robbench.errors import RobbenchError
from robbench.spec import PGD, Dataset, EpsilonGrid, Model, Objective, OneCycle, Recipe, Study, Transfers
from robbench.stages import InProcess, Task, run_graph, tasks_of
from robbench.stages.graph import Graph, finished_records, with_needs
from robbench.stages.work import run_task
from robbench.training import Loss, loss_function

RECIPE = Recipe(optimiser="adam", learning_rate=0.01, weight_decay=0.0, batch_size=16, epochs=1, schedule=OneCycle())


def test_every_stage_is_made_once_after_what_it_needs(new_run, made):
    """A transfer's p* needs its training, and that its source's; a second request takes all from the store."""
    context = new_run()
    first = [estimate(model, context) for model in (target(1), source(), target(2))]
    assert made == ["training", "training", "robustness", "robustness", "training", "robustness"]
    assert [estimate(model, new_run()) for model in (target(1), source(), target(2))] == first
    assert len(made) == 6


def test_a_fresh_run_makes_what_is_asked_for_again_once(new_run, made):
    """What that needs comes from the store; a second request in the same run is no second time."""
    estimate(source(), new_run())
    made.clear()
    context = new_run(fresh=True)
    for _ in range(2):
        estimate(source(), context)
    assert made == ["robustness"]
    train(source(), context)
    assert made == ["robustness", "training"]


def test_another_estimate_of_a_model_is_another_stage(new_run, made):
    """A finer grid is estimated anew, with the model that is there."""
    estimate(source(), new_run())
    record = estimate(source(), new_run(), replace(ESTIMATE, grid=EpsilonGrid(stop=0.3, step=0.01)))
    assert made == ["training", "robustness", "robustness"]
    assert len(record.robustness.grid) == 31


def test_changed_images_of_a_source_give_all_that_follows_another_key(new_run, made):
    """A data file that was overwritten is not what the stored model learnt: source, transfer and p* are made again."""
    before = estimate(target(), new_run())
    context = new_run()
    write_images(context.data, "near", seed=9)
    after = estimate(target(), context)
    assert made == ["training", "training", "robustness"] * 2
    assert (before.digest, before.data.sha256) == (after.digest, after.data.sha256)
    assert before.key != after.key


class Likeness(Objective):
    """The distance from a teacher's logits."""

    parents: ClassVar = ("teacher",)


@loss_function.register
def _(objective: Likeness, student, parents):
    def loss(batch):
        logits = student(batch.clean)
        return (logits - batch.reference).square().mean(), logits

    return Loss(loss, reference=parents["teacher"])


def test_a_teacher_is_trained_before_its_student(new_run, made):
    """The graph makes it, the student's loss gets it, and a model without it is refused."""
    recipe = replace(RECIPE, objective=Likeness())
    student = Model(architecture="own_networks:narrow", dataset=Dataset(name="near"), recipe=recipe, teacher=source())
    record = train(student, new_run())
    assert made == ["training", "training"]
    assert record.training.epochs[0].loss > 0
    with pytest.raises(RobbenchError, match="Model teacher: expected the model that the recipe's objective needs"):
        replace(student, teacher=None)


def test_other_weights_of_a_source_give_all_that_follows_another_key(new_run, made, monkeypatch):
    """A source that came out otherwise under its own key, as on a GPU, leaves nothing that was made from the old one."""
    context = new_run()
    estimate(target(), context)
    record = train(source(), context)
    context.store.finish(
        record.key,
        record,
        {name: value + 1 for name, value in context.store.weights(context.store.finished(record.key)).items()},
    )
    made.clear()
    estimate(target(), new_run())
    assert made == ["training", "robustness"]


@pytest.mark.parametrize("what", ["machine", "torch", "meaning"])
def test_what_may_change_the_bits_gives_another_key(new_run, made, monkeypatch, what):
    """Another class of machine, another torch, another meaning of a stage."""
    train(source(), new_run())
    if what == "machine":
        here = robbench.stages.work.environment(torch.device("cpu"))
        elsewhere = msgspec.structs.replace(here, slug="elsewhere")
        monkeypatch.setattr(robbench.stages.work, "environment", lambda device: elsewhere)
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "1.0")
    else:
        monkeypatch.setattr(robbench.spec.model, "TRAINING_VERSION", 2)
    train(source(), new_run())
    assert made == ["training"] * 2


def test_a_stage_without_counterexamples_is_not_enough_for_a_run_that_keeps_them(new_run, made):
    """It is made again with them; with them it is enough for both."""
    for keep in (False, True, False):
        record = estimate(source(), new_run(keep_adversarials=keep), FOOLING)
    assert made == ["training", "robustness", "robustness"]
    assert new_run().store.adversarials(record.key) is not None


def test_a_store_that_vanishes_is_made_again(new_run):
    """Between two stages of a run: the model is trained once more, to the same p*."""
    import shutil

    context = new_run()
    expected = estimate(source(), context)
    shutil.rmtree(context.store.folder)
    assert comparable(estimate(source(), context)) == comparable(expected)


STUDY = Study(
    name="demo",
    source="near",
    target="far",
    architectures=("own_networks:small",),
    standard=RECIPE,
    adversarial=replace(RECIPE, attack=PGD(epsilon=0.1, steps=1)),
    transfers=(Transfers(recipe=RECIPE, k=(1, 2)),),
    estimate=ESTIMATE,
)


def test_a_studys_tasks_are_its_trainings_and_then_its_estimates():
    """Each after the tasks that it needs."""
    tasks = tasks_of(STUDY)
    assert [task.kind for task in tasks] == ["training"] * 6 + ["robustness"] * 6
    assert tasks == with_needs(tasks)
    assert all(tasks.index(need) < number for number, task in enumerate(tasks) for need in task.needs.values())


@given(st.permutations(range(12)))
def test_the_order_of_a_request_changes_no_needs(order):
    """Whatever is asked for first comes after what it needs."""
    tasks = tasks_of(STUDY)
    found = with_needs(tasks[number] for number in order)
    assert set(found) == set(tasks)
    assert all(found.index(need) < number for number, task in enumerate(found) for need in task.needs.values())


def test_the_store_knows_which_stages_of_a_study_are_finished(new_run):
    """By the keys that they have now: p* of a model whose source is missing has none."""
    context = new_run()
    tasks = tasks_of(STUDY)
    wanted = [task for task in tasks if task.model.transfer is not None and task.model.transfer.k == 1]
    run_graph(wanted, context)
    assert finished_records(tasks, context).keys() == set(with_needs(wanted))


class Counting(InProcess):
    """An executor of one's own."""

    def __init__(self):
        self.names = []

    def submit(self, task, context, fresh):
        """Remembers what it ran."""
        self.names.append(task.name)
        return super().submit(task, context, fresh)


def test_an_executor_of_ones_own_gets_every_task_once(new_run):
    """A task at a time, each when its needs are finished."""
    executor, tasks = Counting(), tasks_of(STUDY)
    records = run_graph(tasks, new_run(), executor)
    assert sorted(executor.names) == sorted(task.name for task in tasks)
    assert records.keys() == set(tasks)


GLYPHS = Model(
    architecture="relu_4_1024",
    dataset=Dataset(name="glyphs10", train=60, test=12),
    recipe=replace(RECIPE, batch_size=32),
)


class Pool:
    """Makes stages in the processes of a pool."""

    def __init__(self, pool):
        self._pool = pool

    def submit(self, task, context, fresh):
        """Pickles task and context."""
        return self._pool.submit(run_task, task, context, fresh)


def test_what_needs_a_failed_stage_fails_with_its_reason(new_run):
    """And nothing else does: the others are made, whatever their order."""

    class Failing(InProcess):
        def submit(self, task, context, fresh):
            if task.model != bad:
                return super().submit(task, context, fresh)
            future = Future()
            future.set_exception(RobbenchError("loss: expected finite values, got nan"))
            return future

    bad, context = source(), new_run()
    graph = Graph(context, Failing())
    wanted = [Task("robustness", target(), ESTIMATE), Task("training", replace(bad, seed=1))]
    graph.start(wanted)
    assert graph.futures[wanted[1]].result().case == replace(bad, seed=1).id
    with pytest.raises(
        RobbenchError, match=f"^{bad.id}.training failed before: loss: expected finite values, got nan$"
    ):
        graph.futures[wanted[0]].result()


def test_a_pool_of_two_processes_makes_the_same(new_run):
    """Tasks and context are pickled; records and weights are those of one process."""
    import multiprocessing

    tasks = [Task("robustness", replace(GLYPHS, seed=seed), replace(ESTIMATE, images=4)) for seed in (0, 1)]
    alone = new_run("alone")
    expected = run_graph(tasks, alone)
    threads = {"initializer": torch.set_num_threads, "initargs": (torch.get_num_threads(),)}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), **threads) as pool:
        found = run_graph(tasks, new_run("pool"), Pool(pool))
    assert {task: comparable(record) for task, record in found.items()} == {
        task: comparable(record) for task, record in expected.items()
    }
