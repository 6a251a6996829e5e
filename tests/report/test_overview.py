"""A study at a glance, ours and the published figures."""

from factories import both_records, make_facts

from robbench.record import Record
from robbench.report.overview import overview_table, studies, study_heading
from robbench.report.rows import group_records


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table, its header first."""
    lines = [line for line in text.splitlines() if not line.startswith("|:")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def records(architecture: str = "cnn7", suite: str = "demo") -> list[Record]:
    """Source 0.4, scratch 0.3, TL#1 0.2, TL#2 0.1."""
    source = f"{architecture}-mnist-pgd"
    models = [
        (make_facts("pgd", "mnist", architecture=architecture), [4] * 9, 100.0),
        (make_facts("pgd", "emnist", architecture=architecture), [3] * 9, 400.0),
        (make_facts("transfer", "emnist", 1, architecture=architecture, source_case=source), [2] * 9, 10.0),
        (make_facts("transfer", "emnist", 2, architecture=architecture, source_case=source), [1] * 9, 10.0),
    ]
    return [one for facts, places, seconds in models for one in both_records(facts, places, seconds, suite=suite)]


def test_ours_and_the_published_line() -> None:
    """Best at k = 1 with half of its source's median; the thesis's CNN-7 is best, and drops, at k = 5."""
    text = overview_table(group_records(records()))
    head, ours, theirs = cells(text or "")
    assert head[-1] == "drop point"
    assert ours[1:] == ["TL#1", "100.0%", "0.2", "50.0%", "66.7%", "× 40", "× 3.64", "k = 1 (0.2 → 0.1)"]
    assert theirs == [
        *("*published*", "TL#5", "86.7%", "0.27", "66.7%", "65.1%"),
        *("× 64.3", "× 2.96", "k = 5 (0.27 → 0.07)"),
    ]


def test_several_architectures_name_themselves() -> None:
    """And have a median over the images that all models of the study are right on."""
    text = overview_table(group_records(records() + records("cnn4")))
    lines = cells(text or "")
    assert [line[0] for line in lines[1:]] == [
        *("cnn4, conventional retraining", "*published*"),
        *("cnn7, conventional retraining", "*published*"),
    ]
    assert lines[1][-1] == "0.2 (9)"


def test_studies_lie_side_by_side() -> None:
    """Groups of two suites are two studies, with the data they went from and to."""
    found = studies(group_records(records() + records(suite="other")))
    assert [(suite, len(groups)) for suite, groups in found] == [("demo", 1), ("other", 1)]
    assert study_heading(*found[0]) == "## demo: MNIST → EMNIST"
    assert overview_table(group_records(records()[:2])) is None
