"""The study's networks without shortcuts, (N, 1, 28, 28) -> (N, classes) (thesis, section 5.1; its names are ADA-VERONA's)."""

from __future__ import annotations

from collections import Counter

from torch import nn

from robbench.models.network import layers


def relu_4_1024(classes: int) -> nn.Sequential:
    """Fully connected 784–1024–1024–1024–classes."""
    return _stack(nn.Flatten(), *_fc(784, 1024), *_fc(1024, 1024), *_fc(1024, 1024), nn.Linear(1024, classes))


def relu_2_64(classes: int) -> nn.Sequential:
    """Fully connected 784–64–64–classes: small enough for a complete verifier."""
    return _stack(nn.Flatten(), *_fc(784, 64), *_fc(64, 64), nn.Linear(64, classes))


def cnn_small(classes: int) -> nn.Sequential:
    """The network that Wong and Kolter 2018 certify on MNIST (section 4): two convolutions of stride 2."""
    return _stack(
        *_conv(1, 16, 4, stride=2, padding=1),
        *_conv(16, 32, 4, stride=2, padding=1),
        nn.Flatten(),
        *_fc(1568, 100),
        nn.Linear(100, classes),
    )


def cnn3(classes: int) -> nn.Sequential:
    """One convolution and two fully connected layers, no ReLU between these two."""
    return _stack(*_conv(1, 32, 5, padding=2), nn.Flatten(), nn.Linear(25088, 128), nn.Linear(128, classes))


def cnn4(classes: int) -> nn.Sequential:
    """The network of Madry et al. 2018 for MNIST."""
    return _stack(
        *_conv(1, 32, 5, padding=2, pool=True),
        *_conv(32, 64, 5, padding=2, pool=True),
        nn.Flatten(),
        *_fc(3136, 1024),
        nn.Linear(1024, classes),
    )


def cnn7(classes: int) -> nn.Sequential:
    """The larger network of Yang et al. for MNIST."""
    return _stack(
        *_conv(1, 32, 3),
        *_conv(32, 32, 3, pool=True),
        *_conv(32, 64, 3),
        *_conv(64, 64, 3, pool=True),
        nn.Flatten(),
        *_fc(1024, 200),
        *_fc(200, 200),
        nn.Linear(200, classes),
    )


def cnn_dropout(classes: int) -> nn.Sequential:
    """The network of Yang et al. with dropout."""
    return _stack(
        *_conv(1, 32, 3),
        *_conv(32, 64, 3, pool=True),
        nn.Dropout(0.25),
        nn.Flatten(),
        *_fc(9216, 128),
        nn.Dropout(0.5),
        nn.Linear(128, classes),
    )


def _conv(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0, pool: bool = False
) -> list[nn.Module]:
    convolution = [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True)]
    return [*convolution, nn.MaxPool2d(2)] if pool else convolution


def _fc(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]


def _stack(*modules: nn.Module) -> nn.Sequential:
    """The layers one after another, numbered by kind: conv1, relu1, conv2, …, fc1."""
    kinds: dict[type[nn.Module], str] = {nn.Conv2d: "conv", nn.Linear: "fc"}
    named, seen = {}, Counter[str]()
    for module in modules:
        kind = kinds.get(type(module), type(module).__name__.lower())
        seen[kind] += 1
        named[f"{kind}{seen[kind]}"] = module
    return layers(**named)
