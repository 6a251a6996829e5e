"""A study in parts: by ``-k``, resumed, on machines with stores of their own, and merged into one report."""

import math

import msgspec
import pytest

from robbench.cli import main
from robbench.locks import among_the_living
from robbench.plugin.results import Results
from robbench.report import read_bundle

FIRST = "glyphs10 or glyphs47-standard"
REST = "glyphs47-pgd or TL1"


@pytest.fixture
def part(tiny, pytester):
    """Run a part of the tiny study into a report folder of its own; returns the records' path."""

    def run(name, selection, *options):
        folder = pytester.path / name
        result = tiny("--robbench-update", f"--robbench-report={folder}", "-k", selection, *options)
        assert result.ret == 0
        return folder / "tiny" / "records.json"

    return run


def merged(paths, folder):
    """Records of the bundle that ``robbench report`` makes of several, by name."""
    assert main(["report", *map(str, paths), "-o", str(folder)]) == 0
    return {record.name: record for record in read_bundle(folder).records}


def figures(records):
    """What equal stages share: everything but times."""
    return {name: (record.digest, record.robustness, record.model) for name, record in records.items()}


def everything(cases):
    """Names of all stages."""
    return {f"{case}.{stage}" for case in cases for stage in ("training", "robustness")}


def test_two_parts_on_one_machine_merge_into_the_whole_study(part, pytester, stages, cases):
    """Nothing runs twice, and the merged report has every stage once, as one run has it."""
    paths = [part("a", FIRST), part("b", REST, "--robbench-resume")]
    assert sorted(stages) == sorted(everything(cases))
    parts = merged(paths, pytester.path / "c")
    assert set(parts) == everything(cases)
    whole = {record.name: record for record in read_bundle(part("whole", "glyphs", "--robbench-resume")).records}
    assert figures(parts) == figures(whole)
    assert len(stages) == len(everything(cases))


def untimed(training):
    """A training's result without seconds."""
    epochs = [msgspec.structs.replace(epoch, seconds=0.0, validation_seconds=0.0) for epoch in training.epochs]
    return msgspec.structs.replace(training, epochs=epochs)


def test_two_parts_on_two_machines_merge_into_the_whole_study(part, pytester, stages, cases):
    """With stores of their own, the second trains the source of its transfer again, and to the same weights."""
    paths = [part("a", FIRST, "--robbench-store=one"), part("b", REST, "--robbench-store=two")]
    assert stages.count("net.mlp-glyphs10-pgd.training") == 2
    assert len(stages) == len(everything(cases)) + 1
    one, two = ({record.name: record for record in read_bundle(path).records} for path in paths)
    assert set(one) | set(two) == everything(cases)
    twice = set(one) & set(two)
    assert twice == {"net.mlp-glyphs10-pgd.training"}
    first, second = (untimed(records["net.mlp-glyphs10-pgd.training"].training) for records in (one, two))
    assert first == second
    parts = merged(paths, pytester.path / "c")
    assert set(parts) == everything(cases)
    assert all((pytester.path / "c" / name).exists() for name in ("report.md", "results.csv", "pstar.csv.gz"))


def test_stages_in_parts(part, pytester, cases):
    """All trainings on one machine, all estimates on another that shares its store: by the names of the tests."""
    paths = [part("a", "test_training"), part("b", "test_robustness")]
    assert set(merged(paths, pytester.path / "c")) == everything(cases)


def test_a_part_that_was_interrupted_goes_on(part, pytester, stages, cases):
    """The same command with --robbench-resume runs what is left of it."""
    part("a", "glyphs10-standard")
    path = part("a", FIRST, "--robbench-resume")
    assert stages.count("net.mlp-glyphs10-standard.training") == 1
    assert {record.case for record in read_bundle(path).records} == {
        case for case in cases if "glyphs47-" not in case
    } | {"net.mlp-glyphs47-standard"}


def test_a_run_that_begins_while_another_lives_makes_no_stage_of_it_again(one, pytester, stages):
    """Nor does one that begins while only that one lives. When all have ended, the next makes its own."""
    processes = pytester.path / ".robbench" / "store" / "processes"
    with among_the_living(processes, 0.0):
        assert one("--robbench-update").ret == one().ret == 0
        assert len(stages) == 2
    assert one().ret == 0
    assert len(stages) == 4
    assert list(processes.iterdir()) == []


def test_a_controller_lives_until_its_report_is_written(one, pytester, monkeypatch):
    """Longer than its workers: who begins meanwhile makes nothing of theirs again."""
    living, write = [], Results._write

    def noted(self, *rest):
        with among_the_living(pytester.path / ".robbench" / "store" / "processes", math.inf) as since:
            living.append(since)
        return write(self, *rest)

    monkeypatch.setattr(Results, "_write", noted)
    assert one("--robbench-update", "-n", "2").ret == 0
    assert living[0] < math.inf
