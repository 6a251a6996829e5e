"""TRADES and MART by hand, at the border of their parameters, and the attack of TRADES."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from formulas import as_by_hand, ce, drawn, kl, softmax
from loops import ADVERSARY, finish, parameters, plain, problem, recipe, same, trainer
from torch import nn

from robbench.spec import MART, TRADES
from robbench.training import Batch, loss_function
from robbench.training.updates import attacked


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_trades_is_its_formula(beta):
    """CE(x) + β · mean KL(p(x) ‖ p(x')), with a gradient through both."""
    clean, attacked, *_, labels = drawn()
    as_by_hand(
        loss_function(TRADES(beta=beta), nn.Identity(), {}),
        lambda one, other: ce(one, labels) + beta * kl(softmax(one), softmax(other)).mean(),
        clean,
        attacked,
        labels,
    )


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_mart_is_its_formula(weight):
    """−log p_y(x') − log(1 − max of the others) + λ · mean KL · (1 − p_y(x)), of right and wrong images."""
    clean, attacked, *_, labels = drawn()
    rows = np.arange(len(labels))

    def formula(one, other):
        natural, adversarial = softmax(one), softmax(other)
        others = adversarial.copy()
        others[rows, labels] = 0
        boosted = -np.log(adversarial[rows, labels]) - np.log(1 - others.max(axis=1))
        return (boosted + weight * kl(natural, adversarial) * (1 - natural[rows, labels])).mean()

    as_by_hand(loss_function(MART(weight=weight), nn.Identity(), {}), formula, clean, attacked, labels)
    right = attacked.argmax(1) == labels
    assert 0 < right.sum() < len(labels)


def test_mart_is_finite_where_the_attack_is_sure_of_itself():
    """Where 1 − p_k and p_y are 0 in float32, the loss grows with the logits and its gradient stays."""
    logits = torch.tensor([[0.0, 300.0, 0.0]], requires_grad=True)
    value, _ = loss_function(MART(), nn.Identity(), {})(Batch(logits, logits, torch.tensor([0])))
    assert value.item() == pytest.approx(600, rel=0.01)
    assert torch.autograd.grad(value, logits)[0].abs().min() > 0.1


def test_without_its_penalty_trades_is_clean_training():
    """β = 0 ends bit by bit where conventional training ends."""
    ended = []
    for spec in (recipe(attack=ADVERSARY, objective=TRADES(beta=0.0), kept_epoch="last"), recipe(kept_epoch="last")):
        model = plain()
        finish(trainer(model, spec, seed=1))
        ended.append(parameters(model))
    assert same(*ended)


def test_the_attack_of_trades_climbs_the_divergence():
    """From x + 0.001 · N(0, 1), by the steps of a loop written out; its end is further from p(x) than that of PGD."""
    model, images = plain().double(), problem(12).images.double() / 255
    labels = problem(12).labels
    loss = loss_function(TRADES(), model, {})
    found = attacked(
        model, ADVERSARY, "float32", images, labels, torch.Generator().manual_seed(3), adversary=loss.adversary
    )
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    iterate = (images + 0.001 * noise).clamp(0, 1)
    own = model(images).softmax(1).detach()
    for _ in range(ADVERSARY.steps):
        iterate.requires_grad_()
        divergence = (own * (own.log() - model(iterate).log_softmax(1))).sum()
        (gradient,) = torch.autograd.grad(divergence, iterate)
        step = iterate.detach() + ADVERSARY.step_size * gradient.sign()
        iterate = torch.min(torch.max(step, images - ADVERSARY.epsilon), images + ADVERSARY.epsilon).clamp(0, 1)
    torch.testing.assert_close(found, iterate)
    usual = attacked(model, ADVERSARY, "float32", images, labels, torch.Generator().manual_seed(3))
    away = [F.kl_div(model(each).log_softmax(1), own, reduction="sum") for each in (found, usual)]
    assert away[0] > away[1]


def test_training_in_bfloat16_attacks_in_float32():
    """Rounded to bfloat16, the divergence from so near a start would have no slope."""
    model, images, labels = plain(), problem(12).images / 255, problem(12).labels
    adversary = loss_function(TRADES(), model, {}).adversary
    found, rounded = (
        attacked(model, ADVERSARY, precision, images, labels, torch.Generator().manual_seed(3), adversary=adversary)
        for precision in ("float32", "bf16")
    )
    assert torch.equal(found, rounded)
