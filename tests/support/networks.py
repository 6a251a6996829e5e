"""Networks whose p* is known in closed form, what cuts their gradient, and one that counts what it sees."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SHAPE = (1, 6, 6)
"""Of the images of :func:`problem`."""


def linear(weight, bias=0.0):
    """Two logits, w·x + b and 0, of images with as many pixels as ``weight``; float64."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 2, dtype=torch.float64))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([weight, torch.zeros_like(weight)]))
        model[1].bias.copy_(torch.tensor([bias, 0.0]))
    return model


def linear_case(seed, count=12, low=0.45, high=0.55):
    """A random linear model, 6x6 images with pixels from low to high, their labels by it, and |w·x + b| ÷ ‖w‖₁."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(36, generator=generator, dtype=torch.float64)
    images = low + (high - low) * torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    score = images.flatten(1) @ weight
    bias = -score.mean().item()
    labels = (score + bias < 0).long()
    return linear(weight, bias), images, labels, (score + bias).abs() / weight.abs().sum()


class Through(nn.Module):
    """A model behind a function of its images, or before one of its logits."""

    def __init__(self, model, images=lambda images: images, logits=lambda logits: logits):
        super().__init__()
        self.model, self.images, self.logits = model, images, logits

    def forward(self, images):
        """The logits after both functions."""
        return self.logits(self.model(self.images(images)))


CUTS = {
    "integers": lambda pixels: (pixels * 1000).int().to(pixels) / 1000,
    "comparison": lambda pixels: (pixels > 0.5).to(pixels),
    "numpy": lambda pixels: torch.from_numpy(pixels.detach().numpy().copy()),
    "beside": lambda pixels: pixels.detach() + torch.zeros((), requires_grad=True),
}
"""Functions of images that let no gradient through; behind the last one the loss has one, but not of the images."""


class Masked(nn.Module):
    """Adds up the rows of images, each down to its own place, by a stored causal mask that is infinite by design."""

    def __init__(self, side):
        super().__init__()
        self.register_buffer("mask", torch.triu(torch.full((side, side), -torch.inf), diagonal=1))

    def forward(self, images):
        """(N, C, side, W) floats -> the same shape."""
        return self.mask.softmax(dim=-1).to(images) @ images


class Cramped(nn.Module):
    """Runs out of memory on more images than it holds."""

    def __init__(self, model, holds):
        super().__init__()
        self.model, self.holds = model, holds

    def forward(self, images):
        """Logits of the model inside."""
        if len(images) > self.holds:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return self.model(images)


class Counting(nn.Module):
    """Counts the images that pass forward and backward, and the largest batch; an empty one is an error."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.forwards = self.backwards = self.largest = 0

    def forward(self, images):
        """Logits of the model inside."""
        assert len(images) > 0
        self.forwards += len(images)
        self.largest = max(self.largest, len(images))
        logits = self.model(images)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.backwards += len(gradient)


def problem(count, seed=0):
    """Noisy images of three patterns, uint8, and their labels: a task that a small network does not solve perfectly."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(3, (count,), generator=generator)
    noise = torch.rand(count, *SHAPE, generator=generator)
    return ((0.3 * patterns[labels] + 0.7 * noise) * 255).to(torch.uint8), labels


def on_patterns():
    """A convolutional network with ReLU, max-pooling and dropout, trained on them for a moment; float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)
        model = nn.Sequential(*layers, nn.Linear(54, 3)).double()
        images, labels = problem(512, seed=1)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimiser.zero_grad()
            F.cross_entropy(model(images.double() / 255), labels).backward()
            optimiser.step()
    return model
