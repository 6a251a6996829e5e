"""Which counts of an audit are signs of masked gradients, and which a sound model shows, too. No torch."""

from __future__ import annotations

from scipy import stats

from robbench.record import Against, Audit

LEVEL = 0.001
"""Of the one-sided exact tests: in a thousand sound models, a check suspects about one."""

TOLERATED_ZERO = 0.01
"""Share of images whose gradient may vanish: where a network is very sure, its loss rounds to zero."""

TOLERATED_SCAN = 0.05
"""Share of scanned images that may contradict the search."""

TOLERATED_APGD = 0.5
"""Share of images that a stronger attack may fool one grid step below p*: of more, the median p* is too large as well."""

BLOCKED = 0.9
"""Share of an image's pixels that must have a gradient of exactly zero for the image to have none."""


def warnings(audit: Audit) -> list[str]:
    """A sentence for every sign of masked gradients of which there is more than in sound models."""
    looked, scanned, found = f"{audit.images} images", f"{audit.scanned} scanned images", []
    if audit.by_chance:
        what = f"{audit.by_chance} of {looked} get different logits when classified again in another batch"
        found.append(f"{what}: p* depends on chance or on the batch")
    if audit.one_class:
        what = "all images that the network gets right are of one class"
        found.append(f"{what}: if it answers that class to everything, nothing fools it")
    if audit.not_finite:
        what = f"gradients are not finite on {audit.not_finite} of {looked}"
        found.append(f"{what}: the sign of NaN is 0, and steps do not move them")
    if _more_than(TOLERATED_ZERO, audit.zero_gradient, audit.images):
        what = f"gradients are exactly zero (on {BLOCKED:.0%} of the pixels or more)"
        found.append(f"{what} on {audit.zero_gradient} of {looked}: steps do not move them")
    found += _beaten("one step fools more images than the search with all its steps", audit.one_step)
    found += _beaten("the way to an image of another class fools more images than the search", audit.towards)
    if _more_than(TOLERATED_SCAN, audit.not_monotone, audit.scanned):
        what = f"success is not monotone in ε on {audit.not_monotone} of {scanned}"
        found.append(f"{what}: fooled at some radius, and not at a larger one")
    if _more_than(TOLERATED_SCAN, audit.below, audit.scanned):
        what = f"a linear scan disagrees with the search on {audit.below} of {scanned}"
        found.append(f"{what}: the same attack fools the network at a radius below p*")
    if _more_than(TOLERATED_APGD, audit.apgd_fooled, audit.apgd_images):
        what = f"fools {audit.apgd_fooled} of {audit.apgd_images} images one grid step below their p*"
        found.append(f"a stronger attack (APGD-T) {what}: the search is too weak for this network")
    square = f"an attack without gradients (Square, {audit.square_queries:,} queries) fools more images than the search"
    return found + _beaten(square, [] if audit.square is None else [audit.square])


def _more_than(tolerated: float, count: int, total: int) -> bool:
    """Whether a count is significantly more than the share of the total that a sound model may show."""
    return bool(count and stats.binom.sf(count - 1, total, tolerated) < LEVEL)


def _beaten(what: str, attacks: list[Against]) -> list[str]:
    """A sentence on the radius at which an attack beats the search most clearly, by exact sign tests."""
    beaten = [
        against
        for against in attacks
        if (alone := against.attack_alone)
        and stats.binom.sf(alone - 1, alone + against.search_alone, 0.5) < LEVEL / len(attacks)
    ]
    if not beaten:
        return []
    worst = max(beaten, key=lambda against: against.attack_alone - against.search_alone)
    attack, search = worst.both + worst.attack_alone, worst.both + worst.search_alone
    return [f"{what}: {attack} against {search} of {worst.images} at ε = {worst.epsilon:.4g}"]
