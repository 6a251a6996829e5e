"""``robbench against``: two revisions run in turns, and what is compared, refused and cleaned up."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest
import torch
from factories import make_facts, robustness_record, training_record
from safetensors.torch import save_file

import robbench
from robbench.cli import main, revisions
from robbench.cli.revisions import fastest, judge
from robbench.gate.verdicts import Tolerances
from robbench.report import Bundle, read_bundle
from robbench.report.bundle import encode_bundle

FACTS, OTHER = make_facts(), make_facts("standard")
GOOD, BAD = [3] * 200, [1] * 200


def git(folder, *arguments):
    """Run git with an identity; returns what it prints."""
    command = ("git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments)
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder, message):
    """Commit everything."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


def both(pstar=GOOD, seconds=10.0, facts=FACTS):
    """The two stages of a model."""
    return training_record(facts, seconds), robustness_record(facts, pstar)


def bundle_of(*records, **fields):
    """A bundle of these records."""
    return Bundle(title="demo", command="pytest", records=list(records), **fields)


def records_json(*records, **fields):
    """A bundle's bytes."""
    return encode_bundle(bundle_of(*records, **fields))


def defaults(record):
    """Tolerances of a suite whose marker declares none."""
    return Tolerances()


def named(records):
    """Records by their full name."""
    return {f"{record.suite}/{record.name}": record for record in records}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with good records, committed; the worktree goes to a temporary space of its own and is removed."""
    folder, temporary = tmp_path / "repository", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (folder / "records.json").write_bytes(records_json(*both()))
    git(folder, "init", "-q")
    commit(folder, "base")
    monkeypatch.chdir(folder)
    yield folder
    assert list(temporary.iterdir()) == []
    assert len(git(folder, "worktree", "list").splitlines()) == 1


@pytest.fixture
def suite(monkeypatch):
    """In place of pytest: a suite that hands over the records lying in its folder; the commands that ran it."""
    commands = []

    def execute(command, folder, log):
        commands.append(command)
        (reports,) = [Path(word.partition("=")[2]) for word in command if word.startswith("--robbench-report=")]
        if (folder / "fails").exists():
            log.write_text("E   this suite is broken\n")
            return 1
        (reports / "demo").mkdir(parents=True)
        (reports / "demo" / "records.json").write_bytes((folder / "records.json").read_bytes())
        return 0

    monkeypatch.setattr(revisions, "_execute", execute)
    return commands


@pytest.fixture
def compared(capsys):
    """Exit status, output and errors of a comparison."""

    def compare(*arguments):
        status = main(["against", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return compare


def test_seconds_are_compared_although_the_code_has_another_digest():
    """Same specification, other digest: slower fails. Another specification: seconds say nothing."""
    base, head = training_record(FACTS, 10.0), training_record(FACTS, 20.0, digest="1" * 64)
    marks = {v.figure: v.mark for v in judge(named([base]), named([head]), defaults)}
    assert marks == {"validation accuracy": "=", "seconds": "-"}
    longer = msgspec.structs.replace(head, spec={"epochs": 9})
    assert {v.figure: v.mark for v in judge(named([base]), named([longer]), defaults)}["seconds"] == "x"


def test_new_stages_pass_and_lost_ones_fail():
    """A stage that base lacks has nothing to lose; one that head lacks must not look like one that passed."""
    verdicts = judge(named(both()), named(both(facts=OTHER)), defaults)
    assert [(v.case, v.mark, v.fails) for v in verdicts] == [
        *[("cnn7-mnist-standard", "new", False)] * 2,
        *[("cnn7-mnist-pgd", "error", True)] * 2,
    ]


def test_both_sides_run_in_turns(repository, suite, compared):
    """Every stage anew, each side in a store of its own; both bundles are kept where that is asked for."""
    status, output, errors = compared("HEAD", "-o", "kept", "--", "-k", "TL3")
    assert (status, output) == (0, "no regression: 5 of 5 as before\n")
    commit_id = git(repository, "rev-parse", "HEAD")[:9]
    assert [line.rpartition(" in ")[0] for line in errors.splitlines()] == [
        f"base ({commit_id}), round 1 of 2: 2 stages",
        "head (working tree), round 1 of 2: 2 stages",
        "head (working tree), round 2 of 2: 2 stages",
        f"base ({commit_id}), round 2 of 2: 2 stages",
    ]
    for side in ("base", "head"):
        assert len(read_bundle(repository / "kept" / side / "demo").records) == 2
    assert all(command[1:5] == ["-m", "pytest", "-m", "suite"] for command in suite)
    assert all({"-k", "TL3", "--robbench-fresh", "--robbench-update"} <= {*command} for command in suite)
    stores = [word for command in suite for word in command if word.startswith("--robbench-store=")]
    assert [Path(store).parent.name for store in stores] == ["base", "head", "head", "base"]


def test_the_least_seconds_of_all_rounds_count():
    """For each stage on its own; figures are those of the first round."""
    rounds = [named([training_record(FACTS, a), training_record(OTHER, b)]) for a, b in ((5.0, 9.0), (7.0, 4.0))]
    assert [record.seconds.training for record in fastest([*rounds, {}]).values()] == [5.0, 4.0]


def test_uncommitted_changes_are_part_of_head(repository, suite, compared):
    """A loss and a slowdown that are nowhere but in the working tree fail; with wider tolerances they do not."""
    (repository / "records.json").write_bytes(records_json(*both(BAD, 20.0)))
    status, output, _ = compared("HEAD", "--rounds", "1")
    assert status == 1
    assert "-        demo/cnn7-mnist-pgd.robustness: median p* 0.3 → 0.1" in output
    assert "-        demo/cnn7-mnist-pgd.training: 10.0 s → 20.0 s" in output
    assert compared("HEAD", "--rounds", "1", "--pstar", "0.9", "--seconds", "3")[0] == 0
    commit(repository, "worse")
    assert [compared(base, "--rounds", "1")[0] for base in ("HEAD", "HEAD~1")] == [0, 1]


def test_sides_are_held_to_what_heads_markers_declare(repository, suite, compared):
    """An option counts more."""
    marked = {"demo/training": {"seconds": None}, "demo/robustness": {"pstar": 0.9, "seconds": 3.0}}
    (repository / "records.json").write_bytes(records_json(*both(BAD, 20.0), tolerances=marked))
    assert compared("HEAD", "--rounds", "1")[0] == 0
    assert compared("HEAD", "--rounds", "1", "--seconds", "1.25")[0] == 1


def test_a_comparison_from_a_folder_within(repository, suite, compared, monkeypatch):
    """Both sides run in the same folder of their trees."""
    below = repository / "below"
    below.mkdir()
    (repository / "records.json").rename(below / "records.json")
    monkeypatch.chdir(below)
    status, _, errors = compared("HEAD", "--rounds", "1")
    assert (status, "expected the folder 'below' in HEAD, it has none" in errors) == (2, True)
    commit(repository, "moved")
    assert compared("HEAD", "--rounds", "1")[0] == 0


def test_a_side_that_differs_from_itself_is_named(repository, suite, compared, monkeypatch):
    """Figures that change from round to round are no fault of the code's."""
    run, pstars = revisions._run, iter([GOOD, [2] * 200])
    monkeypatch.setattr(
        revisions,
        "_run",
        lambda side, *rest: bundle_of(*both(next(pstars))) if side.name == "head" else run(side, *rest),
    )
    _, _, errors = compared("HEAD")
    assert "head differs from itself between rounds (demo/cnn7-mnist-pgd.robustness)" in errors
    assert "base differs" not in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such",), "expected a commit, got 'no-such'"),
        (("HEAD", "--rounds", "0"), "against --rounds: expected at least 1, got 0"),
        (("HEAD", "--", "--robbench-quick"), "runs at full scale: quick figures mean nothing"),
    ],
)
def test_impossible_arguments_are_one_line(repository, suite, compared, arguments, message):
    """Status 2, before anything runs."""
    status, output, errors = compared(*arguments)
    assert (status, output, suite) == (2, "", [])
    assert errors.startswith("robbench: ")
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_outside_a_repository(tmp_path, monkeypatch, compared):
    """The reason in one line."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    status, _, errors = compared("HEAD")
    assert (status, "expected a git repository" in errors) == (2, True)


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_suite_that_fails_is_an_error(repository, suite, compared, side):
    """No verdicts on half a run: the side, the reason, and the end of what pytest printed."""
    (repository / "fails").touch()
    if side == "base":
        commit(repository, "broken")
        (repository / "fails").unlink()
    status, output, errors = compared("HEAD")
    assert (status, output) == (2, "")
    assert f"the suite does not run at {side}: pytest ended with status 1" in errors
    assert ("a suite that base does not have cannot be compared" in errors) == (side == "base")
    assert errors.endswith("E   this suite is broken\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_stays_behind_after_a_signal(repository, compared, monkeypatch, number):
    """The fixture looks at temporary space and worktrees."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where these tests run under nohup, too
    monkeypatch.setattr(revisions, "_execute", lambda *command: os.kill(os.getpid(), number))
    try:
        assert compared("HEAD") == (130, "", "robbench: interrupted\n")
    finally:
        signal.signal(signal.SIGINT, before)


# A network read from a checkpoint, so that nothing is trained.
SUITE = """
from dataclasses import replace
import pytest
from robbench import PGD, Checkpoint, Dataset, EpsilonGrid, Estimate, Recipe, Study

RECIPE = Recipe(optimiser="sgd", learning_rate=0.1, weight_decay=0, batch_size=8, epochs=1)
STUDY = Study(
    name="tiny",
    source=Dataset(name="glyphs10", train=50, test=60),
    target=Dataset(name="glyphs10", train=50, test=60),
    architectures=("net:linear",),
    standard=RECIPE,
    adversarial=replace(RECIPE, attack=PGD(epsilon=0.1, steps=1)),
    transfers=(),
    estimate=Estimate(grid=EpsilonGrid(stop=1.0, step=0.1), attack=PGD(steps=1, random_start=False), search="reference", images=60),
    source_checkpoint=Checkpoint("net.safetensors", mean=0, std=1),
)
pytestmark = pytest.mark.suite(STUDY)

def test_robustness(model, robbench):
    robbench.estimate(model)
"""

NETWORK = """
from torch import nn

def linear(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
"""


OPPOSITE = """
class Opposite(nn.Module):
    def forward(self, logits):
        return -logits
"""


def test_a_network_that_lost_its_classes_is_seen(repository, compared, monkeypatch):
    """Pytest runs on both sides: the same weights, but head's network answers the opposite."""
    monkeypatch.setenv("PYTHONPATH", str(Path(robbench.__file__).parents[1]))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (repository / "test_tiny.py").write_text(SUITE)
    (repository / "conftest.py").write_text("import robbench.report.bundle as b\nb.draw = lambda group: []\n")
    (repository / "net.py").write_text(NETWORK)
    weights = {"1.weight": torch.randn(10, 784, generator=torch.Generator().manual_seed(0)), "1.bias": torch.ones(10)}
    save_file(weights, repository / "net.safetensors")
    commit(repository, "tiny")
    (repository / "net.py").write_text(NETWORK.replace("classes))", "classes), Opposite())") + OPPOSITE)
    arguments = ("HEAD", "--rounds", "1", "--all", "--seconds", "inf", "--accuracy", "0")
    _, output, errors = compared(*arguments, "--", "-k", "checkpoint")
    figures = [line.split(": ")[1].split()[0] for line in output.splitlines()[:-1]]
    assert {"accuracy", "median"} <= {*figures}, output + errors
    assert "the specification changed" not in output
