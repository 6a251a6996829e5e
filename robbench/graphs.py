"""Steps that are repeated many times: one after the other, or on a CUDA device captured as a graph and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robbench.memory import ran_out

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, Tensors], Tensors]
"""What is repeated: from the state and the constants to the next state, in the same shapes."""

_EAGER_STEPS = 3
"""Steps of a new shape that run before one is captured: libraries choose their kernels and allocate in these."""


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
    as it is. Elsewhere nothing is captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captures = device.type == "cuda"
        self._graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}
        self._pool: Any = None

    def __call__(self, step: Step, state: Tensors, constants: Tensors, times: int) -> Tensors:
        """As :func:`repeat`."""
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
