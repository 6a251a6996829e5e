"""Two runs on one store: the one that waits says for whom, at once."""

from __future__ import annotations

import multiprocessing
import platform
import time
from contextlib import contextmanager

import pytest

import robbench.store.locks
from robbench.plugin.session import Session
from robbench.store.store import Store

CASE = "net.mlp-glyphs10-standard"

CONFTEST = """
import pathlib

import robbench.store.locks
from robbench.plugin.session import Session

announce = Session.announce


def noted(self, text):
    announce(self, text)
    pathlib.Path("told").touch()


robbench.store.locks.PATIENCE = 0.05
Session.announce = noted
"""


def keep(store, digest, entered, told):
    """Hold a stage until another process was told that it waits, and a little longer."""
    with store.lock(digest):
        entered.set()
        until = time.monotonic() + 300
        while not told.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.3)


@pytest.fixture
def held(pytester, monkeypatch):
    """While it lasts, another process holds the trained stage of the store; gives what is said of it."""
    pytester.makeconftest(CONFTEST)
    for where, name in ((robbench.store.locks, "PATIENCE"), (Session, "announce")):
        monkeypatch.setattr(where, name, getattr(where, name))  # put back what the conftest changes in this process

    @contextmanager
    def hold():
        context = multiprocessing.get_context("fork")
        store = Store(pytester.path / ".robbench" / "store", run="elsewhere")
        (path,) = [p for p in store.folder.rglob("stage.json") if (p.parent / "weights.safetensors").exists()]
        entered = context.Event()
        process = context.Process(target=keep, args=(store, path.parent.name, entered, pytester.path / "told"))
        process.start()
        entered.wait(300)
        try:
            yield f"waiting for process {process.pid} on {platform.node()}, which holds {CASE} (training)"
        finally:
            process.join()

    return hold


def test_a_run_that_waits_for_another_says_so_once(updated, held):
    """On the terminal, while the test runs."""
    with held() as line:
        result = updated("--robbench-resume")
    result.assert_outcomes(passed=2, deselected=8)
    assert result.stdout.lines.count(line) == 1


def test_a_worker_that_waits_for_another_run_says_so_once(updated, held, capfd):
    """Under pytest-xdist, on the standard error that it shares with its controller."""
    with held() as line:
        result = updated("--robbench-resume", "-n", "1")
    result.assert_outcomes(passed=2)
    assert capfd.readouterr().err.splitlines().count(f"robbench: {line}") == 1
