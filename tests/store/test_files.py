"""Files are written whole or not at all."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robbench.errors import RobbenchError
from robbench.store.files import write_atomically


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_a_file_holds_the_bytes_last_written(tmp_path_factory, first, second):
    """In folders made on the way, with nothing left beside it, readable by others."""
    path = tmp_path_factory.mktemp("files") / "a" / "b.json"
    for data in (first, second):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [file.name for file in path.parent.iterdir()] == ["b.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    """Whatever fails, and as a RobbenchError that names the file where it is the system's."""
    path = tmp_path / "b.json"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    def stopped(*_):
        raise KeyboardInterrupt

    for function, fault, expected in (("fsync", full, RobbenchError), ("replace", stopped, KeyboardInterrupt)):
        monkeypatch.setattr(os, function, fault)
        with pytest.raises(expected) as caught:
            write_atomically(path, b"new")
        monkeypatch.undo()
        if expected is RobbenchError:
            assert str(caught.value) == f"{str(path)!r} cannot be written: No space left on device"
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["b.json"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    """Not a traceback of mkdir."""
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(RobbenchError, match=r"'.*a/b\.json' cannot be written: "):
        write_atomically(tmp_path / "a" / "b.json", b"")
