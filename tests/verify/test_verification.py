"""robbench verify: an untouched bundle holds, and whatever is altered in bundle, store or data is found."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace

import pytest
import torch
from alterations import (
    FAST,
    PICTURE,
    REFERENCE,
    SOURCE,
    TARGET,
    change_weights,
    digest,
    edit,
    everywhere,
    forget_weights,
    found_places,
)

import robbench.report.bundle
import robbench.verify.proof
from robbench.cli import main
from robbench.models import Network
from robbench.record import MISCLASSIFIED


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
    assert MISCLASSIFIED in found_places(place)[1]


def test_the_path_of_the_records_is_enough(place, verified, capsys):
    """As for the other commands; without a bundle it is bad input."""
    folders = ["--store", str(place.folder / "store"), "--data", str(place.folder / "data")]
    assert main(["verify", str(place.records), *folders, "--code", "proven_net"]) == 0
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
    assert re.search(r"\d+ counterexamples proven, 1 records unproven, 0 problems", lines[-2])
    assert lines[-1].startswith("1 records were not proven in full; counterexamples that were not kept: `pytest -m")
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
    assert lines[-2] == "8 records, 0 counterexamples proven, 4 records unproven, 0 problems"
    assert lines[-1] == (
        "nothing was proven; counterexamples that were not kept: `pytest -m suite … --robbench-resume "
        "--robbench-keep-adversarials` estimates p* again and keeps them"
    )
    assert status == 3


def test_of_a_later_run_with_the_same_results_all_but_seconds_is_checked(place, verified):
    """The store holds the last run; its seconds are its own, and the bundle's are not proven."""

    def later(values):
        values["record"]["created"] = "2099-01-01T00:00:00+00:00"
        values["record"]["seconds"]["estimation"] += 1

    edit(place.stage(digest()), later)
    status, lines = verified()
    (line,) = [line for line in lines if line.startswith("untimed")]
    assert "the store holds a later run, of 2099-01-01T00:00:00+00:00, with the same results" in line
    assert (status, lines[-1].endswith("1 untimed, 0 problems")) == (3, True)


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
    "a picture": (
        lambda place: (place.bundle / "figures" / "pstar.png").write_bytes(b"forged"),
        r"figures/pstar\.png: is not the picture that the bundle was written with: its SHA-256 is another one",
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


def test_a_picture_that_is_drawn_otherwise_here_is_no_claim(place, verified, monkeypatch):
    """Another matplotlib draws other bytes: the picture is the bundle's by its checksum, and no more is said."""
    other = replace(PICTURE, png=b"drawn otherwise")
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [other])
    status, lines = verified()
    assert status == 0
    (remark,) = [line for line in lines if line.startswith("remark")]
    assert remark.startswith(
        "remark    figures: 1 pictures are those that the bundle was written with, but drawn other"
    )
    assert "agrees    bundle: report, tables and every p* are what the records say" in lines
    edit(place.records, lambda values: values.pop("pictures"))
    status, lines = verified()
    assert status == 3
    (unproven,) = [line for line in lines if line.startswith("unproven")]
    assert unproven.startswith("unproven  figures: 1 pictures have no checksum and are drawn otherwise here")
    assert "agrees    bundle: report, tables and every p* are what the records say" in lines


def test_pictures_that_are_drawn_alike_here_need_no_checksum(place, verified):
    """They show the records, whoever wrote them."""
    edit(place.records, lambda values: values.pop("pictures"))
    status, lines = verified()
    assert (status, lines[-2]) == (
        0,
        "agrees    bundle: report, tables, pictures and every p* are what the records say",
    )


def test_records_that_cannot_be_rendered_are_a_problem(place, verified):
    """An epoch that is not in the history breaks the report, and not the check."""

    def broken(group):
        raise IndexError("list index out of range")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robbench.report.bundle, "draw", broken)
        status, lines = verified()
    assert status == 1
    assert any("records.json: expected records that can be rendered, got IndexError" in line for line in lines)


def test_a_flip_by_rounding_is_named_and_no_problem(place, verified, monkeypatch):
    """A classification whose margin is a hundred-thousandth of the logits is a remark, and leaves its p* unproven."""
    before = int(re.search(r"(\d+) counterexamples proven", verified()[1][-1])[1])
    margins = robbench.verify.proof._margins
    close = robbench.verify.proof.ROUNDING / 2

    def flip_first(network, images, batches, device):
        found = margins(network, images, batches, device)
        found[0] = -close * found[0].sign()
        return found

    monkeypatch.setattr(robbench.verify.proof, "_margins", flip_first)
    status, lines = verified()
    remarks = [line for line in lines if line.startswith("remark")]
    assert status == 3
    assert len(remarks) == 8
    assert all("by rounding" in line for line in remarks)
    assert lines[-2] == f"8 records, {before - 4} counterexamples proven, 4 records unproven, 8 remarks, 0 problems"
    assert lines[-1] == "4 records were not proven in full"


def higher(record):
    """The p* of one image, two steps larger."""
    pstar = record["robustness"]["pstar"]
    at = next(at for at, p in enumerate(pstar) if 2 <= p < 18)
    pstar[at] += 2


@pytest.mark.parametrize("estimate", [REFERENCE, FAST], ids=["reference", "fast"])
def test_a_pstar_that_is_larger_than_its_counterexample_is_a_remark(place, verified, estimate):
    """Raised in bundle and store alike: an upper bound still, and the image shows a smaller one."""
    everywhere(place, higher, estimate)
    status, lines = verified()
    assert status == 0
    (line,) = [line for line in lines if line.startswith("remark")]
    assert re.search(r"image \d+ whose counterexample lies in a smaller ball than that of p\*", line)
    assert re.search(r"proven \(1 of them smaller than their p\*\), 1 remarks, 0 problems$", lines[-1])


def test_verification_goes_on_in_smaller_batches(verified, monkeypatch):
    """Where memory runs out, with a remark; as much is proven."""
    whole, forward = verified()[1], Network.forward

    def cramped(network, images):
        if len(images) > 7:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(network, images)

    monkeypatch.setattr(robbench.verify.proof, "attack_batch", lambda network, images: 15)
    monkeypatch.setattr(Network, "forward", cramped)
    status, lines = verified()
    remarks = [line for line in lines if line.startswith("remark")]
    assert status == 0
    assert [line.partition(": ")[2] for line in remarks] == [
        "out of memory: verification went on with batches of 7 images"
    ] * 4
    assert [line for line in lines[:-1] if line not in remarks] == whole[:-1]
