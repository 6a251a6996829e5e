"""Networks whose robust weights are published, described again by the names of their tensors and by what they compute.

Only what decides names and logits is here: the papers' networks as TRADES, RobustBench and fast adversarial training have
them. What a network computes is written with torch's functions, so that it shares nothing with robbench's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def _conv(inputs, outputs, kernel=3, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Wide(nn.Module):
    """Wide ResNet of TRADES: ``block1.layer.0.convShortcut``, and a first block that it never uses."""

    class _Unit(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, stride=stride)
            self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs)
            self.convShortcut = _conv(inputs, outputs, 1, stride) if inputs != outputs else None

        def forward(self, x):
            active = F.relu(self.bn1(x))
            kept = x if self.convShortcut is None else self.convShortcut(active)
            return kept + self.conv2(F.relu(self.bn2(self.conv1(active))))

    class _Block(nn.Module):
        def __init__(self, units, inputs, outputs, stride):
            super().__init__()
            pairs = [(inputs, stride)] + [(outputs, 1)] * (units - 1)
            self.layer = nn.Sequential(*(Wide._Unit(width, outputs, step) for width, step in pairs))

        def forward(self, x):
            return self.layer(x)

    def __init__(self, depth=10, width=2, classes=10, unused=True):
        super().__init__()
        units, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = _conv(3, 16)
        self.block1 = self._Block(units, widths[0], widths[1], 1)
        if unused:
            self.sub_block1 = self._Block(units, widths[0], widths[1], 1)
        self.block2 = self._Block(units, widths[1], widths[2], 2)
        self.block3 = self._Block(units, widths[2], widths[3], 2)
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x):
        """(N, 3, 32, 32) -> (N, classes)."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.avg_pool2d(F.relu(self.bn1(x)), 8).flatten(1))


class Swish(nn.Module):
    """Wide ResNet of Gowal et al. 2020: ``layer.0.block.0.batchnorm_0``, padded as TensorFlow does, SiLU."""

    class _Unit(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.stride = stride
            self.batchnorm_0, self.conv_0 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, bias=False)
            self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(outputs), _conv(outputs, outputs)
            self.shortcut = _conv(inputs, outputs, 1, stride) if inputs != outputs else None

        def forward(self, x):
            active = F.silu(self.batchnorm_0(x))
            padded = F.pad(active, (1, 1, 1, 1) if self.stride == 1 else (0, 1, 0, 1))
            kept = x if self.shortcut is None else self.shortcut(active)
            return kept + self.conv_1(F.silu(self.batchnorm_1(self.conv_0(padded))))

    class _Group(nn.Module):
        def __init__(self, units, inputs, outputs, stride):
            super().__init__()
            pairs = [(inputs, stride)] + [(outputs, 1)] * (units - 1)
            self.block = nn.Sequential(*(Swish._Unit(width, outputs, step) for width, step in pairs))

        def forward(self, x):
            return self.block(x)

    def __init__(self, depth=10, width=2, classes=10):
        super().__init__()
        units, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
        self.init_conv = _conv(3, 16)
        steps = zip(widths, widths[1:], (1, 2, 2), strict=False)
        self.layer = nn.Sequential(*(self._Group(units, *step) for step in steps))
        self.batchnorm, self.logits = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x):
        """(N, 3, 32, 32) -> (N, classes)."""
        x = F.silu(self.batchnorm(self.layer(self.init_conv(x))))
        return self.logits(F.avg_pool2d(x, 8).flatten(1))


class PreAct(nn.Module):
    """Pre-activation ResNet-18: ``layer2.0.shortcut.0``; its published forms differ in the last norm and in the shortcuts."""

    class _Unit(nn.Module):
        def __init__(self, inputs, outputs, stride, raw):
            super().__init__()
            self.raw = raw
            self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, stride=stride)
            self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs)
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride))

        def forward(self, x):
            active = F.relu(self.bn1(x))
            kept = self.shortcut(x if self.raw else active) if hasattr(self, "shortcut") else x
            return kept + self.conv2(F.relu(self.bn2(self.conv1(active))))

    def __init__(self, last_norm=False, raw=False, classes=10):
        super().__init__()
        self.conv1 = _conv(3, 64)
        for number, (inputs, outputs) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
            first = self._Unit(inputs, outputs, 1 if number == 1 else 2, raw)
            setattr(self, f"layer{number}", nn.Sequential(first, self._Unit(outputs, outputs, 1, raw)))
        self.bn = nn.BatchNorm2d(512) if last_norm else None
        self.linear = nn.Linear(512, classes)

    def forward(self, x):
        """(N, 3, 32, 32) -> (N, classes)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        x = x if self.bn is None else F.relu(self.bn(x))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class Residual(nn.Module):
    """ResNet-18 for CIFAR: ``layer2.0.shortcut.0`` and ``linear``."""

    class _Unit(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1, self.bn1 = _conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = _conv(outputs, outputs), nn.BatchNorm2d(outputs)
            parts = [_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)] if stride != 1 else []
            self.shortcut = nn.Sequential(*parts)

        def forward(self, x):
            return F.relu(self.shortcut(x) + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))

    def __init__(self, classes=10):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64), nn.BatchNorm2d(64)
        for number, (inputs, outputs) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), 1):
            first = self._Unit(inputs, outputs, 1 if number == 1 else 2)
            setattr(self, f"layer{number}", nn.Sequential(first, self._Unit(outputs, outputs, 1)))
        self.linear = nn.Linear(512, classes)

    def forward(self, x):
        """(N, 3, 32, 32) -> (N, classes)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


def torchvision_small(name, classes=10):
    """A ResNet of torchvision with the stem for small images, as its CIFAR variants have."""
    import torchvision

    network = torchvision.models.get_model(name, num_classes=classes)
    network.conv1, network.maxpool = _conv(3, 64), nn.Identity()
    return network


class Normalised(nn.Module):
    """A network behind its input normalisation, under the names that it is given."""

    def __init__(self, network, mean, std, names=("normalize", "model"), pair=("mean", "std")):
        super().__init__()
        self.front = nn.Module()
        for name, values in zip(pair, (mean, std), strict=True):
            self.front.register_buffer(name, torch.tensor(values).view(-1, 1, 1))
        self.pair, self.names = pair, names
        self.network = network

    def state_dict(self):
        """As of a module whose children have these names."""
        front, inner = self.names
        return {f"{front}.{k}" if front else k: v for k, v in self.front.state_dict().items()} | {
            f"{inner}.{k}": v for k, v in self.network.state_dict().items()
        }

    def forward(self, x):
        """(N, 3, 32, 32) -> (N, classes)."""
        mean, std = (getattr(self.front, name) for name in self.pair)
        return self.network((x - mean) / std)


def drawn(network, seed=0):
    """The network with weights and batch statistics of every size, so that a mistaken name shows; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.3, generator=generator)
    return network.eval()
