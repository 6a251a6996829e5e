"""robbench verify: an untouched bundle holds, and whatever is altered in bundle, store or data is found."""

from __future__ import annotations

import re

import pytest
import torch
from alterations import (
    FAST,
    REFERENCE,
    SOURCE,
    TARGET,
    change_weights,
    digest,
    edit,
    everywhere,
    found_images,
)

import robbench.verify.proof
from robbench.cli import main
from robbench.models import Network
from robbench.record import MISCLASSIFIED


def test_an_untouched_bundle_holds(place, verified):
    """Every record agrees, every counterexample is proven, and the last line says how many."""
    status, lines = verified()
    assert (status, [line.split()[0] for line in lines[:-1]]) == (0, ["proven", "agrees"] * 4)
    found = [len(found_images(place, estimate)[0]) for estimate in (REFERENCE, FAST)]
    assert (
        f"one/{SOURCE.id}.robustness: {found[0]} of {found[0]} counterexamples; " in lines[2 * (TARGET.id < SOURCE.id)]
    )
    proven = sum(int(match[1]) for line in lines if (match := re.search(r": (\d+) of \1 counterexamples", line)))
    assert lines[-1] == f"8 records, {proven} counterexamples proven, 0 problems"
    assert proven > 25
    assert MISCLASSIFIED in found_images(place)[1]


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
    assert "--robbench-keep-adversarials" in line
    assert re.search(r"\d+ counterexamples proven, 1 records unproven, 0 problems", lines[-2])
    assert lines[-1].startswith("1 records were not proven in full; counterexamples that were not kept: `pytest -m")
    assert status == 3
    change_weights(place)
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
        "nothing was proven; counterexamples that were not kept: `pytest -m suite … --robbench-keep-adversarials` estimates p* again and keeps them"
    )
    assert status == 3


def test_a_later_run_with_the_same_results_is_as_good(place, verified):
    """Its seconds and its date are its own."""

    def later(values):
        values["record"]["created"] = "2099-01-01T00:00:00+00:00"
        values["record"]["seconds"]["estimation"] += 1

    edit(place.stage(digest()), later)
    assert verified()[0] == 0


def test_stages_without_a_record_leave_the_proof_open(place, verified):
    """What a run did not come to is no problem, and no proof of the study either."""
    edit(place.records, lambda values: values.update(missing=["one/other.training"]))
    status, lines = verified()
    assert (status, lines[-2]) == (3, "missing   one: 1 stages have no record: other.training")
    assert lines[-1].endswith(" counterexamples proven, incomplete, 0 problems")


def test_a_bundle_without_records_is_bad_input(place, capsys):
    """There is nothing to check."""
    edit(place.records, lambda values: values.update(records=[]))
    assert main(["verify", str(place.bundle), "--store", str(place.folder / "store")]) == 2
    assert "verify: expected a bundle with records, " in capsys.readouterr().err


def test_a_flip_by_rounding_is_named_and_no_problem(place, verified, monkeypatch):
    """A classification whose margin is a hundred-thousandth of the logits is a remark, and leaves its p* unproven."""
    before = int(re.search(r"(\d+) counterexamples proven", verified()[1][-1])[1])
    margins = robbench.verify.proof._margins_of
    close = robbench.verify.proof.ROUNDING / 2

    def flip_first(*given):
        found = margins(*given)

        def flipped(images, labels):
            values = found(images, labels)
            values[0] = -close * values[0].sign()
            return values

        return flipped

    monkeypatch.setattr(robbench.verify.proof, "_margins_of", flip_first)
    status, lines = verified()
    remarks = [line for line in lines if line.startswith("remark")]
    assert status == 3
    assert len(remarks) == 8
    assert all("by rounding" in line for line in remarks)
    assert lines[-2] == f"8 records, {before - 4} counterexamples proven, 4 records unproven, 8 remarks, 0 problems"
    assert lines[-1] == "4 records were not proven in full"


def higher(record):
    """The p* of one image, two steps larger."""
    pstar = record["result"]["pstar"]
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
