"""Two images through a network before anything is trained: what it gives, which pixels it sees, what its seed decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.machine.memory import must_fit_whole, ran_out
from robbench.models.network import Network, seeded, sizes

_LARGE = 1000.0
"""What the head is made to give, with either sign: no function behind it that leaves logits alone makes less than 1 of it."""


def answer(body: nn.Module, architecture: str, shape: tuple[int, int, int], classes: int) -> Tensor:
    """Logits of two noisy images of ``shape`` (C, H, W) in the mode that ``body`` is in, (2, classes).

    Raises:
        RobbenchError: the network does not take such images, or gives something else than one tensor of logits.
    """
    logits = _answer(body, architecture, _noise(shape), classes)
    if classes > 1 and bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones(len(logits)), atol=1e-5):
        raise RobbenchError(
            f"{architecture}: expected logits{' in training mode' if body.training else ''}, got probabilities (they add up to 1); leave out the softmax: the loss "
            "and the attacks have their own"
        )
    return logits


def _noise(shape: tuple[int, int, int]) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0), device="cpu")


def _answer(body: nn.Module, architecture: str, images: Tensor, classes: int) -> Tensor:
    mode = " in training mode" if body.training else ""
    try:
        logits = body(images)
    except Exception as error:
        if ran_out(error):
            raise
        raise RobbenchError(
            f"{architecture} does not take {sizes(images.shape[1:])} images{mode}: {error!r}"
        ) from error
    if not isinstance(logits, Tensor):
        raise RobbenchError(
            f"{architecture}: expected its forward{mode} to return the logits alone, got {_kind(logits)}"
        )
    got, expected = tuple(logits.shape), (len(images), classes)
    if got != expected:
        raise RobbenchError(f"{architecture}: expected logits of shape {expected} for two images{mode}, got {got}")
    if not torch.isfinite(logits).all():
        raise RobbenchError(f"{architecture}: expected finite logits{mode}, got NaN or infinity")
    return logits


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {', '.join(map(repr, value))}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


def try_network(network: Network, shape: tuple[int, int, int] | None = None) -> list[str]:
    """Try the body of a network that is thrown away afterwards, on images of ``shape`` (its own, unless another is given).

    Returns:
        What a reader of its results must know: that it does not see the whole image.

    Raises:
        RobbenchError: it does not fit into memory or does not take such images; it gives something else than logits in
            one of its modes (a tuple, probabilities); it sees less than half of the image.
    """
    shape, architecture = shape or network.shape, network.architecture
    with seeded(0), must_fit_whole(f"{architecture} does not fit", "choose a smaller network"):
        with torch.no_grad():
            answer(network.train().body, architecture, shape, network.classes)
            # A branch that begins as zero, as a residual unit's may, lets no gradient through yet.
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        images = _noise(shape).requires_grad_()
        features, logits = _probed(network.eval(), images)
        low, high = logits.min().item(), logits.max().item()
        if features is not None and (low >= -1 or high <= 1):
            raise RobbenchError(
                f"{architecture}: expected logits, got values from {low:.4g} to {high:.4g} where its last nn.Linear gives "
                f"±{_LARGE:g}; leave out what follows it (a softmax, say): the loss and the attacks have their own"
            )
        return _unseen(network, images, logits if features is None else features)


def _probed(network: Network, images: Tensor) -> tuple[Tensor | None, Tensor]:
    """What the head gets, and what the network makes of large logits of both signs; None where the head is not called."""
    seen: list[Tensor] = []

    def probe(head: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append(inputs[0])
        signs = 1 - 2 * (torch.arange(output.shape[-1]) % 2)
        return (_LARGE * signs).to(output).expand_as(output).clone()

    handle = network.body.get_submodule(network.head).register_forward_hook(probe)
    try:
        logits = _answer(network.body, network.architecture, images, network.classes)
    finally:
        handle.remove()
    return (seen[0] if seen else None), logits


def _unseen(network: Network, images: Tensor, output: Tensor) -> list[str]:
    """Whether whole rows or columns of the images change nothing: where gradients alone are missing, the audit says so."""
    if not output.requires_grad:
        return []
    (gradient,) = torch.autograd.grad((output * torch.randn_like(output)).sum(), images, allow_unused=True)
    if gradient is None or not gradient.any():
        return []
    moves = (gradient != 0).any(dim=0).any(dim=0)
    height, width = moves.shape
    sees = moves.any(dim=1, keepdim=True) & moves.any(dim=0, keepdim=True)
    with torch.no_grad():
        redrawn = torch.where(sees, images, 1 - images)
        if sees.all() or not torch.equal(network.body(images), network.body(redrawn)):
            return []
    seen, pixels, architecture = int(sees.sum()), sees.numel(), network.architecture
    some = f"{seen} of the {pixels} pixels of {height}x{width} images"
    if 2 * seen < pixels:
        raise RobbenchError(
            f"{architecture}: expected a network that sees whole images, got one that sees {some}, the others have no "
            "gradient; take images of a size that it divides, or another network"
        )
    return [f"{architecture} sees {some}: the others have no gradient"]


def share_alike(one: nn.Module, other: nn.Module) -> float:
    """Share of the trained values that lie in tensors which two builds have in common; tensors of one value count as drawn.

    0 for a network whose weights follow the seed, 1 for one that comes with trained weights or sets a seed of its own.
    """
    pairs = [(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True) if a.requires_grad]
    alike = sum(a.numel() for a, b in pairs if torch.equal(a, b) and a.numel() and not (a == a.flatten()[0]).all())
    return alike / max(1, sum(a.numel() for a, _ in pairs))
