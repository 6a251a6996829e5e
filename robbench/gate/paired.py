"""Two estimates of the same images compared image by image: ``old`` and ``new`` are their (N,) p* as grid indices."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robbench.record import MISCLASSIFIED

CONFIDENCE = 0.99
"""Of the bootstrap interval and of the test of accuracies."""

RESAMPLES = 2_000


def mcnemar(old: NDArray[np.int64], new: NDArray[np.int64]) -> float:
    """Two-sided p of McNemar's exact test (1947): whether as many images became right as became wrong."""
    from scipy.stats import binomtest  # here, since it takes a second to import

    lost = int(np.sum((old != MISCLASSIFIED) & (new == MISCLASSIFIED)))
    gained = int(np.sum((old == MISCLASSIFIED) & (new != MISCLASSIFIED)))
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def median_change_interval(old: NDArray[np.int64], new: NDArray[np.int64]) -> tuple[float, float]:
    """99 % percentile bootstrap interval, in grid steps, of the change of the correct images' median (Efron 1993, ch. 6)."""
    return _interval(old.tobytes(), new.tobytes())


@lru_cache(maxsize=4096)  # one pair of runs is compared many times where error rates are measured
def _interval(old: bytes, new: bytes) -> tuple[float, float]:
    sides = np.stack([np.frombuffer(side, dtype=np.int64) for side in (old, new)])
    kinds, counts = np.unique(sides, axis=1, return_counts=True)
    draws = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
    change = np.subtract(*(_drawn_medians(draws, side) for side in kinds[::-1]))
    low, high = np.nanquantile(change, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _drawn_medians(draws: NDArray[np.int64], pstar: NDArray[np.int64]) -> NDArray[np.float64]:
    """(R,) medians of the correct images in (R, K) draws of K kinds of images with (K,) p*; NaN of none."""
    order = np.argsort(pstar)
    order = order[pstar[order] != MISCLASSIFIED]
    below = draws[:, order].cumsum(axis=1)
    total = below[:, -1:] if len(order) else np.zeros((len(draws), 1), dtype=np.int64)
    medians = np.full(len(draws), np.nan)
    some = total[:, 0] > 0
    low, high = ((below[some] <= half[some]).sum(axis=1) for half in ((total - 1) // 2, total // 2))
    medians[some] = (pstar[order][low] + pstar[order][high]) / 2.0
    return medians
