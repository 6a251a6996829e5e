"""Nonsense in: any JSON value in any place of any file, and data and models at their limits: an error or an answer."""

from __future__ import annotations

import copy
import json
import math
import random
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from factories import both_records, make_facts, robustness_record, training_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import linear

import robbench.report.bundle
from robbench.attacks import pgd
from robbench.data import draw, split
from robbench.errors import RobbenchError
from robbench.estimation.sampling import choose_images
from robbench.gate.baselines import read_baseline, write_baseline
from robbench.gate.verdicts import Tolerances, Verdict, compare
from robbench.models import Normalise, seeded
from robbench.record import AttackAccuracy, Counts, Record
from robbench.report import Bundle, read_bundle, render
from robbench.report.bundle import encode_bundle
from robbench.report.terminal import table
from robbench.spec import PGD, Audit, Dataset, EpsilonGrid, Estimate, Model, Recipe, describe, digest_of
from robbench.spec.command_line import parse_datasets
from robbench.store.store import Store
from robbench.training.optimisers import new_optimiser
from robbench.training.schedule import learning_rate, ramp
from robbench.training.updates import update

DIGEST = "ab" * 32

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(
        [0, 1, -1, 2, 10**6, 2**53, 2**63, 10**30, 0.0, -0.5, 1e-300, 1e300, "", "x", "pgd", "../x", "\0"]
    )
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
"""Any JSON value, the likely ones more often."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *places(inner))]


def mutated(value: Any, draw: random.Random, new: Any) -> Any:
    """A copy in which one place was replaced, removed, doubled or given to another name."""
    changed = copy.deepcopy(value)
    container, key = draw.choice(places(changed))
    kind = draw.choice(["replace", "replace", "replace", "remove", "double", "rename"])
    if kind == "remove":
        del container[key]
    elif kind == "double" and isinstance(container, list):
        container.insert(key, container[key])
    elif kind == "rename" and isinstance(container, dict):
        container[f"{key}x"] = container.pop(key)
    else:
        container[key] = new
    return changed


def nonsense() -> Bundle:
    """A source, a transfer with all kinds of results, an ablation and a model by itself."""
    source = both_records(make_facts(), [1, 2, 3, 3, -1])
    transfers = [
        record for k in (1, 2) for record in both_records(make_facts("transfer", "emnist", k), [1, k, 3, 5, -1], 5.0)
    ]
    scratch = both_records(make_facts("pgd", "emnist"), [2, 2, 4, 4, -1])
    varied = both_records(make_facts("transfer", "emnist", 1, variant="box"), [1, 1, 1, 1, -1], case="v")
    tested = source[1]
    attack = AttackAccuracy(attack="pgd", epsilon=0.1, steps=4, step_size=0.1, robust=Counts(correct=1, total=5))
    assert tested.robustness is not None
    source[1] = msgspec.structs.replace(tested, result=msgspec.structs.replace(tested.robustness, attacks=[attack]))
    verdict = Verdict(
        suite="demo", case="v", stage="robustness", figure="accuracy", mark="-", message="m", baseline=0.5, current=0.25
    )
    return Bundle(
        title="t",
        command="c",
        notes=["n"],
        verdicts=[verdict],
        records=[*source, *transfers, *scratch, *varied],
        missing=["demo/cnn7-emnist-TL3.training"],
    )


BUNDLE = {name: value for name, value in json.loads(encode_bundle(nonsense())).items() if name != "sha256"}


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), VALUES)
def test_any_value_in_records_is_refused_or_rendered(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, draw: random.Random, new: Any
) -> None:
    """And what is rendered can be written down, read again and shown in a terminal."""
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [])
    path = tmp_path_factory.mktemp("bundle") / "records.json"
    path.write_text(json.dumps(mutated(BUNDLE, draw, new)))
    try:
        bundle = read_bundle(path)
    except RobbenchError:
        return
    assert render(bundle)["report.md"]
    assert table(bundle.records, bundle.verdicts)
    path.write_bytes(encode_bundle(bundle))
    assert {record.name for record in read_bundle(path).records} == {record.name for record in bundle.records}


@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
@given(st.randoms(use_true_random=False), VALUES)
def test_any_value_in_records_is_refused_or_drawn(
    tmp_path_factory: pytest.TempPathFactory, draw: random.Random, new: Any
) -> None:
    """The pictures, too."""
    path = tmp_path_factory.mktemp("bundle") / "records.json"
    path.write_text(json.dumps(mutated(BUNDLE, draw, new)))
    try:
        bundle = read_bundle(path)
    except RobbenchError:
        return
    assert render(bundle)


RECORDS = {
    "training": training_record(make_facts(), digest=DIGEST),
    "robustness": robustness_record(make_facts(), [1, 2, 3, 5, -1], digest=DIGEST),
}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(RECORDS)), st.randoms(use_true_random=False), VALUES)
def test_any_value_in_a_baseline_is_refused_or_compared(
    tmp_path_factory: pytest.TempPathFactory, stage: str, draw: random.Random, new: Any
) -> None:
    """A verdict on every figure, in plain words, or an error that names the file."""
    folder, record = tmp_path_factory.mktemp("baselines"), RECORDS[stage]
    path = write_baseline(folder, record)
    path.write_text(json.dumps(mutated(json.loads(path.read_text()), draw, new)))
    fault, baseline = "", None
    try:
        baseline = read_baseline(folder, record.suite, record.case, record.stage)
    except RobbenchError as error:
        fault = str(error)
    assert str(path) in fault or baseline is not None
    if baseline is not None:
        assert all(msgspec.json.encode(verdict) for verdict in compare(record, baseline, Tolerances()))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(RECORDS)), st.randoms(use_true_random=False), VALUES)
def test_any_value_in_a_finished_stage_is_refused(
    tmp_path_factory: pytest.TempPathFactory, stage: str, draw: random.Random, new: Any
) -> None:
    """Or changes nothing."""
    store = Store(tmp_path_factory.mktemp("store"), "run")
    store.finish(RECORDS[stage])
    path = next(store.folder.rglob("stage.json"))
    path.write_text(json.dumps(mutated(json.loads(path.read_text()), draw, new)))
    try:
        found = store.finished(DIGEST)
    except RobbenchError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert found is not None
        assert found.record == RECORDS[stage]


@pytest.mark.parametrize("deep", [600, 5_000, 200_000])
def test_brackets_without_end_are_refused(tmp_path: Path, deep: int) -> None:
    """A file of nothing but brackets, for every reader of JSON."""
    text = "[" * deep + "]" * deep
    (tmp_path / "records.json").write_text(text)
    with pytest.raises(RobbenchError, match="expected a bundle"):
        read_bundle(tmp_path)
    path = write_baseline(tmp_path, RECORDS["training"])
    path.write_text(text)
    with pytest.raises(RobbenchError, match="expected a file of schema"):
        read_baseline(tmp_path, "demo", RECORDS["training"].case, "training")
    store = Store(tmp_path / "store", "run")
    store.finish(RECORDS["training"])
    next(store.folder.rglob("stage.json")).write_text(text)
    with pytest.raises(RobbenchError, match=r"stage\.json is damaged"):
        store.finished(DIGEST)


# --- specs and options ------------------------------------------------------------------------------------------------

ANYTHING = (
    VALUES
    | st.floats()
    | st.sampled_from([0.01, 1e-9, 1e-11, 1e-40, 1e308, 2**63 - 1, 2**64, 10**400, "x" * 101])
    | st.binary(max_size=3)
    | st.just(object())
    | st.tuples(st.integers() | st.floats(), st.floats())
    | st.tuples(st.floats() | st.sampled_from([1e-40, 1e-6, -1e5, 1e300]))
)

SPECS: dict[type, dict[str, Any]] = {
    Recipe: {"optimiser": "adam", "learning_rate": 0.1, "weight_decay": 0.0, "batch_size": 4, "epochs": 1},
    PGD: {"steps": 3, "epsilon": 0.1, "step_size": 0.1, "random_start": False, "box": (0.0, 1.0)},
    EpsilonGrid: {"stop": 0.4, "step": 0.1},
    Estimate: {"grid": EpsilonGrid(stop=0.4, step=0.1), "attack": PGD(steps=2, random_start=False), "images": 3},
    Audit: {"images": 3, "share": 0.1},
    Dataset: {"name": "mine", "train": 20, "validation": 0.2, "mean": (0.5,), "std": (0.2,)},
    Model: {
        "architecture": "cnn7",
        "dataset": Dataset(name="mine"),
        "recipe": Recipe(optimiser="adam", learning_rate=0.1, weight_decay=0.0, batch_size=4, epochs=1),
    },
}
DEFAULTS: dict[type, list[str]] = {
    Recipe: ["momentum", "clip_norm", "ramp_epochs", "attack"],
    Estimate: ["seed"],
    Audit: ["radii", "square_queries", "seed"],
    Dataset: ["test", "seed"],
    Model: ["seed"],
}
"""Fields whose default may be replaced, too."""


def use(spec: Any) -> None:
    """Do with a spec what a run does with it, on next to nothing."""
    match spec:
        case EpsilonGrid():
            assert 2 <= len(spec.values) <= 100_000
            assert all(low < high for low, high in pairwise(spec.values))
        case Estimate():
            use(spec.grid)
            assert len(choose_images(20, spec.images, spec.seed)) == min(20, spec.images)
        case Audit():
            np.random.default_rng(spec.seed)
            torch.Generator().manual_seed(spec.seed)
        case Dataset():
            assert not Path(f".{spec.name}.npz.{'0' * 16}.tmp").exists()
            draw("glyphs10", 1, 2 * spec.seed + 1)
            with suppress(RobbenchError):  # a share of so few images may be none
                split(20, validation=spec.validation, seed=spec.seed)
            extremes = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
            assert Normalise(spec.mean, spec.std)(extremes).isfinite().all()
        case Model():
            assert spec.id
            with seeded(spec.seed):
                assert torch.rand(1) < 1
        case PGD():
            found = pgd(
                linear(torch.ones(4)).float(),
                torch.full((3, 1, 2, 2), 0.5),
                torch.zeros(3, dtype=torch.int64),
                spec.epsilon or 0.1,
                steps=min(spec.steps, 3),
                step_size=spec.step_size,
                random_start=spec.random_start,
                box=spec.box,
            )
            assert found.isfinite().all()
        case Recipe():
            assert math.isfinite(learning_rate(spec, 0.5, 2))
            assert 0 <= ramp(spec, 0.5) <= 1
            network = linear(torch.ones(4)).float()
            labels = torch.zeros(3, dtype=torch.int64)
            update(network, spec, new_optimiser(network, spec, None), torch.full((3, 1, 2, 2), 0.5), labels, ())


@settings(max_examples=500, deadline=None)
@pytest.mark.filterwarnings("ignore:PGD")
@given(st.sampled_from(list(SPECS)), st.data())
def test_any_value_in_a_spec_is_refused_or_can_be_used(kind: type, data: st.DataObject) -> None:
    """One sentence, or a spec that can be written down, read and run; never another error, never a silent NaN."""
    fields = [*SPECS[kind], *DEFAULTS.get(kind, [])]
    values = SPECS[kind] | {data.draw(st.sampled_from(fields)): data.draw(ANYTHING)}
    try:
        spec = kind(**values)
    except RobbenchError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert len(digest_of(describe(spec))) == 64
        use(spec)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "momentum", "clip_norm", "ramp_epochs"])
@pytest.mark.parametrize("value", [5e-324, 0.9999, 1e6, 10**6, 10**30, 1e39, 1e300])
def test_any_number_in_a_recipe_is_refused_or_trains(optimiser: str, field: str, value: float) -> None:
    """Torch's optimisers take no number that float32 or, for an integer, 64 bits cannot hold."""
    with suppress(RobbenchError):
        use(Recipe(**SPECS[Recipe] | {"optimiser": optimiser, field: value}))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=8) | st.sampled_from(["a=b", "=", "a=", "=b", "a=b=c"]), max_size=3))
def test_any_replacement_of_datasets_is_refused_or_read(texts: list[str]) -> None:
    """``--robbench-dataset``: names on both sides of one sign, or one sentence."""
    try:
        pairs = parse_datasets(texts)
    except RobbenchError as error:
        assert "dataset replacement: expected" in str(error)  # noqa: PT017
    else:
        assert [f"{old}={new}" for old, new in pairs.items()] == texts


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_a_record_made_of_anything_is_refused(value: Any) -> None:
    """A record is nothing less than a record."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value, Record)
