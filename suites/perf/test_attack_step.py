"""One gradient step of PGD, forward and backward, for a batch: networks of the study, beside other libraries' steps."""

import pytest

from robbench.attacks import pgd
from robbench.machine.flops import forward_flops
from robbench.machine.graphs import GraphedLoop
from robbench.machine.precision import full_precision
from suites.perf.plain import as_written, peers, pgd_loop

pytestmark = pytest.mark.perf

EPSILON, STEP_SIZE = 0.3, 0.04


@pytest.mark.parametrize(
    ("architecture", "batch", "steps"),
    [("relu_4_1024", 256, 10), ("cnn3", 256, 10), ("cnn4", 256, 10), ("cnn7", 256, 10), ("resnet18", 32, 2)],
)
def test_attack_step(architecture, batch, steps, perf, fresh):
    network, images, labels = fresh(architecture, batch)
    plain, loop = as_written(network), GraphedLoop(perf.device)
    flops = 2 * forward_flops(plain, images[:1]) * batch * steps
    others = {"plain loop": pgd_loop_of(plain, images, labels, steps)}
    for name, attack in peers(EPSILON, STEP_SIZE, steps).items():
        others[name] = lambda attack=attack: attack(plain, images, labels)
    with full_precision(perf.device):
        perf.compare(
            lambda: pgd(network, images, labels, EPSILON, step_size=STEP_SIZE, steps=steps, loop=loop),
            others,
            images=batch,
            passes=steps,
            flops=flops,
            rounds=5,
            group="attack step",
            case=f"{architecture}, batch {batch}, PGD-{steps}",
        )


def pgd_loop_of(network, images, labels, steps):
    """The plain loop as a call without arguments."""
    return lambda: pgd_loop(network, images, labels, EPSILON, STEP_SIZE, steps, random_start=True)
