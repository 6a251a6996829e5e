"""Certified training: the loss by hand, its ramp, and where it becomes plain cross-entropy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from loops import recipe
from torch import nn

from robbench.errors import RobbenchError
from robbench.spec import IBP, PGD
from robbench.training import Batch, loss_function
from robbench.training.certified import ramp


def two_layers(seed=0):
    """A network small enough to bound by hand."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)).double()


def by_hand(model, images, labels, epsilon, kappa):
    """κ CE(z) + (1 − κ) CE(worst z) with numpy-like interval arithmetic, margins bounded in the last layer."""
    first, last = model[1], model[3]
    low, high = (images - epsilon).clamp(0, 1).flatten(1), (images + epsilon).clamp(0, 1).flatten(1)
    positive, negative = first.weight.clamp(min=0), first.weight.clamp(max=0)
    under = (low @ positive.t() + high @ negative.t() + first.bias).clamp(min=0)
    over = (high @ positive.t() + low @ negative.t() + first.bias).clamp(min=0)
    worst = []
    for image, label in enumerate(labels.tolist()):
        difference, offset = last.weight - last.weight[label], last.bias - last.bias[label]
        worst.append(difference.clamp(min=0) @ over[image] + difference.clamp(max=0) @ under[image] + offset)
    logits = model(images)
    return kappa * F.cross_entropy(logits, labels) + (1 - kappa) * F.cross_entropy(torch.stack(worst), labels)


@pytest.mark.parametrize("done", [0.3, 1.0])
def test_loss_and_gradient_are_those_by_hand(done):
    """In float64; half way up the ramp, and at its end."""
    model, images, labels = two_layers(), torch.rand(5, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    objective = IBP(epsilon=0.1, warm_up=0.1, ramp=0.4, kappa=0.25)
    share = {0.3: 0.5, 1.0: 1.0}[done]
    value, logits = loss_function(objective, model, {})(Batch(images, images, labels, done))
    expected = by_hand(model, images, labels, share * 0.1, 1 - share * 0.75)
    assert torch.allclose(value, expected, atol=2e-4)
    assert torch.equal(logits, model(images))
    for mine, theirs in zip(
        *(torch.autograd.grad(each, model.parameters()) for each in (value, expected)), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-3)


@pytest.mark.parametrize(
    "objective", [IBP(epsilon=1e-12), IBP(epsilon=0.1, kappa=1.0), IBP(epsilon=0.1, warm_up=1.0, ramp=0)]
)
def test_at_its_borders_it_is_cross_entropy(objective):
    """No radius, all weight on the clean loss, or nothing but warm-up."""
    model, images, labels = two_layers(), torch.rand(5, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    value, logits = loss_function(objective, model, {})(Batch(images, images, labels, 0.9))
    assert torch.allclose(value, F.cross_entropy(logits, labels), atol=1e-4)


def test_crown_ibp_is_mixed_in_while_the_radius_grows():
    """At the end of the ramp nothing is left of it."""
    model, images, labels = two_layers(3), torch.rand(8, 1, 2, 2, dtype=torch.float64), torch.zeros(8, dtype=torch.long)
    plain, mixed = (loss_function(IBP(epsilon=0.3, crown=crown), model, {}) for crown in (False, True))

    def values(done):
        return [loss(Batch(images, images, labels, done))[0].item() for loss in (plain, mixed)]

    assert abs(values(0.3)[1] - values(0.3)[0]) > 1e-5
    assert values(1.0)[1] == values(1.0)[0]


def test_the_ramp_rises_after_the_warm_up():
    """From 0 to 1, linearly."""
    objective = IBP(epsilon=0.1, warm_up=0.2, ramp=0.4)
    assert [round(ramp(objective, done), 9) for done in (0, 0.19, 0.2, 0.4, 0.6, 1)] == [0, 0, 0, 0.5, 1, 1]
    assert ramp(IBP(epsilon=0.1, warm_up=0.5, ramp=0), 0.5) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attack": PGD(epsilon=0.1, steps=2)}, "Recipe attack: expected none with IBP"),
        ({"precision": "bf16"}, "Recipe precision: expected float32 with IBP"),
        ({"kept_epoch": "clean"}, "Recipe kept_epoch: expected last with IBP"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, says):
    """One clear error each."""
    with pytest.raises(RobbenchError, match=says):
        replace(recipe(), **({"objective": IBP(epsilon=0.1), "attack": None, "kept_epoch": "last"} | changes))


def test_batch_norm_in_training_mode_is_refused():
    """Bounds know the statistics that it has learned, not those of a batch."""
    student = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).train()
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    with pytest.raises(RobbenchError, match="set statistics='running'"):
        loss_function(IBP(epsilon=0.1), student, {})(Batch(images, images, labels, 0.5))
