"""Check a bundle against store and data: every record, and the counterexample behind each p*."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from robbench.errors import RobbenchError
from robbench.record import Record
from robbench.report import read_bundle
from robbench.spec import Estimate, Model, differences, read_spec
from robbench.spec.catalogue import own_module
from robbench.stages import Task
from robbench.stages.context import RunContext
from robbench.stages.networks import load_network
from robbench.store import Finished, Store
from robbench.verify.proof import Finding, prove


def verify(bundle: Path, context: RunContext, code: Collection[str] = ()) -> Iterator[Finding]:
    """Findings on a bundle, record by record; a user's own network is imported only if its module is in ``code``."""
    read = read_bundle(bundle)
    if not read.records:
        raise RobbenchError(f"verify: expected a bundle with records, {bundle} has none")
    for record in sorted(read.records, key=lambda record: (record.suite, record.name)):
        name = f"{record.suite}/{record.name}"
        try:
            for finding in _check(record, context, code):
                yield replace(finding, name=name)
        except RobbenchError as error:
            yield Finding(mark="problem", name=name, message=str(error))
    for name in read.missing:
        yield Finding(mark="missing", name=name, message="has no record")


def _check(record: Record, context: RunContext, code: Collection[str]) -> Iterator[Finding]:
    """Findings on one record; a RobbenchError says what ends the check."""
    finished = _stored(record, context.store)
    if record.training is None and record.robustness is None:
        yield Finding(
            mark="unproven", message=f"as in the store; only its own code can check a stage of kind {record.stage!r}"
        )
        return
    model, estimate = _specs(record)
    module = own_module(model.architecture)
    if module is not None and module not in code:
        advice = f"{model.architecture} is your own code, name it with --code {module} to run it"
        yield Finding(mark="unproven", message="as in the store, but not run", advice=advice)
        return
    _check_digest(record, model, estimate)
    data = context.images(model.dataset)
    if data.fingerprint != record.data.sha256:
        raise RobbenchError(
            f"data: expected the images of {record.data.name!r} that it was made with (SHA-256 "
            f"{record.data.sha256[:12]}…), got others ({data.fingerprint[:12]}…)"
        )
    network = load_network(model, context, _trained(finished, context.store))
    if estimate is None or record.robustness is None:
        yield Finding(mark="agrees", message="as in the store; digest, data and weights hold")
        return
    adversarials = context.store.adversarials(record.key)
    yield from prove(record.robustness, network, data, adversarials, box=estimate.attack.box, device=context.device)


def _trained(finished: Finished, store: Store) -> Finished:
    """The training stage whose weights a record is about: its own, or the one that it needed."""
    if "model" not in finished.needs:
        return finished
    need = finished.needs["model"]
    trained = store.finished(need.key)
    if trained is None or trained.weights_sha256 != need.weights_sha256:
        raise RobbenchError("weights: expected those that p* was estimated on in the store, got others or none")
    return trained


def _stored(record: Record, store: Store) -> Finished:
    """The store's stage of a record; a RobbenchError if there is none, or its results are others."""
    finished = store.finished(record.key) if record.key else None
    if finished is None:
        raise RobbenchError(f"store: expected the finished stage {record.key[:12]}… in {store.folder}, got none")
    if changes := differences(_found(finished.record), _found(record)):
        more = ", …" if len(changes) > 3 else ""
        raise RobbenchError(f"differs from the store's record (store → bundle): {', '.join(changes[:3])}{more}")
    return finished


def _found(record: Record) -> dict[str, Any]:
    """What two runs of a stage have in common: no names, durations or machine."""
    values: dict[str, Any] = msgspec.to_builtins(record)
    for epoch in values["result"].get("epochs", []):
        del epoch["seconds"], epoch["validation_seconds"]
    return {"kind": record.kind} | {name: values[name] for name in ("digest", "spec", "data", "result")}


def _specs(record: Record) -> tuple[Model, Estimate | None]:
    """Model and estimate of a record; no code is imported for it."""
    model, estimate = read_spec(record.spec.get("model", record.spec)), read_spec(record.spec.get("estimate"))
    if not isinstance(model, Model) or not isinstance(estimate, Estimate | None):
        raise RobbenchError("spec: expected that of a model (and of an estimate), got something else")
    dataset = replace(model.dataset, test=record.data.test_limit, folder=record.data.folder)
    return replace(model, dataset=dataset, variant=record.model.variant), estimate


def _check_digest(record: Record, model: Model, estimate: Estimate | None) -> None:
    """Raise a RobbenchError unless this robbench, and the network's code, would make the stage as it was made."""
    digest = Task(record.kind, model, estimate).digest
    if digest != record.digest:
        own = own_module(model.architecture) is not None
        code = f", or {model.architecture} has changed or cannot be imported here (PYTHONPATH)" if own else ""
        raise RobbenchError(
            f"digest {record.digest[:12]}… is not that of its specification, {digest[:12]}…: "
            f"another version of robbench recorded it ({record.environment.robbench}){code}"
        )
