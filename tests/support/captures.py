"""Captures of steps without a CUDA device."""

from __future__ import annotations

from robbench.machine.graphs import Captured


class Captures:
    """Captures steps on the CPU, as far as it is told to: a replay takes the step on tensors of its own."""

    def __init__(self, *errors):
        self.errors, self.captured, self.replayed = list(errors), 0, 0
        self.missed = 0
        """Rows of every tensor that a replay leaves as they were."""

    def __call__(self, step, state, constants):
        """As a CUDA device's."""
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        self.captured += 1
        inner, fixed = (tuple(tensor.clone() for tensor in tensors) for tensors in (state, constants))

        def replay():
            self.replayed += 1
            for target, value in zip(inner, step(inner, fixed), strict=True):
                target[self.missed :] = value[self.missed :]

        return Captured(replay, inner, fixed)
