"""How small a p* for how many passes: both searches, and the minimum-norm attacks of adversarial-library."""

import pytest
import torch

from robbench import EpsilonGrid
from robbench.attacks import evaluating
from robbench.estimation.estimators import estimate_pstar
from robbench.machine.flops import forward_flops
from robbench.machine.precision import full_precision
from robbench.spec import PGD
from suites.perf.measuring import Work
from suites.perf.plain import Counted, installed

pytestmark = pytest.mark.perf

GRID = EpsilonGrid(stop=0.8, step=0.005)
IMAGES = 200


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


def searched(search, steps):
    """One of our searches, as a function of network, images and labels: passes forward and backward, and the median."""

    def run(network, images, labels):
        attack = PGD(steps=steps, random_start=False)
        result = estimate_pstar(network, images, labels, GRID.values, attack, search=search, batch_size=256)
        return result.forward, result.backward, median(result.pstar)

    return run


def theirs(attack, **options):
    """A library's attack, likewise."""

    def run(network, images, labels):
        counted = Counted(network)
        with evaluating(counted):
            adversarial = attack(counted, images, labels, norm=float("inf"), **options)
        return counted.forwards, counted.backwards, median_found(network, images, labels, adversarial)

    return run


def methods():
    """Those that are installed, by name and budget, the smallest budget of each first."""
    found = {("robbench, reference", steps): searched("reference", steps) for steps in (5, 10, 20, 40)}
    found["robbench, fast", 0] = searched("fast", 40)
    library = installed("adv_lib.attacks")
    if library is not None:
        for steps in (20, 50, 100, 200):
            found["adversarial-library, FMN", steps] = theirs(library.fmn, steps=steps)
        for steps in (5, 10, 20):
            options = {"max_eps": GRID.stop, "n_iter": steps, "binary_search_steps": 10}
            found["adversarial-library, minimal APGD", steps] = theirs(library.auto_pgd.minimal_apgd, **options)
    return found


@pytest.mark.parametrize("method", ["standard", "pgd"])
def test_quality(method, perf, trained, digits):
    network, images, labels = trained(method)
    results = {}
    with full_precision(perf.device):
        with torch.no_grad():
            right = (network(images[: 2 * IMAGES]).argmax(1) == labels[: 2 * IMAGES]).nonzero().flatten()[:IMAGES]
        images, labels = images[right], labels[right]
        calls = {
            "robbench" if name == "robbench, fast" else f"{name}, {budget}": (name, run)
            for (name, budget), run in methods().items()
        }

        def measured(key):
            results[key] = calls[key][1](network, images, labels)

        def warm_up():
            smallest = dict(reversed(calls.values()))
            for run in smallest.values():
                run(network, images[:20], labels[:20])

        def work():
            flops = forward_flops(network, images[:1])
            return {
                key: Work(forward / len(images), flops * (forward + backward))
                for key, (forward, backward, _) in results.items()
            }

        rounds = perf.compare(
            lambda: measured("robbench"),
            {key: lambda key=key: measured(key) for key in calls if key != "robbench"},
            images=len(images),
            work=work,
            warm_up=warm_up,
            rounds=1,
            group="p* quality",
            case=f"cnn7, {method}, {digits.name}",
            data=digits.name,
        )
    kept = ("passes_per_image", "gflops", "share_of_peak")
    perf.note(
        quality=[
            {"method": name, "median_pstar": results[key][2], "seconds": rounds[key]}
            | {"ratio": rounds.ratio("robbench, reference, 40", key)}
            | {figure: (perf.figures["references"].get(key) or perf.figures)[figure] for figure in kept}
            for key, (name, _) in calls.items()
        ]
    )
