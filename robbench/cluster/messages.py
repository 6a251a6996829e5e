"""What the controller and the workers of a run tell each other. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robbench.spec import Dataset
from robbench.store import Finished

PACKAGES = ("robbench", "torch", "torchvision")
"""Packages whose version must be the controller's, beside Python's and dask's."""


def slot(machine: str) -> dict[str, int]:
    """The resources that a stage asks for: a worker of that class has one of each, so that no two share its device."""
    return {"robbench": 1, f"robbench {machine}": 1}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every worker of a run must know."""

    name: str
    """Tells runs of one scheduler apart; the topic of the workers' events."""
    versions: tuple[tuple[str, str | None], ...]
    """Of :data:`PACKAGES` on the controller."""
    folders: tuple[str, ...]
    """Where the controller imports a user's own code from; where there is no such folder on a worker, it is left out."""
    code: tuple[tuple[str, str | None], ...]
    """Modules of a user's own, with the SHA-256 of their files."""
    images: tuple[tuple[Dataset, str], ...]
    """The data sets of the selected models, with the fingerprint that the controller read."""
    data: Path
    """The data folder, unless a worker's environment has ``ROBBENCH_DATA``."""
    store: Path
    """The controller's store; used by workers that find its ``identity`` there."""
    identity: str
    device: str
    download: bool
    deterministic: bool
    keep_adversarials: bool


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a worker is."""

    address: str
    host: str
    machine: str = ""
    """Slug of its class of machine."""
    device: str = ""
    shared: bool = False
    """Whether it finds the controller's store."""
    gpu: str | None = None
    """What no other GPU has, or None."""
    fault: str | None = None
    """Why it gets no stages, in one sentence."""


@dataclass(frozen=True)
class Needs:
    """The finished stages that a stage needs, by role, and their files, by name; None: all workers see the store."""

    finished: Mapping[str, Finished]
    files: Mapping[str, Mapping[str, bytes]] | None


@dataclass(frozen=True)
class Done:
    """What came of a stage: its key, its files (none where the store is shared), and whether it was made now."""

    key: str
    files: Mapping[str, bytes]
    made: bool
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """As of :meth:`robbench.cluster.worker.Sending.beside`."""


@dataclass(frozen=True)
class PartDone:
    """A part of a stage that workers share: the state that it left, and its seconds by field."""

    state: dict[str, Any]
    seconds: dict[str, float]
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """As of :meth:`robbench.cluster.worker.Sending.beside`."""


@dataclass(frozen=True)
class Failed:
    """Why a stage failed on a worker."""

    worker: str
    message: str
    final: bool
    """Whether it would fail on every other worker, too."""
