"""Training: a step of conventional and adversarial training, and whole epochs, beside the loop that users write."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from robbench import PGD, Recipe
from robbench.data import Images, pixels
from robbench.graphs import Loop
from robbench.plugin.perf import forward_flops
from robbench.precision import tensor_cores
from robbench.timing import Stopwatch
from robbench.training import attacked, new_optimiser, train, update
from suites.perf.plain import adversarial_epoch, as_written, peers, pgd_loop

pytestmark = pytest.mark.perf

ATTACK = PGD(epsilon=0.3, step_size=0.04, steps=10)
RECIPE = Recipe(optimiser="adam", learning_rate=1e-4, weight_decay=1e-4, batch_size=256, epochs=1, attack=ATTACK)


def others(network, batches, attack):
    """Epochs of other libraries' attacks, and of a plain loop, on a network as users write it, over these batches."""
    loops = {
        "plain loop": lambda model, x, y: pgd_loop(model, x, y, attack.epsilon, attack.step_size, attack.steps, True)
    }
    found = {}
    for name, function in (loops | peers(attack.epsilon, attack.step_size, attack.steps)).items():
        plain = as_written(network)
        optimiser = torch.optim.Adam(plain.parameters(), lr=1e-4, weight_decay=1e-4)
        found[name] = lambda plain=plain, optimiser=optimiser, function=function: adversarial_epoch(
            plain, optimiser, batches, function
        )
    return found


@pytest.mark.parametrize(
    ("architecture", "batch", "steps", "precision"),
    [
        ("relu_4_1024", 256, 10, "float32"),
        ("cnn4", 256, 10, "float32"),
        ("cnn7", 256, 10, "float32"),
        ("cnn7", 256, 10, "bf16"),
        ("resnet18", 32, 2, "float32"),
        ("resnet18", 32, 2, "bf16"),
    ],
)
def test_adversarial_step(architecture, batch, steps, precision, perf, fresh):
    network, images, labels = fresh(architecture, batch)
    attack = replace(ATTACK, steps=steps, step_size=0.3 / steps)
    recipe = replace(RECIPE, batch_size=batch, attack=attack, precision=precision)
    optimiser, loop = new_optimiser(network, recipe, None), Loop(perf.device)
    generator = torch.Generator(perf.device).manual_seed(0)
    flops = forward_flops(as_written(network), images[:1]) * batch * (2 * steps + 3)

    def step():
        with tensor_cores():
            adversarial = attacked(network, attack, precision, images, labels, generator, loop=loop)
            update(network, recipe, optimiser, adversarial, labels, ())

    perf.compare(
        step,
        others(network, [(images, labels)], attack),
        images=batch,
        passes=steps + 1,
        flops=flops,
        precision="tf32" if perf.device.type == "cuda" and precision == "float32" else precision,
        rounds=5,
        group="adversarial training step",
        case=f"{architecture}, batch {batch}, PGD-{steps}, {precision}",
    )


@pytest.mark.parametrize(
    ("architecture", "batch"), [("relu_4_1024", 256), ("cnn3", 256), ("cnn4", 256), ("cnn7", 256), ("resnet18", 32)]
)
def test_conventional_step(architecture, batch, perf, fresh):
    network, images, labels = fresh(architecture, batch)
    recipe = replace(RECIPE, batch_size=batch, attack=None)
    optimiser = new_optimiser(network, recipe, None)
    plain = as_written(network)
    theirs = torch.optim.Adam(plain.parameters(), lr=1e-4, weight_decay=1e-4)

    def step():
        with tensor_cores():
            update(network, recipe, optimiser, images, labels, ())

    perf.compare(
        step,
        {"plain loop": lambda: adversarial_epoch(plain, theirs, [(images, labels)], lambda model, x, y: x)},
        images=batch,
        passes=1,
        flops=3 * forward_flops(as_written(network), images[:1]) * batch,
        precision="tf32" if perf.device.type == "cuda" else "float32",
        group="conventional training step",
        case=f"{architecture}, batch {batch}",
    )


@pytest.mark.parametrize("attack", [None, replace(ATTACK, steps=5, step_size=0.08)], ids=["standard", "pgd"])
@pytest.mark.parametrize(
    ("architecture", "count"),
    [("relu_4_1024", 2_048), ("cnn3", 2_048), ("cnn4", 2_048), ("cnn7", 2_048), ("resnet18", 64)],
)
def test_epoch(architecture, count, attack, perf, fresh):
    network, images, labels = fresh(architecture, count)
    stored = Images((images * 255).to(torch.uint8), labels)
    few = stored.take(torch.arange(16, device=labels.device))
    recipe = replace(RECIPE, attack=attack, batch_size=256 if count > 256 else 32)
    pictures = TensorDataset(pixels(stored.images).cpu(), labels.cpu())
    loader = DataLoader(pictures, batch_size=recipe.batch_size, shuffle=True, pin_memory=perf.device.type == "cuda")
    if attack is not None:
        against = others(network, loader, attack)
    else:
        plain = as_written(network)
        theirs = torch.optim.Adam(plain.parameters(), lr=1e-4, weight_decay=1e-4)
        against = {"plain loop": lambda: adversarial_epoch(plain, theirs, loader, lambda model, x, y: x)}
    perf.compare(
        lambda: train(network, recipe, stored, few, stopwatch=Stopwatch(perf.device)),
        against,
        images=count,
        passes=1 + (attack.steps if attack else 0),
        rounds=2,
        group="epoch",
        case=f"{architecture}, {count:,} images, {'PGD-5' if attack else 'conventional'}",
    )
