"""What an epoch is made of: attacking a batch, an update on it, and judging the validation images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.attacks import evaluating, pgd, start_noise
from robbench.data import Images, pixels
from robbench.errors import RobbenchError
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import Batches
from robbench.record import Counts
from robbench.spec import PGD, Recipe
from robbench.training.features import Features
from robbench.training.transfer import training_mode

VALIDATION_BATCH = 256
"""Images that validation judges at once, where memory allows it."""


def attacked(
    network: nn.Module,
    attack: PGD,
    precision: str,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    scale: float = 1.0,
    loop: GraphedLoop | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Adversarial images of a training attack whose radius and step are multiplied by ``scale``; network in eval mode.

    Shapes and dtypes as in :func:`robbench.attacks.pgd.pgd`.
    """
    assert attack.epsilon is not None
    # A cache would keep the cast of every iterate until the attack ends, and of no weight: only leaves that require a
    # gradient are cached.
    with evaluating(network), autocast(precision, images.device, cache=False):
        return pgd(
            network,
            images,
            labels,
            attack.epsilon * scale,
            step_size=None if attack.step_size is None else attack.step_size * scale,
            steps=attack.steps,
            random_start=attack.random_start,
            box=attack.box,
            generator=generator,
            noise=noise,
            loop=loop,
        )


def update(
    network: nn.Module,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    held: tuple[nn.Module, ...],
) -> tuple[Tensor, Tensor]:
    """One step of the optimiser; the mean loss and the number of images classified correctly, both on the device.

    Raises:
        RobbenchError: no parameter that is trained has a part in the logits.
    """
    if recipe.statistics == "running":
        network.eval()
    else:
        training_mode(network, held)
    optimiser.zero_grad(set_to_none=True)
    with autocast(recipe.precision, images.device):
        logits = network(images)
    loss = F.cross_entropy(logits.float(), labels)
    if not loss.requires_grad:
        raise RobbenchError(
            "training: expected logits that depend on the parameters to train, got logits without a gradient "
            "(torch.no_grad or detach in the network's forward)"
        )
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.clip_norm is not None:
        trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
    optimiser.step()
    return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()


def validate(
    network: nn.Module,
    recipe: Recipe,
    validation: Images | Features,
    *,
    seed: int,
    loop: GraphedLoop | None = None,
    judging: Batches | None = None,
) -> tuple[Counts, Counts | None]:
    """Clean accuracy and, where the recipe is adversarial, robust accuracy on the validation images, in eval mode.

    Random starts are drawn for ``VALIDATION_BATCH`` images at a time, however many of them ``judging`` then takes at
    once, so that running out of memory does not change them.
    """
    attack, device = recipe.validation_attack or recipe.attack, validation.images.device
    judging = judging or Batches("validation", VALIDATION_BATCH)
    generator = torch.Generator(device).manual_seed(seed)
    clean = torch.zeros((), dtype=torch.int64, device=device)
    robust = clean.clone()
    with evaluating(network):
        for start in range(0, len(validation), VALIDATION_BATCH):
            images = pixels(validation.images[start : start + VALIDATION_BATCH])
            labels = validation.labels[start : start + VALIDATION_BATCH]
            noise = start_noise(images, generator) if attack is not None and attack.random_start else None

            def judge(
                part: slice, images: Tensor = images, labels: Tensor = labels, noise: Tensor | None = noise
            ) -> None:
                some, theirs = images[part], labels[part]
                right = _right(network, recipe, some, theirs)
                safe = right
                if attack is not None:
                    noisy = None if noise is None else noise[part]
                    adversarial = attacked(
                        network, attack, recipe.precision, some, theirs, None, loop=loop, noise=noisy
                    )
                    safe = right & _right(network, recipe, adversarial, theirs)
                counted = torch.stack([right.sum(), safe.sum()])
                clean.add_(counted[0])
                robust.add_(counted[1])

            judging.over(len(labels), device, judge)
    right_clean, right_robust = torch.stack([clean, robust]).tolist()
    total = len(validation)
    return (
        Counts(correct=right_clean, total=total),
        Counts(correct=right_robust, total=total) if attack is not None else None,
    )


def autocast(precision: str, device: torch.device, *, cache: bool = True) -> torch.autocast:
    """Where a recipe says ``bf16``, torch's automatic casts to it; with ``cache`` each weight is cast once."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=cache)


def _right(network: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad(), autocast(recipe.precision, images.device):
        right: Tensor = network(images).argmax(dim=1) == labels
        return right
