"""A folder is held by one at a time, and nothing is left in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import platform
import threading

import pytest

import robbench.store.locks
from robbench.cli import main
from robbench.errors import RobbenchError
from robbench.report import Bundle, write_bundle
from robbench.store.locks import among_the_living, locked
from robbench.store.store import Store

FORK = multiprocessing.get_context("fork")
DIGEST = "ab" * 32


def add_one(folder, times):
    """Read a number, and write the next one, many times."""
    for _ in range(times):
        with locked(folder):
            path = folder / "number"
            path.write_text(str(int(path.read_text()) + 1))


def test_no_process_overlooks_what_another_wrote(tmp_path):
    """Four processes that count in one file get to the sum, although the lock's file comes and goes."""
    (tmp_path / "number").write_text("0")
    processes = [FORK.Process(target=add_one, args=(tmp_path, 10)) for _ in range(4)]
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


@pytest.fixture
def _lockless(monkeypatch):
    """A file system that has no locks, as some network file systems have none."""

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("_lockless")
def test_a_file_system_without_locks_is_an_error(tmp_path):
    """For whoever wants a folder, a stage of a store, or to be counted; no other kind of lock is tried."""
    with pytest.raises(RobbenchError, match=r"cannot be written: Function not implemented"), locked(tmp_path):
        pytest.fail("held")
    with pytest.raises(RobbenchError, match=r"cannot be locked: Function not"), Store(tmp_path, "run").lock(DIGEST):
        pytest.fail("held")
    with pytest.raises(RobbenchError, match=r"cannot be written: Function"), among_the_living(tmp_path, 1.0, "a"):
        pytest.fail("held")


# --- living together --------------------------------------------------------------------------------------------------


def test_who_comes_while_another_lives_has_begun_with_it(tmp_path):
    """Also after that one has ended, as long as somebody lives who came in its time; then it begins anew."""
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        assert first.enter_context(among_the_living(tmp_path, 10.5, "a")) == 10.5
        assert second.enter_context(among_the_living(tmp_path, 20.0, "a")) == 10.5
        first.close()
        with among_the_living(tmp_path, 30.0, "a") as began:
            assert began == 10.5
        second.close()
        with among_the_living(tmp_path, 40.0, "a") as began:
            assert began == 40.0
    assert list(tmp_path.iterdir()) == []


def test_who_lives_by_other_code_does_not_count(tmp_path):
    """What it makes may be something else."""
    with among_the_living(tmp_path, 10.0, "a"), among_the_living(tmp_path, 20.0, "b") as began:
        assert began == 20.0


def test_another_users_file_tells_nothing(tmp_path, monkeypatch):
    """It may not be opened; the own run goes on."""

    def forbidden(lock, timeout=None):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "10.0-a-0123.living").write_text("")
    monkeypatch.setattr(robbench.store.locks.FileLock, "acquire", forbidden)
    assert list(robbench.store.locks._living(tmp_path, "a")) == []
    assert (tmp_path / "10.0-a-0123.living").exists()


def test_who_came_later_by_its_clock_does_not_count(tmp_path):
    """The clocks of two machines differ: one's own time stands where it is the earlier one."""
    with among_the_living(tmp_path, 20.0, "a"), among_the_living(tmp_path, 10.0, "a") as began:
        assert began == 10.0


def test_a_process_that_was_killed_does_not_live(tmp_path):
    """And the file that it left goes with the next to come."""
    entered = FORK.Event()
    process = FORK.Process(target=keep, args=(lambda: among_the_living(tmp_path, 10.0, "a"), entered, FORK.Event()))
    process.start()
    entered.wait(300)
    with among_the_living(tmp_path, 20.0, "a") as began:
        assert began == 10.0
    process.kill()
    process.join()
    assert len(list(tmp_path.iterdir())) == 1
    with among_the_living(tmp_path, 20.0, "a") as began:
        assert began == 20.0
        assert len(list(tmp_path.iterdir())) == 1


def test_a_living_process_file_that_cannot_be_made_is_an_error(tmp_path, monkeypatch):
    """As on a full disk."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(robbench.store.locks, "_living", full)
    with pytest.raises(RobbenchError, match=r"cannot be written: No space left"), among_the_living(tmp_path, 1.0, "a"):
        pytest.fail("entered")


# --- waiting ----------------------------------------------------------------------------------------------------------


def keep(lock, entered, left):
    """Hold a lock from one event to the other."""
    with lock():
        entered.set()
        left.wait(300)


@contextlib.contextmanager
def held(lock):
    """While another process holds it: that process, and how to let it go on."""
    entered, left = FORK.Event(), FORK.Event()
    process = FORK.Process(target=keep, args=(lock, entered, left))
    process.start()
    entered.wait(300)
    try:
        yield process, left
    finally:
        left.set()
        process.join()


@pytest.fixture
def _impatient(monkeypatch):
    """Who waits says so soon."""
    monkeypatch.setattr(robbench.store.locks, "PATIENCE", 0.05)


def told(left, said):
    """A ``say`` that notes what it gets, and lets the holder go only after many times the patience."""

    def say(text):
        said.append(text)
        threading.Timer(0.4, left.set).start()

    return say


@pytest.mark.usefixtures("_impatient")
def test_who_waits_for_a_folder_is_told_once_for_whom(tmp_path):
    """Process and machine; who comes to a free folder, or an own one, is told nothing."""
    said = []
    with held(lambda: locked(tmp_path)) as (process, left), locked(tmp_path, told(left, said)):
        pass
    assert said == [f"waiting for process {process.pid} on {platform.node()}, which holds {tmp_path}"]
    with locked(tmp_path, said.append), locked(tmp_path, said.append):
        pass
    assert len(said) == 1


@pytest.mark.usefixtures("_impatient")
def test_who_waits_for_a_stage_is_told_once_for_whom(tmp_path):
    """And which stage it is, by its name."""
    said, other = [], Store(tmp_path, run="other")
    with (
        held(lambda: other.lock(DIGEST, "cnn7 (robustness)")) as (process, left),
        Store(tmp_path, run="mine").lock(DIGEST, "cnn7 (robustness)", told(left, said)),
    ):
        pass
    assert said == [f"waiting for process {process.pid} on {platform.node()}, which holds cnn7 (robustness)"]


@pytest.mark.usefixtures("_impatient")
def test_workers_of_one_run_wait_without_a_word(tmp_path):
    """The run is at the stage itself."""
    said, store = [], Store(tmp_path, run="mine")
    with held(lambda: store.lock(DIGEST)) as (_, left):
        threading.Timer(0.4, left.set).start()
        with store.lock(DIGEST, say=said.append):
            pass
    assert said == []


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("text", [b"", b"\xff\xfe"])
def test_a_holder_that_does_not_say_who_it_is_is_another_process(tmp_path, text):
    """An older version's, or one whose disk was full."""
    said, path = [], tmp_path / DIGEST[:2] / DIGEST / "lock"
    with held(lambda: Store(tmp_path, run="other").lock(DIGEST)) as (_, left):
        path.write_bytes(text)
        with Store(tmp_path, run="mine").lock(DIGEST, "cnn7", told(left, said)):
            pass
    assert said == ["waiting for another process, which holds cnn7"]


@pytest.mark.usefixtures("_impatient")
def test_a_command_says_that_it_waits(tmp_path, capsys):
    """``robbench report`` on a folder that a run is writing: one line on standard error, and the bundle."""
    write_bundle(tmp_path / "bundle", Bundle(title="t", command="c", records=[]))
    with held(lambda: locked(tmp_path / "bundle")) as (process, left):
        threading.Timer(1.0, left.set).start()
        assert main(["report", str(tmp_path / "bundle")]) == 0
    assert capsys.readouterr().err == (
        f"robbench: waiting for process {process.pid} on {platform.node()}, which holds {tmp_path / 'bundle'}\n"
    )
