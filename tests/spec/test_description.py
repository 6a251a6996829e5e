"""Described specs read back as they were, and say how two of them differ."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from specs import ESTIMATE, FINAL_TEST, MNIST, RECIPE, SOURCE, STANDARD, TARGET

from robbench.errors import RobbenchError
from robbench.spec import (
    Checkpoint,
    EarlyStopping,
    Ensemble,
    Model,
    MultiStepLR,
    Objective,
    OneCycle,
    Search,
    StepLR,
    Transfer,
    attack,
    describe,
    differences,
    read_spec,
)
from robbench.spec.recipes import with_protocol
from robbench.spec.suite_files import read_studies


class LossOfThisTest(Objective):
    """An objective that only this test knows."""

    beta: float = 6.0


class SearchOfThisTest(Search):
    """A search that only this test knows."""

    every: int = 1


SCHEDULES = (None, StepLR(step=2, gamma=0.5), MultiStepLR(milestones=(2, 4), gamma=0.1), OneCycle(warm_up=0.2))


@given(
    st.fixed_dictionaries(
        {
            "schedule": st.sampled_from(SCHEDULES),
            "early_stopping": st.none() | st.builds(EarlyStopping, patience=st.integers(1, 9)),
            "objective": st.sampled_from([RECIPE.objective, LossOfThisTest(beta=1.0)]),
        }
    ),
    st.sampled_from([RECIPE, STANDARD]),
    st.builds(Transfer, k=st.integers(1, 7), head=st.sampled_from(["linear", "mlp2"]), kept_scale=st.floats(0.001, 1)),
    st.sampled_from([(), FINAL_TEST, (attack("adv_lib:apgd", epsilon=0.1, n_iter=9),)]),
    st.sampled_from(
        ["fast", SearchOfThisTest(every=2), Ensemble(searches=("reference", attack("own:f", a=None, b=0.5)))]
    ),
)
def test_a_described_spec_reads_back_as_it_was(changes, recipe, transfer, final_test, search):
    """Through JSON, as records hold it; also where the user's own code defines a part of it."""
    for spec in (
        replace(TARGET, recipe=replace(recipe, **changes), transfer=transfer, seed=3),
        replace(ESTIMATE, final_test=final_test, search=search),
    ):
        again = read_spec(json.loads(json.dumps(describe(spec))))
        assert again == spec
        assert describe(again) == describe(spec)


def test_defaults_are_described():
    """What a record says does not depend on the defaults of the code that reads it."""
    described = describe(ESTIMATE)
    assert (described["search"], described["final_test"], described["audit"]["images"]) == ("reference", [], 100)
    assert describe(RECIPE)["objective"] == {"kind": "CrossEntropy"}
    assert "norm" not in described  # so that estimates from before there was another one keep their digests
    assert describe(replace(ESTIMATE, search="fast", audit=None, norm="l2"))["norm"] == "l2"
    assert describe(replace(ESTIMATE, search=SearchOfThisTest()))["search"] == {"kind": "SearchOfThisTest", "every": 1}


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "suites").glob("test_*.py")), ids=lambda p: p.stem)
@pytest.mark.parametrize("protocol", ["sound", "thesis"])
def test_every_model_of_the_suites_reads_back(path, protocol):
    """With the digest that it has."""
    (study,) = read_studies(path)
    study = with_protocol(study, protocol)
    assert read_spec(describe(study.estimate)) == study.estimate
    for model in study.models():
        again = read_spec(describe(model))
        assert again.digest == model.digest


def test_a_checkpoint_reads_back_by_its_content(tmp_path):
    """The file may be gone by then: the digest is what it was."""
    (tmp_path / "own.pt").write_bytes(b"weights")
    checkpoint = Checkpoint(tmp_path / "own.pt", mean=0.5, std=0.25, part="ema")
    source = Model(architecture="cnn7", dataset=MNIST, checkpoint=checkpoint)
    model = replace(TARGET, source=source)
    described, digest = describe(model), model.digest
    (tmp_path / "own.pt").unlink()
    assert read_spec(described).digest == digest
    assert describe(read_spec(described)) == described


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Path"}, r"unknown kind of spec 'Path'"),
        ({"more": 1}, r"unknown field of PGD 'more'"),
        ({"steps": "many"}, r"PGD steps: expected an integer ≥ 1, got 'many'"),
    ],
)
def test_what_is_no_described_spec_is_refused(change, message):
    """In one sentence, as where it is declared."""
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
    assert differences({"a": 1}, {"b": "ε"}) == ["a: 1 → null", 'b: null → "ε"']
    assert differences({"a": "x" * 99}, {"a": 1}) == [f'a: "{"x" * 56}… → 1']
