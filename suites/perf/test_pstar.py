"""p* of cnn7 on 200 test images: both searches beside the sequential procedure, in time and in value."""

import pytest
import torch

from robbench import EpsilonGrid, recipes
from robbench.estimation import estimate_pstar
from robbench.pipeline import run_training
from robbench.workplace import load_network
from suites.perf.plain import as_written, sequential_pstar
from suites.test_embedded import STUDY

pytestmark = pytest.mark.perf

GRID = EpsilonGrid(stop=0.8, step=0.005).values
IMAGES = 200


@pytest.mark.parametrize("method", ["standard", "pgd"])
def test_pstar(method, perf, trained, digits):
    network, images, labels = trained(method)
    images, labels = images[:IMAGES], labels[:IMAGES]
    plain, found = as_written(network), {}

    def search(name):
        found[name] = estimate_pstar(network, images, labels, GRID, recipes.ADA_VERONA, search=name)

    def sequential():
        found["sequential"] = sequential_pstar(plain, images, labels, GRID)

    for name in ("reference", "fast"):  # kernels are chosen, memory is there
        estimate_pstar(network, images[:20], labels[:20], GRID, recipes.ADA_VERONA, search=name)
    best = perf.compare(
        lambda: search("fast"),
        {"sequential": sequential, "reference": lambda: search("reference")},
        images=IMAGES,
        rounds=1,
        group="p*",
        case=f"cnn7, {method}, {digits.name}, fast search",
    )
    right = found["sequential"] >= 0
    values = {name: (result if name == "sequential" else result.pstar)[right] for name, result in found.items()}
    perf.note(
        passes_per_image=found["fast"].forward / int(right.sum()),
        reference_passes_per_image=found["reference"].forward / int(right.sum()),
        reference_over_sequential=best["sequential"] / best["reference"],
        reference_equal_to_sequential=float((values["reference"] == values["sequential"]).double().mean()),
        median_pstar={name: median(value) for name, value in values.items()},
        **bound(values["fast"] - values["reference"]),
    )
    assert torch.equal(right, found["fast"].pstar >= 0)


@pytest.mark.parametrize("model", STUDY.models(), ids=str)
def test_bound(model, perf):
    """On every network of the embedded suite: fast is at most one grid step above reference on 99 % of the images."""
    run_training(model, perf.workplace, suite=STUDY.name, under_test=False)
    test = perf.workplace.images(model.dataset).test.take(torch.arange(250)).to(perf.device)
    network, estimate, found = load_network(model, perf.workplace), STUDY.estimate, {}

    def search(name):
        found[name] = estimate_pstar(
            network, test.images, test.labels, estimate.grid.values, recipes.ADA_VERONA, search=name
        )

    perf.compare(
        lambda: search("fast"),
        {"reference": lambda: search("reference")},
        images=len(test),
        rounds=1,
        group="bound of the fast search",
        case=model.id,
    )
    right = found["reference"].pstar >= 0
    difference = (found["fast"].pstar - found["reference"].pstar)[right]
    figures = bound(difference)
    perf.note(
        passes_per_image=found["fast"].forward / int(right.sum()),
        reference_passes_per_image=found["reference"].forward / int(right.sum()),
        median_pstar={name: median(result.pstar[right], estimate.grid.values) for name, result in found.items()},
        **figures,
    )
    assert figures["fast_at_most_one_step_above_reference"] >= 0.99
    assert figures["fast_minus_reference_mean_steps"] <= 2 * figures["fast_minus_reference_standard_error"]


def bound(difference):
    """How far fast lies above reference, from (N,) differences in grid steps."""
    steps = difference.double()
    return {
        "fast_at_most_one_step_above_reference": float((steps <= 1).double().mean()),
        "fast_minus_reference_mean_steps": float(steps.mean()),
        "fast_minus_reference_standard_error": float(steps.std() / len(steps) ** 0.5),
    }


def median(places, grid=GRID):
    """The grid's radius at the median place; None past its end."""
    middle = int(places.median())
    return grid[middle] if middle < len(grid) else None
