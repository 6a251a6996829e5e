"""The fast search: a linear model's closed form, how far its balls and steps reach, and what is no success."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import Counting, linear, linear_case
from searches import BOX, GRID, fast, oracle, results, run_descent
from torch import nn

import robbench.estimation.shrinking_ball
from robbench.attacks import BALL_TOLERANCE
from robbench.errors import RobbenchError
from robbench.estimation.shrinking_ball import APPROACH
from robbench.record import MISCLASSIFIED
from robbench.spec import EpsilonGrid

SEEDS = st.integers(0, 10_000)

GIVING_UP = 2 * APPROACH + 1
"""Passes after which an image is given up that nothing fools: it is judged itself and after every step."""


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
        ([0.06, 0.1, 2.0], [0, 2]),  # a first step of 0.1, beyond the first radius
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
    moved, *_ = robbench.estimation.shrinking_ball._step(model, state, (images, torch.tensor([0])), radii, BOX)
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
    monkeypatch.setattr(
        robbench.estimation.shrinking_ball,
        "_settled",
        lambda best, age, radii: torch.zeros_like(best, dtype=torch.bool),
    )
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    model = Counting(model)
    images, labels = torch.full((1, 1, 6, 6), 0.552, dtype=torch.float64), torch.tensor([0])
    with pytest.raises(RobbenchError, match=r"to be settled within 104 steps, got none; use search 'reference'"):
        run_descent(model, images, labels, [0.0, 0.05, 0.1])
    assert model.forwards == 105


def test_the_bound_on_steps_begins_anew_when_an_image_is_settled(monkeypatch):
    """Three steps settle the first image, with a pass to confirm it; the second may then take the bound's 104."""
    settled = []

    def once(best, age, radii):
        if len(settled) == 0 and age.item() == 3:
            settled.append(1)
            return torch.ones_like(best, dtype=torch.bool)
        return torch.zeros_like(best, dtype=torch.bool)

    monkeypatch.setattr(robbench.estimation.shrinking_ball, "_settled", once)
    model = Counting(linear(torch.ones(36, dtype=torch.float64), bias=-18.0))
    images, labels = torch.full((2, 1, 6, 6), 0.7, dtype=torch.float64), torch.tensor([0, 0])
    with pytest.raises(RobbenchError, match="expected an image to be settled within 104 steps"):
        run_descent(model, images, labels, [0.0, 0.05, 0.1], size=1)
    assert model.forwards == 3 + 1 + 105


def test_the_bound_on_steps_is_one_images_and_not_the_searchs():
    """Four images one after the other, none of which is ever fooled, take more steps than one of them may."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images, labels = torch.full((4, 1, 6, 6), 0.7, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    pstar, passes = run_descent(model, images, labels, [0.0, 0.001], size=1)
    assert pstar == [2] * 4
    assert passes == [1] * 4 * GIVING_UP


# --- what is no success -----------------------------------------------------------------------------------------------


def test_what_nothing_fools_goes_through_the_reference_and_is_censored():
    """A constant network: given up after twice the approach, judged once, then probed like by the reference."""
    model = Counting(linear(torch.zeros(36, dtype=torch.float64), bias=1.0))
    images, labels = torch.rand(6, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 1])
    search = fast(model, images, labels, [0.0, 0.1, 0.2, 0.3], oracle(5), batch_size=6)
    assert search.pstar.tolist() == [4, MISCLASSIFIED, 4, MISCLASSIFIED, MISCLASSIFIED, MISCLASSIFIED]
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
    assert results(search) == [[MISCLASSIFIED, 10], [0, 10], [-1, 9]]  # margin 0.05, met exactly
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
