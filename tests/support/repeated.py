"""A small study, run from the beginning; what it gives must not depend on when, where and how often it runs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from factories import ENVIRONMENT
from torch import nn

from robbench.record import Record, Seconds
from robbench.report.page import report_text
from robbench.report.rows import group_records
from robbench.spec import PGD, Dataset, EpsilonGrid, Estimate, Model, Recipe, Transfer
from robbench.stages import Task, run_stage
from robbench.stages.context import RunContext
from robbench.store.store import Store

NEAR = Dataset(name="glyphs10", train=120, test=40, augmentation="crop-flip")
FAR = Dataset(name="glyphs47", train=120, test=40)
RECIPE = Recipe(optimiser="adam", learning_rate=0.005, weight_decay=1e-4, batch_size=32, epochs=2)
ADVERSARIAL = replace(RECIPE, attack=PGD(epsilon=0.1, steps=2))
REFERENCE = Estimate(
    grid=EpsilonGrid(stop=0.5, step=0.01), attack=PGD(steps=5, random_start=False), search="reference", images=40
)


def small(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Convolutions, batch norm, dropout and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 5, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(400, classes),
    )


def models() -> list[Model]:
    """Trained adversarially from scratch, transferred on features that are computed once, and finetuned."""
    source = Model(architecture="repeated:small", dataset=NEAR, recipe=ADVERSARIAL, seed=1)
    target = Model(
        architecture="repeated:small", dataset=FAR, recipe=RECIPE, transfer=Transfer(k=1), source=source, seed=1
    )
    return [source, target, replace(target, transfer=Transfer(k=2, kept="finetuned"), recipe=ADVERSARIAL)]


def timeless(record: Record) -> Record:
    """A record without what no two runs share: durations, dates, and where they ran."""
    epochs = record.training.epochs if record.training else []
    training = record.training and msgspec.structs.replace(
        record.training, epochs=[msgspec.structs.replace(one, seconds=1.0, validation_seconds=1.0) for one in epochs]
    )
    seconds = Seconds(training=1.0) if training else Seconds(estimation=1.0)
    result = training or record.result
    changes = {"key": "", "seconds": seconds, "created": "now", "result": result, "environment": ENVIRONMENT}
    return msgspec.structs.replace(record, **changes)


def study(folder: Path) -> dict[str, object]:
    """Checksums of the weights, records, and the report's text, of everything run anew in an empty folder."""
    store = Store(folder / "store")
    context = RunContext(store=store, data=folder / "data", device=torch.device("cpu"))
    trained = [run_stage(Task("training", model), context, suite="demo") for model in models()]
    found = [run_stage(Task("robustness", model, REFERENCE), context, suite="demo") for model in models()]
    fast = run_stage(Task("robustness", models()[1], replace(REFERENCE, search="fast")), context, suite="fast")
    same = [timeless(record) for record in (*trained, *found, fast)]
    text = report_text(group_records(same[:-1]), {}, title="demo", command="pytest", notes=[], verdicts=[], missing=[])
    weights = [
        {
            name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
            for name, tensor in store.weights(store.finished(record.key)).items()
        }
        for record in trained
    ]
    return {"weights": weights, "records": msgspec.to_builtins(same), "report": text}
