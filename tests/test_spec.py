"""Specs: what is refused and in which words, what a study declares, and what a digest depends on."""

import hashlib
import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robbench import recipes
from robbench.errors import RobbenchError
from robbench.recipes import with_protocol
from robbench.spec import (
    PGD,
    Audit,
    Checkpoint,
    Dataset,
    EarlyStopping,
    EpsilonGrid,
    Estimate,
    Model,
    MultiStepLR,
    OneCycle,
    Quick,
    Recipe,
    StepLR,
    Study,
    Transfer,
    Transfers,
    describe,
    differences,
    digest_of,
    read_spec,
)
from robbench.suites import read_studies

RECIPE = Recipe(
    optimiser="sgd",
    learning_rate=0.1,
    weight_decay=0.0,
    batch_size=8,
    epochs=3,
    attack=PGD(epsilon=0.2, step_size=0.1, steps=4),
)
STANDARD = replace(RECIPE, attack=None)
ESTIMATE = Estimate(grid=EpsilonGrid(stop=0.2, step=0.1), attack=PGD(steps=2, random_start=False))
FINAL_TEST = (
    PGD(epsilon=0.1, steps=1, random_start=False),
    PGD(epsilon=0.1, steps=40, step_size=0.01, random_start=False),
)
MNIST = Dataset(name="mnist")
SOURCE = Model(architecture="cnn7", dataset=MNIST, recipe=RECIPE)
TARGET = Model(
    architecture="cnn7", dataset=Dataset(name="emnist"), recipe=RECIPE, transfer=Transfer(k=3), source=SOURCE
)


def make_study(**changes):
    """A small cnn7 study from MNIST to EMNIST."""
    values = {
        "name": "demo",
        "source": "mnist",
        "target": "emnist",
        "architectures": ("cnn7",),
        "standard": STANDARD,
        "adversarial": RECIPE,
        "transfers": (Transfers(recipe=STANDARD),),
        "estimate": ESTIMATE,
    }
    return Study(**(values | changes))


def recipe(**changes):
    """A valid recipe but for the changes."""
    return replace(RECIPE, **changes)


# --- what is refused --------------------------------------------------------------------------------------------------


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
        (lambda: Dataset(name="x", mean=(0.5,), std=(0.0,)), "dataset std: expected a number > 0, got 0.0"),
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
        (lambda: PGD(steps=1, box=(1.0, 1.0)), "PGD box: expected (low, high) with low < high, got (1.0, 1.0)"),
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
        (lambda: recipe(learning_rate=0), "learning_rate: expected a number > 0, got 0"),
        (lambda: recipe(learning_rate=float("nan")), "learning_rate: expected a number > 0, got nan"),
        (lambda: recipe(weight_decay=-1e-4), "weight_decay: expected a number ≥ 0, got -0.0001"),
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
        (lambda: recipe(checkpoint="best"), "unknown checkpoint 'best'; expected one of clean, last, robust"),
        (lambda: recipe(precision="fp16"), "unknown precision 'fp16'; expected one of bf16, float32"),
        (lambda: Transfer(k=0), "k: expected an integer ≥ 1, got 0"),
        (lambda: Transfer(k=1, head="mlp4"), "unknown head 'mlp4'; expected one of linear, mlp1, mlp2, mlp3"),
        (lambda: Transfer(k=1, kept="thawed"), "unknown kept 'thawed'; expected one of finetuned, frozen"),
        (lambda: Transfer(k=1, kept_scale=0), "kept_scale: expected a factor in (0, 1], got 0"),
        (lambda: Transfer(k=1, kept_statistics="off"), "unknown kept_statistics 'off'; expected one of eval, train"),
        (lambda: Checkpoint(path="weights.pt"), "checkpoint path: expected a .safetensors file"),
        (lambda: EpsilonGrid(stop=0.1, step=0), "grid step: expected a step > 0 in pixel units, got 0"),
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
        (lambda: make_study(seeds=(-1,)), "seeds: expected distinct integers ≥ 0, got (-1,)"),
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


# --- datasets and grids -----------------------------------------------------------------------------------------------


def test_a_known_dataset_brings_its_statistics():
    """A dataset of one's own brings none, and own statistics win."""
    cifar = Dataset(name="cifar10")
    assert (cifar.augmentation, cifar.mean, cifar.std) == (
        "crop-flip",
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    )
    own = Dataset(name="mine")
    assert (own.augmentation, own.mean, own.std) == ("none", None, None)
    changed = Dataset(name="cifar10", augmentation="none", mean=(0.5,) * 3, std=(0.25,) * 3)
    assert (changed.augmentation, changed.mean, changed.std) == ("none", (0.5,) * 3, (0.25,) * 3)


def test_the_studys_grids():
    """161 radii up to 0.8 for MNIST, 110 up to 0.109 (below 28/256) for CIFAR, each the float that its decimal is."""
    mnist, cifar = recipes.MNIST_ESTIMATE.grid.values, recipes.CIFAR_ESTIMATE.grid.values
    assert mnist == tuple(float(f"{5 * i / 1000:.3f}") for i in range(161))
    assert cifar == tuple(float(f"{i / 1000:.3f}") for i in range(110))
    assert (mnist[0], mnist[-1], cifar[0], cifar[-1]) == (0.0, 0.8, 0.0, 0.109)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 100), st.sampled_from([10, 100, 1000, 10_000]))
def test_a_grid_has_a_radius_for_every_whole_step(count, units, scale):
    """From 0 to the last multiple of the step that is no larger than ``stop``, without dust of floating point."""
    step, stop = units / scale, count * units / scale
    values = EpsilonGrid(stop=stop, step=step).values
    assert values == tuple(float(f"{i * units / scale:.4f}") for i in range(count + 1))
    assert EpsilonGrid(stop=stop + 0.6 * step, step=step).values == values


# --- models of a study ------------------------------------------------------------------------------------------------


def test_ids_say_what_a_model_is():
    """Only what differs from the usual is spelled out."""

    def transferred(k, recipe=STANDARD, source=None, **options):
        source = source or replace(SOURCE, architecture="resnet34", dataset=Dataset(name="cifar10"))
        return Model(
            architecture="resnet34",
            dataset=Dataset(name="cifar100"),
            recipe=recipe,
            transfer=Transfer(k=k, **options),
            source=source,
        ).id

    standard = Model(architecture="resnet34", dataset=Dataset(name="cifar10"), recipe=STANDARD)
    assert SOURCE.id == str(SOURCE) == "cnn7-mnist-pgd"
    assert replace(SOURCE, recipe=STANDARD).id == "cnn7-mnist-standard"
    assert replace(SOURCE, seed=1).id == "cnn7-mnist-pgd-seed1"
    assert replace(TARGET, recipe=STANDARD).id == "cnn7-emnist-TL3"
    assert TARGET.id == "cnn7-emnist-TL3-adversarial"
    assert transferred(2, head="mlp3") == "resnet34-cifar100-TL2-mlp3"
    assert transferred(2, kept="finetuned") == "resnet34-cifar100-TL2-finetuned"
    assert transferred(2, source=standard) == "resnet34-cifar100-TL2-from-standard"
    assert (
        transferred(7, RECIPE, standard, head="mlp1", kept="finetuned")
        == "resnet34-cifar100-TL7-adversarial-mlp1-finetuned-from-standard"
    )
    checkpoint = Model(architecture="cnn7", dataset=MNIST, checkpoint=Checkpoint(path="w.safetensors"))
    assert checkpoint.id == "cnn7-mnist-checkpoint"
    own = Model(architecture="timm:hf_hub/vit", dataset=MNIST, recipe=STANDARD)
    assert own.id == "hf_hub_vit-mnist-standard"
    assert replace(own, architecture="my.nets:tiny").id == "my.nets.tiny-mnist-standard"


def test_models_come_after_what_they_are_transferred_from():
    """Every architecture and seed: two from scratch on each dataset, then its transfers; ids are unique."""
    study = make_study(
        architectures=("cnn3", "cnn7"),
        transfers=(Transfers(recipe=STANDARD), Transfers(recipe=RECIPE, architectures=("cnn7",), k=(2, 5))),
        seeds=(0, 3),
    )
    models = study.models()
    ids = [model.id for model in models]
    assert ids[:7] == [
        "cnn3-mnist-standard",
        "cnn3-emnist-standard",
        "cnn3-mnist-pgd",
        "cnn3-emnist-pgd",
        "cnn3-emnist-TL1",
        "cnn3-emnist-TL2",
        "cnn3-emnist-TL3",
    ]
    assert len(ids) == len(set(ids)) == 2 * (4 + 3 + 4 + 7 + 2)
    assert sum(name.endswith("-seed3") for name in ids) == len(ids) // 2
    for place, model in enumerate(models):
        if model.source is not None:
            assert model.source in models[:place]
            assert (model.source.seed, model.source.method) == (model.seed, "pgd")


def test_a_recipe_may_differ_by_architecture():
    """And a transfer may start from the conventionally trained model."""
    other = replace(STANDARD, epochs=9)
    study = make_study(
        architectures=("cnn3", "cnn4"),
        standard={"cnn3": STANDARD, "cnn4": other},
        transfers=(Transfers(recipe={"cnn3": STANDARD, "cnn4": other}, k=(1,), source="standard"),),
    )
    epochs = {model.id: model.recipe.epochs for model in study.models()}
    assert epochs["cnn3-mnist-standard"] == epochs["cnn3-emnist-TL1-from-standard"] == 3
    assert epochs["cnn4-mnist-standard"] == epochs["cnn4-emnist-TL1-from-standard"] == 9


def test_tl2_of_a_resnet_is_left_out_with_a_note():
    """Its avg_pool has no parameters; the thesis protocol trains it all the same and has no note."""
    study = make_study(source="cifar10", target="cifar100", architectures=("resnet18",))
    assert [model.transfer.k for model in study.models() if model.transfer] == [1, 3, 4, 5, 6, 7]
    assert study.notes() == (
        "resnet18: block 'avg_pool' has no parameters, so TL#2 is TL#1 over again and is not trained twice",
    )
    thesis = with_protocol(study, "thesis")
    assert [model.transfer.k for model in thesis.models() if model.transfer] == [1, 2, 3, 4, 5, 6, 7]
    assert thesis.notes() == make_study().notes() == ()


def test_a_timm_network_needs_its_k_spelled_out():
    """Only the built network knows its blocks; the message names the command that prints them."""
    with pytest.raises(
        RobbenchError, match=r"transfers of 'timm:resnet26': expected k=\(1, 2, …\).*robbench list timm"
    ):
        make_study(architectures=("timm:resnet26",))
    study = make_study(architectures=("timm:resnet26",), transfers=(Transfers(recipe=STANDARD, k=(2, 1)),))
    assert [model.id for model in study.models()][-2:] == ["resnet26-emnist-TL2", "resnet26-emnist-TL1"]


def test_a_model_declared_twice_is_refused():
    """By its id, since that names its files."""
    with pytest.raises(RobbenchError) as caught:
        make_study(transfers=(Transfers(recipe=STANDARD, k=(1, 2)), Transfers(recipe=STANDARD, k=(2,))))
    assert str(caught.value) == "study 'demo': expected every model declared once, got 'cnn7-emnist-TL2'"


def test_a_checkpoint_takes_the_place_of_the_source_model(tmp_path):
    """Transfers start from it, and its bytes are part of their digest, wherever the file lies."""
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / f"{name}.safetensors").write_bytes(data)

    def last(name):
        checkpoint = Checkpoint(path=tmp_path / f"{name}.safetensors")
        study = make_study(source_checkpoint=checkpoint, transfers=(Transfers(recipe=STANDARD, k=(1,)),))
        assert [model.id for model in study.models()] == [
            "cnn7-mnist-standard",
            "cnn7-emnist-standard",
            "cnn7-mnist-checkpoint",
            "cnn7-emnist-pgd",
            "cnn7-emnist-TL1",
        ]
        assert checkpoint.sha256 == hashlib.sha256((tmp_path / f"{name}.safetensors").read_bytes()).hexdigest()
        return study.models()[-1]

    assert last("a").source.method == "checkpoint"
    assert last("a").digest == last("b").digest != last("c").digest


def test_quick_shrinks_sizes_and_nothing_else():
    """Fewer images, epochs, steps; radius, grid, optimiser and models stay."""
    study = make_study(
        source=Dataset(name="mnist", train=100),
        adversarial=replace(
            RECIPE, batch_size=256, epochs=30, ramp_epochs=3, validation_attack=PGD(epsilon=0.2, steps=9)
        ),
        quick=Quick(train=128, test=32, epochs=1, attack_steps=3, images=16),
    )
    small = study.shrunk()
    assert [model.id for model in small.models()] == [model.id for model in study.models()]
    assert (small.name, small.source.train, small.source.test) == ("demo-quick", 100, 32)
    assert (small.target.train, small.target.test) == (128, 32)
    assert (small.estimate.images, small.estimate.attack.steps, small.estimate.grid) == (16, 2, study.estimate.grid)
    assert small.standard == replace(STANDARD, epochs=1)
    assert small.adversarial == replace(
        RECIPE,
        batch_size=32,
        epochs=1,
        ramp_epochs=0.5,
        attack=PGD(epsilon=0.2, steps=3),
        validation_attack=PGD(epsilon=0.2, steps=3),
    )
    assert {model.digest for model in small.models()}.isdisjoint({model.digest for model in study.models()})


# --- digests ----------------------------------------------------------------------------------------------------------

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
        "checkpoint": "last",
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


def test_quick_asks_square_little():
    """A dozen queries at most, where it is asked at all."""
    for queries, quick in ((0, 0), (5_000, 12)):
        study = make_study(estimate=replace(ESTIMATE, audit=Audit(square_queries=queries)))
        assert study.shrunk().estimate.audit == Audit(square_queries=quick)
    assert make_study(estimate=replace(ESTIMATE, audit=None)).shrunk().estimate.audit is None


def test_quick_shrinks_the_final_test():
    """No attack takes more steps than the quick scale's, and none comes twice."""
    study = make_study(estimate=replace(ESTIMATE, final_test=FINAL_TEST), quick=Quick(attack_steps=2))
    assert study.shrunk().estimate.final_test == (FINAL_TEST[0], replace(FINAL_TEST[1], steps=2, step_size=None))
    once = replace(study, quick=Quick(attack_steps=1))
    assert once.shrunk().estimate.final_test == FINAL_TEST[:1]


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


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "suites").glob("test_*.py")), ids=lambda p: p.stem)
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


def test_the_digest_follows_the_code_of_an_own_network(tmp_path, monkeypatch):
    """Weights that another version of the function was trained to are not its weights."""
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for body in ("relu", "tanh"):
        (tmp_path / "own_nets.py").write_text(body)
        model = Model(architecture="own_nets:make", dataset=Dataset(name="mnist"), recipe=RECIPE)
        digests.add(model.digest)
    assert len(digests) == 2
