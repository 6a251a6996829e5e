"""A bundle with its store and data, and ways to alter them as someone might."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from robbench.spec import PGD, Dataset, EpsilonGrid, Estimate, Model, Recipe, Transfer

NETWORK = """
from torch import nn


def mlp(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, classes))
"""
RECIPE = Recipe(optimiser="adam", learning_rate=0.01, weight_decay=0.0, batch_size=32, epochs=4)
SOURCE = Model(
    architecture="proven_net:mlp",
    dataset=Dataset(name="digits", test=40),
    recipe=replace(RECIPE, attack=PGD(epsilon=0.05, steps=2)),
)
TARGET = Model(
    architecture="proven_net:mlp",
    dataset=Dataset(name="letters", test=1000),  # more than there are
    recipe=RECIPE,
    transfer=Transfer(k=1),
    source=SOURCE,
)
REFERENCE = Estimate(grid=EpsilonGrid(stop=0.2, step=0.01), attack=PGD(steps=5, random_start=False), images=30)
FAST = replace(REFERENCE, search="fast")


@dataclass(frozen=True)
class Place:
    """Copies of bundle, store and data that a test may alter."""

    folder: Path

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.folder / "bundle"

    @property
    def records(self) -> Path:
        """Its records."""
        return self.bundle / "records.json"

    def stage(self, digest: str, name: str = "stage.json") -> Path:
        """A file of a stage in the store."""
        return self.folder / "store" / digest[:2] / digest / name


def digest(model=SOURCE, estimate=REFERENCE):
    """Of a robustness stage, or without an estimate of a training stage."""
    return model.digest if estimate is None else model.estimate_digest(estimate)


def edit(path, change):
    """Change the JSON values of a file; a checksum over them would tell."""
    values = json.loads(path.read_text())
    values.pop("sha256", None)
    change(values)
    path.write_text(json.dumps(values))


def in_bundle(place, change, suite="one", case=SOURCE.id, stage="robustness"):
    """Change one record of the bundle."""

    def inner(values):
        (found,) = [r for r in values["records"] if (r["suite"], r["case"], r["stage"]) == (suite, case, stage)]
        change(found)

    edit(place.records, inner)


def everywhere(place, change, estimate=REFERENCE):
    """Change a record alike in bundle and store."""
    in_bundle(place, change, suite="one" if estimate == REFERENCE else "two")
    edit(place.stage(digest(estimate=estimate)), lambda values: change(values["record"]))


def rewrite(path, change):
    """Change the tensors of a file of the store, and its checksum with them."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    field = f"{path.stem}_sha256"
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(path.parent / "stage.json", lambda values: values.update({field: checksum}))


def garble(path):
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def kept(place, change, estimate=REFERENCE):
    """Change the kept counterexamples to what is returned, and their checksum."""

    def inner(tensors):
        tensors["adversarials"] = change(tensors["adversarials"])

    rewrite(place.stage(digest(estimate=estimate), "adversarials.safetensors"), inner)


def with_image(place, number, change):
    """Change one of the kept counterexamples, (1, 28, 28), to what is returned, and their checksum."""
    kept(place, lambda images: torch.stack([change(x) if at == number else x for at, x in enumerate(images)]))


def with_pixel(place, number, value):
    """Change a dark pixel of one of the kept counterexamples."""

    def change(image):
        spot = image.flatten().argmin()
        return image.flatten().index_fill(0, spot, value).view_as(image)

    with_image(place, number, change)


def found_images(place, estimate=REFERENCE):
    """Positions of the images that have a p*, and the p* of all images."""
    record = json.loads(place.stage(digest(estimate=estimate)).read_text())["record"]["result"]
    return [at for at, p in enumerate(record["pstar"]) if 0 <= p < len(record["grid"])], record["pstar"]


def change_weights(place):
    """Other weights of the source model, whole by their checksum."""
    rewrite(place.stage(SOURCE.digest, "weights.safetensors"), lambda tensors: tensors["1.weight"].neg_())
