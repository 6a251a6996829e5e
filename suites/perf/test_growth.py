"""How the time of p* grows: with images (linearly), grid points (logarithmically), and the depth of the network."""

import pytest

from robbench import recipes
from robbench.estimation import estimate_pstar

pytestmark = pytest.mark.perf

STOP = 0.4


def grid(points):
    """So many radii from 0."""
    return [STOP * place / (points - 1) for place in range(points)]


def run(perf, network, images, labels, points, search, case, **facts):
    """Time a search, and keep its passes."""
    results = []
    perf.compare(
        lambda: results.append(
            estimate_pstar(network, images, labels, grid(points), recipes.ADA_VERONA, search=search)
        ),
        {},
        images=len(images),
        rounds=1,
        group="growth",
        case=f"{case}, {search} search",
        search=search,
        **facts,
    )
    perf.note(passes_per_image=results[-1].forward / len(images))


@pytest.mark.parametrize("search", ["reference", "fast"])
@pytest.mark.parametrize("count", [64, 128, 256])
def test_images(count, search, perf, trained):
    network, images, labels = trained("standard")
    run(perf, network, images[:count], labels[:count], 81, search, f"{count} images", axis="images", value=count)


@pytest.mark.parametrize("search", ["reference", "fast"])
@pytest.mark.parametrize("points", [11, 41, 161, 641])
def test_grid_points(points, search, perf, trained):
    network, images, labels = trained("standard")
    case = f"{points} grid points"
    run(perf, network, images[:64], labels[:64], points, search, case, axis="grid points", value=points)


@pytest.mark.parametrize("depth", [10, 16, 22, 28])
def test_depth(depth, perf, fresh):
    network, images, labels = fresh(f"wrn{depth}_1", 16)
    labels = network(images).argmax(1)
    run(perf, network, images, labels, 41, "reference", f"wrn{depth}_1", axis="depth", value=depth)
