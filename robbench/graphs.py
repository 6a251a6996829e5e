"""Steps that are repeated many times: plainly, captured as a CUDA graph and replayed, or for two halves of a batch at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier
from typing import Any

import torch
from torch import Tensor

from robbench.memory import ran_out

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, Tensors], Tensors]
"""What is repeated: from the state and the constants to the next state, in the same shapes."""

_EAGER_STEPS = 3
"""Steps of a new shape that run before one is captured: libraries choose their kernels and allocate in these."""

_LEAST_IMAGES = 32
"""Images of a batch that is worth two halves."""


def repeat(step: Step, state: Tensors, constants: Tensors, times: int) -> Tensors:
    """The state after ``times`` steps; the tensors given are left as they are."""
    for _ in range(times):
        state = step(state, constants)
    return state


class Loop:
    """Repeats the steps of one network.

    On a CUDA device the small networks' steps are bound by the launches of their kernels. There the first steps of
    every shape run as they are, the next is captured as a CUDA graph, and the others replay it: the same kernels on
    the same values. Weights and buffers may change between calls where they are changed in place. All graphs share one
    pool of memory, and are freed with the loop. A network that cannot be captured (its forward asks for values) runs
    as it is.

    On the CPU the threads wait for each other after every layer, and all of them while Python finds the next. With
    ``halves`` both halves of a batch take their steps side by side, each on half of the threads, so that one computes while
    the other waits.
    """

    def __init__(self, device: torch.device, *, halves: bool = False) -> None:
        """A loop without graphs yet.

        Args:
            device: of the network and its images.
            halves: whether on the CPU a batch may be halved: no image depends on the others of its batch (the network is
                in eval mode), and a forward pass leaves nothing in its modules that another at the same time would read.
        """
        self._device = device
        self._captures = device.type == "cuda"
        self._halves = halves and device.type == "cpu"
        self._graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}
        self._pool: Any = None

    def __call__(self, step: Step, state: Tensors, constants: Tensors, times: int) -> Tensors:
        """As :func:`repeat`."""
        if self._halves and len(state[0]) >= _LEAST_IMAGES and torch.get_num_threads() % 2 == 0:
            return _side_by_side(step, state, constants, times)
        if not self._captures:
            return repeat(step, state, constants, times)
        key = tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in (*state, *constants))
        with torch.cuda.device(self._device):
            if key not in self._graphs:
                if times <= _EAGER_STEPS:
                    return repeat(step, state, constants, times)
                try:
                    self._graphs[key] = self._capture(step, state, constants)
                except RuntimeError as error:
                    if ran_out(error):
                        raise
                    self._captures = False
                    return repeat(step, state, constants, times)
            graph, inner, fixed = self._graphs[key]
            for target, value in zip((*inner, *fixed), (*state, *constants), strict=True):
                target.copy_(value)
            for _ in range(times):
                graph.replay()
            return tuple(tensor.clone() for tensor in inner)

    def _capture(self, step: Step, state: Tensors, constants: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensors]:
        """A graph of one step on tensors of its own, and these tensors: state and constants."""
        inner, fixed = (tuple(tensor.detach().clone() for tensor in tensors) for tensors in (state, constants))
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())  # warm-up must not run on the stream that is captured from
        with torch.cuda.stream(side):
            repeat(step, inner, fixed, _EAGER_STEPS)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            for target, value in zip(inner, step(inner, fixed), strict=True):
                target.copy_(value)
        return graph, inner, fixed


def _side_by_side(step: Step, state: Tensors, constants: Tensors, times: int) -> Tensors:
    """As :func:`repeat`, for the two halves of a batch at the same time; constants of one row belong to all images."""
    images, threads = len(state[0]), torch.get_num_threads()
    precision, lowered = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")  # of this thread

    def half(part: slice) -> Tensors:
        def own(tensors: Tensors) -> Tensors:
            return tuple(tensor[part] if len(tensor) == images else tensor for tensor in tensors)

        with torch.autocast("cpu", precision, enabled=lowered):
            return repeat(step, own(state), own(constants), times)

    pool = _pool(os.getpid(), threads // 2)
    halves = [pool.submit(half, part) for part in (slice(images // 2), slice(images // 2, images))]
    try:
        found = [each.result() for each in halves]
    finally:
        wait(halves)  # after an error or Ctrl-C, too: what comes next may change the network
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Two Python threads with so many of torch's threads each; a forked process needs its own."""
    before, both = torch.get_num_threads(), Barrier(2)

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread takes over what the process has
        torch.set_num_threads(threads)
        both.wait()

    pool = ThreadPoolExecutor(2, "robbench-half", initializer=begin)
    wait([pool.submit(torch.get_num_threads) for _ in range(2)])
    torch.set_num_threads(before)  # what threads of others start with
    return pool
