"""The radii that robust accuracies are read at."""

from __future__ import annotations

from collections.abc import Sequence

from robbench.report.rows import Row


def fixed_epsilons(grid: Sequence[float]) -> tuple[float, ...]:
    """The radii that robust accuracies are shown at: the thesis's, moved to the nearest grid value."""
    shares = tuple(share * grid[-1] for share in (0.25, 0.5, 1.0))
    wanted = (0.1, 0.2, 0.3) if grid[-1] >= 0.3 - 1e-9 else tuple(eighth / 255 for eighth in (2, 4, 8))
    for radii in (wanted, shares):
        found = {_nearest(grid, radius) for radius in radii if radius <= grid[-1] + 1e-9} - {0.0}
        if len(found) == len(wanted):
            break
    return tuple(sorted(found))


def _nearest(grid: Sequence[float], epsilon: float) -> float:
    return min(grid, key=lambda value: abs(value - epsilon))


def comparison_epsilon(grid: Sequence[float], adversarial: Row | None) -> float | None:
    """The radius of a model's adversarial training, on the grid; the largest fixed one where there was none."""
    spec = adversarial.record.spec if adversarial else {}
    recipe = spec.get("model", spec).get("recipe") or {}
    radius = (recipe.get("attack") or {}).get("epsilon")
    if radius and radius <= grid[-1]:
        return _nearest(grid, radius) or None
    return max(fixed_epsilons(grid), default=None)
