"""``robbench cluster``: the script that it prints."""

from __future__ import annotations

import pytest

from robbench.cli import main


def test_the_slurm_script_asks_for_a_gpu_a_job_and_runs_pytest(capsys):
    """It is Python, and a worker leaves before its job's time is over."""
    assert main(["cluster", "slurm", "--gpus", "8", "--hours", "6", "--cores", "3", "--memory", "20"]) == 0
    script = capsys.readouterr().out
    compile(script, "slurm.py", "exec")
    for line in ("cores=3,", 'memory="20 GB",', 'walltime="06:00:00",', '["--gres=gpu:1"]', "maximum_jobs=8)"):
        assert line in script
    assert '"--lifetime", "350m"' in script


@pytest.mark.parametrize("option", ["--gpus", "--hours"])
def test_no_gpus_and_no_hours_are_refused(capsys, option):
    """One sentence, exit status 2."""
    assert main(["cluster", "slurm", "--gpus", "1", option, "0"]) == 2
    assert f"{option}: expected an integer ≥ 1, got 0" in capsys.readouterr().err
