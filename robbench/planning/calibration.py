"""How fast this machine passes images through a network: a few timed batches, for the estimates of ``robbench plan``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from robbench.attacks import evaluating
from robbench.bounds import BoundedNetwork, Boxes
from robbench.machine.environment import multiplies_in_tf32
from robbench.machine.graphs import GraphedLoop
from robbench.machine.precision import tensor_cores
from robbench.machine.timing import Stopwatch
from robbench.models import Network, build, place
from robbench.planning.plan import NetworkKey, PlannedStage
from robbench.planning.work import Speed
from robbench.spec import PGD
from robbench.training.updates import attacked

BATCH_SIZE = {"cpu": 64, "cuda": 512}
"""Images timed at once; fewer where one pass would take long."""
STEPS = {"cpu": 1, "cuda": 10}
"""Steps of the timed attack: on a GPU enough for it to be captured, as a long one is."""
LONG = 0.5
"""Seconds of a forward pass above which the batch is made smaller."""
LEAST = 0.2
"""Seconds that a timing lasts at least."""
BOXES = 8
"""Images whose bounds are timed at once."""
RADIUS = 0.02
"""Of these bounds: as small as those that are certified of a network that was not trained for it."""


def measure(
    architecture: str, *, classes: int, shape: tuple[int, int, int], precision: str, device: torch.device
) -> Speed:
    """Seconds per image of a new network on noise; a RobbenchError if it cannot be built."""
    network = place(build(architecture, classes=classes, shape=shape, seed=0), device)
    steps = STEPS.get(device.type, 1)
    infer, *others = _passes(network, precision, device, steps)
    with tensor_cores(precision != "float32"):
        four = _noise(4, shape, device)
        infer(*four)
        fitting = int(4 * LONG / _seconds(partial(infer, *four), device))
        size = max(4, min(BATCH_SIZE.get(device.type, 64), fitting))
        batch = _noise(size, shape, device)
        inference, attack, update = (_per_run(partial(run, *batch), device) / size for run in (infer, *others))
    return Speed(inference=inference, attack=attack / steps, update=update)


def row_seconds(architecture: str, *, classes: int, shape: tuple[int, int, int], device: torch.device) -> float:
    """Seconds of a linear function of CROWN in a new network on noise; a RobbenchError if a layer has no bounds."""
    network = build(architecture, classes=classes, shape=shape, seed=0).eval().to(device)
    images, _ = _noise(BOXES, shape, device)
    boxes = Boxes.around(images, torch.full((BOXES,), RADIUS))
    return BoundedNetwork(network).row_seconds(boxes, lambda run: min(_seconds(run, device) for _ in range(3)))


def _noise(count: int, shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.rand(count, *shape, device=device), torch.zeros(count, dtype=torch.int64, device=device)


def _passes(
    network: Network, precision: str, device: torch.device, steps: int
) -> tuple[Callable[[Tensor, Tensor], None], ...]:
    """What is timed: inference, attack and update of a batch."""
    attack, loop = PGD(epsilon=0.1, steps=steps, random_start=False), GraphedLoop(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def infer(images: Tensor, labels: Tensor) -> None:
        with evaluating(network), torch.no_grad(), autocast:
            network(images)

    def attack_batch(images: Tensor, labels: Tensor) -> None:
        attacked(network, attack, precision, images, labels, None, loop=loop)

    def update(images: Tensor, labels: Tensor) -> None:
        network.train()
        with autocast:
            logits = network(images)
        network.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]

    return infer, attack_batch, update


def measured_speeds(stages: Sequence[PlannedStage], device: torch.device) -> tuple[dict[NetworkKey, Speed], float]:
    """The speed of every network of a plan, each measured once, and the share of that time waiting for a core."""
    rounded = multiplies_in_tf32(device)

    @cache
    def speed(architecture: str, shape: tuple[int, int, int], precision: str) -> Speed:
        return measure(architecture, classes=100, shape=shape, precision=precision, device=device)

    stopwatch = Stopwatch(torch.device("cpu"))
    with stopwatch.region("estimation"):
        speeds = {
            network: speed(*network[:2], "float32" if network[2] == "tf32" and not rounded else network[2])
            for network in dict.fromkeys(stage.network for stage in stages)
            if network is not None
        }
        for network in {stage.network for stage in stages if stage.network is not None and stage.work.rows}:
            row = row_seconds(network[0], classes=100, shape=network[1], device=device)
            speeds[network] = replace(speeds[network], row=row)
    seconds = stopwatch.seconds
    return speeds, min(1.0, seconds.waiting_for_core / seconds.measured) if seconds.measured > LEAST else 0.0


def _per_run(run: Callable[[], None], device: torch.device) -> float:
    """Least seconds of a few runs, after two discarded ones: in the second, a GPU captures an attack."""
    run()
    run()
    found: list[float] = []
    while sum(found) < LEAST or len(found) < 3:
        found.append(_seconds(run, device))
    return min(found)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    begun = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - begun


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
