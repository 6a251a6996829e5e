"""The audit of p*: silent about sound networks, and loud about those that hide their gradients."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CUTS, Counting, Cramped, Through, linear_case
from searches import audit_of, drive, problem_of
from torch import nn

from robbench.estimation.audit import AuditPart, next_of_another_class
from robbench.estimation.estimators import estimate_pstar
from robbench.estimation.sampling import FEWEST
from robbench.record import Against
from robbench.spec import PGD, EpsilonGrid
from robbench.spec import Audit as AuditSpec

GRID = EpsilonGrid(stop=0.16, step=0.005).values
ATTACK = PGD(steps=4, random_start=False)
ALL = AuditSpec(images=1000, share=1.0, radii=16)
SEEDS = st.integers(0, 10_000)
SEARCHES = pytest.mark.parametrize("search", ["reference", "fast"])


def estimated(model, images, labels, *, search="reference", attack=ATTACK):
    """The outcome of a search; nothing is fooled where no p* is within the grid."""
    return estimate_pstar(model, images, labels, GRID, attack, search=search)


def looked(model, images, labels, found, audit=ALL, attack=ATTACK, *, batch_size=None, **options):
    """The audit of an outcome, in batches of another size where one is given."""
    found = replace(found, batch_size=batch_size or found.batch_size)
    return audit_of(model, images, labels, found, attack, audit, GRID, **options)


def audited(model, images, labels, *, search="reference", attack=ATTACK, audit=ALL, **options):
    """The audit of a model's p*."""
    found = estimated(model, images, labels, search=search, attack=attack)
    return looked(model, images, labels, found, audit, attack, search=search, **options)


def with_pstar(found, grid_index):
    """An outcome with another p*, the same for all images."""
    return replace(found, pstar=torch.full_like(found.pstar, grid_index))


def censored(found):
    """Whether no image was fooled."""
    return found.pstar.max() == found.pstar[found.pstar >= 0].min() == len(GRID)


# --- sound networks ---------------------------------------------------------------------------------------------------


@SEARCHES
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
def test_nothing_is_found_in_a_linear_model(search, seed):
    """Its gradient is exact, so one step is as good as forty, and success is monotone, whatever the search."""
    result = audited(*linear_case(seed, count=20)[:3], search=search)
    assert result.warnings == []
    assert (result.zero_gradient, result.not_finite, result.not_monotone, result.below) == (0, 0, 0, 0)
    assert all(against.attack_alone == against.search_alone == 0 for against in result.one_step)
    assert result.images == 20
    assert result.scanned >= 5


@SEARCHES
def test_without_a_correct_image_there_is_nothing_to_look_at(search):
    """And nothing to warn of."""
    model, images, labels, _ = linear_case(1)
    result = audited(model, images, 1 - labels, search=search, audit=replace(ALL, square_queries=1))
    assert (result.images, result.scanned, result.probes, result.warnings) == (0, 0, 0, [])
    assert (result.forward, result.backward, result.square) == (0, 0, None)


# --- masks ------------------------------------------------------------------------------------------------------------


def staircase(pixels):
    """Rounded pixels, whose gradient is zero."""
    return (pixels * 1000).round() / 1000


def rooted(pixels):
    """The pixels, with a gradient that is not a number."""
    return pixels + 0 * (pixels - pixels.detach()).sqrt()


@SEARCHES
@pytest.mark.parametrize("cut", [staircase, *CUTS.values()], ids=["staircase", *CUTS])
def test_a_network_without_a_gradient_is_named(cut, search):
    """No step moves an image, also where torch has no way back to it, and the audit says so: on every image.

    The published search finds nothing at all, the fast one what its random corners fool.
    """
    model, images, _, _ = linear_case(2, count=40)
    masked = Through(model, images=cut)
    labels = masked(images).argmax(dim=1)
    found = estimated(masked, images, labels, search=search)
    assert search != "reference" or censored(found)
    result = looked(masked, images, labels, found)
    assert result.zero_gradient == result.images == 40
    zero, way = result.warnings[:2]
    assert (
        zero == "gradients are exactly zero (on 90% of the pixels or more) on 40 of 40 images: steps do not move them"
    )
    assert way.startswith("the way to an image of another class fools more images than the search: ")


@SEARCHES
def test_a_gradient_that_is_no_number_is_named(search):
    """The sign of NaN is 0, so no step moves an image, and such a p* looks large: on every image here."""
    model, images, labels, _ = linear_case(4, count=30)
    masked = Through(model, images=rooted)
    found = estimated(masked, images, labels, search=search)
    assert search != "reference" or censored(found)
    result = looked(masked, images, labels, found)
    assert result.not_finite == result.images == 30
    assert result.warnings[0].startswith("gradients are not finite on 30 of 30 images")


def test_an_attack_that_loses_its_way_later_is_named():
    """Finite at the image, and not finite after a step: where the attacks of the scan end, it shows."""
    model, images, labels, _ = linear_case(5, count=30)

    def broken(pixels):
        moved = (pixels.detach() - 0.5).abs().max() > 0.05  # the images themselves lie within
        return rooted(pixels) if moved else pixels

    result = audited(Through(model, images=broken), images, labels)
    assert result.not_finite == result.scanned >= 5


def test_success_that_comes_and_goes_with_the_radius_is_found():
    """Classes in stripes: one step of a larger radius crosses the next stripe, and is right again."""
    model, images, *_ = linear_case(6, count=60)
    right = model(images)[:, 0].detach()
    stripes = Through(model, logits=lambda logits: torch.cos(1.5 * logits) * torch.tensor([1.0, 0.0]).to(logits))
    own = (torch.cos(1.5 * right) < 0).long()
    result = audited(stripes, images, own, attack=PGD(steps=1, random_start=False))
    assert result.not_monotone > result.scanned / 2
    assert any("not monotone" in warning for warning in result.warnings)


@SEARCHES
def test_only_the_references_pstar_is_a_success_of_the_scan(search):
    """With p* too low by hand, larger radii that do not fool contradict it there, and say nothing beside another search."""
    model, images, labels, _ = linear_case(7, count=40, low=0.0, high=1.0)
    found = with_pstar(estimated(model, images, labels), 1)
    assert bool(looked(model, images, labels, found, search=search).not_monotone) == (search == "reference")


def test_a_search_that_missed_smaller_radii_is_found():
    """p* put too high by hand: the scan fools every image below it, and what it is held to more than the search did."""
    model, images, labels, _ = linear_case(7, count=40)
    found = estimated(model, images, labels)
    result = looked(model, images, labels, with_pstar(found, len(GRID)))
    assert result.below == result.scanned >= 5
    assert [warning.split(":")[0] for warning in result.warnings] == [
        "one step fools more images than the search with all its steps",
        "the way to an image of another class fools more images than the search",
        f"a linear scan disagrees with the search on {result.below} of {result.scanned} scanned images",
        "a stronger attack (APGD-T) fools 40 of 40 images one grid step below their p*",
    ]
    fooled = int((found.pstar < len(GRID)).sum())
    assert result.one_step == [Against(epsilon=0.16, images=40, both=0, attack_alone=fooled, search_alone=0)]


@given(SEEDS, st.integers(1, 12))
def test_apgd_attacks_one_grid_step_below_pstar(seed, batch_size):
    """Of a linear model it fools every image whose p* is a step too high, and none whose p* is the smallest radius."""
    model, images, labels, _ = linear_case(seed, count=20)
    found = estimated(model, images, labels)
    assert found.pstar.max() < len(GRID)
    sound = looked(model, images, labels, found, batch_size=batch_size)
    assert (sound.apgd_images, sound.apgd_fooled) == (int((found.pstar > 1).sum()), 0)
    raised = replace(found, pstar=torch.where(found.pstar > 0, found.pstar + 1, 0))
    high = looked(model, images, labels, raised, batch_size=batch_size)
    assert high.apgd_images == high.apgd_fooled == int((raised.pstar > 1).sum())


def test_apgd_attacks_as_many_images_as_asked_for_and_none_without_a_radius_below():
    """Neither where the grid begins at p*, nor where 0 lies below; where nothing was found, at the largest radius."""
    model, images, labels, _ = linear_case(7, count=40)
    found = estimated(model, images, labels)
    assert looked(model, images, labels, found, replace(ALL, apgd_images=7)).apgd_images == 7
    none = looked(model, images, labels, found, replace(ALL, apgd_images=0))
    assert (none.apgd_images, none.apgd_fooled) == (0, 0)
    assert [looked(model, images, labels, with_pstar(found, at)).apgd_images for at in (0, 1, 2)] == [0, 0, 40]


def test_a_network_with_one_answer_is_named():
    """Nothing fools it, and no attack could: not for lack of a gradient, but because its images are all of that class."""
    model, images, labels, _ = linear_case(10, count=40)
    constant = Through(model, logits=lambda logits: logits * 1e-3 + torch.tensor([1.0, 0.0], dtype=torch.float64))
    found = estimated(constant, images, labels)
    assert censored(found)
    result = looked(constant, images, labels, found)
    assert result.one_class
    assert result.warnings[0].startswith("all images that the network gets right are of one class")


@SEARCHES
def test_a_network_that_draws_random_numbers_is_named(search):
    """Its p* is another at every try; with numbers drawn once there is nothing to say."""
    model, images, labels, _ = linear_case(13, count=40)

    def look(noise):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return audited(Through(model, images=noise), images, labels, search=search)

    result = look(lambda pixels: pixels + 0.02 * torch.rand_like(pixels))
    assert result.images >= result.by_chance > result.images / 2
    assert result.warnings[0].endswith("p* depends on chance or on the batch")
    drawn = 0.02 * torch.rand(images[:1].shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    sound = look(lambda pixels: pixels + drawn)
    assert (sound.by_chance, sound.warnings) == (0, [])


@SEARCHES
@pytest.mark.parametrize("running", [False, True])
def test_a_network_that_looks_at_the_other_images_of_its_batch_is_named(running, search):
    """Batch normalisation by the batch's own statistics; by those of the training there is nothing to say."""
    model, images, labels, _ = linear_case(13, count=40)
    norm = nn.BatchNorm2d(1, track_running_stats=running, dtype=images.dtype)
    with torch.no_grad():  # about the images again
        norm.weight.fill_(images.std())
        norm.bias.fill_(images.mean())
    if running:
        norm.running_mean.fill_(images.mean())
        norm.running_var.fill_(images.var())
    for size in (None, 7):
        result = audited(nn.Sequential(norm, model), images, labels, search=search, batch_size=size)
        if running:
            assert (result.by_chance, result.warnings) == (0, [])
        else:
            assert result.images >= result.by_chance > result.images / 2
            assert "images get different logits" in result.warnings[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda logits, number: logits * (1 + 1e-4 * (number > 0)), 0),
        (lambda logits, number: logits * (1 + 1e-2 * (number > 0)), 40),
        (lambda logits, number: logits * (torch.nan if number in (1, 2) else 1), 40),
        (lambda logits, number: logits if logits.requires_grad else 1.1 * logits, 0),
    ],
    ids=["rounding", "more than rounding", "NaN", "another way without gradients"],
)
def test_logits_that_differ_by_more_than_rounding_the_second_time_are_chance(change, expected):
    """By a thousandth of the largest one; both passes want a gradient, as fused layers have another way for inference."""
    model, images, labels, _ = linear_case(13, count=40)
    passes, found = itertools.count(), estimated(model, images, labels)
    shaky = Through(model, logits=lambda logits: change(logits, next(passes)))
    result = looked(shaky, images, labels, found, batch_size=40)
    assert (result.images, result.by_chance) == (40, expected)


class Misled(torch.autograd.Function):
    """The image, and another gradient than its own."""

    @staticmethod
    def forward(ctx, images, gradient):
        """The images."""
        ctx.gradient = gradient
        return images.clone()

    @staticmethod
    def backward(ctx, towards):
        """What was asked for."""
        return ctx.gradient(towards), None


@SEARCHES
@pytest.mark.parametrize("gradient", [torch.neg, torch.ones_like], ids=["backwards", "aimless"])
def test_gradients_that_lead_elsewhere_are_found_by_an_attack_without(gradient, search):
    """They are finite and not zero, and one step is as bad as many: only another class's images show the way."""
    model, images, labels, _ = linear_case(11, count=40)
    masked = Through(model, images=lambda pixels: Misled.apply(pixels, gradient))
    result = audited(masked, images, labels, search=search)
    assert any(warning.startswith("the way to an image of another class") for warning in result.warnings)
    assert result.zero_gradient == result.not_finite == 0


def test_the_way_to_another_class_ends_at_the_ball_or_at_its_image():
    """Every image's goal is the next of the sample with another label; in one class there is none, and none is fooled."""
    model, images, labels, _ = linear_case(12, count=30)
    alike = labels == labels[0]
    assert audited(model, images[alike], labels[alike]).towards[-1].attack_alone == 0
    found, whole = estimated(model, images, labels), replace(ALL, images=30)
    result = looked(model, images, labels, with_pstar(found, len(GRID)), whole)
    # All pixels lie within 0.1 of each other, so at 0.16 every image becomes its goal.
    assert result.towards == [Against(epsilon=0.16, images=30, both=0, attack_alone=30, search_alone=0)]
    near = looked(model, images, labels, with_pstar(found, 1), whole).towards
    assert [(against.epsilon, against.images, against.attack_alone) for against in near] == [(GRID[1], 30, 0)]


@given(st.lists(st.integers(0, 3), max_size=40))
def test_the_next_image_of_another_class_is_the_first_that_a_walk_around_meets(labels):
    """From the image onwards, and from the last one to the first; the image itself where all are of one class."""
    expected = []
    for place, label in enumerate(labels):
        others = [(place + ahead) % len(labels) for ahead in range(len(labels))]
        expected.append(next((other for other in others if labels[other] != label), place))
    assert next_of_another_class(np.array(labels, dtype=np.int64)).tolist() == expected


# --- cost and steps ---------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 12), st.sampled_from([0.1, 0.5]))
def test_passes_are_counted_and_stay_within_the_share(seed, batch_size, share):
    """What the network really saw; but for APGD-T, the share holds wherever it pays for more than the fewest images."""
    model, images, labels, _ = linear_case(seed, count=60)
    found, counting = estimated(model, images, labels), Counting(model)
    result = looked(counting, images, labels, found, replace(AuditSpec(), share=share), batch_size=batch_size)
    assert (result.forward, result.backward) == (counting.forwards, counting.backwards)
    assert counting.largest <= batch_size
    result = looked(model, images, labels, found, replace(AuditSpec(), share=share, apgd_images=0))
    if result.scanned > FEWEST and result.images > FEWEST:
        assert result.forward + result.backward <= share * (found.forward + found.backward)


def test_batches_and_memory_change_nothing():
    """One batch, batches of seven, and a network that holds three images at most: the same counts, and a note."""
    model, images, labels, _ = linear_case(8, count=30)
    found, notes = estimated(model, images, labels), []
    whole = looked(model, images, labels, found, batch_size=1000)
    assert looked(model, images, labels, found, batch_size=7) == whole
    assert looked(Cramped(model, 3), images, labels, found, batch_size=12, notes=notes) == whole
    assert notes == [f"out of memory: the audit went on with batches of {size} images" for size in (6, 3)]


def test_a_step_is_one_check_and_an_interrupted_audit_begins_again():
    """Four checks without Square; a new part that is given the state of another one does all of them."""
    model, images, labels, _ = linear_case(9)
    model.train()
    found, problem = estimated(model, images, labels), problem_of(model, images, labels, GRID, ATTACK)
    first, second = (AuditPart(problem, ALL, found, reference=True) for _ in range(2))
    first.step()
    second.load_state_dict(first.state_dict())
    assert drive(first).outcome == drive(second).outcome
    assert first.progress == second.progress == (4, 4)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


# --- Square -----------------------------------------------------------------------------------------------------------


def test_square_sees_through_a_staircase():
    """It finds counterexamples where no gradient does, leaves the random numbers alone, and none in a constant network."""
    model, images, labels, exact = linear_case(2, count=40)
    masked = Through(model, images=staircase)
    state = torch.get_rng_state()
    result = audited(masked, images.float().double(), labels, audit=replace(ALL, square_queries=300))
    assert torch.equal(torch.get_rng_state(), state)
    assert result.square.epsilon == 0.16
    assert 10 <= result.square.attack_alone <= int((exact < 0.161).sum())
    assert result.warnings[-1].startswith("an attack without gradients (Square, 300 queries) fools more images")
    sound = audited(model, images, labels, audit=replace(ALL, square_queries=300))
    assert sound.warnings == []
    assert sound.square.attack_alone == 0
