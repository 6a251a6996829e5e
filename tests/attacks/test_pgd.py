"""Attacks: ball and box are never left, an image's result is its own, and a linear model has a known answer."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from networks import linear
from torch import nn

from robbench.attacks import (
    BALL_TOLERANCE,
    evaluating,
    fgsm,
    is_counterexample,
    pgd,
    without_parameter_gradients,
)
from robbench.errors import RobbenchError

SHAPE = (1, 4, 4)
SEEDS = st.integers(0, 10_000)
RADII = st.lists(st.floats(0, 1.5), min_size=1, max_size=6)


def small_cnn(seed=0, classes=3, dtype=torch.float64):
    """A convolution with a smooth activation and a linear layer: gradients without ties."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, classes)
        return nn.Sequential(*layers).to(dtype)


def random_images(count, seed, box=(0.0, 1.0)):
    """Images in the box, some pixels on its border, and labels of three classes."""
    generator = torch.Generator().manual_seed(seed)
    images = (torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    labels = torch.randint(3, (count,), generator=generator)
    return images * (box[1] - box[0]) + box[0], labels


@given(
    radii=RADII,
    seed=SEEDS,
    steps=st.integers(1, 3),
    random_start=st.booleans(),
    box=st.sampled_from([(0.0, 1.0), (-2.5, 2.5), (0.25, 0.5)]),
    precision=st.sampled_from([(torch.float64, 1e-12), (torch.float32, BALL_TOLERANCE)]),
)
def test_no_radius_takes_an_image_out_of_its_ball_or_box(radii, seed, steps, random_start, box, precision):
    """|x' − x| ≤ ε holds for every image's own ε up to rounding, and box for every pixel exactly."""
    dtype, tolerance = precision
    images, labels = random_images(len(radii), seed, box)
    images, epsilon = images.to(dtype), torch.tensor(radii, dtype=dtype)
    model = small_cnn(seed, dtype=dtype)
    found = pgd(model, images, labels, epsilon, steps=steps, step_size=0.7, random_start=random_start, box=box)
    assert ((found - images).abs().flatten(1).amax(1) <= epsilon + tolerance).all()
    assert found.min() >= box[0]
    assert found.max() <= box[1]
    assert not found.requires_grad


@given(st.lists(st.floats(0, 0.8), min_size=2, max_size=8), SEEDS, st.data())
def test_a_batch_never_changes_an_images_result(radii, seed, data):
    """However the images are split into batches and ordered, each gets the same adversarial image."""
    images, labels = random_images(len(radii), seed)
    epsilon, model = torch.tensor(radii, dtype=torch.float64), small_cnn(seed)
    whole = pgd(model, images, labels, epsilon, steps=3, random_start=False)
    order = torch.tensor(data.draw(st.permutations(range(len(radii)))))
    cut = data.draw(st.integers(1, len(radii) - 1))
    for part in (order[:cut], order[cut:]):
        alone = pgd(model, images[part], labels[part], epsilon[part], steps=3, random_start=False)
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-12)


@given(RADII, SEEDS)
def test_one_step_without_random_start_is_fgsm(radii, seed):
    """PGD-1 from the image itself, by default of step ε, is x + ε·sign(∇ loss), clipped to the box."""
    images, labels = random_images(len(radii), seed)
    epsilon, model = torch.tensor(radii, dtype=torch.float64), small_cnn(seed)
    inputs = images.clone().requires_grad_()
    F.cross_entropy(model(inputs), labels).backward()
    expected = (images + epsilon.view(-1, 1, 1, 1) * inputs.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(fgsm(model, images, labels, epsilon), expected, rtol=0, atol=1e-12)
    one = pgd(model, images, labels, epsilon, steps=1, random_start=False)
    torch.testing.assert_close(one, expected, rtol=0, atol=1e-12)


@given(SEEDS, st.floats(0.01, 0.6), st.integers(1, 5), st.booleans())
def test_a_linear_model_is_attacked_optimally(seed, epsilon, steps, random_start):
    """The margin falls to that of the ball's best corner inside the box, whatever the steps, if they reach it."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(16, generator=generator, dtype=torch.float64)
    images, _ = random_images(4, seed)
    labels = torch.tensor([0, 1, 0, 1])
    away = epsilon * (2.0 * labels - 1).double().view(-1, 1, 1, 1) * weight.view(SHAPE).sign()
    best = (images + away).clamp(0, 1)
    model = linear(weight)
    step = 2 * epsilon / steps
    found = pgd(model, images, labels, epsilon, steps=steps, step_size=step, random_start=random_start)
    torch.testing.assert_close(found, best, rtol=0, atol=1e-12)
    torch.testing.assert_close(fgsm(model, images, labels, epsilon), best, rtol=0, atol=1e-12)


@given(SEEDS, st.floats(0.01, 0.3), st.integers(1, 7))
def test_the_default_step_is_epsilon_over_steps(seed, epsilon, steps):
    """Without a step size every step is ε ÷ steps, which the last of them just takes to the border of the ball."""
    images, labels = random_images(3, seed)
    model = small_cnn(seed)
    default = pgd(model, images, labels, epsilon, steps=steps, random_start=False)
    named = pgd(model, images, labels, epsilon, steps=steps, step_size=epsilon / steps, random_start=False)
    torch.testing.assert_close(default, named, rtol=0, atol=1e-12)
    straight = linear(torch.ones(16, dtype=torch.float64))
    grey = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    moved = pgd(straight, grey, torch.tensor([0]), epsilon, steps=steps, random_start=False)
    torch.testing.assert_close(moved, grey - epsilon, rtol=0, atol=1e-12)


def test_the_generator_alone_decides_the_random_start():
    """The same seed gives the same images whatever the global state, another seed others; both differ from none."""
    images, labels = random_images(4, 0)
    model = small_cnn()

    def attack(seed):
        generator = torch.Generator().manual_seed(seed)
        return pgd(model, images, labels, 0.3, steps=1, step_size=0.01, generator=generator)

    state = torch.random.get_rng_state()
    first = attack(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(attack(1), first)
    assert not torch.equal(attack(2), first)
    far = (first - images).abs()
    assert far.max() > 0.2
    assert far.min() < 0.1


def test_given_noise_is_the_random_start():
    """None at all begins at the images, as without a random start."""
    images, labels = random_images(4, 0)
    model = small_cnn()
    given = pgd(model, images, labels, 0.1, steps=2, step_size=0.01, noise=torch.zeros_like(images))
    assert torch.equal(given, pgd(model, images, labels, 0.1, steps=2, step_size=0.01, random_start=False))


def test_a_random_start_fills_the_ball_evenly():
    """Of many grey pixels, starts have mean 0 and the uniform distribution's deviation ε ÷ √3."""
    grey = torch.full((1000, *SHAPE), 0.5)
    model = linear(torch.ones(16, dtype=torch.float64)).float()
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(1000, dtype=torch.int64)
    away = pgd(model, grey, labels, 0.3, steps=1, step_size=1e-9, generator=generator) - grey
    assert abs(away.mean().item()) < 0.01
    assert away.std().item() == pytest.approx(0.3 / 3**0.5, abs=0.005)


class Moody(nn.Module):
    """Batch norm and dropout, one part in eval mode and one parameter frozen; raises where asked to."""

    def __init__(self, raises=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 3))
        self.body[1].eval()
        self.body[0].bias.requires_grad_(False)
        self.body[4].weight.grad = torch.full_like(self.body[4].weight, 7.0)
        self.raises = raises

    def forward(self, images):
        """(N, 1, 4, 4) -> (N, 3)."""
        if self.raises:
            raise RuntimeError("no more")
        return self.body(images)

    def state(self):
        """Everything an attack could leave behind."""
        flags = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in self.parameters()]
        return [module.training for module in self.modules()], flags


@pytest.mark.parametrize("raises", [False, True])
def test_an_attack_leaves_the_model_as_it_was(raises):
    """Modes, requires_grad flags and gradients are as before, even when the model raises half-way."""
    model = Moody(raises)
    before = model.state()
    images, labels = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    try:
        pgd(model, images, labels, 0.1, steps=2)
    except RuntimeError:
        assert raises
    assert model.state() == before
    assert not images.requires_grad


def test_a_backward_pass_of_an_attack_computes_the_images_gradient_alone():
    """Inside, no parameter requires a gradient, which would cost time and memory; afterwards those do that did."""
    model, seen = Moody(), []
    before = [parameter.requires_grad for parameter in model.parameters()]
    model.register_forward_pre_hook(lambda *_: seen.append([p.requires_grad for p in model.parameters()]))
    pgd(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), 0.1, steps=2)
    assert seen == [[False] * len(before)] * 2
    with suppress(RuntimeError), without_parameter_gradients(model):
        raise RuntimeError("no more")
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_fgsm_keeps_to_the_box_it_is_given():
    """From grey, a step of 0.4 ends at the box, at the default one of pixels, or in the ball."""
    grey, labels = torch.full((1, *SHAPE), 0.75, dtype=torch.float64), torch.tensor([1])
    straight = linear(torch.ones(16, dtype=torch.float64))
    for options, reached in (({}, 1.0), ({"box": (0.0, 0.8)}, 0.8), ({"box": (-2.5, 2.5)}, 1.15)):
        moved = fgsm(straight, grey, labels, 0.4, **options)
        torch.testing.assert_close(moved, torch.full_like(grey, reached), rtol=0, atol=1e-12)
    down = fgsm(straight, 1 - grey, torch.tensor([0]), 0.4)
    assert torch.equal(down, torch.zeros_like(grey))


def test_a_radius_of_zero_and_one_number_for_all_images_are_radii():
    """ε = 0 leaves every image where it is; a tensor of one number is that number."""
    images, labels = random_images(3, 1)
    model = small_cnn()
    for zero in (0, 0.0, torch.tensor(0.0), torch.zeros(3)):
        assert torch.equal(pgd(model, images, labels, zero, steps=2), images)
    number = pgd(model, images, labels, 0.5, steps=2, random_start=False)
    one = pgd(model, images, labels, torch.tensor(0.5), steps=2, random_start=False)
    assert torch.equal(number, one)
    stay = pgd(model, images, labels, 0.5, step_size=0.0, steps=2, random_start=False)
    assert torch.equal(stay, images)


def test_evaluating_restores_mixed_modes_even_after_an_error():
    """Inside, every module is in eval mode; afterwards each is in the mode it had."""
    model = Moody()
    before = [module.training for module in model.modules()]
    assert True in before
    assert False in before
    with suppress(RuntimeError), evaluating(model) as evaluated:
        assert evaluated is model
        assert not any(module.training for module in model.modules())
        raise RuntimeError("no more")
    assert [module.training for module in model.modules()] == before


def test_an_attack_works_where_gradients_are_switched_off():
    """Under no_grad, too, the image moves towards a higher loss."""
    images, labels = random_images(3, 5)
    model = small_cnn()
    with torch.no_grad():
        found = fgsm(model, images, labels, 0.2)
        assert F.cross_entropy(model(found), labels) > F.cross_entropy(model(images), labels) + 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": -0.1}, r"epsilon: expected a number ≥ 0 in pixel units, got -0\.1"),
        ({"epsilon": torch.tensor([0.1, -0.2, 0.1])}, r"epsilon: expected numbers ≥ 0 in pixel units, got -0\.2"),
        ({"epsilon": torch.tensor([0.1, 0.1])}, r"epsilon: expected one number or 3, got \(2,\)"),
        ({"step_size": -1.0}, r"step_size: expected a number ≥ 0 in pixel units, got -1\.0"),
        ({"steps": 0}, "steps: expected an integer ≥ 1, got 0"),
        ({"labels": torch.tensor([0, 1])}, r"labels: expected shape \(3,\), got \(2,\)"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    """A negative radius or step, a wrong number of them, no step and a wrong number of labels: each an error."""
    images, labels = random_images(3, 0)
    with pytest.raises(RobbenchError, match=message):
        pgd(**({"network": small_cnn(), "images": images, "labels": labels, "epsilon": 0.1, "steps": 1} | changes))


def test_a_counterexample_must_be_wrong_and_inside_ball_and_box():
    """Of five images only the misclassified one inside ball and box counts; without the box's limits, two do."""
    model = linear(torch.ones(16, dtype=torch.float64), bias=-8.0)  # class 0 where the mean pixel is above 0.5
    images = torch.full((5, *SHAPE), 0.52, dtype=torch.float64)
    images[4] = 0.02
    labels = torch.tensor([0, 0, 0, 0, 1])
    found = images.clone()
    found[0] -= 0.05  # misclassified, inside
    found[1] -= 0.01  # still right
    found[2] -= 0.11  # outside the ball
    found[3, 0, 0, 0] -= 0.2  # one pixel outside the ball, still right
    found[4] = -0.05  # outside the box
    epsilon = torch.full((5,), 0.1)
    assert is_counterexample(model, found, images, labels, epsilon).tolist() == [True, False, False, False, False]
    labels[4] = 0
    assert is_counterexample(model, found, images, labels, epsilon).tolist() == [True, False, False, False, False]
    wide = is_counterexample(model, found, images, labels, epsilon, box=(-1.0, 2.0))
    assert wide.tolist() == [True, False, False, False, True]
    found[4] = float("nan")
    assert is_counterexample(model, found, images, labels, epsilon, box=(-1.0, 2.0)).tolist()[4] is False


@pytest.mark.parametrize("value", [1.000_001, -0.000_001])
def test_one_pixel_outside_the_box_is_too_many(value):
    """The box has its borders, by default 0 and 1, and each of them is inside."""
    model = linear(-torch.ones(16, dtype=torch.float64))
    images, inside = torch.full((2, *SHAPE), 0.5, dtype=torch.float64), round(value)
    found = images.clone()
    found[:, 0, 0, 0] = torch.tensor([inside, value])
    result = is_counterexample(model, found, images, torch.tensor([0, 0]), 2.0)
    assert result.tolist() == [True, False]


@pytest.mark.parametrize(("beyond", "counts"), [(-1e-3, True), (0.9e-6, True), (1.1e-6, False), (3e-6, False)])
def test_a_ball_ends_at_its_tolerance(beyond, counts):
    """A millionth beyond ε, and no more, still counts as inside, for a radius per image."""
    model = linear(-torch.ones(16, dtype=torch.float64))
    images = torch.full((2, *SHAPE), 0.5, dtype=torch.float64)
    labels, epsilon = torch.tensor([0, 0]), torch.tensor([0.1, 0.3], dtype=torch.float64)
    found = images + (epsilon + beyond).view(-1, 1, 1, 1)
    assert is_counterexample(model, found, images, labels, epsilon).tolist() == [counts, counts]


def test_one_logit_that_is_not_finite_spoils_its_own_image_only():
    """Of three images with one such logit each none counts, and the fourth beside them does."""
    logits = torch.tensor([[torch.inf, 0.0], [0.0, -torch.inf], [torch.nan, 1.0], [1.0, 0.0]])
    images = torch.full((4, 1, 2, 2), 0.5)
    labels = torch.ones(4, dtype=torch.int64)
    found = is_counterexample(lambda batch: logits, images, images, labels, torch.full((4,), 0.1))
    assert found.tolist() == [False, False, False, True]
