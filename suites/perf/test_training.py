"""Training: a step of conventional and adversarial training, and whole epochs, beside the loop that users write."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from robbench import PGD, Recipe
from robbench.data import Images, pixels
from robbench.machine.flops import forward_flops, update_flops
from robbench.machine.graphs import GraphedLoop
from robbench.machine.precision import tensor_cores
from robbench.training import Batch, TrainingData, train
from robbench.training.optimisers import new_optimiser
from robbench.training.updates import attacked, update
from suites.perf.plain import adversarial_epoch, as_written, peers, pgd_loop

pytestmark = pytest.mark.perf

ATTACK = PGD(epsilon=0.3, step_size=0.04, steps=10)
RECIPE = Recipe(optimiser="adam", learning_rate=1e-4, weight_decay=1e-4, batch_size=256, epochs=1, attack=ATTACK)

TIMES_FASTER = {
    ("cpu", "cnn7", "float32"): {"torchattacks": 1.0, "Foolbox": 1.8},
    ("cuda", "relu_4_1024", "bf16"): {"torchattacks": 5.0, "Foolbox": 5.0},
    ("cuda", "cnn4", "bf16"): {"torchattacks": 5.0, "Foolbox": 5.0},
    ("cuda", "cnn7", "bf16"): {"torchattacks": 5.0, "Foolbox": 5.0},
    ("cuda", "resnet18", "bf16"): {"torchattacks": 2.5, "Foolbox": 2.5},
}
"""What an adversarial step is to reach, by device, network and precision."""

SHARE_OF_PEAK = {("cpu", "cnn7", "float32"): 0.6}


def of_products(perf, precision="float32"):
    """The precision of the products in training: on CUDA its float32 is TF32, here for everybody."""
    return "tf32" if perf.device.type == "cuda" and precision == "float32" else precision


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
    optimiser, loop = new_optimiser(network, recipe, None), GraphedLoop(perf.device)
    generator = torch.Generator(perf.device).manual_seed(0)

    def step():
        adversarial = attacked(network, attack, precision, images, labels, generator, loop=loop)
        update(network, recipe, optimiser, Batch(images, adversarial, labels))

    with tensor_cores():
        rounds = perf.compare(
            step,
            others(network, [(images, labels)], attack),
            images=batch,
            passes=steps + 1,
            flops=batch * adversarial_flops(as_written(network), images[:1], steps),
            precision=of_products(perf, precision),
            rounds=5,
            group="adversarial training step",
            case=f"{architecture}, batch {batch}, PGD-{steps}, {precision}",
        )
    goal = perf.device.type, architecture, precision
    for name, least in TIMES_FASTER.get(goal, {}).items():
        if name in rounds.seconds:
            perf.target(f"against {name}", rounds.ratio(name), least)
    if goal in SHARE_OF_PEAK:
        perf.target("share of peak", perf.figures["share_of_peak"], SHARE_OF_PEAK[goal])


def adversarial_flops(network, image, steps):
    """Of an attack with so many steps, forward and back to the image, and an update on what it found."""
    return 2 * steps * forward_flops(network, image) + update_flops(network, image)


@pytest.mark.parametrize(
    ("architecture", "batch"), [("relu_4_1024", 256), ("cnn3", 256), ("cnn4", 256), ("cnn7", 256), ("resnet18", 32)]
)
def test_conventional_step(architecture, batch, perf, fresh):
    network, images, labels = fresh(architecture, batch)
    recipe = replace(RECIPE, batch_size=batch, attack=None)
    optimiser = new_optimiser(network, recipe, None)
    plain = as_written(network)
    theirs = torch.optim.Adam(plain.parameters(), lr=1e-4, weight_decay=1e-4)

    with tensor_cores():
        perf.compare(
            lambda: update(network, recipe, optimiser, Batch(images, images, labels)),
            {"plain loop": lambda: adversarial_epoch(plain, theirs, [(images, labels)], lambda model, x, y: x)},
            images=batch,
            passes=1,
            flops=batch * update_flops(plain, images[:1]),
            precision=of_products(perf),
            group="conventional training step",
            case=f"{architecture}, batch {batch}",
        )


@pytest.mark.parametrize("method", ["standard", "pgd"])
@pytest.mark.parametrize(
    ("architecture", "count", "steps"),
    [("relu_4_1024", 2_048, 5), ("cnn3", 2_048, 5), ("cnn4", 2_048, 5), ("cnn7", 2_048, 5), ("resnet18", 128, 2)],
)
def test_epoch(architecture, count, steps, method, perf, fresh):
    network, images, labels = fresh(architecture, count)
    stored = Images((images * 255).to(torch.uint8), labels)
    few = stored.take(torch.arange(16, device=labels.device))
    attack = replace(ATTACK, steps=steps, step_size=0.4 / steps) if method == "pgd" else None
    recipe = replace(RECIPE, attack=attack, batch_size=256 if count > 256 else 32)
    pictures = TensorDataset(pixels(stored.images).cpu(), labels.cpu())
    loader = DataLoader(pictures, batch_size=recipe.batch_size, shuffle=True, pin_memory=perf.device.type == "cuda")
    plain = as_written(network)
    if attack is not None:
        against, flops = others(network, loader, attack), adversarial_flops(plain, images[:1], steps)
    else:
        theirs = torch.optim.Adam(plain.parameters(), lr=1e-4, weight_decay=1e-4)
        against = {"plain loop": lambda: adversarial_epoch(plain, theirs, loader, lambda model, x, y: x)}
        flops = update_flops(plain, images[:1])
    with tensor_cores():
        perf.compare(
            lambda: train(network, recipe, TrainingData(stored, few)),
            against,
            images=count,
            passes=1 + (steps if attack else 0),
            flops=count * flops,
            precision=of_products(perf),
            rounds=3,
            group="epoch",
            case=f"{architecture}, {count:,} images, {f'PGD-{steps}' if attack else 'conventional'}",
        )
