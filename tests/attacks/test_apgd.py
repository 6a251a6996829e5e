"""Targeted Auto-PGD: what it finds lies in ball and box, and it finds what there is to find."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Counting, linear_case, on_patterns, problem
from torch import nn

from robbench.attacks import apgd_t, is_counterexample, pgd
from robbench.attacks.apgd import _checkpoints, _targeted_ratio
from robbench.errors import RobbenchError

SEEDS = st.integers(0, 10_000)


def linear_classes(seed, classes):
    """A random linear model of several classes, images of pixels within its box, and its own answers; float64."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes, dtype=torch.float64))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 36, generator=generator, dtype=torch.float64))
        model[1].bias.zero_()
    images = 0.4 + 0.2 * torch.rand(10, 1, 6, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    return model, images, labels


def smallest(model, images, labels):
    """(N,): the least perturbation that lets another logit reach the label's, which is its margin ÷ ‖w‖₁."""
    logits, weight = model(images).detach(), model[1].weight.detach()
    margins = logits.gather(1, labels[:, None]) - logits
    norms = (weight[labels][:, None] - weight).abs().sum(dim=2)
    return (margins / norms).scatter(1, labels[:, None], torch.inf).amin(dim=1)


@given(SEEDS, st.sampled_from([2, 3, 4, 7]))
def test_a_linear_model_is_fooled_just_above_its_margin_and_not_below(seed, classes):
    """Each image has its own radius, a thousandth above and below margin ÷ ‖w‖₁ of the nearest class."""
    model, images, labels = linear_classes(seed, classes)
    exact = smallest(model, images, labels)
    for share, expected in ((1.001, True), (0.999, False)):
        found = apgd_t(model, images, labels, share * exact, steps=10)
        assert (is_counterexample(model, found, images, labels, share * exact) == expected).all()
        if not expected:
            assert torch.equal(found, images)


@given(SEEDS, st.lists(st.floats(0, 0.5), min_size=2, max_size=8), st.sampled_from([(0.0, 1.0), (0.4, 0.6)]), st.data())
def test_a_batch_never_changes_an_images_result_nor_takes_it_out_of_ball_or_box(seed, radii, box, data):
    """However the images are split into batches and ordered."""
    images, labels = problem(len(radii), seed)
    images, epsilon, model = (
        (images / 255).double().clamp(*box),
        torch.tensor(radii, dtype=torch.float64),
        on_patterns(),
    )
    model.eval()
    whole = apgd_t(model, images, labels, epsilon, steps=7, box=box)
    assert ((whole - images).abs().flatten(1).amax(1) <= epsilon + 1e-12).all()
    assert box[0] <= whole.min() <= whole.max() <= box[1]
    order = torch.tensor(data.draw(st.permutations(range(len(radii)))))
    cut = data.draw(st.integers(1, len(radii) - 1))
    for part in (order[:cut], order[cut:]):
        alone = apgd_t(model, images[part], labels[part], epsilon[part], steps=7, box=box)
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.02, 0.05, 0.1])
def test_it_fools_what_pgd_fools(epsilon):
    """On a trained network, all images that PGD fools with as many steps, and some that it does not."""
    images, labels = problem(300, seed=5)
    images, model = (images / 255).double(), on_patterns().eval()
    ours = apgd_t(model, images, labels, epsilon, steps=40)
    theirs = pgd(model, images, labels, epsilon, steps=40, random_start=False)
    fooled, by_pgd = (is_counterexample(model, found, images, labels, epsilon) for found in (ours, theirs))
    assert (fooled | ~by_pgd).all()
    assert torch.equal(
        fooled, (ours != images).flatten(1).any(dim=1) | is_counterexample(model, images, images, labels, 0)
    )


def test_fooled_images_leave_the_batch():
    """An image that is wrong anyway is looked at twice; one that nothing fools goes for every class, or for those asked."""
    model, images, labels = linear_classes(0, 5)
    passes = []
    for chosen, options in ((1 - labels.clamp(max=1), {}), (labels, {}), (labels, {"targets": 2})):
        counting = Counting(model)
        assert torch.equal(apgd_t(counting, images, chosen, 0.0, steps=3, **options), images)
        passes.append((counting.forwards / 10, counting.backwards / 10))
    assert passes == [(1 + 4, 3), (1 + 4 * 4, 4 * 3), (1 + 2 * 4, 2 * 3)]


def test_the_step_is_looked_at_where_the_paper_says():
    """22 % of the steps, then shares that shrink by 3 points each, to 6 points at least (section 3), rounded up."""
    assert sorted(_checkpoints(100)) == [0, 22, 41, 57, 70, 80, 87, 93, 99, 105]


def test_the_objective_is_the_targeted_ratio_of_the_paper():
    """Equation 8 with its sign turned, as it is raised here: −(z_y − z_t) ÷ (z_π1 − (z_π3 + z_π4) ÷ 2)."""
    logits = torch.tensor([[5.0, 1.0, 4.0, 2.0, 0.0]], dtype=torch.float64)
    ratio = _targeted_ratio(logits, torch.tensor([0]), torch.tensor([1]))
    assert ratio.item() == pytest.approx(-(5 - 1) / (5 - (2 + 1) / 2))
    few = _targeted_ratio(logits[:, :3], torch.tensor([0]), torch.tensor([2]))
    assert few.item() == -1.0


def test_a_network_without_a_gradient_leaves_the_images_alone():
    """Nothing moves, and nothing is raised, where all logits are equal or torch has no way back to the images."""
    _, images, _ = linear_classes(0, 4)
    labels = torch.zeros(10, dtype=torch.int64)
    for network in (lambda pixels: pixels.flatten(1)[:, :4] * 0, lambda pixels: torch.eye(4)[labels]):
        cut = nn.Module()
        cut.forward = network
        assert torch.equal(apgd_t(cut, images, labels, 0.1, steps=5), images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": torch.tensor([0.1, 0.1])}, r"epsilon: expected one number or 12, got \(2,\)"),
        ({"epsilon": -0.1}, r"epsilon: expected a number ≥ 0 in pixel units, got -0\.1"),
        ({"steps": 0}, "steps: expected an integer ≥ 1, got 0"),
        ({"labels": torch.tensor([0, 1])}, r"labels: expected shape \(12,\), got \(2,\)"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    """As PGD's."""
    model, images, labels, _ = linear_case(0)
    with pytest.raises(RobbenchError, match=message):
        apgd_t(**({"network": model, "images": images, "labels": labels, "epsilon": 0.1, "steps": 1} | changes))
