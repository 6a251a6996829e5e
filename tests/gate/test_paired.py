"""Verdicts on the same images, one by one: McNemar's test, the paired bootstrap, and when neither can be had."""

import msgspec
import numpy as np
import pytest
from factories import make_facts, robustness_record
from hypothesis import given, settings
from hypothesis import strategies as st

from robbench.gate.baselines import baseline_of
from robbench.gate.verdicts import Tolerances, compare, mcnemar, paired, paired_change_interval
from robbench.record import MISCLASSIFIED

GRID = [round(step * 0.01, 10) for step in range(41)]
CENSORED = len(GRID)
FACTS = make_facts()
PLACES = st.integers(MISCLASSIFIED, CENSORED)


def robust(places):
    """A robustness record on this module's grid."""
    return robustness_record(FACTS, list(places), GRID)


def marks(old, new, **tolerances):
    """Marks of accuracy and median p*."""
    found = {
        verdict.figure: verdict.mark
        for verdict in compare(robust(new), baseline_of(robust(old)), Tolerances(**tolerances))
    }
    return found["accuracy"], found["median p*"]


def spread(images=400):
    """Places all over the grid."""
    return np.random.default_rng(0).integers(5, 36, images)


@pytest.mark.parametrize(
    ("lost", "gained", "p"), [(0, 0, 1), (1, 0, 1), (7, 0, 2 / 128), (0, 8, 2 / 256), (5, 5, 1), (6, 1, 16 / 128)]
)
def test_mcnemar_counts_only_images_that_changed(lost, gained, p):
    """By hand: twice the tail of fair coin flips, of those that changed."""
    old = np.array([3] * lost + [MISCLASSIFIED] * gained + [4] * 50 + [MISCLASSIFIED] * 20)
    new = np.array([MISCLASSIFIED] * lost + [3] * gained + [9] * 50 + [MISCLASSIFIED] * 20)
    assert mcnemar(old, new) == pytest.approx(p)


@pytest.mark.parametrize(
    ("lost", "gained", "mark"),
    [(11, 0, "-"), (0, 11, "+"), (55, 44, "~"), (10, 0, "="), (30, 10, "-"), (25, 10, "~")],
)
def test_few_lost_images_count_where_none_are_won(lost, gained, mark):
    """Of a thousand images, beyond one point: the same counts would be noise between two samples."""
    kept = 1_000 - lost - gained
    old, new = (
        [20] * lost + [MISCLASSIFIED] * gained + [20] * kept,
        [MISCLASSIFIED] * lost + [20] * gained + [20] * kept,
    )
    assert marks(old, new)[0] == mark


@pytest.mark.parametrize(("share", "mark"), [(1.0, "="), (0.9, "-"), (1.1, "+")])
def test_a_tenth_less_for_every_image_is_seen(share, mark):
    """However far p* spreads over the images."""
    old = spread()
    assert marks(old, np.floor(old * share).astype(int))[1] == mark


def test_the_interval_of_one_and_the_same_shift_is_that_shift():
    """Nothing is left to chance."""
    old = spread()
    assert paired_change_interval(old, old) == (0, 0)
    assert paired_change_interval(old, old - 3) == (-3, -3)


def test_each_side_has_the_median_of_its_own_correct_images():
    """A misclassified image has no p*; where a drawing has no correct image, it has no part."""
    assert paired_change_interval(np.array([4, 4, 4, 4]), np.array([6, 6, 6, MISCLASSIFIED])) == (2, 2)
    assert paired_change_interval(np.array([4, MISCLASSIFIED]), np.array([MISCLASSIFIED, 6])) == (2, 2)
    assert paired_change_interval(np.array([CENSORED, 2]), np.array([2, CENSORED])) == (2 - CENSORED, CENSORED - 2)


def test_the_paired_bootstrap_is_the_plain_one():
    """Its ends are those of images drawn one by one, within what two samples of 2,000 drawings differ by."""
    generator = np.random.default_rng(3)
    old = generator.integers(-1, 30, 151)
    new = np.where(
        old == MISCLASSIFIED,
        generator.integers(-1, 20, 151),
        np.clip(old + generator.integers(-9, 4, 151), MISCLASSIFIED, CENSORED),
    )
    changes = []
    for _ in range(4_000):
        drawn = generator.integers(0, len(old), len(old))
        one, other = old[drawn], new[drawn]
        changes.append(np.median(other[other != MISCLASSIFIED]) - np.median(one[one != MISCLASSIFIED]))
    low, high = np.quantile(changes, [0.005, 0.995])
    assert paired_change_interval(old, new) == pytest.approx((low, high), abs=1)


@given(st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_images_does_not_matter(pairs, random):
    """Neither to the test nor to the interval."""
    shuffled = random.sample(pairs, len(pairs))
    (old, new), (shuffled_old, shuffled_new) = (np.array(each).T for each in (pairs, shuffled))
    assert mcnemar(old, new) == mcnemar(shuffled_old, shuffled_new)
    if any((old != MISCLASSIFIED) & (new != MISCLASSIFIED)):
        np.testing.assert_equal(paired_change_interval(old, new), paired_change_interval(shuffled_old, shuffled_new))


def test_images_are_paired_only_where_both_sides_have_them():
    """Not without them in the baseline, on another grid, with another estimate, or where the record is a training's."""
    record = robust([1, 2, MISCLASSIFIED])
    baseline = baseline_of(robust([3, MISCLASSIFIED, 4]))
    old, new = paired(record, baseline)
    assert (old.tolist(), new.tolist()) == ([3, MISCLASSIFIED, 4], [1, 2, MISCLASSIFIED])
    counts = msgspec.structs.replace(baseline.distribution, pstar=None)
    grid = msgspec.structs.replace(baseline.distribution, grid=[*GRID[:-1], 0.5])
    other = {**baseline.spec, "estimate": {**(baseline.spec.get("estimate") or {}), "images": 3}}
    for field, value in (("distribution", counts), ("distribution", grid), ("spec", other)):
        assert paired(record, msgspec.structs.replace(baseline, **{field: value})) is None
    assert paired(robust([1, 2]), baseline) is None


@pytest.mark.parametrize(
    ("pstar", "expected"),
    [
        ([0, 1, 3], "in pstar"),
        ([0, 1, -2], "in pstar"),
        ([0, 0, 1], "as many images"),
        ([0, 1], "expected a p"),
    ],
)
def test_a_baseline_that_contradicts_itself_is_refused(pstar, expected):
    """The p* of the images make the counts, one for every image of the data."""
    baseline = baseline_of(robustness_record(FACTS, [0, 1, MISCLASSIFIED], [0.0, 0.1]))
    assert baseline.distribution.pstar == [0, 1, MISCLASSIFIED]
    values = msgspec.to_builtins(baseline)
    values["distribution"]["pstar"] = pstar
    with pytest.raises(msgspec.ValidationError, match=expected):
        msgspec.convert(values, type(baseline))
