"""FGSM and PGD in the L∞ ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robbench.attacks.losses import AttackLoss, cross_entropy
from robbench.attacks.modes import without_parameter_gradients
from robbench.errors import require
from robbench.machine.graphs import GraphedLoop, Step, Tensors, repeat


def gradient_of(loss: Tensor, images: Tensor) -> Tensor:
    """The loss's gradient by the images, in their shape; zero where the network lets none through."""
    if not loss.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(loss, images, materialize_grads=True)
    return gradient


def fgsm(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    *,
    box: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Fast gradient sign method, one step of :func:`pgd` of the whole radius (Goodfellow et al. 2015, eq. 4)."""
    return pgd(network, images, labels, epsilon, step_size=epsilon, steps=1, random_start=False, box=box)


def pgd(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int,
    step_size: float | Tensor | None = None,
    random_start: bool = True,
    box: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    loop: GraphedLoop | None = None,
    loss: AttackLoss = cross_entropy,
    first: AttackLoss | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """Projected gradient descent in the L∞ ball, on cross-entropy or another loss (Madry et al. 2018; thesis, eq. 2.11).

    The loss is summed, so one image's result depends on the others of its batch by rounding only. The caller sets the
    modes of the modules; flags and gradients of the parameters stay as they were.

    Args:
        network: classifier, (N, C, H, W) floats -> (N, classes).
        images: (N, C, H, W) floats in ``box``.
        labels: (N,) int64, the classes to leave.
        epsilon: radius in pixel units; a float, or (N,) for one radius per image.
        steps: number of gradient steps.
        step_size: pixel units, as ``epsilon``; None for epsilon ÷ steps.
        random_start: start uniformly in the ball instead of at the image.
        box: range of valid pixels.
        generator: source of the random start, on the images' device.
        noise: of :func:`start_noise`, drawn before; None draws it here.
        loop: repeats the steps; one that lives as long as the network replays them on a GPU.
        loss: what the attack maximises; with a ``loop`` a function of a module, as a graph is kept for each.
        first: what the first step maximises, where that is something else.
        target: (N, ...), what the loss compares the logits with; None for the labels.

    Returns:
        (N, C, H, W) adversarial images inside both the ball and the box; the last iterate.

    Raises:
        RobbenchError: a radius or step is negative (tensors are looked into on the CPU only); a length does not fit.
    """
    require(steps >= 1, "steps", "an integer ≥ 1", steps)
    require(labels.shape == images.shape[:1], "labels", f"shape {tuple(images.shape[:1])}", tuple(labels.shape))
    radius = per_image("epsilon", epsilon, images)
    step = radius / steps if step_size is None else per_image("step_size", step_size, images)
    lower = (images - radius).clamp_(min=box[0])
    upper = (images + radius).clamp_(max=box[1])
    adversarial = images.detach()
    if random_start:
        noise = start_noise(images, generator) if noise is None else noise
        adversarial = torch.addcmul(images, noise, radius).clamp_(lower, upper)

    def ascending(loss: AttackLoss) -> Step:
        def ascend(state: Tensors, constants: Tensors) -> Tensors:
            (iterate,), (target, step, lower, upper) = state, constants
            with torch.enable_grad():
                iterate = iterate.detach().requires_grad_()
                gradient = gradient_of(loss(network(iterate), target), iterate)
            return (torch.addcmul(iterate.detach(), gradient.sign(), step).clamp_(lower, upper),)

        return ascend

    constants = labels if target is None else target, step, lower, upper
    with without_parameter_gradients(network):
        if first is not None:
            (adversarial,), steps = ascending(first)((adversarial,), constants), steps - 1
        (adversarial,) = (loop or repeat)(ascending(loss), (adversarial,), constants, steps)
    return adversarial.detach()


def start_noise(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Where in its ball each image starts, in radii: uniform in [-1, 1), in the images' shape and dtype."""
    noise = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return noise.mul_(2).sub_(1)


def per_image(name: str, value: float | Tensor, images: Tensor) -> Tensor:
    """A number, or one per image, as (1, 1, 1, 1) or (N, 1, 1, 1) in the images' dtype and on their device."""
    if isinstance(value, Tensor):
        require(value.shape in ((), images.shape[:1]), name, f"one number or {len(images)}", tuple(value.shape))
        if value.device.type == "cpu":  # elsewhere the look would wait for the device, at every probe
            require(bool((value >= 0).all()), name, "numbers ≥ 0 in pixel units", value.min().item())
        per_image: Tensor = value.to(images).reshape(-1, *(1,) * (images.ndim - 1))
        return per_image
    require(value >= 0, name, "a number ≥ 0 in pixel units", value)
    return torch.full((1,) * images.ndim, value, dtype=images.dtype, device=images.device)
