"""The store's files, cut, garbled, edited or of another's making: refused by name."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
import safetensors
import safetensors.torch
import torch
from factories import make_facts, robustness_record
from safetensors.torch import save_file
from stored import DIGEST, OTHER, files, record, tensors

from robbench.errors import RobbenchError
from robbench.store.store import Store


@pytest.fixture
def store(tmp_path):
    """A store in a folder that does not exist yet."""
    return Store(tmp_path / "deep" / "store", run="first")


def cut(path):
    """The first half of a file's bytes."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path):
    """Other bytes in the last place."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(bytes(data))


def empty(path):
    """No bytes at all."""
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, garble, empty])
def test_a_damaged_stage_names_its_file(store, damage):
    """A stage.json that is cut short, garbled or empty is an error that names it and says what to do."""
    store.finish(record(), tensors())
    path = files(store)["stage.json"]
    damage(path)
    with pytest.raises(RobbenchError, match=r"stage\.json is damaged .*; remove its folder .* and run again") as caught:
        store.finished(DIGEST)
    assert str(path.parent) in str(caught.value)


def test_the_order_of_a_stages_keys_is_no_damage(store):
    """The checksum is of what the file says, as any tool may have written it again."""
    store.finish(record(), tensors())
    path = files(store)["stage.json"]
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert store.finished(DIGEST).record == record()


@pytest.mark.parametrize("damage", [cut, garble, empty, lambda path: path.unlink()])
def test_damaged_weights_name_their_file(store, damage):
    """Weights that are cut short, garbled, empty or gone are an error that names them."""
    store.finish(record(), tensors())
    path = files(store)["weights.safetensors"]
    damage(path)
    with pytest.raises(RobbenchError, match=r"weights\.safetensors is damaged") as caught:
        store.weights(DIGEST)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [cut, garble, empty, lambda path: path.unlink()])
def test_damaged_counterexamples_name_their_file(store, damage):
    """As damaged weights do."""
    store.finish(robustness_record(make_facts(), [1, 2], digest=DIGEST), adversarials=torch.zeros(2, 1, 2, 2))
    path = files(store)["adversarials.safetensors"]
    damage(path)
    with pytest.raises(RobbenchError, match=r"adversarials\.safetensors is damaged") as caught:
        store.adversarials(DIGEST)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [cut, empty])
def test_a_damaged_checkpoint_names_its_file(store, damage):
    """A checkpoint that is cut short or empty is an error that names it."""
    store.save_checkpoint(DIGEST, tensors(), {"epoch": 1})
    damage(files(store)["checkpoint.safetensors"])
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged"):
        store.load_checkpoint(DIGEST)


def test_a_checkpoint_of_another_stage_is_refused(store):
    """Copied over this one's: whole, and of the same shapes, it would be gone on with."""
    store.save_checkpoint(OTHER, tensors(), {"epoch": 1})
    data = store.checkpoint_path(OTHER).read_bytes()
    store.save_checkpoint(DIGEST, tensors(), {"epoch": 2})
    store.checkpoint_path(DIGEST).write_bytes(data)
    with pytest.raises(RobbenchError, match=rf"is damaged \(it is another stage's, of digest {OTHER[:12]}"):
        store.load_checkpoint(DIGEST)


@pytest.mark.parametrize("metadata", [None, {"other": "{}"}, {"state": "{"}], ids=["none", "another", "cut"])
def test_a_checkpoint_without_its_values_is_damaged(store, metadata):
    """A safetensors file that somebody else wrote, or one with other metadata, is no checkpoint."""
    store.save_checkpoint(DIGEST, tensors(), {"epoch": 1})
    path = files(store)["checkpoint.safetensors"]
    path.write_bytes(safetensors.torch.save(tensors(), metadata=metadata))
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged"):
        store.load_checkpoint(DIGEST)


@pytest.mark.parametrize("name", ["run", "inputs", "finished", "record"])
def test_a_stage_that_was_edited_is_refused(store, name):
    """Valid JSON of the right types, which only its checksum tells from what was written."""
    store.finish(record(), tensors(), inputs="these")
    path = files(store)["stage.json"]
    values = json.loads(path.read_text())
    others = {"run": "another", "inputs": "those", "finished": 1.0, "record": values["record"] | {"suite": "another"}}
    path.write_text(json.dumps(values | {name: others[name]}))
    with pytest.raises(RobbenchError, match=r"stage\.json is damaged \(its SHA-256 is not the one that was written\)"):
        store.finished(DIGEST)


@pytest.mark.parametrize("part", ["values", "name", "shape", "dtype", "bytes"])
def test_a_checkpoint_that_was_edited_is_refused(store, part):
    """A whole safetensors file with other values, or a tensor of another name, shape, dtype or content."""
    store.save_checkpoint(DIGEST, {"a": torch.ones(2, 3)}, {"epoch": 1})
    path = files(store)["checkpoint.safetensors"]
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if part == "values":
        metadata["state"] = '{"epoch": 2}'
    changed = {
        "name": {"b": torch.ones(2, 3)},
        "shape": {"a": torch.ones(3, 2)},
        "dtype": {"a": torch.ones(2, 3).view(torch.int32)},
        "bytes": {"a": torch.ones(2, 3) * 2},
    }
    path.write_bytes(safetensors.torch.save(changed.get(part, {"a": torch.ones(2, 3)}), metadata=metadata))
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged \(its SHA-256 is not"):
        store.load_checkpoint(DIGEST)


@pytest.mark.parametrize("state", ["[1]", "7", "null"])
def test_a_checkpoint_whose_values_are_no_mapping_is_damaged(store, state):
    """Even one from before there were checksums."""
    store.save_checkpoint(DIGEST, {}, {})
    files(store)["checkpoint.safetensors"].write_bytes(safetensors.torch.save({}, metadata={"state": state}))
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged"):
        store.load_checkpoint(DIGEST)


def test_weights_of_a_dtype_that_torch_does_not_have_are_damaged(store):
    """A whole safetensors file with the SHA-256 that an old stage records, of numbers that four bits hold."""
    store.finish(record(), tensors())
    header = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(1)
    files(store)["weights.safetensors"].write_bytes(data)
    stage = files(store)["stage.json"]
    values = json.loads(stage.read_bytes()) | {"weights_sha256": hashlib.sha256(data).hexdigest()}
    stage.write_text(json.dumps({name: value for name, value in values.items() if name != "sha256"}))
    with pytest.raises(RobbenchError, match=r"weights\.safetensors is damaged \('F4'\); remove its folder"):
        store.weights(DIGEST)


@pytest.mark.parametrize("name", ["stage.json", "weights.safetensors", "checkpoint.safetensors"])
def test_a_folder_in_a_files_place_is_named(store, name):
    """What cannot be read is an error that names it, whatever the reason."""
    store.finish(record(), tensors())
    path = files(store)["stage.json"].parent / name
    path.unlink(missing_ok=True)
    path.mkdir()
    read = {"stage.json": store.finished, "weights.safetensors": store.weights}.get(name, store.load_checkpoint)
    with pytest.raises(RobbenchError) as caught:
        read(DIGEST)
    assert str(path) in str(caught.value)


def test_weights_without_their_stage_are_not_used(store):
    """A checksum is in stage.json: without it, nothing says that the weights are whole."""
    store.finish(record(), tensors())
    files(store)["stage.json"].unlink()
    with pytest.raises(RobbenchError, match=r"weights\.safetensors is damaged"):
        store.weights(DIGEST)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": "robbench.store/9"}, "schema 'robbench.store/9'"),
        ({"surprise": 1}, "surprise"),
        ({"run": 7}, "run"),
    ],
)
def test_a_stage_of_another_layout_is_an_error(store, change, reason):
    """A file of a later schema, with an unknown field or a wrong type is refused, and the message says why."""
    store.finish(record())
    path = files(store)["stage.json"]
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RobbenchError, match=reason):
        store.finished(DIGEST)


def test_a_stage_of_another_digest_is_an_error(store):
    """A folder copied to another digest's place is not taken for it."""
    store.finish(record())
    store.save_checkpoint(OTHER, {}, {})
    stage = files(store)["stage.json"]
    (files(store)["checkpoint.safetensors"].parent / "stage.json").write_bytes(stage.read_bytes())
    with pytest.raises(RobbenchError, match=f"digest {DIGEST[:12]}"):
        store.finished(OTHER)


def test_weights_that_are_no_tensors_are_damaged(store):
    """A file whose checksum holds, of a program that writes something else: the message is the reader's."""
    store.finish(record(), tensors())
    files(store)["weights.safetensors"].write_bytes(b"not tensors")
    values = json.loads(files(store)["stage.json"].read_text())
    del values["sha256"]
    checksum = hashlib.sha256(b"not tensors").hexdigest()
    files(store)["stage.json"].write_text(json.dumps(values | {"weights_sha256": checksum}))
    with pytest.raises(RobbenchError, match=r"weights\.safetensors is damaged \(.*header"):
        store.weights(DIGEST)


def test_tensors_under_other_names_are_no_counterexamples(store):
    """A file whose checksum holds and whose content is another is damaged all the same."""
    store.finish(robustness_record(make_facts(), [1, 2], digest=DIGEST), adversarials=torch.zeros(2, 1, 2, 2))
    save_file({"other": torch.zeros(1)}, files(store)["adversarials.safetensors"])
    values = json.loads(files(store)["stage.json"].read_text())
    del values["sha256"]
    checksum = hashlib.sha256(files(store)["adversarials.safetensors"].read_bytes()).hexdigest()
    files(store)["stage.json"].write_text(json.dumps(values | {"adversarials_sha256": checksum}))
    with pytest.raises(RobbenchError, match=r"adversarials\.safetensors is damaged \(it holds \['other'\]\)"):
        store.adversarials(DIGEST)


def test_weights_elsewhere_are_refused(store):
    """A stage.json that names another file as its weights is damaged."""
    store.finish(record(), tensors())
    path = files(store)["stage.json"]
    values = json.loads(path.read_text()) | {"ending": "/../../other"}
    del values["sha256"]
    path.write_text(json.dumps(values))
    with pytest.raises(RobbenchError, match=r"stage\.json is damaged"):
        store.weights(DIGEST)
