"""Described specs read back as they were, and say how two of them differ."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import ESTIMATE, FINAL_TEST, MNIST, RECIPE, SOURCE, STANDARD, TARGET

from robbench.errors import RobbenchError
from robbench.spec import (
    Checkpoint,
    EarlyStopping,
    Model,
    MultiStepLR,
    OneCycle,
    StepLR,
    Transfer,
    describe,
    differences,
    read_spec,
)
from robbench.spec.recipes import with_protocol
from robbench.spec.suite_files import read_studies

SCHEDULES = (None, StepLR(step=2, gamma=0.5), MultiStepLR(milestones=(2, 4), gamma=0.1), OneCycle(warm_up=0.2))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(SCHEDULES),
    st.none() | st.builds(EarlyStopping, patience=st.integers(1, 9)),
    st.sampled_from([RECIPE, STANDARD]),
    st.builds(Transfer, k=st.integers(1, 7), head=st.sampled_from(["linear", "mlp2"]), kept_scale=st.floats(0.001, 1)),
    st.sampled_from([(), FINAL_TEST]),
)
def test_a_described_spec_reads_back_as_it_was(schedule, stopping, recipe, transfer, final_test):
    """Through JSON, as records hold it, with the same digest."""
    recipe = replace(recipe, schedule=schedule, early_stopping=stopping)
    for spec in (
        replace(TARGET, recipe=recipe, transfer=transfer, seed=3),
        replace(ESTIMATE, final_test=final_test, search="fast"),
    ):
        again = read_spec(json.loads(json.dumps(describe(spec))))
        assert again == spec
        assert describe(again) == describe(spec)
    assert read_spec(describe(TARGET)).estimate_digest(ESTIMATE) == TARGET.estimate_digest(ESTIMATE)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "suites").glob("test_*.py")), ids=lambda p: p.stem)
@pytest.mark.parametrize("protocol", ["sound", "thesis"])
def test_every_model_of_the_suites_reads_back(path, protocol):
    """With the digest that it has; only the size of the test set and the ablation's label are not described."""
    (study,) = read_studies(path)
    study = with_protocol(study, protocol)
    assert read_spec(describe(study.estimate)) == study.estimate
    for model in study.models():
        again = read_spec(describe(model))
        assert again.digest == model.digest
        dataset = replace(again.dataset, test=model.dataset.test)
        assert replace(again, dataset=dataset).estimate_digest(study.estimate) == model.estimate_digest(study.estimate)


def test_a_checkpoint_reads_back_by_its_content(tmp_path):
    """Its file need not be there any more: the digest is what it was."""
    (tmp_path / "own.safetensors").write_bytes(b"weights")
    source = Model(architecture="cnn7", dataset=MNIST, checkpoint=Checkpoint(path=str(tmp_path / "own.safetensors")))
    model = replace(TARGET, source=source)
    described, digest = describe(model), model.digest
    (tmp_path / "own.safetensors").unlink()
    assert read_spec(described).digest == digest
    assert describe(read_spec(described)) == described


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Path"}, r"unknown kind of spec 'Path'"),
        ({"kind": None}, r"unknown kind of spec None"),
        ({"kind": ["PGD"]}, r"unknown kind of spec"),
        ({"more": 1}, r"PGD: expected the fields of a described spec, got \['box', .*'more'"),
        ({"steps": "many"}, r"PGD steps"),
        ({"box": 3}, r"PGD box"),
        ({"epsilon": {"kind": "PGD", "steps": 1}}, r"PGD epsilon"),
    ],
)
def test_what_is_no_described_spec_is_refused(change, message):
    """In one sentence, whatever a record holds in its place."""
    with pytest.raises(RobbenchError, match=message):
        read_spec(describe(RECIPE.attack) | change)


def test_differences_name_the_path_and_both_values():
    """In the order of the fields, nested, also where one side has nothing."""
    other = replace(SOURCE, recipe=replace(RECIPE, attack=replace(RECIPE.attack, epsilon=0.02), epochs=4), seed=2)
    assert differences(describe(SOURCE), describe(other)) == [
        "recipe.epochs: 3 → 4",
        "recipe.attack.epsilon: 0.2 → 0.02",
        "seed: 0 → 2",
    ]
    assert differences(describe(SOURCE), describe(SOURCE)) == []
    assert differences({"a": 1}, {"b": "ε"}) == ["a: 1 → null", 'b: null → "ε"']
    assert differences(None, {"a": 1}) == [': null → {"a": 1}']
    assert differences({"a": "x" * 99}, {"a": 1}) == [f'a: "{"x" * 56}… → 1']
