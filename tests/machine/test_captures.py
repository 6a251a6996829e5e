"""Captures on a CUDA device that is played here: what they leave behind when they fail, and when there is room for one."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from robbench.machine.graphs import GraphedLoop

GIGABYTE = 2**30


class Device:
    """What a capture asks of ``torch.cuda``. After a failed capture its stream stays the current one, as in torch."""

    def __init__(self):
        self.current, self.mode, self.streams = "main", 0, 0
        self.reserved, self.free, self.kept = 0, 8 * GIGABYTE, GIGABYTE
        self.error, self.ends_with = None, None
        self.capturing, self.emptied, self.events = False, 0, []

    def install(self, monkeypatch):
        """Put it in torch's place."""
        for name in ("set_sync_debug_mode", "set_stream", "stream", "graph", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        for name, value in {
            "Stream": lambda: SimpleNamespace(wait_stream=lambda other: self.events.append("side")),
            "current_stream": lambda: self.main,
            "device": lambda device: warnings.catch_warnings(),
            "get_sync_debug_mode": lambda: self.mode,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph_pool_handle": lambda: "pool",
            "memory_reserved": lambda: self.reserved,
            "mem_get_info": lambda: (self.free, 80 * GIGABYTE),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        self.main = SimpleNamespace(wait_stream=lambda other: self.events.append("main"))

    def set_sync_debug_mode(self, mode):
        """As torch's."""
        self.mode = {"error": 2}.get(mode, mode)

    def set_stream(self, stream):
        """The main one is the only one that is set."""
        assert stream is self.main
        self.current = "main"

    @contextmanager
    def stream(self, stream):
        """Current in the context, and the one before afterwards."""
        before, self.current = self.current, "side"
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, pool):
        """A capture; it leaves its stream only where it ends well."""
        assert (pool, self.mode) == ("pool", 0)
        self.current, self.capturing = "capture", True
        try:
            yield
        except RuntimeError:
            if self.ends_with is None:
                self.current = "main"
                raise
            raise self.ends_with  # noqa: B904 - as torch raises the second error while the first is handled
        finally:
            self.capturing = False
        self.reserved += self.kept
        self.free -= self.kept
        self.current = "main"

    def empty_cache(self):
        """Counted."""
        self.emptied += 1


@pytest.fixture
def device(monkeypatch):
    """One with room."""
    played = Device()
    played.install(monkeypatch)
    return played


def run(device, waits=False):
    """Three calls; what the notes say, and the mode and stream of every step."""
    notes, seen = [], []

    def step(state, constants):
        seen.append((device.current, device.mode, device.capturing))
        if waits and device.mode:
            raise RuntimeError("called a synchronizing CUDA operation")
        if device.capturing and device.error is not None:
            raise device.error
        return (state[0] + constants[0],)

    loop = GraphedLoop(torch.device("cuda"), notes)
    for _ in range(3):
        (value,) = loop(step, (torch.zeros(3),), (torch.ones(3),), 4)
        if not loop._graphs:
            assert value.tolist() == [4.0] * 3
    assert (device.current, device.mode) == ("main", 0)
    return loop, notes, seen


ONE_BY_ONE = [("main", 0, False)] * 4


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_is_captured_unless_it_waits_for_the_device(device, waits):
    """Watched on a side stream before; where it waits, the later calls run step by step."""
    loop, notes, seen = run(device, waits)
    rest = [*ONE_BY_ONE, *ONE_BY_ONE] if waits else [("capture", 0, True)]
    assert seen == [*ONE_BY_ONE, ("side", 2, False), *rest]
    assert device.events == ["side", "main"]
    assert (len(loop._graphs), device.emptied) == (not waits, waits)
    assert ["called a synchronizing CUDA operation" in note for note in notes] == [True] * waits


@pytest.mark.parametrize("ends_with", [None, RuntimeError("operation failed due to a previous error during capture")])
def test_a_capture_that_fails_leaves_the_main_stream_current(device, ends_with):
    """Also where it cannot be ended, and torch stays on its stream; the note has the first error."""
    device.error, device.ends_with = RuntimeError("not permitted when stream is capturing\nstack"), ends_with
    loop, notes, seen = run(device)
    assert seen == [*ONE_BY_ONE, ("side", 2, False), ("capture", 0, True), *ONE_BY_ONE, *ONE_BY_ONE]
    assert (len(notes), loop._graphs, device.emptied) == (1, {}, 1)
    assert notes[0].endswith("when stream is capturing)")


@pytest.mark.parametrize(("free", "kept"), [(2, True), (1.9, False)])
def test_a_graph_leaves_as_much_memory_free_as_it_keeps(device, free, kept):
    """For the update beside it, which is as large as a step of the attack."""
    device.free = free * GIGABYTE
    loop, notes, _ = run(device)
    assert len(loop._graphs) == kept
    assert notes == ([] if kept else ["the attack ran step by step, without CUDA graphs: out of memory"])
