"""What an update does to weights, statistics and generators."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loops import ADVERSARY, Watched, network, parameters, problem, recipe, run, same
from networks import Masked
from torch import nn

from robbench.errors import RobbenchError
from robbench.record import Counts
from robbench.spec import PGD, OneCycle
from robbench.training.optimisers import fused
from robbench.training.updates import attacked


@pytest.mark.parametrize("attack", [None, ADVERSARY], ids=["conventional", "adversarial"])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_images_are_attacked_in_eval_mode_and_learnt_as_the_recipe_says(statistics, attack):
    """An update runs in the mode of the recipe, and only an update in training mode moves the batch norm."""
    model = Watched(network())
    norm = model.model[1]
    before = norm.running_mean.clone()
    run(model, recipe(attack=attack, epochs=1, statistics=statistics, kept_epoch="last"), problem(16))
    attacks = [training for wants, _, training, _ in model.seen if wants]
    updates = [training for wants, enabled, training, _ in model.seen if enabled and not wants]
    assert attacks == [False] * (2 * 2 + 2 if attack else 0)
    assert updates == [statistics == "batch"] * 2
    assert norm.num_batches_tracked.item() == (2 if statistics == "batch" else 0)
    assert torch.equal(before, norm.running_mean) == (statistics == "running")


def test_frozen_modules_keep_their_statistics_and_their_dropout_idle():
    """A frozen batch norm's buffers do not move, and it and its dropout are in eval mode in every pass."""
    model = nn.Sequential(network(), nn.BatchNorm1d(3))
    frozen, modes = model[0], []
    for layer in (frozen[1], frozen[3]):
        layer.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    before = {name: value.clone() for name, value in frozen.named_buffers()}
    run(model, recipe(epochs=2, kept_epoch="last", attack=ADVERSARY), frozen=[frozen])
    assert same(dict(frozen.named_buffers()), before)
    assert model[1].num_batches_tracked.item() == 8
    assert set(modes) == {False}


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
    """Five updates end where torch's own optimiser does, and every epoch has the loss and right images before its one."""
    drawn = problem(8)
    images = drawn.images.float() / 255
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    twin, losses, right = copy.deepcopy(model), [], []
    settings = {"lr": 0.01, "weight_decay": 0.3} | ({} if optimiser == "adam" else {"momentum": 0.8})
    reference = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimiser](twin.parameters(), **settings)
    for _ in range(5):
        reference.zero_grad()
        logits = twin(images)
        loss = nn.functional.cross_entropy(logits, drawn.labels)
        loss.backward()
        reference.step()
        losses.append(loss.item())
        right.append((logits.argmax(1) == drawn.labels).sum().item())
    spec = recipe(optimiser=optimiser, learning_rate=0.01, momentum=0.8, weight_decay=0.3, epochs=5, kept_epoch="last")
    epochs = run(model, spec, drawn).epochs
    for name, value in parameters(twin).items():
        torch.testing.assert_close(parameters(model)[name], value, rtol=1e-4, atol=1e-6)
    assert [epoch.loss for epoch in epochs] == pytest.approx(losses, abs=1e-5)
    assert [epoch.train for epoch in epochs] == [Counts(correct=number, total=8) for number in right]


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


def test_a_network_that_is_frozen_as_a_whole_is_an_error():
    """There is nothing to train."""
    with pytest.raises(RobbenchError, match="expected a network with parameters to train, got one that is frozen"):
        run(network().requires_grad_(False), recipe())


@pytest.mark.parametrize("forward", [torch.no_grad(), torch.inference_mode()])
def test_a_network_that_lets_no_gradient_through_is_an_error(forward):
    """It is found in the warm-up."""
    model = network()
    model.forward = forward(model.forward)
    with pytest.raises(RobbenchError, match=r"expected logits that depend on the parameters to train, got logits with"):
        run(model, recipe(), on_update=lambda *progress: pytest.fail("an epoch began"))


@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), (2, 3)])
def test_a_loss_that_is_not_finite_names_epoch_and_batch(epoch, batch):
    """The error comes after the epoch and names the first batch that went wrong."""
    model, saved = Watched(network()), []

    def spoil(done, total):
        model.broken = model.broken or done == epoch - 1 + (batch - 1) / 4

    message = re.escape(f"the loss is nan in epoch {epoch}, batch {batch} of 4")
    with pytest.raises(RobbenchError, match=message):
        run(model, recipe(), on_update=spoil, saved=saved)
    assert len(saved) == epoch - 1


@pytest.mark.parametrize("name", ["1.weight", "2.running_mean"])
def test_a_weight_that_is_not_finite_is_an_error_of_its_epoch(name):
    """Although the loss is finite; a mask with infinities by design is none."""
    model, saved = nn.Sequential(Masked(6), *network()), []
    model.register_forward_hook(lambda layer, inputs, logits: torch.nan_to_num(logits, 0.0, 0.0, 0.0))
    broken = model.get_parameter(name) if name.endswith("weight") else model.get_buffer(name)

    def spoil(done, total):
        if done == 1:
            with torch.no_grad():
                broken.view(-1)[0] = torch.nan

    with pytest.raises(RobbenchError, match=r"^training diverged: \S+ is not finite after epoch 2; a smaller"):
        run(model, recipe(), on_update=spoil, saved=saved)
    assert len(saved) == 1


def test_on_a_cpu_torch_chooses_the_optimisers_kernels():
    """Neither fused kernels nor others are asked for."""
    assert fused(nn.Linear(2, 2)) is None
