"""The audit of p*: silent about sound networks, and loud about those that hide their gradients."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CUTS, Counting, Cramped, Through, linear_case
from torch import nn

from robbench.attacks import pgd
from robbench.estimation.audit import _of_another_class, audit_search
from robbench.estimation.estimators import estimate_pstar
from robbench.estimation.sampling import FEWEST
from robbench.record import Against, Robustness
from robbench.spec import PGD, EpsilonGrid
from robbench.spec import Audit as AuditSpec

GRID = EpsilonGrid(stop=0.16, step=0.005).values
ATTACK = PGD(steps=4, random_start=False)
ALL = AuditSpec(images=1000, share=1.0, radii=16)
SEEDS = st.integers(0, 10_000)


def estimated(model, images, labels, *, search="reference", attack=ATTACK, **options):
    """p* of a model's images as a record has it."""
    state = estimate_pstar(model, images, labels, GRID, attack, search=search, **options)
    return Robustness(
        grid=list(GRID),
        attack={},
        search=search,
        images=list(range(len(images))),
        pstar=state.pstar.tolist(),
        forward=state.forward,
        backward=state.backward,
    )


def audited(model, images, labels, *, search="reference", attack=ATTACK, audit=ALL, **options):
    """The audit of a model's p*."""
    found = estimated(model, images, labels, search=search, attack=attack)
    return audit_search(model, images, labels, found, attack, audit, **options)


# --- sound networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["reference", "fast"])
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


def test_without_a_correct_image_there_is_nothing_to_look_at():
    """And nothing to warn of."""
    model, images, labels, _ = linear_case(1)
    result = audited(model, images, 1 - labels)
    assert (result.images, result.scanned, result.probes, result.warnings) == (0, 0, 0, [])
    assert (result.forward, result.backward) == (0, 0)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_a_staircase_has_no_gradient():
    """Rounded pixels: the search fools no image, and the audit says that it could not."""
    model, images, labels, _ = linear_case(2, count=40)
    masked = Through(model, images=lambda pixels: (pixels * 1000).round() / 1000)
    found = estimated(masked, images, labels)
    assert found.median == float("inf")
    result = audit_search(masked, images, labels, found, ATTACK, ALL)
    assert result.zero_gradient == found.clean.correct >= 35
    assert result.warnings == [
        f"gradients are exactly zero (on 90% of the pixels or more) on {result.images} of {result.images} images: steps "
        "do not move them",
        "the way to an image of another class fools more images than the search: "
        f"{result.images} against 0 of {result.images} at ε = 0.16",
    ]


@pytest.mark.parametrize("search", ["reference", "fast"])
@pytest.mark.parametrize("cut", CUTS)
def test_a_network_that_cuts_its_gradient_has_none(cut, search):
    """Where torch has no way back to the images the search stands still, and the audit says so: on every image."""
    model, images, _, _ = linear_case(2, count=40)
    masked = Through(model, images=CUTS[cut])
    labels = masked(images).argmax(dim=1)
    found = estimated(masked, images, labels, search=search)
    assert (found.median, found.clean.correct) == (float("inf"), 40)
    result = audit_search(masked, images, labels, found, ATTACK, ALL)
    assert result.zero_gradient == result.images == 40
    assert result.warnings[0].startswith("gradients are exactly zero (on 90% of the pixels or more) on 40 of 40 images")


@pytest.mark.parametrize("cut", CUTS)
def test_where_a_gradient_is_cut_an_attack_stays_where_it_starts(cut):
    """And a network that cuts nothing is attacked with the gradient that it has."""
    model, images, labels, _ = linear_case(2)
    settings = {"epsilon": 0.1, "steps": 3, "random_start": False}
    assert torch.equal(pgd(Through(model, images=CUTS[cut]), images, labels, **settings), images)
    assert not torch.equal(pgd(model, images, labels, **settings), images)


def test_a_loss_that_rounds_to_zero_has_no_gradient():
    """Logits so large that the softmax is exactly one."""
    model, images, labels, _ = linear_case(3, count=40)
    masked = Through(model, logits=lambda logits: 1e9 * logits)
    assert audited(masked, images, labels).zero_gradient >= 35


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_a_gradient_that_is_no_number_is_named(search):
    """The sign of NaN is 0, so no step moves an image, and such a p* looks perfect: on every image here."""
    model, images, labels, _ = linear_case(4, count=30)
    masked = Through(model, images=lambda pixels: pixels + 0 * (pixels - pixels.detach()).sqrt())
    found = estimated(masked, images, labels, search=search)
    assert found.median == float("inf")
    result = audit_search(masked, images, labels, found, ATTACK, ALL)
    assert result.not_finite == result.images == 30
    assert result.warnings[0].startswith("gradients are not finite on 30 of 30 images")


def test_an_attack_that_loses_its_way_later_is_named():
    """Finite at the image, and not finite after a step: where the attacks of the scan end, it shows."""
    model, images, labels, _ = linear_case(5, count=30)

    def broken(pixels):
        moved = bool((pixels.detach() - 0.5).abs().max() > 0.05)  # the images themselves lie within
        return pixels + 0 * (pixels - pixels.detach()).sqrt() if moved else pixels

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


def test_a_search_that_missed_smaller_radii_is_found():
    """p* put too high by hand: the scan fools every image below it, and what it is held to more than the search did."""
    model, images, labels, _ = linear_case(7, count=40)
    found = estimated(model, images, labels)
    missed = msgspec.structs.replace(found, pstar=[len(GRID)] * 40)
    result = audit_search(model, images, labels, missed, ATTACK, ALL)
    assert result.below == result.scanned >= 5
    assert [warning.split(":")[0] for warning in result.warnings] == [
        "one step fools more images than the search with all its steps",
        "the way to an image of another class fools more images than the search",
        f"a linear scan disagrees with the search on {result.below} of {result.scanned} scanned images",
    ]
    fooled = sum(place < len(GRID) for place in found.pstar)
    assert result.one_step == [Against(epsilon=0.16, images=40, both=0, attack_alone=fooled, search_alone=0)]


def test_a_network_with_one_answer_is_named():
    """Nothing fools it, and no attack could: not for lack of a gradient, but because its images are all of that class."""
    model, images, labels, _ = linear_case(10, count=40)
    constant = Through(model, logits=lambda logits: logits * 1e-3 + torch.tensor([1.0, 0.0], dtype=torch.float64))
    found = estimated(constant, images, labels)
    assert found.median == float("inf")
    result = audit_search(constant, images, labels, found, ATTACK, ALL)
    assert result.one_class
    assert result.warnings[0].startswith("all images that the network gets right are of one class")
    alike = labels == 0
    assert not audited(model, images[alike], labels[alike]).one_class


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_a_network_that_draws_random_numbers_is_named(search):
    """Its p* is another at every try; with numbers drawn once there is nothing to say."""
    model, images, labels, _ = linear_case(13, count=40)

    def look(noise):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return audited(Through(model, images=noise), images, labels, search=search)

    result = look(lambda pixels: pixels + 0.02 * torch.rand_like(pixels))
    assert result.images >= result.by_chance > result.images / 2
    assert result.warnings[0] == (
        f"the network gives {result.by_chance} of {result.images} images other logits the second time, in other company: "
        "p* depends on chance, or on the batch"
    )
    drawn = 0.02 * torch.rand(images[:1].shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    sound = look(lambda pixels: pixels + drawn)
    assert (sound.by_chance, sound.warnings) == (0, [])


@pytest.mark.parametrize("search", ["reference", "fast"])
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
            assert result.warnings[0].startswith(
                f"the network gives {result.by_chance} of {result.images} images other"
            )


@pytest.mark.parametrize(("size", "expected"), [(1e-4, 0), (1e-2, 40)])
def test_rounding_is_not_chance(size, expected):
    """Logits may differ by a thousandth of the largest one; every pass but the first is so much off here."""
    model, images, labels, _ = linear_case(13, count=40)
    passes = itertools.count()
    found = estimated(model, images, labels)
    shaky = Through(model, logits=lambda logits: logits * (1 + size * (next(passes) > 0)))
    result = audit_search(shaky, images, labels, found, ATTACK, ALL, batch_size=40)
    assert (result.images, result.by_chance) == (40, expected)
    assert len(result.warnings) == bool(expected)


def test_another_way_where_no_gradient_is_wanted_is_not_chance():
    """Both passes take the way of the attack, as some fused layers have one of their own for inference."""
    model, images, labels, _ = linear_case(13, count=40)
    found = estimated(model, images, labels)
    fused = Through(model, logits=lambda logits: logits if logits.requires_grad else 1.1 * logits)
    assert audit_search(fused, images, labels, found, ATTACK, ALL, batch_size=40).by_chance == 0


def test_a_number_that_is_none_the_second_time_is_chance():
    """No comparison with NaN is true."""
    model, images, labels, _ = linear_case(13, count=40)
    found, passes = estimated(model, images, labels), itertools.count()
    broken = Through(model, logits=lambda logits: logits * (torch.nan if next(passes) in (1, 2) else 1))
    assert audit_search(broken, images, labels, found, ATTACK, ALL, batch_size=40).by_chance == 40


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


@pytest.mark.parametrize("search", ["reference", "fast"])
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
    found = estimated(model, images, labels)
    whole = replace(ALL, images=30)
    result = audit_search(model, images, labels, msgspec.structs.replace(found, pstar=[len(GRID)] * 30), ATTACK, whole)
    # All pixels lie within 0.1 of each other, so at 0.16 every image becomes its goal.
    assert result.towards == [Against(epsilon=0.16, images=30, both=0, attack_alone=30, search_alone=0)]
    near = audit_search(model, images, labels, msgspec.structs.replace(found, pstar=[1] * 30), ATTACK, whole).towards
    assert [(against.epsilon, against.images, against.attack_alone) for against in near] == [(GRID[1], 30, 0)]


@given(st.lists(st.integers(0, 3), max_size=40))
def test_the_next_image_of_another_class_is_the_first_that_a_walk_around_meets(labels):
    """From the image onwards, and from the last one to the first; the image itself where all are of one class."""
    expected = []
    for place, label in enumerate(labels):
        others = [(place + ahead) % len(labels) for ahead in range(len(labels))]
        expected.append(next((other for other in others if labels[other] != label), place))
    assert _of_another_class(np.array(labels, dtype=np.int64)).tolist() == expected


def test_looking_for_another_class_takes_memory_for_every_image_not_for_every_pair():
    """Of a hundred thousand images, ten arrays of them at most, not the eighty gigabytes of a table."""
    labels = np.arange(100_000) // 10_000
    tracemalloc.start()
    try:
        following = _of_another_class(labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * labels.nbytes
    assert following[[0, 9_999, 10_000, 99_999]].tolist() == [10_000, 10_000, 20_000, 0]


# --- cost -------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 12), st.sampled_from([0.1, 0.5]))
def test_passes_are_counted_and_stay_within_the_share(seed, batch_size, share):
    """What the network really saw; the share holds wherever it pays for more than the fewest images."""
    model, images, labels, _ = linear_case(seed, count=60)
    found = estimated(model, images, labels)
    counting = Counting(model)
    result = audit_search(
        counting, images, labels, found, ATTACK, replace(AuditSpec(), share=share), batch_size=batch_size
    )
    assert (result.forward, result.backward) == (counting.forwards, counting.backwards)
    assert counting.largest <= batch_size
    if result.scanned > FEWEST and result.images > FEWEST:
        assert result.forward + result.backward <= share * (found.forward + found.backward)


def test_batches_and_memory_change_nothing():
    """One batch, batches of seven, and a network that holds three images at most: the same counts, and a note."""
    model, images, labels, _ = linear_case(8, count=30)
    found = estimated(model, images, labels)

    def look(network, size, notes):
        return audit_search(network, images, labels, found, ATTACK, ALL, batch_size=size, notes=notes)

    roomy, tight = [], []
    whole = look(model, 1000, roomy)
    assert look(model, 7, roomy) == whole
    assert look(Cramped(model, 3), 12, tight) == whole
    assert roomy == []
    assert tight == [f"out of memory: the audit went on with batches of {size} images" for size in (6, 3)]


def test_the_mode_of_the_network_and_its_flags_come_back():
    """And no gradient is left in its parameters."""
    model, images, labels, _ = linear_case(9)
    model.train()
    audited(model, images, labels)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


# --- Square -----------------------------------------------------------------------------------------------------------


def test_square_sees_through_a_staircase():
    """It finds counterexamples where no gradient does, leaves the random numbers alone, and none in a constant network."""
    model, images, labels, exact = linear_case(2, count=40)
    masked = Through(model, images=lambda pixels: (pixels * 1000).round() / 1000)
    state = torch.get_rng_state()
    result = audited(masked, images.float().double(), labels, audit=replace(ALL, square_queries=300))
    assert torch.equal(torch.get_rng_state(), state)
    assert result.square.epsilon == 0.16
    assert 10 <= result.square.attack_alone <= int((exact < 0.161).sum())
    assert result.warnings[-1].startswith("an attack without gradients (Square, 300 queries) fools more images")
    sound = audited(model, images, labels, audit=replace(ALL, square_queries=300))
    assert sound.warnings == []
    assert sound.square.attack_alone == 0
