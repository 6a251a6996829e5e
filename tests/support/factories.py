"""Synthetic records for tests: small, valid, every figure chosen by the caller."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import msgspec
from PIL import Image

from robbench.record import (
    Audit,
    Counts,
    DataUsed,
    Environment,
    Epoch,
    Example,
    ModelFacts,
    OfClass,
    Record,
    Robustness,
    Seconds,
    Training,
)
from robbench.report.rows import Group, group_records

GRID = [0.0, 0.1, 0.2, 0.3, 0.4]

ENVIRONMENT = Environment(
    slug="cpu-2core",
    device="cpu",
    cpu="Test CPU",
    cores=2,
    threads=2,
    system="Linux",
    python="3.11",
    robbench="0",
    torch="2",
    torchvision="0",
)

SOUND = Audit(
    images=100,
    zero_gradient=0,
    not_finite=0,
    one_step=[],
    scanned=10,
    probes=80,
    not_monotone=1,
    below=2,
    forward=900,
    backward=800,
)
"""What an audit found that has no warning."""


def make_facts(method: str = "pgd", dataset: str = "mnist", k: int | None = None, **changes: Any) -> ModelFacts:
    """A cnn7; with ``k`` a transfer from the adversarially trained MNIST model of its seed."""
    values: dict[str, Any] = {"architecture": "cnn7", "blocks": 7, "parameters": 312_202, "trainable": 312_202}
    if k is not None:
        seed = f"-seed{changes['seed']}" if changes.get("seed") else ""
        source = f"{changes.get('architecture', 'cnn7')}-mnist-pgd{seed}"
        values |= {"source": "mnist", "source_method": "pgd", "source_case": source, "kept": "frozen"}
    return ModelFacts(**(values | {"method": method, "dataset": dataset, "k": k} | changes))


def case_name(facts: ModelFacts) -> str:
    """What :attr:`robbench.spec.Model.id` makes of such a model."""
    parts = [facts.architecture, facts.dataset, f"TL{facts.k}" if facts.k else facts.method]
    parts += ["adversarial"] if facts.method == "transfer-adversarial" else []
    parts += [facts.head] if facts.head != "linear" else []
    parts += [facts.kept] if facts.kept not in (None, "frozen") else []
    parts += ["from-standard"] if facts.source_method == "standard" else []
    parts += [facts.objective] if facts.objective else []
    parts += [facts.variant] if facts.variant else []
    return "-".join(parts + ([f"seed{facts.seed}"] if facts.seed else []))


def _record(facts: ModelFacts, stage: str, seconds: Seconds, test: int = 10, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "suite": "demo",
        "case": case_name(facts),
        "stage": stage,
        "digest": "0" * 64,
        "spec": {"model": {"recipe": {"attack": {"epsilon": 0.3} if facts.method == "pgd" else None}}},
        "model": facts,
        "data": DataUsed(name=facts.dataset, train=400, validation=100, test=test, sha256=facts.dataset.ljust(64, "0")),
        "seconds": seconds,
        "environment": ENVIRONMENT,
        "created": "2025-01-01T00:00:00Z",
    }
    return Record(**(values | changes))


def training_record(facts: ModelFacts, seconds: float = 10.0, epochs: int = 3, **changes: Any) -> Record:
    """A training stage of so many seconds (and a tenth of that for validation); the last epoch but one was kept."""
    half = Counts(correct=50, total=100)
    history = [
        Epoch(
            epoch=number,
            loss=1.0 / number,
            learning_rate=0.001,
            train=half,
            validation=half,
            seconds=seconds / epochs,
            validation_seconds=seconds / epochs / 10,
        )
        for number in range(1, epochs + 1)
    ]
    training = Training(
        epochs=history, best=max(1, epochs - 1), stopped_early=True, validation=half, forward=300, backward=300
    )
    timed = Seconds(training=seconds, validation=seconds / 10)
    return _record(facts, "training", timed, **({"result": training} | changes))


def robustness_record(
    facts: ModelFacts, indices: Sequence[int], grid: Sequence[float] = GRID, **changes: Any
) -> Record:
    """A robustness stage whose image i has the grid index ``indices[i]`` (-1 misclassified, ``len(grid)`` censored)."""
    robustness = Robustness(
        grid=list(grid),
        attack={"kind": "PGD", "steps": 40},
        search="reference",
        images=list(range(len(indices))),
        pstar=list(indices),
        forward=1_000,
        backward=900,
    )
    return _record(facts, "robustness", Seconds(estimation=1.0), len(indices), **({"result": robustness} | changes))


def with_examples(records: Sequence[Record]) -> list[Record]:
    """The records, their estimates with two pictures each."""
    data = io.BytesIO()
    Image.new("L", (24, 8), 200).save(data, format="png")
    values: dict[str, Any] = {"image": 3, "label": "a", "says": "<b>", "pstar": 0.1, "png": data.getvalue()}
    examples = [Example(kind=kind, **values) for kind in ("worst", "typical")]  # type: ignore[arg-type]
    return [
        msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, examples=examples))
        if record.robustness
        else record
        for record in records
    ]


def many_classes(count: int) -> list[OfClass]:
    """Classes c0, c1, … of 20 images, each more robust than the one before; c0 has one correct image, the others 15."""
    return [
        OfClass(name=f"c{number}", clean=Counts(correct=15 if number else 1, total=20), median_pstar=number / 50)
        for number in range(count)
    ]


def with_classes(records: Sequence[Record], classes: list[OfClass]) -> list[Record]:
    """The records, their estimates with these classes."""
    return [
        msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, classes=classes))
        if record.robustness
        else record
        for record in records
    ]


def again(record: Record, search: str, indices: Sequence[int]) -> Record:
    """The second estimate of a robustness record's model, by another search on its first images."""
    result = msgspec.structs.replace(
        record.result, search=search, images=record.result.images[: len(indices)], pstar=list(indices)
    )
    return msgspec.structs.replace(record, stage=f"robustness-{search}", result=result)


def busy(records: Sequence[Record], stage: str) -> list[Record]:
    """The same, but that one stage (``case.stage``) waited for a core half of its time."""

    def waited(record: Record) -> Record:
        seconds = msgspec.structs.replace(record.seconds, waiting_for_core=0.5 * record.seconds.measured)
        return msgspec.structs.replace(record, seconds=seconds)

    return [waited(record) if record.name == stage else record for record in records]


def both_records(facts: ModelFacts, indices: Sequence[int], seconds: float = 10.0, **changes: Any) -> list[Record]:
    """The two stages of one model."""
    return [training_record(facts, seconds, **changes), robustness_record(facts, indices, **changes)]


def transfer(k: int, indices: Sequence[int], seconds: float = 10.0, **facts: Any) -> list[Record]:
    """The two stages of a model transferred to EMNIST."""
    return both_records(make_facts("transfer", "emnist", k, **facts), indices, seconds)


def make_group(*records: Record | list[Record]) -> Group:
    """The only group of such records, or of models given as lists of their records."""
    (group,) = group_records([one for each in records for one in (each if isinstance(each, list) else [each])])
    return group
