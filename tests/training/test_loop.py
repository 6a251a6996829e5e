"""The training loop: what is learnt, counted, timed and kept, and that an interruption changes nothing."""

from __future__ import annotations

import copy
import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import ADVERSARY, Watched, network, problem, recipe, run, same, timeless
from torch import nn

import robbench.machine.timing
import robbench.training.loop
import robbench.training.updates
from robbench.data import Images
from robbench.machine.timing import Stopwatch
from robbench.record import Seconds
from robbench.spec import PGD, EarlyStopping, OneCycle, StepLR
from robbench.training.loop import train
from robbench.training.schedule import kept_epoch
from robbench.training.updates import attacked, validate


@pytest.mark.parametrize("adversarial", [False, True])
def test_the_loop_learns_a_separable_problem(adversarial):
    """Twelve epochs reach at least 95 % of unseen images, and 80 % under attack where trained with one."""
    attack = ADVERSARY if adversarial else None
    model = network(dropout=0.0)
    progress = run(model, recipe(epochs=12, attack=attack, clip_norm=1.0), problem(90), problem(60, 1))
    assert progress.history[-1].validation.share >= 0.95
    assert progress.history[-1].loss < 0.5 * progress.history[0].loss
    clean, robust = validate(model, recipe(attack=ADVERSARY), problem(60, 2), seed=0)
    assert clean.share >= 0.95
    if adversarial:
        assert robust.share >= 0.8
        assert all(epoch.robust.correct <= epoch.validation.correct for epoch in progress.history)
    else:
        assert all(epoch.robust is None for epoch in progress.history)


@pytest.mark.parametrize("criterion", ["robust", "clean", "last"])
def test_the_network_ends_with_the_kept_epochs_weights(criterion):
    """Its weights are those that the kept epoch had, and its validation accuracy the one of that epoch."""
    spec = recipe(epochs=6, learning_rate=1.5, attack=ADVERSARY, kept_epoch=criterion)
    model, weights = network(), []
    validation = problem(40, seed=3)
    progress = run(
        model,
        spec,
        problem(20),
        validation,
        seed=4,
        on_epoch=lambda state: weights.append(copy.deepcopy(state.weights)),
    )
    best = kept_epoch(spec, progress.history)
    assert criterion == "last" or best < 6
    assert same(model.state_dict(), weights[best - 1])
    clean, _ = validate(model, spec, validation, seed=0)
    assert clean == progress.history[best - 1].validation


MIXED = [
    recipe(momentum=0.9, weight_decay=1e-3, clip_norm=1.0, schedule=StepLR(step=1, gamma=0.5), epochs=4),
    recipe(optimiser="adam", learning_rate=0.01, attack=ADVERSARY, schedule=OneCycle(), ramp_epochs=1.5, epochs=4),
    recipe(momentum=0.9, statistics="running", attack=ADVERSARY, kept_epoch="last", epochs=4),
    recipe(optimiser="adam", precision="bf16", early_stopping=EarlyStopping(patience=2), epochs=4),
]


@pytest.mark.parametrize("spec", MIXED, ids=["sgd", "adam-adversarial", "sgd-running", "adam-bf16"])
def test_the_seed_alone_decides_the_result(spec):
    """Bit for bit the same weights and history for a seed, whatever the global generators, and others for another."""
    results = []
    for seed, state in ((1, 5), (1, 6), (2, 5)):
        model = network()
        torch.manual_seed(state)
        history = timeless(run(model, spec, seed=seed, augmentation="crop-flip").history)
        results.append((model.state_dict(), history))
    (first, history), (again, same_history), (other, _) = results
    assert same(first, again)
    assert history == same_history
    assert not same(first, other)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
@pytest.mark.parametrize("spec", MIXED, ids=["sgd", "adam-adversarial", "sgd-running", "adam-bf16"])
def test_an_interrupted_run_goes_on_bit_for_bit(spec, stop_after):
    """Killed after any epoch and resumed in a new network, weights, history and passes are those of a whole run."""
    whole_model = network()
    whole = run(whole_model, spec, seed=3, augmentation="crop-flip")

    class Killed(BaseException):
        pass

    saved = []

    def kill(state):
        if len(state.history) == stop_after:
            saved.append(copy.deepcopy(state))
            raise Killed

    if stop_after <= len(whole.history):
        with pytest.raises(Killed):
            run(network(), spec, seed=3, augmentation="crop-flip", on_epoch=kill)
        model = network(seed=77)
        resumed = run(model, spec, seed=3, augmentation="crop-flip", progress=copy.deepcopy(saved[0]))
        assert same(model.state_dict(), whole_model.state_dict())
        assert timeless(resumed.history) == timeless(whole.history)
        assert timeless(resumed.history)[:stop_after] == timeless(saved[0].history)
        assert (resumed.forward, resumed.backward) == (whole.forward, whole.backward)
        assert same(resumed.optimiser, whole.optimiser)


def test_global_generators_are_left_alone():
    """Training with augmentation, dropout and random starts does not move torch's, numpy's or Python's generator."""
    torch.manual_seed(1)
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    run(network(), recipe(attack=ADVERSARY, epochs=1), augmentation="crop-flip")
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(4, 30),
    st.integers(3, 15),
    st.integers(2, 12),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, 2]),
    st.integers(1, 2),
)
def test_passes_are_counted_exactly(images, checked, batch_size, steps, checks, epochs):
    """Forward and backward are the images that the network saw in training and validation; the warm-up's are not."""
    attack = steps and PGD(epsilon=0.1, steps=steps)
    spec = recipe(
        batch_size=batch_size,
        epochs=epochs,
        attack=attack,
        validation_attack=PGD(epsilon=0.1, steps=checks) if attack and checks else None,
    )
    model = Watched(network())
    progress = run(model, spec, problem(images), problem(checked, 1))
    assert (progress.forward, progress.backward) == (model.forwards, model.backwards)


@pytest.mark.parametrize(("count", "batch_size", "updates"), [(27, 8, 4), (24, 8, 3), (25, 8, 3), (5, 8, 1)])
def test_every_update_is_announced(count, batch_size, updates):
    """Epoch, update and updates per epoch, in order, whether the last batch is whole, smaller or joined."""
    announced = []
    run(
        network(),
        recipe(batch_size=batch_size, epochs=2),
        problem(count),
        on_update=lambda *numbers: announced.append(numbers),
    )
    assert announced == [(epoch, update, updates) for epoch in (1, 2) for update in range(1, updates + 1)]


def test_validation_counts_images_that_are_right_before_and_under_attack():
    """Clean and robust counts are those of the images one by one, in batches of 256 and across them."""
    model = network(seed=5).eval()
    validation = problem(300, seed=6)
    fixed = PGD(epsilon=0.05, steps=3, random_start=False)
    clean, robust = validate(model, recipe(attack=ADVERSARY, validation_attack=fixed), validation, seed=0)
    images = validation.images.float() / 255
    right = model(images).argmax(1) == validation.labels
    adversarial = attacked(model, fixed, "float32", images, validation.labels, None)
    still = right & (model(adversarial).argmax(1) == validation.labels)
    assert (clean.correct, clean.total) == (right.sum().item(), 300)
    assert (robust.correct, robust.total) == (still.sum().item(), 300)
    assert 0 < robust.correct < clean.correct
    assert validate(model, recipe(), validation, seed=0) == (clean, None)


def test_an_image_that_only_the_attack_puts_right_is_not_robust(monkeypatch):
    """Robust are the images right both times: of an attack that swaps two classes, only those of the third."""
    halves = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():
        halves[1].weight.copy_(torch.tensor([[1.0] * 18 + [0.0] * 18, [0.0] * 18 + [1.0] * 18, [0.5] * 36]))
        halves[1].bias.copy_(torch.tensor([0.0, 0.0, 1.5]))
    drawn = problem(60, seed=6)
    labels = drawn.labels.clone()
    labels[:30][labels[:30] == 0] = 1  # ten images that only the swap puts right
    monkeypatch.setattr(
        robbench.training.updates, "attacked", lambda model, attack, precision, images, *rest, **more: images.flip(2)
    )
    clean, robust = validate(halves, recipe(attack=ADVERSARY), Images(drawn.images, labels), seed=0)
    assert (clean.correct, robust.correct) == (50, 20)


def test_the_validation_attack_is_a_function_of_its_seed():
    """The random start of validation repeats for a seed, so that two runs judge their epochs alike."""
    model, validation = network(seed=5), problem(60, seed=6)
    spec = recipe(attack=PGD(epsilon=0.08, steps=1))
    results = [validate(model, spec, validation, seed=seed)[1].correct for seed in (0, 0, 1, 2, 3, 4)]
    assert results[0] == results[1]
    assert len(set(results)) > 1


def test_bf16_computes_in_bf16_and_stays_close_to_float32():
    """Forward passes are bfloat16 in updates and attacks, parameters stay float32, and the losses differ by little."""
    losses = {}
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        model = Watched(network(dropout=0.0))
        progress = run(model, recipe(precision=precision, attack=ADVERSARY), problem(48), problem(30, 1))
        assert {seen[3] for seen in model.seen} == {dtype}
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        losses[precision] = [epoch.loss for epoch in progress.history]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bf16"] != losses["float32"]


def test_seconds_go_to_training_validation_and_warm_up(monkeypatch):
    """By a clock whose every block takes a second: three epochs, and one more of training for what precedes them."""
    ticks = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(robbench.machine.timing, "time", ticks)
    monkeypatch.setattr(robbench.machine.timing, "waiting_for_core", dict)
    stopwatch = Stopwatch(torch.device("cpu"))
    progress = train(network(), recipe(), problem(27), problem(12), stopwatch=stopwatch)
    assert [epoch.seconds for epoch in progress.history] == [1, 1, 1]
    assert [epoch.validation_seconds for epoch in progress.history] == [1, 1, 1]
    assert stopwatch.seconds == Seconds(training=4, validation=3, warm_up=1, io=3)


def test_one_update_more_than_announced_is_made_for_the_warm_up(monkeypatch):
    """On a copy, with as many images and, where the recipe attacks, attacked ones."""
    made, update = [], robbench.training.loop.update

    def spy(model, spec, optimiser, images, *rest):
        made.append((model, images.clone()))
        return update(model, spec, optimiser, images, *rest)

    monkeypatch.setattr(robbench.training.loop, "update", spy)
    training, model = problem(16), network()
    for attack in (None, PGD(epsilon=0.1, steps=1, random_start=False)):
        made.clear()
        run(model, recipe(attack=attack, epochs=2), training)
        assert [used is model for used, _ in made] == [False, True, True, True, True]
        plain = training.images[:8].float() / 255
        assert torch.equal(made[0][1], plain) == (attack is None)
        assert made[0][1].shape == plain.shape


def test_a_checkpoint_is_not_changed_by_later_updates():
    """What was handed out after an epoch stays what it was while training goes on."""
    handed = []

    def keep(state):
        parts = (state.weights, state.best, state.optimiser)
        handed.append((parts, copy.deepcopy(parts)))

    run(network(), recipe(momentum=0.9, weight_decay=1e-3), on_epoch=keep)
    assert len(handed) == 3
    for parts, copies in handed:
        assert all(same(part, copied) for part, copied in zip(parts, copies, strict=True))
        assert all(parts)


def test_the_warm_up_changes_nothing():
    """The weights before the first update are the network's own, although one was made and discarded."""
    model, seen = network(), []
    before = copy.deepcopy(model.state_dict())
    run(
        model,
        recipe(epochs=1, attack=ADVERSARY),
        on_update=lambda *numbers: seen.append(copy.deepcopy(model.state_dict())),
    )
    assert same(seen[0], before)
    assert not same(seen[1], before)
