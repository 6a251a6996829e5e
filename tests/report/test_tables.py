"""Tables against figures worked out by hand."""

import pytest
from factories import both_records, make_facts, make_group, robustness_record, training_record
from msgspec.structs import replace

from robbench.record import AttackAccuracy, Counts, Record
from robbench.report.tables import (
    attack_table,
    published_table,
    study_table,
    views_table,
    without_ranges,
)

TL1 = make_facts("transfer", "emnist", 1)
OTHER = make_facts("transfer", "glyphs47", 1, source="glyphs10")


def study(records: list[Record]) -> list[list[str]]:
    """The cells of the study table."""
    return study_table(make_group(*records)).values.tolist()


def views(records: list[Record]) -> list[list[str]]:
    """The cells of the three views."""
    frame = views_table(make_group(*records))
    return frame.values.tolist()


def test_a_row_of_the_study_table() -> None:
    """Four of five images right; p* 0.1, 0.2, 0.3 and one never fooled; 10 s; the second of three epochs kept."""
    (line,) = study_table(make_group(*both_records(OTHER, [1, 2, 3, 5, -1]))).to_dict("records")
    assert line == {
        "Model": "TL#1",
        "clean accuracy": "80.0%",
        "median p\\*": "0.250",
        "99% interval": "0.100 to > 0.4",
        "robust accuracy at ε = 0.3": "20.0%",
        "training seconds": "10.0",
        "epoch kept": "2 of 3",
    }


def test_the_name_of_a_row_says_the_objective() -> None:
    """Of a model from scratch, which comes first, and of a transfer."""
    facts = [make_facts("transfer", "emnist", 1, kept="finetuned", objective="lwf"), make_facts("trades", "emnist")]
    names = [line[0] for line in study([record for each in facts for record in both_records(each, [1, 2])])]
    assert names == ["TRADES EMNIST", "TL#1, kept blocks fine-tuned, LwF"]


def test_three_views_side_by_side() -> None:
    """Of the same model: over the images that TL#2 is right on too, and over all at the radii of no other table."""
    second = make_facts("transfer", "glyphs47", 2, source="glyphs10")
    frame = views_table(make_group(*both_records(OTHER, [1, 2, 3, 5, -1]), *both_records(second, [-1, 2, 3, -1, -1])))
    assert frame.iloc[0].to_dict() == {
        "Model": "TL#1",
        "correct images": "4",
        "common images": "2",
        "median p\\* of them": "0.250",
        "robust accuracy at ε = 0.1": "60.0%",
        "robust accuracy at ε = 0.2": "40.0%",
        "censored": "25.0%",
    }


def test_censored_and_empty_medians_are_not_numbers() -> None:
    """A censored median is “greater than the grid's end”, that of no image a dash; so are their intervals."""
    assert study(both_records(TL1, [5, 5, 5]))[0][2:4] == ["> 0.4", "> 0.4 to > 0.4"]
    assert views(both_records(TL1, [5, 5, 5]))[0][3] == "> 0.4"
    assert views(both_records(TL1, [-1, -1]))[0][1:4] == ["0", "0", "–"]


def test_a_stage_that_was_not_run_leaves_dashes() -> None:
    """A model that was only trained has no robustness figures, one only tested no seconds."""
    trained, tested = study([training_record(OTHER), robustness_record(replace(OTHER, k=2), [1])])
    assert trained == ["TL#1", "–", "–", "–", "–", "10.0", "2 of 3"]
    assert tested == ["TL#2", "100.0%", "0.100", "0.100 to 0.100", "0.0%", "–", "–"]
    assert views_table(make_group(training_record(OTHER))) is None


def test_columns_without_any_figure_are_left_out() -> None:
    """A checkpoint has no training seconds and no epochs."""
    frame = study_table(make_group(robustness_record(make_facts("checkpoint", "glyphs10"), [1])))
    assert frame.columns[-1] == "robust accuracy at ε = 0.3"


def test_seeds_are_one_row_with_their_spread() -> None:
    """Three seeds with medians 0.1, 0.2, 0.4 are 0.2, from 0.1 to 0.4; what all seeds agree on is one figure."""
    records = [
        record
        for seed, index in enumerate([4, 1, 2])
        for record in both_records(replace(OTHER, seed=seed), [index] * 3, 10.0 + seed)
    ]
    (line,) = study(records)
    assert (line[2], line[5]) == ("0.200 [0.100 to 0.400]", "11.0 [10.0 to 12.0]")
    (plain,) = without_ranges(study_table(make_group(*records))).values.tolist()
    assert (plain[2], plain[5]) == ("0.200", "11.0")


def test_published_figures_stand_beside_ours() -> None:
    """TL#1 of CNN-7 is published as 75.74 %, 0.195 (0.2 on our scale) and 176 s; ours are 80 %, 0.2 and 11 s in all."""
    frame = published_table(make_group(*both_records(TL1, [2, 2, 2, 2, -1])))
    assert list(frame.columns[1:]) == [
        *("clean accuracy", "published", "median p\\*", "published", "seconds in all", "published")
    ]
    assert frame.iloc[0].tolist() == ["TL#1", "80.0%", "75.7%", "0.200", "0.200", "11.0", "176"]
    longer = published_table(make_group(*both_records(TL1, [2, 2, 2, 2, -1])), differences=True)
    assert longer.iloc[0][["points", "difference", "factor"]].tolist() == ["+4.3", "0.000", "× 0.062"]


@pytest.mark.parametrize(
    "records",
    [
        both_records(OTHER, [2]),
        both_records(TL1, [2], suite="mnist-emnist-quick"),
        both_records(TL1, [2], data=replace(robustness_record(TL1, [2]).data, name="emnist47")),
    ],
    ids=["nothing published", "quick scale", "other data in the place of EMNIST"],
)
def test_where_nothing_can_be_compared_no_column_is_published(records: list[Record]) -> None:
    """A published figure of other data or of another scale would mislead."""
    assert published_table(make_group(*records)) is None


def test_the_final_test_where_records_have_it() -> None:
    """By attack and radius; CIFAR's radii as 255ths; a model without it has no row."""
    trained, tested = both_records(TL1, [1, 2, 3, -1])
    attacks = [
        AttackAccuracy(attack=kind, epsilon=epsilon, steps=20, step_size=0.01, robust=Counts(correct=right, total=4))
        for kind, epsilon, right in (("pgd", 0.1, 1), ("fgsm", 0.1, 3), ("fgsm", 2 / 255, 2))
    ]
    theirs = AttackAccuracy(attack="adv_lib:apgd(n_iter=9)", epsilon=0.1, robust=Counts(correct=0, total=4))
    tested = replace(tested, result=replace(tested.result, attacks=[*attacks, theirs]))
    other = both_records(make_facts("transfer", "emnist", 2), [1])
    frame = attack_table(make_group(trained, tested, *other))
    assert frame.to_dict("records") == [
        {
            "Model": "TL#1",
            "FGSM, ε = 2/255": "50.0%",
            "FGSM, ε = 0.1": "75.0%",
            "PGD-20, ε = 0.1": "25.0%",
            "adv_lib:apgd(n_iter=9), ε = 0.1": "0.0%",
        }
    ]
    assert attack_table(make_group(*other)) is None
