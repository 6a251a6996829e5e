"""What a digest depends on, and what it does not."""

import hashlib
from dataclasses import fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import ESTIMATE, FINAL_TEST, MNIST, RECIPE, SOURCE, STANDARD, TARGET

from robbench import recipes
from robbench.spec import (
    PGD,
    Audit,
    Dataset,
    EarlyStopping,
    EpsilonGrid,
    Estimate,
    Model,
    MultiStepLR,
    OneCycle,
    Recipe,
    StepLR,
    Transfer,
    describe,
    differences,
    digest_of,
)

CHANGES = {
    Model: {
        "architecture": "cnn4",
        "dataset": Dataset(name="emnist"),
        "recipe": STANDARD,
        "transfer": ...,
        "source": ...,
        "checkpoint": ...,
        "seed": 1,
        "variant": "split",
    },
    Dataset: {
        "name": "glyphs10",
        "train": 9,
        "test": None,
        "validation": 0.1,
        "augmentation": "crop-flip",
        "mean": ...,
        "std": ...,
        "orientation": "stored",
        "split": "overlapping",
        "seed": 1,
    },
    Recipe: {
        "optimiser": "adam",
        "learning_rate": 0.2,
        "weight_decay": 0.1,
        "batch_size": 9,
        "epochs": 4,
        "momentum": 0.5,
        "schedule": OneCycle(),
        "clip_norm": None,
        "early_stopping": EarlyStopping(),
        "attack": PGD(epsilon=0.3, steps=1),
        "validation_attack": RECIPE.attack,
        "ramp_epochs": 1,
        "statistics": "running",
        "kept_epoch": "last",
        "precision": "bf16",
    },
    PGD: {"steps": 5, "epsilon": 0.21, "step_size": None, "random_start": False, "box": (-1.0, 1.0)},
    Transfer: {"k": 2, "head": "mlp1", "kept": "finetuned", "kept_scale": 0.001, "kept_statistics": "train"},
    EarlyStopping: {"patience": 7, "window": 2},
    StepLR: {"step": 11, "gamma": 0.97},
    MultiStepLR: {"milestones": (1, 3), "gamma": 0.1},
    OneCycle: {"warm_up": 0.2},
    Estimate: {"grid": EpsilonGrid(stop=0.3, step=0.1), "attack": PGD(steps=3, random_start=False)}
    | {"images": 1, "search": ..., "seed": 1, "final_test": FINAL_TEST, "audit": None},
    Audit: {"images": 7, "share": 0.2, "radii": 4, "square_queries": 10, "seed": 1},
    EpsilonGrid: {"stop": 0.3, "step": 0.05},
}
"""Another value for every field; ``...`` where there is none without changing another field too."""


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_a_digest_changes_with_every_field(kind):
    """Field by field, from the same start; the list above covers all of them, so a new field must be added there."""
    assert {field.name for field in fields(kind)} == CHANGES[kind].keys()
    start = {
        Model: SOURCE,
        Dataset: Dataset(name="mnist", test=5),
        Recipe: RECIPE,
        PGD: RECIPE.attack,
        Transfer: Transfer(k=3),
        EarlyStopping: EarlyStopping(),
        StepLR: StepLR(step=10, gamma=0.98),
        MultiStepLR: MultiStepLR(milestones=(1, 2), gamma=0.2),
        OneCycle: OneCycle(),
        Estimate: ESTIMATE,
        Audit: Audit(),
        EpsilonGrid: EpsilonGrid(stop=0.2, step=0.1),
    }[kind]
    changed = {
        field: digest_of(describe(replace(start, **{field: value})))
        for field, value in CHANGES[kind].items()
        if value is not ... and (kind, field) not in ((Dataset, "test"), (Model, "variant"))
    }
    assert digest_of(describe(start)) not in changed.values()
    assert len(set(changed.values())) == len(changed)


def nested(spec):
    """The kinds of all specs within a spec."""
    if not is_dataclass(spec):
        return set()
    return {type(spec)}.union(*(nested(getattr(spec, field.name)) for field in fields(spec)))


def test_every_kind_of_spec_in_a_study_is_covered():
    """The suites' recipes use no other kinds than those whose fields are tried above."""
    for value in (
        SOURCE,
        TARGET,
        recipes.MNIST_ESTIMATE,
        *(v for v in vars(recipes).values() if isinstance(v, Recipe)),
    ):
        assert nested(value) <= CHANGES.keys()


def test_a_models_digest_reaches_down_to_its_sources_attack():
    """Training the source model with another radius makes other weights of the transferred one."""
    other = replace(SOURCE, recipe=replace(RECIPE, attack=replace(RECIPE.attack, epsilon=0.3)))
    assert len({TARGET.digest, replace(TARGET, source=other).digest, SOURCE.digest, other.digest}) == 4
    assert len(TARGET.digest) == 64


def test_the_number_of_test_images_changes_no_weights():
    """It is no part of a model's digest, but of its estimate's."""
    few = replace(SOURCE, dataset=replace(MNIST, test=10))
    assert few.digest == SOURCE.digest
    assert few.estimate_digest(ESTIMATE) != SOURCE.estimate_digest(ESTIMATE)


def test_an_estimates_digest_depends_on_model_and_estimate():
    """Grid, attack, images and seed; and the weights."""
    estimates = [
        ESTIMATE,
        *(replace(ESTIMATE, **{name: value}) for name, value in CHANGES[Estimate].items() if value is not ...),
    ]
    digests = {model.estimate_digest(estimate) for model in (SOURCE, TARGET) for estimate in estimates}
    assert len(digests) == 2 * 7
    assert SOURCE.digest not in digests


def test_a_variants_label_changes_its_name_only():
    """It is shown before the seed; weights do not depend on it."""
    labelled = replace(TARGET, variant="split", seed=2)
    assert labelled.id == "cnn7-emnist-TL3-adversarial-split-seed2"
    assert labelled.digest == replace(TARGET, seed=2).digest


def test_an_estimate_without_a_final_test_is_described_as_before_there_was_one():
    """Its digest stays: what lies in stores and baselines is still comparable."""
    assert "final_test" not in describe(ESTIMATE)
    assert [attack["steps"] for attack in describe(replace(ESTIMATE, final_test=FINAL_TEST))["final_test"]] == [1, 40]


def test_the_default_audit_is_no_part_of_a_digest():
    """So estimates from before there was one are found again; another audit, or none, has another digest."""
    assert "audit" not in describe(ESTIMATE)
    assert describe(replace(ESTIMATE, audit=None))["audit"] is None
    assert describe(replace(ESTIMATE, audit=Audit(square_queries=9)))["audit"]["square_queries"] == 9


def test_digests_are_what_they_were():
    """Stores and baselines lie on disk for years: a digest changes only where its version number is raised on purpose."""
    assert (
        digest_of({"b": 1.0, "a": [True, None, "ε", 0.1]})
        == hashlib.sha256('{"a":[true,null,"ε",0.1],"b":1}'.encode()).hexdigest()
    )


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-1, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=3), PLAIN, max_size=4), st.randoms())
def test_digests_ignore_order_and_kind_of_number(values, random):
    """Keys in any order, integers as floats and lists as tuples give the same digest, and no difference."""

    def shuffled(value):
        if isinstance(value, dict):
            keys = list(value)
            random.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        if isinstance(value, list):
            return tuple(shuffled(entry) for entry in value)
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    assert digest_of(values) == digest_of(shuffled(values))
    assert differences(values, shuffled(values)) == []


def test_digests_ignore_how_a_spec_was_written():
    """Keyword order, a default spelled out, an integral float."""
    one = PGD(steps=4, epsilon=1, box=(0, 1))
    two = PGD(box=(0.0, 1.0), random_start=True, epsilon=1.0, steps=4)
    assert digest_of(describe(one)) == digest_of(describe(two))
    explicit = Dataset(
        name="cifar10", augmentation="crop-flip", mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)
    )
    assert digest_of(describe(explicit)) == digest_of(describe(Dataset(name="cifar10")))


def test_a_digest_of_nan_is_refused():
    """It would equal nothing, itself included."""
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"x": float("nan")})


def test_the_digest_follows_the_code_of_an_own_network(tmp_path, monkeypatch):
    """Weights that another version of the function was trained to are not its weights."""
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for body in ("relu", "tanh"):
        (tmp_path / "own_nets.py").write_text(body)
        model = Model(architecture="own_nets:make", dataset=Dataset(name="mnist"), recipe=RECIPE)
        digests.add(model.digest)
    assert len(digests) == 2


@pytest.mark.parametrize("fault", ["KeyError(1)", "SystemExit(3)"])
def test_a_package_that_raises_has_a_digest(tmp_path, monkeypatch, fault):
    """Its network is refused where it is built, for itself alone."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text(f"raise {fault}")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(replace(SOURCE, architecture="own_package.nets:make").digest) == 64
