"""p* of cnn7 on 200 test images: both searches beside the sequential procedure, in time and in value."""

from dataclasses import replace

import pytest
import torch

from robbench import EpsilonGrid, Model, recipes
from robbench.data import pixels
from robbench.estimation.estimators import estimate_pstar
from robbench.machine.flops import forward_flops
from robbench.machine.precision import full_precision
from robbench.stages import Task, run_stage
from robbench.stages.networks import load_network
from suites.perf.measuring import Work
from suites.perf.plain import as_written, sequential_pstar
from suites.test_embedded import STUDY

pytestmark = pytest.mark.perf

GRID = EpsilonGrid(stop=0.8, step=0.005).values
IMAGES = 200

FASTER = {
    "cpu": {"reference": 5, "fast, standard": 12, "fast, pgd": 7},
    "cuda": {"reference": 300, "fast, standard": 300, "fast, pgd": 300},
}
"""How many times faster than the sequential procedure the searches are to be."""


@pytest.mark.parametrize("method", ["standard", "pgd"])
def test_pstar(method, perf, trained, digits):
    network, images, labels = trained(method)
    images, labels = images[:IMAGES], labels[:IMAGES]
    plain, found, passed = as_written(network), {}, {}

    def search(name, count=None):
        result = estimate_pstar(network, images[:count], labels[:count], GRID, recipes.ADA_VERONA, search=name)
        found[name], passed[name] = result.pstar, (result.forward, result.backward)

    def sequential():
        with full_precision(perf.device):
            found["sequential"], *passed["sequential"] = sequential_pstar(plain, images, labels, GRID)

    rounds = perf.compare(
        lambda: search("fast"),
        {"sequential": sequential, "reference": lambda: search("reference")},
        images=IMAGES,
        work=lambda: work(passed, int((found["fast"] >= 0).sum()), forward_flops(plain, images[:1])),
        warm_up=lambda: [search(name, 20) for name in ("reference", "fast")],  # kernels are chosen, memory is there
        rounds=1,
        group="p*",
        case=f"cnn7, {method}, {digits.name}, fast search",
        data=digits.name,
    )
    right = found["sequential"] >= 0
    values = {name: places[right] for name, places in found.items()}
    perf.note(
        correct=int(right.sum()),
        reference_over_sequential=rounds.ratio("sequential", "reference"),
        reference_equal_to_sequential=float((values["reference"] == values["sequential"]).double().mean()),
        median_pstar={name: median(value) for name, value in values.items()},
        **bound(values["fast"] - values["reference"]),
    )
    least = FASTER[perf.device.type]
    perf.target("reference against sequential", rounds.ratio("sequential", "reference"), least["reference"])
    perf.target("fast against sequential", rounds.ratio("sequential"), least[f"fast, {method}"])
    assert torch.equal(right, found["fast"] >= 0)


def others():
    """Networks of other kinds, trained for seconds."""
    few = replace(STUDY.source, train=2_000)
    brief = replace(STUDY.standard, epochs=4), replace(STUDY.adversarial, epochs=5, ramp_epochs=2)
    return [
        Model(architecture=architecture, dataset=few, recipe=recipe)
        for architecture in ("relu_4_1024", "cnn4", "wrn10_1")
        for recipe in brief
    ]


@pytest.mark.parametrize("model", [*STUDY.models(), *others()], ids=str)
def test_bound(model, perf):
    """On the embedded suite's networks and others: fast is at most a grid step above reference on 99 % of the images."""
    trained = run_stage(Task("training", model), perf.context)
    count = 250 if model.architecture == "cnn7" else 100
    test = perf.context.images(model.dataset).test.take(torch.arange(count)).to(perf.device)
    network, grid, found, passed = (
        load_network(model, perf.context, perf.context.store.finished(trained.key)),
        STUDY.estimate.grid.values,
        {},
        {},
    )

    def search(name, count=None):
        images, labels = test.images[:count], test.labels[:count]
        result = estimate_pstar(network, images, labels, grid, recipes.ADA_VERONA, search=name)
        found[name], passed[name] = result.pstar, (result.forward, result.backward)

    perf.compare(
        lambda: search("fast"),
        {"reference": lambda: search("reference")},
        images=len(test),
        work=lambda: work(passed, int((found["fast"] >= 0).sum()), forward_flops(network, pixels(test.images[:1]))),
        warm_up=lambda: search("fast", 20),
        rounds=1,
        group="bound of the fast search",
        case=model.id,
        data=model.dataset.name,
    )
    right = found["reference"] >= 0
    figures = bound((found["fast"] - found["reference"])[right])
    medians = {name: median(places[right], grid) for name, places in found.items()}
    perf.note(correct=int(right.sum()), median_pstar=medians, **figures)
    assert figures["fast_at_most_one_step_above_reference"] >= 0.99
    assert figures["fast_minus_reference_mean_steps"] <= 2 * figures["fast_minus_reference_standard_error"]


def work(passed, correct, flops):
    """What the searches did, by their passes forward and backward; the fast one is what the benchmark is about."""
    return {
        "robbench" if name == "fast" else name: Work(forward / correct, flops * (forward + backward))
        for name, (forward, backward) in passed.items()
    }


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
