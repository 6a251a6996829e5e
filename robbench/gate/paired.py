"""Two estimates of the same images compared image by image: ``old`` and ``new`` are their (N,) p* as grid indices.

Both tests are exact: a corrected level lies below what a bootstrap of some thousand resamplings can resolve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robbench.record import MISCLASSIFIED


def mcnemar(old: NDArray[np.int64], new: NDArray[np.int64]) -> float:
    """Two-sided p of McNemar's exact test (1947): whether as many images became right as became wrong."""
    lost = int(np.sum((old != MISCLASSIFIED) & (new == MISCLASSIFIED)))
    gained = int(np.sum((old == MISCLASSIFIED) & (new != MISCLASSIFIED)))
    return _fair_coin(lost, gained)


def sign_test(old: NDArray[np.int64], new: NDArray[np.int64]) -> tuple[float, int, int]:
    """The exact sign test (Dixon & Mood 1946): whether p* rose on as many images as it fell on.

    Images that either side misclassifies are left out, which are the accuracy's matter, and so are ties.

    Returns:
        Two-sided p, and on how many images p* rose and fell.
    """
    right = (old != MISCLASSIFIED) & (new != MISCLASSIFIED)
    rose, fell = int(np.sum(right & (new > old))), int(np.sum(right & (new < old)))
    return _fair_coin(rose, fell), rose, fell


def _fair_coin(heads: int, tails: int) -> float:
    from scipy.stats import binomtest  # here, since it takes a second to import

    return float(binomtest(heads, heads + tails).pvalue) if heads + tails else 1.0
