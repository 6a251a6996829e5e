"""The table at the end of a run, and the line while it goes on."""

from factories import SOUND, again, both_records, make_facts, robustness_record, training_record, transfer
from msgspec.structs import replace

from robbench.gate.verdicts import Verdict
from robbench.record import Seconds
from robbench.report.terminal import busy, legend, recommended, table, warnings


def verdict(case, figure, mark, stage="robustness"):
    """A verdict with nothing but its mark."""
    return Verdict(suite="demo", case=case, stage=stage, figure=figure, mark=mark, message="")


def cells(text):
    """Rows of a table, header and rule left out, split at two spaces or more."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()[2:]]


def test_a_row_shows_both_stages_of_a_model():
    """Accuracy, median p*, seconds of training, kept of all epochs, seconds of p*."""
    records = both_records(make_facts(), [1, 2, 2, -1], seconds=12.34)
    text = table(records, [verdict("cnn7-mnist-pgd", figure, "=") for figure in ("accuracy", "median p*", "seconds")])
    assert text.splitlines()[0].split("  ")[0] == "model"
    assert cells(text) == [["cnn7-mnist-pgd", "75.0%", "0.200", "12.3", "2/3", "1.0", "= all"]]


def test_a_second_search_has_a_column_and_marks_of_its_own():
    """Its median, and its stage's name before its figures."""
    trained, tested = both_records(make_facts(), [1, 2, 2, -1])
    verdicts = [
        verdict("cnn7-mnist-pgd", "median p*", "-", "robustness-fast"),
        verdict("cnn7-mnist-pgd", "median p*", "+"),
    ]
    text = table([trained, tested, again(tested, "fast", [1, 1, 1, -1])], verdicts)
    assert "robustness-fast: median p*" in text.splitlines()[0]
    assert cells(text)[0][-2:] == ["0.100", "robustness-fast: median p* - · median p* +"]


def test_the_marks_of_a_table_are_explained_where_there_are_any():
    """In one line, each once; what is as it was needs no word."""
    assert legend([verdict("a", "accuracy", "=")]) == ""
    found = [verdict("a", "accuracy", "~"), verdict("b", "accuracy", "-"), verdict("b", "median p*", "-")]
    found.append(verdict("b", "seconds", "missing"))
    assert (
        legend(found)
        == "- (worse: fails) · ~ (beyond the tolerance, but not significant) · missing (no baseline: fails)"
    )


def test_a_stage_that_did_not_run_leaves_its_cells_empty():
    """A censored median is past the grid, that of no image a dash."""
    facts = [make_facts(), make_facts("transfer", "emnist", 1), make_facts("transfer", "emnist", 2)]
    records = [training_record(facts[0]), robustness_record(facts[1], [5, 5]), robustness_record(facts[2], [-1])]
    assert cells(table(records, [])) == [
        ["cnn7-mnist-pgd", "10.0", "2/3"],
        ["cnn7-emnist-TL1", "100.0%", "> 0.4", "1.0"],
        ["cnn7-emnist-TL2", "0.0%", "–", "1.0"],
    ]


def test_the_worst_marks_come_first():
    """Each figure once per mark, other models' left out."""
    facts = make_facts()
    given = [("accuracy", "+"), ("median p*", "-"), ("seconds", "="), ("seconds", "x"), ("seconds", "=")]
    verdicts = [verdict("cnn7-mnist-pgd", *one) for one in given] + [verdict("other", "accuracy", "-")]
    row = cells(table([training_record(facts)], verdicts))[0]
    assert row[-1] == "median p* - · seconds x · accuracy + · seconds ="


def test_a_model_whose_gradients_look_masked_has_a_line_below_the_table():
    """With every reason; sound models, and those that were not audited, have none."""
    record = robustness_record(make_facts(), [1])
    masked = replace(SOUND, warnings=["one", "two"])
    audited = [replace(record, result=replace(record.result, audit=audit)) for audit in (SOUND, masked, None)]
    assert warnings(audited) == ["cnn7-mnist-pgd: p* cannot be trusted: one; two"]


def test_stages_that_were_measured_on_a_busy_machine_are_named():
    """Four of them, with the share of the time waiting; none where the machine was free."""
    records = [
        replace(training_record(make_facts("transfer", "emnist", k)), seconds=Seconds(training=8, waiting_for_core=k))
        for k in range(7)
    ]
    assert busy(records[:1]) == ""
    said = "the machine was busy: these stages waited for a core so much of their time that their seconds mean little: "
    assert busy(records[:2]) == f"{said}cnn7-emnist-TL1.training 12%"
    assert busy(records).startswith(f"{said}cnn7-emnist-TL1.training 12%, cnn7-emnist-TL2.training 25%, ")
    assert busy(records).endswith("cnn7-emnist-TL4.training 50%, and 2 more")


def test_a_run_ends_with_what_to_choose() -> None:
    """A line for each purpose, and one for what was not considered; nothing where no figure means anything."""
    records = [*transfer(1, [2] * 40, 2.0), *transfer(2, [1] * 40, 1.0), *transfer(3, [4] * 2 + [-1] * 38)]
    assert [line.partition(",")[0] for line in recommended(records, {})] == [
        "for most robustness: TL#1",
        "for best balance: TL#1",
        "for least cost: TL#2",
        "not considered",
    ]
    assert recommended(records, {"demo": 1.0})[-1].startswith("not considered, below 100% clean accuracy")
    assert recommended([replace(record, suite="demo-quick") for record in records], {}) == []
