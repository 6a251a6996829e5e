"""What killed writers leave behind goes with the next write to the folder, and what living ones write stays."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from factories import make_facts, training_record

from robbench.data import Data, Images, write_npz
from robbench.gate.baselines import write_baseline
from robbench.report import Bundle, write_bundle
from robbench.store.files import check_writable
from robbench.store.store import Store

FORK = multiprocessing.get_context("fork")
DIGEST = "5e" * 32


def baseline(folder):
    """Write a baseline."""
    write_baseline(folder, training_record(make_facts()))


def report(folder):
    """Write a bundle."""
    write_bundle(folder / "reports", Bundle(title="t", command="c"))


def prepared(folder):
    """Write prepared data."""
    images = Images(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))
    write_npz(folder / "own.npz", Data("own", images, images, ("a", "b")))


def checkpoint(folder):
    """Write a checkpoint into a store, as whoever makes the stage."""
    store = Store(folder, run="r")
    with store.lock(DIGEST):
        store.save_checkpoint(DIGEST, {"a": torch.ones(1)}, {})


WRITERS = pytest.mark.parametrize("write", [baseline, report, prepared, checkpoint, check_writable])


def temporary(folder):
    """The files and folders that wait for their name."""
    return [path for path in folder.rglob(".*") if path.name != ".robbench.lock"]


def begin(write, folder, at_rename):
    """A process that writes, and does something first whenever it is about to give a file its name."""

    def run():
        replace = os.replace

        def rename(*names):
            at_rename()
            replace(*names)

        os.replace = rename
        write(folder)

    process = FORK.Process(target=run)
    process.start()
    return process


@WRITERS
def test_what_a_killed_write_left_goes_with_the_next_one(tmp_path, write):
    """SIGKILL right before a file gets its name: it has none, and after the next write there is nothing else."""
    process = begin(write, tmp_path, lambda: os.kill(os.getpid(), signal.SIGKILL))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len([path for path in temporary(tmp_path) if path.parent not in temporary(tmp_path)]) == 1
    write(tmp_path)
    assert temporary(tmp_path) == []
    assert list(tmp_path.rglob(".robbench.lock")) == []


@WRITERS
def test_what_another_process_is_writing_is_no_leftover(tmp_path, write):
    """Who comes while a file waits for its name waits too: both writes succeed."""
    waiting = FORK.Event()

    def linger():
        waiting.set()
        time.sleep(0.2)

    process = begin(write, tmp_path, linger)
    assert waiting.wait(30)
    write(tmp_path)
    process.join()
    assert process.exitcode == 0
    assert temporary(tmp_path) == []


def test_a_leftover_that_cannot_be_removed_hinders_nobody(tmp_path, monkeypatch):
    """Another user's, in a folder that both write to."""
    unlink = Path.unlink

    def refuse(path, **options):
        if path.name == ".writing-theirs":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, **options)

    (tmp_path / ".writing-theirs").touch()
    monkeypatch.setattr(Path, "unlink", refuse)
    prepared(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-theirs", "own.npz"]


def test_a_folder_of_somebody_elses_is_no_leftover(tmp_path):
    """Whatever it is called: reports alone are written in folders."""
    kept = tmp_path / ".writing-thesis" / "chapter.tex"
    kept.parent.mkdir()
    kept.write_text("mine")
    prepared(tmp_path)
    assert kept.read_text() == "mine"
