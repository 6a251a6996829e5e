"""The three questions' figures against values worked out by hand."""

import math

import pytest
from factories import ENVIRONMENT, both_records, make_facts, make_group, robustness_record, training_record, transfer
from msgspec.structs import replace

from robbench.record import Record
from robbench.report.answers import Answer, answers, best_transfer
from robbench.report.comparisons import median_ratio
from robbench.report.rows import CONVENTIONAL, Group
from robbench.report.seeds import Model, models_of

SOURCE = make_facts("pgd", "mnist")
SCRATCH = make_facts("pgd", "emnist")
STANDARD = make_facts("standard", "emnist")


def study() -> Group:
    """Medians: source 0.4, scratch 0.3, standard 0.1, TL#1 0.2, TL#2 0.3, TL#3 0.1."""
    return make_group(
        both_records(SOURCE, [4] * 36, 100.0),
        both_records(SCRATCH, [3] * 36 + [-1] * 4, 400.0),
        both_records(STANDARD, [1] * 40, 5.0),
        transfer(1, [2] * 40, 8.0),
        transfer(2, [3] * 32 + [-1] * 8, 10.0),
        transfer(3, [1] * 40, 12.0),
    )


def model(indices: list[int], method: str = "standard") -> Model:
    """One tested model."""
    return models_of(make_group([robustness_record(make_facts(method, "emnist"), indices)]).rows)[0]


def test_the_three_questions() -> None:
    """Retention 3/4, relative robustness 1, three times the standard model; 40 times faster, 400/110 with the source."""
    (answer,) = answers(study())
    assert answer.line == CONVENTIONAL
    assert answer.best.facts.k == 2
    assert answer.epsilon == 0.3
    assert (answer.drop.k, answer.drop.following, answer.drop.before, answer.drop.after) == (2, 3, 0.3, 0.1)
    assert answer.drop.stability == 1.0
    figures = {
        "retention": 0.75,
        "relative": 1.0,
        "over_standard": 3.0,
        "points": -0.1,
        "speed_up": 40.0,
        "speed_up_with_source": 400 / 110,
    }
    assert {name: getattr(answer, name).value for name in figures} == pytest.approx(figures)


def test_a_warm_started_network_is_a_kind_of_transfer_of_its_own() -> None:
    """Beside the frozen one of the same k, under another name, each at its best k."""
    warm = [transfer(k, [k + 1] * 40, kept="warm") for k in (1, 2)]
    group = make_group(transfer(1, [3] * 40), *warm)
    found = {answer.line: (answer.best.label, answer.best.median) for answer in answers(group)}
    assert found == {CONVENTIONAL: ("TL#1", 0.3), f"{CONVENTIONAL}, whole network": ("TL#2, whole network", 0.3)}


def test_equal_medians_are_told_apart_by_accuracy() -> None:
    """Of two equally robust models the more accurate is the best, of two equal ones that with the smaller k."""
    rows = make_group(transfer(1, [2, 2, -1]), transfer(2, [2, 2, 2]), transfer(3, [2, 2, 2])).rows
    best = best_transfer(models_of(rows))
    assert best.model.facts.k == 2
    assert best.stability == pytest.approx(19 / 27, abs=0.04)  # TL#1's wrong image is drawn: without it, k = 1


def test_the_interval_of_the_best_k_repeats_the_choice() -> None:
    """Of two k one has a median of 0.3 in every resampling, but not the same one: so the best keeps all of the source's."""
    answer = only(both_records(SOURCE, [3] * 33), transfer(1, [3] * 18 + [1] * 15), transfer(2, [1] * 18 + [3] * 15))
    assert (answer.retention.value, answer.retention.low, answer.retention.high) == pytest.approx((1.0, 1.0, 1.0))
    assert answer.stability == pytest.approx(0.700, abs=0.05)  # 17 or more of 33 draws with a chance of 18/33
    alone = median_ratio(answer.models[0], answer.source)
    assert (alone.low, alone.high) == pytest.approx((1 / 3, 1.0))


@pytest.mark.parametrize(
    ("above", "below", "relation", "value"),
    [([2] * 20, [4] * 20, "=", 0.5), ([2] * 20, [5] * 20, "<", 0.5), ([5] * 20, [2] * 20, ">", 2.0)],
    ids=["both found", "source censored", "transfer censored"],
)
def test_a_censored_median_makes_a_bound(above: list[int], below: list[int], relation: str, value: float) -> None:
    """Past the grid's end of 0.4 a median is only known to be larger, so the ratio is only bounded."""
    ratio = median_ratio(model(above), model(below))
    assert ratio.relation == relation
    assert ratio.value == pytest.approx(value)
    assert ratio.low <= value <= ratio.high


@pytest.mark.parametrize(
    ("above", "below"),
    [([5] * 20, [5] * 20), ([2] * 20, [0] * 20), ([-1] * 20, [2] * 20), ([2] * 20, [-1] * 20)],
    ids=["both censored", "divided by 0", "nothing correct", "nothing correct below"],
)
def test_an_undefined_ratio_is_none(above: list[int], below: list[int]) -> None:
    """There is no figure where there is nothing to divide, or to divide by."""
    assert median_ratio(model(above), model(below)) is None
    assert median_ratio(None, model([2])) is None


def only(*records: list[Record]) -> Answer:
    """The answer for the first kind of transfer."""
    return answers(make_group(*records))[0]


def test_all_wrong_and_all_censored() -> None:
    """A line without a correct image has no best; one that is never fooled has a censored best and no drop."""
    assert only(transfer(1, [-1] * 36)).best is None
    never = only(transfer(1, [5] * 36), transfer(2, [5] * 36))
    assert never.best.median == math.inf
    assert never.drop is None


def test_seconds_of_two_machines_are_not_divided() -> None:
    """A speed-up needs one machine class, and a source that was trained rather than read."""
    elsewhere = replace(ENVIRONMENT, slug="cpu-64core")
    slow = training_record(SCRATCH, 400.0, environment=elsewhere)
    assert only([slow], transfer(1, [2] * 36)).speed_up is None
    given = make_facts("checkpoint", "mnist")
    answer = only(
        [training_record(SCRATCH, 400.0)],
        both_records(given, [3] * 36, 0.0, case="cnn7-mnist-pgd"),
        transfer(1, [2] * 36),
    )
    assert answer.speed_up.value == pytest.approx(40.0)
    assert answer.speed_up_with_source is None


def seeded() -> Group:
    """Three seeds: TL#2 keeps 3/4, 3/4 and 1/4 of each seed's own source; seed 2 falls one k earlier."""
    records = []
    for seed, (second, third) in enumerate([([3] * 36, [1] * 36), ([3] * 36, [1] * 36), ([1] * 36, [1] * 36)]):
        records += [
            both_records(make_facts("pgd", "mnist", seed=seed), [4] * 36, 100.0),
            both_records(make_facts("pgd", "emnist", seed=seed), [4] * 36, 100.0 * (seed + 1)),
            transfer(1, [2] * 36, seed=seed),
            transfer(2, second, seed=seed),
            transfer(3, third, seed=seed),
        ]
    return make_group(*records)


def test_seeds_are_held_against_their_own_source() -> None:
    """The answer is the median over seeds, 3/4, between the least, 1/4, and the greatest; the speed-up as well."""
    (answer,) = answers(seeded())
    assert answer.best.label == "TL#2"
    assert answer.retention.value == pytest.approx(0.75)
    assert answer.retention.seeds.values == pytest.approx((0.25, 0.75, 0.75))
    assert answer.speed_up.values == pytest.approx((10.0, 20.0, 30.0))


def test_the_drop_point_of_every_seed() -> None:
    """Medians over seeds fall most after k = 2, as two of the seeds do; the third falls after k = 1."""
    (answer,) = answers(seeded())
    assert answer.drop.k == 2
    assert {seed: drop and drop.k for seed, drop in answer.drops.items()} == {0: 2, 1: 2, 2: 1}
    assert answer.alike == (0, 1)


@pytest.mark.parametrize(
    "models",
    [
        [transfer(1, [4, 4, 4, 1, 1]), transfer(2, [3] * 20), transfer(3, [2] * 20)],
        [transfer(1, [2, 1] * 10), transfer(2, [1, 2] * 9 + [1, 1])],
    ],
    ids=["another fall is often larger", "often there is none"],
)
def test_an_unsure_drop_point_says_so(models: list[list[Record]]) -> None:
    """Few resamplings have the same largest fall."""
    assert 0.2 < only(*models).drop.stability < 0.95
