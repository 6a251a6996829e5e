"""The training loop: what an update does, what is counted and kept, and that an interruption changes nothing."""

from __future__ import annotations

import copy
import itertools
import random
import re
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import robbench.graphs
import robbench.timing
import robbench.training
from robbench.data import Images
from robbench.errors import RobbenchError
from robbench.record import Counts, Seconds
from robbench.schedule import kept_epoch
from robbench.spec import PGD, EarlyStopping, MultiStepLR, OneCycle, Recipe, StepLR
from robbench.timing import Stopwatch
from robbench.training import attacked, train, validate

ADVERSARY = PGD(epsilon=0.1, step_size=0.06, steps=2)


def recipe(**changes):
    """Three epochs of plain SGD, without momentum, weight decay and clipping."""
    plain = {"optimiser": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None}
    return Recipe(**(plain | {"batch_size": 8, "epochs": 3} | changes))


def problem(count, seed=0):
    """Separable 6×6 images: class 0 is bright in the upper half, class 1 in the lower, class 2 nowhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 90, (count, 1, 6, 6), generator=generator)
    images[labels == 0, :, :3] += 120
    images[labels == 1, :, 3:] += 120
    return Images(images.to(torch.uint8), labels)


def network(seed=0, dropout=0.3):
    """Convolution, batch norm, ReLU, dropout and a linear layer; seeded, channels last as in the pipeline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(4, 5, 2), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(45, 3)).to(memory_format=torch.channels_last)


def run(model, spec, training=None, validation=None, **options):
    """Train on the toy problem."""
    training, validation = training or problem(27), validation or problem(12, seed=1)
    return train(model, spec, training, validation, stopwatch=Stopwatch(torch.device("cpu")), **options)


def timeless(history):
    """A history without its seconds."""
    return [msgspec.structs.replace(epoch, seconds=0.0, validation_seconds=0.0) for epoch in history]


def same(one, other):
    """Whether two mappings of tensors are bit by bit the same."""
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def parameters(model):
    """Copies of a model's parameters by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


class Watched(nn.Module):
    """Counts the images that pass forward and backward, and notes the mode and dtype of each forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0
        self.seen = []
        self.broken = False

    def forward(self, images):
        """Logits of the model inside, NaN when broken."""
        self.forwards += len(images)
        logits = self.model(images)
        self.seen.append((images.requires_grad, torch.is_grad_enabled(), self.model.training, logits.dtype))
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits * float("nan") if self.broken else logits

    def _count(self, gradient):
        self.backwards += len(gradient)

    def __deepcopy__(self, memo):
        """The copy that the warm-up uses has counts of its own."""
        return Watched(copy.deepcopy(self.model, memo))


# --- the recipe's schedule in the loop --------------------------------------------------------------------------------


def test_the_ramp_scales_radius_and_step_of_every_update(monkeypatch):
    """Four updates an epoch and a ramp of two epochs: the n-th update, from 0, attacks with n/8 of radius and step."""
    used = []

    def spy(model, images, labels, epsilon, **options):
        used.append((epsilon, options["step_size"]))
        return images

    monkeypatch.setattr(robbench.training, "pgd", spy)
    run(network(), recipe(attack=ADVERSARY, validation_attack=PGD(epsilon=0.5, steps=9), ramp_epochs=2.0))
    warm_up, updates = used[0], [(e, s) for e, s in used[1:] if e != 0.5]
    assert warm_up == (0.1, 0.06)
    validations = [(e, s) for e, s in used if e == 0.5]
    assert validations == [(0.5, None)] * 3
    shares = [min(1.0, n / 8) for n in range(12)]
    assert [e for e, _ in updates] == pytest.approx([0.1 * share for share in shares])
    assert [s for _, s in updates] == pytest.approx([0.06 * share for share in shares])


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (None, [0.1, 0.1, 0.1]),
        (StepLR(step=2, gamma=0.5), [0.1, 0.1, 0.05]),
        (MultiStepLR(milestones=(1,), gamma=0.1), [0.1, 0.01, 0.01]),
        (OneCycle(warm_up=0.5), [0.1 * 1 / 6.5, 0.1 * 5 / 6.5, 0.1 * 4 / 6.5]),  # updates 1, 5 and 9 of 12
    ],
)
def test_the_history_has_the_rate_of_every_epochs_first_update(schedule, rates):
    """Four updates an epoch, of which the first is the one that the record shows."""
    progress = run(network(), recipe(schedule=schedule))
    assert [epoch.learning_rate for epoch in progress.history] == pytest.approx(rates)
    assert [epoch.epoch for epoch in progress.history] == [1, 2, 3]


def test_an_epochs_loss_is_the_mean_of_its_batches():
    """Of equal images, at a rate of almost nothing, every batch has the loss of one image: so has the epoch of four."""
    one = problem(1)
    images = Images(one.images.expand(27, -1, -1, -1).contiguous(), one.labels.expand(27).contiguous())
    model = network(dropout=0.0).eval()
    loss = nn.functional.cross_entropy(model(one.images.float() / 255), one.labels).item()
    progress = run(model, recipe(epochs=1, learning_rate=1e-12, statistics="running"), images)
    assert progress.history[0].loss == pytest.approx(loss, rel=1e-5)


# --- the loop ---------------------------------------------------------------------------------------------------------


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
    spec = recipe(epochs=6, learning_rate=1.5, attack=ADVERSARY, checkpoint=criterion)
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
    recipe(momentum=0.9, statistics="running", attack=ADVERSARY, checkpoint="last", epochs=4),
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


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_images_are_attacked_in_eval_mode_and_learnt_as_the_recipe_says(statistics):
    """All passes with a gradient for the images are in eval mode; the update's are in the mode of the recipe."""
    model = Watched(network())
    run(model, recipe(attack=ADVERSARY, epochs=1, statistics=statistics), problem(16))
    attacks = [training for wants, _, training, _ in model.seen if wants]
    updates = [training for wants, enabled, training, _ in model.seen if enabled and not wants]
    assert attacks == [False] * (2 * 2 + 2)
    assert updates == [statistics == "batch"] * 2


@pytest.mark.parametrize("attack", [None, ADVERSARY], ids=["conventional", "adversarial"])
def test_statistics_say_whether_batch_norm_learns_in_training(attack):
    """With ``running`` the buffers stay as they were, with ``batch`` they move, once per update and not by attacks."""
    for statistics, moved in (("running", 0), ("batch", 4)):
        model = network()
        before = {name: value.clone() for name, value in model.named_buffers()}
        run(model, recipe(attack=attack, epochs=1, statistics=statistics, checkpoint="last"))
        assert model[1].num_batches_tracked.item() == moved
        assert torch.equal(before["1.running_mean"], model[1].running_mean) == (moved == 0)
        assert torch.equal(before["1.running_var"], model[1].running_var) == (moved == 0)


def test_held_modules_keep_their_statistics_and_their_dropout_idle():
    """A held batch norm's buffers do not move, and it and its dropout are in eval mode in every pass."""
    model = nn.Sequential(network(), nn.BatchNorm1d(3))
    held, modes = model[0], []
    for layer in (held[1], held[3]):
        layer.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    before = {name: value.clone() for name, value in held.named_buffers()}
    run(model, recipe(epochs=2, checkpoint="last", attack=ADVERSARY), held=[held])
    assert same(dict(held.named_buffers()), before)
    assert model[1].num_batches_tracked.item() == 8
    assert set(modes) == {False}


def test_an_update_is_the_optimisers_step_on_the_mean_loss():
    """One batch of plain SGD moves each parameter by −rate × gradient of the mean cross-entropy of all images."""
    training = problem(8)
    model = network(dropout=0.0)
    twin = copy.deepcopy(model).train()
    nn.functional.cross_entropy(twin(training.images.float() / 255), training.labels).backward()
    progress = run(model, recipe(epochs=1), training)
    for name, value in twin.named_parameters():
        moved = dict(model.named_parameters())[name].detach()
        torch.testing.assert_close(moved, (value - 0.1 * value.grad).detach(), rtol=0, atol=1e-6)
    loss = nn.functional.cross_entropy(twin(training.images.float() / 255), training.labels).item()
    assert progress.history[0].loss == pytest.approx(loss, abs=1e-5)
    right = (twin(training.images.float() / 255).argmax(1) == training.labels).sum().item()
    assert progress.history[0].train == Counts(correct=right, total=8)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.001, 5.0))
def test_gradients_are_clipped_to_the_norm(bound):
    """One step of SGD at rate 1 moves the parameters by their gradient's norm or the bound, whichever is less."""
    lengths = {}
    for clip in (None, bound):
        model = network(dropout=0.0)
        before = parameters(model)
        run(model, recipe(learning_rate=1.0, epochs=1, clip_norm=clip), problem(8))
        moved = [(value - before[name]).flatten() for name, value in parameters(model).items()]
        lengths[clip] = torch.cat(moved).norm().item()
    assert lengths[bound] == pytest.approx(min(bound, lengths[None]), rel=1e-3)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_updates_are_those_of_torchs_optimiser(optimiser):
    """Five updates with momentum and weight decay end where torch's own optimiser of these settings does."""
    drawn = problem(8)
    images = drawn.images.float() / 255
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    twin = copy.deepcopy(model)
    settings = {"lr": 0.01, "weight_decay": 0.3} | ({} if optimiser == "adam" else {"momentum": 0.8})
    reference = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimiser](twin.parameters(), **settings)
    for _ in range(5):
        reference.zero_grad()
        nn.functional.cross_entropy(twin(images), drawn.labels).backward()
        reference.step()
    spec = recipe(optimiser=optimiser, learning_rate=0.01, momentum=0.8, weight_decay=0.3, epochs=5, checkpoint="last")
    run(model, spec, drawn)
    for name, value in parameters(twin).items():
        torch.testing.assert_close(parameters(model)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:PGD. . steps of 0.05 cannot reach")
def test_a_training_attack_is_made_as_the_recipe_says():
    """In its own box, from its own start, with its own number of steps and its own generator."""
    straight = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        straight[1].weight.copy_(torch.stack([torch.ones(36), torch.zeros(36)]))
    images, labels = torch.full((2, 1, 6, 6), 0.9), torch.ones(2, dtype=torch.int64)  # away from class 1 is brighter

    def moved(seed=0, scale=1.0, **changes):
        attack = PGD(**({"epsilon": 0.3, "steps": 2, "random_start": False} | changes))
        generator = torch.Generator().manual_seed(seed)
        return attacked(straight, attack, "float32", images, labels, generator, scale) - images

    def all_are(value):
        return pytest.approx([value] * 72, abs=1e-6)

    assert moved().flatten().tolist() == all_are(0.1)
    assert moved(box=(-2.5, 2.5)).flatten().tolist() == all_are(0.3)
    assert moved(box=(-2.5, 2.5), step_size=0.05).flatten().tolist() == all_are(0.1)
    assert moved(box=(-2.5, 2.5), step_size=0.05, steps=3).flatten().tolist() == all_are(0.15)
    assert moved(box=(-2.5, 2.5), step_size=0.05, scale=0.5).flatten().tolist() == all_are(0.05)
    assert moved(box=(-2.5, 2.5), scale=0.5).flatten().tolist() == all_are(0.15)
    somewhere = [moved(seed, random_start=True, step_size=0.05) for seed in (0, 0, 1)]
    assert torch.equal(somewhere[0], somewhere[1])
    assert not torch.equal(somewhere[0], somewhere[2])


def test_fine_tuned_groups_learn_at_their_scale():
    """With scale 0.01 a group moves a hundredth as far in a step of SGD, in whatever epoch of a schedule."""
    moved = {}
    for scale in (1.0, 0.01):
        model = network(dropout=0.0)
        before = parameters(model)
        kept, trained = list(model[0].parameters()), [p for layer in model[1:] for p in layer.parameters()]
        groups = [{"params": trained, "scale": 1.0}, {"params": kept, "scale": scale}]
        run(model, recipe(epochs=1, schedule=OneCycle()), problem(8), groups=groups)
        after = parameters(model)
        moved[scale] = {name: value - before[name] for name, value in after.items()}
    for name, far in moved[1.0].items():
        factor = 0.01 if name.startswith("0.") else 1.0
        torch.testing.assert_close(moved[0.01][name], factor * far, rtol=1e-3, atol=1e-7)
    assert moved[1.0]["0.weight"].abs().max() > 1e-3


def test_parameters_that_are_frozen_do_not_move():
    """Without groups, those that require no gradient stay bit by bit, weight decay or not."""
    model = network()
    model[0].requires_grad_(False)
    before = parameters(model)
    run(model, recipe(weight_decay=0.1, attack=ADVERSARY, epochs=1))
    after = parameters(model)
    assert {name for name in before if torch.equal(before[name], after[name])} == {"0.weight", "0.bias"}
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["0.weight", "0.bias"]


@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), (2, 3)])
def test_a_loss_that_is_not_finite_names_epoch_and_batch(epoch, batch):
    """The error comes after the epoch, names the first batch that went wrong, and no checkpoint of it is made."""
    model, saved = Watched(network()), []

    def spoil(*numbers):
        model.broken = model.broken or numbers[:2] == (epoch, batch)

    message = re.escape(f"the loss is nan in epoch {epoch}, batch {batch} of 4")
    with pytest.raises(RobbenchError, match=message):
        run(model, recipe(), on_update=spoil, on_epoch=lambda state: saved.append(len(state.history)))
    assert saved == list(range(1, epoch))


def test_a_diverging_run_is_an_error():
    """A learning rate far too large ends in the same error, without any help."""
    with pytest.raises(RobbenchError, match="training diverged"):
        run(network(), recipe(learning_rate=1e30, epochs=5))


def test_early_stopping_ends_the_loop_and_a_stopped_run_stays_stopped():
    """A rate of almost nothing stops after 1 + patience epochs; resumed, not one update more is made."""
    spec = recipe(learning_rate=1e-12, epochs=50, statistics="running", early_stopping=EarlyStopping(patience=3))
    progress = run(network(), spec)
    assert len(progress.history) == 4
    updates = []
    again = run(network(), spec, progress=copy.deepcopy(progress), on_update=lambda *numbers: updates.append(numbers))
    assert updates == []
    assert again.history == progress.history


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
        robbench.training, "attacked", lambda model, attack, precision, images, *rest, **more: images.flip(2)
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
    monkeypatch.setattr(robbench.timing, "time", ticks)
    stopwatch = Stopwatch(torch.device("cpu"))
    progress = train(network(), recipe(), problem(27), problem(12), stopwatch=stopwatch)
    assert [epoch.seconds for epoch in progress.history] == [1, 1, 1]
    assert [epoch.validation_seconds for epoch in progress.history] == [1, 1, 1]
    assert stopwatch.seconds == Seconds(training=4, validation=3, warm_up=1, io=3)


def test_one_update_more_than_announced_is_made_for_the_warm_up(monkeypatch):
    """On a copy, with as many images and, where the recipe attacks, attacked ones."""
    made, update = [], robbench.training.update

    def spy(model, spec, optimiser, images, *rest):
        made.append((model, images.clone()))
        return update(model, spec, optimiser, images, *rest)

    monkeypatch.setattr(robbench.training, "update", spy)
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


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cuda
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_graphs_and_fused_optimisers_train_as_the_plain_path(precision, optimiser, monkeypatch):
    """On a GPU: captured attack steps and one kernel for all parameters end where the plain loop ends, to rounding."""
    spec = recipe(precision=precision, optimiser=optimiser, learning_rate=0.01, attack=replace(ADVERSARY, steps=6))
    device = torch.device("cuda")
    ended = []
    for plain in (False, True):
        with monkeypatch.context() as patched:
            if plain:
                patched.setattr(robbench.graphs.Loop, "__call__", lambda self, *given: robbench.graphs.repeat(*given))
                patched.setattr(robbench.training, "fused", lambda network: None)
            model = network(dropout=0.0).to(device)
            progress = run_on(device, model, spec)
            ended.append((parameters(model), [epoch.loss for epoch in progress.history]))
    tolerance = 1e-4 if precision == "float32" else 2e-2
    assert ended[0][1] == pytest.approx(ended[1][1], rel=tolerance)
    for name, value in ended[1][0].items():
        torch.testing.assert_close(ended[0][0][name], value, rtol=tolerance, atol=tolerance)


@cuda
def test_a_resumed_run_on_a_gpu_ends_as_if_it_had_not_stopped():
    """Fused optimisers take up their state again."""
    spec, device = recipe(optimiser="adam", learning_rate=0.01, attack=ADVERSARY), torch.device("cuda")
    whole, saved = network().to(device), []
    run_on(device, whole, spec, on_epoch=lambda state: saved.append(copy.deepcopy(state)))
    resumed = network().to(device)
    run_on(device, resumed, spec, progress=saved[0])
    for name, value in parameters(whole).items():
        torch.testing.assert_close(parameters(resumed)[name], value, rtol=1e-4, atol=1e-4)


@cuda
def test_tf32_is_on_while_training_and_off_for_pstar():
    """Training may round factors to TF32; the switches come back afterwards."""
    before, seen = torch.backends.cudnn.allow_tf32, []
    run_on(
        torch.device("cuda"),
        network().to("cuda"),
        recipe(epochs=1),
        on_update=lambda *numbers: seen.append(torch.backends.cuda.matmul.allow_tf32),
    )
    assert set(seen) == {True}
    assert torch.backends.cudnn.allow_tf32 == before


def run_on(device, model, spec, **options):
    """Train on the toy problem on a device."""
    parts = problem(27).to(device), problem(12, seed=1).to(device)
    return train(model, spec, *parts, stopwatch=Stopwatch(device), **options)
