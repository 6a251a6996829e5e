"""``robbench export``: a model of a suite as a file; tests/plugin/test_use_a_model.py has a whole run."""

import pytest
import torch
from safetensors.torch import load_file

import robbench
from robbench.cli import main
from robbench.spec.suite_files import read_studies
from robbench.stages import run_stage, task_of
from robbench.stages.context import RunContext
from robbench.store import Store

SUITE = """
from robbench import PGD, Dataset, EpsilonGrid, Estimate, Recipe, Study, Transfers

RECIPE = Recipe(optimiser="sgd", learning_rate=0.1, weight_decay=0.0, batch_size=64, epochs=1)
STUDY = Study(
    name="exported",
    source=Dataset(name="glyphs10", train=100, test=20),
    target=Dataset(name="glyphs47", train=100, test=20),
    architectures=("cnn7",),
    standard=RECIPE,
    transfers=(Transfers(recipe=RECIPE, k=(2,), head="mlp1", source="standard"),),
    estimate=Estimate(grid=EpsilonGrid(stop=1.0, step=0.1), attack=PGD(steps=2, random_start=False), audit=None),
)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A suite file in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_exported.py").write_text(SUITE)
    return tmp_path


def test_an_exported_model_is_the_one_that_was_judged(place, capsys):
    """As trained in the store, head and all; the line that is printed has its figures."""
    (study,) = read_studies(place / "test_exported.py")
    context = RunContext(
        store=Store(place / ".robbench/store"), data=place / ".robbench/data", device=torch.device("cpu")
    )
    model = study.models()[-1]
    record = run_stage(task_of(study, "robustness", model), context)
    assert main(["export", "test_exported.py", model.id, "--device", "cpu", "-o", "mine.safetensors"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"mine.safetensors: {model.id}, 1×28×28 images in [0, 1], 47 classes; median p*")
    assert printed.endswith(f"clean accuracy {record.robustness.clean.share:.1%}\n")
    network, data = robbench.load_model(place / "mine.safetensors"), context.images(model.dataset)
    assert network.class_names == tuple(data.classes)
    test = data.test.take(torch.tensor(record.robustness.images))
    right = (network(test.images / 255).argmax(1) == test.labels).tolist()
    assert right == [index >= 0 for index in record.robustness.pstar]
    assert any(name.startswith("fc3.4.") for name in load_file(place / "mine.safetensors")), (
        "the last layer of the head"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "cnn7-glyphs47-TL2",
            "unknown model of the suite 'cnn7-glyphs47-TL2'; expected one of cnn7-glyphs10-standard, ",
        ),
        (
            "cnn7-glyphs47-standard",
            "export: expected cnn7-glyphs47-standard.training to be finished in .robbench/store, it is not; "
            "run it first: pytest -m suite test_exported.py -k cnn7-glyphs47-standard --robbench-seeds 1 --robbench-quick",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(place, capsys, model, message):
    """Exit status 2, one sentence, no file."""
    assert main(["export", "test_exported.py", model, "--seeds", "1", "--quick"]) == 2
    assert message in capsys.readouterr().err
    assert not (place / "model.safetensors").exists()


def test_a_query_for_verifiers_beside_an_onnx_file(place, capsys):
    """Of the first test image that the model gets right, in both versions; another ending is refused."""
    (study,) = read_studies(place / "test_exported.py")
    context = RunContext(
        store=Store(place / ".robbench/store"), data=place / ".robbench/data", device=torch.device("cpu")
    )
    model = study.models()[0]
    run_stage(task_of(study, "training", model), context)
    arguments = ["export", "test_exported.py", model.id, "--device", "cpu", "--vnnlib", "0.1"]
    assert main([*arguments, "-o", "mine.onnx"]) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    text = (place / first).read_text()
    assert first.startswith("mine-image")
    assert first.endswith("-0.1-v1.vnnlib")
    assert text.count("declare-const") == 794
    assert "(vnnlib-version <2.0>)" in (place / second).read_text()
    assert main([*arguments, "-o", "mine.ts"]) != 0
    assert "export --vnnlib: expected an .onnx file beside it" in capsys.readouterr().err
