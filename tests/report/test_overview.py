"""A study at a glance, ours and the published figures."""

from factories import both_records, make_facts, transfer

from robbench.record import Record
from robbench.report.overview import overview_table
from robbench.report.rows import group_records


def records(architecture: str = "cnn7") -> list[Record]:
    """Source 0.4, scratch 0.3, TL#1 0.2, TL#2 0.1."""
    return [
        *both_records(make_facts("pgd", "mnist", architecture=architecture), [4] * 36, 100.0),
        *both_records(make_facts("pgd", "emnist", architecture=architecture), [3] * 36, 400.0),
        *transfer(1, [2] * 36, architecture=architecture),
        *transfer(2, [1] * 36, architecture=architecture),
    ]


def test_ours_and_the_published_line() -> None:
    """Best at k = 1 with half of its source's median; the thesis's CNN-7 is best, and drops, at k = 5."""
    frame = overview_table(group_records(records()))
    assert frame.columns[-1] == "drop point"
    ours, theirs = frame.values.tolist()
    assert ours[1:] == ["TL#1", "100.0%", "0.200", "50.0%", "66.7%", "× 40", "k = 1"]
    assert theirs == [
        *("*published*", "TL#5", "86.7%", "0.275", "67.1%", "65.5%"),
        *("× 64.3", "k = 5"),
    ]


def test_several_architectures_name_themselves() -> None:
    """And have a median over the images that all models of the study are right on."""
    frame = overview_table(group_records(records() + records("cnn4")))
    assert frame["Transfer"].tolist() == [
        *("cnn4, conventional retraining", "*published*"),
        *("cnn7, conventional retraining", "*published*"),
    ]
    assert frame.iloc[0, -1] == "0.200 (36)"
