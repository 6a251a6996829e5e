"""Write CIFAR-10 as files such as people have, and robust weights such as people publish.

``python -m suites.photographs.prepare --data .robbench/data`` needs ``cifar10.npz`` there (``robbench data cifar10``). It
writes pictures of mixed sizes into ``pictures/train`` and ``pictures/test``, a folder for each of the five classes from
deer to ship: JPEG, and PNG, grey and RGBA among them. On the other five classes it trains timm's ResNet-18 adversarially,
by a plain loop without robbench, and writes ``robust.pt``. Some minutes on two cores; then run

``pytest -m suite suites/photographs/test_pictures.py``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
KEPT = (4, 5, 6, 7, 8)
"""Classes that are written as pictures; the weights are trained on the others."""
PICTURES = {"train": 200, "test": 60}
"""Of each class."""
EPSILON, EPOCHS, BATCH = 4 / 255, 4, 50


def write_pictures(folder: Path, images: np.ndarray, labels: np.ndarray, count: int) -> None:
    """Of each kept class so many pictures, whose sizes, formats and colour modes go round."""
    for label in KEPT:
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images[labels == label][:count]):
            picture = Image.fromarray(pixels).resize((96 + 8 * (number % 7), 96 + 8 * (number % 5)), Image.BICUBIC)
            kind = number % 10
            if kind == 0:
                picture.convert("L").save(place / f"{number:04}.jpg", quality=92)
            elif kind == 1:
                picture.convert("RGBA").save(place / f"{number:04}.png")
            elif kind == 2:
                picture.save(place / f"{number:04}.png")
            else:
                picture.save(place / f"{number:04}.jpg", quality=92)


def robust_weights(images: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
    """A ResNet-18 on plain pixels at 96 x 96, trained against FGSM from a random start."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=5)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    others = [label for label in range(10) if label not in KEPT]
    chosen = np.flatnonzero(np.isin(labels, others))[:2000]
    pixels = torch.from_numpy(images[chosen]).permute(0, 3, 1, 2)
    targets = torch.tensor([others.index(label) for label in labels[chosen]])
    steps = EPOCHS * (len(targets) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=steps)
    for epoch in range(EPOCHS):
        right = 0
        for batch in torch.randperm(len(targets)).split(BATCH):
            clean, target = F.interpolate(pixels[batch].float() / 255, size=96, mode="bilinear"), targets[batch]
            start = (clean + EPSILON * (2 * torch.rand_like(clean) - 1)).clamp(0, 1).requires_grad_()
            F.cross_entropy(network(start), target).backward()
            step = start.detach() + 1.25 * EPSILON * start.grad.sign()
            optimiser.zero_grad()
            logits = network(step.clamp(clean - EPSILON, clean + EPSILON).clamp(0, 1))
            F.cross_entropy(logits, target).backward()
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == target).sum())
        print(f"epoch {epoch + 1} of {EPOCHS}: {right / len(targets):.1%} of the attacked images right", flush=True)
    return network.state_dict()


def main() -> None:
    """Write pictures and weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(".robbench/data"))
    data = parser.parse_args().data
    with np.load(data / "cifar10.npz") as arrays:
        for part, count in PICTURES.items():
            write_pictures(data / "pictures" / part, arrays[f"x_{part}"], arrays[f"y_{part}"], count)
        weights = robust_weights(arrays["x_train"], arrays["y_train"])
    torch.save(
        {"epoch": EPOCHS, "state_dict": {f"module.{name}": value for name, value in weights.items()}},
        data / "robust.pt",
    )
    print(f"written: {data / 'pictures'} and {data / 'robust.pt'}")


if __name__ == "__main__":
    main()
