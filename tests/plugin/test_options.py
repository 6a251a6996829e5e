"""Options and their ini twins: where each value comes from, what is refused, and what it reaches."""

import os
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from photographs import write_folders

import robbench.data
import robbench.stages.training_stage
from robbench.errors import RobbenchError
from robbench.plugin.session import Session
from robbench.plugin.settings import OPTIONS, Settings
from robbench.report import read_bundle

NAMES = [
    "quick",
    "update",
    "fresh",
    "keep_adversarials",
    "download",
    "deterministic",
    "report",
    "baselines",
    "data",
    "store",
    "device",
    "workers",
    "scheduler",
    "dataset",
    "seeds",
    "protocol",
]


@pytest.fixture
def settings(pytester):
    """The settings that a command line and lines of an ini file make."""

    def read(*options, ini=""):
        pytester.makeini(f"[pytest]\n{ini}")
        return Settings.of(pytester.parseconfig(*options))

    return read


def test_every_option_is_in_the_help_with_its_ini_twin(pytester):
    """In a group of its own, with an example that pytest takes."""
    text = pytester.runpytest_inprocess("--help").stdout.str()
    assert [name for name, _, _ in OPTIONS] == NAMES
    (example,) = re.findall(r"^robbench: robustness transfer, as in: pytest (.*):$", text, re.MULTILINE)
    assert Settings.of(pytester.parseconfig(*shlex.split(example))).seeds == 3
    for name in NAMES:
        assert f"--robbench-{name.replace('_', '-')}" in text
        assert f"robbench_{name} (" in text


def test_without_options_nothing_is_changed(settings, pytester):
    """The defaults."""
    found = settings()
    flags = (found.quick, found.update, found.fresh, found.keep_adversarials, found.download, found.deterministic)
    assert flags == (False,) * 6
    assert (found.report, found.baselines) == (pytester.path / "reports", pytester.path / "baselines")
    assert (found.data, found.store) == (pytester.path / ".robbench" / "data", pytester.path / ".robbench" / "store")
    assert (found.device, found.datasets, found.seeds, found.protocol) == ("auto", {}, None, None)
    assert not found.changes_studies


@pytest.mark.parametrize(
    ("name", "options", "ini", "value", "changes"),
    [
        ("quick", ["--robbench-quick"], "true", True, True),
        ("update", ["--robbench-update"], "true", True, False),
        ("fresh", ["--robbench-fresh"], "true", True, False),
        ("keep_adversarials", ["--robbench-keep-adversarials"], "true", True, False),
        ("download", ["--robbench-download"], "true", True, False),
        ("deterministic", ["--robbench-deterministic"], "true", True, False),
        ("device", ["--robbench-device", "cpu"], "cpu", "cpu", False),
        ("dataset", ["--robbench-dataset=a=b", "--robbench-dataset=c=d"], "a=b\n  c=d", {"a": "b", "c": "d"}, True),
        ("seeds", ["--robbench-seeds", "3"], "3", 3, True),
        ("workers", ["--robbench-workers", "2"], "2", 2, False),
        ("scheduler", ["--robbench-scheduler", "tcp://a:1"], "tcp://a:1", "tcp://a:1", False),
        ("protocol", ["--robbench-protocol", "thesis"], "thesis", "thesis", True),
    ],
)
def test_an_option_and_its_ini_twin_say_the_same(settings, name, options, ini, value, changes):
    """Both give the value; nothing else changes."""
    given, twin = settings(*options), settings(ini=f"robbench_{name} = {ini}")
    assert given == twin != settings()
    assert getattr(given, "datasets" if name == "dataset" else name) == value
    assert given.changes_studies == changes


@pytest.mark.parametrize("name", ["report", "baselines", "data", "store"])
def test_folders_are_relative_to_where_they_are_named(settings, pytester, monkeypatch, name):
    """An option's to the current folder, as any path that is typed; the ini file's to the root."""
    below = pytester.mkdir("below")
    pytester.makeini("[pytest]")
    monkeypatch.chdir(below)

    def read(*options, ini=""):
        (pytester.path / "tox.ini").write_text(f"[pytest]\n{ini}")
        config = pytester.parseconfig("--rootdir", str(pytester.path), "-c", str(pytester.path / "tox.ini"), *options)
        return getattr(Settings.of(config), name)

    assert read(f"--robbench-{name}", "out") == below / "out"
    assert read(ini=f"robbench_{name} = out") == pytester.path / "out"
    assert read(f"--robbench-{name}", "out", ini=f"robbench_{name} = other") == below / "out"
    assert read(f"--robbench-{name}", str(pytester.path / "abs")) == pytester.path / "abs"


def test_the_command_line_wins(settings):
    """Over the ini file, for values of every kind."""
    ini = "robbench_device = cpu\nrobbench_seeds = 3\nrobbench_dataset = a=b\nrobbench_quick = false"
    found = settings(
        "--robbench-device", "auto", "--robbench-seeds", "2", "--robbench-dataset", "c=d", "--robbench-quick", ini=ini
    )
    assert (found.device, found.seeds, found.datasets, found.quick) == ("auto", 2, {"c": "d"}, True)
    assert settings(ini=ini).quick is False


@pytest.mark.parametrize(
    ("options", "ini", "message"),
    [
        (
            ["--robbench-device", "cuad"],
            "",
            "unknown --robbench-device 'cuad'; expected one of auto, cpu, cuda (did you",
        ),
        ([], "robbench_device = tpu", "unknown --robbench-device 'tpu'; expected one of auto, cpu, cuda"),
        (
            ["--robbench-protocol", "theses"],
            "",
            "unknown --robbench-protocol 'theses'; expected one of sound, thesis (did you mean 'thesis'?)",
        ),
        (["--robbench-store", ""], "", "--robbench-store: expected a folder, got ''"),
        (["--robbench-seeds", "0"], "", "--robbench-seeds: expected an integer ≥ 1, got 0"),
        (["--robbench-seeds", "-1"], "", "--robbench-seeds: expected an integer ≥ 1, got -1"),
        ([], "robbench_seeds = many", "--robbench-seeds: expected an integer ≥ 1, got 'many'"),
        (["--robbench-seeds", "many"], "", "argument --robbench-seeds: invalid int value: 'many'"),
        (
            ["--robbench-dataset", "emnist"],
            "",
            "--robbench-dataset: expected NAME=OTHER (emnist=mydata, emnist=folder:PATH), each name once, got 'emnist'",
        ),
        (["--robbench-workers", "0"], "", "--robbench-workers: expected an integer ≥ 1, got 0"),
        (
            ["--robbench-workers", "2", "--robbench-scheduler", "tcp://a:1"],
            "",
            "--robbench-workers and --robbench-scheduler: expected one of them; a scheduler has its workers",
        ),
        (
            ["--robbench-workers", "2", "-n", "2"],
            "",
            "-n and --robbench-workers or --robbench-scheduler: expected one of",
        ),
        (["--robbench-quick", "--robbench-update"], "", "--robbench-quick and --robbench-update: expected one of them"),
        (
            ["--robbench-quick"],
            "robbench_update = true",
            "--robbench-quick and --robbench-update: expected one of them",
        ),
        (["--robbench-qick"], "", "unrecognized arguments: --robbench-qick"),
    ],
)
def test_impossible_options_are_usage_errors(pytester, errors, options, ini, message):
    """Before anything is collected: one line, exit status 4."""
    pytester.makeini(f"[pytest]\n{ini}")
    result = pytester.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in errors(result)


def test_a_worker_of_xdist_tells_how_many_there_are(monkeypatch):
    """So that none shares a GPU with another."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = SimpleNamespace(workerinput={"workercount": 3})
    with pytest.raises(RobbenchError, match="got 3 workers of pytest-xdist"):
        _ = Session(config, SimpleNamespace(device="auto", cluster=False)).device


def test_workers_of_xdist_divide_the_threads(monkeypatch, tmp_path):
    """Each computes with its share until its end, whatever runs beside it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    paths = dict.fromkeys(("store", "data"), tmp_path)
    flags = dict.fromkeys(("deterministic", "download", "fresh", "keep_adversarials"), False)
    plugins = SimpleNamespace(register=lambda plugin: None)
    config = SimpleNamespace(workerinput={"workerid": "gw1", "workercount": 4}, pluginmanager=plugins)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(8)
        session = Session(config, SimpleNamespace(device="cpu", cluster=False, **paths, **flags))
        assert session.context.device == torch.device("cpu")
        assert torch.get_num_threads() == 2
        session.switches.close()
        assert torch.get_num_threads() == 8
    finally:
        torch.set_num_threads(before)


def test_cuda_without_a_cuda_device_fails_with_the_reason(one, errors, monkeypatch):
    """The item, not the session: other tests may need no device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = one("--robbench-device", "cuda")
    result.assert_outcomes(failed=2, deselected=8)
    assert "device: expected a CUDA device for --robbench-device cuda, this machine has none" in errors(result)


def test_quick_runs_every_stage_small_and_compares_nothing(tiny, stages, pytester):
    """Under a name of its own; no baseline is needed, none is written."""
    tiny("--robbench-quick").assert_outcomes(passed=10)
    assert len(stages) == 10
    assert not (pytester.path / "baselines").exists()
    bundle = read_bundle(pytester.path / "reports" / "tiny-quick")
    assert {verdict.mark for verdict in bundle.verdicts} == {"quick"}
    assert bundle.notes == ["quick scale: every stage ran, but no figure here means anything"]
    sizes = {(record.data.train, record.data.validation) for record in bundle.records}
    assert sizes == {(24, 6)}
    assert {len(record.robustness.pstar) for record in bundle.records if record.robustness} == {8}


def test_deterministic_reaches_torch_and_ends_with_the_run(one, pytester, monkeypatch):
    """While the stages run, in their records, and no longer."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    ran = []
    train = robbench.stages.training_stage.train_model

    def spy(work):
        ran.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return train(work)

    monkeypatch.setattr(robbench.stages.training_stage, "train_model", spy)
    one("--robbench-deterministic", "--robbench-update").assert_outcomes(passed=2, deselected=8)
    assert ran == [(True, ":4096:8")]
    records = read_bundle(pytester.path / "reports" / "tiny").records
    assert [record.environment.deterministic for record in records] == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    one("--robbench-update").assert_outcomes(passed=2, deselected=8)
    assert ran[1:] == [(False, None)]


def test_folders_are_used(one, pytester):
    """All four, and no other."""
    folders = {name: f"my-{name}" for name in ("report", "baselines", "data", "store")}
    one("--robbench-update", *(f"--robbench-{name}={folder}" for name, folder in folders.items()))
    assert (pytester.path / "my-report" / "tiny" / "report.md").is_file()
    assert len(list((pytester.path / "my-baselines" / "tiny").glob("*.json"))) == 2
    assert len(list((pytester.path / "my-store").glob("*/*/stage.json"))) == 2
    assert not any((pytester.path / name).exists() for name in ("reports", "baselines", ".robbench"))


def test_download_reaches_the_loader(one, monkeypatch):
    """And nothing is downloaded unless it is asked for."""
    asked, load = set(), robbench.data.load_data

    def listening(dataset, folder, *, download, **told):
        asked.add(download)
        return load(dataset, folder, **told)

    monkeypatch.setattr(robbench.data, "load_data", listening)
    one("--robbench-update")
    assert asked == {False}
    one("--robbench-update", "--robbench-download")
    assert asked == {False, True}


@pytest.fixture
def mine(pytester):
    """A prepared dataset ``mine`` of ten easy classes in the folder ``sets``."""
    labels = np.arange(100) % 10
    images = np.zeros((100, 28, 28), dtype=np.uint8)
    for label in range(10):
        images[labels == label, 2 * label : 2 * label + 3] = 255
    pytester.mkdir("sets")
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:30], "y_test": labels[:30]}
    np.savez(pytester.path / "sets" / "mine.npz", classes=np.arange(10).astype(str), **arrays)


def test_another_dataset_changes_data_ids_and_name(tiny, pytester, mine):
    """Read from the folder of datasets; the study, its baselines and its report have another name."""
    options = ("--robbench-data=sets", "--robbench-dataset=glyphs10=mine", "-k", "mine-standard")
    tiny("--robbench-update", *options).assert_outcomes(passed=2, deselected=8)
    bundle = read_bundle(pytester.path / "reports" / "tiny-mine")
    assert {(record.case, record.suite) for record in bundle.records} == {("net.mlp-mine-standard", "tiny-mine")}
    robustness = next(record for record in bundle.records if record.robustness)
    assert (robustness.data.name, robustness.data.test) == ("mine", 20)
    assert robustness.robustness.clean.share > 0.5
    assert sorted(path.name for path in (pytester.path / "baselines" / "tiny-mine").iterdir()) == [
        "net.mlp-mine-standard.robustness.json",
        "net.mlp-mine-standard.training.json",
    ]


def test_a_replacement_that_replaces_nothing_is_a_usage_error(tiny, errors):
    """The nearest dataset of the studies is named."""
    result = tiny("--robbench-dataset", "glyph10=mine", "--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        "--robbench-dataset: unknown dataset of the collected studies 'glyph10'; "
        "expected one of glyphs10, glyphs47 (did you mean 'glyphs10'?)"
    ) in errors(result)


def test_a_replacement_by_a_bad_name_is_a_collection_error(tiny, errors):
    """It would lead out of the folder."""
    result = tiny("--robbench-dataset", "glyphs10=../mine")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "Dataset name: expected a plain name such as 'mnist', got '../mine'" in errors(result)


def test_a_dataset_that_is_not_there_fails_before_training(tiny, stages, errors):
    """With what is expected where."""
    result = tiny("--robbench-dataset", "glyphs10=nowhere", "-k", "nowhere-standard")
    result.assert_outcomes(failed=2, deselected=8)
    assert "unknown dataset 'nowhere'" in errors(result)
    assert stages == []


def test_seeds_multiply_the_models(tiny, cases):
    """Seed 0 keeps its ids."""
    result = tiny("--robbench-seeds", "2", "--collect-only", "-q")
    names = [line.partition("[")[2].rstrip("]") for line in result.stdout.lines if "test_training[" in line]
    assert names == [*cases, *(f"{case}-seed1" for case in cases)]


def test_the_thesis_protocol_has_its_own_name_baselines_and_weights(one, pytester, stages):
    """And says so in the report."""
    one("--robbench-update").assert_outcomes(passed=2, deselected=8)
    one("--robbench-update", "--robbench-protocol", "thesis").assert_outcomes(passed=2, deselected=8)
    assert len(stages) == 4
    bundle = read_bundle(pytester.path / "reports" / "tiny-thesis")
    assert bundle.notes[0].startswith("thesis protocol: ")
    training = next(record for record in bundle.records if record.training)
    assert training.spec["dataset"]["split"] == "overlapping"
    assert training.spec["recipe"]["kept_epoch"] == "robust"  # without an attack, that is the best clean accuracy
    assert (pytester.path / "baselines" / "tiny-thesis").is_dir()


def test_a_second_run_takes_stages_from_the_store_and_says_so(updated, stages, pytester):
    """Verdicts are made anew, nothing is computed; ``--robbench-fresh`` makes them again."""
    result = updated()
    result.assert_outcomes(passed=2, deselected=8)
    assert stages == []
    assert "2 of 2 stages were taken from the store; --robbench-fresh makes them again" in result.stdout.lines
    assert {verdict.mark for verdict in read_bundle(pytester.path / "reports" / "tiny").verdicts} == {"="}
    result = updated("--robbench-fresh")
    assert len(stages) == 2
    assert "taken from the store" not in result.stdout.str()


def test_a_folder_of_pictures_in_place_of_a_dataset(tiny, pytester):
    """Brought to the size and channels of that dataset; broken pictures are listed before anything is trained."""
    write_folders(pytester.path / "my pictures", {"a": 20, "b": 30}, ending="png")
    options = ("--robbench-dataset=glyphs10=folder:my pictures", "--robbench-quick", "-k", "my_pictures-standard")
    tiny(*options).assert_outcomes(passed=2, deselected=8)
    bundle = read_bundle(pytester.path / "reports" / "tiny-my_pictures-quick")
    assert {record.data.name for record in bundle.records} == {"my_pictures"}
    (pytester.path / "my pictures" / "a" / "1.png").write_bytes(b"")
    result = tiny(*options)
    result.assert_outcomes(failed=2, deselected=8)
    result.stdout.fnmatch_lines(["*1 of 40 pictures cannot be used; *", "*a/1.png: empty file*"])
