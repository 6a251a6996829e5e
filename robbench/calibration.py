"""How fast this machine passes images through a network: a few timed batches, for the estimates of ``robbench plan``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F

from robbench.attacks import evaluating, pgd
from robbench.models import build
from robbench.plan import PlannedStage, Speed

BATCH_SIZE = {"cpu": 64, "cuda": 512}
"""Images timed at once, by device type; fewer where one pass would take long."""
LONG = 0.5
"""Seconds of a forward pass above which the batch is made smaller."""
LEAST = 0.2
"""Seconds that a timing lasts at least, so that it means something."""


def measure(
    architecture: str, *, classes: int, shape: tuple[int, int, int], precision: str, device: torch.device
) -> Speed:
    """Seconds per image of a network with new weights on noise: inference, attack steps and updates.

    Raises:
        RobbenchError: the network cannot be built.
    """
    network = build(architecture, classes=classes, shape=shape, seed=0)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    size = BATCH_SIZE.get(device.type, 64)

    def infer() -> None:
        with evaluating(network), torch.no_grad(), autocast:
            network(images)

    def attack() -> None:
        with evaluating(network), autocast:
            pgd(network, images, labels, 0.1, steps=1, random_start=False)

    def update() -> None:
        network.train()
        with autocast:
            logits = network(images)
        network.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]

    images, labels = torch.rand(4, *shape, device=device), torch.zeros(4, dtype=torch.int64, device=device)
    infer()
    four = _seconds(infer, device)
    size = max(4, min(size, int(4 * LONG / four)))
    images, labels = torch.rand(size, *shape, device=device), torch.zeros(size, dtype=torch.int64, device=device)
    inference, attacked, updated = (_per_run(run, device) / size for run in (infer, attack, update))
    return Speed(inference=inference, attack=attacked, update=updated)


def speeds_of(
    stages: Iterable[PlannedStage], device: torch.device
) -> dict[tuple[str, tuple[int, int, int], str], Speed]:
    """The speed of every network of a plan, each measured once.

    Raises:
        RobbenchError: a network cannot be built.
    """
    networks = dict.fromkeys(stage.network for stage in stages)
    return {
        network: measure(network[0], classes=100, shape=network[1], precision=network[2], device=device)
        for network in networks
    }


def _per_run(run: Callable[[], None], device: torch.device) -> float:
    """Least seconds of a few runs after a discarded one: what other programs take is not the network's."""
    run()
    found: list[float] = []
    while sum(found) < LEAST or len(found) < 3:
        found.append(_seconds(run, device))
    return min(found)


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
