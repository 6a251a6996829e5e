"""A whole run with a full disk or a store that vanishes: one line for each item that it hits, and the others go on."""

import errno
import os
import shutil

import pytest

from robbench.report import read_bundle

ODD = """
from torch import nn


class Odd(nn.Sequential):
    def {method}(self, *arguments):
        raise {fault}


def mlp(classes, shape):
    return Odd(nn.Flatten(), nn.Linear(784, classes))
"""


@pytest.fixture
def full(monkeypatch):
    """Let no file be put in place whose path has a part in it, until the context ends."""

    def fill(*parts):
        patch = pytest.MonkeyPatch()
        replace = os.replace

        def fail(source, target, **options):
            if all(part in str(target) for part in parts):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            return replace(source, target, **options)

        patch.setattr(os, "replace", fail)
        return patch

    return fill


def test_a_full_store_fails_its_items_with_one_line_each(tiny, full, errors, pytester, stages):
    """Every stage fails once, nothing half-written is left, and the next run has nothing in its way."""
    patch = full("stage.json")
    result = tiny("--robbench-update")
    patch.undo()
    result.assert_outcomes(failed=10)
    text = errors(result)
    assert "stage.json' cannot be written: No space left on device" in text
    assert "failed before: " in text
    assert [path.name for path in pytester.path.rglob(".writing-*")] == []
    assert not list((pytester.path / ".robbench" / "store").rglob("stage.json"))
    assert [stage for stage in stages if stage.endswith(".robustness")] == []  # no model to estimate was kept
    tiny("--robbench-update", "--robbench-resume").assert_outcomes(passed=10)


def test_a_full_disk_of_baselines_fails_the_item_and_keeps_the_stage(one, full, errors, pytester, stages):
    """What was computed stays in the store: with room, resuming writes the baselines without computing anything."""
    patch = full("baselines", ".robustness.json")
    result = one("--robbench-update")
    patch.undo()
    result.assert_outcomes(passed=1, failed=1, deselected=8)
    assert "robustness.json' cannot be written: No space left on device" in errors(result)
    assert len(list((pytester.path / "baselines").rglob("*.json"))) == 1
    stages.clear()
    one("--robbench-update", "--robbench-resume").assert_outcomes(passed=2, deselected=8)
    assert stages == []


@pytest.mark.parametrize("name", ["report.md", "records.json", "results.csv", "pstar.csv.gz"])
def test_a_full_disk_of_reports_is_one_line_and_a_failing_run(updated, full, errors, pytester, stages, name):
    """The old bundle stays; the figures are in the store, and a run that resumes renders them."""
    updated("--robbench-resume").assert_outcomes(passed=2, deselected=8)
    folder = pytester.path / "reports" / "tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    patch = full(".writing-report-", name)
    result = updated("--robbench-resume")
    patch.undo()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "no report of study 'tiny': " in errors(result)
    assert f"{name}' cannot be written: No space left on device" in errors(result)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert [path.name for path in folder.glob(".writing-*")] == []
    assert updated("--robbench-resume").ret == pytest.ExitCode.OK
    assert stages == []


def test_a_store_that_vanishes_between_two_items_is_made_again(one, pytester, stages, monkeypatch):
    """The second item trains once more what it needs, and the run passes."""
    import robbench.stages.pipeline

    estimate = robbench.stages.pipeline.run_estimate

    def vanish(*arguments, **options):
        shutil.rmtree(pytester.path / ".robbench" / "store")
        return estimate(*arguments, **options)

    monkeypatch.setattr(robbench.stages.pipeline, "run_estimate", vanish)
    one("--robbench-update").assert_outcomes(passed=2, deselected=8)
    assert [stage.rpartition(".")[2] for stage in stages] == ["training", "training", "robustness"]


def test_a_damaged_stage_fails_its_own_items_alone(tiny, pytester, errors, cases):
    """One flipped digit in one stage.json: its items name the file, all others pass, the report leaves it out."""
    tiny("--robbench-update").assert_outcomes(passed=10)
    stored = next(
        path
        for path in (pytester.path / ".robbench" / "store").rglob("stage.json")
        if f'"case": "{cases[1]}"' in path.read_text() and '"stage": "training"' in path.read_text()
    )
    stored.write_text(stored.read_text().replace('"parameters": ', '"parameters": 1', 1))
    result = tiny("--robbench-resume")
    result.assert_outcomes(passed=8, failed=2)
    assert f"{stored} is damaged (its SHA-256 is not the one that was written); remove its folder" in errors(result)
    records = read_bundle(pytester.path / "reports" / "tiny").records
    assert cases[1] not in {record.case for record in records if record.training}
    shutil.rmtree(stored.parent)
    tiny("--robbench-resume").assert_outcomes(passed=10)


def test_damaged_data_fails_the_items_that_need_it_alone(tiny, pytester, errors):
    """The source's models are trained and estimated; the target's name the file, in full once, before they run."""
    path = pytester.mkdir(".robbench").joinpath("data", "far.npz")
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 and no more")
    result = tiny("--robbench-update", "--robbench-dataset", "glyphs47=far")
    result.assert_outcomes(passed=4, failed=6)
    assert errors(result).count(f"{path}: ") >= 6
    assert errors(result).count("not run: ") >= 5
    assert {record.case for record in read_bundle(pytester.path / "reports" / "tiny-far").records} == {
        "net.mlp-glyphs10-standard",
        "net.mlp-glyphs10-pgd",
    }


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            "def mlp(classes, shape):\n    return {}['missing']",
            "odd:mlp: called with classes=10, shape=(1, 28, 28), got KeyError('missing')",
        ),
        ("raise SystemExit(3)", "tried `from odd import mlp`, got SystemExit(3)"),
        (ODD.format(method="named_children", fault="KeyError(1)"), "standard: its check failed with KeyError(1)"),
        (ODD.format(method="forward", fault="SystemExit(3)"), "standard: its check failed with SystemExit(3)"),
        (
            "import pytest\n\npytest.importorskip('nowhere_at_all')",
            "standard: its check failed with could not import 'nowhere_at_all'",
        ),
        (
            "import pytest\n\n\ndef mlp(classes, shape):\n    pytest.skip('no GPU')",
            "standard: its check failed with no GPU",
        ),
    ],
    ids=["its function", "its module", "its body", "its logits", "a module that skips", "a function that skips"],
)
def test_a_network_that_raises_fails_its_own_items_alone(pytester, write_suite, errors, network, message):
    """Whatever it raises, exits included, and wherever: in one line, in full once, beside a network that is sound."""
    write_suite(('("net:mlp",)', '("odd:mlp", "net:mlp")'))
    pytester.makepyfile(odd=network)
    result = pytester.runpytest_inprocess("-k", "glyphs10-standard", "--robbench-update")
    result.assert_outcomes(passed=2, failed=2, deselected=16)
    text = errors(result)
    assert message in text
    assert "not run: " in text


def test_who_ends_the_run_while_networks_are_checked_ends_it(pytester, write_suite):
    """As somebody else's handler of a signal may: that is no network's fault."""
    write_suite()
    pytester.makeconftest(
        "import pytest\nimport robbench.stages.pipeline\n\nrobbench.pipeline.check = lambda *_: pytest.exit('enough')"
    )
    result = pytester.runpytest_subprocess("-k", "glyphs10-standard", "--robbench-update")
    assert result.ret == 2
    assert "enough" in result.stdout.str()
