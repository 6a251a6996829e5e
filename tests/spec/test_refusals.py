"""Specs that cannot run are refused, in one sentence."""

from dataclasses import replace

import pytest
from specs import ESTIMATE, FINAL_TEST, MNIST, RECIPE, STANDARD, TARGET, make_study, recipe

from robbench.errors import RobbenchError
from robbench.spec import (
    PGD,
    Audit,
    Checkpoint,
    Dataset,
    EarlyStopping,
    EpsilonGrid,
    Model,
    MultiStepLR,
    OneCycle,
    Quick,
    StepLR,
    Transfer,
    Transfers,
    describe,
    read_spec,
)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Dataset(name=""), "dataset name: expected a plain name such as 'mnist', got ''"),
        (lambda: Dataset(name="../mnist"), "dataset name: expected a plain name such as 'mnist', got '../mnist'"),
        (lambda: Dataset(name=7), "Dataset name: expected a text, got 7"),
        (lambda: Dataset(name="mnist", train=0), "dataset train: expected an integer ≥ 1, got 0"),
        (lambda: Dataset(name="mnist", train=True), "dataset train: expected an integer ≥ 1, got True"),
        (lambda: Dataset(name="mnist", test=1.5), "dataset test: expected an integer ≥ 1, got 1.5"),
        (lambda: Dataset(name="mnist", validation=0.0), "dataset validation: expected a share in (0, 1), got 0.0"),
        (lambda: Dataset(name="mnist", validation=1.0), "dataset validation: expected a share in (0, 1), got 1.0"),
        (lambda: Dataset(name="x", mean=(0.5,)), "dataset mean and std: expected both or none, got ((0.5,), None)"),
        (
            lambda: Dataset(name="x", mean=(0.5,), std=(0.0,)),
            "dataset std: expected a number ≥ 1e-6 and ≤ 1e6, got 0.0",
        ),
        (lambda: Dataset(name="x", mean=(0.5,), std=(1e-40,)), "dataset std: expected a number ≥ 1e-6 and ≤ 1e6, got"),
        (lambda: Dataset(name="x", mean=(0.5,), std=(1e300,)), "dataset std: expected a number ≥ 1e-6 and ≤ 1e6, got"),
        (
            lambda: Dataset(name="x", mean=(float("nan"),), std=(1.0,)),
            "dataset mean: expected a number between -1e6 and 1e6, got nan",
        ),
        (lambda: Dataset(name="x" * 101), "dataset name: expected at most 100 bytes, as it names files, got 101"),
        (lambda: Dataset(name="é" * 51), "dataset name: expected at most 100 bytes, as it names files, got 102"),
        (
            lambda: Dataset(name="x", train=10**5000),
            "dataset train: expected an integer below 2**63, got a number too long to write",
        ),
        (
            lambda: Dataset(name="x", train=2**63),
            "dataset train: expected an integer below 2**63, got 9223372036854775808",
        ),
        (
            lambda: Dataset(name="x", augmentation="flip"),
            "unknown augmentation 'flip'; expected one of crop-flip, none",
        ),
        (
            lambda: Dataset(name="emnist", orientation="lying"),
            "unknown orientation 'lying'; expected one of stored, upright",
        ),
        (lambda: Dataset(name="x", split="both"), "unknown split 'both'; expected one of disjoint, overlapping"),
        (lambda: PGD(steps=0), "PGD steps: expected an integer ≥ 1, got 0"),
        (lambda: PGD(steps=1, epsilon=0.0), "PGD epsilon: expected a radius > 0 in pixel units, got 0.0"),
        (lambda: PGD(steps=1, epsilon="8"), "PGD epsilon: expected a radius > 0 in pixel units, got '8'"),
        (lambda: PGD(steps=1, step_size=-0.1), "PGD step_size: expected a step > 0 in pixel units, got -0.1"),
        (
            lambda: PGD(steps=1, box=(1.0, 1.0)),
            "PGD box: expected (low, high) with -10000 ≤ low < high ≤ 10000, got (1.0, 1.0)",
        ),
        (
            lambda: PGD(steps=1, box=(0.0, float("inf"))),
            "PGD box: expected (low, high) with -10000 ≤ low < high ≤ 10000, got (0.0, inf)",
        ),
        (
            lambda: PGD(steps=1, epsilon=1e300),
            "PGD epsilon: expected at most 10000 in pixel units, as images lie in [0, 1], got 1e+300",
        ),
        (lambda: PGD(steps=1, epsilon=10**400), "PGD epsilon: expected a radius > 0 in pixel units, got 1000"),
        (lambda: StepLR(step=0, gamma=0.5), "StepLR step: expected an integer ≥ 1, got 0"),
        (lambda: StepLR(step=1, gamma=1.1), "StepLR gamma: expected a factor in (0, 1], got 1.1"),
        (lambda: MultiStepLR(milestones=(0,), gamma=0.5), "MultiStepLR milestones: expected an integer ≥ 1, got 0"),
        (
            lambda: MultiStepLR(milestones=(3, 2), gamma=0.5),
            "MultiStepLR milestones: expected increasing epochs, got (3, 2)",
        ),
        (lambda: MultiStepLR(milestones=(), gamma=0.0), "MultiStepLR gamma: expected a factor in (0, 1], got 0.0"),
        (lambda: OneCycle(warm_up=1.0), "OneCycle warm_up: expected a share in (0, 1), got 1.0"),
        (lambda: EarlyStopping(patience=0), "EarlyStopping patience: expected an integer ≥ 1, got 0"),
        (lambda: EarlyStopping(window=0), "EarlyStopping window: expected an integer ≥ 1, got 0"),
        (
            lambda: recipe(optimiser="adma"),
            "unknown optimiser 'adma'; expected one of adam, sgd (did you mean 'adam'?)",
        ),
        (lambda: recipe(learning_rate=0), "learning_rate: expected a number > 0 and at most 1e6, got 0"),
        (
            lambda: recipe(learning_rate=float("nan")),
            "learning_rate: expected a number > 0 and at most 1e6, got nan",
        ),
        (lambda: recipe(learning_rate=1e300), "learning_rate: expected a number > 0 and at most 1e6, got 1e+300"),
        (lambda: recipe(weight_decay=-1e-4), "weight_decay: expected a number ≥ 0 and at most 1e6, got -0.0001"),
        (lambda: recipe(weight_decay=10**30), "weight_decay: expected a number ≥ 0 and at most 1e6, got 1000"),
        (lambda: recipe(batch_size=2.0), "batch_size: expected an integer ≥ 1, got 2.0"),
        (lambda: recipe(epochs=0), "epochs: expected an integer ≥ 1, got 0"),
        (lambda: recipe(momentum=1.0), "momentum: expected a number ≥ 0 and below 1, got 1.0"),
        (lambda: recipe(clip_norm=0.0), "clip_norm: expected a norm > 0, got 0.0"),
        (lambda: recipe(ramp_epochs=-1), "ramp_epochs: expected a number ≥ 0, got -1"),
        (lambda: recipe(attack=PGD(steps=1)), "attack epsilon: expected a radius for training, got None"),
        (
            lambda: recipe(validation_attack=PGD(steps=1)),
            "validation_attack epsilon: expected a radius for training, got None",
        ),
        (
            lambda: replace(STANDARD, validation_attack=RECIPE.attack),
            "validation_attack: expected none without an attack",
        ),
        (lambda: recipe(statistics="frozen"), "unknown statistics 'frozen'; expected one of batch, running"),
        (lambda: recipe(kept_epoch="best"), "unknown kept_epoch 'best'; expected one of clean, last, robust"),
        (lambda: recipe(precision="fp16"), "unknown precision 'fp16'; expected one of bf16, float32"),
        (lambda: Transfer(k=0), "k: expected an integer ≥ 1, got 0"),
        (lambda: Transfer(k=1, head="mlp4"), "unknown head 'mlp4'; expected one of linear, mlp1, mlp2, mlp3"),
        (lambda: Transfer(k=1, kept="thawed"), "unknown kept 'thawed'; expected one of finetuned, frozen"),
        (lambda: Transfer(k=1, kept_scale=0), "kept_scale: expected a factor in (0, 1], got 0"),
        (lambda: Transfer(k=1, kept_statistics="off"), "unknown kept_statistics 'off'; expected one of eval, train"),
        (lambda: Checkpoint(path="weights.pt"), "checkpoint path: expected a .safetensors file"),
        (lambda: EpsilonGrid(stop=0.1, step=0), "grid step: expected a step ≥ 1e-9 in pixel units, got 0"),
        (lambda: EpsilonGrid(stop=1e-9, step=1e-11), "grid step: expected a step ≥ 1e-9 in pixel units, got 1e-11"),
        (lambda: EpsilonGrid(stop=1, step=1e-300), "grid step: expected a step ≥ 1e-9 in pixel units, got 1e-300"),
        (
            lambda: EpsilonGrid(stop=1, step=1e-9),
            "grid: expected at most 100,000 radii (a larger step), got 1000000",
        ),
        (lambda: EpsilonGrid(stop=1.0, step=1e-5), "grid: expected at most 100,000 radii (a larger step), got 100001"),
        (
            lambda: EpsilonGrid(stop=1e308, step=0.1),
            "grid stop: expected at most 10000 in pixel units, as images lie in [0, 1], got 1e+308",
        ),
        (lambda: EpsilonGrid(stop=0.1, step=0.2), "grid stop: expected a radius ≥ one step in pixel units, got 0.1"),
        (lambda: replace(ESTIMATE, images=0), "estimate images: expected an integer ≥ 1, got 0"),
        (lambda: replace(ESTIMATE, search="linear"), "unknown search 'linear'; expected one of fast, reference"),
        (
            lambda: replace(ESTIMATE, attack=PGD(steps=1, epsilon=0.1, random_start=False)),
            "estimate attack epsilon: expected none (the grid gives it), got 0.1",
        ),
        (
            lambda: replace(ESTIMATE, attack=PGD(steps=1, step_size=0.1, random_start=False)),
            "estimate attack step_size: expected none (ε ÷ steps), got 0.1",
        ),
        (lambda: replace(ESTIMATE, attack=PGD(steps=1)), "estimate attack random_start: expected False"),
        (
            lambda: replace(ESTIMATE, final_test=(PGD(steps=1, random_start=False),)),
            "final test epsilon: expected a radius > 0 in pixel units, got None",
        ),
        (lambda: replace(ESTIMATE, final_test=(PGD(steps=1, epsilon=0.1),)), "final test random_start: expected False"),
        (lambda: replace(ESTIMATE, final_test=2 * FINAL_TEST), "final test: expected each attack once"),
        (lambda: replace(ESTIMATE, final_test=[]), "Estimate final_test: expected a tuple of PGD, got []"),
        (lambda: Quick(train=0), "quick train: expected an integer ≥ 1, got 0"),
        (lambda: Quick(attack_steps=0), "quick attack_steps: expected an integer ≥ 1, got 0"),
        (
            lambda: Model(architecture="cnn7", dataset=MNIST),
            "model recipe: expected a Recipe (or a Checkpoint), got None",
        ),
        (
            lambda: Model(
                architecture="cnn7", dataset=MNIST, recipe=RECIPE, checkpoint=Checkpoint(path="a.safetensors")
            ),
            "checkpoint model: expected no recipe, transfer or source beside a checkpoint, got 'cnn7'",
        ),
        (lambda: replace(TARGET, source=None), "transfer: expected transfer and source together, got Transfer(k=3"),
        (
            lambda: replace(TARGET, architecture="cnn4"),
            "source architecture: expected 'cnn4' as the target's, got 'cnn7'",
        ),
        (lambda: replace(TARGET, transfer=Transfer(k=8)), "k: expected 1…7 for cnn7, got 8"),
        (
            lambda: Transfers(recipe=RECIPE, source="pgd"),
            "unknown transfers source 'pgd'; expected one of adversarial, s",
        ),
        (lambda: Transfers(recipe=RECIPE, k=(1, 0)), "k: expected an integer ≥ 1, got 0"),
        (lambda: Transfers(recipe=RECIPE, k=(1,), head="mlp0"), "unknown head 'mlp0'"),
        (
            lambda: make_study(name="a/b"),
            "study name: expected letters, digits, '-' and '_' (it names folders), got 'a/b'",
        ),
        (lambda: make_study(architectures=()), "architectures: expected at least one, got ()"),
        (lambda: make_study(architectures=("wrn32_10",)), "architecture 'wrn32_10' cannot exist"),
        (lambda: make_study(seeds=(1, 1)), "seeds: expected distinct integers ≥ 0, got (1, 1)"),
        (lambda: make_study(seeds=()), "seeds: expected distinct integers ≥ 0, got ()"),
        (lambda: replace(RECIPE, schedule="step"), "Recipe schedule: expected StepLR or MultiStepLR or OneCycle or"),
        (lambda: replace(RECIPE, early_stopping=3), "Recipe early_stopping: expected EarlyStopping or None, got 3"),
        (lambda: PGD(steps=2, random_start="no"), "PGD random_start: expected bool, got 'no'"),
        (lambda: PGD(steps=2, box=("a", "b")), "PGD box: expected (float, float), got ('a', 'b')"),
        (lambda: PGD(steps=2, box=0.5), "PGD box: expected (float, float), got 0.5"),
        (lambda: Transfers(recipe=RECIPE, k=5), "Transfers k: expected a tuple of int or None, got 5"),
        (lambda: Transfers(recipe=RECIPE, k=()), "transfers k: expected None for every k, or at least one, got ()"),
        (lambda: Transfers(recipe=RECIPE, head="mlp4"), "unknown head 'mlp4'"),
        (lambda: make_study(quick=3), "Study quick: expected Quick, got 3"),
        (lambda: make_study(estimate=None), "Study estimate: expected Estimate, got None"),
        (lambda: make_study(transfers=Transfers(recipe=RECIPE)), "Study transfers: expected a tuple of Transfers, got"),
        (lambda: make_study(source=3), "Study source: expected Dataset or a text, got 3"),
        (lambda: make_study(standard=None), "Study standard: expected Recipe or a mapping to Recipe, got None"),
        (lambda: make_study(seeds=(-1,)), "seeds: expected an integer ≥ 0, got -1"),
        (lambda: make_study(protocol="thesis"), "study protocol: expected 'sound' in a declaration"),
        (lambda: Dataset(name="x", seed=-1), "dataset seed: expected an integer ≥ 0, got -1"),
        (lambda: Dataset(name="x", mean=(0.5, 0.5), std=(0.5,)), "dataset mean and std: expected as many values"),
        (lambda: make_study(protocol="thsis"), "unknown protocol 'thsis'; expected one of sound, thesis (did you mean"),
        (
            lambda: make_study(architectures=("cnn3", "cnn4"), source_checkpoint=Checkpoint(path="a.safetensors")),
            "source_checkpoint: expected one architecture beside a source checkpoint, got ('cnn3', 'cnn4')",
        ),
        (
            lambda: make_study(adversarial={"cnn4": RECIPE}),
            "unknown recipe for architecture 'cnn7'; expected one of cnn4",
        ),
        (lambda: make_study(transfers=(Transfers(recipe=RECIPE, k=(8,)),)), "k: expected 1…7 for cnn7, got 8"),
        (
            lambda: make_study(transfers=(Transfers(recipe=RECIPE, architectures=("cnn",)),)),
            "unknown architecture of a transfer 'cnn'; expected one of cnn7 (did you mean 'cnn7'?)",
        ),
        (
            lambda: make_study(source=Dataset(name="mnist", train=10), target=Dataset(name="mnist", train=20)),
            "source and target: expected two names, or one Dataset for both, got 'mnist'",
        ),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)
def test_what_cannot_run_is_refused(build, message):
    """Every message names the field, the expectation and the value."""
    with pytest.raises(RobbenchError) as caught:
        build()
    assert str(caught.value).startswith(message)


def test_an_attack_that_cannot_reach_its_radius_warns():
    """Four steps of 0.01 end at 0.04; ten reach 0.1."""
    with pytest.warns(UserWarning, match=r"4 steps of 0\.01 cannot reach the radius 0\.1"):
        PGD(steps=4, step_size=0.01, epsilon=0.1)
    PGD(steps=10, step_size=0.01, epsilon=0.1)


def test_an_unreadable_checkpoint_is_named(tmp_path):
    """When its digest is needed, not before."""
    missing = Checkpoint(path=str(tmp_path / "none.safetensors"))
    with pytest.raises(RobbenchError, match=r"checkpoint '.*none\.safetensors' cannot be read: No such file"):
        _ = missing.sha256


@pytest.mark.parametrize(
    ("seed", "expected"), [(-1, "≥ 0"), ("x", "≥ 0"), (1.5, "≥ 0"), (True, "≥ 0"), (2**63, "below 2**63")]
)
@pytest.mark.parametrize(
    ("field", "build"),
    [
        ("dataset seed", lambda seed: replace(MNIST, seed=seed)),
        ("model seed", lambda seed: replace(TARGET, seed=seed)),
        ("audit seed", lambda seed: Audit(seed=seed)),
        ("estimate seed", lambda seed: replace(ESTIMATE, seed=seed)),
    ],
)
def test_a_seed_is_one_that_every_generator_takes(field, build, seed, expected):
    """Wherever a spec has one."""
    with pytest.raises(RobbenchError) as caught:
        build(seed)
    assert str(caught.value) == f"{field}: expected an integer {expected}, got {seed!r}"
    assert build(2**63 - 1).seed == 2**63 - 1


def test_names_that_no_file_can_have_are_refused():
    """The study's, and the study's with a model's, which name baselines and figures."""
    with pytest.raises(RobbenchError, match="study name: expected at most 100 bytes, as it names files, got 101"):
        make_study(name="x" * 101)
    network = "package.networks:" + "f" * 100
    transfers = (Transfers(recipe=STANDARD, k=(1,)),)
    with pytest.raises(RobbenchError, match=r"study name and model: expected at most 200 bytes together"):
        make_study(name="x" * 60, target="y" * 60, architectures=(network,), transfers=transfers)
    assert make_study(name="x" * 40, target="y" * 20, architectures=(network,), transfers=transfers).models()


@pytest.mark.parametrize(
    "changes",
    [{"grid": {"step": 1e-300}}, {"grid": {"stop": 1e308}}, {"seed": 2**70}, {"attack": {"steps": 10**30}}],
)
def test_what_a_record_says_is_checked_as_well(changes):
    """One error, before any value of the grid is made."""
    described = describe(ESTIMATE)
    for name, value in changes.items():
        described[name] = described[name] | value if isinstance(value, dict) else value
    with pytest.raises(RobbenchError, match="expected"):
        read_spec(described)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 0}, "audit images: expected an integer ≥ 1, got 0"),
        ({"share": 0.0}, "audit share: expected a share in (0, 1], got 0.0"),
        ({"radii": 1}, "audit radii: expected an integer ≥ 2 (below and above p*), got 1"),
        ({"square_queries": -1}, "audit square_queries: expected an integer ≥ 0, got -1"),
    ],
)
def test_an_audit_that_could_show_nothing_is_refused(changes, message):
    """When it is written down."""
    with pytest.raises(RobbenchError) as caught:
        Audit(**changes)
    assert str(caught.value) == message
