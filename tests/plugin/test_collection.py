"""Collecting: models by the marker, pytest's own selection, and suites that are not as they should be."""

import json
import re
import sys

import pytest
import torch


def collected(result):
    """Ids of the items that were collected."""
    return [line for line in result.stdout.lines if "::" in line and not line.startswith(("ERROR", "FAILED"))]


def test_one_item_per_stage_and_model(tiny, cases):
    """In the order of the file, models in dependency order."""
    result = tiny("--collect-only", "-q")
    assert collected(result) == [
        f"test_tiny.py::{test}[{case}]" for test in ("test_training", "test_robustness") for case in cases
    ]


def test_x_stops_and_lf_runs_the_failed_again(one, stages):
    """Both baselines are missing: -x tries one stage, --lf that one from the store, and --lf with an update passes it."""
    one("-x").assert_outcomes(failed=1, deselected=8)
    assert stages == ["net.mlp-glyphs10-standard.training"]
    one("--lf").assert_outcomes(failed=1)
    one("--lf", "--robbench-update").assert_outcomes(passed=1)
    assert stages == ["net.mlp-glyphs10-standard.training"]


def test_a_suite_may_parametrise_its_models_itself(write_suite, pytester, stages):
    """The published form of a suite file: some of the models, ids by str."""
    own = "@pytest.mark.parametrize('model', STUDY.models()[:1], ids=str)\ndef test_{}(model, robbench):"
    write_suite(*((f"def test_{name}(model, robbench):", own.format(name)) for name in ("training", "robustness")))
    result = pytester.runpytest_inprocess("--robbench-update")
    result.assert_outcomes(passed=2)
    assert stages == ["net.mlp-glyphs10-standard.training", "net.mlp-glyphs10-standard.robustness"]


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("--robbench-quick", "('model', 'twice')"),
        ("--robbench-seeds=2", "'twice, model'"),
        ("--robbench-protocol=thesis", "argvalues=[(STUDY.models()[0], 1)], argnames='model,twice'"),
    ],
)
def test_own_parametrisation_and_changed_studies_exclude_each_other(write_suite, pytester, errors, option, names):
    """Such options could not reach models that the file has listed already, in whichever way."""
    listed = names if "argnames" in names else f"{names}, [(STUDY.models()[0], 1)]"
    own = f"@pytest.mark.parametrize({listed})\ndef test_training(model, twice, robbench):"
    write_suite(("def test_training(model, robbench):", own))
    result = pytester.runpytest_inprocess(option)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "test_tiny.py::test_training: the test parametrises its models itself, so options that" in errors(result)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("STUDY, pstra=0.1", "unknown tolerance 'pstra'; expected one of accuracy, pstar, seconds, seconds_floor (did"),
        ("STUDY, pstar='5%'", "tolerance pstar: expected a number ≥ 0, got '5%'"),
        ("STUDY, seconds=0.5", "tolerance seconds: expected a number ≥ 1, got 0.5"),
    ],
)
def test_a_wrong_marker_is_a_collection_error(write_suite, pytester, errors, marker, message):
    """One that names the file and what was expected, without a traceback."""
    write_suite(("suite(STUDY, seconds=1000)", f"suite({marker})"))
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert message in errors(result)


UNRELATED = """
import pytest


@pytest.fixture
def model(): pass


@pytest.mark.suite("mpi")
@pytest.mark.perf
def test_argument(model): pass


@pytest.mark.suite(level=3, pstar="any")
@pytest.mark.perf("slow")
def test_keyword(model): pass


@pytest.mark.suite
def test_bare(model): pass


def test_benchmark(benchmark):
    benchmark(sum, [1, 2])
"""


def test_what_is_somebody_elses_is_left_alone(write_suite, pytester):
    """An unrelated project may call its tests a suite, and benchmarks keep their machine info beside an idle suite."""
    write_suite()
    pytester.makepyfile(test_unrelated=UNRELATED)
    fast = ("--benchmark-min-time=0.000001", "--benchmark-max-time=0.01", "--benchmark-json=out.json")
    pytester.runpytest_inprocess("-k", "unrelated", *fast).assert_outcomes(passed=4, deselected=10)
    machine = json.loads((pytester.path / "out.json").read_text())["machine_info"]
    assert "node" in machine
    assert "robbench" not in machine


def test_a_suite_may_have_a_mark_of_that_name_of_somebody_elses(write_suite, pytester, stages):
    """The Study of the module's mark counts, with that mark's tolerances."""
    write_suite(("def test_training", "@pytest.mark.suite('mpi', level=3)\ndef test_training"))
    pytester.runpytest_inprocess("-k", "glyphs10-standard", "--robbench-update").assert_outcomes(passed=2, deselected=8)
    assert len(stages) == 2


@pytest.mark.parametrize("models", [True, False], ids=["with models", "without models"])
def test_two_studies_of_one_name_are_refused(write_suite, pytester, errors, models):
    """They would write each other's baselines and reports."""
    changes = [("epochs=2, attack", "epochs=1, attack")]
    if not models:
        changes += [("(model, robbench)", "(robbench)"), ("(model)", "()")]
    write_suite(name="test_a")
    write_suite(*changes, name="test_b")
    result = pytester.runpytest_inprocess("--collect-only")
    assert result.ret != 0
    assert "study 'tiny': expected one study of this name, got two that differ" in errors(result)


def test_one_study_may_be_in_two_files(write_suite, pytester):
    """Say, training in one and p* in the other."""
    write_suite(name="test_a")
    write_suite(name="test_b")
    result = pytester.runpytest_inprocess("--collect-only", "-q")
    assert result.ret == 0
    assert len(collected(result)) == 20


def test_the_fixture_outside_a_suite_says_what_is_missing(pytester, errors):
    """In one line."""
    pytester.makepyfile("def test_it(robbench):\n    robbench.train(None)\n")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    assert "the robbench fixture: expected a test marked with pytest.mark.suite(study)" in errors(result)


def test_a_benchmark_marker_of_ones_own_is_no_obstacle(write_suite, pytester):
    """The stage's clock stays, whatever group the user gave."""
    write_suite(("def test_training", "@pytest.mark.benchmark(group='mine')\ndef test_training"))
    pytester.runpytest_inprocess("-k", "glyphs10-standard", "--robbench-update").assert_outcomes(passed=2, deselected=8)


# --- studies that need CUDA -------------------------------------------------------------------------------------------


@pytest.fixture
def needy(write_suite, pytester, monkeypatch):
    """Run one model of a study that needs CUDA, on a machine without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write_suite(('name="tiny",', 'name="tiny",\n    needs_cuda=True,'))
    return lambda *options: pytester.runpytest_inprocess("-k", "glyphs10-standard", *options)


def test_a_study_that_needs_cuda_is_skipped_with_the_reason(needy, stages):
    """Which names both options that run it all the same."""
    result = needy("-rs")
    result.assert_outcomes(skipped=2, deselected=8)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "SKIPPED*study 'tiny' needs a CUDA device at its full scale; run it all the same with "
            "--robbench-device cpu (days), or shrunk with --robbench-quick"
        ]
    )
    assert stages == []


@pytest.mark.parametrize("options", [["--robbench-quick"], ["--robbench-device", "cpu", "--robbench-update"]])
def test_it_runs_shrunk_or_forced(needy, stages, options):
    """Either option is enough."""
    needy(*options).assert_outcomes(passed=2, deselected=8)
    assert len(stages) == 2


# --- wrong values -------------------------------------------------------------------------------------------------------


def test_a_wrong_value_in_a_suite_is_one_sentence(write_suite, pytester):
    """With the file and the line it stands in, and no frame of this package."""
    write_suite(('"net:mlp"', '"cnn77"'))
    result = pytester.runpytest_inprocess("--collect-only")
    text = result.stdout.str()
    assert "unknown architecture 'cnn77'" in text
    assert "test_tiny.py:" in text
    assert "robbench/spec" not in text


@pytest.mark.parametrize(
    ("name", "option", "meant"),
    [
        ("glpyhs47", "--robbench-seeds=1", "glyphs47"),
        ("glyphs47", "--robbench-dataset=glyphs47=flwoers", "flowers"),
        ("glyphs47-mine", "--robbench-seeds=1", None),
        ("glyphs47", "--robbench-dataset=glyphs47=folder:my_glyphs47", None),
    ],
)
def test_a_misspelt_data_set_fails_at_collection(write_suite, pytester, errors, name, option, meant):
    """Beside known names and prepared files; one that is merely not here yet, and pictures, are their own items' business."""
    write_suite(('name="glyphs47"', f'name="{name}"'))
    folder = pytester.mkdir(".robbench") / "data"
    folder.mkdir()
    (folder / "flowers.npz").touch()
    result = pytester.runpytest_inprocess("--collect-only", option)
    assert result.ret == (pytest.ExitCode.INTERRUPTED if meant else pytest.ExitCode.OK)
    said = re.search(
        r"test_tiny.py::test_training: unknown dataset '\w+'; .*\(did you mean '(\w+)'\?\)", errors(result)
    )
    assert (said and said[1]) == meant


# --- on request ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked_for(write_suite, pytester):
    """A suite that runs on request only, in a folder, beside a plain test; and a function that runs pytest."""
    write_suite(('name="tiny",', 'name="tiny", on_request=True,'))
    folder = pytester.mkdir("suites")
    for name in ("test_tiny.py", "net.py"):
        (pytester.path / name).rename(folder / name)
    pytester.makepyfile(test_other="def test_other(): pass")
    return lambda *options: pytester.runpytest_inprocess("-k", "glyphs10-standard or other", "-rs", *options)


@pytest.mark.parametrize("arguments", [(), ("suites", "test_other.py"), (".",)])
def test_a_study_on_request_is_skipped_unless_it_is_named(asked_for, errors, stages, arguments):
    """Everything, or a folder around it, is not its name; the reason is the command."""
    result = asked_for(*arguments)
    assert result.parseoutcomes()["skipped"] == 2
    assert result.parseoutcomes()["passed"] == 1
    said = "SKIPPED [2] suites/test_tiny.py: study 'tiny' runs on request only: pytest -m suite suites/test_tiny.py"
    assert said in re.sub(r"py:\d+:", "py:", errors(result))
    assert stages == []


@pytest.mark.parametrize(
    ("argument", "count"),
    [
        ("suites/test_tiny.py", 2),
        ("suites/../suites/test_tiny.py", 2),
        ("suites/test_tiny.py::test_training", 1),
        ("suites/test_tiny.py::test_training[net.mlp-glyphs10-standard]", 1),
    ],
)
def test_naming_its_file_or_an_item_of_it_runs_it(asked_for, stages, argument, count):
    """However the path is written."""
    assert asked_for("--robbench-quick", argument).parseoutcomes()["passed"] == count
    assert len(stages) == count


def test_a_study_on_request_runs_in_the_workers_of_xdist(asked_for, quick_workers):
    """They know what the controller's command line names."""
    assert asked_for("--robbench-quick", "-n1", "suites/test_tiny.py").parseoutcomes()["passed"] == 2


@pytest.mark.parametrize("where", [".", "suites", ".."], ids=["root", "sub-folder", "elsewhere"])
def test_networks_beside_the_projects_root_are_found(write_suite, pytester, monkeypatch, where):
    """From wherever an IDE or a person runs pytest, and no conftest.py beside the network puts it on the path."""
    write_suite()
    suite = pytester.mkdir("suites") / "test_tiny.py"
    (pytester.path / "test_tiny.py").rename(suite)
    pytester.makeini("[pytest]")
    monkeypatch.chdir(where)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(pytester.path))])
    result = pytester.runpytest_inprocess(suite, "-k", "glyphs10-standard", "--robbench-update")
    result.assert_outcomes(passed=2, deselected=8)
