"""Residual networks for small colour images: the study's, and those that robust weights are published for.

:mod:`robbench.models.layouts` says by which names published files call their tensors.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from robbench.models.network import layers

RESNET_STAGES: dict[str, tuple[tuple[int, int, int, int], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}
"""Units in each of the four stages, and whether they are bottlenecks (He et al. 2016, table 1)."""


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, around a shortcut (He et al. 2016, figure 5)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        convolutions = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        if bottleneck:
            convolutions = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        first, *others = (_conv_norm(*each) for each in convolutions)
        rest = [layer for each in others for layer in (nn.ReLU(inplace=True), *each)]
        self.residual_function = nn.Sequential(*first, *rest)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential(*([] if same else _conv_norm(inputs, outputs, 1, stride)))

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H ÷ stride, W ÷ stride), float32."""
        return functional.relu(self.residual_function(features) + self.shortcut(features), inplace=True)


def resnet(units: tuple[int, int, int, int], *, bottleneck: bool, channels: int, classes: int) -> nn.Sequential:
    """ResNet with a 3x3 stem of stride 1 and no max-pool. (N, C, H, W) -> (N, classes)."""
    expansion = 4 if bottleneck else 1

    def stage(inputs: int, width: int, units: int, stride: int) -> nn.Sequential:
        first = ResidualUnit(inputs, width, stride, bottleneck)
        others = (ResidualUnit(expansion * width, width, 1, bottleneck) for _ in range(units - 1))
        return nn.Sequential(first, *others)

    return layers(
        conv1=nn.Sequential(*_conv_norm(channels, 64, 3), nn.ReLU(inplace=True)),
        conv2_x=stage(64, 64, units[0], 1),
        conv3_x=stage(64 * expansion, 128, units[1], 2),
        conv4_x=stage(128 * expansion, 256, units[2], 2),
        conv5_x=stage(256 * expansion, 512, units[3], 2),
        avg_pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(512 * expansion, classes),
    )


class WideUnit(nn.Module):
    """Pre-activation unit with dropout between its convolutions (Zagoruyko and Komodakis 2016, figure 1d)."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential(*([] if same else [nn.Conv2d(inputs, outputs, 1, stride=stride)]))

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H ÷ stride, W ÷ stride), float32."""
        residual = self.dropout(self.conv1(functional.relu(self.bn1(features), inplace=True)))
        residual = self.conv2(functional.relu(self.bn2(residual), inplace=True))
        result: Tensor = residual + self.shortcut(features)
        return result


def wide_resnet(depth: int, width: int, *, channels: int, classes: int, dropout: float = 0.3) -> nn.Sequential:
    """Wide ResNet of depth 6n + 4, convolutions with biases. (N, C, H, W) -> (N, classes)."""

    def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = WideUnit(inputs, outputs, stride, dropout)
        return nn.Sequential(first, *(WideUnit(outputs, outputs, 1, dropout) for _ in range((depth - 4) // 6 - 1)))

    return layers(
        conv1=nn.Conv2d(channels, 16, 3, padding=1),
        layer1=stage(16, 16 * width, 1),
        layer2=stage(16 * width, 32 * width, 2),
        layer3=stage(32 * width, 64 * width, 2),
        bn1=nn.BatchNorm2d(64 * width),
        relu=nn.ReLU(inplace=True),
        avg_pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(64 * width, classes),
    )


class PreActivationUnit(nn.Module):
    """Pre-activation unit of published robust networks (He et al. 2016, "Identity mappings", figure 4e), without biases.

    Its shortcut, where the shape changes, starts from the activated input; ``raw``: from the input itself. ``swish``: SiLU
    for ReLU, and zeros on the far sides only where the stride is 2, as TensorFlow pads.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, raw: bool = False, swish: bool = False) -> None:
        super().__init__()
        self.raw, self.far, self.active = raw, swish and stride == 2, functional.silu if swish else functional.relu
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=0 if self.far else 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H ÷ stride, W ÷ stride), float32."""
        active = self.active(self.bn1(features))
        padded = functional.pad(active, (0, 1, 0, 1)) if self.far else active
        residual = self.conv2(self.active(self.bn2(self.conv1(padded)), inplace=True))
        result: Tensor = residual + (
            features if self.shortcut is None else self.shortcut(features if self.raw else active)
        )
        return result


def _units(
    inputs: int, outputs: int, units: int, stride: int, *, norm: bool = False, raw: bool = False, swish: bool = False
) -> nn.Sequential:
    """A stage; ``norm``: with the network's last batch norm and activation, which are retrained with what they follow."""
    pairs = [(inputs, stride), *[(outputs, 1)] * (units - 1)]
    made = (PreActivationUnit(width, outputs, step, raw=raw, swish=swish) for width, step in pairs)
    return nn.Sequential(*made, *([nn.BatchNorm2d(outputs), nn.SiLU() if swish else nn.ReLU()] if norm else []))


def published_wide_resnet(depth: int, width: int, *, channels: int, classes: int, swish: bool = False) -> nn.Sequential:
    """Wide ResNet of depth 6n + 4 as TRADES and RobustBench have it, without dropout. (N, C, H, W) -> (N, classes).

    ``swish``: as in Gowal et al. 2020 and what builds on their code.
    """
    units, widths = (depth - 4) // 6, (16, 16 * width, 32 * width, 64 * width)
    return layers(
        conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        block1=_units(widths[0], widths[1], units, 1, swish=swish),
        block2=_units(widths[1], widths[2], units, 2, swish=swish),
        block3=_units(widths[2], widths[3], units, 2, swish=swish, norm=True),
        avg_pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(widths[3], classes),
    )


def preact_resnet18(*, channels: int, classes: int, norm: bool = False, raw: bool = False) -> nn.Sequential:
    """Pre-activation ResNet-18, (N, C, H, W) -> (N, classes); ``norm``: with a batch norm and ReLU after its last unit.

    ``raw``: with shortcuts from what is not activated yet, as in Wong et al. 2020.
    """
    return layers(
        conv1=nn.Conv2d(channels, 64, 3, padding=1, bias=False),
        layer1=_units(64, 64, 2, 1, raw=raw),
        layer2=_units(64, 128, 2, 2, raw=raw),
        layer3=_units(128, 256, 2, 2, raw=raw),
        layer4=_units(256, 512, 2, 2, raw=raw, norm=norm),
        avg_pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(512, classes),
    )
