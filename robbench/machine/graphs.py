"""Steps that are repeated many times: one after the other, or on a CUDA device captured as a graph and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robbench.machine.memory import named, ran_out

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, Tensors], Tensors]
"""What is repeated: from the state and the constants to the next state, in the same shapes."""

_WORTH_CAPTURING = 4
"""Least steps in a call for which a graph is captured: capturing takes about as long as some steps."""


def repeat(step: Step, state: Tensors, constants: Tensors, times: int) -> Tensors:
    """The state after ``times`` steps; the tensors given are left as they are."""
    for _ in range(times):
        state = step(state, constants)
    return state


@dataclass(frozen=True)
class Captured:
    """One step on tensors of its own."""

    replay: Callable[[], None]
    """Takes the step: overwrites ``state``."""
    state: Tensors
    constants: Tensors


Capture = Callable[[Step, Tensors, Tensors], Captured]
"""From a step and tensors of its shapes. Raises a RuntimeError where the step cannot be captured."""


class GraphedLoop:
    """Repeats the steps of one network.

    On a CUDA device the small networks' steps are bound by the launches of their kernels. There the steps of a shape
    run one by one the first time; when it comes again one step is captured as a CUDA graph, and all are replayed: the
    same kernels on the same values. Weights and buffers may change between calls where they are changed in place. All
    graphs share one pool of memory, and are freed with the loop. Where a step cannot be captured (the network's
    forward asks for values) or memory does not suffice for its graph, all graphs are freed and every step runs as it
    is, with a note. Elsewhere nothing is captured.

    Args:
        device: of the tensors.
        notes: gets a line where graphs were given up.
        capture: captures a step; None for what the device has.
    """

    def __init__(self, device: torch.device, notes: list[str] | None = None, capture: Capture | None = None) -> None:
        self._capture = _CudaGraphs(device) if capture is None and device.type == "cuda" else capture
        self._notes = [] if notes is None else notes
        self._graphs: dict[tuple[object, ...], Captured] = {}
        self._seen: set[tuple[object, ...]] = set()

    def __call__(self, step: Step, state: Tensors, constants: Tensors, times: int) -> Tensors:
        """As :func:`repeat`."""
        captured = self._captured(step, state, constants) if times >= _WORTH_CAPTURING else None
        if captured is None:
            return repeat(step, state, constants, times)
        for target, value in zip((*captured.state, *captured.constants), (*state, *constants), strict=True):
            target.copy_(value)
        for _ in range(times):
            captured.replay()
        return tuple(tensor.clone() for tensor in captured.state)

    def _captured(self, step: Step, state: Tensors, constants: Tensors) -> Captured | None:
        """The step's graph for these shapes; None where it runs as it is."""
        if self._capture is None:
            return None
        key = tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in (*state, *constants))
        if key not in self._seen:  # most shapes of a search's last images come only once
            self._seen.add(key)
            return None
        if key in self._graphs:
            return self._graphs[key]
        try:
            self._graphs[key] = captured = self._capture(step, state, constants)
            return captured
        except RuntimeError as error:
            reason = _reason(error)
        self._give_up(reason)  # not while the error is handled: it holds what the failed capture has allocated
        return None

    def _give_up(self, reason: str) -> None:
        """Free all graphs, and capture no more."""
        self._capture = None
        self._graphs.clear()
        torch.cuda.empty_cache()
        note = f"the attack ran step by step, without CUDA graphs: {reason}"
        if note not in self._notes:
            self._notes.append(note)


def _reason(error: RuntimeError) -> str:
    """Why a step was not captured, in one line. An error that ended a capture may only follow from the first one."""
    first = error.__context__ or error
    for known in (error, first):
        if ran_out(known):
            return named(known)
    return f"one could not be captured ({str(first).partition(chr(10))[0]})"


class _CudaGraphs:
    """Captures steps on one CUDA device, with one pool of memory for all."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, step: Step, state: Tensors, constants: Tensors) -> Captured:
        """A graph of one step; the stream that was current is current again afterwards, also after an error.

        A capture that fails may leave torch's random generator and allocator in a bad state, so a step that waits for
        the device, which no graph can, is found out before.

        Raises:
            RuntimeError: the step waits for the device, cannot be captured for another reason, or ran out of memory;
                or its graph would keep so much that an update beside it, as large as the step, might not fit.
        """
        with torch.cuda.device(self._device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch: that it does not see every wait, or that a graph is empty
            stream = torch.cuda.current_stream()
            try:
                return self._captured(step, state, constants, stream)
            finally:
                torch.cuda.set_stream(stream)

    def _captured(self, step: Step, state: Tensors, constants: Tensors, stream: torch.cuda.Stream) -> Captured:
        inner, fixed = (tuple(tensor.detach().clone() for tensor in tensors) for tensors in (state, constants))
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(stream)  # a step before the capture must not run on the stream that is captured from
        try:
            with torch.cuda.stream(side), _without_waiting():
                step(inner, fixed)
        finally:
            stream.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            reserved = torch.cuda.memory_reserved()
            for target, value in zip(inner, step(inner, fixed), strict=True):
                target.copy_(value)
        if torch.cuda.mem_get_info()[0] < torch.cuda.memory_reserved() - reserved:
            raise torch.cuda.OutOfMemoryError("the graph would leave less memory free than it keeps")
        return Captured(graph.replay, inner, fixed)


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Whatever waits for a CUDA device raises a RuntimeError, as far as torch sees it; the mode comes back after."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
