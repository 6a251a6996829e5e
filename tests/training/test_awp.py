"""Adversarial weight perturbation by hand, and what it leaves as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loops import ADVERSARY, finish, network, parameters, plain, problem, recipe, run, same, trainer
from torch import nn

from robbench.spec import MART, TRADES, CrossEntropy, DicePGD
from robbench.training import Batch
from robbench.training.optimisers import new_optimiser
from robbench.training.updates import update


def test_an_update_takes_its_gradient_at_the_perturbed_weights():
    """At w + γ ‖w‖ g ÷ ‖g‖ for the matrix of a linear classifier, not its bias; both step from where they were."""
    model, drawn, gamma = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), problem(8), 0.3
    images = drawn.images.float() / 255
    weight, bias = (value.detach().double() for value in model.parameters())

    def gradients(matrix):
        given = matrix.clone().requires_grad_(), bias.clone().requires_grad_()
        loss = F.cross_entropy(images.double().flatten(1) @ given[0].T + given[1], drawn.labels)
        return torch.autograd.grad(loss, given)

    away, _ = gradients(weight)
    steps = gradients(weight + gamma * weight.norm() / away.norm() * away)
    spec = recipe(awp=gamma, attack=ADVERSARY, learning_rate=0.5)
    update(model, spec, new_optimiser(model, spec, None), Batch(images, images, drawn.labels))
    for found, start, step in zip(model.parameters(), (weight, bias), steps, strict=True):
        torch.testing.assert_close(found.detach().double(), start - 0.5 * step, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", [CrossEntropy(), TRADES(), MART(), DicePGD()], ids=repr)
def test_a_perturbation_of_nothing_is_plain_training(objective):
    """γ → 0 ends where the plain update ends; a real γ ends elsewhere, with a larger loss on the way."""
    ended, losses = [], []
    for gamma in (0.0, 1e-9, 0.05):
        model = plain()
        spec = recipe(awp=gamma, attack=ADVERSARY, kept_epoch="last", objective=objective)
        losses.append(finish(trainer(model, spec, seed=1)).epochs[0].loss)
        ended.append(torch.cat([value.flatten() for value in parameters(model).values()]))
    torch.testing.assert_close(ended[0], ended[1])
    assert (ended[0] - ended[2]).abs().max() > 1e-3
    assert losses[2] > losses[0]


def test_the_statistics_of_batch_norm_move_once_an_update():
    """The pass that finds the direction leaves no trace in them; frozen layers are not perturbed."""
    model = network(dropout=0.0)
    model[0].requires_grad_(False)
    before = parameters(model)
    run(model, recipe(awp=0.01, attack=ADVERSARY, epochs=1, kept_epoch="last"), problem(16))
    assert model[1].num_batches_tracked.item() == 2
    after = parameters(model)
    assert same(
        {name: before[name] for name in ("0.weight", "0.bias")},
        {name: after[name] for name in before if name[0] == "0"},
    )
