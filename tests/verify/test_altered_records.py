"""Whatever is altered in a record is found."""

from __future__ import annotations

import importlib
import json
import re
import sys

import numpy as np
import pytest
import torch
from alterations import (
    FAST,
    NETWORK,
    SOURCE,
    TARGET,
    change_weights,
    digest,
    everywhere,
    forget_weights,
    found_places,
    garble,
    in_bundle,
    kept,
    with_image,
    with_pixel,
)

import robbench.stages.networks
from robbench.record import MISCLASSIFIED


def lower(record):
    """The p* of the first image that has one, a step smaller."""
    pstar = record["robustness"]["pstar"]
    at = next(at for at, p in enumerate(pstar) if 2 <= p < 20)
    pstar[at] -= 1


def censor(record):
    """The first image with a p*, never fooled."""
    pstar = record["robustness"]["pstar"]
    pstar[next(at for at, p in enumerate(pstar) if 0 <= p < 21)] = 21


def misjudge(record):
    """Another validation accuracy, in the history too."""
    training = record["training"]
    for counts in (training["validation"], training["epochs"][training["best"] - 1]["validation"]):
        counts["correct"] = 1


def swap_right_and_wrong(record):
    """A right image counted as wrong, and a wrong one as right, so that the counts stay."""
    pstar = record["robustness"]["pstar"]
    right, wrong = pstar.index(next(p for p in pstar if p != MISCLASSIFIED)), pstar.index(MISCLASSIFIED)
    pstar[right], pstar[wrong] = pstar[wrong], pstar[right]


def change_images(place):
    """One pixel of the digits."""
    path = place.folder / "data" / "digits.npz"
    arrays = dict(np.load(path))
    arrays["x_train"][0, 0, 0] ^= 1
    np.savez(path, **arrays)


def change_code(place):
    """Another network under the same name."""
    (place.folder.parent / "elsewhere").mkdir()
    (place.folder.parent / "elsewhere" / "proven_net.py").write_text(NETWORK + "\n# changed\n")
    sys.path.insert(0, str(place.folder.parent / "elsewhere"))
    del sys.modules["proven_net"]


NEVER = "2031-01-01T00:00:00+00:00"

RECORDS = {
    "weights": (
        lambda place: garble(place.stage(SOURCE.digest, "weights.safetensors")),
        r"weights\.safetensors is damaged \(its SHA-256",
    ),
    "weights and their checksum": (
        change_weights,
        rf"robustness: weights: expected those of {re.escape(SOURCE.id)} that it was made from \(SHA-256 \w+…\), the store ",
    ),
    "weights that a transfer began with": (
        change_weights,
        rf"{re.escape(TARGET.id)}\.training: weights: expected those of {re.escape(SOURCE.id)} that it was made from",
    ),
    "weights, from before stages named theirs": (
        lambda place: (change_weights(place), forget_weights(place)),
        r"images .* counted as classified correctly, but misclassified unperturbed",
    ),
    "no weights": (
        lambda place: place.stage(SOURCE.digest, "weights.safetensors").unlink(),
        r"weights\.safetensors is damaged",
    ),
    "a counterexample": (
        lambda place: garble(place.stage(digest(), "adversarials.safetensors")),
        r"adversarials\.safetensors is damaged \(its SHA-256",
    ),
    "no counterexamples": (
        lambda place: place.stage(digest(), "adversarials.safetensors").unlink(),
        r"adversarials\.safetensors is damaged",
    ),
    "a counterexample moved out of its ball": (
        lambda place: with_pixel(place, 0, 0.9),
        r"image \d+ whose counterexample is farther away than p\*",
    ),
    "a counterexample moved out of the box": (
        lambda place: with_pixel(place, 1, -1e-7),
        r"image \d+ whose counterexample leaves the valid pixels",
    ),
    "a counterexample that is none": (
        lambda place: with_image(place, 2, lambda image: original(place, 2)),
        r"image \d+ whose counterexample is classified correctly",
    ),
    "a counterexample that is no image": (
        lambda place: with_image(place, 0, lambda image: image * torch.nan),
        r"image \d+ whose counterexample is farther away than p\*",
    ),
    "a counterexample too few": (
        lambda place: kept(place, lambda images: images[1:].clone()),
        r"counterexamples: expected \(\d+, 1, 28, 28\) float32, one for each p\*, got \(\d+, 1, 28, 28\) float32",
    ),
    "half the precision": (
        lambda place: kept(place, lambda images: images.half()),
        r"counterexamples: expected .* got .* float16",
    ),
    "p*": (
        lambda place: in_bundle(place, lower),
        r"differs from the store's record .*place of p\* of image \d+: (\d+) → \d+",
    ),
    "p* in bundle and store": (
        lambda place: everywhere(place, lower),
        r"image \d+ whose counterexample is farther away than p\*",
    ),
    "p* in bundle and store, fast": (
        lambda place: everywhere(place, lower, FAST),
        r"image \d+ whose counterexample is farther away than p\*",
    ),
    "an image called never fooled": (lambda place: everywhere(place, censor), r"counterexamples: expected "),
    "right called wrong, and wrong right": (
        lambda place: everywhere(place, swap_right_and_wrong),
        r"image \d+ counted as misclassified unperturbed, but classified correctly",
    ),
    "validation accuracy": (
        lambda place: in_bundle(place, misjudge, stage="training"),
        r"differs from the store's record .*validation\.correct: \d+ → 1",
    ),
    "seconds": (
        lambda place: in_bundle(place, lambda record: record["seconds"].update(training=0.5), stage="training"),
        r"differs from the store's record .*seconds\.training: .* → 0\.5",
    ),
    "seconds, of a run that the store never saw": (
        lambda place: in_bundle(
            place, lambda r: (r["seconds"].update(training=0.5), r.update(created=NEVER)), stage="training"
        ),
        rf"created: expected no run after the store's of \S+, got {re.escape(NEVER)}",
    ),
    "the model that it says it came from": (
        lambda place: in_bundle(place, lambda r: r["model"].update(source_case=TARGET.id), stage="training"),
        rf"source_case: expected None, as its specification says, got {re.escape(TARGET.id)}",
    ),
    "the specification": (
        lambda place: everywhere(place, lambda record: record["spec"]["model"]["recipe"].update(epochs=3)),
        r"digest \w+… is not that of its specification",
    ),
    "a kind of specification": (
        lambda place: everywhere(place, lambda record: record["spec"]["estimate"].update(kind="System")),
        r"unknown kind of spec 'System'",
    ),
    "an unknown field of the specification": (
        lambda place: everywhere(place, lambda record: record["spec"]["estimate"].update(more=1)),
        r"unknown field of Estimate",
    ),
    "the grid": (
        lambda place: everywhere(
            place, lambda r: r["robustness"].update(grid=[x / 2 for x in r["robustness"]["grid"]])
        ),
        r"robustness grid: not what its specification says",
    ),
    "the images": (
        lambda place: everywhere(place, lambda r: r["robustness"]["images"].__setitem__(-1, 59)),
        r"robustness images: not what its specification says",
    ),
    "the name": (
        lambda place: in_bundle(place, lambda record: record.update(case="proven_net.mlp-digits-standard")),
        rf"case: expected {re.escape(SOURCE.id)}, as its specification says",
    ),
    "the data": (change_images, r"data: expected the images of 'digits' that it was made with"),
    "no data": (lambda place: (place.folder / "data" / "digits.npz").unlink(), r"unknown dataset 'digits'"),
    "the code": (change_code, r"proven_net:mlp has changed or cannot be imported here"),
    "no stage": (lambda place: place.stage(digest()).unlink(), r"store: expected the finished stage of digest"),
    "half a stage": (
        lambda place: place.stage(digest()).write_bytes(place.stage(digest()).read_bytes()[:500]),
        r"stage\.json is damaged",
    ),
    "the digest": (
        lambda place: in_bundle(place, lambda record: record.update(digest="../../../../etc/passwd")),
        r"store: expected a SHA-256 in hexadecimal",
    ),
}


def original(place, number):
    """The unperturbed image of the n-th counterexample."""
    record = json.loads(place.stage(digest()).read_text())["record"]["robustness"]
    data = robbench.stages.networks.load_data(SOURCE.dataset, place.folder / "data", download=False)
    return data.test.images[record["images"][found_places(place)[0][number]]] / 255


@pytest.mark.parametrize("name", RECORDS)
def test_an_altered_record_is_found(place, verified, name, monkeypatch):
    """The line names record and fault, the exit status is 1, and the other records are checked all the same."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "proven_net", sys.modules["proven_net"])
    alter, message = RECORDS[name]
    alter(place)
    importlib.invalidate_caches()
    status, lines = verified()
    problems = [line for line in lines if line.startswith("problem")]
    assert status == 1
    assert problems
    assert re.search(message, "\n".join(problems)), problems
    assert all("one/" in line or "two/" in line for line in problems)
    assert lines[-1].endswith(f", {len(problems)} problems")
    assert lines[-1].startswith("8 records, ")
    if name not in ("the code",):
        others = [line for line in lines if line.startswith("proven") and f"two/{TARGET.id}" in line]
        assert len(others) == 1
