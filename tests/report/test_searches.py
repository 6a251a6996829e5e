"""Two searches of one model side by side, against figures worked out by hand."""

import pytest
from factories import again, make_facts, make_group, robustness_record, training_record, transfer

from robbench.report.rows import group_records
from robbench.report.searches import pairs, searches_table

PGD = robustness_record(make_facts(), [4, 4, 4])


@pytest.mark.parametrize(
    ("own", "second", "line"),
    [
        ([4, 4, 4], [3, 3, 3], ["0.400", "fast", "0.300", "0.75 ⚠"]),
        ([2, 2, -1], [2, 2, -1], ["0.200", "fast", "0.200", "1.00"]),
        ([4, 4, 4], [5, 5, 5], ["0.400", "fast", "> 0.4", "\\> 1.00"]),
        ([2, 2, 2], [5, 5, 5], ["0.200", "fast", "> 0.4", "\\> 2.00 ⚠"]),
        ([5, 5, 5], [5, 5, 5], ["> 0.4", "fast", "> 0.4", "–"]),
        ([-1, -1, -1], [-1, -1, -1], ["–", "fast", "–", "–"]),
        ([4, 2, 2], [4], ["0.400", "fast", "0.400", "1.00"]),
    ],
    ids=["apart", "alike", "one censored", "censored far above", "both censored", "none right", "on fewer images"],
)
def test_a_line_holds_both_medians_and_their_ratio(own, second, line) -> None:
    """Medians over the images of both; a bound where one is censored; marked beyond a tenth."""
    tested = robustness_record(make_facts(), own)
    frame = searches_table(make_group(tested, again(tested, "fast", second)))
    assert frame.values.tolist() == [["PGD MNIST", "reference", *line]]


@pytest.mark.parametrize(("steps", "apart"), [(9, True), (10, False), (11, False), (12, True)])
def test_a_tenth_is_no_difference_yet(steps, apart) -> None:
    """Of a median of ten grid steps: 11 ÷ 10 is within, 12 ÷ 10 and 9 ÷ 10 (10 ÷ 9 the other way round) are beyond."""
    tested = robustness_record(make_facts(), [10], grid=[0.01 * step for step in range(20)])
    (pair,) = pairs(make_group(tested, again(tested, "fast", [steps])))
    assert pair.differs == apart


def test_seeds_are_one_line() -> None:
    """Ratios of 1 and 1.5: their median and range; one seed apart is enough for the mark."""
    tested = [robustness_record(make_facts(seed=seed), [2]) for seed in (0, 1)]
    records = [*tested, again(tested[0], "fast", [2]), again(tested[1], "fast", [3])]
    (line,) = searches_table(make_group(*records)).values.tolist()
    assert line[2:] == ["0.200", "fast", "0.250 [0.200 to 0.300]", "1.25 [1.00 to 1.50] ⚠"]


def test_a_third_search_has_a_line_of_its_own() -> None:
    """Each is held against the study's own."""
    frame = searches_table(make_group(PGD, again(PGD, "fast", [2, 2, 2]), again(PGD, "own", [4, 4, 4])))
    assert frame["second search"].tolist() == ["fast", "own"]
    assert frame["ratio"].tolist() == ["0.50 ⚠", "1.00"]


def test_models_with_one_search_have_no_line() -> None:
    """Also where only the second one has run."""
    assert searches_table(make_group(PGD, *transfer(1, [1]))) is None
    (group,) = group_records([training_record(make_facts()), again(PGD, "fast", [2, 2, 2])])
    assert searches_table(group) is None
    assert group.rows[0].median is None
