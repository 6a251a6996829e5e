"""Tiny networks, data sets and models for stages end to end."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import torch
from torch import nn

from robbench.data import load_data
from robbench.record import Seconds
from robbench.spec import PGD, Dataset, EpsilonGrid, Estimate, Model, Recipe, Transfer
from robbench.stages import Task, run_graph

ADVERSARY = PGD(epsilon=0.1, steps=1)
RECIPE = Recipe(optimiser="sgd", learning_rate=0.05, weight_decay=1e-4, batch_size=16, epochs=1)
ESTIMATE = Estimate(
    grid=EpsilonGrid(stop=0.3, step=0.02),
    attack=PGD(steps=2, random_start=False),
    search="reference",
    images=20,
    seed=1,
)
FOOLING = replace(ESTIMATE, grid=EpsilonGrid(stop=1.0, step=0.05))
"""Wide enough that most images have a p*."""


class Room(nn.Module):
    """Has memory for so many images in an update, and for so many in everything else."""

    update = judged = 10**9

    def forward(self, images):
        """The images themselves."""
        if len(images) > (Room.update if self.training and torch.is_grad_enabled() else Room.judged):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return images


def small(classes, shape):
    """Two convolutions, batch norm, dropout and a linear layer: four blocks for images of any size above 4."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, classes),
    )


def narrow(classes, shape):
    """A convolution and a linear layer, with a door of limited width in front."""
    return nn.Sequential(Room(), nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes))


def rigid(classes, shape):
    """One linear layer on the pixels: for images of one size only."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def write_images(folder, name, *, classes=3, side=8, channels=None, count=60, seed=0):
    """A prepared data set of striped noise, a stripe per class."""
    folder.mkdir(exist_ok=True)
    numbers = np.random.default_rng(seed)
    arrays = {"classes": np.array([f"c{number}" for number in range(classes)])}
    for part, size in (("train", count), ("test", count // 2)):
        labels = np.arange(size) % classes
        images = numbers.integers(0, 150, (size, side, side, channels or 1), dtype=np.uint8)
        images[np.arange(size), labels] += 100
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(folder / f"{name}.npz", **arrays)
    load_data.cache_clear()


def source(dataset="near", *, architecture="own_networks:small", **changes):
    """A model trained adversarially from scratch."""
    return Model(
        architecture=architecture, dataset=Dataset(name=dataset), recipe=replace(RECIPE, attack=ADVERSARY, **changes)
    )


def target(k=1, *, of=None, dataset="far", recipe=RECIPE, **changes):
    """A transfer of the source model to the other data set."""
    of = of or source()
    transfer = Transfer(k=k, **changes)
    return Model(
        architecture=of.architecture, dataset=Dataset(name=dataset), recipe=recipe, transfer=transfer, source=of
    )


def train(model, context):
    """The record of a model's training."""
    task = Task("training", model)
    return run_graph([task], context)[task]


def estimate(model, context, spec=ESTIMATE):
    """The record of a model's p*."""
    task = Task("robustness", model, spec)
    return run_graph([task], context)[task]


def comparable(record):
    """A record without what differs between equal runs: durations, the date, the folder whose commit was read first."""
    training = record.training and msgspec.structs.replace(
        record.training,
        epochs=[msgspec.structs.replace(e, seconds=0.0, validation_seconds=0.0) for e in record.training.epochs],
    )
    machine = msgspec.structs.replace(record.environment, commit=None, dirty=None)
    return msgspec.structs.replace(
        record, seconds=Seconds(), created="", environment=machine, result=training or record.result
    )


class Killed(BaseException):
    """The process was killed."""


def killer(word, call):
    """A ``show`` that kills at the given call about what begins with ``word``."""
    calls = [0]

    def show(what, done, total, detail=""):
        assert 0 <= done <= total
        calls[0] += what.startswith(word)
        if what.startswith(word) and calls[0] == call:
            raise Killed

    return show
