"""Drive the resumable parts of a stage, one after the other, save their state, and join those of several workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from robbench.record import Seconds
from robbench.stages.work import Work
from robbench.store.store import damaged


class Part(Protocol):
    """A part of a stage that can be interrupted between two steps."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""

    @property
    def progress(self) -> tuple[float, float]:
        """How much is done, of how much."""

    def step(self) -> None:
        """Do a bounded piece of the work: an epoch, or a batch of attacks."""

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on from here: nested dicts of CPU tensors and JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; a ValueError or KeyError where it does not fit."""


@dataclass(frozen=True)
class Planned:
    """A part before it is made."""

    make: Callable[[dict[str, Any]], Part]
    """From the parts before it, by name, which are done."""
    region: str | None = None
    """What its seconds count as; None where it times itself."""


def drive(parts: Mapping[str, Planned], work: Work, *, save_every: float) -> dict[str, Any]:
    """Run the parts of a stage in their order, from the saved state where there is one.

    Args:
        parts: by name.
        work: the stage; its lock is held.
        save_every: least seconds between two saves; the end of a part that another one follows is saved, too.

    Returns:
        The parts, all of them done.

    Raises:
        RobbenchError: the saved state is damaged.
    """
    saved, saved_at = _saved(work, parts), time.monotonic()
    made: dict[str, Any] = {}
    for name, planned in parts.items():
        part = made[name] = planned.make(made)
        if name in saved:
            try:
                part.load_state_dict(saved[name])
            except (ValueError, KeyError, msgspec.MsgspecError) as error:
                path = work.context.store.state_path(work.key)
                raise damaged(path, f"{type(error).__name__}: {error}") from error
        last = name == [*parts][-1]
        while not part.done:
            _step(name, part, planned, work)
            if time.monotonic() - saved_at >= save_every or (part.done and not last):
                _save(made, work)
                saved_at = time.monotonic()
    return made


def pieces(count: int, size: int) -> list[tuple[int, int]]:
    """Where pieces of so many images begin and end; the last one may be smaller."""
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def states_of(parts: Mapping[str, Planned], work: Work) -> dict[str, Any]:
    """Run the parts of a stage, of some of its images, without saving; their states in the end, for :func:`joined`."""
    made: dict[str, Any] = {}
    for name, planned in parts.items():
        part = made[name] = planned.make(made)
        while not part.done:
            _step(name, part, planned, work)
    return {name: part.state_dict() for name, part in made.items()}


def joined(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state after all images, from those after some of them in order: images follow each other, counts add up."""
    names = dict.fromkeys(name for state in states for name in state)  # one without a right image has none that wait
    return {name: _joined(name, [state[name] for state in states if name in state]) for name in names}


def _joined(name: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return joined(values)
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, list):
        return list(dict.fromkeys(line for lines in values for line in lines))
    return min(values) if name == "batch_size" else sum(values)


def _step(name: str, part: Part, planned: Planned, work: Work) -> None:
    with work.stopwatch.region(planned.region) if planned.region else nullcontext():
        part.step()
    work.context.show(f"{name} of {work.task.model.id}", *part.progress, getattr(part, "detail", ""))


def _saved(work: Work, parts: Mapping[str, Planned]) -> dict[str, Any]:
    """The saved state of the parts; none where it is that of others, as of a search that keeps no counterexamples."""
    state = work.context.store.load_state(work.key)
    if state is None or not state.keys() <= {*parts, "seconds"}:
        return {}
    try:
        work.stopwatch.add(msgspec.convert(state.pop("seconds"), Seconds))
    except (KeyError, msgspec.MsgspecError) as error:
        raise damaged(work.context.store.state_path(work.key), error) from error
    return state


def _save(made: Mapping[str, Part], work: Work) -> None:
    with work.stopwatch.region("io"):
        state = {name: part.state_dict() for name, part in made.items()}
        state["seconds"] = msgspec.to_builtins(work.stopwatch.seconds)
        work.context.store.save_state(work.key, state)
