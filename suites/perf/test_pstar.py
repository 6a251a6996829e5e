"""p* of cnn7 on 200 test images: both searches beside the sequential procedure, in time and in value."""

import pytest
import torch

from robbench import EpsilonGrid, recipes
from robbench.estimation import estimate_pstar
from suites.perf.plain import as_written, sequential_pstar

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

    estimate_pstar(network, images[:2], labels[:2], GRID, recipes.ADA_VERONA)  # kernels are chosen, memory is there
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
    difference = (values["fast"] - values["reference"]).double()
    steps = len(GRID) - 1
    perf.note(
        passes_per_image=found["fast"].forward / int(right.sum()),
        reference_passes_per_image=found["reference"].forward / int(right.sum()),
        reference_over_sequential=best["sequential"] / best["reference"],
        reference_equal_to_sequential=float((values["reference"] == values["sequential"]).double().mean()),
        fast_at_most_one_step_above_reference=float((difference <= 1).double().mean()),
        fast_minus_reference_mean_steps=float(difference.mean()),
        fast_minus_reference_standard_error=float(difference.std() / len(difference) ** 0.5),
        median_pstar={name: GRID[min(int(value.median()), steps)] for name, value in values.items()},
    )
    assert torch.equal(right, found["fast"].pstar >= 0)
