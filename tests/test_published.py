"""The published rows, and which of our models they stand beside."""

from pathlib import Path

import pytest
from factories import make_facts

from robbench.errors import RobbenchError
from robbench.published import published_row, published_rows, read_published


def test_all_rows_are_read_once_each() -> None:
    """The nine tables hold 125 models, no two alike."""
    rows = published_rows()
    assert len(rows) == 125
    assert len({row.key for row in rows}) == 125
    assert {row.table for row in rows} == {f"B.{number}" for number in range(1, 10)}


def test_a_transfer_finds_its_row() -> None:
    """TL#5 of CNN-7 is the published 0.270 at 86.70 % after 106 seconds and 15 epochs."""
    row = published_row(make_facts("transfer", "emnist", 5))
    assert row is not None
    assert (row.label, row.median_pstar, row.accuracy, row.train_seconds, row.epochs) == ("TL #5", 0.27, 0.867, 106, 15)


def test_a_model_from_scratch_finds_its_row() -> None:
    """The source model of CNN-7 is the published 0.405."""
    row = published_row(make_facts("pgd", "mnist"))
    assert row is not None
    assert (row.table, row.median_pstar, row.k, row.source) == ("B.4", 0.405, None, None)


@pytest.mark.parametrize(
    "facts",
    [
        make_facts("pgd", "emnist47"),
        make_facts("pgd", "glyphs47"),
        make_facts("transfer", "emnist", 5, source="glyphs10"),
        make_facts("transfer", "emnist", 5, kept="finetuned"),
        make_facts("transfer", "emnist", 5, source_method="standard"),
        make_facts("transfer", "emnist", 5, source_method="checkpoint"),
        make_facts("transfer", "emnist", 5, head="mlp1"),
        make_facts("checkpoint", "mnist"),
    ],
    ids=lambda facts: f"{facts.method}-{facts.dataset}-{facts.head}-{facts.kept}-{facts.source_method}",
)
def test_other_data_and_other_transfers_have_no_row(facts) -> None:  # type: ignore[no-untyped-def]
    """A figure made with other data, or in a way nobody published, stands beside nothing."""
    assert published_row(facts) is None


def test_a_missing_or_damaged_file_is_an_error(tmp_path: Path) -> None:
    """The error names the file; a row that is there twice is named too."""
    with pytest.raises(RobbenchError, match=r"none\.csv"):
        read_published(tmp_path / "none.csv")
    damaged = tmp_path / "damaged.csv"
    damaged.write_text("table,arch\nB.1,cnn7\n")
    with pytest.raises(RobbenchError, match="expected the columns"):
        read_published(damaged)
    head = "table,arch,label,method,source,dataset,k,head,accuracy,median_pstar,train_seconds,epochs\n"
    damaged.write_text(head + 2 * "B.4,cnn7,TL #1,transfer,mnist,emnist,1,linear,0.7,0.1,10,2\n")
    with pytest.raises(RobbenchError, match="TL #1 again"):
        read_published(damaged)
