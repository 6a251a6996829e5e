"""robbench verify: an untouched bundle holds, and whatever is altered in bundle, store or data is found."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import robbench.assembly
import robbench.report.bundle
import robbench.verification
from robbench.cli import main
from robbench.data import Data, draw, write_npz
from robbench.data.glyphs import GLYPHS
from robbench.pipeline import run_estimate, run_training
from robbench.record import WRONG
from robbench.report import Bundle, write_bundle
from robbench.report.drawing import Picture
from robbench.spec import PGD, Dataset, EpsilonGrid, Estimate, Model, Recipe, Transfer
from robbench.store import Store
from robbench.workplace import Workplace

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
PICTURE = Picture(kind="pstar", name="pstar.png", alt="p*", caption="p*", png=b"drawn")


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


@pytest.fixture(autouse=True)
def _one_picture(monkeypatch):
    """In place of all that take a second each."""
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [PICTURE])
    monkeypatch.setattr(robbench.report.bundle, "draw_study", lambda groups: [])


@pytest.fixture(scope="module")
def made(tmp_path_factory, one_thread):
    """A source and a transfer, each with p* by both searches: data, store and bundle as a run leaves them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "proven_net.py").write_text(NETWORK)
    sys.path.insert(0, str(folder))
    robbench.assembly._load.cache_clear()
    for name, glyphs, train in (("digits", "glyphs10", 300), ("letters", "glyphs47", 500)):
        data = Data(name, draw(glyphs, train, 1), draw(glyphs, 60, 2), GLYPHS[glyphs])
        write_npz(folder / "data" / f"{name}.npz", data)
    workplace = Workplace(
        store=Store(folder / "store", run="made"),
        data=folder / "data",
        device=torch.device("cpu"),
        keep_adversarials=True,
    )
    records = [
        record
        for model in (SOURCE, TARGET)
        for suite, estimate in (("one", REFERENCE), ("two", FAST))
        for record in (
            run_training(model, workplace, suite=suite),
            run_estimate(model, estimate, workplace, suite=suite),
        )
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robbench.report.bundle, "draw", lambda group: [PICTURE])
        patch.setattr(robbench.report.bundle, "draw_study", lambda groups: [])
        write_bundle(folder / "bundle", Bundle(title="proof", command="pytest", records=records))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("proven_net", None)


@pytest.fixture
def place(made, tmp_path):
    """A copy of all of it."""
    shutil.copytree(made, tmp_path / "copy")
    robbench.assembly._load.cache_clear()
    yield Place(tmp_path / "copy")
    robbench.assembly._load.cache_clear()


@pytest.fixture
def verified(place, capsys):
    """Verify the copy on the command line: exit status, and the lines printed."""

    def run():
        folders = [text for name in ("store", "data") for text in (f"--{name}", str(place.folder / name))]
        status = main(["verify", str(place.bundle), *folders, "--device", "cpu"])
        captured = capsys.readouterr()
        assert captured.err == ""
        return status, captured.out.splitlines()

    return run


def digest(model=SOURCE, estimate=REFERENCE):
    """Of a robustness stage, or without an estimate of a training stage."""
    return model.digest if estimate is None else model.estimate_digest(estimate)


def edit(path, change):
    """Change the JSON values of a file, and leave out its checksum, as someone would who does not want to be found out."""
    values = json.loads(path.read_text())
    values.pop("sha256", None)
    change(values)
    path.write_text(json.dumps(values))


def in_bundle(place, change, suite="one", case=SOURCE.id, stage="robustness"):
    """Change one record of the bundle, and render it anew: what an alteration leaves that nothing else gives away."""

    def inner(values):
        (found,) = [r for r in values["records"] if (r["suite"], r["case"], r["stage"]) == (suite, case, stage)]
        change(found)

    edit(place.records, inner)
    render_again(place)


def render_again(place):
    """Make the bundle's files from its records."""
    write_bundle(place.bundle, msgspec.json.decode(place.records.read_bytes(), type=Bundle))


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


def found_places(place, estimate=REFERENCE):
    """Positions of the images with a counterexample, and the places of all images."""
    record = json.loads(place.stage(digest(estimate=estimate)).read_text())["record"]["robustness"]
    return [at for at, p in enumerate(record["pstar"]) if 0 <= p < len(record["grid"])], record["pstar"]


# --- untouched --------------------------------------------------------------------------------------------------------


def test_an_untouched_bundle_holds(place, verified):
    """Every record agrees, every counterexample is proven, and the last line says how many."""
    status, lines = verified()
    assert (status, [line.split()[0] for line in lines[:-1]]) == (0, ["proven", "agrees"] * 4 + ["agrees"])
    found = [len(found_places(place, estimate)[0]) for estimate in (REFERENCE, FAST)]
    assert (
        f"one/{SOURCE.id}.robustness: {found[0]} of {found[0]} counterexamples; " in lines[2 * (TARGET.id < SOURCE.id)]
    )
    proven = sum(int(match[1]) for line in lines if (match := re.search(r": (\d+) of \1 counterexamples", line)))
    assert lines[-1] == f"8 records, {proven} counterexamples proven, 0 problems"
    assert proven > 25
    assert WRONG in found_places(place)[1]


def test_the_path_of_the_records_is_enough(place, verified, capsys):
    """As for the other commands; without a bundle it is bad input."""
    folders = ["--store", str(place.folder / "store"), "--data", str(place.folder / "data")]
    assert main(["verify", str(place.records), *folders]) == 0
    capsys.readouterr()
    place.records.write_text("{")
    assert main(["verify", str(place.bundle), *folders]) == 2
    captured = capsys.readouterr()
    assert (captured.out, "records.json" in captured.err) == ("", True)


def test_without_a_store_there_is_nothing_to_prove(place, capsys):
    """One line, instead of one for every record."""
    assert main(["verify", str(place.bundle), "--store", str(place.folder / "none")]) == 2
    assert capsys.readouterr().err.startswith("robbench: verify: expected the store that the run left, ")


def test_without_kept_counterexamples_the_rest_is_checked(place, verified):
    """The records that cannot be proven are named, with how to keep what is missing; other faults are still found."""
    place.stage(digest(), "adversarials.safetensors").unlink()
    edit(place.stage(digest()), lambda values: values.pop("adversarials_sha256"))
    status, lines = verified()
    (line,) = [line for line in lines if line.startswith("unproven")]
    assert f"one/{SOURCE.id}.robustness" in line
    assert "--robbench-resume --robbench-keep-adversarials" in line
    assert re.search(r"\d+ counterexamples proven, 1 records without kept counterexamples, 0 problems", lines[-2])
    assert lines[-1].startswith("p* of 1 records was not proven: the counterexamples were not kept; `pytest -m suite")
    assert status == 3
    change_weights(place)
    forget_weights(place)
    status, lines = verified()
    assert status == 1
    assert any(line.startswith("problem") and "classified" in line for line in lines)


def test_a_bundle_without_counterexamples_proves_nothing_and_says_so(place, verified):
    """Plainly, in its last line, with how to keep them; and no script takes it for a proof."""
    for model in (SOURCE, TARGET):
        for estimate in (REFERENCE, FAST):
            place.stage(digest(model, estimate), "adversarials.safetensors").unlink()
            edit(place.stage(digest(model, estimate)), lambda values: values.pop("adversarials_sha256"))
    status, lines = verified()
    assert lines[-2] == "8 records, 0 counterexamples proven, 4 records without kept counterexamples, 0 problems"
    assert lines[-1] == (
        "nothing was proven: the counterexamples were not kept; `pytest -m suite … --robbench-resume "
        "--robbench-keep-adversarials` estimates p* again and keeps them"
    )
    assert status == 3


def test_a_later_run_of_a_stage_with_the_same_results_is_a_remark(place, verified):
    """The store holds the last run; its seconds are its own."""

    def later(values):
        values["record"]["created"] = "2099-01-01T00:00:00+00:00"
        values["record"]["seconds"]["estimation"] += 1

    edit(place.stage(digest()), later)
    status, lines = verified()
    (line,) = [line for line in lines if line.startswith("remark")]
    assert "the store holds a run of 2099-01-01T00:00:00+00:00 with the same results" in line
    assert (status, lines[-1].endswith("1 remarks, 0 problems")) == (0, True)


# --- altered ----------------------------------------------------------------------------------------------------------


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
    right, wrong = pstar.index(next(p for p in pstar if p != WRONG)), pstar.index(WRONG)
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


def change_weights(place):
    """Other weights of the source model, whole by their checksum."""
    rewrite(place.stage(SOURCE.digest, "weights.safetensors"), lambda tensors: tensors["1.weight"].neg_())


def forget_weights(place):
    """The source's p* as an older version kept it: without the weights that it was estimated on."""
    edit(place.stage(digest()), lambda values: values.pop("made_from"))


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
        r"Estimate: expected the fields of a described spec",
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
    data = robbench.assembly.load_data(SOURCE.dataset, place.folder / "data", download=False)
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


def replaced(name, old, new):
    """An alteration of a text file of the bundle, the first place only."""

    def alter(place):
        path = place.bundle / name
        text = path.read_text()
        assert re.search(old, text)
        path.write_text(re.sub(old, new, text, count=1))

    return alter


def change_gzip(place):
    """One line of the table of every p*."""
    path = place.bundle / "pstar.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    lines[5] = lines[5].rsplit(",", 2)[0] + ",0.123,found\n"
    path.write_bytes(gzip.compress("".join(lines).encode()))


FILES = {
    "a figure of the report": (replaced("report.md", r"\d+\.\d", "99.9"), r"report\.md: line \d+ is not what"),
    "a figure of the table": (replaced("results.csv", r",0\.\d+", ",0.999"), r"results\.csv: line 2 is .*0\.999"),
    "a line of the table": (
        replaced("results.csv", r"\n.*\n$", "\n"),
        r"results\.csv: line \d .*no such line, expected",
    ),
    "a line more": (replaced("results.csv", r"\Z", "x,y\n"), r"results\.csv: line \d .*'x,y', expected no such line"),
    "one p*": (change_gzip, r"pstar\.csv\.gz: line 6 is not what the records say"),
    "half the p*": (
        lambda p: (p.bundle / "pstar.csv.gz").write_bytes(b"\x1f\x8b\x08"),
        r"pstar\.csv\.gz: cannot be read",
    ),
    "no report": (lambda place: (place.bundle / "report.md").unlink(), r"report\.md: is missing"),
    "no picture": (lambda place: (place.bundle / "figures" / "pstar.png").unlink(), r"figures/pstar\.png: is missing"),
    "line endings": (replaced("report.md", r"\n", "\r\n"), r"report\.md: differs from what the records say in line"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_found(place, verified, name):
    """The line names file and place; the records hold."""
    alter, message = FILES[name]
    alter(place)
    status, lines = verified()
    problems = [line for line in lines if line.startswith("problem")]
    assert (status, len(problems)) == (1, 1)
    assert re.search(message, problems[0])
    assert "robbench report" not in problems[0]


def test_a_report_by_another_version_says_so(place, verified, monkeypatch):
    """Where the records' version is not this one's, a difference may be one of wording; the line says what to do."""
    monkeypatch.setattr("robbench.report.agreement.version", lambda package: "9.9")
    assert verified()[0] == 0
    replaced("report.md", "median", "middle")(place)
    status, lines = verified()
    (problem,) = [line for line in lines if line.startswith("problem")]
    assert status == 1
    assert re.search(r"\(recorded by robbench [\d.]+, this is 9\.9; `robbench report .*` renders it anew\)", problem)


def test_records_that_cannot_be_rendered_are_a_problem(place, verified):
    """An epoch that is not in the history breaks the report, and not the check."""

    def broken(group):
        raise IndexError("list index out of range")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robbench.report.bundle, "draw", broken)
        status, lines = verified()
    assert status == 1
    assert any("records.json: expected records that can be rendered, got IndexError" in line for line in lines)


# --- close calls ------------------------------------------------------------------------------------------------------


def test_a_flip_by_rounding_is_named_and_no_problem(place, verified, monkeypatch):
    """A classification whose margin is a hundred-thousandth of the logits is a remark, counted, and not proven."""
    before = int(re.search(r"(\d+) counterexamples proven", verified()[1][-1])[1])
    margins = robbench.verification._margins
    close = robbench.verification.ROUNDING / 2

    def flip_first(network, images, size, device):
        found = margins(network, images, size, device)
        found[0] = -close * found[0].sign()
        return found

    monkeypatch.setattr(robbench.verification, "_margins", flip_first)
    status, lines = verified()
    remarks = [line for line in lines if line.startswith("remark")]
    assert status == 0
    assert len(remarks) == 8
    assert all("by rounding" in line for line in remarks)
    assert lines[-1].startswith(f"8 records, {before - 4} counterexamples proven, 8 remarks, 0 problems")


def test_a_larger_pstar_than_its_counterexample_needs_is_a_remark(place, verified):
    """p* raised in bundle and store alike is no untruth, since p* is an upper bound, but it is said."""

    def higher(record):
        pstar = record["robustness"]["pstar"]
        at = next(at for at, p in enumerate(pstar) if 2 <= p < 18)
        pstar[at] += 2

    everywhere(place, higher)
    status, lines = verified()
    assert status == 0
    (line,) = [line for line in lines if line.startswith("remark")]
    assert re.search(r"image \d+ whose counterexample lies in a smaller ball than that of p\*", line)
    assert "farther" not in line
