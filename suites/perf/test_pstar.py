"""p* beside the sequential procedure, in time and in value, and beside the strongest attacks of other libraries."""

from dataclasses import replace

import pytest
import torch

from robbench import PGD, Dataset, EpsilonGrid, Model, OneCycle, Recipe, recipes
from robbench.data import pixels
from robbench.estimation.estimators import estimate_pstar
from robbench.machine.flops import forward_flops
from robbench.machine.precision import full_precision
from robbench.stages import Task, run_stage
from robbench.stages.networks import load_network
from suites.perf.best_known import with_attacks
from suites.perf.conftest import ADVERSARIAL, STANDARD
from suites.perf.measuring import Work
from suites.perf.plain import as_written, installed, sequential_pstar

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
    )
    least = FASTER[perf.device.type]
    perf.target("reference against sequential", rounds.ratio("sequential", "reference"), least["reference"])
    perf.target("fast against sequential", rounds.ratio("sequential"), least[f"fast, {method}"])
    assert torch.equal(right, found["fast"] >= 0)


def networks():
    """Four architectures, both ways; trained for seconds, the residual ones on pictures that the data folder has."""
    for architecture, data, brief in (
        ("cnn7", Dataset(name="mnist", train=6_000), (STANDARD, ADVERSARIAL)),
        ("relu_4_1024", Dataset(name="mnist", train=6_000), (STANDARD, small(ADVERSARIAL, 0.1, 10))),
        ("wrn10_1", Dataset(name="cifar10", train=8_000), PICTURES),
        ("resnet18", Dataset(name="cifar10", train=3_000), tuple(replace(each, epochs=3) for each in PICTURES)),
    ):
        for recipe in brief:
            yield Model(architecture=architecture, dataset=data, recipe=recipe)


def small(recipe, epsilon, epochs):
    """The recipe with another radius and number of epochs."""
    attack = replace(recipe.attack, epsilon=epsilon, step_size=epsilon / 4)
    return replace(recipe, attack=attack, epochs=epochs)


PICTURES = (
    Recipe(
        optimiser="sgd",
        learning_rate=0.05,
        weight_decay=5e-4,
        batch_size=64,
        epochs=6,
        schedule=OneCycle(),
        kept_epoch="last",
    ),
)
PICTURES += (replace(PICTURES[0], attack=PGD(epsilon=4 / 255, step_size=3 / 255, steps=2), ramp_epochs=1),)


@pytest.mark.parametrize("model", list(networks()), ids=str)
def test_best_known(model, perf, capsys):
    """Both strong searches lie where the strongest attacks of other libraries end; the published one far above."""
    if installed("adv_lib.attacks") is None or installed("torchattacks") is None:
        pytest.skip("needs the group peers: make perf")
    if not (perf.context.data / f"{model.dataset.name}.npz").is_file():
        pytest.skip(f"needs {model.dataset.name}.npz in the data folder (robbench data)")
    trained = perf.context.store.finished(run_stage(Task("training", model), perf.context).key)
    network, pictures = load_network(model, perf.context, trained), model.dataset.name == "cifar10"
    estimate = recipes.CIFAR_ESTIMATE if pictures else recipes.MNIST_ESTIMATE
    grid, count = estimate.grid.values, 10 if model.architecture == "resnet18" else 100
    test = perf.context.images(model.dataset).test.take(torch.arange(10 * count)).to(perf.device)
    images = pixels(test.images)
    with torch.no_grad(), full_precision(perf.device):
        right = (network(images).argmax(1) == test.labels).nonzero().flatten()[:count]
    images, labels, found, passed = images[right], test.labels[right], {}, {}

    def search(name, attacked=None):
        result = estimate_pstar(network, images[:attacked], labels[:attacked], grid, recipes.ADA_VERONA, search=name)
        found[name], passed[name] = result.pstar, (result.forward, result.backward)

    perf.compare(
        lambda: search("fast"),
        {name: lambda name=name: search(name) for name in ("reference", "thorough")},
        images=len(images),
        work=lambda: work(passed, len(images), forward_flops(network, images[:1])),
        warm_up=lambda: search("fast", 20),
        rounds=1,
        group="best known p*",
        case=model.id,
        data=model.dataset.name,
    )
    torch.manual_seed(0)
    with full_precision(perf.device):
        for name, (index, *passes) in with_attacks(network, images, labels, grid).items():
            found[name], passed[name] = index.cpu(), passes
    best = torch.stack(list(found.values())).amin(0)
    rows = [facts(name, index, best, passed[name], grid) for name, index in found.items()]
    perf.note(attacks=rows, images=len(images), best_known=median(best, grid))
    with capsys.disabled():
        print(f"\n{model.id}: best known median p* {median(best, grid)}", *rows, sep="\n")
    for name in ("fast", "thorough"):
        row = next(row for row in rows if row["attack"] == name)
        assert row["median_ratio"] <= 1.005
        assert row["at_most_two_steps_above"] >= min(0.98, 1 - 1.5 / len(images))
    assert sum(passed["thorough"]) <= 10 * sum(passed["fast"])


def facts(name, index, best, passed, grid):
    """How far (N,) grid indices lie above the best known ones; ratios of a censored image are of the grid's end."""
    radii = torch.tensor([*grid, grid[-1]], dtype=torch.float64)
    ratio = radii[index] / radii[best].clamp(min=radii[1])
    return {
        "attack": name,
        "passes_per_image": passed[0] / len(index),
        "median_pstar": median(index, grid),
        "median_ratio": float(ratio.median()),
        "worst_ratio": float(ratio.max()),
        "worst_steps": int((index - best).max()),
        "at_most_two_steps_above": float((index - best <= 2).double().mean()),
    }


def work(passed, correct, flops):
    """What the searches did, by their passes forward and backward; the fast one is what the benchmark is about."""
    return {
        "robbench" if name == "fast" else name: Work(forward / correct, flops * (forward + backward))
        for name, (forward, backward) in passed.items()
    }


def median(places, grid=GRID):
    """The grid's radius at the median place; None past its end."""
    middle = int(places.median())
    return grid[middle] if middle < len(grid) else None
