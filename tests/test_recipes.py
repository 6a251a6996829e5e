"""Tables A.1 to A.9 figure by figure, and what the thesis protocol changes."""

from dataclasses import fields, replace

import pytest

from robbench import recipes
from robbench.errors import RobbenchError
from robbench.recipes import with_protocol
from robbench.spec import PGD, EarlyStopping, EpsilonGrid, Estimate, MultiStepLR, Recipe, StepLR, Study, Transfers

MNIST_ADVERSARY = PGD(epsilon=0.3, step_size=0.01, steps=40, random_start=True, box=(0.0, 1.0))
CIFAR_ADVERSARY = PGD(epsilon=8 / 255, step_size=2 / 255, steps=7, random_start=True, box=(0.0, 1.0))
CIFAR_VALIDATION = PGD(epsilon=8 / 255, step_size=2 / 255, steps=20, random_start=True, box=(0.0, 1.0))


def mnist(epochs, **changes):
    """What tables A.1 to A.3 share, and section 5.2 adds."""
    return Recipe(
        optimiser="adam",
        learning_rate=0.001,
        weight_decay=0.0001,
        batch_size=256,
        epochs=epochs,
        schedule=StepLR(step=10, gamma=0.98),
        clip_norm=1.0,
        **changes,
    )


def cifar(batch_size, epochs, **changes):
    """What tables A.4 to A.7 share, and section 5.2 adds."""
    return Recipe(
        optimiser="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0005,
        batch_size=batch_size,
        epochs=epochs,
        schedule=MultiStepLR(milestones=(60, 120, 160), gamma=0.2),
        clip_norm=1.0,
        **changes,
    )


FINAL_MNIST = (
    PGD(epsilon=0.1, steps=1, random_start=False),
    PGD(epsilon=0.2, steps=1, random_start=False),
    PGD(epsilon=0.3, steps=1, random_start=False),
    PGD(epsilon=0.1, step_size=0.01, steps=40, random_start=False),
    PGD(epsilon=0.2, step_size=0.01, steps=40, random_start=False),
    PGD(epsilon=0.3, step_size=0.01, steps=40, random_start=False),
)
FINAL_CIFAR = (
    PGD(epsilon=2 / 255, steps=1, random_start=False),
    PGD(epsilon=4 / 255, steps=1, random_start=False),
    PGD(epsilon=8 / 255, steps=1, random_start=False),
    PGD(epsilon=2 / 255, step_size=0.5 / 255, steps=20, random_start=False),
    PGD(epsilon=4 / 255, step_size=1 / 255, steps=20, random_start=False),
    PGD(epsilon=8 / 255, step_size=2 / 255, steps=20, random_start=False),
)
COUNTED = EarlyStopping(patience=6, window=1)
AVERAGED = EarlyStopping(patience=6, window=10)
ADVERSARIAL_CIFAR = {"attack": CIFAR_ADVERSARY, "validation_attack": CIFAR_VALIDATION}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MNIST_STANDARD", mnist(300, early_stopping=COUNTED)),
        ("MNIST_PGD", mnist(300, early_stopping=AVERAGED, attack=MNIST_ADVERSARY)),
        ("MNIST_RETRAINING_PGD", mnist(30, early_stopping=AVERAGED, attack=MNIST_ADVERSARY)),
        ("CIFAR_STANDARD", cifar(128, 200)),
        ("CIFAR_STANDARD_EARLY", cifar(128, 200, early_stopping=COUNTED)),
        ("CIFAR_PGD", cifar(128, 200, **ADVERSARIAL_CIFAR)),
        ("CIFAR_PGD_EARLY", cifar(128, 200, early_stopping=AVERAGED, **ADVERSARIAL_CIFAR)),
        ("CIFAR_RETRAINING", cifar(256, 200, early_stopping=COUNTED)),
        ("CIFAR_RETRAINING_PGD", cifar(256, 30, **ADVERSARIAL_CIFAR)),
        ("CIFAR_RETRAINING_PGD_RESNET34", cifar(256, 40, **ADVERSARIAL_CIFAR)),
        ("ADA_VERONA", PGD(steps=40, random_start=False)),
        (
            "MNIST_ESTIMATE",
            Estimate(
                grid=EpsilonGrid(stop=0.8, step=0.005),
                attack=PGD(steps=40, random_start=False),
                images=10_000,
                final_test=FINAL_MNIST,
            ),
        ),
        (
            "CIFAR_ESTIMATE",
            Estimate(
                grid=EpsilonGrid(stop=28 / 256, step=0.001),
                attack=PGD(steps=40, random_start=False),
                images=10_000,
                final_test=FINAL_CIFAR,
            ),
        ),
    ],
)
def test_a_recipe_is_the_tables(name, expected):
    """Every figure, written out a second time here."""
    assert getattr(recipes, name) == expected


def test_recipes_are_sound_unless_asked_otherwise():
    """Batch statistics, checkpoints by robust accuracy, float32, valid pixels."""
    for value in vars(recipes).values():
        if isinstance(value, Recipe):
            assert (value.statistics, value.checkpoint, value.precision) == ("batch", "robust", "float32")
            assert all(attack is None or attack.box == (0, 1) for attack in (value.attack, value.validation_attack))


STUDY = Study(
    name="demo",
    source="mnist",
    target="emnist",
    architectures=("cnn7",),
    standard={"cnn7": recipes.MNIST_STANDARD},
    adversarial=recipes.CIFAR_PGD,
    transfers=(
        Transfers(recipe=recipes.MNIST_STANDARD, k=(1, 2)),
        Transfers(recipe=recipes.MNIST_RETRAINING_PGD, k=(3,), head="mlp1"),
    ),
    estimate=recipes.MNIST_ESTIMATE,
)


def changes(old, new):
    """Names of the fields that differ."""
    return {field.name for field in fields(old) if getattr(old, field.name) != getattr(new, field.name)}


def test_the_thesis_protocol_sets_exactly_the_documented_fields():
    """Orientation and split; statistics, checkpoint and box; mode of the frozen blocks; and nothing else."""
    thesis = with_protocol(STUDY, "thesis")
    assert (thesis.name, thesis.protocol) == ("demo-thesis", "thesis")
    assert changes(STUDY, thesis) == {"name", "source", "target", "standard", "adversarial", "transfers", "protocol"}
    for old, new in ((STUDY.source, thesis.source), (STUDY.target, thesis.target)):
        turned = "stored" if old.name == "emnist" else "upright"
        assert new == replace(old, orientation=turned, split="overlapping")
    assert thesis.standard == {"cnn7": replace(recipes.MNIST_STANDARD, checkpoint="clean")}
    assert thesis.adversarial == replace(
        recipes.CIFAR_PGD,
        statistics="running",
        checkpoint="clean",
        attack=replace(CIFAR_ADVERSARY, box=(-2.5, 2.5)),
        validation_attack=replace(CIFAR_VALIDATION, box=(-2.5, 2.5)),
    )
    assert thesis.transfers == (
        replace(
            STUDY.transfers[0],
            kept_statistics="train",
            kept_scale=0.001,
            recipe=replace(recipes.MNIST_STANDARD, checkpoint="clean"),
        ),
        replace(
            STUDY.transfers[1],
            kept_statistics="train",
            kept_scale=0.001,
            recipe=replace(
                recipes.MNIST_RETRAINING_PGD,
                statistics="running",
                checkpoint="clean",
                attack=replace(MNIST_ADVERSARY, box=(-2.5, 2.5)),
            ),
        ),
    )


def test_every_model_of_the_thesis_protocol_has_weights_of_its_own():
    """No digest of one protocol is one of the other's."""
    thesis = with_protocol(STUDY, "thesis")
    assert [model.id for model in thesis.models()] == [model.id for model in STUDY.models()]
    assert {model.digest for model in thesis.models()}.isdisjoint({model.digest for model in STUDY.models()})


def test_a_thesis_study_cannot_be_relabelled_sound():
    """Its fields hold the thesis's values, and nothing says what the sound ones were."""
    with pytest.raises(RobbenchError, match="study 'demo-thesis': expected a study declared as sound"):
        with_protocol(with_protocol(STUDY, "thesis"), "sound")


def test_the_protocol_a_study_has_changes_nothing():
    """Sound stays as declared, and thesis twice is thesis once."""
    assert with_protocol(STUDY, "sound") == STUDY
    thesis = with_protocol(STUDY, "thesis")
    assert with_protocol(thesis, "thesis") == thesis
