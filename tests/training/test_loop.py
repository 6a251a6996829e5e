"""The training loop: what is learnt, counted, timed and kept, and that an interruption changes nothing."""

from __future__ import annotations

import copy
import itertools
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loops import ADVERSARY, Watched, finish, network, problem, recipe, run, same, timeless, trainer
from torch import nn

import robbench.machine.timing
import robbench.training.loop
import robbench.training.updates
from robbench.data import Images
from robbench.machine.generators import generators_at
from robbench.machine.timing import Stopwatch
from robbench.record import Seconds
from robbench.spec import ARD, DARD, MART, PGD, RSLAD, TRADES, DicePGD, EarlyStopping, OneCycle, StepLR
from robbench.training import TrainingData, train
from robbench.training.updates import attacked, validate


@pytest.mark.parametrize("adversarial", [False, True])
def test_the_loop_learns_a_separable_problem(adversarial):
    """Twelve epochs reach at least 95 % of unseen images, and 80 % under attack if trained with one."""
    model = network(dropout=0.0)
    spec = recipe(epochs=12, attack=ADVERSARY if adversarial else None, clip_norm=1.0)
    epochs = train(model, spec, TrainingData(problem(90), problem(60, 1))).epochs
    assert epochs[-1].validation.share >= 0.95
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    clean, robust = validate(model, recipe(attack=ADVERSARY), problem(60, 2), seed=0)
    assert clean.share >= 0.95
    assert robust.share >= (0.8 if adversarial else 0)
    assert all((epoch.robust is not None) == adversarial for epoch in epochs)


@pytest.mark.parametrize("criterion", ["robust", "clean", "last"])
def test_the_network_ends_with_the_kept_epochs_weights(criterion):
    """Its weights are those that the kept epoch had, and the result's validation accuracy is of that epoch."""
    spec = recipe(epochs=6, learning_rate=1.5, attack=ADVERSARY, kept_epoch=criterion)
    model, saved, validation = network(), [], problem(40, seed=3)
    result = run(model, spec, problem(20), validation, seed=4, saved=saved)
    assert (result.best < 6) == (criterion != "last")
    assert same(model.state_dict(), saved[result.best - 1]["weights"])
    assert (
        validate(model, spec, validation, seed=0)[0] == result.validation == result.epochs[result.best - 1].validation
    )
    assert not result.stopped_early


MIXED = [
    recipe(momentum=0.9, weight_decay=1e-3, clip_norm=1.0, schedule=StepLR(step=1, gamma=0.5), epochs=4),
    recipe(optimiser="adam", learning_rate=0.01, attack=ADVERSARY, schedule=OneCycle(), ramp_epochs=1.5, epochs=4),
    recipe(momentum=0.9, statistics="running", attack=ADVERSARY, kept_epoch="last", epochs=4),
    recipe(optimiser="adam", precision="bf16", early_stopping=EarlyStopping(patience=2), epochs=4),
]
SPECS = pytest.mark.parametrize("spec", MIXED, ids=["sgd", "adam-adversarial", "sgd-running", "adam-bf16"])


OBJECTIVES = [TRADES(), MART(), DicePGD(), ARD(), RSLAD(), DARD()]
OTHERS = pytest.mark.parametrize(
    "spec",
    [*(recipe(objective=each, attack=ADVERSARY) for each in OBJECTIVES), recipe(awp=0.005, attack=ADVERSARY)],
    ids=lambda spec: spec.method,
)


class Read:
    """Images that do not lie in memory."""

    def __init__(self, images):
        self.take, self.labels, self.shape, self.fingerprint = images.take, images.labels, images.shape, ""

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        """It stays where it is."""
        return self


class Drawing(nn.Module):
    """Scales images by numbers from every global generator."""

    def forward(self, images):
        """Of the shape of the images."""
        return images * (1 + 0.2 * sum(drawn()))


def drawn():
    """A number of each global generator."""
    return random.random(), np.random.rand(), torch.rand(()).item()


def drawing(seed=0):
    """A network that draws in training and in validation."""
    return nn.Sequential(Drawing(), *network(seed))


@SPECS
def test_the_seed_alone_decides_the_result(spec):
    """One seed gives the same bits wherever the generators stood, and if images are read when they are taken."""
    results = []
    for seed, state, kind in ((1, 5, lambda images: images), (1, 6, Read), (2, 5, Read)):
        model, parts = drawing(), (kind(problem(27)), kind(problem(12, seed=1)))
        with generators_at(state, torch.device("cpu")):
            history = timeless(run(model, spec, *parts, seed=seed, augmentation="crop-flip").epochs)
            after = drawn()
        with generators_at(state, torch.device("cpu")):
            assert drawn() == after  # training moves no generator
        results.append((model.state_dict(), history))
    (first, history), (again, same_history), (other, _) = results
    assert same(first, again)
    assert history == same_history
    assert not same(first, other)


@SPECS
def test_an_interrupted_run_goes_on_bit_for_bit(spec):
    """Saved after any epoch and resumed in a new network, it ends with weights, history and passes of a whole run."""
    whole_model, saved = drawing(), []
    made = trainer(whole_model, spec, seed=3, augmentation="crop-flip")
    while not made.done:
        made.step()
        saved.append(made.state_dict())
    whole = made.result()
    for state in saved:  # no later step has changed it
        model = drawing(seed=77)
        resumed = trainer(model, spec, seed=3, augmentation="crop-flip")
        resumed.load_state_dict(copy.deepcopy(state))
        result = finish(resumed)
        assert same(model.state_dict(), whole_model.state_dict())
        assert timeless(result.epochs) == timeless(whole.epochs)
        assert (result.forward, result.backward) == (whole.forward, whole.backward)
        assert same(resumed.state_dict()["optimiser"], made.state_dict()["optimiser"])


@OTHERS
def test_an_interrupted_run_of_another_objective_goes_on_bit_for_bit(spec):
    """Images as they are, so that a teacher's outputs are computed once, and again in the run that goes on."""
    parents, ended = {"teacher": network(seed=9, dropout=0.0).eval()}, []
    saved = []
    for resumes in (False, True):
        model = drawing()
        made = trainer(model, spec, seed=3, parents=parents)
        if resumes:
            made.load_state_dict(saved[1])
        finish(made, None if resumes else saved)
        ended.append(model.state_dict())
    assert same(*ended)


@OTHERS
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_passes_of_another_objective_are_counted_exactly(spec, precision):
    """Those of the student: of its attack, and for its loss of clean and attacked images."""
    model, parents = Watched(network()), {"teacher": network(seed=9).eval()}
    result = run(model, replace(spec, precision=precision), problem(20), problem(5, 1), parents=parents)
    assert (result.forward, result.backward) == (model.forwards, model.backwards)


@pytest.mark.parametrize("other", [nn.Linear(36, 4), nn.Linear(36, 3, bias=False), network()])
def test_a_state_of_another_network_is_refused(other):
    """The network and its progress stay as they were, so training can start anew."""
    saved, spec = [], recipe(optimiser="adam")
    run(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), spec, saved=saved)
    model = nn.Sequential(nn.Flatten(), other)
    made, before = trainer(model, spec), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^saved state: expected weights"):
        made.load_state_dict(saved[0])
    with pytest.raises(KeyError):
        made.load_state_dict({"weights": before})
    with pytest.raises(ValueError, match=r"^saved state: "):
        made.load_state_dict(
            saved[0] | {"weights": before, "best": before, "optimiser": {"0.exp_avg": torch.zeros(9, 9)}}
        )
    assert same(model.state_dict(), before)
    assert (made.done, made.progress) == (False, (0, 3))


@given(
    st.integers(4, 30),
    st.integers(3, 15),
    st.integers(2, 12),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, 2]),
    st.integers(1, 2),
)
def test_passes_are_counted_exactly(images, checked, batch_size, steps, checks, epochs):
    """Forward and backward are the images that the network saw in training and validation, without the warm-up's."""
    attack = steps and PGD(epsilon=0.1, steps=steps)
    judge = PGD(epsilon=0.1, steps=checks) if attack and checks else None
    spec = recipe(batch_size=batch_size, epochs=epochs, attack=attack, validation_attack=judge)
    model = Watched(network())
    result = run(model, spec, problem(images), problem(checked, 1))
    assert (result.forward, result.backward) == (model.forwards, model.backwards)


@pytest.mark.parametrize(("count", "batch_size", "updates"), [(27, 8, 4), (24, 8, 3), (25, 8, 3), (5, 8, 1)])
def test_every_update_is_announced(count, batch_size, updates):
    """Epochs done and their total, in order, whether the last batch is whole, smaller or joined."""
    announced = []
    made = trainer(
        network(),
        recipe(batch_size=batch_size, epochs=2),
        problem(count),
        on_update=lambda *progress: announced.append(progress),
    )
    finish(made)
    assert announced == [(epoch + update / updates, 2) for epoch in range(2) for update in range(updates)]
    assert made.progress == (2, 2)


def test_validation_counts_images_that_are_right_before_and_under_attack():
    """Clean and robust counts are those of the images one by one, in batches of 256 and across them."""
    model, validation = network(seed=5).eval(), problem(300, seed=6)
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
    """Robust images are right both times: under an attack that swaps two classes, only those of the third are."""
    halves = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():
        halves[1].weight.copy_(torch.tensor([[1.0] * 18 + [0.0] * 18, [0.0] * 18 + [1.0] * 18, [0.5] * 36]))
        halves[1].bias.copy_(torch.tensor([0.0, 0.0, 1.5]))
    drawn = problem(60, seed=6)
    labels = drawn.labels.clone()
    labels[:30][labels[:30] == 0] = 1  # ten images that only the swap puts right
    swap = lambda model, attack, precision, images, *rest, **more: images.flip(2)  # noqa: E731
    monkeypatch.setattr(robbench.training.updates, "attacked", swap)
    clean, robust = validate(halves, recipe(attack=ADVERSARY), Images(drawn.images, labels), seed=0)
    assert (clean.correct, robust.correct) == (50, 20)


def test_validation_attacks_from_random_starts_of_its_seed(monkeypatch):
    """The same starts for the same seed, whatever the global generators do."""
    starts = []

    def noted(model, attack, precision, images, *rest, noise, **more):
        starts.append(noise)
        return images

    monkeypatch.setattr(robbench.training.updates, "attacked", noted)
    for seed in (0, 0, 1):
        validate(network(), recipe(attack=ADVERSARY), problem(20), seed=seed)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_bf16_computes_in_bf16_and_stays_close_to_float32():
    """Forward passes are bfloat16 in updates and attacks, parameters stay float32, and the losses differ by little."""
    losses = {}
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        model = Watched(network(dropout=0.0))
        result = run(model, recipe(precision=precision, attack=ADVERSARY), problem(48), problem(30, 1))
        assert {seen[3] for seen in model.seen} == {dtype}
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        losses[precision] = [epoch.loss for epoch in result.epochs]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bf16"] != losses["float32"]


def test_seconds_go_to_training_validation_and_warm_up(monkeypatch):
    """By a clock whose every block takes a second: three epochs, and one more second of training to set them up."""
    monkeypatch.setattr(robbench.machine.timing, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    monkeypatch.setattr(robbench.machine.timing, "waiting_for_core", dict)
    stopwatch = Stopwatch(torch.device("cpu"))
    result = run(network(), recipe(), stopwatch=stopwatch)
    assert [(epoch.seconds, epoch.validation_seconds) for epoch in result.epochs] == [(1, 1)] * 3
    assert stopwatch.seconds == Seconds(training=4, validation=3, warm_up=1, io=3)


@pytest.mark.parametrize("attack", [None, PGD(epsilon=0.1, steps=1, random_start=False)])
def test_the_warm_up_is_one_more_update_on_a_copy(attack, monkeypatch):
    """It has as many images as another and is attacked if the recipe attacks; the network's own weights stay."""
    made, update, training, model = [], robbench.training.loop.update, problem(16), network()
    before = copy.deepcopy(model.state_dict())

    def spy(used, spec, optimiser, batch, **rest):
        made.append((used is model, batch.attacked.clone(), same(model.state_dict(), before)))
        return update(used, spec, optimiser, batch, **rest)

    monkeypatch.setattr(robbench.training.loop, "update", spy)
    run(model, recipe(attack=attack, epochs=2), training)
    assert [own for own, _, _ in made] == [False, True, True, True, True]
    assert [unchanged for _, _, unchanged in made] == [True, True, False, False, False]
    assert torch.equal(made[0][1], training.images[:8].float() / 255) == (attack is None)
