"""The final test: a linear model's robust accuracy is known in closed form, and batches change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import robbench.estimation.fixed_radii
from robbench.errors import RobbenchError
from robbench.estimation.fixed_radii import FinalTest, attack_accuracies
from robbench.machine.graphs import GraphedLoop
from robbench.spec import PGD
from robbench.spec.recipes import CIFAR_FINAL_TEST, MNIST_FINAL_TEST

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FGSM = PGD(epsilon=0.2, steps=1, random_start=False)


def linear(weight):
    """Two logits, w·x and 0, with batch norm's identity and dropout before them: eval mode matters."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(len(weight)), nn.Dropout(0.5), nn.Linear(len(weight), 2))
    with torch.no_grad():
        model[1].running_var.fill_(1 - model[1].eps)
        model[3].weight.copy_(torch.stack([weight, torch.zeros_like(weight)]))
        model[3].bias.zero_()
    return model


def problem(count=40, seed=0):
    """Images well inside [0, 1], a linear model, which images are right, and the smallest radius that turns each."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(16, generator=generator)
    weight -= weight.mean()
    images = 0.4 + 0.2 * torch.rand(count, 1, 4, 4, generator=generator)
    score = images.flatten(1) @ weight
    labels = (score < 0).long()
    labels[::4] = 1 - labels[::4]
    correct = torch.arange(count) % 4 != 0
    return linear(weight), images, labels, correct, score.abs() / weight.abs().sum()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("batch_size", [None, 1, 7, 40])
def test_a_linear_models_robust_accuracy_is_its_closed_form(batch_size, device):
    """Right and |w·x| ÷ ‖w‖₁ above the radius: under FGSM and PGD alike, whatever the batch and the device."""
    model, images, labels, correct, turning = problem()
    model, images, labels = model.to(device), images.to(device), labels.to(device)
    radii = [turning[correct].quantile(share).item() for share in (0.25, 0.5, 0.9)]
    attacks = [
        attack
        for radius in radii
        for attack in (
            PGD(epsilon=radius, steps=1, random_start=False),
            PGD(epsilon=radius, steps=5, step_size=radius / 4, random_start=False),
        )
    ]
    found = attack_accuracies(model, images, labels, correct, attacks, batch_size=batch_size)
    expected = [int((correct & (turning > radius)).sum()) for radius in radii for _ in range(2)]
    assert [entry.robust.correct for entry in found] == expected
    assert len(set(expected)) == 3
    assert {entry.robust.total for entry in found} == {40}
    assert [entry.attack for entry in found] == ["fgsm", "pgd"] * 3
    assert [entry.steps for entry in found] == [1, 5] * 3
    assert [(entry.epsilon, entry.step_size) for entry in found[:2]] == [(radii[0], radii[0]), (radii[0], radii[0] / 4)]


def test_all_batches_of_all_attacks_share_a_loop(monkeypatch):
    """So that on a GPU their steps are captured once for every shape."""
    model, images, labels, correct, _ = problem()
    loops = []
    monkeypatch.setattr(
        robbench.estimation.fixed_radii, "pgd", lambda *given, loop, **more: loops.append(loop) or given[1]
    )
    attack_accuracies(
        model, images, labels, correct, [FGSM, PGD(epsilon=0.1, steps=9, random_start=False)], batch_size=20
    )
    assert len(loops) == 4
    assert isinstance(loops[0], GraphedLoop)
    assert all(loop is loops[0] for loop in loops)


def test_images_that_are_wrong_already_are_not_attacked():
    """The network sees every right image twice: to attack it, and to judge it."""
    model, images, labels, correct, _ = problem()
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    attack_accuracies(model, images, labels, correct, [FGSM], batch_size=20)
    assert sum(seen) == 2 * 30


def test_modes_come_back_and_autocast_stays_outside():
    """A network in training mode is tested in eval mode, in float32 whatever surrounds the call."""
    model, images, labels, correct, turning = problem()
    model.train()
    kinds = []
    model[3].register_forward_hook(lambda module, inputs, output: kinds.append((output.dtype, model[2].training)))
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = attack_accuracies(model, images, labels, correct, [FGSM])
    assert found.robust.correct == int((correct & (turning > 0.2)).sum())
    assert set(kinds) == {(torch.float32, False)}
    assert all(module.training for module in model.modules())


def test_bytes_are_pixels():
    """uint8 images give what their floats give."""
    model, images, labels, correct, _ = problem()
    stored = (images * 255).round().to(torch.uint8)
    one, two = (attack_accuracies(model, given, labels, correct, [FGSM]) for given in (stored, stored.float() / 255))
    assert one == two


def test_no_right_image_and_no_attack():
    """Nothing to attack is robust accuracy 0; no attack is no result."""
    model, images, labels, correct, _ = problem()
    (found,) = attack_accuracies(model, images, labels, torch.zeros_like(correct), [FGSM])
    assert (found.robust.correct, found.robust.total) == (0, 40)
    assert attack_accuracies(model, images, labels, correct, []) == []


def test_progress_counts_images_over_all_attacks():
    """Up to two attacks of 30 right images."""
    model, images, labels, correct, _ = problem()
    shown = []
    attack_accuracies(
        model,
        images,
        labels,
        correct,
        [FGSM, PGD(epsilon=0.1, steps=2, random_start=False)],
        batch_size=20,
        on_progress=lambda done, total: shown.append((done, total)),
    )
    assert shown == [(20, 60), (30, 60), (50, 60), (60, 60)]


def test_half_the_batch_where_memory_runs_out(monkeypatch):
    """The result is as it would have been."""
    model, images, labels, correct, _ = problem()
    expected = attack_accuracies(model, images, labels, correct, [FGSM])

    def short_of_memory(module, inputs):
        if len(inputs[0]) > 10:
            raise torch.cuda.OutOfMemoryError

    model.register_forward_pre_hook(short_of_memory)
    assert attack_accuracies(model, images, labels, correct, [FGSM]) == expected


def test_bad_input_is_refused():
    """Sizes that do not match, an attack without a radius, one that starts at random."""
    model, images, labels, correct, _ = problem()
    with pytest.raises(RobbenchError, match=r"labels: expected shape \(40,\), got \(3,\)"):
        attack_accuracies(model, images, labels[:3], correct, [FGSM])
    with pytest.raises(RobbenchError, match=r"correct: expected shape \(40,\), got \(3,\)"):
        attack_accuracies(model, images, labels, correct[:3], [FGSM])
    for attack in (PGD(steps=1, random_start=False), PGD(steps=1, epsilon=0.1)):
        with pytest.raises(RobbenchError, match="attack: expected a radius, no random start"):
            attack_accuracies(model, images, labels, correct, [attack])


def test_the_published_final_test():
    """FGSM and PGD at three radii each, of 40 steps of 0.01 or 20 steps of ε ÷ 4."""
    assert [(a.steps, a.epsilon, a.step_size) for a in MNIST_FINAL_TEST[3:]] == [
        (40, epsilon, 0.01) for epsilon in (0.1, 0.2, 0.3)
    ]
    assert [(a.steps, round(a.epsilon * 255), a.epsilon / a.step_size) for a in CIFAR_FINAL_TEST[3:]] == [
        (20, levels, 4) for levels in (2, 4, 8)
    ]
    assert [a.steps for a in MNIST_FINAL_TEST[:3] + CIFAR_FINAL_TEST[:3]] == [1] * 6


@pytest.mark.parametrize("after", [1, 2, 4])
def test_an_interrupted_test_counts_no_image_twice(after):
    """Stopped after any batch, of the first attack or the second, it goes on to the same counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    images, labels = torch.rand(12, 1, 4, 4), torch.zeros(12, dtype=torch.int64)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    attacks = [PGD(epsilon=epsilon, steps=2, random_start=False) for epsilon in (0.1, 0.3)]
    correct, calls, state = torch.ones(12, dtype=torch.bool), [], FinalTest()

    def stop(done, total):
        calls.append(done)
        if len(calls) == after:
            raise KeyboardInterrupt

    whole = attack_accuracies(model, images, labels, correct, attacks, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        attack_accuracies(model, images, labels, correct, attacks, batch_size=4, state=state, on_progress=stop)
    assert attack_accuracies(model, images, labels, correct, attacks, batch_size=4, state=state) == whole
    assert 0 < whole[1].robust.correct + whole[0].robust.correct < 24
