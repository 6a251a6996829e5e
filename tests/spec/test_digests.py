"""What a digest depends on, and what it does not."""

import importlib
import sys
from dataclasses import fields, replace
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st
from specs import ESTIMATE, MNIST, RECIPE, SOURCE, STANDARD, TARGET

from robbench.spec import (
    ARD,
    DARD,
    IBP,
    MART,
    PGD,
    RSLAD,
    TRADES,
    TWINS,
    Also,
    Audit,
    Bounded,
    Bounds,
    Checkpoint,
    CrossEntropy,
    Dataset,
    DicePGD,
    Drift,
    EarlyStopping,
    Ensemble,
    EpsilonGrid,
    FromScratch,
    LwF,
    Model,
    MultiStepLR,
    Objective,
    OneCycle,
    Quick,
    Search,
    StepLR,
    Study,
    Transfer,
    Transfers,
    Verifier,
    attack,
    code_of,
    describe,
    differences,
    digest_of,
)
from robbench.spec.base import KINDS
from robbench.spec.objectives import Distillation
from robbench.stages import Task


class OtherLoss(Objective):
    """An objective of one's own."""


class OtherSearch(Search):
    """A search of one's own."""


CHANGES = [
    (
        SOURCE,
        {"architecture": "cnn4", "dataset": Dataset(name="emnist"), "recipe": STANDARD, "seed": 1}
        | {"transfer": ..., "source": ..., "teacher": TARGET, "checkpoint": ..., "variant": ...},
    ),
    (
        Dataset(name="cifar10", test=5),
        {"name": "mine", "train": 9, "validation": 0.1, "augmentation": "none", "mean": (0.5,) * 3, "std": (0.5,) * 3}
        | {
            "orientation": "stored",
            "split": "overlapping",
            "seed": 1,
            "test": ...,
            "size": 32,
            "hub": ...,
            "folder": ...,
        }
        | {"resize": ..., "channels": ..., "held_out": ..., "crop_area": ..., "skip_broken": ...},
    ),
    (
        Dataset(name="mine", size=32, folder="pictures"),
        {"name": "cifar10", "train": 9, "validation": 0.1, "augmentation": "none", "mean": ..., "std": ...}
        | {"orientation": ..., "split": "overlapping", "seed": 1, "test": ..., "size": 31, "hub": ..., "folder": ...}
        | {"resize": 40, "channels": 1, "held_out": 0.5, "crop_area": 0.3, "skip_broken": True},
    ),
    (
        RECIPE,
        {"optimiser": "adam", "learning_rate": 0.2, "weight_decay": 0.1, "batch_size": 9, "epochs": 4, "momentum": 0.5}
        | {"schedule": OneCycle(), "clip_norm": None, "early_stopping": EarlyStopping(), "objective": OtherLoss()}
        | {"attack": PGD(epsilon=0.3, steps=1), "validation_attack": RECIPE.attack, "ramp_epochs": 1}
        | {
            "statistics": "running",
            "kept_epoch": "last",
            "precision": "bf16",
            "class_weights": "balanced",
            "awp": 0.005,
        },
    ),
    (RECIPE.attack, {"steps": 5, "epsilon": 0.21, "step_size": None, "random_start": False, "box": (-1.0, 1.0)}),
    (
        Transfer(k=3),
        {"k": 2, "head": "mlp1", "kept": "finetuned", "kept_scale": 0.001, "kept_statistics": "train", "rank": 4},
    ),
    (EarlyStopping(), {"patience": 7, "window": 2}),
    (StepLR(step=10, gamma=0.98), {"step": 11, "gamma": 0.97}),
    (MultiStepLR(milestones=(1, 2), gamma=0.2), {"milestones": (1, 3), "gamma": 0.1}),
    (OneCycle(), {"warm_up": 0.2}),
    (CrossEntropy(), {}),
    (LwF(), {"penalty": 0.1, "norm": "l2", "head_share": 0.1}),
    (TRADES(), {"beta": 1.0}),
    (MART(), {"weight": 1.0}),
    (DicePGD(), {}),
    (TWINS(), {"weight": 0.5}),
    (ARD(), {"alpha": 0.5, "temperature": 1.0}),
    (RSLAD(), {"alpha": 0.5}),
    (DARD(), {"alpha": 0.5, "temperature": 1.0}),
    (IBP(epsilon=0.1), {"epsilon": 0.2, "kappa": 0.4, "warm_up": 0.1, "ramp": 0.3, "crown": True}),
    (Bounds(), {"images": 7, "method": "ibp", "probes": 2, "models": ("*-pgd",), "verifier": Verifier()}),
    (Verifier(), {"engine": "neuralsat", "images": 7, "seconds": 5, "queries": 1, "models": ("*-pgd",)}),
    (Drift(attack=PGD(steps=2, epsilon=0.1)), {"attack": PGD(steps=3, epsilon=0.1), "images": 7}),
    (
        Bounded(bounds=Bounds(), estimate=ESTIMATE),
        {"bounds": Bounds(images=7), "estimate": replace(ESTIMATE, images=1)},
    ),
    (
        replace(ESTIMATE, search="fast", audit=None),
        {"grid": EpsilonGrid(stop=0.3, step=0.1), "attack": PGD(steps=3, random_start=False), "images": 1, "seed": 1}
        | {"search": OtherSearch(), "audit": Audit(), "norm": "l2"}
        | {"final_test": (attack("adv_lib:fmn", epsilon=0.1),)},
    ),
    (
        attack("adv_lib:fmn"),
        {"name": "adv_lib:fab", "options": (("steps", 50),), "epsilon": 0.1, "seed": 1},
    ),
    (Ensemble(searches=("fast", "thorough")), {"searches": ("fast", "reference")}),
    (Audit(), {"images": 7, "share": 0.2, "radii": 4, "apgd_images": 10, "square_queries": 10, "seed": 1}),
    (EpsilonGrid(stop=0.2, step=0.1), {"stop": 0.3, "step": 0.05}),
]
"""A spec of every kind, and another value for each of its fields; ``...`` where another test says what it does."""


@pytest.mark.parametrize(("start", "values"), CHANGES, ids=lambda value: type(value).__name__)
def test_a_digest_changes_with_every_field(start, values):
    """Field by field, from the same start; a new field must be added to the list above."""
    assert {field.name for field in fields(start)} == values.keys()
    changed = [replace(start, **{field: value}) for field, value in values.items() if value is not ...]
    digests = {digest_of(describe(spec)) for spec in [start, *changed]}
    assert len(digests) == 1 + len(changed)


def test_every_kind_of_spec_is_covered():
    """All that a model or an estimate consists of; a checkpoint counts by its content, bases are empty."""
    ours = {kind for kind in KINDS.values() if kind.__module__.startswith("robbench.")}
    assert ours - {type(start) for start, _ in CHANGES} == {
        Checkpoint,
        Objective,
        Distillation,
        Search,
        Quick,
        Transfers,
        FromScratch,
        Also,
        Study,
    }


def test_a_models_digest_reaches_down_to_its_sources_attack():
    """Training the source model with another radius makes other weights of the transferred one."""
    other = replace(SOURCE, recipe=replace(RECIPE, attack=replace(RECIPE.attack, epsilon=0.3)))
    assert len({TARGET.digest, replace(TARGET, source=other).digest, SOURCE.digest, other.digest}) == 4


def test_a_checkpoint_counts_by_its_content_and_by_how_it_is_read(tmp_path):
    """Wherever the file lies; timm's by its name, and by timm's version, which decides what is behind the name."""
    for name, content in (("a.pt", b"1"), ("b.pt", b"1"), ("c.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    first, same, other = (Checkpoint(tmp_path / name) for name in ("a.pt", "b.pt", "c.pt"))
    named = [Checkpoint(f"timm:resnet18.{tag}") for tag in ("a1_in1k", "a2_in1k")]
    read = [replace(first, mean=(0.0,), std=std) for std in ((1.0,), (0.5,))]
    variants = [first, other, *read, replace(first, part="ema"), *named]
    assert len({digest_of(describe(each)) for each in variants}) == len(variants)
    assert digest_of(describe(first)) == digest_of(describe(same))
    assert code_of(Model(architecture="timm:resnet18", dataset=MNIST, checkpoint=named[0])) == [
        f"timm {version('timm')}"
    ]


def test_the_number_of_test_images_and_a_variants_label_change_no_weights():
    """The number of test images changes the digest of p* only, a label nothing but the model's name."""
    few = replace(SOURCE, dataset=replace(MNIST, test=10))
    labelled = replace(SOURCE, variant="split")
    assert few.digest == labelled.digest == SOURCE.digest
    few_images, declared, variant = (Task("robustness", model, ESTIMATE).digest for model in (few, SOURCE, labelled))
    assert few_images != declared == variant


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-1, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


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


def test_the_digest_follows_the_code_of_an_own_objective(tmp_path, monkeypatch):
    """Another file that defines it is another objective; a sound spec of robbench's has no code."""
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for weight in (1, 2):
        (tmp_path / "own_loss.py").write_text(
            f"from robbench import Objective\n\nclass Own(Objective):\n    weight: int = 1\n\nSCALE = {weight}\n"
        )
        monkeypatch.delitem(sys.modules, "own_loss", raising=False)
        objective = importlib.import_module("own_loss").Own()
        digests.add(replace(SOURCE, recipe=replace(RECIPE, objective=objective)).digest)
    assert len(digests) == 2
    assert code_of(SOURCE, ESTIMATE) == []


def test_the_digest_of_an_estimate_follows_its_attacks_code(tmp_path, monkeypatch):
    """One's own by its file, a library's by its version; also within an ensemble or in the final test."""
    monkeypatch.syspath_prepend(tmp_path)
    own, fmn = attack("own_attack:go"), attack("adv_lib:fmn")
    monkeypatch.setattr("robbench.spec.model.version", {"adv-lib": "9.9"}.__getitem__)
    seen = []
    for body in ("1", "2"):
        (tmp_path / "own_attack.py").write_text(body)
        together = replace(ESTIMATE, search=Ensemble(searches=(own, fmn)))
        in_the_end = replace(ESTIMATE, final_test=(replace(own, epsilon=0.1),))
        seen.append((code_of(together), code_of(in_the_end)))
    assert all("adv-lib 9.9" in together and len(together) == 2 and len(alone) == 1 for together, alone in seen)
    assert seen[0] != seen[1]


def test_the_digest_follows_the_code_of_an_own_network(tmp_path, monkeypatch):
    """Weights that were trained with another version of the function are other weights; a broken package has a digest."""
    monkeypatch.syspath_prepend(tmp_path)
    model = Model(architecture="own_nets:make", dataset=MNIST, recipe=RECIPE)
    digests = set()
    for body in ("relu", "tanh"):
        (tmp_path / "own_nets.py").write_text(body)
        digests.add(replace(model).digest)
    assert len(digests) == 2
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("raise KeyError(1)")
    assert replace(model, architecture="broken.nets:make").digest not in digests
