"""The composite action's scripts, run one after the other as GitHub does, without GitHub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from factories import both_records, make_facts

from robbench.gate.verdicts import plain_verdict
from robbench.report.bundle import Bundle, encode_bundle

ROOT = Path(__file__).parents[1]
STEPS = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"]

PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *pytest*) mkdir -p "$REPORTS/demo"; cp records.json "$REPORTS/demo"; exit 1;; esac
"""
GH = """#!/bin/sh
echo "gh $@" >> "$CALLS"
cp "$RUNNER_TEMP/robbench.md" commented.md
exit "${GH_STATUS:-0}"
"""
ROBBENCH = f"""#!/bin/sh
exec {sys.executable} -m robbench.cli "$@"
"""


@pytest.fixture
def dry(tmp_path, monkeypatch):
    """Runs the action's scripts in a folder where pip, pytest and gh only say that they were called."""
    for name, text in (("python", PYTHON), ("gh", GH), ("robbench", ROBBENCH)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    verdicts = [plain_verdict("demo", "cnn7-mnist-pgd.training", "error", "it is lost")]
    bundle = Bundle(
        title="demo", command="pytest", records=both_records(make_facts(), [3] * 40, 1.0), verdicts=verdicts
    )
    (tmp_path / "records.json").write_bytes(encode_bundle(bundle))
    values = {"inputs.arguments": "suites -k 'TL1 or TL2'", "inputs.reports": "my reports", "github.token": "secret"}
    values |= {"github.event.pull_request.number": "7", "steps.attach.outputs.artifact-url": "https://artifact"}
    github = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CALLS": str(tmp_path / "calls"),
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "GITHUB_ACTION_PATH": "/action",
        "GITHUB_REPOSITORY": "o/r",
    }

    def run(**more):
        statuses = {}
        for step in (step for step in STEPS if "run" in step):
            own = {
                name: values[text.removeprefix("${{ ").removesuffix(" }}")]
                for name, text in step.get("env", {}).items()
            }
            command = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"])
            done = subprocess.run(
                command, cwd=tmp_path, env=github | own | more, capture_output=True, text=True, check=False
            )
            statuses[step["name"]] = done.returncode, done.stdout
        return statuses

    return run


def test_a_failing_suite_is_summarised_and_commented(dry, tmp_path):
    """Its arguments reach pytest as they were quoted; the job fails by pytest's status and nothing else."""
    statuses = dry()
    assert {name: status for name, (status, _) in statuses.items()} == {
        "install": 0,
        "run": 1,
        "summarise": 0,
        "comment": 0,
    }
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1] == "-m pytest -m suite --robbench-report=my reports suites -k TL1 or TL2"
    assert calls[2].startswith("gh pr comment 7 --repo o/r --body-file ")
    summary, comment = (tmp_path / name for name in ("summary", "commented.md"))
    assert "**fails: cnn7-mnist-pgd.training: it is lost**" in summary.read_text(encoding="utf-8")
    assert comment.read_text(encoding="utf-8").endswith("[report.html and all else](https://artifact)\n")


def test_a_token_that_may_not_write_is_a_warning(dry):
    """As of a pull request from a fork."""
    status, said = dry(GH_STATUS="1")["comment"]
    assert (status, said.startswith("::warning::no comment")) == (0, True)


def test_every_step_after_the_run_happens_whatever_came_of_it():
    """A failing suite is what its report is for."""
    names = [step.get("name") for step in STEPS]
    assert all("always()" in step["if"] for step in STEPS[names.index("run") + 1 :])
