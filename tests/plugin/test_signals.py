"""Ctrl-C and SIGTERM in the middle of a suite: an orderly end, a line that says how to go on, and nothing lost."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from robbench.report import read_bundle

sys.path.insert(0, str(Path(__file__).parents[1] / "stress"))
import project

INTERRUPT = """
import os
import pathlib
import signal

import pytest
import robbench.store.files

write = robbench.store.files.os.replace


def replace(source, target):
    write(source, target)
    if str(target).endswith("stage.json") and b"glyphs47-standard" in pathlib.Path(target).read_bytes():
        {end}


robbench.store.files.os.replace = replace
"""


def run(folder, *options):
    """Run the tiny suite in a process of its own; exit status and output."""
    (folder / "log.txt").unlink(missing_ok=True)
    process = project.start(folder, *options)
    process.join()
    return process.exitcode, (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    "end",
    ["os.kill(os.getpid(), signal.SIGINT)", "os.kill(os.getpid(), signal.SIGTERM)", "pytest.exit('enough')"],
    ids=["SIGINT", "SIGTERM", "pytest.exit"],
)
def test_an_interruption_ends_a_run_in_order(pytester, write_suite, end):
    """After the second model's stage was written: table and report hold what is finished, and one line says how to go on."""
    write_suite()
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")
    pytester.makeconftest(INTERRUPT.format(end=end))
    status, text = run(pytester.path, "-k", "standard")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "Traceback" not in text
    assert "interrupted; this goes on with what is left: pytest --robbench-update -k standard" in text.splitlines()
    bundle = read_bundle(pytester.path / "reports" / "tiny")
    assert [record.name for record in bundle.records] == [
        "net.mlp-glyphs10-standard.training",
        "net.mlp-glyphs47-standard.training",
    ]
    assert "this run was interrupted before its end" in bundle.notes
    (pytester.path / "conftest.py").unlink()
    status, text = run(pytester.path, "-k", "standard")
    assert (status, "interrupted" in text) == (0, False)
    assert len(read_bundle(pytester.path / "reports" / "tiny").records) == 4


def test_a_run_without_a_suite_dies_of_sigterm_as_always(pytester):
    """The plugin is there in every run, and changes nothing in those of others."""
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")
    pytester.makepyfile("import os\nimport signal\n\n\ndef test_it():\n    os.kill(os.getpid(), signal.SIGTERM)\n")
    assert run(pytester.path)[0] == -signal.SIGTERM


def test_an_interruption_while_the_report_is_written_says_how_to_get_it(pytester, write_suite):
    """No traceback; the same command writes it from what is in the store."""
    write_suite()
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")
    kill = "import os\nimport signal\n\nimport robbench.report.bundle\n\n\ndef draw(group):\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    pytester.makeconftest(f"{kill}\n\nrobbench.report.bundle.draw = draw\n")
    status, text = run(pytester.path, "-k", "standard and training")
    assert status == pytest.ExitCode.INTERRUPTED
    assert "Traceback" not in text
    said = (
        "interrupted while reports were written; this writes them: pytest --robbench-update -k 'standard and training'"
    )
    assert said in text.splitlines()
    (pytester.path / "conftest.py").unlink()
    status, text = run(pytester.path, "-k", "standard and training")
    assert (status, "2 of 2 stages were taken from the store" in text) == (0, True)
