"""Tables against figures worked out by hand."""

from factories import both_records, make_facts, robustness_record, training_record
from msgspec.structs import replace

from robbench.record import AttackAccuracy, Counts, Record
from robbench.report.rows import Group, group_records
from robbench.report.tables import attack_table, not_beside, study_table, views_table

TL1 = make_facts("transfer", "emnist", 1)
OTHER = make_facts("transfer", "glyphs47", 1, source="glyphs10")


def group(records: list[Record]) -> Group:
    """The records' only group."""
    return group_records(records)[0]


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table, its header first."""
    lines = [line for line in text.splitlines() if not line.startswith("|:")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def views(records: list[Record]) -> list[list[str]]:
    """The cells of the three views."""
    return cells(views_table(group(records)) or "")


def test_a_row_of_the_study_table() -> None:
    """Four of five images right; p* 0.1, 0.2, 0.3 and one never fooled; 10 s; the second of three epochs kept."""
    head, line = cells(study_table(group(both_records(OTHER, [1, 2, 3, 5, -1]))))
    assert dict(zip(head, line, strict=True)) == {
        "Model": "TL#1",
        "clean accuracy": "80.0%",
        "median p\\*": "0.25",
        "training seconds": "10.0",
        "seconds in all": "11.0",
        "epochs": "3",
        "epoch kept": "2",
    }


def test_three_views_side_by_side() -> None:
    """Of the same model: over its own images, over those that TL#2 is right on too, and over all."""
    second = make_facts("transfer", "glyphs47", 2, source="glyphs10")
    head, line, _ = views(both_records(OTHER, [1, 2, 3, 5, -1]) + both_records(second, [-1, 2, 3, -1, -1]))
    assert head[1:6] == [
        "correct images",
        "median p\\* of them",
        "99% interval",
        "common images",
        "median p\\* of them",
    ]
    assert line[:3] == ["TL#1", "4", "0.25"]
    assert line[4:6] == ["2", "0.25"]
    assert dict(zip(head[6:], line[6:], strict=True)) == {
        "robust accuracy at ε = 0.1": "60.0%",
        "robust accuracy at ε = 0.2": "40.0%",
        "robust accuracy at ε = 0.3": "20.0%",
        "censored": "25.0%",
    }


def test_censored_and_empty_medians_are_not_numbers() -> None:
    """A censored median is “greater than the grid's end”, that of no image a dash."""
    assert views(both_records(TL1, [5, 5, 5]))[1][2:4] == ["> 0.4", "> 0.4 to > 0.4"]
    wrong = views(both_records(TL1, [-1, -1]))[1]
    assert wrong[1:6] == ["0", "–", "–", "0", "–"]
    assert wrong[-1] == "–"


def test_a_stage_that_was_not_run_leaves_dashes() -> None:
    """A model that was only trained has no robustness figures, one only tested no seconds."""
    trained = group([training_record(OTHER)])
    assert cells(study_table(trained))[1] == ["TL#1", "–", "–", "10.0", "11.0", "3", "2"]
    assert views_table(trained) is None
    assert cells(study_table(group([robustness_record(OTHER, [1])])))[1][-4:] == ["–"] * 4


def test_seeds_are_one_row_with_their_spread() -> None:
    """Three seeds with medians 0.1, 0.2, 0.4 are 0.2, from 0.1 to 0.4; what all seeds agree on is one figure."""
    records = [
        record
        for seed, place in enumerate([4, 1, 2])
        for record in both_records(
            make_facts("transfer", "glyphs47", 1, source="glyphs10", seed=seed), [place] * 3, 10.0 + seed
        )
    ]
    (line,) = cells(study_table(group(records)))[1:]
    assert line[:4] == ["TL#1", "100.0%", "0.2 [0.1 to 0.4]", "11.0 [10.0 to 12.0]"]


def test_a_column_has_one_number_of_decimals() -> None:
    """0.1 above 0.25 is 0.10, and 6.5 s above 120 s is 120.00 s."""
    second = make_facts("transfer", "glyphs47", 2, source="glyphs10")
    lines = cells(study_table(group(both_records(OTHER, [1, 1], 6.5) + both_records(second, [2, 3], 120.0))))
    assert [line[2] for line in lines[1:]] == ["0.10", "0.25"]
    assert [line[3] for line in lines[1:]] == ["6.50", "120.00"]


def test_published_figures_stand_beside_ours() -> None:
    """TL#1 of CNN-7 is published as 75.74 %, 0.195, 176 s and 27 epochs; ours are 80 %, 0.2, 11 s in all and 3."""
    head, line = cells(study_table(group(both_records(TL1, [2, 2, 2, 2, -1]))))
    assert head[1:] == [
        *("clean accuracy", "published", "points"),
        *("median p\\*", "published", "difference"),
        *("training seconds", "seconds in all", "published", "factor"),
        *("epochs", "published", "difference", "epoch kept"),
    ]
    assert line == [
        *("TL#1", "80.0%", "75.7%", "+4.3", "0.2", "0.195", "+0.005"),
        *("10.0", "11.0", "176", "× 0.062", "3", "27", "-24", "2"),
    ]


def test_nothing_is_published_for_other_data_or_at_quick_scale() -> None:
    """No column at all where no row could be compared."""
    swapped = replace(robustness_record(TL1, [2]).data, name="emnist47")
    for records in (
        both_records(OTHER, [2]),
        both_records(TL1, [2], suite="mnist-emnist-quick"),
        both_records(TL1, [2], data=swapped),
    ):
        assert "published" not in study_table(group(records))
        assert not_beside(group(records)) is None


def test_published_models_without_a_counterpart_are_named() -> None:
    """Table B.4 has 18 models; one of them was run."""
    text = not_beside(group(both_records(TL1, [2])))
    assert text is not None
    assert text.startswith("Of the 18 models of table B.4, 17 have no counterpart here")
    assert text.endswith("Standard MNIST, Standard EMNIST, PGD MNIST, PGD EMNIST, TL#2–7, TL#1–7 Adversarial.")


def test_the_final_test_where_records_have_it() -> None:
    """FGSM before PGD, by radius; CIFAR's radii as 255ths; a model without it has no row."""

    def attack(kind: str, epsilon: float, correct: int) -> AttackAccuracy:
        return AttackAccuracy(
            attack=kind, epsilon=epsilon, steps=20, step_size=0.01, robust=Counts(correct=correct, total=4)
        )  # type: ignore[arg-type]

    trained, tested = both_records(TL1, [1, 2, 3, -1])
    attacks = [attack("pgd", 0.1, 1), attack("fgsm", 0.1, 3), attack("fgsm", 2 / 255, 2)]
    assert tested.robustness is not None
    tested = replace(tested, result=replace(tested.robustness, attacks=attacks))
    other = both_records(make_facts("transfer", "emnist", 2), [1])
    head, line = cells(attack_table(group([trained, tested, *other])) or "")
    assert head == ["Model", "clean accuracy", "FGSM, ε = 2/255", "FGSM, ε = 0.1", "PGD-20, ε = 0.1"]
    assert line == ["TL#1", "75.0%", "50.0%", "75.0%", "25.0%"]
    assert attack_table(group(other)) is None
