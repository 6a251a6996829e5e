"""Whatever is altered in bundle, store or data is found."""

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
    everywhere,
    found_images,
    garble,
    in_bundle,
    kept,
    with_image,
    with_pixel,
)

from robbench.data import load_data, pixels
from robbench.record import MISCLASSIFIED


def lower(record):
    """The p* of the first image that has one, a step smaller."""
    pstar = record["result"]["pstar"]
    pstar[next(at for at, p in enumerate(pstar) if 2 <= p < 20)] -= 1


def censor(record):
    """The first image with a p*, never fooled."""
    pstar = record["result"]["pstar"]
    pstar[next(at for at, p in enumerate(pstar) if 0 <= p < 21)] = 21


def swap_right_and_wrong(record):
    """A right image counted as wrong, and a wrong one as right, so that the counts stay."""
    pstar = record["result"]["pstar"]
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


def show_original(place):
    """The first counterexample without its perturbation."""
    test = load_data(SOURCE.dataset, place.folder / "data", download=False).test
    record = json.loads(place.stage().read_text())["record"]["result"]
    original = test.take(torch.tensor([record["images"][found_images(place)[0][0]]])).images
    with_image(place, lambda image: pixels(original)[0])


RECORDS = {
    "weights": (lambda place: garble(place.weights()), r"weights\.\w+\.safetensors is damaged \(its SHA-256"),
    "weights and their checksum": (
        change_weights,
        rf"{re.escape(SOURCE.id)}\.robustness: weights: expected those that p\* was estimated on",
    ),
    "no weights": (lambda place: place.weights().unlink(), r"weights\.\w+\.safetensors is damaged"),
    "a counterexample": (lambda place: garble(place.adversarials()), r"adversarials\.\w+\.safetensors is damaged"),
    "a counterexample moved out of its ball": (
        lambda place: with_pixel(place, 0.9),
        r"image \d+ whose counterexample is farther away than p\*",
    ),
    "a counterexample moved out of the box": (
        lambda place: with_pixel(place, -1e-7),
        r"image \d+ whose counterexample leaves the valid pixels",
    ),
    "a counterexample that is none": (show_original, r"image \d+ whose counterexample is classified correctly"),
    "a counterexample that is no image": (
        lambda place: with_image(place, lambda image: image * torch.nan),
        r"image \d+ whose counterexample is farther away than p\*",
    ),
    "a counterexample too few": (
        lambda place: kept(place, lambda images: images[1:].clone()),
        r"counterexamples: expected \(\d+, 1, 28, 28\) float32, one for each p\*, got \(\d+, 1, 28, 28\) float32",
    ),
    "p*": (lambda place: in_bundle(place, lower), r"differs from the store's record .*result\.pstar: "),
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
        lambda place: in_bundle(place, lambda r: r["result"]["validation"].update(correct=1), stage="training"),
        r"differs from the store's record .*validation\.correct: \d+ → 1",
    ),
    "the specification": (
        lambda place: everywhere(place, lambda record: record["spec"]["model"]["recipe"].update(epochs=3)),
        r"digest \w+… is not that of its specification",
    ),
    "a kind of specification": (
        lambda place: everywhere(place, lambda record: record["spec"]["estimate"].update(kind="System")),
        r"unknown kind of spec 'System'",
    ),
    "the data": (change_images, r"data: expected the images of 'digits' that it was made with"),
    "no data": (lambda place: (place.folder / "data" / "digits.npz").unlink(), r"unknown dataset 'digits'"),
    "the code": (change_code, r"proven_net:mlp has changed or cannot be imported here"),
    "no stage": (lambda place: place.stage().unlink(), r"store: expected the finished stage"),
    "half a stage": (
        lambda place: place.stage().write_bytes(place.stage().read_bytes()[:500]),
        r"stage\.json is damaged",
    ),
}


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
    assert re.search(message, "\n".join(problems)), problems
    assert all("one/" in line or "two/" in line for line in problems)
    assert lines[-1].startswith("8 records, ")
    assert lines[-1].endswith(f", {len(problems)} problems")
    if name != "the code":
        assert any(line.startswith("proven") and f"two/{TARGET.id}" in line for line in lines)
