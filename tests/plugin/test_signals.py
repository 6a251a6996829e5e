"""SIGINT and SIGTERM in the middle of a suite: an orderly end, a line that says how to go on, and nothing lost."""

from __future__ import annotations

import signal
import subprocess
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

import robbench.store.files

write = robbench.store.files.os.replace


def replace(source, target):
    if str(target).endswith("{file}") and b"{word}" in pathlib.Path(source).read_bytes():
        robbench.store.files.os.replace = write
        os.kill(os.getpid(), signal.{name})
    write(source, target)


robbench.store.files.os.replace = replace
"""


def run(folder, *options):
    """Run the tiny suite in a process of its own; exit status and output."""
    (folder / "log.txt").unlink(missing_ok=True)
    process = project.start(folder, *options)
    process.join()
    return process.exitcode, (folder / "log.txt").read_text()


@pytest.fixture
def folder(pytester, write_suite):
    """A folder with the tiny suite."""
    write_suite()
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")
    return pytester.path


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 2), ("SIGTERM", 128 + signal.SIGTERM)])
def test_a_signal_ends_a_run_in_order(folder, name, status):
    """While the second model's stage is being written: that write is finished, table and report hold what is finished, and
    one line says how to go on; going on makes the rest.
    """
    conftest = INTERRUPT.format(file="stage.json", word="glyphs47-standard", name=name)
    (folder / "conftest.py").write_text(conftest)
    found, text = run(folder, "-k", "standard")
    assert found == status
    assert "Traceback" not in text
    assert "KeyboardInterrupt" in text if name == "SIGINT" else "Terminated" in text
    line = "interrupted; this goes on with what is left: pytest --robbench-update -k standard --robbench-resume"
    assert line in text.splitlines()
    assert "net.mlp-glyphs10-standard" in text
    # What was being written when the signal came is whole, although no test reported it.
    assert sorted(record.name for record in read_bundle(folder / "reports" / "tiny").records) == [
        "net.mlp-glyphs10-standard.training",
        "net.mlp-glyphs47-standard.training",
    ]
    assert "this run was interrupted before its end" in read_bundle(folder / "reports" / "tiny").notes
    (folder / "conftest.py").unlink()
    found, text = run(folder, "-k", "standard", "--robbench-resume")
    assert found == 0
    assert "interrupted" not in text
    bundle = read_bundle(folder / "reports" / "tiny")
    assert len(bundle.records) == 4
    assert not any("interrupted" in note for note in bundle.notes)


def test_a_run_without_a_suite_dies_of_sigterm_as_always(pytester):
    """The plugin is there in every run, and changes nothing in those of others."""
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider")
    pytester.makepyfile("import os\nimport signal\n\n\ndef test_it():\n    os.kill(os.getpid(), signal.SIGTERM)\n")
    assert run(pytester.path)[0] == -signal.SIGTERM


def test_a_signal_while_the_report_is_written_changes_nothing(folder):
    """The run is at its end: it ends as it would have."""
    (folder / "conftest.py").write_text(INTERRUPT.format(file="report.md", word="", name="SIGTERM"))
    found, text = run(folder, "-k", "glyphs10-standard")
    assert found == 0
    assert "interrupted" not in text
    assert "Traceback" not in text
    assert (folder / "reports" / "tiny" / "report.md").exists()


def test_a_signal_after_the_last_line_changes_nothing(folder):
    """While plugins take their leave."""
    last = "def pytest_unconfigure():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0.1)\n"
    (folder / "conftest.py").write_text(f"import os\nimport signal\nimport time\n\n\n{last}")
    found, text = run(folder, "-k", "glyphs10-standard")
    assert found == 0
    assert "interrupted" not in text
    assert "Terminated" not in text


def test_a_signal_while_python_ends_changes_nothing(folder):
    """Which takes a while; what was registered first to run at its end runs last."""
    last = "atexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    (folder / "conftest.py").write_text(f"import atexit\nimport os\nimport signal\n\n{last}\n")
    command = [sys.executable, "-m", "pytest", "-m", "suite", "--robbench-update", "-k", "glyphs10-standard"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 passed" in done.stdout


def test_pytest_exit_says_how_to_go_on(folder):
    """A stage, or a hook of the user's, may end the run itself."""
    conftest = INTERRUPT.format(file="stage.json", word="glyphs47-standard", name="SIGINT")
    (folder / "conftest.py").write_text(
        conftest.replace("import signal", "import signal\n\nimport pytest").replace(
            "os.kill(os.getpid(), signal.SIGINT)", 'pytest.exit("enough")'
        )
    )
    found, text = run(folder, "-k", "standard")
    assert found == 2
    assert "interrupted; this goes on with what is left: pytest --robbench-update -k standard --robbench-resume" in text


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_two_signals_at_once_end_a_run_in_order(folder, workers):
    """As of a wrapper that passes Ctrl-C on to a process which the terminal has told already."""
    conftest = INTERRUPT.format(file="stage.json", word="glyphs47-standard", name="SIGINT")
    whom = "os.getppid()" if workers else "os.getpid()"
    once = "        os.kill(os.getpid(), signal.SIGINT)\n"
    twice = f"        threading.Timer(0.3, os.kill, ({whom}, signal.SIGINT)).start()\n" + once.replace(
        "os.getpid()", whom
    )
    (folder / "conftest.py").write_text("import threading\n" + conftest.replace(once, twice))
    found, text = run(folder, "-k", "standard", *workers)
    assert found == 2
    assert "Traceback" not in text
    assert "interrupted; this goes on with what is left: pytest --robbench-update -k standard" in text
