"""Specs that cannot run are refused when they are built, in one sentence."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from specs import ESTIMATE, FINAL_TEST, MNIST, RECIPE, SOURCE, STANDARD, TARGET, make_study, recipe

from robbench.errors import RobbenchError
from robbench.spec import (
    ARD,
    MART,
    PGD,
    RSLAD,
    TRADES,
    TWINS,
    Also,
    Audit,
    Checkpoint,
    Dataset,
    Drift,
    Ensemble,
    EpsilonGrid,
    FromScratch,
    LwF,
    Model,
    MultiStepLR,
    Objective,
    StepLR,
    Transfer,
    Transfers,
    attack,
    describe,
    digest_of,
    read_spec,
)

ATTACK = PGD(steps=1, epsilon=0.1, random_start=False)
REFERENCE, FAST = (replace(ESTIMATE, search=search) for search in ("reference", "fast"))
OWN = Checkpoint(path="own.safetensors")

TYPES_AND_RANGES = [
    (lambda: PGD(steps=0), "PGD steps: expected an integer ≥ 1, got 0"),
    (lambda: PGD(steps=1, epsilon="8"), "PGD epsilon: expected a number > 0 in pixel units, got '8'"),
    (lambda: PGD(steps=1, box=(1.0, 1.0)), "PGD box: expected (low, high) with numbers low < high, got (1.0, 1.0)"),
    (lambda: recipe(learning_rate=float("nan")), "Recipe learning_rate: expected a number > 0, got nan"),
    (lambda: recipe(weight_decay=-1e-4), "Recipe weight_decay: expected a number ≥ 0, got -0.0001"),
    (lambda: recipe(momentum=1.0), "Recipe momentum: expected a number ≥ 0 and < 1, got 1.0"),
    (
        lambda: recipe(schedule="step"),
        "Recipe schedule: expected an instance of StepLR or an instance of MultiStepLR or an instance of OneCycle, got",
    ),
    (lambda: Dataset(name="../mnist"), "Dataset name: expected a plain name such as 'mnist', got '../mnist'"),
    (lambda: Dataset(name="x", validation=1.0), "Dataset validation: expected a number > 0 and < 1, got 1.0"),
    (lambda: Dataset(name="x", seed=-1), "Dataset seed: expected an integer ≥ 0, got -1"),
    (lambda: StepLR(step=1, gamma=1.1), "StepLR gamma: expected a number > 0 and ≤ 1, got 1.1"),
    (
        lambda: MultiStepLR(milestones=(3, 2), gamma=0.5),
        "MultiStepLR milestones: expected a tuple of increasing epochs ≥ 1, got (3, 2)",
    ),
    (lambda: Audit(radii=1), "Audit radii: expected an integer ≥ 2 (one below p*, one above), got 1"),
    (lambda: make_study(name="a/b"), "Study name: expected letters, digits, '-' and '_' (it names folders), got 'a/b'"),
    (lambda: make_study(architectures=()), "Study architectures: expected a tuple of at least one name, got ()"),
    (lambda: make_study(seeds=()), "Study seeds: expected a tuple of integers ≥ 0, got ()"),
]
"""What pydantic checks, field by field."""

CHOICES = [
    (lambda: recipe(optimiser="adm"), "unknown optimiser 'adm'; expected one of adam, sgd (did you mean 'adam'?)"),
    (
        lambda: replace(ESTIMATE, search="fats"),
        "unknown search 'fats'; expected one of fast, reference, thorough (did you",
    ),
    (
        lambda: PGD(stepz=1, steps=1),
        "unknown field of PGD 'stepz'; expected one of box, epsilon, random_start, step_size, steps (did you mean 'steps'",
    ),
    (lambda: PGD(step=3), "unknown field of PGD 'step'; expected one of "),
    (lambda: PGD(epsilon=0.1), "PGD steps: expected a value, none was given"),
    (lambda: Dataset("mnist"), "Dataset: expected every value by its name (name=…), got 'mnist' without"),
    (lambda: Checkpoint("w.pt", 0), "Checkpoint: expected every value by its name (mean=…), got 0 without"),
]

SIDE = "Dataset size: expected the side in pixels that pictures are brought to (size=224),"

BETWEEN_FIELDS = [
    (lambda: Dataset(name="x", mean=(0.5,)), "Dataset mean and std: expected both or none, got ((0.5,), None)"),
    (lambda: Dataset(name="x", mean=(0.5, 0.5), std=(0.5,)), "Dataset mean and std: expected as many values, got"),
    (lambda: Dataset(name="x", folder="here"), f"{SIDE} as folder is given, got None"),
    (lambda: Dataset(name="x", skip_broken=True), f"{SIDE} as skip_broken is given, got None"),
    (lambda: Dataset(name="x", augmentation="resized-crop-flip"), f"{SIDE} for resized crops, got None"),
    (lambda: Dataset(name="x", size=9, folder="a", hub="b"), "Dataset folder and hub: expected one of them, got 'a'"),
    (lambda: Dataset(name="x", size=9, resize=8), "Dataset resize: expected at least the size, 9, got 8"),
    (lambda: Dataset(name="x", size=9, orientation="stored"), "Dataset orientation: expected upright for pictures"),
    (
        lambda: recipe(class_weights="balanced", objective=Objective()),
        "Recipe class_weights: expected none beside an objective other than CrossEntropy, got 'balanced'",
    ),
    (
        lambda: recipe(attack=None, objective=TRADES()),
        "Recipe attack: expected a PGD with TRADES, which trains on attack",
    ),
    (lambda: recipe(attack=None, objective=ARD()), "Recipe attack: expected a PGD with ARD, which trains on attacked"),
    (
        lambda: recipe(attack=replace(ATTACK, random_start=False), objective=TRADES()),
        "Recipe attack random_start: expected True with TRADES, whose attack cannot leave the image, got False",
    ),
    (
        lambda: recipe(objective=LwF()),
        "Recipe attack: expected none with LwF, which trains on natural images, got PGD(",
    ),
    (lambda: LwF(head_share=1.5), "LwF head_share: expected a number from 0 to 1, got 1.5"),
    (
        lambda: recipe(attack=None, awp=0.005),
        "Recipe awp: expected 0 without an attack, got 0.005",
    ),
    (
        lambda: replace(SOURCE, recipe=recipe(attack=None, objective=LwF())),
        "Model source: expected the model that the recipe's objective needs, got None",
    ),
    (
        lambda: replace(TARGET, recipe=recipe(attack=None, objective=LwF())),
        "Model transfer: expected k=1 and kept='finetuned' with LwF, which begins with the head, got Transfer(k=3",
    ),
    (
        lambda: replace(TARGET, recipe=recipe(objective=TWINS())),
        "Model transfer: expected kept='warm' with TWINS, where all layers learn, got Transfer(k=3",
    ),
    (
        lambda: replace(SOURCE, recipe=recipe(objective=RSLAD())),
        "Model teacher: expected the model that the recipe's objective needs, got None",
    ),
    (
        lambda: replace(SOURCE, recipe=recipe(objective=RSLAD()), teacher=TARGET),
        "Model teacher: expected a model of the student's dataset, 'mnist', got 'emnist'",
    ),
    (lambda: recipe(attack=PGD(steps=1)), "Recipe attack epsilon: expected a radius, got None"),
    (lambda: replace(STANDARD, validation_attack=ATTACK), "Recipe validation_attack: expected none without an attack"),
    (lambda: Checkpoint("w.pt", mean=0), "Checkpoint mean and std: expected both or none, got ((0.0,), None)"),
    (lambda: Checkpoint("w.pt", mean=(0, 0), std=1), "Checkpoint mean and std: expected as many values, got"),
    (lambda: Checkpoint("w.pt", mean=0, std=0), "Checkpoint std: expected numbers > 0, got (0.0,)"),
    (
        lambda: Model(architecture="timm:resnet34", dataset=MNIST, checkpoint=Checkpoint("timm:resnet18.a1_in1k")),
        "architecture of the weights 'timm:resnet18.a1_in1k': expected 'timm:resnet18', got 'timm:resnet34'",
    ),
    (lambda: EpsilonGrid(stop=0.1, step=0.2), "EpsilonGrid stop: expected a radius ≥ one step, got 0.1"),
    (
        lambda: PGD(steps=1, epsilon=8),
        "PGD epsilon: expected a radius ≤ 1, as pixels lie in (0.0, 1.0), got 8; did you mean 8/255?",
    ),
    (lambda: PGD(steps=1, epsilon=8 / 255, step_size=2), "PGD step_size: expected a radius ≤ 1, as pixels lie in (0.0"),
    (
        lambda: PGD(steps=1, epsilon=300, box=(-1, 1)),
        "PGD epsilon: expected a radius ≤ 2, as pixels lie in (-1.0, 1.0)",
    ),
    (
        lambda: replace(ESTIMATE, grid=EpsilonGrid(stop=16, step=1)),
        "Estimate grid stop: expected a radius ≤ 1, as pixels lie in (0.0, 1.0), got 16; did you mean 16/255?",
    ),
    (lambda: replace(ESTIMATE, attack=ATTACK), "Estimate attack epsilon: expected none (the grid gives it), got 0.1"),
    (
        lambda: replace(ESTIMATE, attack=PGD(steps=1, step_size=0.1, random_start=False)),
        "Estimate attack step_size: expected none (ε ÷ steps), got 0.1",
    ),
    (lambda: replace(ESTIMATE, attack=PGD(steps=1)), "Estimate attack random_start: expected False"),
    (lambda: replace(ESTIMATE, final_test=(ESTIMATE.attack,)), "Estimate final_test epsilon: expected a radius, got N"),
    (lambda: replace(ESTIMATE, final_test=2 * FINAL_TEST), "Estimate final_test: expected each attack once"),
    (
        lambda: replace(ESTIMATE, search=attack("adv_lib:fmn", epsilon=0.1)),
        "Estimate search epsilon: expected none (the grid gives it), got 0.1",
    ),
    (
        lambda: replace(FAST, final_test=(attack("adv_lib:apgd"),)),
        "Estimate final_test epsilon: expected a radius, got N",
    ),
    (
        lambda: replace(ESTIMATE, search=attack("adv_lib:ddn")),
        "Estimate norm: expected l2 with adv_lib:ddn, got 'linf'",
    ),
    (lambda: replace(FAST, norm="l2"), "Estimate audit: expected None with norm l2"),
    (lambda: replace(REFERENCE, norm="l2", audit=None), "Estimate search: expected another one with norm l2"),
    (
        lambda: replace(FAST, norm="l2", audit=None, final_test=FINAL_TEST),
        "Estimate final_test: expected other attacks with norm l2",
    ),
    (lambda: attack("fmn"), "attack: expected <package.module>:<function> (your own), or one of adv_lib:apgd, "),
    (lambda: attack("adv_lib:fnm"), "unknown attack 'adv_lib:fnm'; expected one of "),
    (lambda: Ensemble(searches=("fast",)), "Ensemble searches: expected two searches or more, built-in or other"),
    (lambda: Ensemble(searches=("fast", "fast")), "Ensemble searches: expected each search once, got ['fast', 'fast']"),
    (
        lambda: Model(architecture="cnn7", dataset=MNIST),
        "Model recipe: expected a Recipe, a Checkpoint, or a package.module:function that builds",
    ),
    (
        lambda: replace(TARGET, checkpoint=OWN),
        "Model checkpoint: expected no recipe, transfer, source or teacher beside it",
    ),
    (lambda: replace(TARGET, source=None), "Model transfer: expected transfer and source together, got Transfer(k=3"),
    (
        lambda: replace(TARGET, architecture="cnn4"),
        "Model source: expected the target's architecture 'cnn4', got 'cnn7'",
    ),
    (lambda: replace(TARGET, transfer=Transfer(k=8)), "Transfer k: expected 1…7 for cnn7, got 8"),
    (
        lambda: make_study(transfers=(Transfers(recipe=RECIPE, kept="warm", kept_scale=0.1),)),
        "Transfer kept_scale and kept_statistics: expected neither beside kept='warm', which trains at the full rate",
    ),
    (
        lambda: make_study(transfers=(Transfers(recipe=STANDARD, kept="critical"),)),
        "Transfer k: expected 1 with kept='critical', where all but the head is kept, got 2",
    ),
    (
        lambda: make_study(transfers=(Transfers(recipe=STANDARD, k=(1,), kept="critical", source="standard"),)),
        "Model source: expected a model trained with a PGD, or one in the recipe, with kept='critical'",
    ),
    (
        lambda: make_study(source=None, source_checkpoint=OWN, transfers=(Transfers(recipe=STANDARD, data="source"),)),
        "Study source: expected data for its transfers, got None",
    ),
    (lambda: Drift(attack=PGD(steps=2)), "Drift attack: expected a PGD with an epsilon and a random start"),
    (lambda: Transfers(recipe=RECIPE, k=()), "Transfers k: expected integers ≥ 1, got ()"),
    (lambda: make_study(architectures=("wrn32_10",)), "architecture 'wrn32_10': expected depth 6n + 4"),
    (lambda: make_study(seeds=(1, 1)), "Study seeds: expected each value once, got (1, 1)"),
    (
        lambda: make_study(also=(Also(estimate=ESTIMATE),)),
        "Study also: expected another search than its own, each once, got ['",
    ),
    (
        lambda: make_study(estimate=REFERENCE, also=(Also(estimate=FAST, models=("*-pgd", "*-TL9")),)),
        "Also models: expected patterns of the study's models ('*-pgd', '*-TL3'), got '*-TL9'",
    ),
    (
        lambda: make_study(source=None, target=None),
        "Study source and target: expected a data set in one of them at least",
    ),
    (
        lambda: make_study(standard=None, adversarial=None, transfers=()),
        "Model recipe: expected a Recipe, a Checkpoint, or a package.module:function that builds",
    ),
    (lambda: make_study(target=None), "Study target: expected data for the transfers, got None"),
    (
        lambda: make_study(adversarial=None),
        "Study transfers from source='adversarial': expected adversarial= beside source=, or source_checkpoint=",
    ),
    (
        lambda: make_study(
            source=None, source_checkpoint=OWN, transfers=(Transfers(recipe=STANDARD, source="standard"),)
        ),
        "Study transfers from source='standard': expected standard= beside source=, got neither",
    ),
    (
        lambda: make_study(source=None, standard=None, adversarial=None, transfers=(), source_checkpoint=OWN),
        "study 'demo': expected something to run: standard, adversarial or transfers, or source",
    ),
    (
        lambda: make_study(target=None, transfers=(), scratch=(FromScratch(recipe=replace(RECIPE, objective=MART())),)),
        "Study target: expected data for the rows from scratch, got None",
    ),
    (lambda: make_study(protocol="thesis"), "Study protocol: expected 'sound' in a declaration"),
    (
        lambda: make_study(architectures=("cnn3", "cnn4"), source_checkpoint=OWN),
        "Study source_checkpoint: expected one architecture beside it, got ('cnn3', 'cnn4')",
    ),
    (lambda: make_study(adversarial={"cnn4": RECIPE}), "unknown recipe for architecture 'cnn7'; expected one of cnn4"),
    (
        lambda: make_study(transfers=(Transfers(recipe=RECIPE, architectures=("cnn",)),)),
        "unknown architecture of a row 'cnn'; expected one of cnn7 (did you mean 'cnn7'?)",
    ),
    (
        lambda: make_study(source=Dataset(name="mnist", train=10), target="mnist"),
        "Study source and target: expected two names, or one Dataset for both, got 'mnist'",
    ),
    (
        lambda: make_study(transfers=(Transfers(recipe=STANDARD, k=(1, 2)), Transfers(recipe=STANDARD, k=(2,)))),
        "study 'demo': expected every model declared once, got 'cnn7-emnist-TL2'",
    ),
    (
        lambda: make_study(architectures=("timm:resnet26",)),
        "transfers of 'timm:resnet26': expected k=(1, 2, …), since only the built network knows its blocks (`robbench "
        "list timm:resnet26` prints them)",
    ),
]


@pytest.mark.parametrize(
    ("build", "message"),
    [*TYPES_AND_RANGES, *CHOICES, *BETWEEN_FIELDS],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_cannot_run_is_refused(build, message):
    """Every message names the field, the expectation and the value, and stands alone."""
    with pytest.raises(RobbenchError) as caught:
        build()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.filterwarnings("ignore:PGD")
@given(
    st.sampled_from([RECIPE, RECIPE.attack, ESTIMATE, ESTIMATE.grid, Audit(), MNIST, TARGET]),
    st.none()
    | st.booleans()
    | st.integers(-2, 20)
    | st.floats()
    | st.text(max_size=4)
    | st.lists(st.floats()).map(tuple),
    st.data(),
)
def test_any_value_is_refused_in_one_sentence_or_reads_back(spec, value, data):
    """Whatever a field is given: never another error, never a NaN that hides in a digest."""
    field = data.draw(st.sampled_from([field.name for field in fields(spec)]))
    try:
        changed = replace(spec, **{field: value})
    except RobbenchError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert digest_of(describe(read_spec(describe(changed)))) == digest_of(describe(changed))


def test_an_attack_that_cannot_reach_its_radius_warns_where_it_is_declared():
    """Four steps of 0.01 end at 0.04; ten reach 0.1."""
    with pytest.warns(UserWarning, match=r"4 steps of 0\.01 cannot reach the radius 0\.1") as caught:
        PGD(steps=4, step_size=0.01, epsilon=0.1)
    assert caught[0].filename == __file__
    PGD(steps=10, step_size=0.01, epsilon=0.1)


def test_an_unreadable_checkpoint_is_named_when_its_digest_is_needed(tmp_path):
    """A declaration does not read the file."""
    missing = Checkpoint(path=str(tmp_path / "none.safetensors"))
    with pytest.raises(RobbenchError, match=r"checkpoint '.*none\.safetensors' cannot be read: No such file"):
        _ = missing.sha256
