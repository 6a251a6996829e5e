"""``robbench plan``: what a suite costs, before it runs."""

import json
from pathlib import Path

import numpy as np
import pytest

import robbench
import robbench.planning.calibration
import robbench.stages.graph
from robbench.cli import main
from robbench.planning.plan import Speed

SUITE = """
import pytest
from robbench import Dataset, Study, Transfers, recipes

STUDY = Study(
    name="planned",
    source=Dataset(name="mnist", train=1_000),
    target=Dataset(name="emnist", train=1_000),
    architectures=("cnn7",),
    standard=recipes.MNIST_STANDARD,
    adversarial=recipes.MNIST_PGD,
    transfers=(Transfers(recipe=recipes.MNIST_STANDARD, k=(1,)),),
    estimate=recipes.MNIST_ESTIMATE,
)
pytestmark = pytest.mark.suite(STUDY)
"""


def run(capsys, *arguments):
    """Exit status, output and errors of a command."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite file in the working directory; no data and no store there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_planned.py").write_text(SUITE)
    return "test_planned.py"


def test_plan_counts_passes_stage_by_stage(suite, capsys):
    """In the order of the items, with a total; nothing is timed unless it is wanted, and nothing is written."""
    status, out, err = run(capsys, "plan", suite, "--no-calibration")
    assert (status, err) == (0, "")
    table = out.splitlines()
    assert table[0] == "study planned"
    assert [line.split()[0] for line in table[2:-1]] == [
        f"cnn7-{case}.{stage}"
        for stage in ("training", "robustness")
        for case in ("mnist-standard", "emnist-standard", "mnist-pgd", "emnist-pgd", "emnist-TL1")
    ]
    assert table[2].split()[1:] == ["≤", f"{300 * 1000:,}", "≤", f"{300 * 800:,}"]
    assert table[-1].startswith("10 stages to run, 0 done")
    assert not Path(".robbench").exists()


def test_plan_takes_what_a_run_takes(suite, tmp_path, capsys):
    """Other data, thesis protocol, seeds and quick scale change the plan as they change the run; an item selects."""
    np.savez(tmp_path / "mine.npz", x_train=np.zeros((500, 28, 28), np.uint8), x_test=np.zeros((30, 28, 28), np.uint8))
    arguments = ("--no-calibration", "--dataset", "emnist=mine", "--data", str(tmp_path), "--seeds", "2")
    status, out, _ = run(capsys, "plan", f"{suite}::test_training[cnn7-mine-TL1-seed1]", *arguments)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[2:-1]] == [
        "cnn7-mnist-pgd-seed1.training",
        "cnn7-mine-TL1-seed1.training",
        "cnn7-mine-TL1-seed1.robustness",
    ]
    status, out, _ = run(capsys, "plan", suite, "--no-calibration", "--quick", "--protocol", "thesis")
    assert out.splitlines()[0] == "study planned-thesis-quick"
    assert out.splitlines()[2].split()[1:] == ["≤", "256", "≤", "205"]


def test_plan_takes_several_files_and_what_pytest_selects(suite, capsys, monkeypatch):
    """A table for each study of which something is left, as values on request; one that selects nothing is an error."""
    monkeypatch.setenv("PYTHONPATH", str(Path(robbench.__file__).parents[1]))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")
    Path("test_other.py").write_text(SUITE.replace("planned", "other"))
    status, out, _ = run(capsys, "plan", suite, "test_other.py", "--no-calibration", "--json")
    plans = json.loads(out)
    assert (status, [plan["study"] for plan in plans]) == (0, ["planned", "other"])
    assert plans[0]["stages"][0] == {
        "stage": "cnn7-mnist-standard.training",
        "forward": 300 * 1000,
        "backward": 300 * 800,
        "seconds": None,
        "at_most": True,
        "done": False,
    }
    Path(suite).write_text(SUITE + "\n\ndef test_training(model, robbench):\n    robbench.train(model)\n")
    status, out, _ = run(capsys, "plan", suite, "-k", "TL1 and training", "--no-calibration")
    assert [line.split()[0] for line in out.splitlines()[2:-1]] == [
        "cnn7-mnist-pgd.training",
        "cnn7-emnist-TL1.training",
        "cnn7-emnist-TL1.robustness",
    ]
    status, _, err = run(capsys, "plan", suite, "-k", "TL9", "--no-calibration")
    assert (status, err.startswith("robbench: plan -k: expected items of test_planned.py like 'TL9': ")) == (2, True)


def test_plan_estimates_time_from_a_calibration(suite, capsys, monkeypatch):
    """The speed of each network and precision, times its passes."""
    asked = []

    def measured(architecture, **how):
        asked.append((architecture, how["precision"]))
        return Speed(inference=0.001, attack=0.002, update=0.003)

    monkeypatch.setattr(robbench.planning.calibration, "measure", measured)
    status, out, _ = run(capsys, "plan", suite)
    assert status == 0
    assert asked == [("cnn7", "float32")]
    assert out.splitlines()[2].endswith("13 min")  # 300 epochs of 800 updates and 200 images validated
    assert out.splitlines()[-1].endswith(" h")


@pytest.mark.parametrize(("busy", "said"), [(0.1, False), (0.56, True)])
def test_plan_says_when_its_times_are_of_a_busy_machine(suite, capsys, monkeypatch, busy, said):
    """They may be many times too long."""
    monkeypatch.setattr(robbench.planning.calibration, "measured_speeds", lambda stages, device: ({}, busy))
    _, out, _ = run(capsys, "plan", suite)
    line = "measured on a busy machine, 56% of the time waiting for a core: an idle one takes less"
    assert (out.splitlines()[-1] == line) == said


def test_plan_marks_what_the_store_has(suite, capsys, monkeypatch):
    """It is not counted again, nor timed."""
    monkeypatch.setattr(robbench.stages.graph, "finished_records", lambda tasks, context: dict.fromkeys(tasks))
    Path(".robbench/store").mkdir(parents=True)
    status, out, _ = run(capsys, "plan", suite)
    assert status == 0
    assert all(line.endswith("done") for line in out.splitlines()[2:-1])
    assert out.splitlines()[-1].split() == ["0", "stages", "to", "run,", "10", "done", "0", "0"]


def test_plan_refuses_what_is_no_suite(suite, capsys):
    """One sentence on stderr, exit status 2."""
    for arguments, message in (
        (("nowhere.py",), "suite 'nowhere.py': expected a file such as"),
        ((f"{suite}::test_training[cnn7-mnist-pdg]",), "did you mean 'cnn7-mnist-pgd'?"),
        ((suite, "--dataset", "emnist=nothing"), "unknown dataset 'nothing'; expected one of"),
        ((suite, "--dataset", "emnits=mine"), "unknown dataset of the suite 'emnits'"),
    ):
        status, _, err = run(capsys, "plan", "--no-calibration", *arguments)
        assert status == 2
        assert message in err
