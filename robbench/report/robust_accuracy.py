"""The radii that robust accuracies are read at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robbench.report.rows import Row


def robust_share(row: Row, epsilon: float) -> float | None:
    """Robust accuracy at ``epsilon``; None without an estimate or where the model's grid lacks it."""
    robustness = row.robustness
    if robustness is None or not robustness.pstar or min(abs(value - epsilon) for value in robustness.grid) > 1e-9:
        return None
    return robustness.robust(epsilon).share


def fixed_epsilons(grid: Sequence[float]) -> tuple[float, ...]:
    """The radii that robust accuracies are shown at: the thesis's, moved to the nearest grid value."""
    shares = tuple(share * grid[-1] for share in (0.25, 0.5, 1.0))
    wanted = (0.1, 0.2, 0.3) if grid[-1] >= 0.3 - 1e-9 else tuple(eighth / 255 for eighth in (2, 4, 8))
    for radii in (wanted, shares):
        found = {nearest(grid, radius) for radius in radii if radius <= grid[-1] + 1e-9} - {0.0}
        if len(found) == len(wanted):
            break
    return tuple(sorted(found))


def nearest(grid: Sequence[float], epsilon: float) -> float:
    """The grid value next to ``epsilon``."""
    return min(grid, key=lambda value: abs(value - epsilon))


def comparison_epsilon(grid: Sequence[float], adversarial: Row | None) -> float | None:
    """The radius of a model's adversarial training, on the grid; the largest fixed one where there was none."""
    radius: Any = None
    if adversarial is not None:
        spec: Any = adversarial.record.spec
        spec = spec.get("model", spec)
        for field in ("recipe", "attack", "epsilon"):
            spec = spec.get(field) if isinstance(spec, dict) else None
        radius = spec
    if isinstance(radius, int | float) and 0 < radius <= grid[-1]:
        return nearest(grid, radius) or None
    return max(fixed_epsilons(grid), default=None)
