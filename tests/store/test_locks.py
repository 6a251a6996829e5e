"""A stage is made by one process at a time, and who waits is told for whom."""

from __future__ import annotations

import multiprocessing
import os
import threading

import pytest

import robbench.store.locks
from robbench.errors import RobbenchError
from robbench.store import Store
from robbench.store.locks import locked

FORK = multiprocessing.get_context("fork")
KEY = "ab" * 32


def add_one(folder, times):
    """Read a number, and write the next one, many times."""
    for _ in range(times):
        with locked(folder / "lock", "a number"):
            path = folder / "number"
            path.write_text(str(int(path.read_text()) + 1))


def test_no_process_overlooks_what_another_wrote(tmp_path):
    """Four processes that count in one file get to the sum."""
    (tmp_path / "number").write_text("0")
    processes = [FORK.Process(target=add_one, args=(tmp_path, 10)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "40"


def hold(folder, held, free):
    """Hold a stage until told to let go."""
    with Store(folder).lock(KEY):
        held.set()
        free.wait()


def test_who_waits_for_a_stage_is_told_for_whom(tmp_path, monkeypatch):
    """Process and stage, once; another stage is free, and so is this one as soon as its holder has ended."""
    monkeypatch.setattr(robbench.store.locks, "PATIENCE", 0.05)
    held, free, said = FORK.Event(), FORK.Event(), []
    process = FORK.Process(target=hold, args=(tmp_path, held, free))
    process.start()
    held.wait()
    with Store(tmp_path).lock("0c" * 32, "another", said.append):
        assert said == []

    def tell(text):
        said.append(text)
        free.set()

    with Store(tmp_path).lock(KEY, "cnn7.training", tell):
        process.join()
    (line,) = said
    assert line.startswith(f"waiting for process {process.pid} on ")
    assert line.endswith(", which is making cnn7.training")


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    """The system lets go of it."""
    held = FORK.Event()
    process = FORK.Process(target=hold, args=(tmp_path, held, FORK.Event()))
    process.start()
    held.wait()
    process.kill()
    process.join()
    with Store(tmp_path).lock(KEY, say=lambda text: pytest.fail(text)):
        pass


def test_threads_exclude_each_other(tmp_path):
    """As processes do."""
    order = []

    def work():
        with locked(tmp_path / "lock", "it"):
            order.append("other")

    with locked(tmp_path / "lock", "it"):
        thread = threading.Thread(target=work)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_what_a_killed_write_left_is_removed_by_the_next_to_make_the_stage(tmp_path):
    """Under its lock nobody else can be writing."""
    store = Store(tmp_path)
    with store.lock(KEY):
        left = store.state_path(KEY).parent / f".writing-{os.getpid()}"
        left.write_bytes(b"half")
    with store.lock(KEY):
        assert not left.exists()


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path):
    """A file in the place of its folder is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RobbenchError, match=r"file.* cannot be locked: "), locked(tmp_path / "file" / "lock", "it"):
        pytest.fail("held")
