"""Losses planted into records: smaller p*, fewer images classified correctly."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import msgspec
import numpy as np

from robbench.record import MISCLASSIFIED, Counts, Record, Training

PSTAR_LOSSES = (0.05, 0.10, 0.20)
ACCURACY_LOSSES = (0.01, 0.02)
Loss = tuple[str, Callable[[Record], Record]]


def lose_pstar(record: Record, loss: float) -> Record:
    """The record after every minimum perturbation became smaller by the share ``loss``.

    p* is the grid value above an image's minimum perturbation, which is drawn at random from the step below it, scaled,
    and snapped to the grid again: up, as p* is. Censored images stay so: how far beyond the grid they lie is not known.
    """
    robustness = record.robustness
    if robustness is None or not loss:
        return record
    places = np.asarray(robustness.pstar)
    within = places - _generator(record).random(len(places))
    scaled = np.maximum(np.ceil(within * (1 - loss)), 0).astype(int)
    found = (places != MISCLASSIFIED) & (places < len(robustness.grid))
    changed = np.where(found, scaled, places).tolist()
    return msgspec.structs.replace(record, result=msgspec.structs.replace(robustness, pstar=changed))


def lose_accuracy(record: Record, points: float) -> Record:
    """The record after so many points (a share) of its images, chosen at random, became misclassified; rounded up."""
    if not points:
        return record
    if (robustness := record.robustness) is not None:
        places = np.asarray(robustness.pstar)
        right = np.flatnonzero(places != MISCLASSIFIED)
        count = min(len(right), math.ceil(points * len(places)))
        places[_generator(record).choice(right, count, replace=False)] = MISCLASSIFIED
        attacks = [
            msgspec.structs.replace(tested, robust=_at_most(tested.robust, int(np.sum(places != MISCLASSIFIED))))
            for tested in robustness.attacks
        ]
        changed = msgspec.structs.replace(robustness, pstar=places.tolist(), attacks=attacks)
        return msgspec.structs.replace(record, result=changed)
    training = record.training
    assert training is not None
    validation = training.validation
    left = _at_most(validation, max(0, validation.correct - math.ceil(points * validation.total)))
    return msgspec.structs.replace(record, result=with_validation(training, left))


def with_validation(training: Training, validation: Counts) -> Training:
    """A training stage with other validation counts, which its history says of the kept epoch, too."""
    epochs = [
        msgspec.structs.replace(epoch, validation=validation) if epoch.epoch == training.best else epoch
        for epoch in training.epochs
    ]
    return msgspec.structs.replace(training, epochs=epochs, validation=validation)


def _at_most(counts: Counts, correct: int) -> Counts:
    """Of the same images, no more than so many."""
    return msgspec.structs.replace(counts, correct=min(counts.correct, correct))


def _generator(record: Record) -> np.random.Generator:
    """Random numbers of a stage and its outcome: the same in every run of this script, others for other outcomes."""
    places = record.robustness.pstar if record.robustness else []
    return np.random.default_rng(zlib.crc32(f"{record.name} {places}".encode()))


def losses() -> list[Loss]:
    """What is planted, by name; the first is nothing."""
    return [
        ("none", lambda record: record),
        *((f"{loss:.0%} of median p*", lambda record, loss=loss: lose_pstar(record, loss)) for loss in PSTAR_LOSSES),
        *(
            (
                f"{points_text(points)} of accuracy",
                lambda record, p=points: lose_accuracy(record, p),
            )
            for points in ACCURACY_LOSSES
        ),
    ]


def points_text(share: float) -> str:
    """A share as ``2 points``."""
    return "1 point" if share == 0.01 else f"{share * 100:g} points"
