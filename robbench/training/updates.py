"""What an epoch is made of: attacking a batch, updating the weights on it, and judging the validation images."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn

from robbench.attacks import evaluating, pgd, start_noise
from robbench.data import ImageSource, fetch, pixels
from robbench.errors import RobbenchError
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import Batches
from robbench.record import Counts
from robbench.spec import PGD, Recipe
from robbench.training.awp import perturbed
from robbench.training.objectives import Adversary, Batch, Loss, loss_function
from robbench.training.schedule import ramp

VALIDATION_BATCH = 256
"""Images that validation judges at once, if memory allows it."""


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
    adversary: Adversary | None = None,
    reference: Tensor | None = None,
) -> Tensor:
    """Adversarial images of :func:`robbench.attacks.pgd.pgd`, its radius and step multiplied by ``scale``, in eval mode.

    The ``adversary`` is the objective's, and None the one of cross-entropy; ``reference`` is what it may compare with.
    """
    assert attack.epsilon is not None
    adversary = adversary or Adversary()
    if adversary.spread is not None and attack.random_start and scale:
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        noise *= adversary.spread / (attack.epsilon * scale)
        precision = "float32"  # rounding to bfloat16 hides so small a start: the first gradient would be noise
    # With its cache autocast would keep every iterate until the attack ends.
    with evaluating(network), autocast(precision, images.device, cache=False):
        target = None
        if adversary.target is not None:
            with torch.no_grad():
                target = adversary.target(network, images, labels, reference)
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
            loss=adversary.loss,
            first=adversary.first,
            target=target,
        )


def batch_of(
    network: nn.Module,
    recipe: Recipe,
    loss: Loss,
    clean: Tensor,
    labels: Tensor,
    *,
    position: float = 0.0,
    generator: torch.Generator | None = None,
    reference: Tensor | None = None,
    loop: GraphedLoop | None = None,
) -> Batch:
    """The batch of these clean images: attacked as recipe and objective say, with the loss's reference.

    ``position`` is where training is, in epochs; ``reference`` was computed before, and None computes it here.
    """
    if reference is None and loss.reference is not None:
        with torch.no_grad(), autocast(recipe.precision, clean.device):
            reference = loss.reference(clean)
    images = clean
    if recipe.attack is not None:
        scale = ramp(recipe, position)
        images = attacked(
            network,
            recipe.attack,
            recipe.precision,
            clean,
            labels,
            generator,
            scale,
            loop,
            adversary=loss.adversary,
            reference=reference,
        )
    return Batch(clean, images, labels, position / recipe.epochs, reference)


def update(
    network: nn.Module,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    *,
    frozen: Collection[nn.Module] = (),
    loss: Loss | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of the optimiser on a batch.

    ``frozen`` modules stay in eval mode; ``loss`` is the objective's, and None makes it for an objective without parents.

    Returns:
        The mean loss and the number of images classified correctly, both on the device.
    """
    loss = loss or loss_function(recipe.objective, network, {})
    network.train(recipe.statistics != "running")
    for module in frozen:
        module.eval()
    optimiser.zero_grad(set_to_none=True)

    def forward() -> tuple[Tensor, Tensor]:
        with autocast(recipe.precision, batch.clean.device):
            return loss(batch)

    with perturbed(network, recipe.awp, forward):
        value, right = _backward(forward, batch.labels)
    if recipe.clip_norm is not None:
        trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
    optimiser.step()
    return value, right


def _backward(forward: Callable[[], tuple[Tensor, Tensor]], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Give the parameters their gradients; the loss, and the number of images classified correctly."""
    value, logits = forward()
    if not value.requires_grad:
        what = "logits that depend on the parameters to train, got logits without a gradient"
        raise RobbenchError(f"training: expected {what} (torch.no_grad or detach in the network's forward?)")
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach(), (logits.detach().argmax(dim=1) == labels).sum()


def validate(
    network: nn.Module,
    recipe: Recipe,
    validation: ImageSource,
    *,
    seed: int,
    loop: GraphedLoop | None = None,
    judging: Batches | None = None,
) -> tuple[Counts, Counts | None]:
    """Clean accuracy and, if the recipe is adversarial, robust accuracy on the validation images, in eval mode.

    If memory runs out, ``judging`` takes fewer images at once; the random starts stay the same.
    """
    attack, device = recipe.validation_attack or recipe.attack, device_of(network)
    judging = judging or Batches("validation", VALIDATION_BATCH)
    generator = torch.Generator(device).manual_seed(seed)
    counted = torch.zeros(2, dtype=torch.int64, device=device)
    order = torch.arange(len(validation), device=validation.labels.device)

    def judge(images: Tensor, labels: Tensor, noise: Tensor | None, part: slice) -> None:
        images, labels = images[part], labels[part]
        right = _right(network, recipe, images, labels)
        safe = right
        if attack is not None:
            start = None if noise is None else noise[part]
            found = attacked(network, attack, recipe.precision, images, labels, None, loop=loop, noise=start)
            safe = right & _right(network, recipe, found, labels)
        counted.add_(torch.stack([right.sum(), safe.sum()]))

    with evaluating(network):
        for taken in fetch(validation, torch.split(order, VALIDATION_BATCH)):  # random starts are drawn for so many
            images = pixels(taken.images)
            noise = start_noise(images, generator) if attack is not None and attack.random_start else None
            judging.over(len(taken), device, partial(judge, images, taken.labels, noise))
    clean, robust = (Counts(correct=correct, total=len(validation)) for correct in counted.tolist())
    return clean, robust if attack is not None else None


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters lie, or the CPU if it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def autocast(precision: str, device: torch.device, *, cache: bool = True) -> torch.autocast:
    """For the precision ``bf16`` torch's automatic casts to it; with ``cache`` each weight is cast once."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=cache)


def _right(network: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad(), autocast(recipe.precision, images.device):
        right: Tensor = network(images).argmax(dim=1) == labels
        return right
