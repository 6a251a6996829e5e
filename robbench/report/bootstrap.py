"""The bootstrap: figures of a model over seeds and test images drawn with replacement, alike for all models.

In every resampling as many seeds are drawn as there are, and within each drawn seed as many of its images as it has: a
hierarchical bootstrap (Davison & Hinkley 1997, section 3.8; Saravanan et al. 2020), so that an interval holds the noise of
the trainings and that of the images. All models of a seed have the same draws, so a difference is taken image by image.
With one seed it is the bootstrap of the images. Where all seeds were tested on the same images, as on all of a test set,
seeds and images are drawn each once, crossed (Owen 2007). Few seeds are few draws: of three, intervals come out narrow.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robbench.record import MISCLASSIFIED, Robustness

CONFIDENCE = 0.99
"""Of every interval in a report."""

RESAMPLES = 2_000

Resamples = NDArray[np.float64]
"""(RESAMPLES,) values of a figure, one per resampling."""


@lru_cache(maxsize=32)  # 20 MB for 10,000 images
def _weights(dataset: str, images: tuple[int, ...]) -> NDArray[np.uint8]:
    """(images, RESAMPLES) how often each image is drawn. Every data set has draws of its own."""
    count = len(images)
    seed = zlib.crc32(f"{dataset} {count} {images[0]} {images[-1]}".encode())
    random = np.random.default_rng(seed)
    weights = np.empty((count, RESAMPLES), dtype=np.uint8)
    for number in range(RESAMPLES):
        weights[:, number] = np.bincount(random.integers(0, count, size=count, dtype=np.int32), minlength=count)
    return weights


def medians(dataset: str, robustness: Robustness) -> Resamples:
    """Median p* of every resampling: inf where censored, NaN where it holds no correct image."""
    weights = _weights(dataset, tuple(robustness.images))
    indices = np.asarray(robustness.pstar)
    order = np.argsort(indices, kind="stable")
    order = order[indices[order] != MISCLASSIFIED]
    if not len(order):
        return np.full(RESAMPLES, math.nan)
    present, starts = np.unique(indices[order], return_index=True)
    upto = np.add.reduceat(weights[order], starts, axis=0, dtype=np.int32).cumsum(axis=0)
    total = upto[-1]
    values = np.append(np.asarray([*robustness.grid, math.inf])[present], math.nan)
    low = values[(upto <= (total - 1) // 2).sum(axis=0)]
    high = values[(upto <= total // 2).sum(axis=0)]
    return np.where(total > 0, np.where(low == high, low, (low + high) / 2), math.nan)


def shares(dataset: str, robustness: Robustness, above: int = MISCLASSIFIED) -> Resamples:
    """Share of all images, in every resampling, whose p* has a grid index above ``above``; by default, of the correct."""
    weights = _weights(dataset, tuple(robustness.images))
    mask = np.asarray(robustness.pstar) > above
    return np.asarray(weights[mask].sum(axis=0, dtype=np.int32) / len(mask))


def means(dataset: str, robustness: Robustness, values: NDArray[np.float64]) -> Resamples:
    """Mean over all images, in every resampling, of (N,) values of the images."""
    order = np.argsort(values, kind="stable")
    present, starts = np.unique(values[order], return_index=True)
    counts = np.add.reduceat(_weights(dataset, tuple(robustness.images))[order], starts, axis=0, dtype=np.int32)
    return np.asarray(present @ counts / len(values))


@lru_cache(maxsize=32)
def _seeds_drawn(count: int, anew: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(count, RESAMPLES) which seeds are drawn, and which resampling of its images each comes with.

    A seed that is drawn twice comes with other resamplings of its images, unless all seeds have the same images.
    """
    seeds = np.random.default_rng(count).integers(0, count, size=(count, RESAMPLES))
    earlier = np.tri(count, k=-1, dtype=np.bool_)[..., None] & (seeds[:, None] == seeds[None])
    copies = earlier.sum(axis=1) if anew else 0
    return seeds, (np.arange(RESAMPLES) + copies * (RESAMPLES // count)) % RESAMPLES


def over_seeds(samples: Sequence[Resamples], *, anew: bool) -> Resamples:
    """The median over the drawn seeds in every resampling; NaN halfway between -inf and inf.

    Args:
        samples: of every seed, its resampled images.
        anew: whether every seed has images of its own.
    """
    if len(samples) == 1:
        return samples[0]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.median(np.stack(samples)[_seeds_drawn(len(samples), anew)], axis=0))


def interval(samples: Resamples) -> tuple[float, float]:
    """The percentile bootstrap interval. Resamplings without the figure are left out; NaN if all lack it."""
    found = samples[~np.isnan(samples)]
    if not len(found):
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(np.quantile(found, q, method="inverted_cdf")) for q in (tail, 1 - tail))
    return low, high


def difference(above: Resamples, below: Resamples) -> Resamples:
    """The difference in every resampling; 0 between two censored medians, whose difference is unknown."""
    with np.errstate(invalid="ignore"):
        return np.where(above == below, 0.0, above - below)
