"""Resampling: against medians that can be worked out, and the same draws for the same images."""

import math

import numpy as np
import pytest
from factories import make_facts, robustness_record

from robbench.record import Robustness
from robbench.report.bootstrap import difference, interval, medians, over_seeds, shares


def distribution(indices: list[int]) -> Robustness:
    """A distribution."""
    return robustness_record(make_facts(), indices).robustness


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


def test_differences_and_seeds() -> None:
    """Two censored medians do not differ, a censored one is past any other; seeds are joined by their median."""
    assert difference(np.array([math.inf, math.inf]), np.array([math.inf, 0.1])).tolist() == [0.0, math.inf]
    assert over_seeds([np.array([1.0]), np.array([5.0]), np.array([2.0])]).tolist() == [2.0]
    assert all(math.isnan(end) for end in interval(np.array([math.nan])))
