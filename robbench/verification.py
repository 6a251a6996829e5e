"""Check a report bundle against store and data: every digest, record and figure, and the counterexample behind each p*."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from robbench.attacks import BALL_TOLERANCE
from robbench.data import Data, Images, pixels
from robbench.errors import RobbenchError
from robbench.memory import Batches, attack_batch
from robbench.models import Network
from robbench.models.onednn import plain_layers
from robbench.precision import full_precision
from robbench.record import WRONG, Record, Robustness, as_case, choose_images
from robbench.report import disagreements, read_bundle
from robbench.spec import Estimate, Model, describe, differences, read_spec
from robbench.store import Finished, Store
from robbench.workplace import Workplace, basis_of, load_network

ROUNDING = 1e-5
"""A classification is decided by rounding where its margin is at most this share of the largest logit."""

_SHOWN = 4
"""Images that a message names."""

KEEP = "`pytest -m suite … --robbench-resume --robbench-keep-adversarials` estimates p* again and keeps them"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of checking one record or one file."""

    mark: Literal["agrees", "proven", "unproven", "untimed", "remark", "problem"]
    """Remarks are for the reader; problems fail; of what is unproven or untimed, p* or seconds could not be checked."""
    name: str
    """``suite/case.stage``, or a file of the bundle."""
    message: str
    record: bool = True
    """Whether it is about a record; otherwise about the bundle's files."""
    counterexamples: int = 0
    """How many were proven."""


def verify(bundle: Path, workplace: Workplace) -> Iterator[Finding]:
    """Check the bundle in a folder (or named by its ``records.json``): one finding per record or file, and per fault.

    Of every record: the store has the finished stage of its digest with these very results, the digest is that of the
    specification, images and weights are those it was made with. Of every p* whose counterexample was kept: it lies in
    its ball and in the box, and float32 inference misclassifies it; the images counted as wrong are misclassified
    unperturbed, and no others. Of every file: it says what the records say.

    What cannot be proven: that an image counted as never fooled cannot be, and that no smaller p* exists; p* is an
    upper bound. Accuracies of the final test are not attacked again.

    Raises:
        RobbenchError: there is no bundle, or its ``records.json`` is damaged.
    """
    read = read_bundle(bundle)
    for record in sorted(read.records, key=lambda record: (record.suite, record.name)):
        name = f"{record.suite}/{record.name}"
        try:
            for mark, message, proven in _record(record, workplace):
                yield Finding(mark=mark, name=name, message=message, counterexamples=proven)
        except RobbenchError as error:
            yield Finding(mark="problem", name=name, message=str(error))
    folder = bundle if bundle.is_dir() else bundle.parent
    try:
        found = list(disagreements(folder, read))
    except RobbenchError as error:
        found = [("bundle", str(error))]
    for name, message in found:
        yield Finding(mark="problem", name=name, message=message, record=False)
    if not found:
        yield Finding(
            mark="agrees", name="bundle", record=False, message="report, tables and every p* are what the records say"
        )


_Line = tuple[Literal["agrees", "proven", "unproven", "untimed", "remark", "problem"], str, int]


def _record(record: Record, workplace: Workplace) -> Iterator[_Line]:
    """Mark, message and proven counterexamples of each finding on one record; raises what ends its check."""
    stored = _stored(record, workplace.store)
    if stored.created < record.created:
        raise RobbenchError(f"created: expected no run after the store's of {stored.created}, got {record.created}")
    if stored.created > record.created:
        later = f"the store holds a later run, of {stored.created}, with the same results"
        yield "untimed", f"{later}: this one's seconds, machine and notes cannot be checked", 0
    model, estimate = _specs(record)
    data = workplace.images(model.dataset)
    if data.sha256 != record.data.sha256:
        raise RobbenchError(
            f"data: expected the images of {record.data.name!r} that it was made with (SHA-256 "
            f"{record.data.sha256[:12]}…), got others ({data.sha256[:12]}…)"
        )
    made_from = _made_from(record, model, workplace.store)
    network = load_network(model, workplace)
    if estimate is None or record.robustness is None:
        yield "agrees", "as in the store; digest, data and weights hold", 0
        return
    _check_settings(record.robustness, estimate, len(data.test))
    adversarials = workplace.store.adversarials(record.digest)
    because = "" if made_from else _later(record, model, workplace)
    yield from _proof(record.robustness, estimate, network, data, adversarials, workplace.device, because)


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
    changed = [f"place of p* of image {image}: {old} → {new}" for image, old, new in pairs if old != new]
    return changed[:_SHOWN]


def _specs(record: Record) -> tuple[Model, Estimate | None]:
    """Model and estimate of a record, once it is sure that they have its digest and its name.

    Raises:
        RobbenchError: they do not.
    """
    described = record.spec.get("model") if record.stage == "robustness" else record.spec
    model, estimate = read_spec(described), read_spec(record.spec.get("estimate"))
    if not isinstance(model, Model) or not isinstance(estimate, Estimate | None):
        raise RobbenchError("spec: expected that of a model (and of an estimate), got something else")
    if record.stage == "robustness" and estimate is None:
        raise RobbenchError("spec: expected that of an estimate beside the model's, got none")
    dataset = replace(model.dataset, test=record.data.test_limit)
    model = replace(model, dataset=dataset, variant=record.model.variant)
    digest = model.digest if estimate is None else model.estimate_digest(estimate)
    if digest != record.digest:
        own = ":" in model.architecture
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
    return model, estimate


def _check_settings(robustness: Robustness, estimate: Estimate, test_images: int) -> None:
    """Raise a RobbenchError unless a distribution was taken as its estimate asks."""
    for name, found, expected in (
        ("grid", robustness.grid, list(estimate.grid.values)),
        ("attack", robustness.attack, describe(estimate.attack)),
        ("search", robustness.search, estimate.search),
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


def _later(record: Record, model: Model, workplace: Workplace) -> str:
    """What explains every fault of a proof, where p* does not name its weights: that there are later ones."""
    trained: Finished | None = workplace.store.finished(model.digest)
    later = trained is not None and trained.record.created > record.created
    return "; the model was trained again after p* was estimated" if later else ""


def _proof(
    robustness: Robustness,
    estimate: Estimate,
    network: Network,
    data: Data,
    adversarials: Tensor | None,
    device: torch.device,
    because: str,
) -> Iterator[_Line]:
    """Findings on the images of a distribution: right or wrong unperturbed, and fooled inside ball and box.

    Args:
        robustness: of the record.
        estimate: that it was taken by.
        network: on the device, in eval mode.
        data: on the CPU.
        adversarials: of :meth:`robbench.store.Store.adversarials`.
        device: of the network.
        because: ends the messages of problems.
    """
    names, place = torch.tensor(robustness.images), torch.tensor(robustness.pstar)
    test, radii = data.test.take(names), torch.tensor(estimate.grid.values, dtype=torch.float64)
    problems: list[str] = []
    remarks: list[str] = []
    with full_precision(device):
        batches = Batches("verification", attack_batch(network, pixels(test.images[:1].to(device))), remarks)
    margins = _margins(network, test, batches, device)
    flipped = (margins < 0) != (place == WRONG)
    for chosen, said in (
        (flipped & (place == WRONG), "counted as misclassified unperturbed, but classified correctly"),
        (flipped & (place != WRONG), "counted as classified correctly, but misclassified unperturbed"),
        (margins.isnan(), "with logits that are not finite"),
    ):
        _note(problems, remarks, names, chosen, margins, said)

    found = (place != WRONG) & (place < len(radii))
    proven = 0
    if adversarials is not None:
        expected = (int(found.sum()), *data.shape)
        if adversarials.shape != expected or adversarials.dtype != torch.float32:
            got = f"{tuple(adversarials.shape)} {str(adversarials.dtype).removeprefix('torch.')}"
            raise RobbenchError(f"counterexamples: expected {expected} float32, one for each p*, got {got}")
        names, radius = names[found], radii[place[found]]
        labels = test.labels[found]
        originals = pixels(test.images[found])
        # In float64: the true distance of what float32 holds.
        distance = (adversarials.double() - originals.double()).abs().flatten(1).amax(1)
        flat, (low, high) = adversarials.flatten(1), estimate.attack.box
        below = torch.where(place[found] > 0, radii[(place[found] - 1).clamp(min=0)], 0.0)
        attacked = _margins(network, _Floats(adversarials, labels), batches, device)
        faults = {
            "p* of 0, where nothing is attacked": radius <= 0,
            "whose counterexample is farther away than p*": ~(distance <= radius + BALL_TOLERANCE),
            "whose counterexample leaves the valid pixels": ~((flat.amin(1) >= low) & (flat.amax(1) <= high)),
        }
        sound = torch.ones_like(radius, dtype=torch.bool)
        for said, chosen in faults.items():
            sound &= ~chosen
            _note(problems, remarks, names, chosen, None, said)
        not_fooled = ~(attacked < 0)
        _note(problems, remarks, names, not_fooled, attacked, "whose counterexample is classified correctly")
        loose = (below > 0) & (distance <= below + BALL_TOLERANCE)
        if loose.any():
            remarks.append(f"{_images(names[loose])} whose counterexample lies in a smaller ball than that of p*")
        proven = int((sound & ~not_fooled).sum())
    for message in remarks:
        yield "remark", message, 0
    for message in problems:
        yield "problem", message + because, 0
    rest = f"{robustness.censored:,} never fooled, {len(place) - robustness.clean.correct:,} wrong unperturbed"
    if adversarials is None and found.any():
        yield "unproven", f"the counterexamples of {int(found.sum()):,} images were not kept; {KEEP}", 0
    else:
        mark: Literal["proven", "unproven"] = "unproven" if proven < found.sum() and not problems else "proven"
        yield mark, f"{proven:,} of {int(found.sum()):,} counterexamples; {rest}", proven


@dataclass(frozen=True)
class _Floats:
    """(N, C, H, W) floats in [0, 1] and their (N,) labels."""

    images: Tensor
    labels: Tensor


def _margins(network: Network, images: Images | _Floats, batches: Batches, device: torch.device) -> Tensor:
    """(N,) float64 on the CPU: logit of the label less the largest other, as a share of the largest; below 0 is wrong.

    By float32 inference. NaN where logits are not finite; of equal logits the first one wins, as everywhere.
    """
    margins = torch.zeros(len(images.labels), dtype=torch.float64)

    def judge(part: slice) -> None:
        batch, labels = images.images[part].to(device), images.labels[part].to(device)
        logits = network(pixels(batch))
        wrong = logits.argmax(dim=1) != labels
        logits = logits.double()
        scale = logits.abs().amax(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        own = logits.gather(1, labels[:, None]).squeeze(1)
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        share = ((own - other) / scale).abs().clamp(min=torch.finfo(torch.float64).tiny)
        share = torch.where(torch.isfinite(logits).all(dim=1), share, torch.nan)
        margins[part] = torch.where(wrong, -share, share).cpu()

    with torch.no_grad(), full_precision(device), plain_layers():
        batches.over(len(images.labels), device, judge)
    return margins


def _note(
    problems: list[str], remarks: list[str], names: Tensor, chosen: Tensor, margins: Tensor | None, said: str
) -> None:
    """Name the chosen images: as a problem, or as a remark those whose margin is within rounding."""
    close = chosen & (margins.abs() <= ROUNDING) if margins is not None else torch.zeros_like(chosen)
    if close.any():
        remarks.append(f"{_images(names[close])} {said}: by rounding, the margin is at most {ROUNDING:g} of the logits")
    if (chosen & ~close).any():
        problems.append(f"{_images(names[chosen & ~close])} {said}")


def _images(names: Tensor) -> str:
    shown: Sequence[int] = names[:_SHOWN].tolist()
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return f"image{'s' * (len(names) > 1)} {', '.join(map(str, shown))}{more}"
