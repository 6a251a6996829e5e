"""Robust accuracy at fixed radii: a linear model's robust accuracy is known in closed form, and batches change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import Cramped, linear_case
from searches import accuracies, drive, interrupted, problem_of

from robbench.estimation.fixed_radii import FixedRadii
from robbench.estimation.problem import Outcome
from robbench.spec import PGD

FGSM = PGD(epsilon=0.02, steps=1, random_start=False)


def problem(count=40, seed=0):
    """A linear model, images, which of them are right, and the smallest radius that turns each."""
    model, images, labels, turning = linear_case(seed, count)
    labels[::4] = 1 - labels[::4]
    return model, images, labels, torch.arange(count) % 4 != 0, turning


@pytest.mark.parametrize("batch_size", [None, 1, 7, 40])
def test_a_linear_models_robust_accuracy_is_its_closed_form(batch_size):
    """Right and |w·x| ÷ ‖w‖₁ above the radius: under FGSM and PGD alike, whatever the batch."""
    model, images, labels, correct, turning = problem()
    radii = [turning[correct].quantile(share).item() for share in (0.25, 0.5, 0.9)]
    attacks = [
        attack
        for radius in radii
        for attack in (
            PGD(epsilon=radius, steps=1, random_start=False),
            PGD(epsilon=radius, steps=5, step_size=radius / 4, random_start=False),
        )
    ]
    found = accuracies(model, images, labels, correct, attacks, batch_size=batch_size)
    expected = [int((correct & (turning > radius)).sum()) for radius in radii for _ in range(2)]
    assert [entry.robust.correct for entry in found] == expected
    assert len(set(expected)) == 3
    assert {entry.robust.total for entry in found} == {40}
    assert [entry.attack for entry in found] == ["fgsm", "pgd"] * 3
    assert [entry.steps for entry in found] == [1, 5] * 3
    assert [(entry.epsilon, entry.step_size) for entry in found[:2]] == [(radii[0], radii[0]), (radii[0], radii[0] / 4)]


def test_images_that_are_wrong_already_are_not_attacked():
    """The network sees every right image twice: to attack it, and to judge it."""
    model, images, labels, correct, _ = problem()
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    accuracies(model, images, labels, correct, [FGSM], batch_size=20)
    assert sum(seen) == 2 * 30


def test_no_right_image_and_no_attack():
    """Nothing to attack is robust accuracy 0; no attack is no result."""
    model, images, labels, correct, _ = problem()
    (found,) = accuracies(model, images, labels, torch.zeros_like(correct), [FGSM])
    assert (found.robust.correct, found.robust.total) == (0, 40)
    assert accuracies(model, images, labels, correct, []) == []


def part(model, images, labels, attacks, batch_size=20, **options):
    """Robust accuracy of images that are all right."""
    problem = problem_of(model, images, labels, **options)
    return FixedRadii(problem, attacks, Outcome(torch.zeros_like(labels), batch_size=batch_size))


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_a_random_start_is_each_images_own(batch_size):
    """The network first sees every image moved by a noise that follows from its number, whatever the batch."""
    model, images, labels, correct, _ = problem()
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    accuracies(model, images, labels, correct, [replace(FGSM, random_start=True)], batch_size=batch_size)
    moves = (torch.cat(seen[::2]) - images[correct]) / FGSM.epsilon
    for number, move in zip(correct.nonzero().flatten().tolist(), moves, strict=True):
        drawn = torch.rand(move.shape, generator=torch.Generator().manual_seed(number), dtype=move.dtype)
        torch.testing.assert_close(move, drawn * 2 - 1)


def test_half_the_batch_where_memory_runs_out():
    """The result is as it would have been, and a note says so."""
    model, images, labels, _, _ = problem()
    expected = drive(part(model, images, labels, [FGSM])).outcome
    notes = []
    assert drive(part(Cramped(model, 10), images, labels, [FGSM], batch_size=40, notes=notes)).outcome == expected
    assert notes == [
        f"out of memory: robust accuracy at fixed radii went on with batches of {size} images" for size in (20, 10)
    ]


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5])
def test_an_interrupted_part_counts_no_image_twice(after):
    """Stopped after any batch, of the first attack or the second, it goes on to the same counts."""
    model, images, labels, _, _ = problem()
    attacks = [PGD(epsilon=epsilon, steps=2, random_start=False) for epsilon in (0.01, 0.1)]
    whole, progress = part(model, images, labels, attacks, 15), []
    while not whole.done:
        whole.step()
        progress.append(whole.progress)
    assert progress == [(15, 80), (30, 80), (40, 80), (55, 80), (70, 80), (80, 80)]
    found = interrupted(lambda: part(model, images, labels, attacks, 15), after).outcome
    assert found == whole.outcome
    assert 0 < sum(accuracy.robust.correct for accuracy in found) < 80
