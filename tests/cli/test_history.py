"""``robbench history`` and ``robbench report --beside``: figures over commits, and over bundles."""

import subprocess

import pytest
from factories import both_records, make_facts

from robbench.cli import main
from robbench.cli.history import Commit, git, history
from robbench.gate.baselines import write_baseline
from robbench.report import Bundle, bundle, write_bundle

FACTS = make_facts()


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """Pictures of bundles are the report's tests' business."""
    monkeypatch.setattr(bundle, "draw", lambda group: [])


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose baselines changed twice, once in a form that is no baseline's."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)

    def commit(subject):
        subprocess.run(["git", "add", "-A"], check=True)
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, "commit", "-q", "-m", subject], check=True)

    for pstar, seconds in ((3, 10.0), (2, 20.0)):
        for record in both_records(FACTS, [pstar] * 9 + [-1], seconds):
            path = write_baseline(tmp_path / "baselines", record)
        commit(f"p* of {pstar} steps")
    path.write_text("{", encoding="utf-8")
    commit("broken")
    return tmp_path


def test_figures_over_the_commits_of_the_baselines(repository, capsys):
    """Oldest first; a file that cannot be read has no value; another model's id matches nothing."""
    folder = repository / "baselines" / "demo"
    lines = git("log", "--reverse", "--format=%H%x09%cs%x09%s", "--", str(folder)).splitlines()
    values = history(folder.relative_to(repository), [Commit(*line.split("\t", 2)) for line in lines], "*-pgd")
    assert values == {
        "clean accuracy": {"cnn7-mnist-pgd": [0.9, 0.9, None]},
        "median p*": {"cnn7-mnist-pgd": [0.3, 0.2, None]},
        "training seconds": {"cnn7-mnist-pgd": [10.0, 20.0, 20.0]},
    }
    assert main(["history", "demo", "*-pgd", "-o", "out.html"]) == 0
    page = (repository / "out.html").read_text(encoding="utf-8")
    for said in ("p* of 3 steps", "cnn7-mnist-pgd: 0.300, ", "-33.3%", "+100.0%", "broken"):
        assert said in page
    assert "://" not in page


@pytest.mark.parametrize("arguments", [("other",), ("demo", "*-standard")])
def test_without_a_history_there_is_an_error(repository, capsys, arguments):
    """What was looked for, and where."""
    assert main(["history", *arguments]) == 2
    assert "history: expected " in capsys.readouterr().err


def test_bundles_side_by_side(tmp_path, capsys):
    """The models that both have, a column each; one bundle, or no place to write to, is an error."""
    for name, pstar in (("a", 3), ("b", 2)):
        alone = both_records(make_facts("standard"), [1] * 9) if name == "b" else []
        records = [*both_records(FACTS, [pstar] * 9), *alone]
        write_bundle(tmp_path / name, Bundle(title=name, command="pytest", records=records))
    both = [str(tmp_path / name) for name in "ab"]
    assert main(["report", "--beside", *both, "-o", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "beside.html").read_text(encoding="utf-8")
    assert "<td>cnn7 PGD MNIST</td><td>0.300</td><td>0.200</td><td>-33.3%</td>" in page
    assert "Standard" not in page
    assert main(["report", "--beside", both[0], "-o", str(tmp_path)]) == 2
    assert main(["report", "--beside", both[0], both[0], "-o", str(tmp_path)]) == 2
    assert "expected different bundles, got one twice" in capsys.readouterr().err
