"""What robbench chooses once for all networks, beside what it could have chosen: memory format, batch, and threads."""

from copy import deepcopy

import pytest
import torch

from robbench import PGD, Recipe
from robbench.attacks import pgd
from robbench.machine.flops import forward_flops
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import LARGEST_BATCH
from robbench.machine.precision import full_precision, tensor_cores
from robbench.training import Batch
from robbench.training.optimisers import new_optimiser
from robbench.training.updates import attacked, update
from suites.perf.plain import as_written
from suites.perf.test_training import adversarial_flops, of_products

pytestmark = pytest.mark.perf

ATTACK = PGD(epsilon=0.3, step_size=0.15, steps=2)
RECIPE = Recipe(optimiser="adam", learning_rate=1e-4, weight_decay=1e-4, batch_size=256, epochs=1, attack=ATTACK)


@pytest.mark.parametrize(
    ("architecture", "batch"), [("cnn3", 256), ("cnn4", 256), ("cnn7", 256), ("resnet18", 16), ("wrn10_1", 64)]
)
def test_memory_format(architecture, batch, perf, fresh):
    network, images, labels = fresh(architecture, batch)
    contiguous = deepcopy(network).to(memory_format=torch.contiguous_format)

    def step_of(chosen):
        optimiser, loop = new_optimiser(chosen, RECIPE, None), GraphedLoop(perf.device)

        def step():
            adversarial = attacked(chosen, ATTACK, "float32", images, labels, None, loop=loop)
            update(chosen, RECIPE, optimiser, Batch(images, adversarial, labels))

        return step

    with tensor_cores():
        perf.compare(
            step_of(network),
            {"contiguous": step_of(contiguous)},
            images=batch,
            passes=ATTACK.steps + 1,
            flops=batch * adversarial_flops(as_written(network), images[:1], ATTACK.steps),
            precision=of_products(perf),
            group="memory format",
            case=f"{architecture}, batch {batch}, PGD-{ATTACK.steps} and update",
        )


@pytest.mark.parametrize("architecture", ["relu_4_1024", "cnn7"])
def test_batch(architecture, perf, fresh):
    chosen = LARGEST_BATCH[perf.device.type]
    network, images, labels = fresh(architecture, 2 * chosen)
    loop = GraphedLoop(perf.device)

    def attack(size):
        for some, theirs in zip(images.split(size), labels.split(size), strict=True):
            pgd(network, some, theirs, 0.3, step_size=0.15, steps=ATTACK.steps, loop=loop)

    with full_precision(perf.device):
        perf.compare(
            lambda: attack(chosen),
            {f"batch {size:,}": lambda size=size: attack(size) for size in (chosen // 4, chosen // 2, 2 * chosen)},
            images=len(images),
            passes=ATTACK.steps,
            flops=2 * ATTACK.steps * len(images) * forward_flops(network, images[:1]),
            group="batch",
            case=f"{architecture}, {len(images):,} images, batch {chosen:,}, PGD-{ATTACK.steps}",
        )


@pytest.mark.parametrize("architecture", ["relu_4_1024", "cnn7"])
def test_threads(architecture, perf, fresh):
    if perf.device.type != "cpu":
        pytest.skip("threads do the arithmetic on the CPU alone")
    network, images, labels = fresh(architecture, 256)
    chosen = torch.get_num_threads()

    def attack(threads):
        torch.set_num_threads(threads)
        try:
            pgd(network, images, labels, 0.3, step_size=0.15, steps=ATTACK.steps)
        finally:
            torch.set_num_threads(chosen)

    perf.compare(
        lambda: attack(chosen),
        {"1 thread": lambda: attack(1)},
        images=len(images),
        passes=ATTACK.steps,
        flops=2 * ATTACK.steps * len(images) * forward_flops(network, images[:1]),
        group="threads",
        case=f"{architecture}, batch 256, PGD-{ATTACK.steps}, torch's default of {chosen} thread{'s' if chosen > 1 else ''}",
    )
