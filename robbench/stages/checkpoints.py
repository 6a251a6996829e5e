"""Checkpoints of unfinished stages: the state of a training run or a p* search, to and from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import msgspec
from torch import Tensor

from robbench.estimation.fixed_radii import FinalTest
from robbench.estimation.search import Search
from robbench.estimation.shrinking_ball import Descent, Slots
from robbench.record import Number, Seconds
from robbench.store.store import Store, damaged


class _Values(msgspec.Struct, kw_only=True):
    """The plain values that every checkpoint holds, and those of its own kind; what older ones lack has a default."""

    forward: Number
    backward: Number
    seconds: Seconds
    notes: list[str] = []


class _Search(_Values, kw_only=True):
    size: Number = 0
    testing: FinalTest = msgspec.field(default_factory=FinalTest)


def save_training(
    store: Store, digest: str, state: dict[str, Any], *, inputs: str, seconds: Seconds, made_from: str | None = None
) -> None:
    """Keep the state of a :class:`robbench.training.Trainer` after an epoch.

    ``inputs`` names the images it was made with, ``made_from`` the weights it began with, as in
    :class:`robbench.store.store.Finished`.
    """
    parts = {part: value for part, value in state.items() if part in ("weights", "best", "optimiser")}
    tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    values = {key: value for key, value in state.items() if key not in parts}
    values |= {"inputs": inputs, "made_from": made_from, "seconds": msgspec.to_builtins(seconds)}
    store.save_checkpoint(digest, tensors, values)


def load_training(
    store: Store,
    digest: str,
    *,
    inputs: str,
    made_from: str | None = None,
    refused: Callable[[], None] = lambda: None,
    load: Callable[[dict[str, Any]], None],
) -> Seconds | None:
    """Hand the saved state to ``load`` and return the seconds so far.

    None where there is none, it was made with other images, or it began with other weights; ``refused`` is called in
    the last case.

    Raises:
        RobbenchError: the checkpoint is damaged, or ``load`` refuses it.
    """
    found = _unfinished(store, digest, inputs, made_from, refused)
    if found is None:
        return None
    tensors, values = found
    with _as_written(store, digest):
        state: dict[str, Any] = dict(values)
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            state.setdefault(part, {})[name] = tensor
        load(state)
        return msgspec.convert(values["seconds"], Seconds)


def save_search(
    store: Store,
    digest: str,
    state: Search,
    *,
    inputs: str,
    seconds: Seconds,
    testing: FinalTest | None = None,
    made_from: str | None = None,
) -> None:
    """Keep a p* search as it is after a batch, and the final test that follows it; names as of :func:`save_training`."""
    tensors = {"first": state.first, "last": state.last, "pstar": state.pstar}
    if state.descent is not None:
        tensors["waiting"] = state.descent.waiting
        for field in fields(Slots) if state.descent.slots is not None else ():
            tensors[f"slots/{field.name}"] = getattr(state.descent.slots, field.name)
    values = {
        "inputs": inputs,
        "made_from": made_from,
        "forward": state.forward,
        "backward": state.backward,
        "notes": state.notes,
        "size": state.size,
        "testing": asdict(testing or FinalTest()),
        "seconds": msgspec.to_builtins(seconds),
    }
    if state.adversarials is not None:
        tensors["adversarials"] = state.adversarials
    store.save_checkpoint(digest, {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, values)


def load_search(
    store: Store,
    digest: str,
    *,
    inputs: str,
    made_from: str | None = None,
    refused: Callable[[], None] = lambda: None,
    check: Callable[[Search, FinalTest], None] = lambda search, testing: None,
) -> tuple[Search, FinalTest, Seconds] | None:
    """The search and final test to go on with and their seconds so far; the rest as of :func:`load_training`."""
    found = _unfinished(store, digest, inputs, made_from, refused)
    if found is None:
        return None
    tensors, values = found
    slots = {key.removeprefix("slots/"): tensor for key, tensor in tensors.items() if key.startswith("slots/")}
    with _as_written(store, digest):
        plain = msgspec.convert(values, _Search)
        search = Search(
            first=tensors["first"],
            last=tensors["last"],
            pstar=tensors["pstar"],
            forward=plain.forward,
            backward=plain.backward,
            notes=plain.notes,
            adversarials=tensors.get("adversarials"),
            size=plain.size,
            descent=Descent(tensors["waiting"], Slots(**slots) if slots else None) if "waiting" in tensors else None,
        )
        check(search, plain.testing)
    return search, plain.testing, plain.seconds


def _unfinished(
    store: Store, digest: str, inputs: str, made_from: str | None, refused: Callable[[], None]
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """A checkpoint of these images and weights; one that does not name its weights is from before they were kept."""
    found = store.load_checkpoint(digest)
    if found is None or found[1].get("inputs") != inputs:
        return None
    if found[1].get("made_from") not in (None, made_from):
        refused()
        return None
    return found


@contextmanager
def _as_written(store: Store, digest: str) -> Iterator[None]:
    """A checkpoint whose checksum is right, or missing, but that lacks something is damaged all the same."""
    try:
        yield
    except (KeyError, ValueError, TypeError, msgspec.MsgspecError) as error:
        raise damaged(store.checkpoint_path(digest), f"{type(error).__name__}: {error}") from error
