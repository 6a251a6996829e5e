"""Where and how stages run."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from robbench.spec import Dataset
from robbench.store import Store
from robbench.store.locks import to_stderr

if TYPE_CHECKING:
    import torch

    from robbench.data import Data
    from robbench.stages.checks import Tried


def show_nothing(what: str, done: float, total: float, detail: str = "") -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where and how the stages of a run are made. Nothing here changes a result.

    It can be pickled as long as its callables can.
    """

    store: Store
    data: Path
    device: torch.device
    download: bool = False
    fresh: bool = False
    """Make the stages that are asked for again, although the store has them; what they need comes from the store."""
    keep_adversarials: bool = False
    """Keep the counterexample behind every p*, for ``robbench verify``."""
    show: Callable[..., None] = show_nothing
    """Gets progress: what runs, how much of it is done, of how much, and what else is said of it, as ``epoch 3 of 9``."""
    announce: Callable[[str], None] = to_stderr
    """Gets what a user should know at once: for which process this one waits."""
    machines: list[str] = field(default_factory=list)
    """Slugs of the classes of machine that make stages; none: that of this process and device."""
    failed: dict[str, str] = field(default_factory=dict)
    """Messages of stages that failed in this run, by the digest of their task: they are not tried twice."""
    made: set[str] = field(default_factory=set)
    """Keys of the stages that were made in this run."""
    built: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the weights that users' functions build their networks with, by the digest of the model."""
    tried: dict[Hashable, Tried] = field(default_factory=dict)
    """What came out of trying every combination of architecture, images and classes."""
    seen: set[Hashable] = field(default_factory=set)
    """What was checked or told in this run, and is not again: models, sentences, the store under an empty name."""

    def images(self, dataset: Dataset) -> Data:
        """A dataset's images, from the data folder; errors as of :func:`robbench.data.load`."""
        from robbench.data import load_data

        return load_data(dataset, self.data, download=self.download, show=self.show, announce=self.announce)
