"""Robustness class by class, against figures worked out by hand."""

import csv
import io

import pytest
from factories import both_records, make_facts, make_group, many_classes, transfer, with_classes
from msgspec.structs import replace

from robbench.record import Counts, OfClass, Record
from robbench.report.answers import answers
from robbench.report.choice import choices
from robbench.report.classes import by_dataset, classes_csv, classes_table, compared, extremes
from robbench.report.html import report_html
from robbench.report.page import report_text
from robbench.report.seeds import models_of

FEW = [
    OfClass(name="rose", clean=Counts(correct=2, total=3), median_pstar=0.15),
    OfClass(name="a|b", clean=Counts(correct=1, total=2), median_pstar=None, censored=True),
    OfClass(name="lily", clean=Counts(correct=0, total=0), median_pstar=None),
]


def study(classes: list[OfClass]) -> list[Record]:
    """Source, both models from scratch and seven transfers, those on the target with classes."""
    target = [both_records(make_facts("standard", "emnist"), [1] * 40, 5.0)]
    target += [both_records(make_facts("pgd", "emnist"), [3] * 40, 400.0)]
    target += [transfer(k, {2: [2] * 40, 3: [2, 3] * 20}.get(k, [1] * 40), 10.0 * k) for k in range(1, 8)]
    own = [record for each in target for record in with_classes(each, classes)]
    return [*both_records(make_facts("pgd", "mnist"), [4] * 40, 100.0), *own]


def test_the_table() -> None:
    """Balanced accuracy, then median p* and accuracy of each class."""
    (model,) = models_of(make_group(with_classes(transfer(1, [1, 2, 5, -1, -1]), FEW)).rows)
    frame = classes_table([model])
    assert list(frame.columns) == ["Class", "TL#1"]
    assert frame.values.tolist() == [
        ["balanced accuracy", "58.3%"],
        ["rose", "0.150 (66.7%)"],
        ["a\\|b", "> 0.4 (50.0%)"],
        ["lily", "– (–)"],
    ]


def test_each_data_set_has_its_own_classes() -> None:
    """Classes of the source are never named after those of the target; none of a model without classes."""
    source = with_classes(both_records(make_facts("pgd", "mnist"), [4] * 5), many_classes(3))
    group = make_group(source, with_classes(transfer(1, [1] * 5), FEW), transfer(2, [1] * 5))
    found = {name: [model.label for model in models] for name, models in by_dataset(models_of(group.rows)).items()}
    assert found == {"mnist": ["PGD MNIST"], "emnist": ["TL#1"]}


def test_the_models_of_a_short_report() -> None:
    """The best transfer, both models from scratch, then what is recommended; the first four of a study without either."""
    group = make_group(*study(FEW))
    (answer,) = answers(group)
    names = [model.label for model in compared(group, answer, choices([group]))]
    assert names == ["TL#3", "PGD EMNIST", "Standard EMNIST", "TL#2"]
    assert [model.label for model in compared(group, None, ())] == ["Standard EMNIST", "PGD EMNIST", "TL#1", "TL#2"]


def test_extremes_rest_on_enough_images() -> None:
    """The three least and the three most robust classes; c0 has too few correct images to be named."""
    (model,) = models_of(make_group(with_classes(transfer(1, [1] * 5), many_classes(12))).rows)
    least, most = extremes(model)
    assert least == ["c1 0.020 (75.0%)", "c2 0.040 (75.0%)", "c3 0.060 (75.0%)"]
    assert most == ["c11 0.220 (75.0%)", "c10 0.200 (75.0%)", "c9 0.180 (75.0%)"]


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (FEW, "| Class | TL#3 | PGD EMNIST | Standard EMNIST | TL#2 |"),
        (
            many_classes(12),
            "- PGD EMNIST, balanced accuracy 69.2%: least robust c1 0.020 (75.0%), c2 0.040 (75.0%), c3",
        ),
        (
            [replace(each, clean=Counts(correct=5, total=9)) for each in many_classes(12)],
            "TL#3, balanced accuracy 55.6%: no class",
        ),
    ],
    ids=["few classes", "many classes", "few images"],
)
def test_a_short_report(classes: list[OfClass], sentence: str) -> None:
    """A table of few models and classes, a line each for two models otherwise."""
    page = " ".join(report_text([make_group(*study(classes))], {}, title="t").split())
    assert sentence in page
    assert ("| c5" in page) is False


def test_classes_of_one_size_are_in_the_long_report_alone() -> None:
    """In a table of ``report.html`` with every class, and in no sentence of ``report.md``."""
    records = [
        replace(record, result=replace(record.result, imbalanced=False)) if record.robustness else record
        for record in study(many_classes(12))
    ]
    group = make_group(*records)
    assert "balanced accuracy" not in report_text([group], {}, title="t")
    assert "Median p* of every class of EMNIST" in report_html([group], title="t")


def test_the_csv() -> None:
    """A row for each model and class; a censored median is inf; nothing without classes."""
    assert classes_csv([make_group(transfer(1, [1]))]) == b""
    rows = [*csv.DictReader(io.StringIO(classes_csv([make_group(with_classes(transfer(1, [1]), FEW))]).decode()))]
    assert [
        (row["case"], row["class"], row["correct_images"], row["test_images"], row["median_pstar"]) for row in rows
    ] == [
        ("cnn7-emnist-TL1", "rose", "2", "3", "0.15"),
        ("cnn7-emnist-TL1", "a|b", "1", "2", "inf"),
        ("cnn7-emnist-TL1", "lily", "0", "0", ""),
    ]
