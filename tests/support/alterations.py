"""A bundle with its store and data, and ways to alter them as someone might."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save

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
REFERENCE = Estimate(
    grid=EpsilonGrid(stop=0.2, step=0.01), attack=PGD(steps=5, random_start=False), search="reference", images=30
)
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

    def stage(self, model=SOURCE, estimate=REFERENCE) -> Path:
        """The file of a robustness stage in the store, or without an estimate of a training stage."""
        values = json.loads(self.records.read_text())["records"]
        suite = "two" if estimate == FAST else "one"
        kind = "training" if estimate is None else "robustness"
        (key,) = [r["key"] for r in values if (r["suite"], r["case"], r["stage"]) == (suite, model.id, kind)]
        return self.folder / "store" / key[:2] / key / "stage.json"

    def weights(self, model=SOURCE) -> Path:
        """The file of a model's weights."""
        (path,) = self.stage(model, None).parent.glob("weights.*")
        return path

    def adversarials(self, model=SOURCE, estimate=REFERENCE) -> Path:
        """The file of the kept counterexamples."""
        (path,) = self.stage(model, estimate).parent.glob("adversarials.*")
        return path


def edit(path, change):
    """Change the JSON values of a file."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def in_bundle(place, change, suite="one", stage="robustness"):
    """Change one record of the source model in the bundle."""

    def inner(values):
        (found,) = [r for r in values["records"] if (r["suite"], r["case"], r["stage"]) == (suite, SOURCE.id, stage)]
        change(found)

    edit(place.records, inner)


def everywhere(place, change, estimate=REFERENCE):
    """Change a record alike in bundle and store."""
    stage = place.stage(estimate=estimate)
    in_bundle(place, change, suite="two" if estimate == FAST else "one")
    edit(stage, lambda values: change(values["record"]))


def garble(path):
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def rewrite(path, change):
    """Change the tensors of a file of the store, and its checksum with them."""
    tensors = load_file(path)
    change(tensors)
    kind, data = path.name.partition(".")[0], save(tensors)
    checksum = hashlib.sha256(data).hexdigest()
    path.unlink()
    path.with_name(f"{kind}.{checksum}.safetensors").write_bytes(data)
    edit(path.parent / "stage.json", lambda values: values.update({f"{kind}_sha256": checksum}))


def change_weights(place):
    """Other weights of the source model, whole by their checksum."""
    rewrite(place.weights(), lambda tensors: tensors["1.weight"].neg_())


def kept(place, change):
    """Change the kept counterexamples to what is returned, and their checksum."""
    rewrite(place.adversarials(), lambda tensors: tensors.update(adversarials=change(tensors["adversarials"])))


def with_image(place, change):
    """Change the first of the kept counterexamples, (1, 28, 28), to what is returned, and the checksum."""
    kept(place, lambda images: torch.cat([change(images[0])[None], images[1:]]))


def with_pixel(place, value):
    """Change a dark pixel of the first kept counterexample."""
    with_image(place, lambda image: image.flatten().index_fill(0, image.argmin(), value).view_as(image))


def forget_adversarials(place, model=SOURCE, estimate=REFERENCE):
    """As if the counterexamples had not been kept."""
    place.adversarials(model, estimate).unlink()
    edit(place.stage(model, estimate), lambda values: values.pop("adversarials_sha256"))


def found_images(place, estimate=REFERENCE):
    """Positions of the images that have a p*, and the p* of all images."""
    record = json.loads(place.stage(estimate=estimate).read_text())["record"]["result"]
    return [at for at, p in enumerate(record["pstar"]) if 0 <= p < len(record["grid"])], record["pstar"]
