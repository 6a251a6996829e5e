"""Repeated steps: taken one by one, or captured as a CUDA graph and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from robbench.machine.memory import ran_out, release
from robbench.machine.precision import matmul_precision, rounds_convolutions

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, Tensors], Tensors]
"""From the state and the constants to the next state, of the same shapes."""

_WORTH_CAPTURING = 4
"""Fewest steps in a call for which a graph is captured, as a capture takes as long as a few steps."""


def repeat(step: Step, state: Tensors, constants: Tensors, times: int) -> Tensors:
    """The state after ``times`` steps; the given tensors do not change."""
    for _ in range(times):
        state = step(state, constants)
    return state


@dataclass(frozen=True)
class Captured:
    """A captured step, with tensors of its own."""

    replay: Callable[[], None]
    """Takes the step, which overwrites ``state``."""
    state: Tensors
    constants: Tensors

    def load(self, state: Tensors, constants: Tensors) -> None:
        """Let the next replay take the step from here."""
        for target, value in zip((*self.state, *self.constants), (*state, *constants), strict=True):
            target.copy_(value)


Capture = Callable[[Step, Tensors, Tensors], Captured]
"""Captures a step for tensors of these shapes. Raises a RuntimeError if it cannot."""


class GraphedLoop:
    """Repeats steps; on a CUDA device it replays them as a CUDA graph.

    Launching the kernels of a small network takes longer than running them, and a graph launches all at once. The
    first call of some kind runs step by step; the second one captures. Calls are of one kind if their tensors have the
    same shapes, and if the step's code, the networks and functions in its closure, the networks' modes, autocast and
    the precision of products are the same. Weights and buffers may change between calls, but only in place. Where a
    step cannot be captured (the network's forward reads a value), its first replay does not do what the step does, or
    the graph does not fit into memory, all graphs are freed, and from then on every call runs step by step.

    Args:
        device: of the tensors.
        notes: list that gets a line where a step was not captured.
        capture: captures a step; None for CUDA graphs where the device has them.
        capturing: makes the context in which steps are captured, for whoever counts their seconds apart.
    """

    def __init__(
        self,
        device: torch.device,
        notes: list[str] | None = None,
        capture: Capture | None = None,
        capturing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._device, self._capturing = device, capturing
        self._capture = _CudaGraphs(device) if capture is None and device.type == "cuda" else capture
        self._notes = [] if notes is None else notes
        self._graphs: dict[tuple[object, ...], Captured] = {}
        self._seen: set[tuple[object, ...]] = set()

    def __call__(self, step: Step, state: Tensors, constants: Tensors, times: int) -> Tensors:
        """As :func:`repeat`."""
        captured = self._captured(step, state, constants) if times >= _WORTH_CAPTURING else None
        if captured is None:
            return repeat(step, state, constants, times)
        captured.load(state, constants)
        for _ in range(times):
            captured.replay()
        return tuple(tensor.clone() for tensor in captured.state)

    def _captured(self, step: Step, state: Tensors, constants: Tensors) -> Captured | None:
        """The step's graph for calls of this kind; None where the call is to run step by step."""
        if self._capture is None:
            return None
        key = _kind(step, (*state, *constants), self._device)
        if key not in self._seen:  # the last batches of a search come in shapes that occur once
            self._seen.add(key)
            return None
        if key in self._graphs:
            return self._graphs[key]
        try:
            with self._capturing():
                self._graphs[key] = _checked(self._capture, step, state, constants)
            return self._graphs[key]
        except RuntimeError as error:
            reason = _reason(error)
        self._capture = None
        self._graphs.clear()
        release(self._device)
        note = f"the attack ran step by step, without CUDA graphs: {reason}"
        if note not in self._notes:
            self._notes.append(note)
        return None


def _kind(step: Step, tensors: Tensors, device: torch.device) -> tuple[object, ...]:
    """What a graph of the step is captured for: whatever decides which kernels run, but for the values."""
    shapes = tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors)
    values = [cell.cell_contents for cell in getattr(step, "__closure__", None) or ()]
    networks = (value for value in values if isinstance(value, nn.Module))
    modes = tuple((module, module.training) for network in networks for module in network.modules())
    functions = tuple(value for value in values if isinstance(value, FunctionType))
    autocast = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    return (
        shapes,
        getattr(step, "__code__", step),
        functions,
        modes,
        *autocast,
        matmul_precision(),
        rounds_convolutions(),
    )


def _checked(capture: Capture, step: Step, state: Tensors, constants: Tensors) -> Captured:
    """The captured step, once its replay did what the step does.

    Not bit for bit, as kernels may add in any order and a gradient near zero may change its sign: of the elements that the
    step changes, a replay may miss half. A graph without the step's kernels misses all.

    Raises:
        RuntimeError: its replay does something else, or the step cannot be captured.
    """
    captured = capture(step, state, constants)
    expected = step(state, constants)
    captured.load(state, constants)
    captured.replay()
    if 2 * _differing(captured.state, expected) > _differing(state, expected):
        raise RuntimeError("its first replay did not do what the step does")
    return captured


def _differing(found: Tensors, expected: Tensors) -> int:
    """How many elements differ by more than rounding."""
    pairs = zip(found, expected, strict=True)
    return sum(int((~torch.isclose(one.float(), other.float(), equal_nan=True)).sum()) for one, other in pairs)


def _reason(error: RuntimeError) -> str:
    """Why a step was not captured: the first error tells, as ending a failed capture may raise another one."""
    first = error.__context__ or error
    return ran_out(error) or ran_out(first) or f"one could not be captured ({str(first).partition(chr(10))[0]})"


class _CudaGraphs:
    """Captures steps on a CUDA device, all in one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, step: Step, state: Tensors, constants: Tensors) -> Captured:
        """A graph of one step.

        A capture that fails may leave torch's random generator and allocator in a bad state. So a step that waits for
        the device is found before the capture.

        Raises:
            RuntimeError: the step waits for the device, cannot be captured, or runs out of memory; or its graph leaves
                less memory free than it keeps, so that an update of that size might not fit.
        """
        with torch.cuda.device(self._device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch: not every wait is seen, or a graph is empty
            stream = torch.cuda.current_stream()
            try:
                return self._captured(step, state, constants, stream)
            finally:
                torch.cuda.set_stream(stream)

    def _captured(self, step: Step, state: Tensors, constants: Tensors, stream: torch.cuda.Stream) -> Captured:
        inner, fixed = (tuple(tensor.detach().clone() for tensor in tensors) for tensors in (state, constants))
        side = _side_stream(self._device)
        side.wait_stream(stream)  # torch wants the step before a capture on another stream
        try:
            with torch.cuda.stream(side), _without_waiting():
                step(inner, fixed)
        finally:
            stream.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool, stream=side):  # torch's own is of the device that captured first
            reserved = torch.cuda.memory_reserved()
            for target, value in zip(inner, step(inner, fixed), strict=True):
                target.copy_(value)
        if torch.cuda.mem_get_info()[0] < torch.cuda.memory_reserved() - reserved:
            raise torch.cuda.OutOfMemoryError("the graph would leave less memory free than it keeps")
        return Captured(graph.replay, inner, fixed)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which steps are captured: one for all, as cuBLAS keeps a workspace for every stream it ran on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _without_waiting() -> Iterator[None]:
    """What waits for a CUDA device raises a RuntimeError, as far as torch notices."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
