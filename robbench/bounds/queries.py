"""Questions to complete verifiers as VNN-LIB text: whether a box holds an image of another class."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

VERSIONS = ("1.0", "2.0")
"""Of VNN-LIB."""


def vnnlib(low: Tensor, high: Tensor, label: int, classes: int, version: str = "1.0") -> str:
    """The question whether an image between (C, H, W) ``low`` and ``high`` has a logit at least as large as the label's.

    A verifier answers ``unsat`` where there is none. Version 1.0 numbers pixels and logits one after the other (``X_12``),
    version 2.0 names the network's tensors and their shapes (``X[0,0,1,2]``).
    """
    shape = [1, *low.shape]
    places = itertools.product(*map(range, shape))
    if version == "2.0":
        pixels = [f"X[{','.join(map(str, place))}]" for place in places]
        logits = [f"Y[0,{place}]" for place in range(classes)]
        declared = [
            "(vnnlib-version <2.0>)",
            "(declare-network N",
            f"  (declare-input X float32 {_shape(shape)})",
            f"  (declare-output Y float32 {_shape([1, classes])}))",
        ]
    else:
        pixels = [f"X_{place}" for place in range(low.numel())]
        logits = [f"Y_{place}" for place in range(classes)]
        declared = [f"(declare-const {name} Real)" for name in (*pixels, *logits)]
    bounds = zip(pixels, low.flatten().tolist(), high.flatten().tolist(), strict=True)
    asserted = [
        f"(assert (>= {name} {_number(least)}))\n(assert (<= {name} {_number(most)}))" for name, least, most in bounds
    ]
    others = [f"(and (>= {name} {logits[label]}))" for place, name in enumerate(logits) if place != label]
    return "\n".join([*declared, *asserted, f"(assert (or {' '.join(others)}))"]) + "\n"


def _shape(sizes: Sequence[int]) -> str:
    return f"[{','.join(map(str, sizes))}]"


def _number(value: float) -> str:
    """A float32 value with all its digits, and without an exponent."""
    return f"{value:.24f}".rstrip("0").rstrip(".")
