"""Distillation from a robust teacher by hand, at the border of its parameters; and Dice-PGD."""

from __future__ import annotations

import pytest
import torch
from formulas import as_by_hand, ce, drawn, kl, softmax
from loops import ADVERSARY, finish, network, parameters, plain, problem, recipe, run, same, trainer
from torch import nn

from robbench.attacks import dice, dice_of_right, pgd
from robbench.spec import ARD, DARD, RSLAD, DicePGD
from robbench.training import Batch, loss_function
from robbench.training.updates import attacked


@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 4.0), (1.0, 30.0), (0.0, 1.0)])
def test_ard_is_its_formula(alpha, temperature):
    """The teacher's clean soft labels for the attacked image, the class for the clean one."""
    clean, attacked, teachers, _, labels = drawn()

    def formula(one, other):
        theirs = softmax(teachers.double().numpy(), temperature)
        distance = temperature**2 * kl(theirs, softmax(other, temperature)).mean()
        return alpha * distance + (1 - alpha) * ce(one, labels)

    objective = ARD(alpha=alpha, temperature=temperature)
    loss = loss_function(objective, nn.Identity(), {"teacher": nn.Identity()})
    as_by_hand(loss, formula, clean, attacked, labels, teachers)


@pytest.mark.parametrize("alpha", [5 / 6, 0.0])
def test_rslad_is_its_formula(alpha):
    """The teacher's clean soft labels for both, and no class."""
    clean, attacked, teachers, _, labels = drawn()
    theirs = softmax(teachers.double().numpy())
    as_by_hand(
        loss_function(RSLAD(alpha=alpha), nn.Identity(), {"teacher": nn.Identity()}),
        lambda one, other: alpha * kl(theirs, softmax(other)).mean() + (1 - alpha) * kl(theirs, softmax(one)).mean(),
        clean,
        attacked,
        labels,
        teachers,
    )


def test_rslad_of_attacked_images_alone_is_ard_without_labels():
    """α = 1 and temperature 1: the same number."""
    clean, attacked, teachers, _, labels = drawn()
    batch, parents = Batch(clean, attacked, labels, reference=teachers), {"teacher": nn.Identity()}
    one, other = (
        loss_function(objective, nn.Identity(), parents)(batch)[0]
        for objective in (RSLAD(alpha=1.0), ARD(alpha=1.0, temperature=1.0))
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.7, 3.0), (0.0, 1.0)])
def test_dard_is_its_formula(alpha, temperature):
    """Half for the clean image with its soft labels, half for the attacked one with those; α = 0 is CE on both."""
    clean, attacked, teachers, theirs, labels = drawn()

    def half(logits, soft):
        soft = softmax(soft.double().numpy(), temperature)
        distance = temperature**2 * kl(soft, softmax(logits, temperature)).mean()
        return alpha * distance + (1 - alpha) * ce(logits, labels)

    loss = loss_function(DARD(alpha=alpha, temperature=temperature), nn.Identity(), {"teacher": lambda images: theirs})
    as_by_hand(
        loss, lambda one, other: (half(one, teachers) + half(other, theirs)) / 2, clean, attacked, labels, teachers
    )
    if alpha == 0:
        as_by_hand(
            loss, lambda one, other: (ce(one, labels) + ce(other, labels)) / 2, clean, attacked, labels, teachers
        )


def test_labels_alone_are_clean_training():
    """ARD with α = 0 ends bit by bit where conventional training ends, whoever the teacher is."""
    ended = []
    for spec in (recipe(attack=ADVERSARY, objective=ARD(alpha=0.0), kept_epoch="last"), recipe(kept_epoch="last")):
        model = plain()
        finish(trainer(model, spec, seed=1, parents={"teacher": plain(5).eval()}))
        ended.append(parameters(model))
    assert same(*ended)


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_the_teacher_sees_the_crops_of_the_student(augmentation):
    """It gets exactly the batches that the student gets; without augmentation all images once, before training.

    Eight more are those of the warm-up.
    """
    seen = {"teacher": [], "student": []}

    def watched(role, model):
        model.register_forward_pre_hook(
            lambda module, inputs: None if inputs[0].requires_grad else seen[role].append(inputs[0].clone())
        )
        return model

    model, teacher = watched("student", plain()), watched("teacher", plain(5).eval())
    spec = recipe(epochs=1, attack=ADVERSARY, objective=RSLAD())
    made = trainer(model, spec, problem(24), parents={"teacher": teacher}, augmentation=augmentation)
    made._ready()
    before = len(seen["teacher"])
    seen["student"].clear()
    made.step()
    after = seen["teacher"][before:]
    if augmentation == "none":
        assert (sum(map(len, seen["teacher"][:before])), after) == (24 + 8, [])
    else:
        clean = seen["student"][: 2 * len(after) : 2]  # of every update the clean images, then the attacked ones
        assert len(after) == 3
        assert all(torch.equal(*pair) for pair in zip(after, clean, strict=True))


def test_a_student_of_a_robust_teacher_comes_near_it():
    """Soft labels alone, by each of the three objectives, make it agree with its teacher more than it did."""
    teacher = network(seed=9, dropout=0.0)
    run(teacher, recipe(attack=ADVERSARY, epochs=4), problem(60))
    teacher.eval()
    images = problem(30, seed=2).images.float() / 255
    for objective in (ARD(temperature=2.0), RSLAD(), DARD(alpha=1.0)):
        model = network(dropout=0.0)
        agreed = [(model.eval()(images).argmax(1) == teacher(images).argmax(1)).sum().item()]
        run(
            model,
            recipe(optimiser="adam", learning_rate=0.01, epochs=8, attack=ADVERSARY, objective=objective),
            problem(60),
            parents={"teacher": teacher},
        )
        agreed.append((model.eval()(images).argmax(1) == teacher(images).argmax(1)).sum().item())
        assert agreed[1] >= 27 > agreed[0]


def test_dice_is_its_formula():
    """1 − 2 p_y ÷ (Σ p² + 1) of each image; the second function leaves out those that are wrong."""
    logits, *_, labels = drawn()
    shares = softmax(logits.double().numpy())
    each = [1 - 2 * row[label] / ((row**2).sum() + 1) for row, label in zip(shares, labels.tolist(), strict=True)]
    right = (logits.argmax(1) == labels).tolist()
    assert 0 < sum(right) < len(right)
    assert dice(logits, labels).item() == pytest.approx(sum(each))
    kept = [one for one, is_right in zip(each, right, strict=True) if is_right]
    assert dice_of_right(logits, labels).item() == pytest.approx(sum(kept))


def test_dice_pgd_is_the_weighted_attack_of_the_paper():
    """(1 − λ_t) · Dice of right images + λ_t · Dice of wrong ones, λ_t = (t − 1) ÷ 2T, written out for every step."""
    model, steps = plain(2).double(), 5
    images, labels = problem(30).images.double() / 255, torch.arange(30) % 3
    loss = loss_function(DicePGD(), model, {})
    assert 0 < (model(images).argmax(1) == labels).sum() < 30
    found = attacked(
        model,
        type(ADVERSARY)(epsilon=0.2, step_size=0.06, steps=steps, random_start=False),
        "float32",
        images,
        labels,
        None,
        adversary=loss.adversary,
    )
    iterate = images
    for t in range(1, steps + 1):
        iterate = iterate.detach().requires_grad_()
        logits = model(iterate)
        shares, weight = logits.softmax(1), (t - 1) / (2 * steps)
        each = 1 - 2 * shares[torch.arange(30), labels] / (shares.square().sum(1) + 1)
        right = logits.argmax(1) == labels
        value = (1 - weight) * each[right].sum() + weight * each[~right].sum()
        (gradient,) = torch.autograd.grad(value, iterate)
        step = iterate.detach() + 0.06 * gradient.sign()
        iterate = torch.min(torch.max(step, images - 0.2), images + 0.2).clamp(0, 1)
    torch.testing.assert_close(found, iterate)
    usual = pgd(model, images, labels, 0.2, step_size=0.06, steps=steps, random_start=False)
    assert not torch.equal(found, usual)
