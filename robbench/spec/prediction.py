"""Where to cut, predicted without retraining."""

from __future__ import annotations

from robbench.errors import require
from robbench.spec.base import PositiveInt, Spec
from robbench.spec.training import PGD


class Drift(Spec):
    """How far an attack on the source moves the features that a transfer with frozen blocks keeps, on target images.

    It needs no retraining and no labels, and no image to test on: a prediction of where median p* falls.
    """

    attack: PGD
    """On the distance between the features of an image and of the attacked one; its epsilon is of the source's training."""
    images: PositiveInt = 250
    """At most this many of the validation images."""

    def __post_init__(self) -> None:
        given = self.attack.epsilon is not None and self.attack.random_start
        how = "a PGD with an epsilon and a random start, as no distance has a slope at the image itself"
        require(given, "Drift attack", how, self.attack)
