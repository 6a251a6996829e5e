"""Bundles on disk: the same bytes again, errors that leave the old one whole, merging."""

import subprocess
import sys
from pathlib import Path

import pytest
from factories import both_records, make_facts, robustness_record, training_record, transfer
from msgspec.structs import replace

from robbench.errors import RobbenchError
from robbench.gate.verdicts import Verdict
from robbench.report import Bundle, merge, read_bundle, render, write_bundle
from robbench.report.drawing import Picture
from robbench.report.rows import Group

INDICES = [1, 2, 5, -1]


@pytest.fixture(autouse=True)
def _pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture of each architecture, not drawn."""

    def draw(group: Group) -> list[Picture]:
        return [Picture("pstar", f"{group.suite}-{group.architecture}-pstar.png", b"drawn")]

    monkeypatch.setattr("robbench.report.bundle.draw", draw)


def bundle(*, title: str = "demo", indices: list[int] = INDICES, created: str = "2025-01-01T00:00:00Z") -> Bundle:
    """One transferred model with one verdict."""
    records = both_records(make_facts("transfer", "emnist", 1), indices, created=created)
    verdict = Verdict(
        suite="demo", case=records[0].case, stage="robustness", figure="accuracy", mark="=", message=f"from {title}"
    )
    return Bundle(title=title, command=f"make {title}", notes=["a note"], verdicts=[verdict], records=records)


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_round_trip_gives_the_same_bytes(tmp_path: Path) -> None:
    """A bundle read back from its folder or its records.json is equal, and renders to the same files; order is nothing."""
    report = write_bundle(tmp_path / "a", bundle())
    bad = [replace(bundle().verdicts[0], mark="-", figure=figure) for figure in ("seconds", "median p*", "accuracy")]
    assert render(replace(bundle(), verdicts=bad)) == render(replace(bundle(), verdicts=bad[::-1]))
    assert report == tmp_path / "a" / "report.md"
    again = read_bundle(tmp_path / "a")
    assert again.records == sorted(bundle().records, key=lambda record: record.name)
    assert read_bundle(tmp_path / "a" / "records.json") == again
    write_bundle(tmp_path / "b", again)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    names = {"report.html", "report.md", "results.csv", "pstar.csv.gz", "records.json", "figures/demo-cnn7-pstar.png"}
    assert names == content(tmp_path / "a").keys()


def test_records_are_readable_in_a_diff(tmp_path: Path) -> None:
    """Each record has a line of its own, in order of its name."""
    write_bundle(tmp_path, bundle())
    lines = (tmp_path / "records.json").read_text().splitlines()
    records = [line for line in lines if '"schema":"robbench.record/1"' in line]
    assert ['"stage":"robustness"' in line for line in records] == [True, False]


def test_renewing_removes_only_its_own_old_figures(tmp_path: Path) -> None:
    """Figures of a model that is gone go too; a file of the user's stays."""
    two = Bundle(title="two", command="", records=[*bundle().records, training_record(make_facts(architecture="cnn4"))])
    write_bundle(tmp_path, two)
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_text("mine")
    write_bundle(tmp_path, bundle())
    names = content(tmp_path).keys()
    assert {"figures/mine.png", "notes.txt"} <= names
    assert not any("cnn4" in name for name in names)
    assert not any(".writing-" in name for name in names)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"schema": "robbench.bundle/1", "title": "x"', "truncated"),
        (b'{"schema": "robbench.bundle/9", "title": "x", "command": ""}', "robbench.bundle/9"),
        (b"[]", "robbench.bundle/1"),
        (b"\x89PNG", "robbench.bundle/1"),
    ],
    ids=["damaged", "other schema", "records alone", "no JSON"],
)
def test_what_is_no_bundle_is_an_error(tmp_path: Path, data: bytes, reason: str) -> None:
    """The error names the file, what was expected and what is wrong with it."""
    path = tmp_path / "records.json"
    path.write_bytes(data)
    with pytest.raises(RobbenchError, match=r"records\.json.*expected a bundle's folder") as error:
        read_bundle(tmp_path)
    assert reason in str(error.value)


def test_a_missing_bundle_is_an_error(tmp_path: Path) -> None:
    """A folder without records.json, and a folder that cannot be made, are named."""
    with pytest.raises(RobbenchError, match=r"records\.json.*cannot be read"):
        read_bundle(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RobbenchError, match="cannot be written"):
        write_bundle(tmp_path / "file", bundle())


def test_merging_keeps_the_newest_record_and_its_verdict() -> None:
    """Of two runs of a stage the newer one counts in either order, and a note says so."""
    old, new = bundle(title="old"), bundle(title="new", indices=[2, 2, 2, 2], created="2025-02-01T00:00:00Z")
    for both in ([old, new], [new, old]):
        merged = merge(both)
        assert sorted(merged.records, key=lambda r: r.name) == sorted(new.records, key=lambda r: r.name)
        assert [verdict.message for verdict in merged.verdicts] == ["from new"]
        assert merged.notes == ["a note", "demo: 1 model recorded more than once; the newest record counts"]
    assert merge([old, new]).title == "old, new"
    assert merge([old, new]).command == "make old\nmake new"


def test_merging_keeps_the_stages_of_a_model_together() -> None:
    """The newer p* brings its own training along, though the other run's training is newer than that."""
    facts = make_facts("transfer", "emnist", 1)
    first = [
        training_record(facts, 10.0, created="2025-01-01T00:00:00Z"),
        robustness_record(facts, [1], created="2025-03-01T00:00:00Z"),
    ]
    second = [training_record(facts, 99.0, created="2025-02-01T00:00:00Z")]
    for both in ([first, second], [second, first]):
        merged = merge([Bundle(title="demo", command="", records=records) for records in both])
        assert sorted(merged.records, key=lambda r: r.stage) == sorted(first, key=lambda r: r.stage)


def test_merging_parts_of_a_study_leaves_what_both_lack() -> None:
    """Each run of -k lacks what the other has; only what no run has stays missing."""
    names = [f"demo/cnn7-emnist-TL{k}.{stage}" for k in (1, 2, 3) for stage in ("training", "robustness")]
    parts = [
        Bundle(title="demo", command="", records=transfer(1, [1]), missing=names[2:]),
        Bundle(title="demo", command="", records=transfer(2, [1]), missing=[*names[:2], *names[4:]]),
    ]
    merged = merge(parts)
    assert sorted(merged.missing) == sorted(names[4:])
    assert "- cnn7: 1 model (cnn7-emnist-TL3)" in render(merged)["report.md"].decode()


def test_two_studies_are_two_sections() -> None:
    """Each with its own answers; a note that both have is there once; nothing at all is an error."""
    with pytest.raises(RobbenchError, match="at least one"):
        merge([])
    other = Bundle(title="more", command="", notes=["a note"], records=both_records(make_facts(), [1], suite="more"))
    merged = merge([bundle(), other])
    report = render(merged)["report.md"].decode()
    assert [line for line in report.splitlines() if line.startswith("## ")][:2] == [
        "## demo: MNIST → EMNIST, cnn7",
        "## more: MNIST, cnn7",
    ]
    assert merged.notes == ["a note"]


def test_an_empty_bundle_renders(tmp_path: Path) -> None:
    """A run that made no record leaves a report that says so."""
    text = write_bundle(tmp_path, Bundle(title="empty", command="")).read_text()
    assert "No model was run." in text
    assert read_bundle(tmp_path).records == []


def test_an_error_while_rendering_leaves_the_old_bundle_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one byte of it changes."""
    write_bundle(tmp_path, bundle())
    before = content(tmp_path)
    monkeypatch.setattr("robbench.report.bundle.report_text", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_bundle(tmp_path, bundle(title="new"))
    assert content(tmp_path) == before


def test_the_end_of_a_run_imports_nothing_that_draws() -> None:
    """The table in the terminal is printed by every run, whether it writes a report or not."""
    code = "import robbench.report.terminal, sys; assert not {'torch', 'pandas', 'matplotlib', 'jinja2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_accuracy_floors_stay_with_their_suites(tmp_path: Path) -> None:
    """In records.json, and where bundles are merged; what none declares is not written."""
    floored = replace(bundle(), accuracy_floors={"demo": 0.5})
    write_bundle(tmp_path, floored)
    assert read_bundle(tmp_path).accuracy_floors == {"demo": 0.5}
    assert merge([bundle(), floored]).accuracy_floors == {"demo": 0.5}
    assert b"accuracy_floors" not in render(bundle())["records.json"]
