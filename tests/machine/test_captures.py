"""Captures on a CUDA device that is played here: what they leave behind when they fail, and when there is room for one."""

from __future__ import annotations

import warnings
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from robbench.machine.graphs import GraphedLoop, _side_stream

GIGABYTE = 2**30


class Device:
    """What a capture asks of ``torch.cuda``. After a failed capture its stream stays the current one, as in torch."""

    def __init__(self):
        self.current, self.mode, self.streams = "main", 0, []
        self.reserved, self.free, self.kept = 0, 8 * GIGABYTE, GIGABYTE
        self.error, self.ends_with = None, None
        self.capturing, self.events, self.kernels = False, [], None
        self.failed, self.emptied = None, []

    def install(self, monkeypatch):
        """Put it in torch's place."""
        for name in ("set_sync_debug_mode", "set_stream", "stream", "graph", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        for name, value in {
            "Stream": self.make_stream,
            "current_stream": lambda: self.main,
            "device": lambda device: warnings.catch_warnings(),
            "get_sync_debug_mode": lambda: self.mode,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.kernels()),
            "graph_pool_handle": lambda: "pool",
            "memory_reserved": lambda: self.reserved,
            "mem_get_info": lambda: (self.free, 80 * GIGABYTE),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        self.main = SimpleNamespace(wait_stream=lambda other: self.events.append("main"))

    def make_stream(self, device):
        """A side stream of the device."""
        self.streams.append(device)
        return SimpleNamespace(device=device, wait_stream=lambda other: self.events.append("side"))

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
        assert stream.device in self.streams
        before, self.current = self.current, "side"
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, pool, stream):
        """A capture; it leaves its stream only where it ends well."""
        assert (pool, self.mode) == ("pool", 0)
        self.current, self.capturing = f"capture on {stream.device}", True
        try:
            yield
        except RuntimeError:
            if self.ends_with is None:
                self.current = "main"
                raise
            raise RuntimeError(self.ends_with)  # noqa: B904 - as torch raises it while the first one is handled
        finally:
            self.capturing = False
        self.reserved += self.kept
        self.free -= self.kept
        self.current = "main"

    def empty_cache(self):
        """Noted, and whether the tensors of a failed capture were gone by then."""
        self.emptied.append(self.failed is None or self.failed() is None)


@pytest.fixture
def device(monkeypatch):
    """One with room."""
    _side_stream.cache_clear()
    played = Device()
    played.install(monkeypatch)
    yield played
    _side_stream.cache_clear()


CUDA = torch.device("cuda", 1)


def run(device, waits=False):
    """Three calls; what the notes say, and the mode and stream of every step."""
    notes, seen = [], []

    def step(state, constants):
        seen.append((device.current, device.mode, device.capturing))
        if waits and device.mode:
            raise RuntimeError("called a synchronizing CUDA operation")
        moved = state[0] + constants[0]
        if device.capturing:
            device.kernels = lambda: state[0].add_(constants[0])
            if device.error is not None:
                device.failed = weakref.ref(moved)
                raise RuntimeError(device.error)
        return (moved,)

    loop = GraphedLoop(CUDA, notes)
    for _ in range(3):
        (value,) = loop(step, (torch.zeros(3),), (torch.ones(3),), 4)
        assert value.tolist() == [4.0] * 3
    assert (device.current, device.mode) == ("main", 0)
    return loop, notes, seen


ONE_BY_ONE, CAPTURE = [("main", 0, False)] * 4, ("capture on cuda:1", 0, True)


@pytest.mark.parametrize("waits", [False, True])
def test_a_step_is_captured_unless_it_waits_for_the_device(device, waits):
    """Watched on a side stream before; where it waits, the later calls run step by step."""
    loop, notes, seen = run(device, waits)
    rest = [*ONE_BY_ONE, *ONE_BY_ONE] if waits else [CAPTURE, ONE_BY_ONE[0]]  # the last one is compared with a replay
    assert seen == [*ONE_BY_ONE, ("side", 2, False), *rest]
    assert device.events == ["side", "main"]
    assert (len(loop._graphs), device.emptied) == (not waits, [True] * waits)
    assert ["called a synchronizing CUDA operation" in note for note in notes] == [True] * waits


@pytest.mark.parametrize("ends_with", [None, "operation failed due to a previous error during capture"])
def test_a_capture_that_fails_leaves_the_main_stream_current_and_no_tensor(device, ends_with):
    """Also where it cannot be ended, and torch stays on its stream; the note has the first error."""
    device.error, device.ends_with = "not permitted when stream is capturing\nstack", ends_with
    loop, notes, seen = run(device)
    assert seen == [*ONE_BY_ONE, ("side", 2, False), CAPTURE, *ONE_BY_ONE, *ONE_BY_ONE]
    assert (len(notes), loop._graphs, device.emptied) == (1, {}, [True])
    assert notes[0].endswith("when stream is capturing)")


@pytest.mark.parametrize(("free", "kept"), [(2, True), (1.9, False)])
def test_a_graph_leaves_as_much_memory_free_as_it_keeps(device, free, kept):
    """For the update beside it, which is as large as a step of the attack."""
    device.free = free * GIGABYTE
    loop, notes, _ = run(device)
    assert len(loop._graphs) == kept
    assert notes == ([] if kept else ["the attack ran step by step, without CUDA graphs: out of memory"])


def test_all_captures_of_a_device_take_place_on_one_stream_of_its_own(device):
    """For every stream that it ran on cuBLAS keeps a workspace; torch's own capture stream may be another device's."""
    for _ in range(3):
        run(device)
    assert device.streams == [CUDA]
