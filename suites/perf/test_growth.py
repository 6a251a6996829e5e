"""How the time of p* grows: with images, grid points, and the depth of the network.

With images in proportion, also past one batch, which bounds the memory. With grid points ``reference`` grows
logarithmically: every doubling costs one more probe, steps + 1 passes. ``fast`` does not: it has no probes, but its ball
visits more radii of a finer grid. A doubling costs it next to nothing while the grid is coarse and ever more from there
(32 passes at 11 points, 42 at 161, 70 at 641). With depth in proportion to the arithmetic of a pass.
"""

import pytest

from robbench import PGD, recipes
from robbench.estimation.estimators import estimate_pstar
from robbench.machine.flops import forward_flops
from robbench.machine.precision import full_precision
from suites.perf.measuring import Work

pytestmark = [pytest.mark.perf, pytest.mark.parametrize("search", ["reference", "fast"])]

SHORT = PGD(steps=10, random_start=False)
"""For many images: growth is that of the published attack, in a quarter of the time."""

STOP = 0.4


def grid(points):
    """So many radii from 0."""
    return [STOP * place / (points - 1) for place in range(points)]


def run(perf, network, images, labels, points, search, case, attack=recipes.ADA_VERONA, **facts):
    """Time a search, and keep its passes."""
    flops, results = forward_flops(network, images[:1]), []

    def estimate(count=None):
        results.append(estimate_pstar(network, images[:count], labels[:count], grid(points), attack, search=search))

    def work():
        found = results[-1]
        passes = found.forward / int((found.pstar >= 0).sum())
        return {"robbench": Work(passes, flops * (found.forward + found.backward))}

    perf.compare(
        estimate,
        {},
        images=len(images),
        work=work,
        warm_up=lambda: estimate(16),
        rounds=1,
        group="growth",
        case=f"{case}, {search} search",
        search=search,
        **facts,
    )


@pytest.mark.parametrize("count", [64, 256, 1_024])
def test_images(count, search, perf, trained, digits):
    network, images, labels = trained("standard")
    facts = {"attack": SHORT, "axis": "images", "value": count, "data": digits.name}
    run(perf, network, images[:count], labels[:count], 81, search, f"{count:,} images", **facts)


@pytest.mark.parametrize("points", [11, 41, 161, 641])
def test_grid_points(points, search, perf, trained, digits):
    network, images, labels = trained("standard")
    facts = {"axis": "grid points", "value": points, "data": digits.name}
    run(perf, network, images[:64], labels[:64], points, search, f"{points} grid points", **facts)


@pytest.mark.parametrize("depth", [10, 16, 22, 28])
def test_depth(depth, search, perf, fresh):
    network, images, _ = fresh(f"wrn{depth}_1", 16)
    with full_precision(perf.device):
        labels = network(images).argmax(1)
    run(perf, network, images, labels, 41, search, f"wrn{depth}_1", axis="depth", value=depth)
