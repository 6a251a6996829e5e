"""Photographs: images a second that reach a training, beside torch's own DataLoader on torchvision's ImageFolder.

Drawn photographs of mixed sizes are written as JPEG files to a temporary folder. Both sides decode, resize and crop,
with as many workers. ROBBENCH_PERF_PICTURES sets how many there are where memory is measured (default: 20,000).
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from robbench import Dataset
from robbench.data import fetch
from robbench.data.loading import list_pictures
from robbench.data.pictures import load_pictures, workers

pytestmark = pytest.mark.perf

BATCH = 64
SIZES = ((500, 375), (375, 500), (640, 480), (320, 240))
"""Of the photographs, about those of ImageNet."""
DECODED, CACHED, GROWTH = 1.0, 5.0, 1.1
"""What is to be reached: times the images a second, decoded and from the cache; and memory of many images by few."""
FEW, MANY = 1_000, int(os.environ.get("ROBBENCH_PERF_PICTURES", "20000"))


def draw(folder, count):
    """So many photographs, of ten classes, in ``train``, and twenty in ``test``; each is written once and copied."""
    drawn = [photograph(number, folder.parent / f"{number}.jpg") for number in range(40)]
    for part, images in (("train", count), ("test", 20)):
        for number in range(images):
            path = folder / part / str(number % 10)
            path.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(drawn[number % len(drawn)], path / f"{number}.jpg")
    return Dataset(name="photographs", folder=str(folder), size=224, augmentation="none", resize=256)


def photograph(number, path):
    """Smooth shapes with the noise of a camera."""
    random = np.random.default_rng(number)
    smooth = Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize(
        SIZES[number % 4], Image.BICUBIC
    )
    noise = random.normal(0, 6, np.asarray(smooth).shape)
    Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def opened(dataset, folder, kept):
    """The pictures to train on."""
    return load_pictures(list_pictures(dataset, folder), dataset, folder, kept=kept).train


def epoch(source, device):
    """Every image once, in random order, on the device as floats."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    for batch in fetch(source.to(device), torch.split(order, BATCH)):
        batch.images.float().div_(255)


@pytest.mark.parametrize(("kept", "least"), [("nowhere", DECODED), ("disk", CACHED)])
def test_images_a_second(kept, least, perf, tmp_path):
    dataset = draw(tmp_path / "pictures", 640)
    source = opened(dataset, tmp_path / "cache", kept)
    steps = [v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    theirs = ImageFolder(tmp_path / "pictures" / "train", v2.Compose(steps))

    def torchs():
        for images, _ in DataLoader(theirs, BATCH, shuffle=True, num_workers=workers()):
            images.to(perf.device)

    rounds = perf.compare(
        lambda: epoch(source, perf.device),
        {"DataLoader on ImageFolder": torchs},
        images=len(source),
        rounds=5,
        group="pictures",
        case={"nowhere": "decoded when taken", "disk": "from the cache on disk"}[kept],
    )
    ratio = rounds.ratio("DataLoader on ImageFolder")
    perf.target("against DataLoader on ImageFolder", ratio, least)


@pytest.mark.parametrize("kept", ["nowhere", "disk"])
def test_memory_does_not_grow_with_the_images(kept, perf, tmp_path):
    dataset, peaks = draw(tmp_path / "pictures", MANY), {}

    def read(count):
        """An epoch, batch by batch; the most memory that this process and its workers had."""
        source, peaks[count] = opened(replace(dataset, train=count), tmp_path / "cache", kept), 0
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        for number, _ in enumerate(fetch(source, torch.split(order, BATCH))):
            if number % 8 == 0:
                peaks[count] = max(peaks[count], megabytes())

    perf.compare(
        lambda: read(MANY),
        {f"{FEW:,} images": lambda: read(FEW)},
        images=MANY,
        rounds=1,
        warm_up=lambda: read(FEW),
        group="pictures' memory",
        case="decoded when taken" if kept == "nowhere" else "from the cache on disk",
    )
    perf.note(memory={f"{count:,}": peaks[count] for count in (FEW, MANY)})
    perf.target(f"memory of {FEW:,} by that of {MANY:,} images", peaks[FEW] / peaks[MANY], 1 / GROWTH)


def megabytes():
    """Memory of this process and its workers (Linux)."""
    family = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    return sum(own_memory(Path(f"/proc/{each}/smaps_rollup").read_text()) for each in family)


def own_memory(text):
    """Proportional set size, which counts each page once among the processes that share it."""
    return int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)[1]) / 1024
