"""Networks built to mask their gradients, beside sound ones: what p* they are given, and what the audit says of it.

``python -m suites.masking FOLDER`` trains them on drawn digits, and leaves a report bundle in the folder.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from robbench import PGD, Audit, Dataset, EpsilonGrid, Estimate, Model, OneCycle, Recipe
from robbench.record import Record
from robbench.report import Bundle, write_bundle
from robbench.stages import Task, run_stage
from robbench.stages.context import RunContext
from robbench.store.store import Store


class Lambda(nn.Module):
    """A function of the pixels, or of the logits, as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        """The function's value."""
        return self.function(images)


def plain(classes, shape):
    """Two convolutions and two linear layers: the network behind all of the masks."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (shape[1] // 4) * (shape[2] // 4), 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def quantised(classes, shape):
    """Pixels rounded to eight levels: the gradient of a staircase is zero."""
    return nn.Sequential(Lambda(lambda images: (images * 7).round() / 7), plain(classes, shape))


def saturating(classes, shape):
    """A sigmoid so steep that its gradient underflows at every pixel."""
    return nn.Sequential(Lambda(lambda images: torch.sigmoid(1e5 * (images - 0.5))), plain(classes, shape))


def steep(classes, shape):
    """A sigmoid whose gradient underflows at most pixels."""
    return nn.Sequential(Lambda(lambda images: torch.sigmoid(500 * (images - 0.5))), plain(classes, shape))


def shattered(classes, shape):
    """A ripple on every pixel: its slope says nothing of where the pixel's effect goes."""
    return nn.Sequential(Lambda(lambda images: images + 0.02 * torch.sin(400 * images)), plain(classes, shape))


def rooted(classes, shape):
    """The root of the pixels above a threshold: below it the gradient is 0 × ∞, which is no number."""
    return nn.Sequential(Lambda(lambda images: (images * (images > 0.1)).sqrt()), plain(classes, shape))


class Sharpened(nn.Module):
    """Logits times a thousand once training is over: the same classes, but the cross-entropy rounds to zero."""

    def forward(self, logits: Tensor) -> Tensor:
        """The logits, in eval mode a thousand times as large."""
        return logits if self.training else 1000 * logits


def sharpened(classes, shape):
    """As defensive distillation leaves a network: so sure that the gradient of its loss underflows."""
    return nn.Sequential(plain(classes, shape), Sharpened())


class Backwards(nn.Module):
    """The images themselves, with the opposite of their gradient once training is over."""

    def forward(self, images: Tensor) -> Tensor:
        """The images; twice a float less itself is exact."""
        return images if self.training else 2 * images.detach() - images


def misled(classes, shape):
    """Gradients that are finite, nowhere zero, and lead away from every counterexample."""
    return nn.Sequential(Backwards(), plain(classes, shape))


STANDARD = Recipe(optimiser="adam", learning_rate=2e-3, weight_decay=1e-4, batch_size=64, epochs=3, schedule=OneCycle())
ADVERSARIAL = replace(
    STANDARD, epochs=6, attack=PGD(epsilon=0.1, step_size=0.04, steps=5), ramp_epochs=2, kept_epoch="last"
)
SOUND = (("plain", STANDARD), ("plain", ADVERSARIAL))
MASKS = ("quantised", "saturating", "steep", "shattered", "rooted", "sharpened", "misled")
MASKED = tuple((name, STANDARD) for name in MASKS)


def estimate(search, queries):
    """p* of 150 images, with the audit, and Square in it where it is to be asked."""
    return Estimate(
        grid=EpsilonGrid(stop=0.4, step=0.005),
        attack=PGD(steps=40, random_start=False),
        images=150,
        search=search,
        audit=Audit(square_queries=queries),
    )


def model(name, recipe, seed=0):
    """One of the networks above, on drawn digits."""
    data = Dataset(name="glyphs10", train=2_000, test=300, validation=0.1)
    return Model(architecture=f"suites.masking:{name}", dataset=data, recipe=recipe, seed=seed)


def line(record: Record) -> str:
    """What a record's estimate came to, and what its audit says."""
    found = record.robustness
    assert found is not None
    assert found.audit is not None
    median = found.median
    shown = "none" if median is None else f"> {found.grid[-1]:g}" if median > found.grid[-1] else f"{median:.3f}"
    name = f"{record.model.architecture.partition(':')[2]}, {record.model.method}, seed {record.model.seed}"
    said = "; ".join(found.audit.warnings) or "nothing found"
    ratio = (found.audit.forward + found.audit.backward) / (found.forward + found.backward)
    return (
        f"{name:28} {found.search:9}  accuracy {found.clean.share:.0%}  median p* {shown:6}  "
        f"audit {ratio:.1%} of the search's passes, APGD-T {found.audit.apgd_fooled} of {found.audit.apgd_images}: {said}"
    )


def main(folder: Path, queries: int = 0, seeds: int = 1) -> None:
    """Train and estimate all networks, with both searches; print a line for each, and write the bundle of the first."""
    context = RunContext(store=Store(folder / "store"), data=folder / "data", device=torch.device("cpu"))
    records = []
    for search in ("reference", "fast"):
        for seed in range(seeds):
            for name, recipe in (*SOUND, *(MASKED if not seed else ())):
                spec = model(name, recipe, seed)
                trained = run_stage(Task("training", spec), context, suite="masking")
                tested = run_stage(Task("robustness", spec, estimate(search, queries)), context, suite="masking")
                print(line(tested), flush=True)
                if search == "reference" and not seed:
                    records += [trained, tested]
    print(write_bundle(folder / "report", Bundle(title="masking", command="python -m suites.masking", records=records)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:4]))
