"""A whole run in which something is at fault: one line for each item that it hits, and the others go on."""

import errno
import os

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
    """Let no file be put in place whose path has all of these parts in it, until the context ends."""

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
    """Every stage fails once, and the next run has nothing in its way."""
    patch = full("stage.json")
    result = tiny("--robbench-update")
    patch.undo()
    result.assert_outcomes(failed=10)
    text = errors(result)
    assert "stage.json' cannot be written: No space left on device" in text
    assert "failed before: " in text
    assert [stage for stage in stages if stage.endswith(".robustness")] == []  # no model to estimate was kept
    tiny("--robbench-update").assert_outcomes(passed=10)


def test_a_full_disk_of_baselines_fails_the_item_and_keeps_the_stage(one, full, errors, stages):
    """With room, the next run writes the baselines without computing anything."""
    patch = full("baselines", ".robustness.json")
    result = one("--robbench-update")
    patch.undo()
    result.assert_outcomes(passed=1, failed=1, deselected=8)
    assert "robustness.json' cannot be written: No space left on device" in errors(result)
    stages.clear()
    one("--robbench-update").assert_outcomes(passed=2, deselected=8)
    assert stages == []


def test_a_full_disk_of_reports_is_one_line_and_a_failing_run(updated, full, errors):
    """The figures are in the store: the next run writes the bundle."""
    patch = full("reports", "report.md")
    result = updated()
    patch.undo()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "no report of study 'tiny': " in errors(result)
    assert updated().ret == pytest.ExitCode.OK


def test_a_damaged_stage_fails_its_own_items_alone(tiny, pytester, errors, cases):
    """Its items name the file, all others pass, and the report leaves it out."""
    tiny("--robbench-update").assert_outcomes(passed=10)
    stored = next(
        path
        for path in (pytester.path / ".robbench" / "store").rglob("stage.json")
        if f'"case": "{cases[1]}"' in path.read_text() and '"stage": "training"' in path.read_text()
    )
    stored.write_text("{")
    result = tiny()
    result.assert_outcomes(passed=8, failed=2)
    assert f"{stored} is damaged" in errors(result)
    records = read_bundle(pytester.path / "reports" / "tiny").records
    assert cases[1] not in {record.case for record in records if record.training}


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
        ("raise SystemExit(3)", "standard: its check failed with SystemExit(3)"),
        (ODD.format(method="forward", fault="SystemExit(3)"), "standard: its check failed with SystemExit(3)"),
        (
            "import pytest\n\n\ndef mlp(classes, shape):\n    pytest.skip('no GPU')",
            "standard: its check failed with no GPU",
        ),
    ],
    ids=["its function", "its module", "its logits", "a function that skips"],
)
def test_a_network_that_raises_fails_its_own_items_alone(pytester, write_suite, errors, network, message):
    """In one line, in full once, beside a network that is sound."""
    write_suite(('("net:mlp",)', '("odd:mlp", "net:mlp")'))
    pytester.makepyfile(odd=network)
    result = pytester.runpytest_inprocess("-k", "glyphs10-standard", "--robbench-update")
    result.assert_outcomes(passed=2, failed=2, deselected=16)
    text = errors(result)
    assert message in text
    assert "not run: " in text
