"""Checkpoints of unfinished stages: the state of a training run, to and from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from torch import Tensor

from robbench.record import Epoch, Number, Seconds
from robbench.store.store import Store, damaged
from robbench.training.loop import Progress


class _Values(msgspec.Struct, kw_only=True):
    """The plain values that every checkpoint holds, and those of its own kind; what older ones lack has a default."""

    forward: Number
    backward: Number
    seconds: Seconds
    notes: list[str] = []


class _Training(_Values, kw_only=True):
    history: list[Epoch]
    features: bool | None = None


def save_training(
    store: Store, digest: str, state: Progress, *, inputs: str, seconds: Seconds, made_from: str | None = None
) -> None:
    """Keep a training run as it is after an epoch.

    ``inputs`` names the images it was made with, ``made_from`` the weights it began with, as in
    :class:`robbench.store.store.Finished`.
    """
    tensors = {
        f"{part}/{name}": tensor
        for part in ("weights", "best", "optimiser")
        if not (part == "best" and state.best is state.weights)
        for name, tensor in getattr(state, part).items()
    }
    values = {
        "inputs": inputs,
        "made_from": made_from,
        "history": msgspec.to_builtins(state.history),
        "forward": state.forward,
        "backward": state.backward,
        "notes": state.notes,
        "features": state.features,
        "seconds": msgspec.to_builtins(seconds),
    }
    store.save_checkpoint(digest, tensors, values)


def load_training(
    store: Store,
    digest: str,
    *,
    inputs: str,
    made_from: str | None = None,
    refused: Callable[[], None] = lambda: None,
    check: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Progress, Seconds] | None:
    """The run to go on with and its seconds so far.

    None where there is none, it was made with other images, or it began with other weights; ``refused`` is called in
    the last case. ``check`` raises a ValueError where what was read is not what training would have left.

    Raises:
        RobbenchError: the checkpoint is damaged.
    """
    found = _unfinished(store, digest, inputs, made_from, refused)
    if found is None:
        return None
    tensors, values = found
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimiser": {}}
    with _as_written(store, digest):
        plain = msgspec.convert(values, _Training)
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        parts["best"] = parts["best"] or parts["weights"]
        progress = Progress(
            history=plain.history,
            forward=plain.forward,
            backward=plain.backward,
            notes=plain.notes,
            features=plain.features,
            **parts,
        )
        check(progress)
    return progress, plain.seconds


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
