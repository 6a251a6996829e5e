"""Which model is recommended: figures worked out by hand, and what may not be crowned."""

import math

import numpy as np
import pytest
from factories import ENVIRONMENT, both_records, make_facts, make_group, robustness_record, transfer
from msgspec.structs import replace

from robbench.record import Record
from robbench.report.advice import advice, fronts
from robbench.report.choice import Choice, area_below, best_under, choices, expected_robustness, front
from robbench.report.rows import group_records

SCRATCH, STANDARD = make_facts("pgd", "emnist"), make_facts("standard", "emnist")


def choice(*records: list[Record], floor: float | None = None) -> Choice:
    """The only choice of a study of one architecture."""
    floors = {} if floor is None else {"demo": floor}
    (found,) = choices(group_records([one for each in records for one in each], floors))
    return found


def names(found: Choice) -> dict[str, str]:
    """The recommended model by purpose."""
    return {each.purpose: each.best.name for each in found.recommendations}


STUDY = [
    both_records(STANDARD, [1] * 100, 5.0),
    both_records(SCRATCH, [3] * 90 + [-1] * 10, 400.0),
    transfer(1, [2] * 60 + [-1] * 40, 1.0),
    transfer(2, [2] * 95 + [-1] * 5, 2.0),
]
"""Accuracy, median p*, seconds: standard 1, 0.1, 5; scratch 0.9, 0.3, 400; TL#1 0.6, 0.2, 1; TL#2 0.95, 0.2, 2."""


def test_a_model_for_each_purpose() -> None:
    """Expected robustness up to ε = 0.3: scratch 0.9, TL#2 0.95 · 2/3; 0.9/400^0.1 = 0.49 < 0.633/2^0.1 = 0.59."""
    found = choice(*STUDY)
    assert names(found) == {"most robustness": "PGD EMNIST", "best balance": "TL#2", "least cost": "TL#1"}
    assert found.epsilon == 0.3
    scratch, second = found.candidates[1], found.candidates[3]
    assert (scratch.expected, second.expected) == pytest.approx((0.9, 0.95 * 2 / 3))
    assert second.balance == pytest.approx(0.95 * 2 / 3 / 2**0.1)
    robust = found.recommended("most robustness")
    assert (robust.low, robust.high, robust.rivals) == (0.3, 0.3, ())


def test_the_training_of_the_source_counted_in() -> None:
    """A second choice, beside the one that takes the source as given."""
    source = both_records(make_facts("pgd", "mnist"), [3] * 100, 1000.0)
    of_balance, of_cost = (choice(source, *STUDY).recommended(each) for each in ("best balance", "least cost"))
    assert (of_balance.best.name, of_balance.with_source.name) == ("TL#2", "PGD EMNIST")
    assert (of_cost.best.name, of_cost.with_source.name) == ("TL#1", "PGD EMNIST")
    lines = [str(each) for each in advice(choice(source, *STUDY))]
    assert lines[2].endswith("trained in 1.00 s, its source in 1,000 s (with that counted in: PGD EMNIST)")
    assert "source" not in lines[0]
    trained, tested = source
    elsewhere = [replace(trained, environment=replace(ENVIRONMENT, slug="h200")), tested]
    assert not any("source" in str(each) for each in advice(choice(elsewhere, *STUDY)))


def test_the_front_and_its_area() -> None:
    """TL#1 is beaten by TL#2, but cheaper; below the front lie 0.9 · 0.3 + 0.05 · 0.2 + 0.05 · 0.1."""
    found = choice(*STUDY)
    assert [each.name for each in found.on_front] == ["Standard EMNIST", "TL#2", "PGD EMNIST"]
    assert {each.name for each in found.on_front_with_cost} == {each.name for each in found.candidates}
    assert found.area == pytest.approx(0.285)
    low, high = found.area_interval
    assert low < found.area < high
    line = fronts(found)
    assert line.endswith("): Standard EMNIST; TL#2; PGD EMNIST. With training seconds, too: TL#1")
    assert "(area below it 0.285, " in line


def test_a_front_keeps_equals_and_drops_the_dominated() -> None:
    """Of two equal points neither dominates the other."""
    points = np.asarray([[1.0, 1.0], [1.0, 1.0], [0.5, 2.0], [0.5, 1.0], [2.0, 0.0]])
    assert front(points).tolist() == [True, True, True, False, True]
    assert area_below(points[:, 0], points[:, 1]) == pytest.approx(0.5 * 2 + 0.5 * 1)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 0.4, (0 + 0.25 + 0.5 + 1) / 4), (0.1, 0.2, (0 + 0 + 1 + 1) / 4)],
)
def test_expected_robustness(low: float, high: float, expected: float) -> None:
    """The mean share of the radii that each image survives: one wrong, p* 0.1 and 0.2, one never fooled."""
    (row,) = make_group(robustness_record(STANDARD, [-1, 1, 2, 5])).rows
    assert expected_robustness(row, low, high) == pytest.approx(expected)


def test_best_under_limits() -> None:
    """Within 90 % accuracy, within 100 s, within both; nothing where nothing is."""
    found = choice(*STUDY).candidates
    limits = [{"accuracy": 0.92}, {"seconds": 1.5}, {"accuracy": 0.99, "seconds": 100.0}, {"seconds": 0.1}]
    best = [best_under(found, **each) for each in limits]
    assert [each and each.name for each in best] == ["TL#2", "TL#1", "Standard EMNIST", None]


def test_nothing_is_crowned_from_few_images_or_below_the_floor() -> None:
    """29 correct images are too few; an accuracy of 0.4 is below half of the conventional 1.0, unless the study says so."""
    few = transfer(3, [4] * 29 + [-1] * 11, 1.0)
    inaccurate = transfer(4, [4] * 40 + [-1] * 60, 1.0)
    found = choice(*STUDY, few, inaccurate)
    assert [each.name for each in found.candidates if not each.eligible] == ["TL#3", "TL#4"]
    assert names(found)["most robustness"] == "PGD EMNIST"
    assert names(choice(*STUDY, few, inaccurate, floor=0.3))["most robustness"] == "TL#4"
    assert choice(few).recommendations == ()


def test_what_nothing_separates_is_named() -> None:
    """Medians of 0.3 and 0.2 that change places from resampling to resampling; a sure difference has no rival."""
    unsure = transfer(1, [3] * 51 + [1] * 49), transfer(2, [3] * 49 + [1] * 51)
    (rival,) = choice(*unsure).recommended("most robustness").rivals
    assert rival.name == "TL#2"
    assert choice(transfer(1, [3] * 100), transfer(2, [1] * 100)).recommended("most robustness").rivals == ()


def test_seeds_are_one_candidate() -> None:
    """Two seeds of a model: its figures are their medians, its seconds have an interval."""
    seeds = [transfer(1, [2] * 100, 10.0 + seed, seed=seed) for seed in (0, 1)]
    found = choice(*seeds, transfer(2, [2] * 100, 20.0))
    assert [each.name for each in found.candidates] == ["TL#1", "TL#2"]
    cheapest = found.recommended("least cost")
    assert (cheapest.best.seconds, cheapest.low, cheapest.high) == (10.5, 10.0, 11.0)


def test_seconds_of_another_machine_are_no_cost() -> None:
    """A model trained elsewhere can be the most robust, not the cheapest."""
    trained, tested = transfer(9, [4] * 100, 0.1)
    elsewhere = [replace(trained, environment=replace(ENVIRONMENT, slug="h200")), tested]
    assert names(choice(*STUDY, elsewhere)) == {
        "most robustness": "TL#9",
        "best balance": "TL#2",
        "least cost": "TL#1",
    }


def test_without_transfers_every_data_set_has_a_choice() -> None:
    """Checkpoints on two data sets, without seconds: no least cost, and a censored median is the most robust."""
    facts = [make_facts(method, name) for name in ("mnist", "emnist") for method in ("checkpoint", "pgd")]
    found = choices([make_group(*(robustness_record(each, [5] * 40) for each in facts))])
    assert [each.dataset for each in found] == ["emnist", "mnist"]
    assert [each.purpose for each in found[0].recommendations] == ["most robustness", "best balance"]
    assert found[0].recommendations[0].low == math.inf
    assert choices([make_group(robustness_record(facts[0], [5] * 40))])[0].recommendations == ()
