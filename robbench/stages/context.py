"""What the stages have in common: where they run, their locks, what may stand for a new run, and their records."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch

from robbench.data import Data
from robbench.errors import RobbenchError
from robbench.machine.determinism import explained
from robbench.machine.environment import environment
from robbench.machine.memory import must_fit_whole
from robbench.models import Network, blocks, load_weights, parameter_count, place
from robbench.record import DataUsed, ModelFacts, Record, Seconds
from robbench.spec import Dataset, Model, digest_of
from robbench.spec.catalogue import own_module
from robbench.stages.networks import build_network, load_data, transferred_network
from robbench.store.locks import to_stderr
from robbench.store.store import Finished, Store


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where and how stages run. Nothing here changes a result."""

    store: Store
    data: Path
    device: torch.device
    download: bool = False
    resume: bool = False
    """Reuse finished stages of the same digest, and go on from checkpoints."""
    keep_adversarials: bool = False
    """Keep the counterexample that every p* rests on, for ``robbench verify``."""
    show: Callable[[str, float, float], None] = lambda what, done, total: None
    """Gets progress: what runs, how much of it is done, of how much."""
    say: Callable[[str], None] = lambda text: None
    """Gets what a user should know of a stage beside its result, a sentence each."""
    announce: Callable[[str], None] = to_stderr
    """Gets what cannot wait until the stage is done: for whom it waits itself."""
    failed: dict[str, str] = field(default_factory=dict)
    """Messages of stages that failed in this session, by digest: they are not tried twice."""
    began: float = field(default_factory=time.time)
    """In seconds since 1970, when the session began, or the first of those that share the store with it: what finished later
    is not made again."""
    checked: dict[Hashable, int] = field(default_factory=dict)
    """Number of blocks of every combination of architecture, images and checkpoint that was found sound."""

    def images(self, dataset: Dataset) -> Data:
        """A dataset's images, from the data folder; errors as of :func:`robbench.data.load`."""
        return load_data(dataset, self.data, download=self.download)


@contextmanager
def stage(context: RunContext, digest: str, name: str) -> Iterator[None]:
    """Hold a digest's lock; remember a failure, so that what depends on it fails at once with the same reason."""
    if digest in context.failed:
        raise RobbenchError(f"{name} failed before: {context.failed[digest]}")
    with context.store.lock(digest, name, context.announce):
        try:
            with must_fit_whole(
                f"{name} does not fit on {context.device.type}", "free memory there, or use another device"
            ):
                yield
        except Exception as error:
            fault = explained(error)
            context.failed[digest] = str(fault)
            if fault is error:
                raise
            raise fault from error


def reusable(context: RunContext, digest: str, model: Model, under_test: bool) -> Record | None:
    """The finished stage's record, where it may stand for a new run: same digest, images and weights, its sources' too.

    A run that asks for determinism takes nothing that was made without.

    Raises:
        RobbenchError: the stage, or for one under test what it kept, is damaged.
    """
    finished = context.store.finished(digest)
    if finished is None or finished.record.data.sha256 != context.images(model.dataset).sha256:
        return None
    if finished.inputs is not None and finished.inputs != inputs_of(model, context):
        return None
    if torch.are_deterministic_algorithms_enabled() and not finished.record.environment.deterministic:
        return None
    shared = under_test and not context.resume and finished.run != context.store.run
    if shared and not _of_this_session(finished, context):
        return None
    if _outdated(finished, model, context.store):
        again = f"trained again, the finished stage began with former weights of {model.source}"
        if finished.record.robustness:
            again = "p* is estimated again, the finished stage is of former weights"
        context.say(f"{model.id}: {again}")
        return None
    if context.keep_adversarials and finished.record.robustness and finished.adversarials_sha256 is None:
        context.say(f"{model.id}: p* is estimated again, the finished stage kept no counterexamples")
        return None
    if under_test:  # nobody else looks at what the stage kept
        context.store.check(digest, finished)
    if _of_changed_code(finished, model, context):
        context.say(
            "Python files have changed since stages of own networks were made that this run took from the store: the "
            "networks' own files are the same, but if others that they need are not, take another --robbench-store"
        )
    if shared:
        context.say("what another run of the same code finished in this store meanwhile was not made again")
    return finished.record


def _of_this_session(finished: Finished, context: RunContext) -> bool:
    """Whether another run made a stage that shares the store with this one, by the same code in the same surroundings."""
    # Whether the tree is dirty changes while a run writes its baselines.
    there, here = (
        msgspec.structs.replace(surroundings, dirty=None)
        for surroundings in (finished.record.environment, environment(context.device))
    )
    return finished.finished >= context.began and finished.code == context.store.code and there == here


def _of_changed_code(finished: Finished, model: Model, context: RunContext) -> bool:
    """Whether a network of the user's own may have become another one since a former run made its stage."""
    if not own_module(model.architecture) or finished.run == context.store.run:
        return False
    return finished.code not in ("", context.store.code)


def basis_of(model: Model, stage: str) -> Model | None:
    """The model with whose weights a stage begins: itself where its p* is estimated, its source where it is trained."""
    return model if stage == "robustness" else model.source


def _outdated(finished: Finished, model: Model, store: Store) -> bool:
    """Whether a stage began with other weights than the store has now; no where one of the two does not say."""
    basis = basis_of(model, finished.record.stage)
    trained = store.undamaged(basis.digest) if basis is not None else None
    if basis is None or trained is None:
        return False
    return finished.made_from not in (None, trained.weights_sha256) or _outdated(trained, basis, store)


def inputs_of(model: Model, context: RunContext) -> str:
    """SHA-256 over the images that a model's weights come from: its own, and those of its sources."""
    own = context.images(model.dataset).sha256
    return own if model.source is None else digest_of([own, inputs_of(model.source, context)])


def load_network(model: Model, context: RunContext) -> Network:
    """A trained model from the store, on the context's device, in eval mode.

    Raises:
        RobbenchError: it is not in the store, or damaged.
    """
    return load_trained(model, context)[0]


def load_trained(model: Model, context: RunContext) -> tuple[Network, str]:
    """The same, and the SHA-256 of its weights."""
    data = context.images(model.dataset)
    network = transferred_network(model, data, None).network if model.transfer else build_network(model, data)
    tensors, checksum = context.store.weights_and_checksum(model.digest)
    load_weights(network, tensors, f"store, {model.id}")
    return place(network, context.device).eval(), checksum


def record_of(
    model: Model,
    digest: str,
    spec: dict[str, Any],
    used: DataUsed,
    network: Network,
    seconds: Seconds,
    context: RunContext,
    **result: Any,
) -> Record:
    """A record of a stage; ``result`` holds its stage, its training or robustness, and its notes."""
    transferred, source = model.transfer, model.source
    return Record(
        suite="",
        case=model.id,
        digest=digest,
        spec=spec,
        model=ModelFacts(
            architecture=model.architecture,
            dataset=model.dataset.name,
            method=model.method,
            source=source.dataset.name if source else None,
            source_case=source.id if source else None,
            source_method=source.method if source else None,
            k=transferred.k if transferred else None,
            blocks=len(blocks(network)),
            head=transferred.head if transferred else "linear",
            kept=transferred.kept if transferred else None,
            seed=model.seed,
            variant=model.variant,
            parameters=parameter_count(network),
            trainable=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        ),
        data=used,
        seconds=seconds,
        environment=environment(context.device),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **result,
    )
