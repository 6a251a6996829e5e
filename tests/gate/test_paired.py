"""Verdicts on the same images, one by one: McNemar's test and the sign test."""

import numpy as np
import pytest
from factories import make_facts, robustness_record
from hypothesis import given
from hypothesis import strategies as st

from robbench.gate.baselines import baseline_of
from robbench.gate.paired import mcnemar, sign_test
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
        for verdict in compare(robust(new), baseline_of(robust(old)), Tolerances(**tolerances), 0.01)
    }
    return found["accuracy"], found["median p*"]


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


def test_the_sign_test_counts_images_that_are_right_on_both_sides():
    """By hand: of nine that changed, one rose; ties and images that one side misclassifies say nothing."""
    old = np.array([4] * 8 + [4] + [7] * 30 + [MISCLASSIFIED] * 5 + [9] * 5)
    new = np.array([3] * 8 + [CENSORED] + [7] * 30 + [9] * 5 + [MISCLASSIFIED] * 5)
    p, rose, fell = sign_test(old, new)
    assert (rose, fell) == (1, 8)
    assert p == pytest.approx(2 * (1 + 9) / 2**9)
    assert sign_test(old, old) == (1.0, 0, 0)


@pytest.mark.parametrize("change", ["pstar", "accuracy"])
def test_without_a_difference_few_runs_have_a_significant_figure(change):
    """Images fare better or worse by the toss of a coin: of 200 runs of 13 figures at most 5 %, and what chance adds."""
    generator = np.random.default_rng(5)
    level, runs = 0.05 / 13, 200
    alarms = 0
    for _ in range(runs):
        p = []
        for _ in range(13):
            old = generator.integers(10, 30, 250)
            if change == "pstar":
                p.append(sign_test(old, old + generator.choice([-2, -1, 0, 1, 2], 250))[0])
            else:
                wrong, other = (generator.random(250) < 0.1 for _ in range(2))
                p.append(mcnemar(np.where(wrong, MISCLASSIFIED, old), np.where(other, MISCLASSIFIED, old)))
        alarms += min(p) < level
    assert 0 < alarms < 0.05 * runs + 3 * (0.05 * 0.95 * runs) ** 0.5


@given(st.lists(st.tuples(PSTAR, PSTAR), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(pairs, random):
    """To neither test."""
    shuffled = random.sample(pairs, len(pairs))
    (old, new), (shuffled_old, shuffled_new) = (np.array(each).T for each in (pairs, shuffled))
    assert mcnemar(old, new) == mcnemar(shuffled_old, shuffled_new)
    assert sign_test(old, new) == sign_test(shuffled_old, shuffled_new)
