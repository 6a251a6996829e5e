"""The store: what was written comes back, a stage counts only when finished, and damage names its file."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import torch
from factories import make_facts, robustness_record, training_record
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from robbench.errors import RobbenchError
from robbench.store import Store

DIGEST = "ab" * 32
OTHER = "0c" * 32


@pytest.fixture
def store(tmp_path):
    """A store in a folder that does not exist yet."""
    return Store(tmp_path / "deep" / "store", run="first")


def record(digest=DIGEST):
    """A training record of a digest."""
    return training_record(make_facts(), digest=digest)


def tensors():
    """Weights of every kind: a matrix, a scalar counter, an empty one, and half precision."""
    return {
        "conv1.weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
        "bn.num_batches_tracked": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    }


def files(store):
    """Every file of the store, by its path, without locks."""
    return {path.name: path for path in store.folder.rglob("*") if path.is_file() and path.name != "lock"}


def same(one, other):
    """Whether two mappings of tensors are bit by bit and type by type the same."""
    return one.keys() == other.keys() and all(
        value.dtype == other[key].dtype and value.shape == other[key].shape and torch.equal(value, other[key])
        for key, value in one.items()
    )


def test_a_finished_stage_comes_back_as_it_was(store):
    """Record, run and weights are what was written, for another store object of the same folder too."""
    store.finish(record(), tensors())
    for again in (store, Store(store.folder, run="second")):
        finished = again.finished(DIGEST)
        assert finished.record == record()
        assert finished.run == "first"
        assert same(again.weights(DIGEST), tensors())
    assert store.finished(OTHER) is None


def test_a_stage_without_weights_has_none(store):
    """A robustness stage is finished without weights, and asking for them is an error that names the file."""
    store.finish(robustness_record(make_facts(), [1, 2], digest=DIGEST))
    assert store.finished(DIGEST).weights_sha256 is None
    with pytest.raises(RobbenchError, match=r"weights\.safetensors is damaged"):
        store.weights(DIGEST)


def test_a_stage_is_finished_only_after_finish(store):
    """With a checkpoint or with weights alone there is no finished stage; finishing drops the checkpoint."""
    assert store.finished(DIGEST) is None
    store.save_checkpoint(DIGEST, tensors(), {"epoch": 1})
    assert store.finished(DIGEST) is None
    store.finish(record(), tensors())
    assert store.finished(DIGEST) is not None
    assert store.load_checkpoint(DIGEST) is None
    assert set(files(store)) == {"stage.json", "weights.safetensors"}


def test_a_crash_between_weights_and_stage_leaves_the_stage_unfinished(store, monkeypatch):
    """stage.json is written last, and a failed write leaves no temporary file behind."""
    store.save_checkpoint(DIGEST, {}, {"epoch": 1})
    import robbench.record

    replace = robbench.record.os.replace

    def crash(source, target):
        if str(target).endswith("stage.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(robbench.record.os, "replace", crash)
    with pytest.raises(RobbenchError, match=r"stage\.json' cannot be written: No space left on device"):
        store.finish(record(), tensors())
    assert store.finished(DIGEST) is None
    assert store.load_checkpoint(DIGEST) == ({}, {"epoch": 1})
    assert set(files(store)) == {"weights.safetensors", "checkpoint.safetensors"}


def test_counterexamples_come_back_as_they_were(store):
    """Bit by bit, none at all included; a stage that kept none has none, and making it again without drops the old."""
    assert store.adversarials(DIGEST) is None
    images = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for kept in (images, images[:0]):
        store.finish(robustness_record(make_facts(), [1, 2], digest=DIGEST), adversarials=kept)
        assert torch.equal(store.adversarials(DIGEST), kept)
        assert sorted(re.sub("-2", "", name) for name in files(store)) == ["adversarials.safetensors", "stage.json"]
    store.finish(robustness_record(make_facts(), [1, 2], digest=DIGEST))
    assert store.adversarials(DIGEST) is None
    assert set(files(store)) == {"stage.json"}


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


def test_a_finished_stage_knows_its_inputs(store):
    """What they were, or that there was no source."""
    store.finish(record(), inputs="these")
    store.finish(record(OTHER))
    assert store.finished(DIGEST).inputs == "these"
    assert store.finished(OTHER).inputs is None


def test_the_places_of_files_stay_the_same(store):
    """Stores that exist are found again by later versions: a folder per digest under its first two characters."""
    store.finish(record(), tensors())
    store.save_checkpoint(OTHER, tensors(), {})
    assert {str(path.relative_to(store.folder)) for path in files(store).values()} == {
        f"ab/{DIGEST}/stage.json",
        f"ab/{DIGEST}/weights.safetensors",
        f"0c/{OTHER}/checkpoint.safetensors",
    }


def test_a_stage_made_again_replaces_the_first(store):
    """Finishing a digest a second time replaces record, run and weights together."""
    store.finish(record(), tensors())
    later = Store(store.folder, run="second")
    changed = {"w": torch.ones(2)}
    later.finish(training_record(make_facts(), seconds=99.0, digest=DIGEST), changed)
    assert store.finished(DIGEST).run == "second"
    assert store.finished(DIGEST).record.seconds.training == 99.0
    assert same(store.weights(DIGEST), changed)


def again(store, value=1.0):
    """Finish the digest once more, with other weights."""
    Store(store.folder, run="second").finish(record(), {"w": torch.full((2,), value)})


@pytest.mark.parametrize("point", ["weights", "stage.json"])
def test_a_stage_that_is_made_again_stands_until_the_new_one_is_whole(store, monkeypatch, point):
    """Whatever fails on the way: the old record and the old weights are still there, and the next try replaces both."""
    import robbench.record

    store.finish(record(), tensors())
    replace = robbench.record.os.replace

    def crash(source, target):
        if point in target.name:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(robbench.record.os, "replace", crash)
        with pytest.raises(RobbenchError, match="No space left"):
            again(store)
    assert store.finished(DIGEST).run == "first"
    assert same(store.weights(DIGEST), tensors())
    for value in (2.0, 3.0):
        again(store, value)
        assert store.finished(DIGEST).run == "second"
        assert same(store.weights(DIGEST), {"w": torch.full((2,), value)})
        assert len(files(store)) == 2


def test_a_reader_without_the_lock_gets_one_stage_or_the_other(store, monkeypatch):
    """Where another process makes the stage again between its reading of stage.json and of the weights, it gets the new."""
    store.finish(record(), tensors())
    finished, calls = Store.finished, []

    def overtaken(self, digest):
        stage = finished(self, digest)
        calls.append(stage)
        if len(calls) == 1:
            again(store)
        return stage

    monkeypatch.setattr(Store, "finished", overtaken)
    assert same(store.weights(DIGEST), {"w": torch.ones(2)})


def test_a_store_of_an_older_version_is_read(store):
    """A stage.json that says neither when it was finished nor where its weights are, and has no checksum."""
    store.finish(record(), tensors())
    path = files(store)["stage.json"]
    values = json.loads(path.read_text())
    del values["finished"], values["sha256"]
    assert "ending" not in values
    path.write_text(json.dumps(values))
    assert store.finished(DIGEST).finished == 0
    assert same(store.weights(DIGEST), tensors())


def test_weights_elsewhere_are_refused(store):
    """A stage.json that names another file as its weights is damaged."""
    store.finish(record(), tensors())
    path = files(store)["stage.json"]
    values = json.loads(path.read_text()) | {"ending": "/../../other"}
    del values["sha256"]
    path.write_text(json.dumps(values))
    with pytest.raises(RobbenchError, match=r"stage\.json is damaged"):
        store.weights(DIGEST)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_a_checkpoint_comes_back_as_it_was(tmp_path_factory, values):
    """Tensors bit by bit, and any JSON values, exact floats included; saving again replaces both."""
    store = Store(tmp_path_factory.mktemp("store"), run="first")
    assert store.load_checkpoint(DIGEST) is None
    store.save_checkpoint(DIGEST, {"old": torch.ones(3)}, {"old": True})
    store.save_checkpoint(DIGEST, tensors(), values)
    loaded, returned = store.load_checkpoint(DIGEST)
    assert same(loaded, tensors())
    assert returned == values
    assert store.load_checkpoint(OTHER) is None


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


@pytest.mark.parametrize("metadata", [None, {"other": "{}"}, {"state": "{"}], ids=["none", "another", "cut"])
def test_a_checkpoint_without_its_values_is_damaged(store, metadata):
    """A safetensors file that somebody else wrote, or one with other metadata, is no checkpoint."""
    store.save_checkpoint(DIGEST, tensors(), {"epoch": 1})
    path = files(store)["checkpoint.safetensors"]
    path.write_bytes(safetensors.torch.save(tensors(), metadata=metadata))
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged"):
        store.load_checkpoint(DIGEST)


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


@pytest.mark.parametrize("digest", ["", "ab", "AB" * 32, "../" * 21 + "a", "g" * 64, "ab" * 33])
def test_a_digest_must_be_one(store, digest):
    """Anything but 64 hexadecimal digits is refused by every method, so that no path leaves the folder."""
    for method in (store.finished, store.weights, store.load_checkpoint):
        with pytest.raises(RobbenchError, match="expected a SHA-256 in hexadecimal"):
            method(digest)
    with pytest.raises(RobbenchError, match="expected a SHA-256"), store.lock(digest):
        pytest.fail("locked")
    with pytest.raises(RobbenchError, match="expected a SHA-256"):
        store.save_checkpoint(digest, {}, {})


def test_a_writable_folder_is_made_and_left_empty(store):
    """The check makes the folder and leaves nothing in it."""
    store.check_writable()
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("below", [False, True])
def test_a_file_in_the_folders_place_is_an_error(tmp_path, below):
    """Where the store or its parent is a file, the check names the path."""
    (tmp_path / "store").write_text("not a folder")
    folder = tmp_path / "store" / "inner" if below else tmp_path / "store"
    with pytest.raises(RobbenchError, match=r"store.* cannot be written: .+"):
        Store(folder, run="r").check_writable()


def test_a_lock_excludes_another_thread_until_it_is_free(store):
    """While one thread holds a digest, another waits for it; another digest is free."""
    order, entered = [], threading.Event()

    def other():
        entered.set()
        with Store(store.folder, run="x").lock(DIGEST):
            order.append("other")

    with store.lock(DIGEST):
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        with Store(store.folder, run="x").lock(OTHER):
            order.append("free")
        thread.join(timeout=0.3)
        assert thread.is_alive()
        order.append("first")
    thread.join(timeout=10)
    assert order == ["free", "first", "other"]


TRY = """
import sys
from filelock import FileLock, Timeout
try:
    with FileLock(sys.argv[1], timeout=0.1):
        print("free")
except Timeout:
    print("held")
"""


def test_a_lock_excludes_another_process(store):
    """Another process finds the digest held while it is, and free afterwards, even after an error."""

    def state():
        path = next(store.folder.rglob("lock"))
        done = subprocess.run([sys.executable, "-c", TRY, str(path)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def hold():
        with store.lock(DIGEST):
            assert state() == "held"
            raise KeyError("mine")

    with pytest.raises(KeyError):
        hold()
    assert state() == "free"
