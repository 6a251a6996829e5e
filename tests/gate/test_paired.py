"""Verdicts on the same images, one by one: McNemar's test and the paired bootstrap."""

import numpy as np
import pytest
from factories import make_facts, robustness_record
from hypothesis import given
from hypothesis import strategies as st

from robbench.gate.baselines import baseline_of
from robbench.gate.paired import mcnemar, median_change_interval
from robbench.gate.verdicts import Tolerances, compare
from robbench.record import MISCLASSIFIED

GRID = [round(step * 0.01, 10) for step in range(41)]
CENSORED = len(GRID)
FACTS = make_facts()
PSTAR = st.integers(MISCLASSIFIED, CENSORED)


def robust(pstar):
    """A robustness record on this module's grid."""
    return robustness_record(FACTS, list(pstar), GRID)


def marks(old, new, **tolerances):
    """Marks of accuracy and median p*."""
    found = {
        verdict.figure: verdict.mark
        for verdict in compare(robust(new), baseline_of(robust(old)), Tolerances(**tolerances))
    }
    return found["accuracy"], found["median p*"]


def spread(images=400):
    """p* all over the grid."""
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


def test_the_interval_of_one_and_the_same_shift_is_that_shift():
    """Nothing is left to chance."""
    old = spread()
    assert median_change_interval(old, old) == (0, 0)
    assert median_change_interval(old, old - 3) == (-3, -3)


def test_each_side_has_the_median_of_its_own_correct_images():
    """A misclassified image has no p*; where a drawing has no correct image, it has no part."""
    assert median_change_interval(np.array([4, 4, 4, 4]), np.array([6, 6, 6, MISCLASSIFIED])) == (2, 2)
    assert median_change_interval(np.array([4, MISCLASSIFIED]), np.array([MISCLASSIFIED, 6])) == (2, 2)
    assert median_change_interval(np.array([CENSORED, 2]), np.array([2, CENSORED])) == (2 - CENSORED, CENSORED - 2)


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
    assert median_change_interval(old, new) == pytest.approx((low, high), abs=1)


@given(st.lists(st.tuples(PSTAR, PSTAR), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(pairs, random):
    """Neither to the test nor to the interval."""
    shuffled = random.sample(pairs, len(pairs))
    (old, new), (shuffled_old, shuffled_new) = (np.array(each).T for each in (pairs, shuffled))
    assert mcnemar(old, new) == mcnemar(shuffled_old, shuffled_new)
    if any((old != MISCLASSIFIED) & (new != MISCLASSIFIED)):
        np.testing.assert_equal(median_change_interval(old, new), median_change_interval(shuffled_old, shuffled_new))
