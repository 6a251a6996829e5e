"""Tables A.1 to A.9 figure by figure, and what the thesis protocol changes."""

from dataclasses import replace

import pytest

from robbench import recipes
from robbench.errors import RobbenchError
from robbench.spec import (
    EFFECTS,
    PGD,
    PROTOCOL_FIELDS,
    EarlyStopping,
    EpsilonGrid,
    Estimate,
    MultiStepLR,
    Recipe,
    StepLR,
    Study,
    Transfers,
    describe,
    differences,
)
from robbench.spec.recipes import with_protocol

MNIST_ADVERSARY = PGD(epsilon=0.3, step_size=0.01, steps=40)
CIFAR_ADVERSARY = PGD(epsilon=8 / 255, step_size=2 / 255, steps=7)
CIFAR_VALIDATION = PGD(epsilon=8 / 255, step_size=2 / 255, steps=20)


def mnist(epochs, window, **changes):
    """What tables A.1 to A.3 share, and section 5.2 adds."""
    return Recipe(
        optimiser="adam",
        learning_rate=0.001,
        weight_decay=0.0001,
        batch_size=256,
        epochs=epochs,
        schedule=StepLR(step=10, gamma=0.98),
        clip_norm=1.0,
        early_stopping=EarlyStopping(patience=6, window=window),
        **changes,
    )


def cifar(batch_size, epochs, window=None, **changes):
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
        early_stopping=window and EarlyStopping(patience=6, window=window),
        **changes,
    )


def final_test(fgsm, pgd):
    """Attacks of the final testing: (epsilon) of FGSM, (epsilon, step size, steps) of PGD."""
    return (
        *(PGD(epsilon=epsilon, steps=1, random_start=False) for epsilon in fgsm),
        *(PGD(epsilon=epsilon, step_size=size, steps=steps, random_start=False) for epsilon, size, steps in pgd),
    )


FINAL_MNIST = final_test((0.1, 0.2, 0.3), ((0.1, 0.01, 40), (0.2, 0.01, 40), (0.3, 0.01, 40)))
FINAL_CIFAR = final_test(
    (2 / 255, 4 / 255, 8 / 255), ((2 / 255, 0.5 / 255, 20), (4 / 255, 1 / 255, 20), (8 / 255, 2 / 255, 20))
)
ADVERSARIAL = {"attack": CIFAR_ADVERSARY, "validation_attack": CIFAR_VALIDATION}
ORACLE = PGD(steps=40, random_start=False)

TABLES = {
    "MNIST_STANDARD": mnist(300, 1),
    "MNIST_PGD": mnist(300, 10, attack=MNIST_ADVERSARY),
    "MNIST_RETRAINING_PGD": mnist(30, 10, attack=MNIST_ADVERSARY),
    "CIFAR_STANDARD": cifar(128, 200),
    "CIFAR_STANDARD_EARLY": cifar(128, 200, 1),
    "CIFAR_PGD": cifar(128, 200, **ADVERSARIAL),
    "CIFAR_PGD_EARLY": cifar(128, 200, 10, **ADVERSARIAL),
    "CIFAR_RETRAINING": cifar(256, 200, 1),
    "CIFAR_RETRAINING_PGD": cifar(256, 30, **ADVERSARIAL),
    "CIFAR_RETRAINING_PGD_RESNET34": cifar(256, 40, **ADVERSARIAL),
    "ADA_VERONA": ORACLE,
    "MNIST_ESTIMATE": Estimate(grid=EpsilonGrid(stop=0.8, step=0.005), attack=ORACLE, final_test=FINAL_MNIST),
    "CIFAR_ESTIMATE": Estimate(grid=EpsilonGrid(stop=28 / 256, step=0.001), attack=ORACLE, final_test=FINAL_CIFAR),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_recipe_is_the_tables(name):
    """Every figure, written out a second time here."""
    assert getattr(recipes, name) == TABLES[name]


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
        Transfers(recipe=recipes.MNIST_STANDARD, k=(3,), kept="finetuned"),
    ),
    estimate=recipes.MNIST_ESTIMATE,
)


CIFAR = Study(
    name="cifar",
    source="cifar10",
    target="cifar100",
    architectures=("resnet34",),
    standard=recipes.CIFAR_STANDARD,
    adversarial=recipes.CIFAR_PGD,
    transfers=(
        Transfers(recipe=recipes.CIFAR_RETRAINING, k=(1,)),
        Transfers(recipe={"resnet34": recipes.CIFAR_RETRAINING_PGD_RESNET34}, k=(3,)),
    ),
    estimate=recipes.CIFAR_ESTIMATE,
)


def changes(old, new):
    """Where the models and estimates of two studies differ, by id of the old model, or ``estimate``."""
    pairs = [(model.id, model, other) for model, other in zip(old.models(), new.models(), strict=True)]
    pairs.append(("estimate", old.estimate, new.estimate))
    return {name: lines for name, a, b in pairs if (lines := differences(describe(a), describe(b)))}


def changed_fields(old, new):
    """Names of the fields in which two studies differ."""
    return named(line for lines in changes(old, new).values() for line in lines)


def named(lines):
    """Names of the fields of such differences, without what they are fields of."""
    return {line.partition(":")[0].rpartition(".")[2] for line in lines}


def test_the_thesis_protocol_sets_exactly_the_documented_fields():
    """All of them, and nothing else but the study's name; every one has an effect that is written down."""
    ours, cifars = (with_protocol(study, "thesis") for study in (STUDY, CIFAR))
    everywhere = {"statistics", "kept_statistics", "box", "kept_epoch", "final_test", "search"}
    assert changed_fields(STUDY, ours) == everywhere | {"orientation", "kept_scale", "epochs", "stop"}
    assert changed_fields(CIFAR, cifars) == everywhere | {"split", "kept", "batch_size"}
    assert set(PROTOCOL_FIELDS) == set(EFFECTS)
    assert (ours.name, ours.seeds, ours.estimate.search) == ("demo-thesis", STUDY.seeds, "reference")


def test_a_thesis_study_cannot_be_relabelled_sound():
    """Nothing says what the sound values of its fields were; the protocol that it has changes nothing."""
    thesis = with_protocol(STUDY, "thesis")
    with pytest.raises(RobbenchError, match="study 'demo-thesis': expected a study declared as sound"):
        with_protocol(thesis, "sound")
    assert with_protocol(thesis, "thesis") is thesis


@pytest.mark.parametrize(
    ("study", "field", "name", "change"),
    [
        (STUDY, "statistics", "cnn7-mnist-pgd", ['recipe.statistics: "batch" → "running"']),
        (STUDY, "kept_statistics", "cnn7-emnist-TL1", ['transfer.kept_statistics: "eval" → "train"']),
        (CIFAR, "split", "resnet34-cifar10-standard", ['dataset.split: "disjoint" → "overlapping"']),
        (STUDY, "orientation", "cnn7-emnist-standard", ['dataset.orientation: "upright" → "stored"']),
        (STUDY, "box", "cnn7-emnist-pgd", ["recipe.attack.box: [0.0, 1.0] → [-2.5, 2.5]"]),
        (STUDY, "kept_epoch", "cnn7-mnist-pgd", ['recipe.kept_epoch: "robust" → "clean"']),
        (STUDY, "kept_scale", "cnn7-emnist-TL3-finetuned", ["transfer.kept_scale: 0.01 → 0.001"]),
        (
            CIFAR,
            "kept",
            "resnet34-cifar100-TL3-adversarial",
            ["recipe.batch_size: 256 → 128", 'transfer.kept: "frozen" → "warm"'],
        ),
        (STUDY, "epochs", "cnn7-emnist-TL3-adversarial-mlp1", ["recipe.epochs: 30 → 20"]),
        (CIFAR, "oracle_box", "estimate", ["attack.box: [0.0, 1.0] → [-0.13, 1.11]"]),
        (STUDY, "grid", "estimate", ["grid.stop: 0.8 → 0.795"]),
    ],
)
def test_each_departure_of_the_published_code_is_a_field_of_its_own(study, field, name, change):
    """Switched on alone, it changes that and nothing else of models or estimate; the whole protocol does, too."""
    alone = study.with_thesis((field,))
    assert changed_fields(study, alone) == named(change)
    for other in (alone, with_protocol(study, "thesis")):
        assert set(change) <= set(changes(study, other)[name])


def test_the_thesis_tests_from_a_random_start():
    """PGD only: FGSM starts at the image. The search's attack does, too."""
    (lines,) = changes(STUDY, STUDY.with_thesis(("random_start",))).items()
    estimate = STUDY.with_thesis(("random_start",)).estimate
    assert lines[0] == "estimate"
    assert [attack.random_start for attack in estimate.final_test] == [False] * 3 + [True] * 3
    assert estimate.attack == STUDY.estimate.attack


def test_what_the_texts_and_the_published_code_agree_on_stays():
    """MNIST's split is disjoint and its retraining freezes; CIFAR's grid ends at 0.109; ResNet-34 has its 40 epochs."""
    assert not changes(STUDY, STUDY.with_thesis(("split", "kept", "oracle_box")))
    assert not changes(CIFAR, CIFAR.with_thesis(("epochs", "grid", "orientation")))
    assert CIFAR.estimate.grid.values[-1] == 0.109


def test_a_study_of_both_keeps_what_it_froze():
    """Declared side by side, frozen and warm retraining stay two models under the thesis protocol."""
    both = replace(CIFAR, transfers=(*CIFAR.transfers, replace(CIFAR.transfers[1], kept="warm")))
    frozen, warm = (model.id for model in with_protocol(both, "thesis").models()[-2:])
    assert (frozen, warm) == ("resnet34-cifar100-TL3-adversarial", "resnet34-cifar100-TL3-adversarial-warm")


def test_the_thesis_leaves_alone_what_a_field_cannot_change():
    """Conventional training has no attack, and its best epoch is by clean accuracy; fine-tuned blocks have no frozen mode."""
    thesis = STUDY.with_thesis(("statistics", "box", "kept_epoch", "kept_statistics"))
    assert thesis.standard == STUDY.standard
    assert thesis.transfers[2] == STUDY.transfers[2]
    last = replace(recipes.MNIST_STANDARD, kept_epoch="last")
    assert replace(STUDY, standard=last).with_thesis(("kept_epoch",)).standard == replace(last, kept_epoch="clean")


def ablated(*names):
    """The study with these fields ablated; ids of the variants, and all models by id."""
    study = replace(STUDY, ablate=names)
    return [model.id for model in study.models() if model.variant], {model.id: model for model in study.models()}


def test_an_ablation_adds_the_models_that_a_field_changes():
    """The declared ones come first and stay; a model that the field does not change is not run twice."""
    names, models = ablated("statistics", "orientation")
    assert list(models)[: len(STUDY.models())] == [model.id for model in STUDY.models()]
    transfers = ["emnist-TL1", "emnist-TL2", "emnist-TL3-adversarial-mlp1", "emnist-TL3-finetuned"]
    assert names == [
        *(f"cnn7-{name}-statistics" for name in ("mnist-pgd", "emnist-pgd", *transfers)),
        *(f"cnn7-{name}-orientation" for name in ("emnist-standard", "emnist-pgd", *transfers)),
    ]
    assert len({model.digest for model in models.values()}) == len(models)


def test_a_variants_transfer_refers_to_the_variants_source():
    """Where the field changes the source, to the changed one; else to the declared one."""
    _, models = ablated("statistics", "kept_statistics")
    assert models["cnn7-emnist-TL1-statistics"].source == models["cnn7-mnist-pgd-statistics"]
    assert models["cnn7-emnist-TL1-kept_statistics"].source == models["cnn7-mnist-pgd"]
    order = list(models)
    assert order.index("cnn7-mnist-pgd-statistics") < order.index("cnn7-emnist-TL1-statistics")
    alone = {model.id: model for model in STUDY.with_thesis(("statistics",)).models()}
    assert models["cnn7-emnist-TL1-statistics"].digest == alone["cnn7-emnist-TL1"].digest


def test_notes_say_what_each_variant_changes():
    """How many models, and what of them; or that there are none."""
    notes = replace(STUDY, ablate=("box", "kept_scale")).notes()
    assert notes[-2].startswith("variant 'box', as declared but for one field, 6 models: training attacks may leave")
    assert "1 models: fine-tuned kept blocks learn at 0.001" in notes[-1]
    thesis = with_protocol(replace(STUDY, ablate=("box",)), "thesis")
    assert "variant 'box', changes no model of this study" in thesis.notes()[-1]
    assert [model.variant for model in thesis.models()] == [None] * len(STUDY.models())
