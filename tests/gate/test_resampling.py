"""Medians of resampled images, and the interval of their change."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import robbench.gate.verdicts
from robbench.gate.verdicts import RESAMPLES, bootstrap_medians, median_change_interval, median_of_counts

CENSORED = 41


def around(median, images=400):
    """Places of images whose p* spread over five steps either side of a median."""
    return [median - 5 + number % 11 for number in range(images)]


def drawn(images, seed):
    """Counts of a plausible distribution with a censored tail."""
    places = np.random.default_rng(seed).normal(20, 12, images).round().clip(0, CENSORED).astype(int)
    return np.bincount(places, minlength=CENSORED + 1)


@pytest.mark.parametrize(
    "counts", [drawn(301, 0), drawn(40, 1), drawn(7, 2), np.array([3, 0, 5]), np.array([0, 4, 4, 1])]
)
def test_the_bootstrap_is_the_plain_one(counts):
    """Medians of multinomial counts and of images drawn one by one have the same distribution (Kolmogorov–Smirnov)."""
    images = np.repeat(np.arange(len(counts)), counts)
    generator = np.random.default_rng(7)
    plain = np.median(generator.choice(images, size=(RESAMPLES, len(images))), axis=1)
    ours = bootstrap_medians(counts, seed=3)
    assert ours.shape == (RESAMPLES,)
    values = np.unique(np.concatenate([plain, ours]))
    distance = max(abs(np.mean(plain <= value) - np.mean(ours <= value)) for value in values)
    assert distance < 1.95 * math.sqrt(2 / RESAMPLES)  # passed by 999 of 1,000 pairs of samples from one distribution
    assert set(ours) <= set(np.arange(0, len(counts), 0.5))


def test_a_certain_distribution_has_certain_medians():
    """All images alike, also where all are censored."""
    for place in (0, 2, 3):
        counts = np.zeros(4, dtype=np.int64)
        counts[place] = 9
        assert set(bootstrap_medians(counts)) == {place}
    assert median_change_interval(np.array([0, 5, 0, 0]), np.array([0, 0, 0, 5])) == (2.0, 2.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=8).filter(any))
def test_the_median_of_counts_is_that_of_the_images(counts):
    """The last count is that of the censored."""
    grid = [i / 10 for i in range(len(counts) - 1)]
    values = sorted(value for value, count in zip([*grid, math.inf], counts, strict=True) for _ in range(count))
    low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
    assert median_of_counts(np.array(counts), grid) == pytest.approx(high if low == high else (low + high) / 2)
    assert median_of_counts(np.zeros(len(counts), dtype=np.int64), grid) is None


def test_resampled_medians_are_for_all_who_ask():
    """The same counts give the same array, which nobody may write into."""
    medians = bootstrap_medians(drawn(40, 1))
    assert bootstrap_medians(drawn(40, 1)) is medians
    with pytest.raises(ValueError, match="read-only"):
        medians[0] = 7


def test_the_interval_ends_at_half_a_percent(monkeypatch):
    """Of changes from 0 to 2,000, ten are below it and ten above."""
    new, old = np.arange(2001.0), np.zeros(2001)
    monkeypatch.setattr(robbench.gate.verdicts, "bootstrap_medians", lambda counts, seed: new if counts[1] else old)
    assert median_change_interval(np.array([1, 0]), np.array([0, 1])) == pytest.approx((10, 1990))


def test_the_interval_has_99_percent_and_as_much_on_either_side():
    """Half a percent of the resampled changes lie below it, and half a percent above; the same every time."""
    generator = np.random.default_rng(0)
    old, new = (np.bincount(generator.integers(0, 5000, 400), minlength=5000) for _ in range(2))
    low, high = median_change_interval(old, new)
    changes = bootstrap_medians(new, seed=11) - bootstrap_medians(old, seed=12)
    assert np.mean(changes < low) == pytest.approx(0.005, abs=0.004)
    assert np.mean(changes > high) == pytest.approx(0.005, abs=0.004)
    assert median_change_interval(old, new) == (low, high)


def test_the_interval_is_centred_and_narrows_with_images():
    """Around the true change of four steps; a hundred times the images make it a fraction as wide."""
    few, many = (
        median_change_interval(np.bincount(around(20, n)), np.bincount(around(24, n), minlength=30)) for n in (44, 4400)
    )
    assert few[0] < many[0] <= 4 <= many[1] < few[1]
    assert many[1] - many[0] <= 1
