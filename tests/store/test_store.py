"""The store: what was written comes back, a stage counts only when finished, and damage is named."""

from __future__ import annotations

import pytest
import torch
from factories import make_facts, robustness_record, training_record
from hypothesis import given
from hypothesis import strategies as st

import robbench.store.files
from robbench.errors import RobbenchError
from robbench.store import Store

KEY, OTHER = "ab" * 32, "0c" * 32


def tensors():
    """Weights of every kind: a matrix, a scalar counter, an empty one, and half precision."""
    return {
        "conv1.weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
        "bn.num_batches_tracked": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    }


def same(one, other):
    """Whether two mappings of tensors are bit by bit and type by type the same."""
    return one.keys() == other.keys() and all(
        value.dtype == other[key].dtype and torch.equal(value, other[key]) for key, value in one.items()
    )


def names(store):
    """The kinds of files of stages, without locks and checksums."""
    files = (
        path
        for path in store.folder.rglob("*")
        if path.is_file() and path.name != "lock" and path.parent.name != "tasks"
    )
    return sorted(f"{path.name.partition('.')[0]}{path.suffix}" for path in files)


@pytest.fixture
def store(tmp_path):
    """A store in a folder that does not exist yet."""
    return Store(tmp_path / "deep" / "store")


def test_a_finished_stage_comes_back_as_it_was(store):
    """Record and weights are what was written, also for another store object; the record names its key."""
    store.finish(KEY, training_record(make_facts()), tensors())
    for again in (store, Store(store.folder)):
        assert again.finished(KEY).record == training_record(make_facts(), key=KEY)
        assert same(again.weights(again.finished(KEY)), tensors())
    assert store.finished(OTHER) is None


def test_counterexamples_come_back_as_they_were(store):
    """None at all included; a stage made again without them has none, and no weights."""
    record = robustness_record(make_facts(), [1, 2])
    images = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    for kept in (images, images[:0]):
        store.finish(KEY, record, adversarials=kept)
        assert torch.equal(store.adversarials(KEY), kept)
        assert names(store) == ["adversarials.safetensors", "stage.json"]
    finished = store.finish(KEY, record)
    assert store.adversarials(KEY) is None
    with pytest.raises(RobbenchError, match="expected a stage that made weights, this one made none"):
        store.weights(finished)


def test_a_stage_is_finished_only_after_finish(store):
    """Saved state alone is no result; finishing drops it."""
    store.save_state(KEY, {"training": tensors()})
    assert store.finished(KEY) is None
    store.finish(KEY, training_record(make_facts()), tensors())
    assert store.load_state(KEY) is None
    assert names(store) == ["stage.json", "weights.safetensors"]


def test_a_stage_made_again_replaces_the_first(store):
    """Record and weights together, and nothing is left of the old ones."""
    first = store.finish(KEY, training_record(make_facts()), tensors())
    new = {"conv1.weight": torch.ones(2)}
    store.finish(KEY, training_record(make_facts(), epochs=5), new)
    assert len(store.finished(KEY).record.training.epochs) == 5
    assert same(store.weights(store.finished(KEY)), new)
    with pytest.raises(RobbenchError, match="another run made its weights again meanwhile; run again"):
        store.weights(first)
    assert names(store) == ["stage.json", "weights.safetensors"]


@pytest.mark.parametrize("file", ["weights", "stage.json"])
def test_a_stage_that_is_made_again_stands_until_the_new_one_is_whole(store, monkeypatch, file):
    """Whichever file cannot be written: old record, old weights and the saved state are still there."""
    store.finish(KEY, training_record(make_facts()), tensors())
    store.save_state(KEY, {"epoch": 3})
    replace = robbench.store.files.os.replace

    def full(source, target):
        if target.name.startswith(file):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(robbench.store.files.os, "replace", full)
    with pytest.raises(RobbenchError, match=f"{file}.*cannot be written: No space left on device"):
        store.finish(KEY, training_record(make_facts(), epochs=5), {"conv1.weight": torch.ones(2)})
    assert len(store.finished(KEY).record.training.epochs) == 3
    assert same(store.weights(store.finished(KEY)), tensors())
    assert store.load_state(KEY) == {"epoch": 3}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text("abc", min_size=1), JSON, max_size=3))
def test_saved_state_comes_back_as_it_was(tmp_path_factory, values):
    """Tensors at any depth, and any JSON values, exact floats included; saving again replaces all."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.save_state(KEY, {"old": tensors()})
    store.save_state(KEY, {"p*": {"deep": tensors(), "values": values}, "n": 1.5})
    state = store.load_state(KEY)
    assert same(state["p*"].pop("deep"), tensors())
    assert state == {"p*": {"values": values}, "n": 1.5}
    store.drop_state(KEY)
    assert store.load_state(KEY) is None


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[:-3] + bytes([data[-3] ^ 16]) + data[-2:],
    "empty": lambda data: b"",
    "pickle": lambda data: b"\x80\x04\x95garbage.",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("kind", ["weights", "adversarials"])
def test_damaged_tensors_name_their_file(store, kind, damage):
    """What is read is what was written, or one error that says what to remove."""
    finished = store.finish(KEY, training_record(make_facts()), tensors(), adversarials=torch.ones(2, 1, 2, 2))
    (path,) = store.folder.rglob(f"{kind}.*")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RobbenchError, match=rf"{kind}\..* is damaged .*; remove the folder .*{KEY} and run again"):
        store.weights(finished) if kind == "weights" else store.adversarials(KEY)
    path.unlink()
    with pytest.raises(RobbenchError, match=rf"{kind}\..* is damaged"):
        store.weights(finished) if kind == "weights" else store.adversarials(KEY)


@pytest.mark.parametrize("damage", [DAMAGE["cut"], DAMAGE["empty"], DAMAGE["pickle"], lambda data: b'{"record": 1}'])
def test_a_damaged_stage_or_state_names_its_file(store, damage):
    """Cut short, empty, no JSON, or JSON of another layout; or a folder where the file should be."""
    store.finish(KEY, training_record(make_facts()), tensors())
    store.save_state(OTHER, {"weights": tensors()})
    for path, read in (
        (next(store.folder.rglob("stage.json")), store.finished),
        (store.state_path(OTHER), store.load_state),
    ):
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(RobbenchError, match=rf"{path.name} is damaged"):
            read(KEY if path.name == "stage.json" else OTHER)
        path.unlink()
        path.mkdir()
        with pytest.raises(RobbenchError, match=rf"{path.name} is damaged"):
            read(KEY if path.name == "stage.json" else OTHER)


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    """The check before a run names the path; it leaves nothing in a folder that can be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RobbenchError, match=r"file.* cannot be written"):
        Store(tmp_path / "file" / "below").check_writable()
    Store(tmp_path / "new").check_writable()
    assert [*(tmp_path / "new").iterdir()] == []
