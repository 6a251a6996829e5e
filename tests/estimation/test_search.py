"""p*: the batched search returns what the published sequential one does, and what a linear model's closed form says."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import SHAPE, Counting, linear, linear_case, on_patterns, problem
from searches import oracle
from torch import nn

from robbench.estimation.search import Search, estimate_pstar
from robbench.record import MISCLASSIFIED
from robbench.spec import PGD, EpsilonGrid

SEEDS = st.integers(0, 10_000)
GRID = EpsilonGrid(stop=0.16, step=0.005).values


@pytest.fixture(scope="module")
def trained(one_thread):
    """A small convolutional network; float64."""
    return on_patterns()


def published_pstar(model, image, label, grid, steps):
    """ADA-VERONA's sequential search for one image: index of p*, len(grid) if never fooled, MISCLASSIFIED if misclassified."""
    with torch.no_grad():
        if model(image[None]).argmax().item() != label:
            return MISCLASSIFIED
    first, last, smallest = 0, len(grid) - 1, len(grid)
    while first <= last:
        middle = (first + last) // 2
        epsilon = grid[middle]
        adversarial = image[None].clone()
        for _ in range(steps):
            adversarial.requires_grad_()
            loss = nn.CrossEntropyLoss()(model(adversarial), torch.tensor([label]))
            (gradient,) = torch.autograd.grad(loss, adversarial)
            stepped = adversarial.detach() + epsilon / steps * gradient.sign()
            delta = torch.clamp(stepped - image, min=-epsilon, max=epsilon)
            adversarial = torch.clamp(image + delta, min=0, max=1)
        with torch.no_grad():
            fooled = model(adversarial).argmax().item() != label
        if fooled:
            smallest, last = middle, middle - 1
        else:
            first = middle + 1
    return smallest


@pytest.mark.parametrize(
    ("dtype", "count", "steps", "batch_size"),
    [
        (torch.float64, 200, 8, 64),
        (torch.float64, 30, 40, 7),
        (torch.float32, 100, 8, 33),
        (torch.float32, 20, 40, None),
    ],
)
def test_the_search_returns_image_by_image_what_the_published_one_does(trained, dtype, count, steps, batch_size):
    """Binary search, one image at a time, written out above, finds the same p* for every one of the images."""
    images, labels = problem(count, seed=steps + count)
    model = copy.deepcopy(trained).to(dtype)
    pixels = images.to(dtype) / 255
    given = images if dtype == torch.float32 else pixels
    search = estimate_pstar(model, given, labels, GRID, oracle(steps), batch_size=batch_size)
    model.eval()
    pairs = zip(pixels, labels.tolist(), strict=True)
    expected = [published_pstar(model, image, label, GRID, steps) for image, label in pairs]
    assert search.pstar.tolist() == expected
    assert MISCLASSIFIED in expected
    assert len(set(expected)) > 8


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.002, 0.005, 0.01, 0.03]), st.floats(0.03, 0.3), st.integers(1, 6))
def test_a_linear_models_pstar_is_its_margin_rounded_up_to_the_grid(seed, step, stop, steps):
    """p* is the smallest grid value above |w·x + b| ÷ ‖w‖₁, and censored where the grid ends before."""
    model, images, labels, exact = linear_case(seed)
    grid = EpsilonGrid(stop=stop, step=step).values
    assume(all(abs(value - radius) > 1e-9 for value in exact.tolist() for radius in grid))
    search = estimate_pstar(model, images, labels, grid, oracle(steps), batch_size=5)
    assert search.pstar.tolist() == [sum(radius < value for radius in grid) for value in exact.tolist()]


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 6), st.integers(1, 8))
def test_a_larger_grid_step_never_finds_a_smaller_pstar(seed, factor, coarse_values):
    """On a grid of every n-th radius, a linear model's p* is as large or larger, by less than one of its steps."""
    model, images, labels, _ = linear_case(seed)
    coarse = EpsilonGrid(stop=0.006 * factor * coarse_values, step=0.006 * factor).values
    fine = EpsilonGrid(stop=0.006 * factor * coarse_values, step=0.006).values
    assert set(coarse) <= set(fine)

    def pstar(grid):
        search = estimate_pstar(model, images, labels, grid, oracle(2))
        return [[*grid, math.inf][place] for place in search.pstar.tolist()]

    for large, small in zip(pstar(coarse), pstar(fine), strict=True):
        assert large >= small
        assert math.isinf(small) or large - small < 0.006 * factor - 1e-9


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 45), st.integers(0, 3), st.integers(1, 4))
def test_the_batch_size_never_changes_pstar(trained, batch_size, seed, steps):
    """Any batch size finds the p* that one batch of all images finds, with as many passes."""
    images, labels = problem(40, seed)
    images = images.double() / 255
    whole = estimate_pstar(trained, images, labels, GRID, oracle(steps), batch_size=40)
    split = estimate_pstar(trained, images, labels, GRID, oracle(steps), batch_size=batch_size)
    assert split.pstar.tolist() == whole.pstar.tolist()
    assert (split.forward, split.backward) == (whole.forward, whole.backward)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 30))
def test_passes_are_counted_exactly_and_no_batch_is_larger_than_asked(trained, batch_size, steps, count):
    """Forward and backward are the images that the network really saw, and none of its batches exceeds the size."""
    images, labels = problem(count, seed=count)
    model = Counting(trained)
    search = estimate_pstar(model, images.double() / 255, labels, GRID, oracle(steps), batch_size=batch_size)
    assert (search.forward, search.backward) == (model.forwards, model.backwards)
    assert model.largest <= batch_size


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["reference", "fast"]), st.sampled_from([(0.0, 1.0), (-0.1, 1.05)]), st.integers(3, 40))
def test_what_is_kept_proves_every_pstar(trained, search, box, batch_size):
    """One image for each p*, inside its ball and box and misclassified by float32 inference; keeping changes nothing."""
    images, labels = problem(40, seed=3)
    model, attack = copy.deepcopy(trained).float(), PGD(steps=5, random_start=False, box=box)
    options = {"search": search, "batch_size": batch_size}
    plain = estimate_pstar(model, images, labels, GRID, attack, **options)
    kept = estimate_pstar(model, images, labels, GRID, attack, keep_adversarials=True, **options)
    assert plain.adversarials is None
    assert torch.equal(plain.pstar, kept.pstar)
    assert (plain.forward, plain.backward) == (kept.forward, kept.backward)

    found = (kept.pstar != MISCLASSIFIED) & (kept.pstar < len(GRID))
    assert 10 < found.sum() < 40
    assert kept.adversarials.dtype == torch.float32
    assert not kept.adversarials[~found].any()
    adversarial, originals = kept.adversarials[found], images[found].float() / 255
    distance = (adversarial.double() - originals.double()).abs().flatten(1).amax(1)
    radius = torch.tensor(GRID, dtype=torch.float64)[kept.pstar[found]]
    assert (radius > 0).all()
    assert (distance <= radius + 1e-6).all()
    assert box[0] <= adversarial.min() <= adversarial.max() <= box[1]
    with torch.no_grad():
        assert (model.eval()(adversarial).argmax(1) != labels[found]).all()


def test_a_grid_keeps_its_double_precision():
    """A margin just below 0.7, which in float32 is smaller still: the radius 0.7 fools, and not only the next one."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0 + 36 * (0.7 - 5e-9))
    images, labels = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0])
    wide = PGD(steps=1, random_start=False, box=(-2.5, 2.5))
    assert estimate_pstar(model, images, labels, [0.0, 0.7, 1.0], wide).pstar.tolist() == [1]


def test_a_search_begins_without_any_pass():
    """What is given are the brackets alone."""
    search = Search(first=torch.tensor([0, 3]), last=torch.tensor([2, 2]), pstar=torch.tensor([3, 3]))
    assert (search.forward, search.backward, search.notes) == (0, 0, [])
    assert search.undecided.tolist() == [0]
    search.first[0] = 2
    assert search.undecided.tolist() == [0]


def test_a_constant_network_is_never_fooled_or_always_wrong():
    """Images of the class it names are censored, the others wrong, and the wrong ones are never attacked."""
    model = Counting(linear(torch.zeros(36, dtype=torch.float64), bias=1.0))
    images, labels = torch.rand(6, *SHAPE, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 1])
    search = estimate_pstar(model, images, labels, [0.0, 0.1, 0.2, 0.3], oracle(5))
    assert search.pstar.tolist() == [4, MISCLASSIFIED, 4, MISCLASSIFIED, MISCLASSIFIED, MISCLASSIFIED]
    # Two images, probed at 1, 2 and 3 with five steps and a confirmation each.
    assert (search.forward, search.backward) == (6 + 2 * 3 * 6, 2 * 3 * 5)
    assert (search.first.tolist(), search.last.tolist()) == ([4, 0, 4, 0, 0, 0], [3, -1, 3, -1, -1, -1])


def test_the_smallest_possible_pstar_is_the_first_radius_above_zero():
    """An image next to the decision border falls at the grid's first step, never at ε = 0, where nothing is attacked."""
    model = Counting(linear(torch.ones(36, dtype=torch.float64), bias=-18.0 + 1e-6))
    images, labels = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0])
    search = estimate_pstar(model, images, labels, [0.0, 0.1, 0.2], oracle(1))
    assert search.pstar.tolist() == [1]
    assert (search.forward, search.backward) == (1 + 2, 1)


@pytest.mark.parametrize(("grid", "expected"), [([0.0], [1, 1]), ([0.1], [0, 1]), ([0.3], [0, 0])])
def test_a_grid_may_have_one_value(grid, expected):
    """ε = 0 alone fools nobody; one radius fools the images whose margin it exceeds."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images = torch.stack([torch.full(SHAPE, value, dtype=torch.float64) for value in (0.55, 0.7)])
    search = estimate_pstar(model, images, torch.tensor([0, 0]), grid, oracle(3))
    assert search.pstar.tolist() == expected


def test_pixels_never_leave_the_box():
    """White images cannot grow brighter: they stay right at every radius, unless the attack's box is wider."""
    model = linear(-torch.ones(36, dtype=torch.float64), bias=36.5)  # class 0 up to a mean pixel of 1.01
    images, labels = torch.ones(2, *SHAPE, dtype=torch.float64), torch.tensor([0, 0])
    grid = [0.0, 0.005, 0.05, 0.1]
    assert estimate_pstar(model, images, labels, grid, oracle(4)).pstar.tolist() == [4, 4]
    wide = PGD(steps=4, random_start=False, box=(-2.5, 2.5))
    assert estimate_pstar(model, images, labels, grid, wide).pstar.tolist() == [2, 2]


def test_bytes_and_floats_are_the_same_images(trained):
    """uint8 images and the float32 images they stand for have the same p*."""
    images, labels = problem(30, seed=8)
    model = copy.deepcopy(trained).float()
    from_bytes = estimate_pstar(model, images, labels, GRID, oracle(3)).pstar
    from_floats = estimate_pstar(model, images.float() / 255, labels, GRID, oracle(3)).pstar
    assert from_bytes.tolist() == from_floats.tolist()
    assert len(set(from_bytes.tolist())) > 4


def test_the_model_is_evaluated_in_eval_mode_and_put_back(trained):
    """Its dropout does not act during the search, and is in training mode afterwards, as it was before."""
    images, labels = problem(20, seed=9)
    trained.train()
    training = estimate_pstar(trained, images.double() / 255, labels, GRID, oracle(2)).pstar
    assert all(module.training for module in trained.modules())
    evaluated = estimate_pstar(copy.deepcopy(trained).eval(), images.double() / 255, labels, GRID, oracle(2)).pstar
    assert training.tolist() == evaluated.tolist()
