"""The three questions' figures against values worked out by hand."""

import math

import pytest
from factories import ENVIRONMENT, GRID, both_records, make_facts, robustness_record, training_record
from msgspec.structs import replace

from robbench.record import Record
from robbench.report.answers import (
    Answer,
    answers,
    best_transfer,
    common_medians,
    comparison_epsilon,
    fixed_epsilons,
    median_ratio,
)
from robbench.report.rows import CONVENTIONAL, Group, Row, group_records

SOURCE = make_facts("pgd", "mnist")
SCRATCH = make_facts("pgd", "emnist")
STANDARD = make_facts("standard", "emnist")


def transfer(k: int, places: list[int], seconds: float = 10.0) -> list[Record]:
    """Both stages of one transferred model."""
    return both_records(make_facts("transfer", "emnist", k), places, seconds)


def group(*records: list[Record]) -> Group:
    """The records' only group."""
    return group_records([record for two in records for record in two])[0]


def study() -> Group:
    """Medians: source 0.4, scratch 0.3, standard 0.1, TL#1 0.2, TL#2 0.3, TL#3 0.1."""
    return group(
        both_records(SOURCE, [4] * 9, 100.0),
        both_records(SCRATCH, [3] * 9 + [-1], 400.0),
        both_records(STANDARD, [1] * 10, 5.0),
        transfer(1, [2] * 10, 8.0),
        transfer(2, [3] * 8 + [-1] * 2, 10.0),
        transfer(3, [1] * 10, 12.0),
    )


def row(places: list[int], method: str = "standard") -> Row:
    """One tested model."""
    return group([robustness_record(make_facts(method, "emnist"), places)]).rows[0]


def test_the_three_questions() -> None:
    """Retention 3/4, relative robustness 1, three times the standard model; 40 times faster, 400/110 with the source."""
    (answer,) = answers(study())
    assert answer.line == CONVENTIONAL
    assert answer.best is not None
    assert answer.best.facts.k == 2
    assert answer.retention is not None
    assert answer.retention.value == pytest.approx(0.75)
    assert answer.relative is not None
    assert answer.relative.value == pytest.approx(1.0)
    assert answer.over_standard is not None
    assert answer.over_standard.value == pytest.approx(3.0)
    assert answer.drop is not None
    assert (answer.drop.k, answer.drop.following) == (2, 3)
    assert (answer.drop.before, answer.drop.after) == (0.3, 0.1)
    assert answer.speed_up == pytest.approx(40.0)
    assert answer.speed_up_with_source == pytest.approx(400 / 110)
    assert answer.epsilon == 0.3


def test_equal_medians_are_told_apart_by_accuracy() -> None:
    """Of two equally robust models the more accurate is the best, of two equal ones that with the smaller k."""
    rows = group(transfer(1, [2, 2, -1]), transfer(2, [2, 2, 2]), transfer(3, [2, 2, 2])).rows
    best = best_transfer(rows)
    assert best is not None
    assert best.facts.k == 2


@pytest.mark.parametrize(
    ("above", "below", "relation", "value"),
    [([2] * 5, [4] * 5, "=", 0.5), ([2] * 5, [5] * 5, "<", 0.5), ([5] * 5, [2] * 5, ">", 2.0)],
    ids=["both found", "source censored", "transfer censored"],
)
def test_a_censored_median_makes_a_bound(above: list[int], below: list[int], relation: str, value: float) -> None:
    """Past the grid's end of 0.4 a median is only known to be larger, so the ratio is only bounded."""
    ratio = median_ratio(row(above), row(below))
    assert ratio is not None
    assert ratio.relation == relation
    assert ratio.value == pytest.approx(value)
    assert ratio.low <= value <= ratio.high


@pytest.mark.parametrize(
    ("above", "below"),
    [([5] * 5, [5] * 5), ([2] * 5, [0] * 5), ([-1] * 5, [2] * 5), ([2] * 5, [-1] * 5)],
    ids=["both censored", "divided by 0", "nothing correct", "nothing correct below"],
)
def test_an_undefined_ratio_is_none(above: list[int], below: list[int]) -> None:
    """There is no figure where there is nothing to divide, or to divide by."""
    assert median_ratio(row(above), row(below)) is None
    assert median_ratio(None, row([2])) is None


def test_the_interval_is_a_point_where_all_images_agree() -> None:
    """Resampling equal values changes nothing; with half of the images censored the interval is open above."""
    ratio = median_ratio(row([2] * 9), row([4] * 9))
    assert ratio is not None
    assert (ratio.low, ratio.high) == (0.5, 0.5)
    mixed = median_ratio(row([2] * 5 + [5] * 4), row([4] * 9))
    assert mixed is not None
    assert mixed.relation == "="
    assert mixed.low == 0.5
    assert math.isinf(mixed.high)


def test_missing_models_leave_the_rest_answered() -> None:
    """Without source, scratch and standard models only the transfers' own figures remain."""
    (answer,) = answers(group(transfer(1, [2] * 5), transfer(2, [1] * 5)))
    assert answer.best is not None
    assert answer.best.facts.k == 1
    assert (answer.source, answer.scratch, answer.standard) == (None, None, None)
    assert (answer.retention, answer.relative, answer.over_standard) == (None, None, None)
    assert (answer.speed_up, answer.speed_up_with_source) == (None, None)
    assert answer.drop is not None


def test_no_transfer_no_answer() -> None:
    """One model from scratch answers no question."""
    assert answers(group(both_records(SOURCE, [1, 2]))) == ()


def only(*records: list[Record]) -> Answer:
    """The answer for the first kind of transfer."""
    return answers(group(*records))[0]


def test_all_wrong_and_all_censored() -> None:
    """A line without a correct image has no best; one that is never fooled has a censored best and no drop."""
    assert only(transfer(1, [-1] * 4)).best is None
    never = only(transfer(1, [5] * 4), transfer(2, [5] * 4))
    assert never.best is not None
    assert never.best.median == math.inf
    assert never.drop is None


def test_seconds_of_two_machines_are_not_divided() -> None:
    """A speed-up needs one machine class, and a source that was trained rather than read."""
    elsewhere = replace(ENVIRONMENT, slug="cpu-64core")
    slow = training_record(SCRATCH, 400.0, environment=elsewhere)
    assert only([slow], transfer(1, [2] * 4)).speed_up is None
    given = make_facts("checkpoint", "mnist")
    answer = only(
        [training_record(SCRATCH, 400.0)],
        both_records(given, [3] * 4, 0.0, case="cnn7-mnist-pgd"),
        transfer(1, [2] * 4),
    )
    assert answer.speed_up == pytest.approx(40.0)
    assert answer.source is not None
    assert answer.speed_up_with_source is None


def test_medians_over_common_images() -> None:
    """Only images 0, 1 and 2 are right for both EMNIST models; MNIST models have images of their own."""
    rows = group(
        transfer(1, [1, 2, 3, -1, 4]), transfer(2, [4, 4, 1, 1, -1]), both_records(SOURCE, [2, -1, -1, -1, -1])
    ).rows
    medians = common_medians(rows)
    assert medians == {"cnn7-emnist-TL1": (0.2, 3), "cnn7-emnist-TL2": (0.4, 3), "cnn7-mnist-pgd": (0.2, 1)}


def test_no_common_image_no_median() -> None:
    """Two models that are never right together have no median to share."""
    medians = common_medians(group(transfer(1, [1, -1]), transfer(2, [-1, 1])).rows)
    assert set(medians.values()) == {(None, 0)}


def test_fixed_radii_follow_the_grid() -> None:
    """0.1, 0.2, 0.3 on MNIST's grid; 2, 4, 8 ÷ 255 on CIFAR's, at its nearest values; shares of a smaller grid."""
    assert fixed_epsilons(GRID) == (0.1, 0.2, 0.3)
    assert fixed_epsilons([round(i * 0.001, 3) for i in range(110)]) == (0.008, 0.016, 0.031)
    assert fixed_epsilons([0.0, 0.01, 0.02]) == (0.01, 0.02)


def test_robust_accuracy_is_read_at_the_training_radius() -> None:
    """The radius a model was trained with where its record says so, else the largest fixed one."""
    assert comparison_epsilon(GRID, group(both_records(SCRATCH, [1])).rows[0]) == 0.3
    weaker = both_records(SCRATCH, [1], spec={"model": {"recipe": {"attack": {"epsilon": 0.12}}}})
    assert comparison_epsilon(GRID, group(weaker).rows[0]) == 0.1
    assert comparison_epsilon(GRID, None) == 0.3
