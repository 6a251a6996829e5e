"""Both searches: a linear model's p* is its closed form, and batches, memory and interruptions change nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import SHAPE, Counting, linear, linear_case, problem
from searches import drive, interrupted, oracle, problem_of
from torch import nn

import robbench.machine.memory
from robbench.attacks import BALL_TOLERANCE
from robbench.errors import RobbenchError
from robbench.estimation.estimators import estimate_pstar, estimator
from robbench.models import build
from robbench.record import MISCLASSIFIED
from robbench.spec import PGD, EpsilonGrid

pytestmark = pytest.mark.parametrize("search", ["reference", "fast"])
SEEDS = st.integers(0, 10_000)
GRID = EpsilonGrid(stop=0.16, step=0.005).values


def float64_problem(count, seed=0):
    """Images for the trained network."""
    images, labels = problem(count, seed)
    return images.double() / 255, labels


# --- what p* is -------------------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from([0.002, 0.005, 0.01, 0.03]), st.floats(0.03, 0.3), st.integers(1, 6))
def test_a_linear_models_pstar_is_its_margin_rounded_up_to_the_grid(search, seed, step, stop, steps):
    """p* is the smallest grid value above |w·x + b| ÷ ‖w‖₁, and censored where the grid ends before."""
    model, images, labels, exact = linear_case(seed)
    grid = EpsilonGrid(stop=stop, step=step).values
    assume(all(abs(value - radius) > 1e-9 + BALL_TOLERANCE for value in exact.tolist() for radius in grid))
    found = estimate_pstar(model, images, labels, grid, oracle(steps), search=search, batch_size=5)
    assert found.pstar.tolist() == [sum(radius < value for radius in grid) for value in exact.tolist()]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ([0.0], [1, 1]),
        ([0.1], [0, 1]),
        ([0.3], [0, 0]),
        ([0.0, 0.06, 0.3], [1, 2]),
        ([0.02, 0.04, 0.06, 0.15, 0.19, 0.21], [2, 5]),
        ([0.06, 0.1, 2.0], [0, 2]),
    ],
)
def test_a_grid_may_have_one_value_begin_above_zero_and_be_uneven(search, grid, expected):
    """Images with margins 0.05 and 0.2: each falls at the first radius above its own, never at ε = 0."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images = torch.stack([torch.full(SHAPE, value, dtype=torch.float64) for value in (0.55, 0.7)])
    found = estimate_pstar(model, images, torch.tensor([0, 0]), grid, oracle(3), search=search)
    assert found.pstar.tolist() == expected


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([(0.0, 1.0), (-0.1, 1.05)]), st.integers(3, 40))
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
        assert (model(adversarial).argmax(1) != labels[found]).all()


def test_bytes_and_their_pixels_have_the_same_pstar(trained, search):
    """uint8 images, and the float32 images that they stand for."""
    images, labels = problem(30, seed=8)
    model = copy.deepcopy(trained).float()
    found = [
        estimate_pstar(model, pixels, labels, GRID, oracle(3), search=search).pstar.tolist()
        for pixels in (images, images.float() / 255)
    ]
    assert found[0] == found[1]
    assert len(set(found[0])) > 4


# --- batches and passes -----------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 45), st.integers(0, 3), SEEDS)
def test_neither_the_batch_size_nor_the_order_changes_pstar(trained, search, batch_size, seed, shuffle):
    """Any batch size and order find the p* that one batch of all images finds; the reference with as many passes."""
    images, labels = float64_problem(40, seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(shuffle))
    whole = estimate_pstar(trained, images, labels, GRID, oracle(2), search=search, batch_size=40)
    split = estimate_pstar(trained, images[order], labels[order], GRID, oracle(2), search=search, batch_size=batch_size)
    assert split.pstar.tolist() == whole.pstar[order].tolist()
    if search == "reference":
        assert (split.forward, split.backward) == (whole.forward, whole.backward)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([0.01, 0.1, 0.3]))
def test_passes_are_counted_exactly_and_no_batch_is_larger_than_asked(trained, search, batch_size, count, stop):
    """Forward and backward are the images that the network really saw, and none of its batches exceeds the size."""
    images, labels = float64_problem(count, seed=count)
    model, grid = Counting(trained), EpsilonGrid(stop=stop, step=0.005).values
    found = estimate_pstar(model, images, labels, grid, oracle(3), search=search, batch_size=batch_size)
    assert (found.forward, found.backward) == (model.forwards, model.backwards)
    assert model.largest <= batch_size == found.batch_size


@settings(max_examples=8, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(3, 12))
def test_an_interrupted_search_goes_on_to_the_same_result(trained, search, share, batch_size):
    """From its state after any step: the same p* and counterexamples, and no pass is done again."""
    images, labels = float64_problem(24, seed=3)
    grid, options = EpsilonGrid(stop=0.06, step=0.005).values, {"batch_size": batch_size, "keep_adversarials": True}
    steps = 0

    def make():
        return estimator(search, problem_of(trained, images, labels, grid, **options))

    whole = make()
    while not whole.done:
        assert whole.progress[0] < whole.progress[1] == 24
        whole.step()
        steps += 1
    assert whole.progress == (24, 24)
    resumed = interrupted(make, int(share * steps)).outcome
    assert torch.equal(resumed.pstar, whole.outcome.pstar)
    assert torch.equal(resumed.adversarials, whole.outcome.adversarials)
    assert len(grid) in resumed.pstar.tolist()
    assert (resumed.forward, resumed.backward) == (whole.outcome.forward, whole.outcome.backward)


def test_a_state_without_the_counterexamples_that_are_asked_for_is_refused(trained, search):
    """The ones found so far would be missing in the end."""
    images, labels = float64_problem(24, seed=3)
    without, asked = (
        estimator(search, problem_of(trained, images, labels, GRID, batch_size=7, keep_adversarials=keep))
        for keep in (False, True)
    )
    for _ in range(6):
        without.step()
    with pytest.raises(KeyError, match="adversarials"):
        asked.load_state_dict(without.state_dict())


@pytest.mark.parametrize(("asked", "room", "size"), [(None, 16, 4), (None, 2, 2), (16, 64, 4), (2, 64, 2)])
def test_a_resumed_search_keeps_its_batch_where_it_fits(trained, search, monkeypatch, asked, room, size):
    """Other batches round otherwise; smaller ones take up what the larger ones had in hand."""
    images, labels = float64_problem(24, seed=3)
    whole = estimate_pstar(trained, images, labels, GRID, oracle(2), search=search, batch_size=4)
    began = estimator(search, problem_of(trained, images, labels, GRID, batch_size=4))
    for _ in range(9):
        began.step()
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", room)
    counting = Counting(trained)
    resumed = estimator(search, problem_of(counting, images, labels, GRID, batch_size=asked))
    resumed.load_state_dict(began.state_dict())
    drive(resumed)
    assert (counting.largest, resumed.outcome.batch_size) == (size, size)
    assert resumed.outcome.pstar.tolist() == whole.pstar.tolist()


# --- memory -----------------------------------------------------------------------------------------------------------


class Scarce(nn.Module):
    """Has memory for so many images when gradients are computed, and raises what ``error`` makes for more of them."""

    def __init__(self, model, room, error):
        super().__init__()
        self.model, self.room, self.error = model, room, error
        self.refused = []

    def forward(self, images):
        """Logits of the model inside."""
        if torch.is_grad_enabled() and len(images) > self.room:
            self.refused.append(len(images))
            raise self.error()
        return self.model(images)


@pytest.mark.parametrize(("before", "after", "sizes"), [(5, 5, [8, 4]), (16, 8, [8])])
def test_batches_are_halved_when_memory_runs_out(trained, search, before, after, sizes):
    """At once, or when half of the images are settled: these are not attacked again, and p* is that of enough memory."""
    images, labels = float64_problem(40, seed=4)
    enough = estimate_pstar(trained, images, labels, GRID, oracle(2), search=search, batch_size=16)
    counting = Counting(trained)
    scarce = Scarce(counting, before, MemoryError)
    part = estimator(search, problem_of(scarce, images, labels, GRID, batch_size=16))
    while not part.done:
        settled = part.progress[0]
        part.step()
        assert part.judged < 40 or part.progress[0] >= settled
        scarce.room = before if part.progress[0] < 20 else after
    found = part.outcome
    assert torch.equal(found.pstar, enough.pstar)
    assert found.notes == [f"out of memory: p* went on with batches of {size} images" for size in sizes]
    assert (found.forward, found.backward) == (counting.forwards, counting.backwards)


def test_memory_for_not_even_one_image_is_an_error(trained, search):
    """A batch of one cannot be halved, and another error is not taken for a lack of memory."""
    images, _ = float64_problem(4)
    labels, scarce = trained(images).argmax(dim=1), Scarce(trained, 0, MemoryError)
    with pytest.raises(RobbenchError, match="out of memory: not even one image at a time fits on cpu; free memory"):
        estimate_pstar(scarce, images, labels, GRID, oracle(2), search=search, batch_size=4)
    assert scarce.refused == [4, 2, 1]
    broken = Scarce(trained, 0, lambda: RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        estimate_pstar(broken, images, labels, GRID, oracle(2), search=search, batch_size=4)
    assert broken.refused == [4]


# --- what is left behind, and what is refused --------------------------------------------------------------------------


def test_a_step_leaves_the_network_and_the_images_as_they_were(trained, search):
    """Modes, requires_grad flags, gradients and pixels; and dropout does not act, although its mode is training."""
    images, labels = float64_problem(16)
    evaluated = estimate_pstar(trained, images, labels, GRID, oracle(2), search=search)
    model, pixels = copy.deepcopy(trained).train(), images.clone()
    model[0].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 7.0)

    def left():
        flags = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
        return [module.training for module in model.modules()], flags

    before, part = left(), estimator(search, problem_of(model, images, labels, GRID))
    while not part.done:
        part.step()
        assert left() == before
    assert part.outcome.pstar.tolist() == evaluated.pstar.tolist()
    assert torch.equal(images, pixels)
    assert not images.requires_grad


@pytest.mark.parametrize("layer", ["conv1", "fc1"])
def test_logits_that_are_not_finite_are_an_error(search, layer):
    """Before any attack; although a ReLU of oneDNN makes 0 of NaN, and such a network would have finite logits."""
    network, images = build("cnn7", classes=10, shape=(1, 28, 28), seed=0), torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        getattr(network.body, layer).weight.mul_(math.nan)
    counting = Counting(network)
    with pytest.raises(RobbenchError, match="logits are not finite"):
        estimate_pstar(counting, images, network(images).argmax(dim=1), GRID, oracle(1), search=search, batch_size=2)
    assert counting.backwards == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(0, *SHAPE), "labels": torch.zeros(0).long()}, "images: expected at least one, got 0"),
        ({"labels": torch.zeros(3).long()}, r"labels: expected \(2,\) int64, got '\(3,\) int64'"),
        ({"images": torch.full((2, *SHAPE), 1.5)}, r"images: expected pixels in \[0, 1\]"),
        ({"images": torch.full((2, *SHAPE), math.nan)}, r"images: expected pixels in \[0, 1\]"),
        *(({"grid": grid}, "grid: expected ascending radii ≥ 0") for grid in ([], [0.0, 0.2, 0.1], [-0.1, 0.1])),
    ],
)
def test_bad_arguments_are_named(search, changes, message):
    """No image, labels of another number, pixels that are none, and a grid that does not ascend; nothing is attacked."""
    model = Counting(linear(torch.ones(36)))
    given = {"images": torch.zeros(2, *SHAPE), "labels": torch.zeros(2).long(), "grid": [0.0, 0.1], "attack": oracle(1)}
    with pytest.raises(RobbenchError, match=message):
        estimate_pstar(model, search=search, **(given | changes))
    assert model.forwards == 0
