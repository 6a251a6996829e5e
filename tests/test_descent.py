"""The fast search: a linear model's closed form, proven counterexamples, and results that are each image's own."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import Counting, linear, linear_case
from torch import nn

import robbench.descent
from robbench.attacks import BALL_TOLERANCE
from robbench.data import draw
from robbench.descent import APPROACH, Descent, descend
from robbench.errors import RobbenchError
from robbench.estimation import estimate_pstar
from robbench.record import WRONG
from robbench.spec import PGD, EpsilonGrid

SEEDS = st.integers(0, 10_000)
GRID = EpsilonGrid(stop=0.3, step=0.005).values
BOX = (0.0, 1.0)
IMAGES = 60

GIVING_UP = 2 * APPROACH + 1
"""Passes after which an image is given up that nothing fools: it is judged itself and after every step."""


def oracle(steps, box=BOX):
    """The reference's attack, which the fast search needs for its box and for what it never fools."""
    return PGD(steps=steps, random_start=False, box=box)


def fast(model, images, labels, grid=GRID, attack=None, **options):
    """The fast search."""
    return estimate_pstar(model, images, labels, grid, attack or oracle(2), search="fast", **options)


def results(search):
    """What a search found, image by image."""
    return [tensor.tolist() for tensor in (search.pstar, search.first, search.last)]


def run_descent(model, images, labels, grid=GRID, *, box=BOX, size=64):
    """The descent alone: p* of every image by place in the grid, and the passes of every step."""
    passes = []
    found = descend(
        model.eval(),
        lambda index: (images[index], labels[index]),
        Descent(waiting=torch.arange(len(images))),
        torch.tensor(grid, dtype=torch.float64),
        box=box,
        size=size,
        device=images.device,
        on_step=passes.append,
    )
    pairs = [pair for index, place, _ in found for pair in zip(index.tolist(), place.tolist(), strict=True)]
    assert sorted(index for index, _ in pairs) == list(range(len(images)))
    return [place for _, place in sorted(pairs)], passes


@pytest.fixture(scope="module")
def glyphs(one_thread):
    """A convolutional network trained for a moment on drawn digits of 14x14 pixels, and test images; float64."""
    drawn = draw("glyphs10", 400 + IMAGES, 0)
    images, labels = F.avg_pool2d(drawn.images.double() / 255, 2), drawn.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten()
        model = nn.Sequential(*layers, nn.Linear(400, 10)).double()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
        for _ in range(12):
            for batch in torch.randperm(400).split(100):
                optimiser.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimiser.step()
    return model.eval(), images[400:], labels[400:]


@pytest.fixture(scope="module")
def reference(glyphs):
    """The published search with its 40 steps on these images."""
    return estimate_pstar(*glyphs, GRID, oracle(40), batch_size=64)


@pytest.fixture(scope="module")
def found(glyphs):
    """The fast search on these images."""
    return fast(*glyphs, attack=oracle(40), batch_size=64)


# --- linear models ----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([0.002, 0.005, 0.01, 0.03]), st.floats(0.03, 0.3))
def test_a_linear_models_pstar_is_its_margin_rounded_up_to_the_grid(seed, step, stop):
    """p* is the smallest grid value above |w·x + b| ÷ ‖w‖₁, and censored where the grid ends before."""
    model, images, labels, exact = linear_case(seed)
    grid = EpsilonGrid(stop=stop, step=step).values
    assume(all(abs(value - radius) > 1e-9 + BALL_TOLERANCE for value in exact.tolist() for radius in grid))
    search = fast(model, images, labels, grid, batch_size=5)
    assert search.pstar.tolist() == [sum(radius < value for radius in grid) for value in exact.tolist()]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([(0.0, 1.0), (-0.2, 1.1), (-2.5, 2.5)]))
def test_where_pixels_meet_the_box_pstar_is_that_of_the_best_image_in_ball_and_box(seed, box):
    """With pixels in all of [0, 1], p* is the first radius whose corner of ball and box a linear model gets wrong."""
    model, images, labels, _ = linear_case(seed, low=0.0, high=1.0)
    weight = model[1].weight[0].view(1, 6, 6)
    grid = EpsilonGrid(stop=1.0, step=0.02).values
    towards = (2.0 * labels - 1).view(-1, 1, 1, 1) * weight.sign()
    with torch.no_grad():
        best = [model((images + epsilon * towards).clamp(*box)) for epsilon in grid]
    margins = torch.stack([logits[:, 0] - logits[:, 1] for logits in best])
    assume(margins.abs().min() > 1e-4)
    wrong = (margins < 0) != labels.bool()
    expected = torch.where(wrong.any(dim=0), wrong.long().argmax(dim=0), len(grid))
    assert fast(model, images, labels, grid, oracle(2, box)).pstar.tolist() == expected.tolist()


def test_pixels_on_the_box_take_no_part():
    """Where 27 of 36 pixels are white and cannot grow brighter, p* is four times as large as in a wider box."""
    model = linear(-torch.ones(36, dtype=torch.float64), bias=31.5 + 0.9)  # class 0 up to 0.025 more in every pixel
    images = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    images.view(-1)[:9] = 0.5
    labels = torch.tensor([0])
    assert fast(model, images, labels, GRID).pstar.tolist() == [21]  # above 0.1
    assert fast(model, images, labels, GRID, oracle(2, (-2.5, 2.5))).pstar.tolist() == [6]  # above 0.025
    white = linear(-torch.ones(36, dtype=torch.float64), bias=36.5)
    assert fast(white, torch.ones_like(images), labels, GRID).pstar.tolist() == [len(GRID)]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ([0.0], [1, 1]),
        ([0.1], [0, 1]),
        ([0.3], [0, 0]),
        ([0.1, 0.3], [0, 1]),
        ([0.02, 0.04, 0.06, 0.15, 0.19, 0.21], [2, 5]),
        ([0.0, 0.06, 0.3], [1, 2]),
    ],
)
def test_a_grid_may_have_one_value_begin_above_zero_and_be_uneven(grid, expected):
    """Images with margins 0.05 and 0.2: each falls at the first radius above its own, never at ε = 0."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images = torch.stack([torch.full((1, 6, 6), value, dtype=torch.float64) for value in (0.55, 0.7)])
    assert fast(model, images, torch.tensor([0, 0]), grid).pstar.tolist() == expected


@pytest.mark.parametrize("grid", [[0.0, 0.1, 0.2], [0.0, 0.1]])
def test_the_smallest_possible_pstar_is_the_first_radius_above_zero(grid):
    """An image next to the border falls there, and no pass is spent on a smaller ball, since there is none."""
    model = Counting(linear(torch.ones(36, dtype=torch.float64), bias=-18.0 + 1e-6))
    images, labels = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([0])
    search = fast(model, images, labels, grid, batch_size=1)
    assert results(search) == [[1], [1], [0]]
    # Unperturbed, the image and the first step, and the confirmation.
    assert (search.forward, search.backward) == (1 + 2 + 1, 2)
    above_zero = fast(model, images, labels, grid[1:], batch_size=1)
    assert results(above_zero) == [[0], [0], [-1]]
    assert (above_zero.forward, above_zero.backward) == (1 + 2 + 1, 2)


def test_a_ball_that_holds_is_left_after_its_patience():
    """Margin 0.052 of 0.1: the eleventh step of 0.005 fools, the ball of 0.05 does not, and 20 more steps show it."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images, labels = torch.full((1, 1, 6, 6), 0.552, dtype=torch.float64), torch.tensor([0])
    pstar, passes = run_descent(model, images, labels, [0.0, 0.05, 0.1])
    assert pstar == [2]
    assert passes == [1] * (11 + 1 + 20)


def test_an_image_that_is_fooled_within_rounding_is_not_fooled_at_zero():
    """A white image has half a millionth to grow brighter, and that fools: p* is the first radius above zero."""
    model = linear(-torch.ones(36, dtype=torch.float64), bias=36 - 36 * 2e-7)
    images = torch.full((1, 1, 6, 6), 1 - 5e-7, dtype=torch.float64)
    assert run_descent(model, images, torch.tensor([0]), [0.0, 0.1, 0.2])[0] == [1]


@pytest.mark.parametrize(("best", "age", "length"), [(2, 0, 0.02), (2, 10, 0.011), (2, 19, 0.0029), (3, 7, 0.015)])
def test_steps_shorten_from_a_fifth_of_the_radius_to_a_fiftieth(best, age, length):
    """Inside the ball of 0.1 linearly in the age; while nothing is found, a twentieth of the grid's 0.3."""
    model = linear(torch.ones(36, dtype=torch.float64))
    images = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64)
    state = images, images, torch.tensor([best]), torch.tensor([age])
    radii = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    moved, *_ = robbench.descent._step(model, state, (images, torch.tensor([0])), radii, BOX)
    torch.testing.assert_close(images - moved, torch.full_like(images, length), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_too_coarse_for_the_grid_are_settled_all_the_same(dtype):
    """Rounding takes an iterate out of a ball of 0.05 by more than its tolerance: the ball cannot shrink, and holds."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0).to(dtype)
    images, labels = torch.full((1, 1, 6, 6), 0.552, dtype=dtype), torch.tensor([0])
    (place,), _ = run_descent(model, images, labels)
    assert 0.052 <= GRID[place] <= 0.07


def test_a_search_that_settles_nothing_is_an_error(monkeypatch):
    """More steps than any image can take are a fault of the search, which must not go on for ever."""
    monkeypatch.setattr(robbench.descent, "_settled", lambda best, age, radii: torch.zeros_like(best, dtype=torch.bool))
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    model = Counting(model)
    images, labels = torch.full((1, 1, 6, 6), 0.552, dtype=torch.float64), torch.tensor([0])
    with pytest.raises(RobbenchError, match=r"to be settled within 104 steps, got none; use search 'reference'"):
        run_descent(model, images, labels, [0.0, 0.05, 0.1])
    assert model.forwards == 105


def test_the_bound_on_steps_is_one_images_and_not_the_searchs():
    """Four images one after the other, none of which is ever fooled, take more steps than one of them may."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images, labels = torch.full((4, 1, 6, 6), 0.7, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    pstar, passes = run_descent(model, images, labels, [0.0, 0.001], size=1)
    assert pstar == [2] * 4
    assert passes == [1] * 4 * GIVING_UP


# --- a convolutional network ------------------------------------------------------------------------------------------


def test_pstar_is_as_small_as_the_references_and_costs_at_most_half_the_passes(reference, found):
    """Never more than one grid step above, on average not above at all, sometimes below, and in half the passes."""
    right = reference.pstar >= 0
    assert ((found.pstar == WRONG) == ~right).all()
    assert IMAGES / 2 < right.sum() < IMAGES
    difference = (found.pstar - reference.pstar)[right]
    assert difference.max() <= 1
    assert difference.double().mean() <= 0
    assert difference.min() < 0
    assert found.forward <= reference.forward / 2
    assert found.backward <= reference.backward / 2


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_the_batch_size_never_changes_pstar(glyphs, found, batch_size):
    """Alone, in batches whose places are taken by the next images, or all at once: the same p* and brackets."""
    model, images, labels = glyphs
    count = 12 if batch_size == 1 else IMAGES
    search = fast(model, images[:count], labels[:count], batch_size=batch_size)
    assert search.pstar.tolist() == found.pstar[:count].tolist()
    assert search.last.tolist() == found.last[:count].tolist()


@settings(max_examples=5, deadline=None)
@given(SEEDS, st.integers(2, 40))
def test_the_order_of_the_images_never_changes_their_pstar(glyphs, found, seed, batch_size):
    """Permuted images have permuted results."""
    model, images, labels = glyphs
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed))
    search = fast(model, images[order], labels[order], batch_size=batch_size)
    assert search.pstar.tolist() == found.pstar[order].tolist()


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([0.01, 0.1, 0.3]))
def test_passes_are_counted_exactly_and_no_batch_is_larger_than_asked(glyphs, batch_size, count, stop):
    """Forward and backward are the images that the network really saw, and none of its batches exceeds the size."""
    model, images, labels = glyphs
    counting = Counting(model)
    grid = EpsilonGrid(stop=stop, step=0.005).values
    search = fast(counting, images[:count], labels[:count], grid, batch_size=batch_size)
    assert (search.forward, search.backward) == (counting.forwards, counting.backwards)
    assert counting.largest <= batch_size


def test_places_are_refilled_and_moved_together(glyphs):
    """A full batch while images wait; after that at least three quarters of the places are in use."""
    model, images, labels = glyphs
    right = (model(images).argmax(dim=1) == labels).nonzero().flatten()[:30]
    _, passes = run_descent(model, images[right], labels[right], size=8)
    alone = sum(len(run_descent(model, images[[one]], labels[[one]])[1]) for one in right.tolist())
    assert passes == sorted(passes, reverse=True)
    assert passes[0] == 8
    assert passes.count(8) > len(passes) / 2
    assert alone <= sum(passes) <= alone / 0.75
    sizes = sorted(set(passes), reverse=True)
    assert all(after < 0.75 * before for before, after in pairwise(sizes))
    assert len(sizes) > 2


@pytest.mark.parametrize("box", [BOX, (-0.1, 1.05)])
def test_every_pstar_is_proven(glyphs, monkeypatch, box):
    """Behind each there is an image in its ball and box, misclassified by an inference of our own; none is beyond."""
    model, images, labels = glyphs
    right = model(images).argmax(dim=1) == labels
    images, labels = images[right], labels[right]
    judge, proofs = robbench.descent.is_counterexample, []

    def spy(model, adversarial, originals, labels, radius, *, box):
        proofs.extend(zip(adversarial, originals, labels, radius, strict=True))
        return judge(model, adversarial, originals, labels, radius, box=box)

    monkeypatch.setattr(robbench.descent, "is_counterexample", spy)
    pstar, _ = run_descent(model, images, labels, box=box, size=16)
    assert len(proofs) == len(images)
    assert max(pstar) < len(GRID)
    assert sorted(GRID.index(radius.item()) for *_, radius in proofs) == sorted(pstar)
    for adversarial, original, label, radius in proofs:
        distance = (adversarial - original).abs().max()
        assert radius - 0.005 < distance <= radius + BALL_TOLERANCE
        assert box[0] <= adversarial.min()
        assert adversarial.max() <= box[1]
        with torch.no_grad():
            assert model(adversarial[None]).argmax() != label


@settings(max_examples=6, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(3, 12))
def test_an_interrupted_search_goes_on_to_the_same_result(glyphs, share, batch_size):
    """Stopped after any report but the last, in descent or reference, and taken up again: the same p*, brackets and passes."""
    model, images, labels = glyphs
    images, labels, grid = images[:24], labels[:24], EpsilonGrid(stop=0.06, step=0.005).values
    reports = []
    whole = fast(
        model, images, labels, grid, batch_size=batch_size, on_progress=lambda state: reports.append(state.forward)
    )
    stop_after, calls = 1 + int(share * (len(reports) - 1)), []

    def interrupt(state):
        calls.append(copy.deepcopy(state))
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast(model, images, labels, grid, batch_size=batch_size, on_progress=interrupt)
    assert calls[-1].forward == reports[stop_after - 1]
    assert len(calls[-1].undecided) > 0
    resumed = fast(model, images, labels, grid, batch_size=batch_size, state=calls[-1])
    assert results(resumed) == results(whole)
    assert len(grid) in whole.pstar.tolist()
    assert (resumed.forward, resumed.backward) == (whole.forward, whole.backward)


# --- what is no success -----------------------------------------------------------------------------------------------


def test_what_nothing_fools_goes_through_the_reference_and_is_censored():
    """A constant network: given up after twice the approach, judged once, then probed like by the reference."""
    model = Counting(linear(torch.zeros(36, dtype=torch.float64), bias=1.0))
    images, labels = torch.rand(6, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 1])
    search = fast(model, images, labels, [0.0, 0.1, 0.2, 0.3], oracle(5), batch_size=6)
    assert search.pstar.tolist() == [4, WRONG, 4, WRONG, WRONG, WRONG]
    # Probed at 1, 2 and 3 with five steps and a confirmation each; the four wrong images pass once, unperturbed.
    assert (search.forward, search.backward) == (6 + 2 * (GIVING_UP + 1 + 3 * 6), 2 * (GIVING_UP + 3 * 5))
    assert (search.forward, search.backward) == (model.forwards, model.backwards)


def test_a_misclassified_image_is_never_attacked():
    """Of two images of which one is wrong from the start, only the other's pixels are ever seen changed."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images = torch.stack([torch.full((1, 6, 6), value, dtype=torch.float64) for value in (0.9, 0.45)])
    seen = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()))
    search = fast(model, images, torch.tensor([1, 1]), batch_size=1)
    assert results(search) == [[WRONG, 10], [0, 10], [-1, 9]]  # margin 0.05, met exactly
    assert sum(bool((batch > 0.7).any()) for batch in seen) == 1


class Wavering(nn.Module):
    """Right where gradients are off; where they are on, wrong as soon as a pixel has moved."""

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 2), class 0 where gradients are off."""
        score = (images * torch.ones_like(images)).flatten(1).sum(dim=1) - (17.9 if torch.is_grad_enabled() else 0.0)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def test_a_counterexample_that_inference_does_not_confirm_does_not_count():
    """A network that only gives way while gradients are computed is censored, as by the reference."""
    images, labels = torch.full((3, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([0, 0, 0])
    model, grid = Wavering(), [0.0, 0.01, 0.05, 0.1]
    with torch.enable_grad():
        assert (model(images - 0.05).argmax(dim=1) == 1).all()
    assert fast(model, images, labels, grid).pstar.tolist() == [4, 4, 4]
    assert run_descent(model, images, labels, grid)[0] == [4, 4, 4]


class Overflowing(nn.Module):
    """Class 1 by a margin, until a pixel is brighter than 0.6: then its logits are what it is told."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 2)."""
        flat = images.flatten(1)
        score = 10 - 3 * flat.mean(dim=1)
        logits = torch.stack([torch.zeros_like(score), score], dim=1)
        return torch.where((flat.amax(dim=1) > 0.6)[:, None], logits * 0 + torch.tensor(self.values).double(), logits)


@pytest.mark.parametrize("values", [(torch.nan, torch.nan), (torch.inf, 0.0), (0.0, torch.nan), (0.0, -torch.inf)])
def test_logits_that_are_not_finite_are_no_success(values):
    """Their argmax names class 0, which is wrong, but nothing was classified."""
    images, labels = torch.full((2, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([1, 1])
    model = Overflowing(values)
    assert fast(model, images, labels).pstar.tolist() == [len(GRID)] * 2
    assert run_descent(model, images, labels)[0] == [len(GRID)] * 2
    assert fast(Overflowing((1.0, 0.0)), images, labels).pstar.tolist() == [21] * 2


class Gap(nn.Module):
    """Class 1 by a margin, not finite while the brightest pixel is between 0.6 and 0.7, and beyond that class 0."""

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 2)."""
        score = 10 - 3 * images.flatten(1).mean(dim=1)
        right = torch.stack([torch.zeros_like(score), score], dim=1)
        brightest = images.flatten(1).amax(dim=1)[:, None]
        between = torch.where(brightest > 0.6, right + torch.tensor([0.0, -torch.inf]), right)
        return torch.where(brightest > 0.7, right * 0 + torch.tensor([1.0, 0.0]).double(), between)


def test_a_ball_does_not_shrink_around_what_is_not_finite():
    """The descent goes on through a shell without finite logits to the counterexamples behind it."""
    images, labels = torch.full((2, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([1, 1])
    assert run_descent(Gap(), images, labels)[0] == [41, 41]


# --- what is left behind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [False, True])
def test_the_search_leaves_the_network_and_the_images_as_they_were(glyphs, stops):
    """Modes, requires_grad flags, gradients and pixels are as before, even when the search is stopped."""
    model, images, labels = copy.deepcopy(glyphs)
    model.train()
    model[3].eval()
    model[0].bias.requires_grad_(False)
    model[6].weight.grad = torch.full_like(model[6].weight, 7.0)

    def left():
        flags = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
        return [module.training for module in model.modules()], flags

    def report(state):
        assert [parameter.requires_grad for parameter in model.parameters()] == [flag for flag, _ in before[1]]
        if stops:
            raise KeyboardInterrupt

    before, pixels = left(), images.clone()
    try:
        fast(model, images[:8], labels[:8], batch_size=3, on_progress=report)
    except KeyboardInterrupt:
        assert stops
    assert left() == before
    assert torch.equal(images, pixels)
    assert not images.requires_grad


def test_dropout_does_not_act(glyphs, found):
    """A network in training mode is searched in eval mode."""
    model, images, labels = glyphs
    model = nn.Sequential(*copy.deepcopy(model)[:-1], nn.Dropout(0.5), copy.deepcopy(model)[-1]).train()
    assert fast(model, images[:10], labels[:10]).pstar.tolist() == found.pstar[:10].tolist()


def test_bytes_and_floats_are_the_same_images(glyphs):
    """uint8 images and the float32 images they stand for have the same p*."""
    model, images, labels = glyphs
    model, grey = copy.deepcopy(model).float(), (images[:20] * 255).to(torch.uint8)
    from_bytes = fast(model, grey, labels[:20]).pstar
    assert from_bytes.tolist() == fast(model, grey.float() / 255, labels[:20]).pstar.tolist()
    assert len(set(from_bytes.tolist())) > 4
