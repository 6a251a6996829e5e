"""Signals wait while something is written, and act afterwards."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import robbench.store.files
from robbench.store.files import write_atomically
from robbench.store.interruption import SIGNALS, postponed


@pytest.fixture(autouse=True)
def heard():
    """Numbers of the signals that reached their handlers, which only note them."""
    numbers = []
    before = {number: signal.signal(number, lambda number, frame: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_until_the_outermost_block_is_left(heard, number):
    """Sent within two blocks, it acts once, after both."""
    with postponed():
        with postponed():
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        assert heard == []
    assert heard == [number]


def test_handlers_come_back_after_an_error(heard):
    """And the signal that waited acts all the same."""

    def fail():
        with postponed():
            os.kill(os.getpid(), signal.SIGTERM)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    os.kill(os.getpid(), signal.SIGINT)
    assert heard == [signal.SIGTERM, signal.SIGINT]


def test_dropped_signals_never_act(heard):
    """Those that come later do."""
    with postponed(dropped=True):
        os.kill(os.getpid(), signal.SIGINT)
    assert heard == []
    os.kill(os.getpid(), signal.SIGINT)
    assert heard == [signal.SIGINT]


def test_an_ignored_signal_stays_ignored():
    """As under nohup: it neither acts nor waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with postponed():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_changes_no_handler(heard):
    """Python hands signals to the main thread alone."""
    seen = []

    def block():
        with postponed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_is_being_written_is_finished_first(heard, tmp_path, monkeypatch, call):
    """A Ctrl-C in the middle of a write raises after it: the file is whole, and nothing lies beside it."""
    original = getattr(os, call)

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(robbench.store.files.os, call, interrupted)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]
