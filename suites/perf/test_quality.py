"""How small a p* for how many passes: both searches, and the minimum-norm attacks of adversarial-library."""

import time

import pytest
import torch

from robbench import EpsilonGrid, recipes
from robbench.attacks import evaluating
from robbench.estimation import estimate_pstar
from robbench.spec import PGD
from suites.perf.plain import installed

pytestmark = pytest.mark.perf

GRID = EpsilonGrid(stop=0.8, step=0.005)
IMAGES = 200


class Counted(torch.nn.Module):
    """Counts the images that pass forward."""

    def __init__(self, network):
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, images):
        """Logits."""
        self.images += len(images)
        return self.network(images)


def on_grid(images, adversarial):
    """Median distance of the images from their counterexamples, rounded up to the grid; its end where there is none."""
    distance = (adversarial - images).abs().flatten(1).amax(1).double()
    radii = torch.tensor(GRID.values, dtype=torch.float64, device=distance.device)
    return radii[torch.searchsorted(radii, distance - 1e-6).clamp(max=len(radii) - 1)].median().item()


@pytest.mark.parametrize("method", ["standard", "pgd"])
def test_quality(method, perf, trained, digits):
    network, images, labels = trained(method)
    with torch.no_grad():
        right = (network(images[: 2 * IMAGES]).argmax(1) == labels[: 2 * IMAGES]).nonzero().flatten()[:IMAGES]
    images, labels = images[right], labels[right]
    points = []

    def point(name, run):
        counted = Counted(network)
        begun = time.perf_counter()
        with evaluating(counted):
            value = run(counted)
        points.append(
            {
                "method": name,
                "passes_per_image": counted.images / len(images),
                "median_pstar": value,
                "seconds": time.perf_counter() - begun,
            }
        )

    def searched(search, steps=40):
        def run(model):
            attack = PGD(steps=steps, random_start=False)
            result = estimate_pstar(model, images, labels, GRID.values, attack, search=search, batch_size=256)
            return GRID.values[min(int(result.pstar.median()), len(GRID.values) - 1)]

        return run

    for steps in (5, 10, 20, 40):
        point("robbench, reference", searched("reference", steps))
    point("robbench, fast", searched("fast"))
    library = installed("adv_lib.attacks")
    if library is not None:
        fmn, minimal_apgd, inf = library.fmn, library.auto_pgd.minimal_apgd, float("inf")
        for steps in (20, 50, 100, 200):
            point(
                "adversarial-library, FMN",
                lambda model, steps=steps: on_grid(images, fmn(model, images, labels, norm=inf, steps=steps)),
            )
        for steps in (5, 10, 20):
            point(
                "adversarial-library, minimal APGD",
                lambda model, steps=steps: on_grid(
                    images,
                    minimal_apgd(model, images, labels, norm=inf, max_eps=0.8, n_iter=steps, binary_search_steps=10),
                ),
            )
    perf.compare(
        lambda: estimate_pstar(network, images, labels, GRID.values, recipes.ADA_VERONA, search="fast"),
        {},
        images=len(images),
        rounds=1,
        group="p* quality",
        case=f"cnn7, {method}, {digits.name}",
        quality=points,
    )
