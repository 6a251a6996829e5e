"""What an update does to weights, statistics and generators."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import ADVERSARY, Watched, network, parameters, problem, recipe, run, same
from networks import Masked
from torch import nn

from robbench.errors import RobbenchError
from robbench.record import Counts
from robbench.spec import PGD, OneCycle
from robbench.training.updates import attacked


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
        run(model, recipe(attack=attack, epochs=1, statistics=statistics, kept_epoch="last"))
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
    run(model, recipe(epochs=2, kept_epoch="last", attack=ADVERSARY), held=[held])
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
    spec = recipe(optimiser=optimiser, learning_rate=0.01, momentum=0.8, weight_decay=0.3, epochs=5, kept_epoch="last")
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


@pytest.mark.parametrize("attack", [None, ADVERSARY])
def test_a_network_that_is_frozen_as_a_whole_is_an_error(attack):
    """Before its first update; a single trainable layer is enough."""
    model = network().requires_grad_(False)
    with pytest.raises(RobbenchError, match=r"expected a network with parameters to train, got one .* all frozen"):
        run(model, recipe(attack=attack))
    model[-1].requires_grad_(True)
    assert len(run(model, recipe(attack=attack)).history) == 3


@pytest.mark.parametrize("attack", [None, ADVERSARY])
@pytest.mark.parametrize("forward", [torch.no_grad(), torch.inference_mode()])
def test_a_network_that_lets_no_gradient_through_is_an_error(attack, forward):
    """Before its first epoch."""
    model, begun = network(), []
    model.forward = forward(model.forward)
    with pytest.raises(RobbenchError, match=r"expected logits that depend on the parameters to train, got logits with"):
        run(model, recipe(attack=attack), on_update=lambda *numbers: begun.append(numbers))
    assert begun == []


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


def test_weights_that_are_not_finite_are_an_error_of_their_epoch():
    """Although the loss was: a ReLU of oneDNN makes 0 of NaN, so the next epochs would learn on as if nothing were."""
    model, saved = network(), []

    def spoil(epoch, number, updates):
        if (epoch, number) == (2, 1):
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] = torch.inf

    model.register_forward_hook(lambda layer, inputs, logits: torch.nan_to_num(logits, 0.0, 0.0, 0.0))
    with pytest.raises(RobbenchError, match=r"^training diverged: \S+ is not finite after epoch 2; a smaller"):
        run(model, recipe(), on_update=spoil, on_epoch=lambda state: saved.append(len(state.history)))
    assert saved == [1]


def test_a_buffer_may_be_infinite_where_it_began_so():
    """A causal mask that is stored with the weights, in a run from the start and in one that is gone on with."""
    states = []
    run(nn.Sequential(Masked(6), *network()), recipe(), on_epoch=lambda state: states.append(copy.deepcopy(state)))
    assert torch.isinf(states[-1].weights["0.mask"]).sum() == 15
    resumed = run(nn.Sequential(Masked(6), *network()), recipe(), progress=copy.deepcopy(states[0]))
    assert same(resumed.weights, states[-1].weights)


@pytest.mark.parametrize("name", ["0.mask", "2.running_mean", "2.running_var"])
def test_a_buffer_that_becomes_no_number_is_an_error(name):
    """Where it began as one: of a mask with infinities by design, too."""
    model = nn.Sequential(Masked(6), *network())
    broken = model.get_buffer(name)
    model.register_forward_hook(lambda layer, inputs, logits: torch.nan_to_num(logits, 0.0, 0.0, 0.0))
    with pytest.raises(RobbenchError, match=f"^training diverged: {name} is not finite after epoch 1; a smaller"):
        run(model, recipe(), on_update=lambda *numbers: broken.view(-1)[0].fill_(torch.nan))


def test_a_diverging_run_is_an_error():
    """A learning rate far too large ends in the same error, without any help."""
    with pytest.raises(RobbenchError, match="training diverged"):
        run(network(), recipe(learning_rate=1e6, epochs=5))
