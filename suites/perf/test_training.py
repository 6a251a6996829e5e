"""Training: a step of conventional and adversarial training, and whole epochs, beside the loop that users write."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from robbench import PGD, Recipe
from robbench.attacks import tensor_cores
from robbench.data import Images, pixels
from robbench.graphs import Loop
from robbench.plugin.perf import forward_flops
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
        group="adversarial training step",
        case=f"{architecture}, batch {batch}, PGD-{steps}, {precision}",
    )


@pytest.mark.parametrize("attack", [None, replace(ATTACK, steps=5, step_size=0.08)], ids=["standard", "pgd"])
@pytest.mark.parametrize("architecture", ["relu_4_1024", "cnn7"])
def test_epoch(architecture, attack, perf, fresh):
    network, images, labels = fresh(architecture, 2_048)
    stored = Images((images * 255).to(torch.uint8), labels)
    few = stored.take(torch.arange(64, device=labels.device))
    recipe = replace(RECIPE, attack=attack)
    against = {}
    if attack is not None:
        pictures = TensorDataset(pixels(stored.images).cpu(), labels.cpu())
        loader = DataLoader(pictures, batch_size=256, shuffle=True, pin_memory=perf.device.type == "cuda")
        against = others(network, loader, attack)
    perf.compare(
        lambda: train(network, recipe, stored, few, stopwatch=Stopwatch(perf.device)),
        against,
        images=2_048,
        passes=1 + (attack.steps if attack else 0),
        rounds=2,
        group="epoch",
        case=f"{architecture}, 2,048 images, {'PGD-5' if attack else 'conventional'}, with warm-up and validation of 64",
    )
