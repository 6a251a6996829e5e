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


def median_found(network, images, labels, adversarial):
    """Median distance of the images from their counterexamples, rounded up to the grid; None where it is censored.

    A result that the network still classifies correctly is no counterexample, whatever its distance.
    """
    with torch.no_grad():
        fooled = network(adversarial).argmax(1) != labels
    distance = (adversarial - images).abs().flatten(1).amax(1).double()
    radii = torch.tensor(GRID.values, dtype=torch.float64, device=distance.device)
    places = torch.where(fooled, torch.searchsorted(radii, distance - 1e-6), len(radii))
    return median(places)


def median(places):
    """The grid's radius at the median place; None past its end."""
    middle = int(places.median())
    return GRID.values[middle] if middle < len(GRID.values) else None


@pytest.mark.parametrize("method", ["standard", "pgd"])
def test_quality(method, perf, trained, digits):
    network, images, labels = trained(method)
    with torch.no_grad():
        right = (network(images[: 2 * IMAGES]).argmax(1) == labels[: 2 * IMAGES]).nonzero().flatten()[:IMAGES]
    images, labels = images[right], labels[right]
    points = []

    def point(name, run):
        """Run once unseen, then once timed; ``run`` returns passes and the median."""
        run()
        begun = time.perf_counter()
        passes, value = run()
        seconds = time.perf_counter() - begun
        points.append(
            {"method": name, "passes_per_image": passes / len(images), "median_pstar": value, "seconds": seconds}
        )

    def searched(search, steps=40):
        attack = PGD(steps=steps, random_start=False)
        result = estimate_pstar(network, images, labels, GRID.values, attack, search=search, batch_size=256)
        return result.forward, median(result.pstar)

    def theirs(attack):
        counted = Counted(network)
        with evaluating(counted):
            adversarial = attack(counted)
        return counted.images, median_found(network, images, labels, adversarial)

    for steps in (5, 10, 20, 40):
        point("robbench, reference", lambda steps=steps: searched("reference", steps))
    point("robbench, fast", lambda: searched("fast"))
    library = installed("adv_lib.attacks")
    if library is not None:
        fmn, minimal_apgd, inf = library.fmn, library.auto_pgd.minimal_apgd, float("inf")
        for steps in (20, 50, 100, 200):
            point(
                "adversarial-library, FMN",
                lambda steps=steps: theirs(lambda model: fmn(model, images, labels, norm=inf, steps=steps)),
            )
        for steps in (5, 10, 20):
            options = {"norm": inf, "max_eps": GRID.stop, "n_iter": steps, "binary_search_steps": 10}
            point(
                "adversarial-library, minimal APGD",
                lambda options=options: theirs(lambda model: minimal_apgd(model, images, labels, **options)),
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
