"""``robbench init`` and ``robbench doctor``: what a new project gets, and what a machine lacks."""

import json
import os

import pytest
import yaml

from robbench.cli import main
from robbench.spec.suite_files import read_studies


def test_init_writes_a_study_a_workflow_and_ignore_lines(tmp_path, capsys):
    """The study can be read, and the workflow runs it; nothing is written twice or over."""
    (tmp_path / ".gitignore").write_text("reports/")
    assert main(["init", str(tmp_path)]) == 0
    (study,) = read_studies(tmp_path / "suites" / "test_robustness.py")
    assert {dataset.name for dataset in study.datasets} == {"glyphs10", "glyphs47"}
    workflow = yaml.safe_load((tmp_path / ".github" / "workflows" / "robustness.yml").read_text())
    assert "OWNER in .github/workflows/robustness.yml" in capsys.readouterr().out
    assert {"run": "pytest -m suite suites"} in workflow["jobs"]["robustness"]["steps"]
    assert (tmp_path / ".gitignore").read_text() == "reports/\n.robbench/\n.benchmarks/\n"
    (tmp_path / "suites" / "test_robustness.py").write_text("mine")
    capsys.readouterr()
    assert main(["init", str(tmp_path)]) == 0
    assert f"there already: {tmp_path / 'suites' / 'test_robustness.py'}" in capsys.readouterr().out
    assert (tmp_path / "suites" / "test_robustness.py").read_text() == "mine"
    assert (tmp_path / ".gitignore").read_text() == "reports/\n.robbench/\n.benchmarks/\n"


def test_doctor_says_what_there_is_and_what_is_missing(tmp_path, capsys, monkeypatch):
    """As lines and as JSON; nothing is made."""
    monkeypatch.setattr("robbench.cli.doctor.find_spec", lambda module: None if module == "adv_lib" else module)
    (tmp_path / "mine.npz").touch()
    given = ["doctor", "--data", str(tmp_path), "--store", str(tmp_path / "store"), "--device", "cpu"]
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"data        {tmp_path}: mine" in lines
    assert f"store       {tmp_path / 'store'}: 0 finished stages" in lines
    assert "missing     adv_lib, for attacks of adversarial-library: pip install 'robbench[attacks]'" in lines
    assert lines[-1] == "ready: pytest -m suite"
    assert main([*given, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["missing"]) == 1
    assert not (tmp_path / "store").exists()


def test_doctor_of_a_machine_on_which_no_run_can_start(tmp_path, capsys, monkeypatch):
    """Status 2, and each reason."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["doctor", "--data", str(tmp_path), "--store", str(tmp_path / "store"), "--device", "cuda"]) == 2
    output = capsys.readouterr().out
    assert f"at fault    '{tmp_path / 'store'}' cannot be made: '{tmp_path}' is not writable" in output
    assert "at fault    device: expected a CUDA device" in output


@pytest.mark.parametrize("name", ["suites/test_robustness.py", ".github/workflows/robustness.yml"])
def test_templates_end_with_one_line_end(tmp_path, name):
    """As every formatter wants it."""
    main(["init", str(tmp_path)])
    text = (tmp_path / name).read_text()
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
