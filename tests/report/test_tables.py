"""Tables and CSV files against figures worked out by hand."""

import csv
import gzip
import io

from factories import both_records, make_facts, robustness_record, training_record
from msgspec.structs import replace

from robbench.record import Record
from robbench.report.rows import Group, group_records
from robbench.report.tables import (
    data_table,
    environment_table,
    model_table,
    pstar_csv_gz,
    published_table,
    results_csv,
)

TL1 = make_facts("transfer", "emnist", 1)


def group(records: list[Record]) -> Group:
    """The records' only group."""
    return group_records(records)[0]


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table, its header first."""
    lines = [line for line in text.splitlines() if not line.startswith("|:")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_of_the_model_table() -> None:
    """Four of five images right; p* 0.1, 0.2, 0.3 and one never fooled; 10 s; the second of three epochs kept."""
    head, line = cells(model_table(group(both_records(TL1, [1, 2, 3, 5, -1]))))
    assert dict(zip(head, line, strict=True)) == {
        "Model": "TL#1",
        "clean accuracy": "80.0%",
        "median p\\*": "0.25",
        "median p\\* (common images)": "0.25 (4)",
        "robust accuracy at ε = 0.1": "60.0%",
        "robust accuracy at ε = 0.2": "40.0%",
        "robust accuracy at ε = 0.3": "20.0%",
        "censored": "25.0%",
        "training seconds": "10.0",
        "epochs (best / all)": "2 / 3",
    }


def test_censored_and_empty_medians_are_not_numbers() -> None:
    """A censored median is “greater than the grid's end”, that of no image a dash."""
    assert cells(model_table(group(both_records(TL1, [5, 5, 5]))))[1][2] == "> 0.4"
    wrong = cells(model_table(group(both_records(TL1, [-1, -1]))))[1]
    assert wrong[1:4] == ["0.0%", "–", "– (0)"]
    assert wrong[7] == "–"


def test_a_stage_that_was_not_run_leaves_dashes() -> None:
    """A model that was only trained has no robustness figures, one only tested no seconds."""
    assert cells(model_table(group([training_record(TL1)])))[1] == ["TL#1", "–", "–", "–", "–", "10.0", "2 / 3"]
    assert cells(model_table(group([robustness_record(TL1, [1])])))[1][-2:] == ["–", "–"]


def test_seeds_get_a_line_of_their_spread() -> None:
    """Three seeds with medians 0.1, 0.2, 0.4 are summed up as 0.2, from 0.1 to 0.4."""
    records = [
        record
        for seed, place in enumerate([4, 1, 2])
        for record in both_records(make_facts("transfer", "emnist", 1, seed=seed), [place] * 3, 10.0 + seed)
    ]
    lines = cells(model_table(group(records)))
    assert [line[0] for line in lines[1:4]] == ["TL#1 (seed 0)", "TL#1 (seed 1)", "TL#1 (seed 2)"]
    assert lines[4][0] == "*TL#1: median of 3 seeds [least to greatest]*"
    assert lines[4][2] == "0.2 [0.1 to 0.4]"
    assert lines[4][8] == "11.0 [10.0 to 12.0]"


def test_published_figures_stand_beside_ours() -> None:
    """TL#1 of CNN-7 is published as 75.74 %, 0.195 and 176 s; ours are 80 %, 0.2 and 11 s in all."""
    text = published_table(group(both_records(TL1, [2, 2, 2, 2, -1])))
    assert text is not None
    assert cells(text)[1] == ["TL#1", "80.0%", "75.7%", "+4.3", "0.2", "0.195", "+0.005", "11.0", "176", "× 0.062"]


def test_nothing_is_published_for_other_data_or_at_quick_scale() -> None:
    """No table at all where no row could be compared."""
    other = make_facts("transfer", "glyphs47", 1, source="glyphs10")
    assert published_table(group(both_records(other, [2]))) is None
    assert published_table(group(both_records(TL1, [2], suite="mnist-emnist-quick"))) is None
    swapped = replace(robustness_record(TL1, [2]).data, name="emnist47")
    assert published_table(group(both_records(TL1, [2], data=swapped))) is None


def test_results_csv_has_every_figure_of_a_model() -> None:
    """One row per model, censored medians as inf, missing figures empty."""
    data = results_csv([group([*both_records(TL1, [5, 5, -1]), training_record(make_facts("pgd"))])])
    scratch, transfer = csv.DictReader(io.StringIO(data.decode()))
    assert (transfer["case"], transfer["k"], transfer["median_pstar"]) == ("cnn7-emnist-TL1", "1", "inf")
    assert (transfer["clean_accuracy"], transfer["censored_images"]) == ("0.6666666667", "2")
    assert (transfer["robust_accuracy_0.3"], transfer["published_median_pstar"]) == ("0.6666666667", "0.195")
    assert (scratch["case"], scratch["median_pstar"], scratch["training_seconds"]) == ("cnn7-mnist-pgd", "", "10")


def test_pstar_csv_has_every_image() -> None:
    """Wrong and never-fooled images have a status and no value; the bytes hold no time."""
    groups = [group(both_records(TL1, [-1, 0, 3, 5]))]
    data = pstar_csv_gz(groups)
    lines = list(csv.reader(io.StringIO(gzip.decompress(data).decode())))
    assert lines[0] == ["suite", "case", "image", "pstar", "status"]
    assert [line[2:] for line in lines[1:]] == [
        ["0", "", "wrong"],
        ["1", "0", "found"],
        ["2", "0.3", "found"],
        ["3", "", "censored"],
    ]
    assert data[4:8] == b"\0\0\0\0"


def test_data_and_environment_are_listed_once() -> None:
    """Two stages on one set and one machine make one line and one column."""
    records = both_records(TL1, [1])
    assert cells(data_table(records))[1:] == [["emnist", "80", "20", "10", "`emnist000000`"]]
    table = cells(environment_table(records))
    assert table[0] == ["Property", "cpu-2core"]
    assert ["cuda", "–"] in table
    assert ["stages", "2"] in table
