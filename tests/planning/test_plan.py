"""Counting passes before anything runs: equal to what a real run records, or above it where it may end earlier."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Counting, linear_case
from searches import audit_of
from torch import nn

from robbench import recipes
from robbench.errors import RobbenchError
from robbench.estimation.estimators import estimate_pstar
from robbench.estimation.problem import Outcome
from robbench.planning.plan import lines, of_item, plan
from robbench.planning.work import Speed, Work, audit_work, final_work, retrained_share, search_work
from robbench.spec import (
    PGD,
    TRADES,
    Audit,
    Bounds,
    Dataset,
    Drift,
    EarlyStopping,
    EpsilonGrid,
    Estimate,
    FromScratch,
    Recipe,
    Study,
    Transfers,
    Verifier,
)
from robbench.stages import KINDS, Task, run_stage
from robbench.stages.context import RunContext
from robbench.store.store import Store

STANDARD = Recipe(optimiser="adam", learning_rate=0.01, weight_decay=0, batch_size=8, epochs=2)
ADVERSARIAL = replace(
    STANDARD, attack=PGD(epsilon=0.05, steps=2), validation_attack=PGD(epsilon=0.05, steps=3), epochs=3
)
ESTIMATE = Estimate(
    grid=EpsilonGrid(stop=1.0, step=0.05),
    attack=PGD(steps=2, random_start=False),
    images=30,
    final_test=(
        PGD(epsilon=0.1, steps=1, random_start=False),
        PGD(epsilon=0.1, steps=4, step_size=0.05, random_start=False),
    ),
)
STUDY = Study(
    name="planned",
    source=Dataset(name="glyphs10", train=50, test=20),
    target=Dataset(name="glyphs47", train=60, test=40),
    architectures=("stages:rigid",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    scratch=(FromScratch(recipe=replace(ADVERSARIAL, objective=TRADES(), awp=0.005)),),
    transfers=(Transfers(recipe=STANDARD, k=(1,)),),
    estimate=ESTIMATE,
)
SPEED = Speed(inference=1.0, attack=3.0, update=5.0)


def test_a_run_records_the_passes_that_were_planned(tmp_path):
    """Exactly, of every training; at most, of every search, and no less than half of it here."""
    context = RunContext(store=Store(tmp_path), data=tmp_path, device=torch.device("cpu"))
    for planned in plan(STUDY, tmp_path):
        if planned.stage == "training":
            training = run_stage(Task("training", planned.model), context).training
            assert (planned.work.forward, planned.work.backward) == (training.forward, training.backward)
            assert not planned.bound
        else:
            found = run_stage(Task("robustness", planned.model, ESTIMATE), context).robustness
            images = len(found.images)
            assert images == (20 if planned.model.dataset.name == "glyphs10" else 30)
            search, audit = search_work(ESTIMATE, images), audit_work(ESTIMATE, images)
            final = Work(inference=2 * images, attack=5 * images)
            assert planned.work == search + final + audit
            assert images <= found.forward <= search.forward
            assert found.backward <= search.backward
            assert planned.bound
            assert (found.audit.forward > 0) == (found.clean.correct > 0)
            assert found.audit.forward <= audit.forward
            assert found.audit.backward <= audit.backward


def audit_passes(model, pixels, labels, found, estimate, audit):
    """Forward and backward passes that an audit takes at the network."""
    counting = Counting(model)
    audit_of(counting, pixels, labels, found, estimate.attack, audit, estimate.grid.values)
    return counting.forwards, counting.backwards


def outcome(pstar, work):
    """A search's outcome, for the audit."""
    return Outcome(torch.tensor(pstar), None, work.forward, work.backward, [], 8)


@given(
    st.integers(0, 50),
    st.integers(1, 40),
    st.integers(1, 5),
    st.sampled_from([0.001, 0.05, 0.1, 0.5, 1.0]),
    st.sampled_from([1, 7, 100]),
    st.integers(2, 9),
)
def test_an_audit_takes_at_most_the_passes_that_were_planned(seed, images, steps, share, looked_at, radii):
    """Counted at the network, whatever the audit is to look at, and however small the sample."""
    audit = Audit(images=looked_at, share=share, radii=radii)
    estimate = Estimate(
        grid=EpsilonGrid(stop=0.1, step=0.005), attack=PGD(steps=steps, random_start=False), images=images, audit=audit
    )
    model, pixels, labels, _ = linear_case(seed, count=images)
    found = estimate_pstar(model, pixels, labels, estimate.grid.values, estimate.attack)
    forward, backward = audit_passes(model, pixels, labels, found, estimate, audit)
    planned = audit_work(estimate, images)
    assert forward <= planned.forward
    assert backward <= planned.backward


def test_an_audit_of_many_images_is_planned_exactly():
    """Where every image is right, p* has three quartiles and room to scan on both sides, and the share pays for all."""
    audit = Audit(images=12, share=1.0, radii=4, apgd_images=0)
    estimate = Estimate(
        grid=EpsilonGrid(stop=0.1, step=0.005), attack=PGD(steps=10, random_start=False), images=12, audit=audit
    )
    model, pixels, labels, _ = linear_case(3)
    found = outcome([8, 8, 8, 8, 10, 10, 10, 10, 12, 12, 12, 12], search_work(estimate, 12))
    planned = audit_work(estimate, 12)
    assert (planned.forward, planned.backward) == audit_passes(model, pixels, labels, found, estimate, audit)
    assert planned == Work(inference=12 + 12 * 3 * 2 + 12 * 4, attack=12 + 12 * 4 * 11)


def test_apgd_is_planned_with_all_its_targets():
    """Counted at a network of five classes that it cannot fool, on fewer images than are looked at."""
    audit = Audit(images=12, share=1.0, radii=4, apgd_images=8)
    grid, without = EpsilonGrid(stop=0.1, step=0.005), replace(audit, apgd_images=0)
    estimate = Estimate(grid=grid, attack=PGD(steps=2, random_start=False), images=12, audit=audit)
    _, pixels, _, _ = linear_case(3)
    sure = nn.Sequential(nn.Flatten(), nn.Linear(36, 5, dtype=torch.float64))
    nn.init.zeros_(sure[1].weight)
    with torch.no_grad():
        sure[1].bias.copy_(torch.arange(5))
    found, labels = outcome([8] * 12, search_work(estimate, 12)), torch.full((12,), 4)
    apgd, plain = (audit_passes(sure, pixels, labels, found, estimate, audit) for audit in (audit, without))
    planned = audit_work(estimate, 12), audit_work(replace(estimate, audit=without), 12)
    assert apgd[0] - plain[0] == planned[0].forward - planned[1].forward == 8 * (1 + 3 * 21 + 1)
    assert apgd[1] - plain[1] == planned[0].backward - planned[1].backward == 8 * 3 * 20


def test_square_is_planned_with_all_its_queries():
    """Counted at a network that it cannot fool; without it, or without an audit, nothing is added."""
    audit = Audit(images=6, share=1.0, radii=2, square_queries=5)
    estimate = Estimate(
        grid=EpsilonGrid(stop=0.02, step=0.01), attack=PGD(steps=2, random_start=False), images=6, audit=audit
    )
    model, pixels, labels, _ = linear_case(3, count=6)
    found = outcome([2] * 6, search_work(estimate, 6))
    without, _ = audit_passes(model, pixels, labels, found, estimate, replace(audit, square_queries=0))
    assert audit_passes(model, pixels, labels, found, estimate, audit)[0] - without <= 6 * (5 + 3)
    plain = audit_work(replace(estimate, audit=replace(audit, square_queries=0)), 6)
    assert audit_work(estimate, 6).inference - plain.inference == 6 * (5 + 3)
    assert audit_work(replace(estimate, audit=None), 6) == Work()


def test_passes_of_the_published_recipes():
    """CNN-7's adversarial training: 48,000 images, 300 epochs at most, 40 steps and an update; 12,000 validated."""
    study = Study(
        name="full",
        source="mnist",
        target="emnist",
        architectures=("cnn7",),
        standard=recipes.MNIST_STANDARD,
        adversarial=recipes.MNIST_PGD,
        transfers=(),
        estimate=recipes.MNIST_ESTIMATE,
    )
    stages = {(stage.model.id, stage.stage): stage for stage in plan(study, Path("nowhere"))}
    training = stages["cnn7-mnist-pgd", "training"]
    assert training.work.forward == 300 * (48_000 * 41 + 12_000 * 42)
    assert training.work.backward == 300 * (48_000 * 41 + 12_000 * 40)
    assert training.bound
    published = replace(study.estimate, search="reference")
    assert search_work(published, 10_000) == Work(inference=10_000 * 9, attack=10_000 * 8 * 40)
    assert final_work(study.estimate, 10_000) == Work(inference=60_000, attack=10_000 * 123)
    robustness = stages["cnn7-emnist-pgd", "robustness"]
    assert (training.network[2], robustness.network[2]) == ("tf32", "float32")


def test_another_kind_of_stage_is_planned_as_no_work(tmp_path, monkeypatch):
    """It has its lines in the table, without a time, since nobody knows what it takes."""
    monkeypatch.setitem(KINDS, "weighing", replace(KINDS["training"], name="weighing"))
    stages = plan(STUDY, tmp_path)
    (bounds, *_) = [stage for stage in stages if stage.stage == "weighing"]
    assert (bounds.work, bounds.network) == (Work(), None)
    assert lines(stages, {}, set())[-2].split()[1:] == ["0", "0"]


def test_seconds_follow_from_the_speed(tmp_path):
    """Forward, attack and update each have their own; frozen blocks save part of an update's backward pass."""
    stage = next(stage for stage in plan(STUDY, tmp_path) if stage.model.id.endswith("glyphs10-pgd"))
    work = stage.work
    assert stage.seconds(SPEED) == work.inference * 1.0 + work.attack * 3.0 + work.update * 5.0
    full = replace(STUDY, architectures=("cnn7",))
    assert [round(retrained_share(model), 3) for model in full.models()] == [1, 1, 1, 1, 1, 0.143]


def test_the_table_sums_what_is_left(tmp_path):
    """Stages that the store has are marked and not counted; what early stopping may end is a maximum."""
    patient = replace(STUDY, standard=replace(STANDARD, early_stopping=EarlyStopping()))
    stages = plan(patient, tmp_path)[1:3]
    text = lines(stages, {stages[0].network: SPEED}, {stages[0].name})
    assert text[1].endswith("done")
    assert "done" not in text[2]
    assert ["≤" in line for line in text[1:3]] == [True, False]
    assert text[-1].split()[:6] == ["1", "stages", "to", "run,", "1", "done"]
    assert text[-1].split()[6] == f"{stages[1].work.forward:,}"
    assert text[-1].endswith(" s") or text[-1].endswith("min")


def test_an_item_needs_its_sources(tmp_path):
    """Their trainings, not their estimates."""
    stages = of_item(plan(STUDY, tmp_path), STUDY, "test_training[stages.rigid-glyphs47-TL1]")
    assert [(stage.model.id.partition("-")[2], stage.stage) for stage in stages] == [
        ("glyphs10-pgd", "training"),
        ("glyphs47-TL1", "training"),
        ("glyphs47-TL1", "robustness"),
    ]
    with pytest.raises(RobbenchError, match="unknown model of the suite"):
        of_item(stages, STUDY, "test_training[cnn9]")
    assert of_item(stages, STUDY, "test_training") == stages


def test_bounds_are_planned_by_their_neurons(tmp_path):
    """Every neuron of every image, both ways, and every class, in every round of the search: at most."""
    study = replace(STUDY, architectures=("relu_2_64",), bounds=Bounds(images=10))
    (stage, *_) = (each for each in plan(study, tmp_path) if each.stage == "bounds")
    rounds = 1 + math.ceil(math.log2(22))
    assert stage.work == Work(inference=10 * rounds * 9, rows=10 * rounds * 2 * 64)
    assert stage.bound


def test_a_verifier_is_planned_by_its_limits(tmp_path):
    """All queries of all its images, each to the end: at most, and marked so."""
    verifier = Verifier(images=3, queries=2, seconds=50)
    study = replace(STUDY, architectures=("relu_2_64",), bounds=Bounds(images=10, verifier=verifier))
    stages = plan(study, tmp_path)
    (stage, *_) = (each for each in stages if each.stage == "bounds")
    assert stage.seconds(Speed(inference=0, attack=0, update=0)) == 300
    (line, *_) = (each for each in lines(stages, {stage.network: SPEED}, set()) if stage.name in each)
    assert line.endswith("≤ 14 min")


def test_drift_is_planned_by_its_attack(tmp_path):
    """Clean and attacked features of each image, and the steps between."""
    study = replace(STUDY, drift=Drift(attack=PGD(epsilon=0.1, steps=5), images=4))
    (stage,) = (each for each in plan(study, tmp_path) if each.stage == "drift")
    assert stage.work == Work(inference=8, attack=20)
