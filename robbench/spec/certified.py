"""Certified lower bounds: for which images, how, and by which complete verifier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from robbench.errors import require
from robbench.spec.base import Expected, PositiveInt, Spec
from robbench.spec.estimate import Estimate

ENGINES = ("vibecheck", "neuralsat")
"""Complete verifiers that ``make verifiers`` installs."""

PLACES = ("{onnx}", "{vnnlib}", "{result}")
"""What the command of another verifier must be given; ``{seconds}`` is optional."""


class Verifier(Spec):
    """A complete verifier, which decides whether a ball holds a counterexample: a program with an environment of its own.

    It is given the network as ONNX and the query as VNN-LIB 1.0, and writes ``unsat``, or ``sat`` with a counterexample, or
    anything else for undecided into its result file, as in the competition VNN-COMP.
    """

    engine: str = "vibecheck"
    """``vibecheck`` or ``neuralsat``, or the command of another: ``"abcrown --onnx {onnx} --spec {vnnlib} --out {result}"``."""
    images: PositiveInt = 50
    """At most this many of the bounded images, drawn at random."""
    seconds: PositiveInt = 60
    """For one query; undecided then."""
    queries: PositiveInt = 3
    """At most for one image: first one step below p*, then each halves what is left."""
    models: Annotated[tuple[str, ...], Field(min_length=1), Expected("a tuple of at least one pattern")] = ("*",)
    """Shell patterns as of :attr:`Bounds.models`: of the bounded models, those that it is asked about."""

    def __post_init__(self) -> None:
        own = all(place in self.engine for place in PLACES)
        how = f"{' or '.join(ENGINES)}, or a command with {', '.join(PLACES)}"
        require(self.engine in ENGINES or own, "Verifier engine", how, self.engine)


class Bounds(Spec):
    """For each image the largest radius of the estimate's grid within which no image has another class, as can be proved.

    p* is found before, and no radius at or above it can be certified.
    """

    images: PositiveInt = 500
    """At most this many of the images that p* is estimated on, drawn at random."""
    method: Literal["ibp", "crown-ibp", "crown"] = "crown"
    """The tightest to use, after the cheaper ones: intervals (Gowal et al. 2018), CROWN with intermediate bounds from
    intervals (Zhang et al. 2020), CROWN (Zhang et al. 2018)."""
    probes: PositiveInt = 1
    """Radii of an image that are tried in one batch: 1 halves the gap at each round, k divide it by k + 1."""
    models: Annotated[tuple[str, ...], Field(min_length=1), Expected("a tuple of at least one pattern")] = ("*",)
    """Shell patterns of the ids that ``robbench plan`` lists, without seed."""
    verifier: Verifier | None = None
    """Decides what is still open, image by image."""


class Bounded(Spec):
    """What the stage of bounds is asked: the bounds, and the estimate of the p* that lie above them."""

    bounds: Bounds
    estimate: Estimate
