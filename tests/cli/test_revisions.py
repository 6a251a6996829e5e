"""Head against base: two revisions run beside each other, what is compared of them, and that nothing stays behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch
from factories import make_facts, robustness_record, training_record
from safetensors.torch import save_file

import robbench
from robbench.cli.revisions import fastest, judge
from robbench.gate.verdicts import Tolerances
from robbench.report import Bundle, read_bundle
from robbench.report.bundle import encode_bundle

FACTS, OTHER = make_facts(), make_facts("standard")
GOOD, BAD = [3] * 200, [1] * 200

# A suite that hands over finished records: what is tested is everything around it.
STUB = """
import os, pathlib, shutil, time
from dataclasses import replace
import pytest
from robbench import PGD, EpsilonGrid, Estimate, Recipe, Study

RECIPE = Recipe(optimiser="sgd", learning_rate=0.1, weight_decay=0, batch_size=8, epochs=1)
ESTIMATE = Estimate(grid=EpsilonGrid(stop=1.0, step=0.5), attack=PGD(steps=1, random_start=False))
STUDY = Study(name="demo", source="glyphs10", target="glyphs47", architectures=("cnn7",), standard=RECIPE,
              adversarial=replace(RECIPE, attack=PGD(epsilon=0.1, steps=1)), transfers=(), estimate=ESTIMATE)

@pytest.mark.suite(STUDY)
def test_stub(request):
    if os.path.exists("wait"):
        pathlib.Path(os.environ["STARTED"]).touch()
        time.sleep(60)
    assert not os.path.exists("fails"), "this suite is broken"
    folder = pathlib.Path(request.config.getoption("robbench_report"), "demo")
    folder.mkdir(parents=True)
    shutil.copy("records.json", folder)
"""

# A real one: a network read from a checkpoint, so that no optimiser has to be imported.
SUITE = """
from dataclasses import replace
import pytest
from robbench import PGD, Checkpoint, Dataset, EpsilonGrid, Estimate, Recipe, Study

RECIPE = Recipe(optimiser="sgd", learning_rate=0.1, weight_decay=0, batch_size=8, epochs=1)
STUDY = Study(
    name="tiny",
    source=Dataset(name="glyphs10", train=50, test=60),
    target="glyphs47",
    architectures=("net:linear",),
    standard=RECIPE,
    adversarial=replace(RECIPE, attack=PGD(epsilon=0.1, steps=1)),
    transfers=(),
    estimate=Estimate(grid=EpsilonGrid(stop=1.0, step=0.01), attack=PGD(steps=4, random_start=False), images=60),
    source_checkpoint=Checkpoint(path="net.safetensors"),
)
pytestmark = pytest.mark.suite(STUDY)

def test_robustness(model, robbench):
    robbench.estimate(model)
"""

NETWORK = """
import time
from torch import nn

class Linear(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(784, classes)

    def forward(self, images):
        return self.fc(images.flatten(1))

def linear(classes, shape):
    return Linear(classes)
"""
SLOW = NETWORK.replace("        return self.fc", "        time.sleep(0.05)\n        return self.fc")


def git(folder, *arguments):
    """Run git with an identity; returns what it prints."""
    command = ("git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments)
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def records_json(*records):
    """A bundle's bytes."""
    return encode_bundle(Bundle(title="demo", command="pytest", records=list(records)))


def both(places=GOOD, seconds=10.0, facts=FACTS):
    """The two stages of a model."""
    return training_record(facts, seconds), robustness_record(facts, places)


@pytest.fixture(autouse=True)
def _own_package(monkeypatch):
    """The package under test, wherever the commands start."""
    monkeypatch.setenv("PYTHONPATH", str(Path(robbench.__file__).parents[1]))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with the stub suite and good records, committed; nothing but the worktree goes to its temporary space."""
    folder, temporary = tmp_path / "repository", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (folder / "test_stub.py").write_text(STUB)
    (folder / "records.json").write_bytes(records_json(*both()))
    git(folder, "init", "-q")
    commit(folder, "base")
    yield folder
    assert list(temporary.iterdir()) == []
    assert len(git(folder, "worktree", "list").splitlines()) == 1


def commit(folder, message):
    """Commit everything."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


def command(*arguments):
    """The command line of a comparison."""
    return [sys.executable, "-c", "from robbench.cli import main; raise SystemExit(main())", "compare", *arguments]


def compared(folder, *arguments):
    """Exit status, output and errors of a comparison."""
    done = subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


# --- what is compared -------------------------------------------------------------------------------------------------


def named(records):
    """Records by their full name."""
    return {f"{record.suite}/{record.name}": record for record in records}


def test_seconds_are_compared_although_the_code_has_another_digest():
    """Same specification, other digest: slower fails. Another specification: seconds say nothing."""
    base, head = training_record(FACTS, 10.0), training_record(FACTS, 20.0, digest="1" * 64)
    marks = {v.figure: v.mark for v in judge(named([base]), named([head]), Tolerances())}
    assert marks == {"validation accuracy": "=", "seconds": "-"}
    longer = msgspec.structs.replace(head, spec={"epochs": 9})
    assert {v.figure: v.mark for v in judge(named([base]), named([longer]), Tolerances())}["seconds"] == "x"


def test_new_stages_pass_and_lost_ones_fail():
    """A stage that base lacks has nothing to lose; one that head lacks must not look like one that passed."""
    verdicts = judge(named(both()), named(both(facts=OTHER)), Tolerances())
    assert [(v.case, v.mark, v.fails) for v in verdicts] == [
        *[("cnn7-mnist-standard", "new", False)] * 2,
        *[("cnn7-mnist-pgd", "error", True)] * 2,
    ]


def test_the_least_seconds_of_all_rounds_count():
    """For each stage on its own; figures are those of the first round."""
    first = [training_record(FACTS, 5.0), training_record(OTHER, 9.0)]
    second = [training_record(FACTS, 7.0), training_record(OTHER, 4.0)]
    found = fastest([named(first), named(second), {}])
    assert [record.seconds.training for record in found.values()] == [5.0, 4.0]
    assert [record.training for record in found.values()] == [record.training for record in first]


# --- repositories -----------------------------------------------------------------------------------------------------


def test_unchanged_code_passes(repository):
    """Two rounds of each side, in turns, and both bundles kept where that is asked for."""
    status, output, errors = compared(repository, "--base", "HEAD", "-o", "kept")
    assert (status, output) == (0, "no regression: 5 of 5 as before\n"), errors
    commit_id = git(repository, "rev-parse", "HEAD")[:9]
    assert [line.rpartition(" in ")[0] for line in errors.splitlines()] == [
        f"base ({commit_id}), round 1 of 2: 2 stages",
        "head (working tree), round 1 of 2: 2 stages",
        "head (working tree), round 2 of 2: 2 stages",
        f"base ({commit_id}), round 2 of 2: 2 stages",
    ]
    for side in ("base", "head"):
        assert len(read_bundle(repository / "kept" / side / "demo").records) == 2


def test_uncommitted_changes_are_part_of_head(repository):
    """A loss and a slowdown that are nowhere but in the working tree fail; with wider tolerances they do not."""
    (repository / "records.json").write_bytes(records_json(*both(BAD, 20.0)))
    status, output, _ = compared(repository, "--base", "HEAD", "--rounds", "1")
    assert status == 1
    assert "-        demo/cnn7-mnist-pgd.robustness: median p* 0.3 → 0.1" in output
    assert "-        demo/cnn7-mnist-pgd.training: 10.0 s → 20.0 s" in output
    assert "\n2 of 5 figures fail, held to --pstar 0.05 " in output
    wide = ("--pstar", "0.9", "--seconds", "3")
    assert compared(repository, "--base", "HEAD", "--rounds", "1", *wide)[0] == 0
    commit(repository, "worse")
    assert compared(repository, "--base", "HEAD", "--rounds", "1")[0] == 0
    assert compared(repository, "--base", "HEAD~1", "--rounds", "1")[0] == 1


def test_a_comparison_from_a_folder_within(repository):
    """Both sides run in the same folder of their trees, and paths for pytest start there."""
    below = repository / "below"
    below.mkdir()
    for name in ("test_stub.py", "records.json"):
        (repository / name).rename(below / name)
    status, _, errors = compared(below, "--base", "HEAD", "--rounds", "1")
    assert (status, "expected the folder 'below' in HEAD, it has none" in errors) == (2, True)
    commit(repository, "moved")
    assert compared(below, "--base", "HEAD", "--rounds", "1", "--", "test_stub.py")[0] == 0


def test_a_side_that_differs_from_itself_is_named(repository, monkeypatch):
    """Figures that change from round to round are no fault of the code's, and are said to be so."""
    (repository / "other.json").write_bytes(records_json(*both([2] * 200)))
    switch = (
        "    shutil.copy('other.json' if os.path.exists(os.environ['SEEN']) else 'records.json', folder/'records.json')"
    )
    text = STUB.replace(
        '    shutil.copy("records.json", folder)', f"{switch}\n    pathlib.Path(os.environ['SEEN']).touch()"
    )
    assert text != STUB
    (repository / "test_stub.py").write_text(text)
    monkeypatch.setenv("SEEN", str(repository / "seen"))
    _, _, errors = compared(repository, "--base", "HEAD")
    assert "head differs from itself between rounds (demo/cnn7-mnist-pgd.robustness)" in errors
    assert "base differs" not in errors


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--base", "no-such"), "expected a commit, got 'no-such'"),
        (("--base", "HEAD", "--rounds", "0"), "compare --rounds: expected at least 1, got 0"),
        (("--base", "HEAD", "--baselines", "x"), "expected --base or --baselines, got both"),
        (("--base", "HEAD", "--", "--robbench-store=x"), "expected no --robbench-store for pytest, both sides"),
        (("--base", "HEAD", "--", "--robbench-data", "x"), "expected no --robbench-data for pytest, give --data"),
        (("--rounds", "2", "records.json"), "expected --rounds with --base only"),
        ((), "expected one bundle, or --base REV, got neither"),
        (("a", "b"), "expected one bundle, or --base REV, got a b"),
    ],
)
def test_impossible_arguments_are_one_line(repository, arguments, message):
    """Status 2, before anything runs."""
    status, output, errors = compared(repository, *arguments)
    assert (status, output) == (2, "")
    assert errors.startswith("robbench: ")
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_an_absolute_path_into_the_repository_is_refused(repository):
    """Base would run head's file."""
    status, _, errors = compared(repository, "--base", "HEAD", "--", f"{repository}/test_stub.py::test_stub")
    assert (status, "expected paths relative to the current folder" in errors) == (2, True)


def test_outside_a_repository(tmp_path, monkeypatch):
    """The reason in one line."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    status, _, errors = compared(tmp_path, "--base", "HEAD")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "expected a git repository to find --base in" in errors


def test_a_suite_that_base_does_not_have(repository):
    """The side, the reason, and the end of what pytest printed."""
    (repository / "test_new.py").write_text(STUB)
    status, output, errors = compared(repository, "--base", "HEAD", "--", "test_new.py")
    assert (status, output) == (2, "")
    assert "the suite does not run at base: pytest ended with status 4; a suite that base does not have" in errors
    assert "file or directory not found: test_new.py" in errors


def test_a_suite_that_fails_at_head(repository):
    """No verdicts on half a run."""
    (repository / "fails").touch()
    status, output, errors = compared(repository, "--base", "HEAD")
    assert (status, output) == (2, "")
    assert "the suite does not run at head: pytest ended with status 1\n" in errors
    assert "this suite is broken" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_stays_behind_after_a_signal(repository, tmp_path, monkeypatch, number):
    """The suite that runs is ended, too; the fixture looks at temporary space and worktrees."""
    started = tmp_path / "started"
    monkeypatch.setenv("STARTED", str(started))
    (repository / "wait").touch()
    commit(repository, "waits")
    process = subprocess.Popen(
        command("--base", "HEAD"),
        cwd=repository,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where these tests run under nohup, too
    )
    deadline = time.monotonic() + 120
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "robbench: interrupted\n")


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "status"), [(SLOW, 1), (NETWORK, 0)], ids=["slower", "unchanged"])
def test_a_planted_slowdown_is_seen_and_none_is_not(repository, network, status):
    """A network of the suite's own that sleeps in its forward pass: seconds fail, accuracy and p* are the same."""
    (repository / "test_stub.py").unlink()
    (repository / "test_tiny.py").write_text(SUITE)
    (repository / "conftest.py").write_text("import robbench.report.bundle as b\nb.draw = lambda group: []\n")
    (repository / "net.py").write_text(NETWORK)
    generator = torch.Generator().manual_seed(0)
    weights = {"fc.weight": torch.randn(10, 784, generator=generator), "fc.bias": torch.zeros(10)}
    save_file(weights, repository / "net.safetensors")
    commit(repository, "tiny")
    (repository / "net.py").write_text(network)
    found, output, errors = compared(
        repository, "--base", "HEAD", "--rounds", "1", "--all", "--seconds-floor", "0.8", "--", "-k", "checkpoint"
    )
    marks = [line.split()[0] for line in output.splitlines()[:-1]]
    assert (found, sorted(marks)) == (status, ["-" if status else "=", *"===="]), output + errors
