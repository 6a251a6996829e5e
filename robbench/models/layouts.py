"""By which names published files call the tensors of a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

Rename = Callable[[str], str]
"""From robbench's name of a tensor to the published one."""

UNUSED = re.compile(r"(^|\.)(sub_block1\..*|num_batches_tracked|n_averaged)$")
"""Names of tensors that decide no logit: TRADES's unused first block, counts of batches and of averaged epochs."""

_RESIDUAL = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}


def layouts(architecture: str, names: Iterable[str]) -> Iterator[dict[str, str]]:
    """Every way in which files are known to name a network's tensors: robbench's name to the file's; first robbench's own."""
    own = [*names]
    yield dict(zip(own, own, strict=True))
    for pattern, renames in _PUBLISHED.items():
        if re.fullmatch(pattern, architecture):
            for rename in renames:
                yield {name: rename(name) for name in own}


def _resnet(shortcut: str, head: str) -> Rename:
    """A ResNet with numbered layers, convolutions and norms, as most of its implementations."""

    def rename(name: str) -> str:
        name = re.sub(r"^conv1\.([01])\.", lambda found: ("conv1.", "bn1.")[int(found[1])], name)
        name = re.sub(r"^conv(\d)_x\.", lambda found: f"layer{int(found[1]) - 1}.", name)
        name = re.sub(r"residual_function\.(\d)", lambda found: _RESIDUAL[found[1]], name)
        return re.sub(r"^fc\.", f"{head}.", name.replace(".shortcut.", f".{shortcut}."))

    return rename


def _wide(name: str) -> str:
    """TRADES's wideresnet.py, which RobustBench took over."""
    name = re.sub(r"^block3\.\d+\.(\w+)$", r"bn1.\1", name)
    return re.sub(r"^block(\d)\.", r"block\1.layer.", name).replace(".shortcut.", ".convShortcut.")


def _deepmind(name: str) -> str:
    """The wide ResNet of Gowal et al. 2020, which RobustBench took over."""
    name = re.sub(r"^block3\.\d+\.(\w+)$", r"batchnorm.\1", name)
    name = re.sub(r"^block(\d)\.", lambda found: f"layer.{int(found[1]) - 1}.block.", name)
    name = re.sub(r"\.bn(\d)\.", lambda found: f".batchnorm_{int(found[1]) - 1}.", name)
    name = re.sub(r"\.conv(\d)\.", lambda found: f".conv_{int(found[1]) - 1}.", name)
    return re.sub(r"^fc\.", "logits.", re.sub(r"^conv1\.", "init_conv.", name))


def _preact(name: str) -> str:
    return re.sub(r"^layer4\.\d+\.(\w+)$", r"bn.\1", name).replace(".shortcut.", ".shortcut.0.")


def _transformers(name: str) -> str:
    """ResNets of Hugging Face's transformers, by timm's and torchvision's names."""
    kinds = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    name = re.sub(r"^(conv|bn)1\.", lambda found: f"resnet.embedder.embedder.{kinds[found[1]]}.", name)
    name = re.sub(r"^layer(\d)\.", lambda found: f"resnet.encoder.stages.{int(found[1]) - 1}.layers.", name)
    name = re.sub(r"\.(conv|bn)(\d)\.", lambda found: f".layer.{int(found[2]) - 1}.{kinds[found[1]]}.", name)
    name = re.sub(r"\.downsample\.([01])\.", lambda found: f".shortcut.{kinds[found[1]]}.", name)
    return re.sub(r"^fc\.", "classifier.1.", name)


_PUBLISHED: dict[str, tuple[Rename, ...]] = {
    r"resnet\d+": (_resnet("shortcut", "linear"), _resnet("downsample", "fc"), _resnet("shortcut", "fc")),
    r"wideresnet\d+_\d+": (_wide,),
    r"wideresnet\d+_\d+_swish": (_deepmind,),
    r"preactresnet18(_bn|_raw)?": (_preact,),
    r"timm:resnet\d+(\..*)?": (_transformers,),
}
"""By a pattern of the architecture."""
