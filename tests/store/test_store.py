"""The store: what was written comes back, a stage counts only when finished, and nobody else touches a locked one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading

import pytest
import torch
from factories import make_facts, robustness_record, training_record
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import DIGEST, OTHER, files, record, tensors

from robbench.errors import RobbenchError
from robbench.store.store import Store


@pytest.fixture
def store(tmp_path):
    """A store in a folder that does not exist yet."""
    return Store(tmp_path / "deep" / "store", run="first")


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
    import robbench.store.files

    replace = robbench.store.files.os.replace

    def crash(source, target):
        if str(target).endswith("stage.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(robbench.store.files.os, "replace", crash)
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
    import robbench.store.files

    store.finish(record(), tensors())
    replace = robbench.store.files.os.replace

    def crash(source, target):
        if point in target.name:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(robbench.store.files.os, "replace", crash)
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


def test_a_store_that_cannot_be_locked_says_why(store, monkeypatch):
    """A file in its folder's place."""
    store.folder.parent.mkdir(parents=True)
    store.folder.write_text("not a folder")
    with pytest.raises(RobbenchError, match=r"store .* cannot be locked: .+"), store.lock(DIGEST):
        pytest.fail("locked")


@pytest.mark.parametrize("older", [False, True])
def test_what_cannot_be_removed_is_an_error(store, older):
    """A folder that lies where a stage's own or another stage's file would: named, with the reason."""
    store.finish(record(), tensors())
    ending = "" if older else "-2"
    path = files(store)["stage.json"].parent / f"weights{ending}.safetensors"
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(RobbenchError, match=rf"weights{ending}\.safetensors cannot be removed: .+"):
        store.finish(record())


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


def test_what_a_killed_write_left_is_removed_by_the_next_to_make_the_stage(store, monkeypatch):
    """A file that was never given its name would stay for ever; files of other stages, and finished ones, do stay."""
    store.finish(record(), tensors())
    with store.lock(DIGEST), store.lock(OTHER), monkeypatch.context() as killed:
        killed.setattr("pathlib.Path.unlink", lambda *arguments, **options: None)
        killed.setattr("os.replace", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        for digest in (DIGEST, OTHER):
            with pytest.raises(KeyboardInterrupt):
                store.save_checkpoint(digest, tensors(), {})

    def left():
        return [path.parent.name for path in store.folder.rglob(".*")]

    assert sorted(left()) == sorted([DIGEST, OTHER])
    with store.lock(DIGEST):
        assert left() == [OTHER]
    assert store.finished(DIGEST).record == record()
