"""A study in parts: by ``-k``, resumed, on machines with stores of their own, and merged into one report."""

import contextlib
import json
import math

import msgspec
import pytest

from robbench.cli import main
from robbench.plugin.results import Results
from robbench.report import read_bundle
from robbench.store.locks import among_the_living

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


def test_a_part_has_passed_so_far(tiny, pytester, cases):
    """Also where the store and the report have the rest of an earlier run: this one compared none of it."""
    report = pytester.path / "reports" / "tiny" / "report.md"
    assert tiny("--robbench-update").ret == 0
    for options, line in (
        ((), f"**Passed: {5 * len(cases)} figures compared.**"),
        (
            ("-k", "glyphs10-standard"),
            f"**Passed so far: 5 figures compared; {2 * len(cases) - 2} stages of the study not compared.**",
        ),
    ):
        assert tiny(*options).ret == 0
        assert report.read_text().splitlines()[2] == line


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_run_that_ends_at_its_first_failure_was_not_interrupted(one, pytester, workers):
    """By ``-x``: nobody asks how to go on, with workers or without."""
    result = one("-x", *workers)  # no baseline: fails
    assert result.ret != 0
    assert "interrupted; this goes on" not in result.stdout.str()
    assert not any("interrupted" in note for note in read_bundle(pytester.path / "reports" / "tiny").notes)


@pytest.fixture
def another(pytester):
    """While it lasts, a run lives that began long ago, of the code that the last run had."""

    @contextlib.contextmanager
    def lives():
        (stage, *_) = (pytester.path / ".robbench" / "store").rglob("stage.json")
        code = json.loads(stage.read_bytes())["code"]
        with among_the_living(pytester.path / ".robbench" / "store" / "processes", 0.0, code):
            yield

    return lives


def test_a_run_that_begins_while_another_lives_makes_no_stage_of_it_again(updated, pytester, stages, another):
    """It says so. When all have ended, the next makes its own."""
    said = "what another run of the same code finished in this store meanwhile was not made again"
    with another():
        result = updated()
    assert (result.ret, stages) == (0, [])
    assert result.stdout.lines.count(said) == 1
    result = updated()
    assert (result.ret, len(stages)) == (0, 2)
    assert said not in result.stdout.lines
    assert list((pytester.path / ".robbench" / "store" / "processes").iterdir()) == []


def test_code_that_was_changed_meanwhile_makes_its_own(updated, pytester, stages, another):
    """Although no digest tells: here a module that nothing has loaded yet when the run begins."""
    pytester.makepyfile(helper="x = 1")
    assert updated().ret == 0
    with another():
        assert updated().ret == 0
        assert len(stages) == 2
        pytester.makepyfile(helper="x = 2")
        assert updated().ret == 0
    assert len(stages) == 4


def test_a_controller_lives_until_its_report_is_written(one, pytester, monkeypatch):
    """Longer than its workers: who begins meanwhile makes nothing of theirs again."""
    living, write = [], Results._write

    def noted(self, *rest):
        (stage, *_) = (pytester.path / ".robbench" / "store").rglob("stage.json")
        code = json.loads(stage.read_bytes())["code"]
        with among_the_living(pytester.path / ".robbench" / "store" / "processes", math.inf, code) as since:
            living.append(since)
        return write(self, *rest)

    monkeypatch.setattr(Results, "_write", noted)
    assert one("--robbench-update", "-n", "2").ret == 0
    assert living[0] < math.inf


def test_a_run_that_makes_no_stage_leaves_the_store_alone(tiny, pytester):
    """Not even a folder, where nothing but names is asked for."""
    tiny("--collect-only", "-q")
    assert not (pytester.path / ".robbench").exists()
