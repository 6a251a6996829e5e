"""Check a report bundle against store and data: every digest, record and figure, and the counterexample behind each p*."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from robbench.errors import RobbenchError
from robbench.estimation.sampling import choose_images
from robbench.record import Record, Robustness, as_case
from robbench.report import read_bundle
from robbench.spec import Estimate, Model, describe, differences, read_spec
from robbench.spec.catalogue import own_module
from robbench.stages.context import RunContext, basis_of, load_network
from robbench.store.store import Finished, Store
from robbench.verify.completeness import gaps
from robbench.verify.proof import Line, Mark, prove


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of checking one record or one file."""

    mark: Mark
    """Remarks are for the reader; problems fail; of what is unproven or untimed, p* or seconds could not be checked; of
    what is missing, there is no record."""
    name: str
    """``suite/case.stage``, a study, or a file of the bundle."""
    message: str
    record: bool = True
    """Whether it came of checking a record; otherwise it is about the bundle as a whole."""
    counterexamples: int = 0
    """How many were proven."""
    smaller: int = 0
    """How many of them lie in a smaller ball of the grid than that of their p*."""
    advice: str = ""
    """What would let more be proven."""


def verify(bundle: Path, context: RunContext, code: Collection[str] = ()) -> Iterator[Finding]:
    """Check the bundle in a folder (or named by its ``records.json``): one finding per record or file, and per fault.

    Of every record: the store has the finished stage of its digest with these very results, the digest is that of the
    specification, images and weights are those it was made with. Of every p* whose counterexample was kept: it lies in
    its ball and in the box, and float32 inference misclassifies it; the images counted as wrong are misclassified
    unperturbed, and no others. Of the study: which stages are listed as missing.

    A network of the user's own is code that the record names: it is imported only from the modules in ``code``.

    What cannot be proven: that an image counted as never fooled cannot be, and that no smaller p* exists; p* is an
    upper bound. Accuracies of the final test are not attacked again.

    Raises:
        RobbenchError: there is no bundle, its ``records.json`` is damaged, or it has no record.
    """
    read = read_bundle(bundle)
    if not read.records:
        raise RobbenchError(f"verify: expected a bundle with records, {bundle} has none")
    for record in sorted(read.records, key=lambda record: (record.suite, record.name)):
        name = f"{record.suite}/{record.name}"
        try:
            for line in _record(record, context, code):
                yield Finding(
                    mark=line.mark,
                    name=name,
                    message=line.message,
                    counterexamples=line.proven,
                    smaller=line.smaller,
                    advice=line.advice,
                )
        except RobbenchError as error:
            yield Finding(mark="problem", name=name, message=str(error))
    for mark, name, message in gaps(read):
        yield Finding(mark=mark, name=name, message=message, record=False)


def _record(record: Record, context: RunContext, code: Collection[str]) -> Iterator[Line]:
    """Findings on one record; raises what ends its check."""
    stored = _stored(record, context.store)
    if stored.created < record.created:
        raise RobbenchError(f"created: expected no run after the store's of {stored.created}, got {record.created}")
    if stored.created > record.created:
        later = f"the store holds a later run, of {stored.created}, with the same results"
        yield Line("untimed", f"{later}: this one's seconds, machine and notes cannot be checked")
    model, estimate = _specs(record)
    module = own_module(model.architecture)
    if module is not None and module not in code:
        yield Line(
            "unproven",
            "as in the store, but not run",
            advice=f"{model.architecture} is your own code, name it with --code {module} to run it",
        )
        return
    _check_names(record, model, estimate)
    data = context.images(model.dataset)
    if data.fingerprint != record.data.sha256:
        raise RobbenchError(
            f"data: expected the images of {record.data.name!r} that it was made with (SHA-256 "
            f"{record.data.sha256[:12]}…), got others ({data.fingerprint[:12]}…)"
        )
    made_from = _made_from(record, model, context.store)
    network = load_network(model, context)
    if estimate is None or record.robustness is None:
        yield Line("agrees", "as in the store; digest, data and weights hold")
        return
    _check_settings(record.robustness, estimate, len(data.test))
    adversarials = context.store.adversarials(record.digest)
    because = "" if made_from else _later(record, model, context)
    yield from prove(record.robustness, estimate, network, data, adversarials, context.device, because)


def _stored(record: Record, store: Store) -> Record:
    """The store's record of the same stage under the bundle's names, once it is sure that both say the same.

    Raises:
        RobbenchError: they do not, or there is none.
    """
    finished = store.finished(record.digest)
    if finished is None:
        raise RobbenchError(
            f"store: expected the finished stage of digest {record.digest[:12]}… in {store.folder}, got none"
        )
    facts = record.model
    stored = as_case(
        finished.record,
        suite=record.suite,
        case=record.case,
        source_case=facts.source_case,
        variant=facts.variant,
    )
    same_run = stored.created == record.created
    changes = differences(_plain(stored, times=same_run), _plain(record, times=same_run))
    if stored.robustness and record.robustness:
        changes[:0] = _pstar_changes(stored.robustness, record.robustness)
    if changes:
        which = "" if same_run else f" of {stored.created}"
        more = ", …" if len(changes) > 3 else ""
        raise RobbenchError(f"differs from the store's record{which} (store → bundle): {', '.join(changes[:3])}{more}")
    return stored


def _plain(record: Record, *, times: bool) -> dict[str, Any]:
    """A record as plain values; without ``times``, what two runs of one stage need not share is left out."""
    values: dict[str, Any] = msgspec.to_builtins(record)
    if not times:
        for name in ("seconds", "created", "environment", "notes"):
            del values[name]
        for epoch in (values["training"] or {"epochs": []})["epochs"]:
            del epoch["seconds"], epoch["validation_seconds"]
    return values


def _pstar_changes(stored: Robustness, given: Robustness) -> list[str]:
    pairs = zip(given.images, stored.pstar, given.pstar, strict=False)
    return [f"place of p* of image {image}: {old} → {new}" for image, old, new in pairs if old != new]


def _specs(record: Record) -> tuple[Model, Estimate | None]:
    """Model and estimate that a record says it is of; no code is imported for it.

    Raises:
        RobbenchError: it does not say.
    """
    described = record.spec.get("model") if record.stage == "robustness" else record.spec
    model, estimate = read_spec(described), read_spec(record.spec.get("estimate"))
    if not isinstance(model, Model) or not isinstance(estimate, Estimate | None):
        raise RobbenchError("spec: expected that of a model (and of an estimate), got something else")
    if record.stage == "robustness" and estimate is None:
        raise RobbenchError("spec: expected that of an estimate beside the model's, got none")
    dataset = replace(model.dataset, test=record.data.test_limit)
    return replace(model, dataset=dataset, variant=record.model.variant), estimate


def _check_names(record: Record, model: Model, estimate: Estimate | None) -> None:
    """Raise a RobbenchError unless digest, case and source of a record are those of its specification."""
    digest = model.digest if estimate is None else model.estimate_digest(estimate)
    if digest != record.digest:
        own = own_module(model.architecture) is not None
        code = f", {model.architecture} has changed or cannot be imported here (PYTHONPATH)" if own else ""
        raise RobbenchError(
            f"digest {record.digest[:12]}… is not that of its specification, {digest[:12]}…: one of them was changed, "
            f"another version of robbench recorded it ({record.environment.robbench}){code}"
        )
    source = None if model.source is None else model.source.id
    if record.model.source_case != source:
        raise RobbenchError(
            f"source_case: expected {source}, as its specification says, got {record.model.source_case}"
        )
    if model.id != record.case:
        raise RobbenchError(f"case: expected {model.id}, as its specification says, got {record.case}")


def _check_settings(robustness: Robustness, estimate: Estimate, test_images: int) -> None:
    """Raise a RobbenchError unless a distribution was taken as its estimate asks."""
    for name, found, expected in (
        ("grid", robustness.grid, list(estimate.grid.values)),
        ("attack", robustness.attack, describe(estimate.attack)),
        ("search", robustness.search, estimate.search_name),
        ("images", robustness.images, choose_images(test_images, estimate.images, estimate.seed)),
    ):
        if found != expected:
            raise RobbenchError(f"robustness {name}: not what its specification says")


def _made_from(record: Record, model: Model, store: Store) -> str | None:
    """SHA-256 of the weights that a stage began with, once it is sure that the store has no others of that model.

    None where it began with none, or an older version did not say.

    Raises:
        RobbenchError: the store has others.
    """
    finished, basis = store.finished(record.digest), basis_of(model, record.stage)
    trained = store.undamaged(basis.digest) if basis is not None else None
    made_from = finished.made_from if finished is not None else None
    if basis is not None and trained is not None and made_from not in (None, trained.weights_sha256):
        raise RobbenchError(
            f"weights: expected those of {basis.id} that it was made from (SHA-256 {str(made_from)[:12]}…), the store "
            f"has others ({str(trained.weights_sha256)[:12]}…); `pytest -m suite … --robbench-resume` makes it again"
        )
    return made_from


def _later(record: Record, model: Model, context: RunContext) -> str:
    """What explains every fault of a proof, where p* does not name its weights: that there are later ones."""
    trained: Finished | None = context.store.finished(model.digest)
    later = trained is not None and trained.record.created > record.created
    return "; the model was trained again after p* was estimated" if later else ""
