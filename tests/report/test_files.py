"""CSV files against figures worked out by hand."""

import csv
import gzip
import io

from factories import GRID, again, make_facts, make_group, training_record, transfer
from msgspec.structs import replace

from robbench.record import AttackAccuracy, Counts, LowerBounds
from robbench.report.files import pstar_csv_gz, results_csv


def test_results_csv_has_every_figure_of_a_model() -> None:
    """One row per model, censored medians as inf, missing figures empty."""
    data = results_csv([make_group(*transfer(1, [5, 5, -1]), training_record(make_facts("pgd")))])
    scratch, found = csv.DictReader(io.StringIO(data.decode()))
    assert (found["case"], found["k"], found["median_pstar"]) == ("cnn7-emnist-TL1", "1", "inf")
    assert (found["clean_accuracy"], found["censored_images"]) == ("0.6666666667", "2")
    assert (found["robust_accuracy_0.3"], found["published_median_pstar"]) == ("0.6666666667", "0.2")
    assert (scratch["case"], scratch["median_pstar"], scratch["training_seconds"]) == ("cnn7-mnist-pgd", "", "10")


def test_pstar_csv_has_every_image() -> None:
    """Wrong and never-fooled images have a status and no value; the bytes hold no time."""
    groups = [make_group(*transfer(1, [-1, 0, 3, 5]))]
    data = pstar_csv_gz(groups)
    lines = list(csv.reader(io.StringIO(gzip.decompress(data).decode())))
    assert lines[0] == ["suite", "case", "search", "image", "pstar", "status", "certified_radius"]
    assert [line[3:6] for line in lines[1:]] == [
        ["0", "", "wrong"],
        ["1", "0", "found"],
        ["2", "0.3", "found"],
        ["3", "", "censored"],
    ]
    assert data[4:8] == b"\0\0\0\0"


def test_certified_radii_have_columns() -> None:
    """The median and the share exact of a model; the radius of every image that was bounded and is right."""
    trained, tested = transfer(1, [-1, 2, 3, 5])
    found = LowerBounds(grid=GRID, method="crown", images=[0, 1, 2], lower=[-1, 1, 0], upper=[-1, 2, 3])
    groups = [make_group(trained, tested, replace(tested, stage="bounds", result=found))]
    (row,) = csv.DictReader(io.StringIO(results_csv(groups).decode()))
    assert (row["median_certified"], row["exact"]) == (f"{(GRID[0] + GRID[1]) / 2:g}", "0.5")
    lines = csv.DictReader(io.StringIO(gzip.decompress(pstar_csv_gz(groups)).decode()))
    assert [line["certified_radius"] for line in lines] == ["", f"{GRID[1]:g}", f"{GRID[0]:g}", ""]


def test_a_second_search_has_a_median_and_images_of_its_own():
    """Beside those of the study's own, under its name."""
    trained, tested = transfer(1, [2, 3, -1])
    groups = [make_group(trained, tested, again(tested, "fast", [1, 1, -1]))]
    (row,) = csv.DictReader(io.StringIO(results_csv(groups).decode()))
    assert (row["median_pstar"], row["median_pstar_fast"]) == ("0.25", "0.1")
    lines = list(csv.DictReader(io.StringIO(gzip.decompress(pstar_csv_gz(groups)).decode())))
    assert [(line["search"], line["pstar"]) for line in lines] == [
        *(("reference", "0.2"), ("reference", "0.3"), ("reference", "")),
        *(("fast", "0.1"), ("fast", "0.1"), ("fast", "")),
    ]


def test_variants_and_the_final_test_have_columns() -> None:
    """A variant's row names its field; FGSM and PGD accuracies stand by attack and radius."""
    attack = AttackAccuracy(attack="fgsm", epsilon=0.1, steps=1, step_size=0.1, robust=Counts(correct=1, total=2))
    records = transfer(1, [1, 2]) + transfer(1, [1, 2], variant="split")
    tested = replace(records[3], result=replace(records[3].robustness, attacks=[attack]))
    plain, other = csv.DictReader(io.StringIO(results_csv([make_group(*records[:3], tested)]).decode()))
    assert (plain["variant"], other["variant"]) == ("", "split")
    assert (plain["fgsm_accuracy_0.1"], other["fgsm_accuracy_0.1"]) == ("", "0.5")
