"""How much of a sign an audit lets pass before it warns."""

from __future__ import annotations

import msgspec

from robbench.estimation.masking import warnings
from robbench.record import Against, Audit

CLEAN = Audit(
    images=100, zero_gradient=0, not_finite=0, one_step=[], scanned=20, probes=160, not_monotone=0, below=0,
    forward=1, backward=1,
)  # fmt: skip


def test_thresholds():
    """What the exact tests let pass, and what they do not, on the default's hundred images and ten scanned ones."""
    ten = msgspec.structs.replace(CLEAN, scanned=10)

    def warned(**changes):
        return len(warnings(msgspec.structs.replace(ten, **changes)))

    assert [warned(zero_gradient=count) for count in (0, 5, 6, 100)] == [0, 0, 1, 1]
    assert [warned(not_finite=count) for count in (0, 1)] == [0, 1]
    assert [warned(by_chance=count) for count in (0, 1)] == [0, 1]
    assert [warned(not_monotone=count) for count in (0, 4, 5)] == [0, 0, 1]
    assert [warned(below=count) for count in (0, 4, 5)] == [0, 0, 1]
    assert [warned(apgd_fooled=count, apgd_images=50) for count in (0, 36, 37, 50)] == [0, 0, 1, 1]

    def beaten(alone, search):
        against = Against(epsilon=0.1, images=100, both=9, attack_alone=alone, search_alone=search)
        return warned(one_step=[against]), warned(square=against, square_queries=10)

    assert [beaten(*counts) for counts in ((0, 0), (9, 0), (10, 0), (30, 10), (31, 10), (10, 50))] == [
        (0, 0), (0, 0), (1, 1), (0, 0), (1, 1), (0, 0),
    ]  # fmt: skip


def test_five_scanned_images_can_show_something():
    """The fewest there are: four of five are a warning."""
    five = msgspec.structs.replace(CLEAN, scanned=5)
    assert [len(warnings(msgspec.structs.replace(five, below=count))) for count in (3, 4)] == [0, 1]
