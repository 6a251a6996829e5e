"""The fast search: how small and how cheap, how far its balls and steps reach, and what is no success."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from networks import Counting, linear, linear_case, problem
from searches import BOX, GRID, fast, oracle, run_ball
from torch import nn

from robbench.estimation.estimators import estimate_pstar
from robbench.estimation.shrinking_ball import APPROACH, EFFORTS, _signs, _step
from robbench.record import MISCLASSIFIED
from robbench.spec import EpsilonGrid

GIVING_UP = 2 * APPROACH + 1
"""Passes after which an image is given up that nothing fools: it is judged itself and after every step."""


def start_of():
    """Label, start and targets of the only row: class 0, the first start, none."""
    return torch.tensor([0]), torch.tensor([0]), torch.empty(1, 0, dtype=torch.int64)


def test_pstar_is_as_small_as_the_references_and_costs_at_most_half_the_passes(trained):
    """Never more than one grid step above, on average not above at all, sometimes below, and in half the passes."""
    images, labels = problem(60, seed=5)
    given = trained, images.double() / 255, labels, GRID, oracle(40)
    reference, found = estimate_pstar(*given), estimate_pstar(*given, search="fast")
    right = reference.pstar >= 0
    assert ((found.pstar == MISCLASSIFIED) == ~right).all()
    assert right.sum() > 30
    difference = (found.pstar - reference.pstar)[right]
    assert difference.max() <= 1
    assert difference.double().mean() <= 0
    assert difference.min() < 0
    assert found.forward <= reference.forward / 2
    assert found.backward <= reference.backward / 2


@given(st.integers(0, 10_000), st.sampled_from([(0.0, 1.0), (-0.2, 1.1), (-2.5, 2.5)]))
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


@pytest.mark.parametrize(("grid", "expected"), [([0.0, 0.1, 0.2], 1), ([0.0, 0.1], 1), ([0.1, 0.2], 0), ([0.1], 0)])
def test_the_smallest_possible_pstar_is_the_first_radius_above_zero(grid, expected):
    """An image next to the border falls there, and no pass is spent on a smaller ball, since there is none."""
    model = Counting(linear(torch.ones(36, dtype=torch.float64), bias=-18.0 + 1e-6))
    images, labels = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([0])
    found = fast(model, images, labels, grid, batch_size=1)
    assert found.pstar.tolist() == [expected]
    # Unperturbed, and again for the other classes; the image and the first step, and the confirmation.
    assert (found.forward, found.backward) == (2 + 2 + 1, 2)


def test_a_ball_that_holds_is_left_after_its_patience():
    """Margin 0.052 of 0.1: the eleventh step of 0.005 fools, the ball of 0.05 does not, and 20 more steps show it."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images, labels = torch.full((1, 1, 6, 6), 0.552, dtype=torch.float64), torch.tensor([0])
    assert run_ball(model, images, labels, [0.0, 0.05, 0.1]) == ([2], [1] * (11 + 1 + 20))


def test_an_image_that_is_fooled_within_rounding_is_not_fooled_at_zero():
    """A white image has half a millionth to grow brighter, and that fools: p* is the first radius above zero."""
    model = linear(-torch.ones(36, dtype=torch.float64), bias=36 - 36 * 2e-7)
    images = torch.full((1, 1, 6, 6), 1 - 5e-7, dtype=torch.float64)
    assert run_ball(model, images, torch.tensor([0]), [0.0, 0.1, 0.2])[0] == [1]


@pytest.mark.parametrize(("best", "age", "length"), [(2, 0, 0.1), (2, 10, 0.051), (2, 19, 0.0069), (3, 7, 0.015)])
def test_steps_shorten_from_the_radius_to_a_fiftieth(best, age, length):
    """Inside the ball of 0.1 linearly in the age; while nothing is found, a twentieth of the grid's 0.3."""
    model = linear(torch.ones(36, dtype=torch.float64))
    images = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64)
    state = images, images, torch.tensor([best]), torch.tensor([age]), torch.tensor([1])
    constants, radii = (images, *start_of()), torch.tensor([0.0, 0.1, 0.3]).double()
    moved, *_ = _step(model, state, constants, radii, torch.tensor([20]), 1, BOX, "linf")
    torch.testing.assert_close(images - moved, torch.full_like(images, length), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_too_coarse_for_the_grid_are_settled_all_the_same(dtype):
    """Rounding takes an iterate out of a ball of 0.05 by more than its tolerance: the ball cannot shrink, and holds."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0).to(dtype)
    (grid_index,), _ = run_ball(model, torch.full((1, 1, 6, 6), 0.552, dtype=dtype), torch.tensor([0]))
    assert 0.052 <= GRID[grid_index] <= 0.07


def test_rows_are_refilled_and_moved_together(trained):
    """A full batch while images wait; after that only rows in use."""
    images, labels = problem(60, seed=5)
    images = images.double() / 255
    right = (trained(images).argmax(dim=1) == labels).nonzero().flatten()[:30]
    _, passes = run_ball(trained, images[right], labels[right], size=8)
    alone = sum(len(run_ball(trained, images[[one]], labels[[one]])[1]) for one in right.tolist())
    assert passes == sorted(passes, reverse=True)
    assert passes[0] == 8
    assert passes.count(8) > len(passes) / 2
    assert sum(passes) == alone
    assert len(set(passes)) > 2


# --- starts -----------------------------------------------------------------------------------------------------------


def test_random_signs_are_of_the_image_and_the_start_alone():
    """Whatever else is in the batch; another image or start has others, half of them positive."""
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    start = torch.tensor([1, 1, 2])
    signs = _signs(images, start)
    assert torch.equal(_signs(images[[2]], start[[2]]), signs[[2]])
    assert signs.unique().tolist() == [-1.0, 1.0]
    assert (signs.mean(dim=(1, 2, 3)).abs() < 0.15).all()
    for other in (signs[1], _signs(images[[0]], torch.tensor([2]))[0], signs[0].roll(1, dims=1)):
        assert 0.4 < (signs[0] == other).double().mean() < 0.6


def test_every_start_has_its_patience():
    """A ball of 0.05 that holds is tried from the iterate, and from two corners for three and four more steps."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images, labels = torch.full((1, 1, 6, 6), 0.552, dtype=torch.float64), torch.tensor([0])
    found, passes = run_ball(model, images, labels, [0.0, 0.05, 0.1], patience=(20, 3, 4))
    assert (found, len(passes)) == ([2], 11 + (1 + 20) + (1 + 3) + (1 + 4))


class Recording(nn.Module):
    """Keeps the images that it is attacked with."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, images):
        """As the network."""
        if torch.is_grad_enabled():
            self.seen.append(images.detach().clone())
        return self.network(images)


def test_the_last_start_goes_on_from_the_best_counterexample():
    """The best counterexample's pixels are all alike; a random corner's are not."""
    model = Recording(linear(torch.ones(36, dtype=torch.float64), bias=-18.0))
    images, labels = torch.full((1, 1, 6, 6), 0.552, dtype=torch.float64), torch.tensor([0])
    found, passes = run_ball(model, images, labels, [0.0, 0.05, 0.1], patience=(20, 3), last=5)
    assert (found, len(passes)) == ([2], 11 + (1 + 20) + (1 + 3) + (1 + 5))
    corner, last = model.seen[-(1 + 5) - (1 + 3)], model.seen[-(1 + 5)]
    assert corner.std() > 0.01
    assert last.std() == 0
    assert ((images - last) > 0.05).all()


class Pit(nn.Module):
    """Class 1 where most pixels lie on their side of a half that a pattern says, else class 0; no slope in between."""

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 2): a bowl around the image, and a way out at random corners only."""
        moved = images.flatten(1) - 0.5
        spread = moved.abs().mean(dim=1) - moved.mean(dim=1).abs()
        return torch.stack([0.5 - 0.1 * moved.sum(dim=1), 60 * spread * (moved.abs().amax(dim=1) < 0.15)], dim=1)


def test_another_start_finds_what_the_first_one_does_not():
    """Moving all pixels alike fools far away; moving them to both sides does so near by."""
    images, labels = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([0])
    (once,), _ = run_ball(Pit(), images, labels)
    (twice,), _ = run_ball(Pit(), images, labels, patience=(20, 12))
    assert twice < once


class Detour(nn.Module):
    """Class 1 is likelier than 2 at the original and never reached within the box; class 2 is, by darker pixels."""

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 3): class 1 rises with brightness, up to just below class 0."""
        moved = images.flatten(1).mean(dim=1) - 0.5
        return torch.stack([0 * moved, -0.2 + 0.5 * moved.clamp(max=0.3), -1 - 4 * moved], dim=1)


def test_an_aimed_start_finds_the_class_that_the_loss_does_not_prefer():
    """From the first corner on, the likeliest other class leads up; aimed at the second likeliest, the attack goes down."""
    model, images, labels = Detour(), torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([0])
    (found,), _ = run_ball(model, images, labels, patience=(20,), aimed=(20, 20))
    assert GRID[found] == pytest.approx(0.25, abs=0.011)


@pytest.mark.parametrize(("start", "away"), [(0, "up"), (1, "up"), (2, "down"), (4, "up")])
def test_the_last_start_is_aimed_at_no_class(start, away):
    """One unaimed start, three aimed ones at two classes, the second of which leads down, and the last."""
    images, labels = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([0])
    state = images, images, torch.tensor([40]), torch.tensor([10]), torch.tensor([1])
    constants = images, labels, torch.tensor([start]), torch.tensor([[1, 2]])
    patience = torch.tensor([20, 20, 20, 20, 20])
    moved, *_ = _step(Detour(), state, constants, torch.tensor(GRID).double(), patience, 1, BOX, "linf")
    assert ("up" if (moved > images).all() else "down") == away


class Summit(nn.Module):
    """The same, with class 1 so much likelier than 2 that the loss keeps to it from the original, too."""

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 3): class 1 is flat from a hundredth brighter on, where class 2 leads back."""
        moved = images.flatten(1).mean(dim=1) - 0.5
        return torch.stack([0 * moved, -0.2 + 5 * moved.clamp(max=0.01), -1 - 4 * moved], dim=1)


def test_aimed_starts_follow_an_approach_that_found_nothing():
    """In the grid's largest ball; without them, the image counts as never fooled."""
    images, labels = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([0])
    (censored,), _ = run_ball(Summit(), images, labels, patience=(20,))
    (found,), _ = run_ball(Summit(), images, labels, patience=(20,), aimed=(20, 20))
    assert censored == len(GRID)
    assert GRID[found] == pytest.approx(0.25, abs=0.016)


class Classes(nn.Module):
    """Class 0 wherever the mean is above 0.5; five others are alike below."""

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 6)."""
        score = (images.flatten(1).sum(dim=1) - 18).view(-1, 1)
        return torch.cat([score, 0 * score.expand(-1, 5)], dim=1)


@pytest.mark.parametrize(("places", "at_most", "starts"), [(1, 6, 5), (1, 4, 4), (12, 6, 3), (36, 6, 2)])
def test_aimed_starts_are_as_many_as_classes_and_places_allow(places, at_most, starts):
    """A ball of 36 places that holds: an aimed start for so many of them, two at least, five where there are six classes."""
    images, labels = torch.full((1, 1, 6, 6), 0.5 + 0.0351, dtype=torch.float64), torch.tensor([0])
    grid = [place / 1000 for place in range(40)]
    effort = {"aimed": (3,) * at_most, "places": places}
    found, passes = run_ball(Classes(), images, labels, grid, patience=(20,), **effort)
    once, before = run_ball(Classes(), images, labels, grid, patience=(20,))
    assert found == once == [36]
    assert len(passes) == len(before) + starts * (1 + 3)


@pytest.mark.parametrize(
    ("best", "age", "hop", "after"), [(40, 1, 1, 2), (40, 1, 2, 4), (40, 1, 4, 4), (18, 1, 2, 2), (40, 3, 4, 1)]
)
def test_a_ball_hops_while_first_steps_succeed(best, age, hop, after):
    """Twice as far each time, at most four places and an eighth of the radius; any later success ends it."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images, radii = torch.full((1, 1, 6, 6), 0.55, dtype=torch.float64), torch.tensor(GRID).double()
    state = images - radii[best - 1], images, torch.tensor([best]), torch.tensor([age]), torch.tensor([hop])
    constants = images, *start_of()
    moved, _, found, aged, hops = _step(model, state, constants, radii, torch.tensor([20]), 1, BOX, "linf")
    assert (found.item(), aged.item(), hops.item()) == (best - 1, 1, after)
    assert (images - moved).max().item() == pytest.approx(GRID[best - 1 - after])


# --- what is no success -----------------------------------------------------------------------------------------------


def test_what_nothing_fools_goes_through_the_reference_and_is_censored():
    """A constant network: given up after twice the approach and one aimed start, then probed as by the reference."""
    model = Counting(linear(torch.zeros(36, dtype=torch.float64), bias=1.0))
    images, labels = torch.rand(6, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 1])
    found = fast(model, images, labels, [0.0, 0.1, 0.2, 0.3], oracle(5), batch_size=6)
    assert found.pstar.tolist() == [4, MISCLASSIFIED, 4, MISCLASSIFIED, MISCLASSIFIED, MISCLASSIFIED]
    # Probed at 1, 2 and 3 with five steps and a confirmation each; the four wrong images pass once, unperturbed, and
    # the others once more for the classes to aim at, of which there is one.
    attacked = GIVING_UP + 1 + EFFORTS["fast"].aimed[0]
    assert (found.forward, found.backward) == (6 + 2 * (1 + attacked + 1 + 3 * 6), 2 * (attacked + 3 * 5))
    assert (found.forward, found.backward) == (model.forwards, model.backwards)


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


class Gap(nn.Module):
    """Class 1 by a margin; from a brightest pixel of 0.6 on the logits are what it is told, and from 0.7 on class 0."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.tensor(values, dtype=torch.float64)

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 2)."""
        score = 10 - 3 * images.flatten(1).mean(dim=1)
        right = torch.stack([torch.zeros_like(score), score], dim=1)
        brightest = images.flatten(1).amax(dim=1)[:, None]
        between = torch.where(brightest > 0.6, right * torch.tensor([0.0, 0.5]) + self.values, right)
        return torch.where(brightest > 0.7, right * 0 + torch.tensor([1.0, 0.0]).double(), between)


@pytest.mark.parametrize(
    ("values", "expected"),
    [((100.0, 0.0), 21), ((torch.inf, 0.0), 61), ((0.0, torch.nan), 61), ((0.0, -torch.inf), 41)],
)
def test_a_ball_does_not_shrink_around_what_is_not_finite(values, expected):
    """The argmax names class 0, which is wrong, but nothing was classified; with a gradient left, the attack goes on."""
    images, labels = torch.full((2, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([1, 1])
    assert run_ball(Gap(values), images, labels)[0] == [expected] * 2
