"""The command line: exit status, what is printed where, and never a traceback for bad input."""

import json
import os
import shlex
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from factories import both_records, make_facts
from photographs import write_folders

from robbench.cli import main, new_parser, parse, verbs_of
from robbench.gate.baselines import write_baseline
from robbench.gate.verdicts import plain_verdict
from robbench.report import Bundle, bundle, read_bundle, write_bundle

FACTS = make_facts()
GOOD, BAD = [3] * 200, [1] * 200
HELD = "held to what their suites declare"


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """Figures take a second each, and are the report's tests' business."""
    monkeypatch.setattr(bundle, "draw", lambda group: [])


def bundle_of(folder, places=GOOD, seconds=10.0, created="2025-01-01T00:00:00Z", title="demo", **fields):
    """A bundle of one model on disk."""
    records = both_records(FACTS, places, seconds, created=created)
    write_bundle(folder, Bundle(title=title, command="pytest", records=records, **fields))
    return folder


@pytest.fixture
def baselines(tmp_path):
    """Baselines of the good model."""
    for record in both_records(FACTS, GOOD):
        write_baseline(tmp_path / "baselines", record)
    return tmp_path / "baselines"


def run(capsys, *arguments):
    """Exit status, output and errors of a command."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_compare_without_a_change(tmp_path, baselines, capsys):
    """Exit status 0; what is within tolerance is listed on request; the file or its folder."""
    folder = bundle_of(tmp_path / "run")
    for path in (folder, folder / "records.json"):
        found = run(capsys, "compare", path, "--baselines", baselines)
        assert found == (0, "no regression: 5 of 5 as before\n", "")
    listed = run(capsys, "compare", folder, "--all", "--baselines", baselines)[1].splitlines()
    assert [line.split()[0] for line in listed[:-1]] == ["="] * 5


def test_compare_with_a_regression(tmp_path, baselines, capsys):
    """Exit status 1, and the figure that fails with its mark."""
    status, output, errors = run(capsys, "compare", bundle_of(tmp_path / "run", BAD, 20.0), "--baselines", baselines)
    lines = output.splitlines()
    assert (status, errors, lines[-1]) == (1, "", f"2 of 5 figures fail, {HELD}")
    assert [line for line in lines if line.startswith("-  ")] == [
        line for line in lines if "median p* 0.3 → 0.1" in line or "10.0 s → 20.0 s" in line
    ]


def test_compare_as_json(tmp_path, baselines, capsys):
    """Every verdict with its figures, and whether it fails; the exit status is the same."""
    folder = bundle_of(tmp_path / "run", BAD)
    status, output, errors = run(capsys, "compare", folder, "--baselines", baselines, "--json")
    verdicts = json.loads(output)
    assert (status, errors, len(verdicts)) == (1, "", 5)
    (lost,) = [verdict for verdict in verdicts if verdict["fails"]]
    assert (lost["figure"], lost["mark"], lost["baseline"], lost["current"]) == ("median p*", "-", 0.3, 0.1)


def test_compare_takes_tolerances(tmp_path, baselines, capsys):
    """Each has an option."""
    folder = bundle_of(tmp_path / "run", BAD, 20.0)
    given = ("--pstar", "0.9", "--seconds", "3", "--seconds-floor", "1", "--accuracy", "0.5")
    assert run(capsys, "compare", folder, "--baselines", baselines, *given)[0] == 0
    assert run(capsys, "compare", folder, "--baselines", baselines, *given[:4], "--seconds", "1.25")[0] == 1


def test_compare_holds_to_what_the_suites_markers_declare(tmp_path, baselines, capsys):
    """Stage by stage, infinity included; an option counts more."""
    marked = {"demo/training": {"seconds": None}, "demo/robustness": {"pstar": 0.9, "seconds": 3.0}}
    folder = bundle_of(tmp_path / "run", BAD, 20.0, tolerances=marked)
    assert run(capsys, "compare", folder, "--baselines", baselines)[0] == 0
    status, output, _ = run(capsys, "compare", folder, "--baselines", baselines, "--pstar", "0.05")
    assert (status, "median p* 0.3 → 0.1" in output) == (1, True)
    assert output.endswith("1 of 5 figures fail, held to --pstar 0.05, and else to what their suites declare\n")


def test_compare_refuses_quick_runs(tmp_path, baselines, capsys):
    """Their figures mean nothing, for better or worse."""
    verdict = plain_verdict("demo-quick", "cnn7-mnist-pgd.training", "quick", "quick scale")
    folder = bundle_of(tmp_path / "run", verdicts=[verdict])
    status, output, errors = run(capsys, "compare", folder, "--baselines", baselines)
    assert (status, output) == (2, "")
    assert (
        errors
        == f"robbench: compare: expected a run at full scale, {folder} is of --robbench-quick: it means nothing\n"
    )


def test_compare_without_baselines(tmp_path, capsys):
    """A missing baseline fails and is named; a missing folder of them is an error."""
    folder = bundle_of(tmp_path / "run")
    (tmp_path / "none").mkdir()
    status, output, _ = run(capsys, "compare", folder, "--baselines", tmp_path / "none")
    assert status == 1
    assert f"missing  demo/cnn7-mnist-pgd.training: no baseline in {tmp_path / 'none'}" in output
    assert output.endswith(f"2 of 2 figures fail, {HELD}\n")
    status, _, errors = run(capsys, "compare", folder, "--baselines", tmp_path / "nowhere")
    assert (status, "expected a folder of baselines" in errors) == (2, True)


def test_compare_misses_what_has_a_baseline_but_no_record(tmp_path, baselines, capsys):
    """A stage that was lost must not look like one that passed."""
    folder = bundle_of(tmp_path / "run")
    other = baselines / "demo" / "cnn7-mnist-standard.training.json"
    other.write_bytes((baselines / "demo" / "cnn7-mnist-pgd.training.json").read_bytes())
    status, output, _ = run(capsys, "compare", folder, "--baselines", baselines)
    assert status == 1
    assert "error    demo/cnn7-mnist-standard.training: has a baseline, but no record" in output


def test_compare_with_bad_input(tmp_path, baselines, capsys):
    """Exit status 2 and one line on stderr: no bundle, a damaged one, an impossible tolerance."""
    folder = bundle_of(tmp_path / "run")
    (tmp_path / "broken.json").write_text("{")
    for arguments, expected in (
        (("compare", tmp_path / "none"), "cannot be read"),
        (("compare", tmp_path / "broken.json"), "broken.json"),
        (("compare", folder, "--seconds", "0.5"), "tolerance seconds: expected a number ≥ 1, got 0.5"),
    ):
        status, output, errors = run(capsys, *arguments, "--baselines", baselines)
        assert (status, output) == (2, "")
        assert errors.startswith("robbench: ")
        assert expected in errors
        assert len(errors.splitlines()) == 1


def test_report_renders_a_bundle_again(tmp_path, capsys):
    """In its place or elsewhere, and prints the path of its report."""
    folder = bundle_of(tmp_path / "run")
    text = (folder / "report.md").read_bytes()
    (folder / "report.md").unlink()
    assert run(capsys, "report", folder / "records.json") == (0, f"{folder / 'report.md'}\n", "")
    assert (folder / "report.md").read_bytes() == text
    status, output, _ = run(capsys, "report", folder, "-o", tmp_path / "other")
    assert (status, output) == (0, f"{tmp_path / 'other' / 'report.md'}\n")
    assert (tmp_path / "other" / "report.md").read_bytes() == text


def test_report_makes_one_bundle_of_several(tmp_path, capsys):
    """The newest record of each stage; without a folder to write to it is an error."""
    old = bundle_of(tmp_path / "old", BAD)
    new = bundle_of(tmp_path / "new", GOOD, created="2025-02-01T00:00:00Z", title="again")
    status, _, errors = run(capsys, "report", old, new)
    assert (status, errors) == (2, "robbench: report: expected --output DIR for a bundle made of several, got none\n")
    assert run(capsys, "report", new, old, "--output", tmp_path / "both")[0] == 0
    merged = read_bundle(tmp_path / "both")
    assert merged.title == "again, demo"
    assert [record.created for record in merged.records] == ["2025-02-01T00:00:00Z"] * 2


def test_report_without_predictions_to_show(tmp_path, capsys):
    """One line of two studies that made none; the tables themselves are tested in ``tests/report``."""
    bundles = [bundle_of(tmp_path / name) for name in ("one", "two")]
    status, output, errors = run(capsys, "report", "--predictions", *bundles)
    assert (status, output) == (2, "")
    assert errors.startswith("robbench: predicted drop points: expected records of transfers by three k at least")
    assert errors.endswith(", got None\n")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            (),
            ["  emnist        47 classes, 1×28×28", f"  {'cnn7':21} K = 7: conv1, conv2, conv3, conv4, fc1, fc2, fc3"],
        ),
        (("cnn3",), [f"  TL#{k}   retrains {name} and what follows" for k, name in ((3, "conv1"), (1, "fc2"))]),
        (("cnn7", "--shape", "1,28,28"), ["cnn7: 312,202 parameters with 10 classes"]),
    ],
)
def test_list_shows_what_is_known(arguments, lines, capsys):
    """Data sets and architectures; what each k of one retrains; the parameters of one that is built."""
    status, output, _ = run(capsys, "list", *arguments)
    assert status == 0
    assert {*lines} <= {*output.splitlines()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("cnn8",), "unknown architecture 'cnn8'"),
        (("no.such:net",), "no.such"),
        (("cnn7", "--shape", "28"), "--shape: expected C,H,W (3,32,32), got '28'"),
        (("cnn7", "--shape", "3,x,x"), "--shape: expected C,H,W"),
    ],
)
def test_list_of_what_does_not_exist(arguments, expected, capsys):
    """One line, status 2."""
    status, output, errors = run(capsys, "list", *arguments)
    assert (status, output) == (2, "")
    assert expected in errors
    assert len(errors.splitlines()) == 1


def test_list_for_programs(capsys):
    """The same as JSON."""
    assert json.loads(run(capsys, "list", "--json")[1])["datasets"]["emnist"] == {"classes": 47, "shape": [1, 28, 28]}
    assert json.loads(run(capsys, "list", "cnn3", "--json")[1])["blocks"] == ["conv1", "fc1", "fc2"]


def test_a_summary_is_short_markdown_without_pictures(tmp_path, capsys):
    """For a pull request: what to choose, what fails, a row for each model."""
    verdict = plain_verdict("demo", "cnn7-mnist-pgd.training", "error", "it is lost")
    status, output, _ = run(capsys, "report", "--summary", bundle_of(tmp_path / "run", verdicts=[verdict]))
    assert status == 0
    assert output.startswith("### demo\n\n- **fails: cnn7-mnist-pgd.training: it is lost**\n\n| model ")
    assert "![" not in output
    assert "median p\\*" in output


def test_data_checks_a_prepared_file(tmp_path, capsys):
    """And prints what is in it."""
    images, labels = np.zeros((6, 5, 4), dtype=np.uint8), np.arange(6) % 3
    np.savez(
        tmp_path / "mine.npz",
        x_train=images,
        y_train=labels,
        x_test=images[:2],
        y_test=labels[:2],
        classes=np.array(["a", "b", "c"]),
    )
    status, output, _ = run(capsys, "data", "mine", "--data", tmp_path)
    assert status == 0
    assert output.startswith(f"{tmp_path / 'mine.npz'}: 6 training and 2 test images of 1×5×4, 3 classes, sha256 ")


def test_data_checks_pictures(tmp_path, capsys):
    """Decodes all of them, and lists those that cannot be read."""
    folder = write_folders(tmp_path / "mine", {"a": 5, "b": 5})
    status, output, _ = run(capsys, "data", f"folder:{folder}", "--size", "20", "--data", tmp_path)
    assert status == 0
    assert output.startswith(f"folder:{folder}: 8 training and 2 test images of 3×20×20, 2 classes, sha256 ")
    _, by_name, _ = run(capsys, "data", "mine", "--size", "20", "--data", tmp_path)
    assert by_name.removeprefix("mine") == output.removeprefix(f"folder:{folder}")
    (folder / "a" / "0.jpg").write_bytes(b"")
    status, output, errors = run(capsys, "data", f"folder:{folder}", "--data", tmp_path)
    assert (status, output) == (2, "")
    assert "1 of 10 pictures cannot be used" in errors
    assert run(capsys, "data", f"folder:{folder}", "--data", tmp_path, "--skip-broken")[0] == 0


def test_a_wrong_command_line_exits_with_2(capsys):
    """As argparse does it; an empty path, as of an unset variable, would be the current folder."""
    for arguments, message in (
        (["reprot"], "unknown command 'reprot'; expected one of "),
        (["reprot", "--help"], "(did you mean 'report'?)"),
        (["report", "a", "-o", ""], "expected a file or folder"),
        (["report", "a", "--", "-k", "b"], "only `robbench against` hands it to pytest"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


def test_without_a_verb_there_is_help(capsys):
    """Each verb with what it is for."""
    status, output, _ = run(capsys)
    assert status == 0
    assert all(f"\n    {verb} " in output for verb in verbs_of(new_parser()))


@pytest.mark.parametrize("verb", verbs_of(new_parser()))
def test_each_verbs_help_ends_with_an_example_that_it_takes(verb):
    """Whatever it then does with it."""
    epilog = verbs_of(new_parser())[verb].epilog
    assert epilog.startswith(f"example: robbench {verb}")
    example = shlex.split(epilog.removeprefix("example: robbench ").partition(" && ")[0])
    assert parse(example).run


def test_options_of_a_run_are_taken_by_their_names_there():
    """But for what follows --, which is pytest's."""
    options = parse(["plan", "s.py", "--robbench-dataset", "a=b", "--robbench-quick"])
    assert (options.dataset, options.quick) == (["a=b"], True)
    assert parse(["against", "HEAD", "--rounds", "1", "--", "--robbench-seeds=2"]).arguments == ["--robbench-seeds=2"]


def test_a_terminal_that_has_no_arrows(tmp_path, baselines):
    """cp1252, as on a CI machine with Windows: the same lines with '->' in them, and the statuses that CI reads."""

    def compare(bundle):
        command = (sys.executable, "-m", "robbench.cli", "compare", bundle, "--all", "--baselines", baselines)
        environment = {
            **os.environ,
            "PYTHONIOENCODING": "cp1252",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        return done.returncode, done.stdout.decode("cp1252"), done.stderr.decode("cp1252")

    status, output, errors = compare(bundle_of(tmp_path / "good"))
    assert (status, errors) == (0, "")
    assert "median p* 0.3 -> 0.3" in output
    status, output, errors = compare(bundle_of(tmp_path / "bad", BAD))
    assert (status, errors) == (1, "")
    assert "median p* 0.3 -> 0.1" in output


def test_a_mistake_of_the_programs_own_is_no_regression(tmp_path, baselines, capsys, monkeypatch):
    """Status 2 beside the traceback: 1 is what CI reads as a regression."""

    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("robbench.cli.compare.levels", broken)
    status, output, errors = run(capsys, "compare", bundle_of(tmp_path / "run"), "--baselines", baselines)
    assert (status, output) == (2, "")
    assert errors.endswith("ZeroDivisionError\n")


def test_comparing_and_rendering_need_no_torch(tmp_path, baselines):
    """From a fresh interpreter to the exit status, as a CI job without it does."""
    folder = bundle_of(tmp_path / "run")
    program = (
        "import sys; from robbench.cli import main; "
        f"codes = main(['compare', {str(folder)!r}, '--baselines', {str(baselines)!r}]), main(['list']); "
        "sys.exit(3 if 'torch' in sys.modules else max(codes))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_seconds_without_a_baseline_are_one_line(tmp_path, baselines, capsys):
    """On another class of machine all stages have none."""
    records = both_records(FACTS, GOOD)
    there = msgspec.structs.replace(records[0].environment, slug="elsewhere")
    records = [msgspec.structs.replace(record, environment=there) for record in records]
    write_bundle(tmp_path / "there", Bundle(title="demo", command="", records=records))
    status, output, _ = run(capsys, "compare", tmp_path / "there", "--baselines", baselines)
    assert status == 0
    assert [line for line in output.splitlines() if line.startswith("x")] == [
        "x        2 stages: seconds not comparable: no baseline on elsewhere (there is: cpu-2core)"
    ]


@pytest.mark.parametrize("where", [".", "below"])
def test_networks_of_the_project_are_found(tmp_path, monkeypatch, capsys, where):
    """From its root or a folder in it: an installed script has neither on its path."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "lying_here.py").write_text(
        "from torch import nn\n\n"
        "def small(classes, shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, classes))\n"
    )
    monkeypatch.chdir(tmp_path / where)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    status, output, errors = run(capsys, "list", "lying_here:small", "--shape", "1,3,3")
    assert (status, errors) == (0, "")
    assert "TL#1" in output
