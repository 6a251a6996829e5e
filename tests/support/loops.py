"""A small problem, network and recipe, and the training loop run on them."""

from __future__ import annotations

import copy

import msgspec
import torch
from torch import nn

from robbench.data import Images
from robbench.machine.timing import Stopwatch
from robbench.spec import PGD, Recipe
from robbench.training import Trainer, TrainingData

ADVERSARY = PGD(epsilon=0.1, step_size=0.06, steps=2)


def recipe(**changes):
    """Three epochs of plain SGD, without momentum, weight decay and clipping."""
    plain = {"optimiser": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": None}
    return Recipe(**(plain | {"batch_size": 8, "epochs": 3} | changes))


def problem(count, seed=0):
    """Separable 6×6 images: class 0 is bright in the upper half, class 1 in the lower, class 2 nowhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 90, (count, 1, 6, 6), generator=generator)
    images[labels == 0, :, :3] += 120
    images[labels == 1, :, 3:] += 120
    return Images(images.to(torch.uint8), labels)


def network(seed=0, dropout=0.3, bias=True):
    """Convolution, batch norm, ReLU, dropout and a linear layer; seeded, channels last as in the pipeline.

    A ``bias`` in front of batch norm changes no loss: its gradient is rounding, which Adam makes a step of full length.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = nn.Conv2d(1, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout)
        layers = *first, nn.Conv2d(4, 5, 2), nn.Flatten(), nn.Linear(45, 3)
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def plain(seed=0):
    """A network without batch norm and dropout, whose training two passes do not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))


def trainer(model, spec, training=None, validation=None, augmentation="none", stopwatch=None, **options):
    """A trainer on the toy problem."""
    data = TrainingData(training or problem(27), validation or problem(12, seed=1), augmentation)
    stopwatch = stopwatch or Stopwatch(next(model.parameters()).device)
    return Trainer(model, spec, data, stopwatch=stopwatch, **options)


def finish(made, saved=None):
    """Train to the end; ``saved`` gets the state after every epoch."""
    while not made.done:
        made.step()
        if saved is not None:
            saved.append(copy.deepcopy(made.state_dict()))
    return made.result()


def run(model, spec, *parts, saved=None, **options):
    """Train on the toy problem, as a record."""
    return finish(trainer(model, spec, *parts, **options), saved)


def timeless(epochs):
    """A history without its seconds."""
    return [msgspec.structs.replace(epoch, seconds=0.0, validation_seconds=0.0) for epoch in epochs]


def same(one, other):
    """Whether two mappings of tensors are bit by bit the same."""
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def parameters(model):
    """Copies of a model's parameters by name."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


class Watched(nn.Module):
    """Counts the images that pass forward and backward, and notes the mode and dtype of each forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0
        self.seen = []
        self.broken = False

    def forward(self, images):
        """Logits of the model inside, NaN when broken."""
        self.forwards += len(images)
        logits = self.model(images)
        self.seen.append((images.requires_grad, torch.is_grad_enabled(), self.model.training, logits.dtype))
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits * float("nan") if self.broken else logits

    def _count(self, gradient):
        self.backwards += len(gradient)

    def __deepcopy__(self, memo):
        """The copy that the warm-up uses has counts of its own."""
        return Watched(copy.deepcopy(self.model, memo))
