"""Single flipped bits and cut files, anywhere in anything that robbench reads: refused by name, or without effect."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from factories import both_records, make_facts, training_record
from hypothesis import given, settings
from hypothesis import strategies as st

import robbench.report.bundle
from robbench.data import read_npz
from robbench.data.sizes import sizes
from robbench.errors import RobbenchError
from robbench.gate.verdicts import Verdict
from robbench.record import Seconds
from robbench.report import Bundle, read_bundle
from robbench.report.bundle import encode_bundle
from robbench.store.store import Store

DIGEST = "ab" * 32
PLACES = st.floats(0, 1, exclude_max=True), st.integers(0, 7)
"""Where in a file, and which bit."""


def flipped(data: bytes, at: float, bit: int) -> bytes:
    """The same with one bit turned over."""
    changed = bytearray(data)
    changed[int(at * len(data))] ^= 1 << bit
    return bytes(changed)


def check(path: Path, data: bytes, read: Callable[[], object], expected: object) -> None:
    """With these bytes, reading is an error that names the file, or gives what was written."""
    path.write_bytes(data)
    fault, found = attempt(read)
    assert str(path) in fault if fault else found == expected


def attempt(read: Callable[[], object]) -> tuple[str, Any]:
    """The message of the error that reading raised, or what was read."""
    try:
        return "", read()
    except RobbenchError as error:
        return str(error), None


def plain(tensors: dict[str, torch.Tensor]) -> dict[str, object]:
    """Tensors as values that can be compared bit by bit."""
    return {
        name: (tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist())
        for name, tensor in tensors.items()
    }


def tensors() -> dict[str, torch.Tensor]:
    """A matrix, a counter, half precision and nothing."""
    return {
        "weights/a": torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
        "weights/n": torch.tensor(7),
        "weights/h": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "weights/none": torch.zeros(0, 4),
    }


# --- the store --------------------------------------------------------------------------------------------------------


@functools.cache
def stored() -> dict[str, bytes]:
    """The files of a finished stage and of an unfinished one."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name), "run")
        store.finish(training_record(make_facts(), digest=DIGEST), tensors(), inputs="11" * 32)
        store.save_checkpoint(DIGEST, tensors(), {"history": [1, 2.5], "inputs": "22" * 32})
        return {path.name: path.read_bytes() for path in Path(name).rglob("*.*")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store to damage: every example writes the file that it damages, and the others are whole."""
    made = Store(tmp_path_factory.mktemp("damaged"), "run")
    folder = made.folder / DIGEST[:2] / DIGEST
    folder.mkdir(parents=True)
    for name, data in stored().items():
        (folder / name).write_bytes(data)
    return made


def read_all(store: Store) -> object:
    """Everything that the store says of the stage."""
    found = store.load_checkpoint(DIGEST)
    assert found is not None
    return store.finished(DIGEST), plain(store.weights(DIGEST)), plain(found[0]), found[1]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["stage.json", "weights.safetensors", "checkpoint.safetensors"]), *PLACES)
def test_a_flipped_bit_in_the_store_is_never_used(store: Store, name: str, at: float, bit: int) -> None:
    """In a record, in weights, in a checkpoint, in their headers and checksums."""
    path = store.folder / DIGEST[:2] / DIGEST / name
    whole = stored()[name]
    path.write_bytes(whole)
    expected = read_all(store)
    check(path, flipped(whole, at, bit), lambda: read_all(store), expected)
    path.write_bytes(whole)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["stage.json", "weights.safetensors", "checkpoint.safetensors"]), PLACES[0])
def test_a_cut_file_in_the_store_is_refused(store: Store, name: str, share: float) -> None:
    """Wherever it ends."""
    path = store.folder / DIGEST[:2] / DIGEST / name
    whole = stored()[name]
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RobbenchError, match=r"is damaged .*; remove its folder") as caught:
        read_all(store)
    assert str(path) in str(caught.value)
    path.write_bytes(whole)


def test_a_changed_figure_of_a_finished_stage_is_refused(store: Store) -> None:
    """Valid JSON of the right schema, with another number of seconds: only the checksum can tell."""
    path = store.folder / DIGEST[:2] / DIGEST / "stage.json"
    values = json.loads(path.read_text())
    values["record"]["seconds"]["training"] = 1.0
    path.write_text(json.dumps(values))
    with pytest.raises(RobbenchError, match=r"stage\.json is damaged \(its SHA-256 is not the one that was written\)"):
        store.finished(DIGEST)
    path.write_bytes(stored()["stage.json"])


def test_layout_and_order_of_a_stage_do_not_matter(store: Store) -> None:
    """The checksum is over what the file says, not over how it is written down."""
    path = store.folder / DIGEST[:2] / DIGEST / "stage.json"
    before = store.finished(DIGEST)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(values.items())), indent=7))
    assert store.finished(DIGEST) == before
    path.write_bytes(stored()["stage.json"])


def test_files_from_before_there_were_checksums_are_read(store: Store) -> None:
    """A stage and a checkpoint without one."""
    folder = store.folder / DIGEST[:2] / DIGEST
    before = read_all(store)
    values = json.loads((folder / "stage.json").read_text())
    del values["sha256"]
    (folder / "stage.json").write_text(json.dumps(values))
    from safetensors.torch import save

    old = save(tensors(), metadata={"state": json.dumps({"history": [1, 2.5], "inputs": "22" * 32})})
    (folder / "checkpoint.safetensors").write_bytes(old)
    found = read_all(store)
    assert msgspec.structs.replace(found[0], sha256=before[0].sha256) == before[0]
    assert found[1:] == before[1:]
    for name, data in stored().items():
        (folder / name).write_bytes(data)


# --- records ----------------------------------------------------------------------------------------------------------


def bundle() -> Bundle:
    """Both stages of a model, with a verdict."""
    verdict = Verdict(suite="demo", case="c", stage="robustness", figure="accuracy", mark="=", message="m")
    return Bundle(title="t", command="c", verdicts=[verdict], records=both_records(make_facts(), [1, 2, -1]))


@settings(max_examples=300, deadline=None)
@given(*PLACES)
def test_a_flipped_bit_in_records_is_never_used(tmp_path_factory, at: float, bit: int) -> None:
    """Any figure, name or bracket of ``records.json``."""
    path = tmp_path_factory.mktemp("bundle") / "records.json"
    path.write_bytes(encode_bundle(bundle()))
    expected = read_bundle(path)
    check(path, flipped(path.read_bytes(), at, bit), lambda: read_bundle(path), expected)


def test_an_altered_record_is_named_with_what_to_do(tmp_path: Path) -> None:
    """A better p* written by hand; without the checksum's line it counts, as in files from before there was one."""
    path = tmp_path / "records.json"
    path.write_bytes(encode_bundle(bundle()))
    text = path.read_text().replace('"pstar":[1,2,-1]', '"pstar":[4,4,-1]')
    path.write_text(text)
    with pytest.raises(RobbenchError, match=r"records\.json' was altered after it was written: .* remove its line"):
        read_bundle(path)
    values = json.loads(text)
    assert list(values)[-1] == "sha256"
    del values["sha256"]
    path.write_text(json.dumps(values))
    tested = next(record for record in read_bundle(path).records if record.robustness)
    assert tested.robustness.pstar == [4, 4, -1]


@pytest.mark.parametrize("part", ["record", "training"])
@pytest.mark.parametrize("name", sorted(["robustness", "training"]))
def test_a_record_round_trips_through_the_store_with_any_floats(tmp_path: Path, part: str, name: str) -> None:
    """Integers where floats are expected, tiny and huge numbers: the checksum is over what was written."""
    trained, tested = both_records(
        make_facts(), [1, 2, -1], digest=DIGEST, spec={"a": 1, "b": 1e-300, "c": [1.0, 1e22]}
    )
    record = msgspec.structs.replace(trained if name == "training" else tested, seconds=Seconds(io=1, warm_up=1e-17))
    store = Store(tmp_path, part)
    store.finish(record)
    finished = store.finished(DIGEST)
    assert finished is not None
    assert finished.record == record


# --- prepared data ----------------------------------------------------------------------------------------------------


@functools.cache
def prepared() -> bytes:
    """A small prepared file."""
    images, labels = np.arange(6 * 36, dtype=np.uint8).reshape(6, 6, 6), np.arange(6) % 3
    buffer = io.BytesIO()
    names = np.array(["a", "b", "c"])
    np.savez(buffer, x_train=images, y_train=labels, x_test=images[::-1], y_test=labels[::-1], classes=names)
    return buffer.getvalue()


@settings(max_examples=400, deadline=None)
@given(*PLACES)
def test_a_flipped_bit_in_prepared_data_is_never_used(tmp_path_factory, at: float, bit: int) -> None:
    """The archive's own CRC-32 covers pixels, labels, names and shapes; what lies between them says nothing."""
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    path.write_bytes(prepared())
    expected = read_npz(path, "mine").sha256
    check(path, flipped(prepared(), at, bit), lambda: read_npz(path, "mine").sha256, expected)


@settings(max_examples=200, deadline=None)
@given(*PLACES, st.booleans())
def test_planning_with_damaged_data_is_an_error_or_an_answer(tmp_path_factory, at: float, bit: int, cut: bool) -> None:
    """``robbench plan`` reads shapes alone, without the images that the checksum is over."""
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    path.write_bytes(prepared()[: int(at * len(prepared()))] if cut else flipped(prepared(), at, bit))
    fault, found = attempt(lambda: sizes("mine", path.parent))
    if fault:
        assert str(path) in fault
    else:
        assert not cut
        assert min(found.train, found.test) >= 0


def test_the_pictures_of_a_bundle_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bundle has beside its records is made from them: damage there is mended by making it again."""
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [])
    robbench.report.bundle.write_bundle(tmp_path, bundle())
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for name in ("report.md", "results.csv", "pstar.csv.gz"):
        (tmp_path / name).write_bytes(b"\xff damaged")
    robbench.report.bundle.write_bundle(tmp_path, read_bundle(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == whole
