"""Data and machines, listed once."""

from factories import both_records, make_facts

from robbench.report.provenance import data_table, environment_table

TL1 = make_facts("transfer", "emnist", 1)


def cells(text: str) -> list[list[str]]:
    """The cells of a Markdown table, its header first."""
    lines = [line for line in text.splitlines() if not line.startswith("|:")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_data_and_environment_are_listed_once() -> None:
    """Two stages on one set and one machine make one line and one column."""
    records = both_records(TL1, [1])
    assert cells(data_table(records))[1:] == [["emnist", "400", "100", "1", "`emnist000000`"]]
    table = cells(environment_table(records))
    assert table[0] == ["Property", "cpu-2core"]
    assert ["cuda", "–"] in table
    assert ["stages", "2"] in table
