"""Resampling: against medians that can be worked out, and the same draws for the same images."""

import math

import numpy as np
import pytest
from factories import make_facts, robustness_record
from msgspec.structs import replace

from robbench.record import Robustness
from robbench.report.bootstrap import RESAMPLES, difference, interval, medians, over_seeds, shares


def distribution(indices: list[int], first: int = 0) -> Robustness:
    """A distribution on so many images, from this one of the test set."""
    found = robustness_record(make_facts(), indices).robustness
    return replace(found, images=[first + image for image in found.images])


def test_medians_of_resampled_images() -> None:
    """Of one image at 0.1 and one at 0.3, a quarter of the resamplings has each alone, half of them both."""
    found = medians("mnist", distribution([1, 3]))
    shares_of = {value: float(np.mean(np.isclose(found, value))) for value in (0.1, 0.2, 0.3)}
    assert shares_of == pytest.approx({0.1: 0.25, 0.2: 0.5, 0.3: 0.25}, abs=0.05)


def test_censored_and_wrong_images() -> None:
    """All censored: inf; no correct image: NaN; a resampling may lose the only correct image."""
    assert set(medians("mnist", distribution([5, 5]))) == {math.inf}
    assert np.isnan(medians("mnist", distribution([-1, -1]))).all()
    assert np.mean(np.isnan(medians("mnist", distribution([1, -1])))) == pytest.approx(0.25, abs=0.05)


def test_models_on_the_same_images_share_the_draws() -> None:
    """The share of the images that are right and of those that are wrong add up to one in every resampling."""
    right, wrong = shares("mnist", distribution([1, 2, -1, -1, -1])), shares("mnist", distribution([-1, -1, 1, 1, 1]))
    assert np.allclose(right + wrong, 1.0)
    assert not np.allclose(right + shares("emnist", distribution([-1, -1, 1, 1, 1])), 1.0)


def test_the_interval_is_a_binomials() -> None:
    """Half of 400 images right: 99 % of the resampled shares lie within 2.58 × 0.025 of a half."""
    low, high = interval(shares("mnist", distribution([1, -1] * 200)))
    assert (low, high) == pytest.approx((0.5 - 0.0644, 0.5 + 0.0644), abs=0.012)


def test_differences() -> None:
    """Two censored medians do not differ, a censored one is past any other; nothing has an interval of nothing."""
    assert difference(np.array([math.inf, math.inf]), np.array([math.inf, 0.1])).tolist() == [0.0, math.inf]
    assert all(math.isnan(end) for end in interval(np.array([math.nan])))


@pytest.mark.parametrize("anew", [True, False])
def test_seeds_are_drawn_with_replacement(anew: bool) -> None:
    """Three seeds that images say nothing about: of 27 equally likely draws 13 have the middle one as their median."""
    found = over_seeds([np.full(RESAMPLES, value) for value in (1.0, 5.0, 2.0)], anew=anew)
    shares_of = [float(np.mean(found == value)) for value in (1.0, 2.0, 5.0)]
    assert shares_of == pytest.approx([7 / 27, 13 / 27, 7 / 27], abs=0.04)


@pytest.mark.parametrize(("right", "first"), [((0.5, 0.5), 400), ((0.5, 0.7), 400), ((0.5, 0.5), 0)])
def test_the_variance_over_seeds_and_images(right: tuple[float, float], first: int) -> None:
    """Of the mean of two seeds: that of the seeds' draw, and half of the images'; all of it on the same images."""
    results = [
        distribution(([1] * round(share * 10) + [-1] * round(10 - share * 10)) * 40, first * seed)
        for seed, share in enumerate(right)
    ]
    found = over_seeds([shares("mnist", result) for result in results], anew=first > 0)
    images = sum(share * (1 - share) / 400 for share in right) / 2
    seeds = (right[1] - right[0]) ** 2 / 8
    assert np.var(found) == pytest.approx(seeds + (images / 2 if first else images), rel=0.15)


def test_one_seed_is_the_bootstrap_of_its_images() -> None:
    """Nothing else is drawn."""
    alone = medians("mnist", distribution([1, 2, 3]))
    assert np.array_equal(over_seeds([alone], anew=True), alone)
