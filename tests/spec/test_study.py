"""What a study declares: data, grids, models and their names, and how the quick scale shrinks them."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from specs import ESTIMATE, FINAL_TEST, RECIPE, SOURCE, STANDARD, make_study

from robbench.spec import (
    DARD,
    MART,
    PGD,
    RSLAD,
    TRADES,
    Also,
    Audit,
    Bounds,
    Checkpoint,
    Dataset,
    DicePGD,
    Drift,
    Ensemble,
    EpsilonGrid,
    FromScratch,
    LwF,
    Model,
    Quick,
    Transfer,
    Transfers,
    Verifier,
    attack,
)
from robbench.spec.command_line import adapt, shrink
from robbench.spec.recipes import with_protocol
from robbench.stages import Task, tasks_of


@given(st.integers(1, 400), st.integers(1, 100), st.sampled_from([10, 100, 1000, 10_000]))
def test_a_grid_has_a_radius_for_every_whole_step(count, units, scale):
    """From 0 to the last multiple of the step that is no larger than ``stop``, without dust of floating point."""
    step, stop = units / scale, count * units / scale
    values = EpsilonGrid(stop=stop, step=step).values
    assert values == tuple(float(f"{i * units / scale:.4f}") for i in range(count + 1))
    assert EpsilonGrid(stop=stop + 0.6 * step, step=step).values == values


def test_a_grid_of_integers_has_floats_for_radii():
    """They are written as JSON and become tensors, of which an integer would change the kind."""
    assert repr(EpsilonGrid(stop=1, step=1).values) == "(0.0, 1.0)"


CIFAR10, CIFAR100 = Dataset(name="cifar10"), Dataset(name="cifar100")
PGD_SOURCE = Model(architecture="resnet34", dataset=CIFAR10, recipe=RECIPE)
CONVENTIONAL = replace(PGD_SOURCE, recipe=STANDARD)
TL2 = replace(PGD_SOURCE, dataset=CIFAR100, recipe=STANDARD, transfer=Transfer(k=2), source=PGD_SOURCE)
UNUSUAL = Transfer(k=7, head="mlp1", kept="finetuned")
ALL = replace(TL2, recipe=RECIPE, source=CONVENTIONAL, transfer=UNUSUAL, variant="split", seed=2)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (SOURCE, "cnn7-mnist-pgd"),
        (replace(SOURCE, recipe=STANDARD), "cnn7-mnist-standard"),
        (replace(SOURCE, seed=1), "cnn7-mnist-pgd-seed1"),
        (TL2, "resnet34-cifar100-TL2"),
        (replace(TL2, recipe=RECIPE), "resnet34-cifar100-TL2-adversarial"),
        (replace(TL2, recipe=RECIPE, transfer=Transfer(k=2, kept="warm")), "resnet34-cifar100-TL2-adversarial-warm"),
        (ALL, "resnet34-cifar100-TL7-adversarial-mlp1-finetuned-from-standard-split-seed2"),
        (replace(SOURCE, recipe=replace(RECIPE, objective=TRADES())), "cnn7-mnist-trades"),
        (replace(SOURCE, recipe=replace(RECIPE, awp=0.005)), "cnn7-mnist-awp"),
        (replace(TL2, recipe=replace(RECIPE, objective=MART())), "resnet34-cifar100-TL2-adversarial-mart"),
        (
            replace(
                TL2, recipe=replace(STANDARD, objective=LwF()), transfer=Transfer(k=1, head="mlp1", kept="finetuned")
            ),
            "resnet34-cifar100-TL1-mlp1-finetuned-lwf",
        ),
        (replace(SOURCE, recipe=None, checkpoint=Checkpoint(path="w.safetensors")), "cnn7-mnist-checkpoint"),
        (replace(SOURCE, architecture="timm:hf_hub/vit"), "hf_hub_vit-mnist-pgd"),
        (replace(SOURCE, architecture="my.nets:tiny"), "my.nets.tiny-mnist-pgd"),
    ],
)
def test_ids_say_what_a_model_is(model, name):
    """Only what differs from the usual is spelled out."""
    assert model.id == str(model) == name


def test_models_come_after_what_they_are_transferred_from():
    """Every architecture and seed: two from scratch on each dataset, then its transfers; ids are unique."""
    study = make_study(
        architectures=("cnn3", "cnn7"),
        transfers=(Transfers(recipe=STANDARD), Transfers(recipe=RECIPE, architectures=("cnn7",), k=(2, 5))),
        seeds=(0, 3),
    )
    models = study.models()
    ids = [model.id for model in models]
    tails = ["mnist-standard", "emnist-standard", "mnist-pgd", "emnist-pgd", "emnist-TL1", "emnist-TL2", "emnist-TL3"]
    assert ids[:7] == [f"cnn3-{tail}" for tail in tails]
    assert len(ids) == len(set(ids)) == 2 * (4 + 3 + 4 + 7 + 2)
    assert sum(name.endswith("-seed3") for name in ids) == len(ids) // 2
    for number, model in enumerate(models):
        if model.source is not None:
            assert model.source in models[:number]
            assert (model.source.seed, model.source.method) == (model.seed, "pgd")


def test_transfers_may_be_retrained_on_the_sources_own_data():
    """With an id of their own; features drift in those on the target that keep frozen blocks alone."""
    critical = Transfers(recipe=STANDARD, k=(1,), kept="critical")
    rows = (Transfers(recipe=STANDARD, k=(2,), data="source"), Transfers(recipe=STANDARD, k=(2,)), critical)
    study = make_study(standard=None, transfers=rows, drift=Drift(attack=PGD(steps=2, epsilon=0.1)))
    assert [model.id for model in study.models() if model.transfer] == [
        "cnn7-mnist-TL2",
        "cnn7-emnist-TL2",
        "cnn7-emnist-TL1-critical",
    ]
    assert [task.model.id for task in tasks_of(study) if task.kind == "drift"] == ["cnn7-emnist-TL2"]


def test_rows_from_scratch_and_teachers_are_models_of_a_study():
    """A teacher comes before its student, once; the quick scale and other data reach it, and what it comes from."""
    emnist = Dataset(name="emnist")
    teacher = Model(architecture="cnn4", dataset=emnist, recipe=replace(RECIPE, objective=DicePGD()))
    student = replace(RECIPE, objective=DARD())
    study = make_study(
        scratch=(FromScratch(recipe=replace(RECIPE, objective=TRADES())), FromScratch(recipe=student, teacher=teacher)),
        transfers=(Transfers(recipe=student, k=(2,), teacher=teacher),),
    )
    tails = ["mnist-standard", "emnist-standard", "mnist-pgd", "emnist-pgd", "emnist-trades", "emnist-dard"]
    assert [model.id for model in study.models()] == [
        "cnn4-emnist-dicepgd",
        *(f"cnn7-{tail}" for tail in tails),
        "cnn7-emnist-TL2-adversarial-dard",
    ]
    assert [model.teacher for model in study.models() if model.teacher] == [teacher, teacher]
    small = shrink(study).models()
    assert (small[0].recipe.epochs, small[0].dataset.train) == (1, 256)
    assert [model.teacher for model in small if model.teacher] == [small[0], small[0]]


def test_a_teacher_that_the_study_trains_anyway_is_no_second_model():
    """Such as the adversarially trained model of the target."""
    pgd = Model(architecture="cnn7", dataset=Dataset(name="emnist"), recipe=RECIPE)
    rslad = FromScratch(recipe=replace(RECIPE, objective=RSLAD()), teacher=pgd)
    models = make_study(scratch=(rslad,), transfers=()).models()
    assert [model.id for model in models].count(pgd.id) == 1
    assert models.index(pgd) < models.index(next(model for model in models if model.teacher))


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


def test_a_checkpoint_takes_the_place_of_the_source_model(tmp_path):
    """Transfers start from it, and its bytes are part of their digest, wherever the file lies."""
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / f"{name}.safetensors").write_bytes(data)

    def last(name):
        checkpoint = Checkpoint(path=tmp_path / f"{name}.safetensors")
        study = make_study(source_checkpoint=checkpoint, transfers=(Transfers(recipe=STANDARD, k=(1,)),))
        tails = ("mnist-standard", "emnist-standard", "mnist-checkpoint", "emnist-pgd", "emnist-TL1")
        assert [model.id for model in study.models()] == [f"cnn7-{tail}" for tail in tails]
        assert checkpoint.sha256 == hashlib.sha256((tmp_path / f"{name}.safetensors").read_bytes()).hexdigest()
        return study.models()[-1]

    assert last("a").source.method == "checkpoint"
    assert last("a").digest == last("b").digest != last("c").digest


def test_a_study_has_the_models_that_its_parts_make(tmp_path):
    """A checkpoint tested on its data; transferred without them; each recipe from scratch by itself."""
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    nothing = dict.fromkeys(("source", "target", "standard", "adversarial"))
    checkpoint = Checkpoint(path=tmp_path / "a.safetensors")

    def ids(**parts):
        study = make_study(**{**nothing, "transfers": (), **parts})
        return [model.id for model in shrink(study).models()]

    row = Transfers(recipe=STANDARD, k=(2,))
    given = {"source_checkpoint": checkpoint}
    assert ids(source="mnist", **given) == ["cnn7-mnist-checkpoint"]
    assert ids(target="emnist", transfers=(row,), **given) == ["cnn7-emnist-TL2"]
    assert ids(target="emnist", adversarial=RECIPE, transfers=(row,), **given) == ["cnn7-emnist-pgd", "cnn7-emnist-TL2"]
    assert ids(source="mnist", target="emnist", transfers=(row,), **given) == [
        "cnn7-mnist-checkpoint",
        "cnn7-emnist-TL2",
    ]
    assert ids(source="mnist", standard=STANDARD) == ["cnn7-mnist-standard"]
    assert ids(target="emnist", standard=STANDARD) == ["cnn7-emnist-standard"]
    own = {"architectures": ("mine.nets:robust",), "source": "mnist"}
    assert ids(**own) == ["mine.nets.robust-mnist-checkpoint"]
    assert ids(**own, target="emnist", transfers=(row,)) == [
        "mine.nets.robust-mnist-checkpoint",
        "mine.nets.robust-emnist-TL2",
    ]
    from_standard = replace(row, source="standard")
    assert ids(source="mnist", target="emnist", standard=STANDARD, transfers=(from_standard,)) == [
        *("cnn7-mnist-standard", "cnn7-emnist-standard", "cnn7-emnist-TL2-from-standard")
    ]


def test_the_options_of_a_run_change_a_study_of_a_checkpoint_too(tmp_path):
    """Other data, seeds and the thesis protocol, without source data."""
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    checkpoint = Checkpoint(path=tmp_path / "a.safetensors")
    row = Transfers(recipe=STANDARD, k=(2,))
    study = make_study(source=None, standard=None, adversarial=None, transfers=(row,), source_checkpoint=checkpoint)
    other = adapt(study, protocol="thesis", datasets={"emnist": "mine"}, seeds=2)
    assert [model.id for model in other.models()] == ["cnn7-mine-TL2", "cnn7-mine-TL2-seed1"]
    assert other.models()[0].transfer.kept_statistics == "train"
    (ablated,) = [model for model in replace(study, ablate=("kept_statistics",)).models() if model.variant]
    assert ablated.source == checkpoint


def test_quick_shrinks_sizes_and_nothing_else():
    """Fewer images, epochs, steps; radius, grid, optimiser and models stay."""
    study = make_study(
        source=Dataset(name="mnist", train=100),
        adversarial=replace(
            RECIPE, batch_size=256, epochs=30, ramp_epochs=3, validation_attack=PGD(epsilon=0.2, steps=9)
        ),
        quick=Quick(train=128, test=32, epochs=1, attack_steps=3, images=16),
    )
    small = shrink(study)
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


def test_a_second_estimate_is_a_stage_of_the_models_that_its_patterns_name():
    """In every seed, right after the study's own, and smaller at the quick scale."""
    own, fast = replace(ESTIMATE, search="reference"), replace(ESTIMATE, search="fast")
    also = (Also(estimate=fast, models=("*-pgd", "*-TL1")),)
    study = make_study(estimate=own, also=also, seeds=(0, 1), quick=Quick(images=16))
    tasks = [task for task in tasks_of(study) if task.kind == "robustness"]
    again = [f"cnn7-{name}{seed}" for seed in ("", "-seed1") for name in ("mnist-pgd", "emnist-pgd", "emnist-TL1")]
    assert [task.name for task in tasks if task.spec == fast] == [f"{name}.robustness-fast" for name in again]
    names = [task.name for task in tasks]
    assert names.index(f"{again[0]}.robustness-fast") == names.index(f"{again[0]}.robustness") + 1
    assert {task.spec.images for task in tasks_of(shrink(study)) if task.label} == {16}


def test_naming_one_more_model_asks_no_other_for_new_bounds():
    """Patterns choose models; what is asked of one does not hold them."""

    def tasks(asked):
        bounds = Bounds(verifier=Verifier(models=asked), models=("*-pgd", "*-TL1"))
        return {task.name: task for task in tasks_of(make_study(bounds=bounds)) if task.kind == "bounds"}

    one, two = tasks(("*-mnist-pgd",)), tasks(("*-mnist-pgd", "*-TL1"))
    assert list(one) == list(two)
    assert [name for name in one if one[name].digest != two[name].digest] == ["cnn7-emnist-TL1.bounds"]


def test_a_second_estimates_label_is_fit_for_file_names():
    """Its search's name, without what files cannot be called everywhere."""
    search = Ensemble(searches=("fast", attack("adv_lib:fmn", steps=50)))
    study = make_study(also=(Also(estimate=replace(ESTIMATE, search=search), models=("*-mnist-pgd",)),))
    assert [task.label for task in tasks_of(study) if task.label] == ["ensemble-of-fast-and-adv_lib-fmn-steps=50"]


def test_a_second_estimate_is_the_same_work_whoever_asks_for_it():
    """Its key in the store is that of another study's own estimate by this search."""
    own, fast = replace(ESTIMATE, search="reference"), replace(ESTIMATE, search="fast")
    study = make_study(estimate=own, also=(Also(estimate=fast, models=("*-mnist-standard",)),))
    (second,) = [task for task in tasks_of(study) if task.label]
    assert second.digest == Task("robustness", second.model, fast).digest


def test_quick_shrinks_audit_and_final_test():
    """Square is asked a dozen times at most; no attack takes more steps than the quick scale's, and none comes twice."""
    queries = {0: 0, 5_000: 12}
    for asked, expected in queries.items():
        study = make_study(estimate=replace(ESTIMATE, audit=Audit(square_queries=asked), final_test=FINAL_TEST))
        small = shrink(study).estimate
        assert small.audit == Audit(square_queries=expected)
        assert small.final_test == (FINAL_TEST[0], replace(FINAL_TEST[1], steps=2, step_size=None))
    assert shrink(replace(study, quick=Quick(attack_steps=1))).estimate.final_test == FINAL_TEST[:1]


def test_quick_shrinks_attacks_of_other_libraries():
    """By their own option for it, also within an ensemble; one's own function takes as long as it does."""
    own, other = attack("own:function", steps=50), attack("adv_lib:apgd", rho=0.5)
    search = Ensemble(searches=("fast", own, other))
    study = make_study(estimate=replace(ESTIMATE, search=search, final_test=(replace(other, epsilon=0.1),)))
    small, fewer = shrink(study).estimate, attack("adv_lib:apgd", rho=0.5, n_iter=2)
    assert small.search == Ensemble(searches=("fast", own, fewer))
    assert small.final_test == (replace(fewer, epsilon=0.1),)
