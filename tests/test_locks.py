"""A folder is held by one at a time, and nothing is left in it."""

from __future__ import annotations

import multiprocessing

import pytest

from robbench.errors import RobbenchError
from robbench.locks import locked


def add_one(folder, times):
    """Read a number, and write the next one, many times."""
    for _ in range(times):
        with locked(folder):
            path = folder / "number"
            path.write_text(str(int(path.read_text()) + 1))


def test_no_process_overlooks_what_another_wrote(tmp_path):
    """Four processes that count in one file get to the sum, although the lock's file comes and goes."""
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=add_one, args=(tmp_path, 10)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "40"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_who_holds_a_folder_may_hold_it_again(tmp_path):
    """And it stays held until the outer block ends."""
    with locked(tmp_path / "new"):
        with locked(tmp_path / "new"):
            pass
        assert len(list((tmp_path / "new").iterdir())) == 1
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    """A file in its place: the message names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RobbenchError, match=r"file' cannot be written: "), locked(tmp_path / "file"):
        pytest.fail("held")
