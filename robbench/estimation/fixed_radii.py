"""The final testing of section 5.2: robust accuracy under attacks at fixed radii, on the images that p* is taken from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robbench.attacks import evaluating, is_counterexample, pgd
from robbench.data import check_pixels, pixels
from robbench.errors import require
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import Batches, attack_batch
from robbench.machine.precision import full_precision
from robbench.record import AttackAccuracy, Counts
from robbench.spec import PGD


@dataclass
class FinalTest:
    """How far a final test is: enough to go on after an interruption."""

    fooled: list[int] = field(default_factory=list)
    """Images fooled by each attack that was begun."""
    start: int = 0
    """Images that the last of these attacks has done."""


def attack_accuracies(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    correct: Tensor,
    attacks: Sequence[PGD],
    *,
    batch_size: int | None = None,
    notes: list[str] | None = None,
    state: FinalTest | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[AttackAccuracy]:
    """Robust accuracy under each attack: images right unperturbed and still right under the attack, of all images.

    Attacked and judged in float32, outside autocast and without TF32, in eval mode; from the image itself, so that the
    batch size changes nothing. Images that are wrong already are not attacked.

    Args:
        model: classifier, (N, C, H, W) floats in [0, 1] -> (N, classes); its modes are restored.
        images: (N, C, H, W) uint8, or floats in [0, 1], on the device of the model.
        labels: (N,) int64, on the same device.
        correct: (N,) bool, which images the model classifies correctly unperturbed.
        attacks: with a radius and without a random start.
        batch_size: images attacked at once, halved when memory runs out; None for what device and free memory allow.
        notes: gets a line where it was halved, or a step could not be captured.
        state: an interrupted test to go on with; kept up to date.
        on_progress: gets the images attacked so far, and all that will be, over all attacks.

    Raises:
        RobbenchError: pixels are outside [0, 1], labels or ``correct`` do not match the images, or an attack has no radius or a random start.
    """
    for name, value in (("labels", labels), ("correct", correct)):
        require(value.shape == images.shape[:1], name, f"shape {tuple(images.shape[:1])}", tuple(value.shape))
    check_pixels(images)
    for attack in attacks:
        require(attack.epsilon is not None and not attack.random_start, "attack", "a radius, no random start", attack)
    chosen = correct.nonzero().flatten().to(images.device)
    notes = [] if notes is None else notes
    state, loop = state or FinalTest(), GraphedLoop(images.device, notes)
    with evaluating(model), full_precision(images.device):
        size = batch_size or attack_batch(model, pixels(images[:1]))
        batches = Batches("the final test", size, notes)
        for number, attack in enumerate(attacks):
            if number == len(state.fooled):
                state.fooled.append(0)
                state.start = 0
            elif number < len(state.fooled) - 1:
                continue

            def count(part: slice, number: int = number, attack: PGD = attack) -> None:
                batch = chosen[part]
                state.fooled[number] += _fooled(model, images[batch], labels[batch], attack, loop)
                state.start = part.stop
                on_progress(number * len(chosen) + part.stop, len(attacks) * len(chosen))

            batches.over(len(chosen), images.device, count, start=state.start)
    return [
        _accuracy(attack, len(chosen) - fooled, len(images))
        for attack, fooled in zip(attacks, state.fooled, strict=True)
    ]


def _fooled(model: nn.Module, images: Tensor, labels: Tensor, attack: PGD, loop: GraphedLoop) -> int:
    """How many images of a batch the attack gets misclassified."""
    assert attack.epsilon is not None
    originals = pixels(images)
    with full_precision(images.device):
        adversarial = pgd(
            model,
            originals,
            labels,
            attack.epsilon,
            step_size=attack.step_size,
            steps=attack.steps,
            random_start=False,
            box=attack.box,
            loop=loop,
        )
    radii = torch.full(labels.shape, attack.epsilon, device=originals.device, dtype=originals.dtype)
    return int(is_counterexample(model, adversarial, originals, labels, radii, box=attack.box).sum())


def _accuracy(attack: PGD, robust: int, total: int) -> AttackAccuracy:
    assert attack.epsilon is not None
    step = attack.step_size or attack.epsilon / attack.steps
    return AttackAccuracy(
        attack="fgsm" if attack.steps == 1 and step >= attack.epsilon else "pgd",
        epsilon=attack.epsilon,
        steps=attack.steps,
        step_size=step,
        robust=Counts(correct=robust, total=total),
    )
