"""``robbench verify``: what holds, what stays unproven, and what is a remark."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from alterations import FAST, REFERENCE, SOURCE, TARGET, edit, everywhere, forget_adversarials, found_images

import robbench.verify.proof
from robbench.cli import main
from robbench.models import Network
from robbench.record import MISCLASSIFIED


def proven_in(lines):
    """The number of counterexamples that a verification proved."""
    return int(re.search(r"(\d+) counterexamples proven", "\n".join(lines))[1])


def test_an_untouched_bundle_holds(place, verified):
    """Every record agrees, every counterexample is proven, and the last line says how many."""
    status, lines = verified()
    assert (status, [line.split()[0] for line in lines[:-1]]) == (0, ["proven", "agrees"] * 4)
    found = [len(found_images(place, estimate)[0]) for estimate in (REFERENCE, FAST)]
    assert any(f"one/{SOURCE.id}.robustness: {found[0]} of {found[0]} counterexamples; " in line for line in lines)
    proven = sum(int(match[1]) for line in lines if (match := re.search(r": (\d+) of \1 counterexamples", line)))
    assert lines[-1] == f"8 records, {proven} counterexamples proven, 0 problems"
    assert proven > 25
    assert MISCLASSIFIED in found_images(place)[1]


def test_findings_as_json(place, verified):
    """One for every line, with what would let more be proven; the exit status is the same."""
    forget_adversarials(place)
    status, (text,) = verified("--code", "proven_net", "--json")
    findings = json.loads(text)
    (unproven,) = [finding for finding in findings if finding["mark"] == "unproven"]
    assert (status, len(findings), unproven["name"]) == (3, 8, f"one/{SOURCE.id}.robustness")
    assert unproven["advice"].startswith("counterexamples that were not kept: `pytest -m")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda records: records.write_text("{"), "records.json"),
        (lambda records: edit(records, lambda values: values.update(records=[])), "expected a bundle with records, "),
        (lambda records: (records.parents[1] / "store").rename(records.parent / "store"), "expected the store that "),
    ],
)
def test_where_there_is_nothing_to_prove_the_input_is_bad(place, capsys, spoil, message):
    """A damaged bundle, one without records, and no store; the path of the records is enough."""
    spoil(place.records)
    assert main(["verify", str(place.records), "--store", str(place.folder / "store"), "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_without_kept_counterexamples_the_rest_is_checked(place, verified):
    """The record that cannot be proven is named, with how to keep what is missing; no script takes it for a proof."""
    forget_adversarials(place)
    status, lines = verified()
    (line,) = [line for line in lines if line.startswith("unproven")]
    assert f"one/{SOURCE.id}.robustness" in line
    assert lines[-2].endswith(", 1 records unproven, 0 problems")
    assert lines[-1].startswith("1 records were not proven in full; counterexamples that were not kept: `pytest -m")
    assert (status, proven_in(lines) > 0) == (3, True)
    for model, estimate in ((SOURCE, FAST), (TARGET, REFERENCE), (TARGET, FAST)):
        forget_adversarials(place, model, estimate)
    status, lines = verified()
    assert lines[-2] == "8 records, 0 counterexamples proven, 4 records unproven, 0 problems"
    assert lines[-1].startswith("nothing was proven; counterexamples that were not kept")
    assert status == 3


def test_a_second_estimate_is_proven_like_the_first(place, verified):
    """Its name within the study is no part of the proof."""
    second = f"two/{SOURCE.id}.robustness"
    edit(place.records, lambda values: rename(values["records"], second, "robustness-fast"))
    status, lines = verified()
    assert status == 0
    assert sum(line.startswith(f"proven    {second}-fast: ") for line in lines) == 1


def rename(records, name, stage):
    """Let the record of this name be of a stage of another name."""
    (found,) = [each for each in records if f"{each['suite']}/{each['case']}.{each['stage']}" == name]
    found["stage"] = stage


def test_a_later_run_with_the_same_results_is_as_good(place, verified):
    """Its seconds and its date are its own."""

    def later(values):
        values["record"]["created"] = "2099-01-01T00:00:00+00:00"
        values["record"]["seconds"]["estimation"] += 1

    edit(place.stage(), later)
    assert verified()[0] == 0


def test_stages_without_a_record_leave_the_proof_open(place, verified):
    """What a run did not come to is no problem, and no proof of the study either."""
    edit(place.records, lambda values: values.update(missing=["one/other.training"]))
    status, lines = verified()
    assert (status, lines[-2]) == (3, "missing   one/other.training: has no record")
    assert lines[-1].endswith(" counterexamples proven, 1 records missing, 0 problems")


def test_a_flip_by_rounding_is_named_and_no_problem(verified, monkeypatch):
    """A classification whose margin is a hundred-thousandth of the logits is a remark, and leaves its p* unproven."""
    before = proven_in(verified()[1])
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
    assert (status, len(remarks)) == (3, 8)
    assert all("by rounding" in line for line in remarks)
    assert lines[-2] == f"8 records, {before - 4} counterexamples proven, 4 records unproven, 8 remarks, 0 problems"


def higher(record):
    """The p* of one image, two steps larger."""
    pstar = record["result"]["pstar"]
    pstar[next(at for at, p in enumerate(pstar) if 2 <= p < 18)] += 2


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
    assert (status, len(remarks)) == (0, 4)
    assert all(line.endswith("verification went on with batches of 7 images") for line in remarks)
    assert [line for line in lines[:-1] if line not in remarks] == whole[:-1]


@pytest.mark.parametrize("module", ["proven", "proven_net.more"])
def test_code_that_was_not_named_is_not_imported(verified, monkeypatch, module):
    """Its records are held to the store, and unproven; the line says how to run it; named, it runs."""
    monkeypatch.delitem(sys.modules, "proven_net")
    status, lines = verified("--code", module)
    assert "proven_net" not in sys.modules
    assert (status, len(lines)) == (3, 8 + 2)
    advice = "proven_net:mlp is your own code, name it with --code proven_net to run it"
    for line in lines[:8]:
        assert line.startswith("unproven  ")
        assert line.endswith(f"as in the store, but not run; {advice}")
    assert lines[-2:] == [
        "8 records, 0 counterexamples proven, 8 records unproven, 0 problems",
        f"nothing was proven; {advice}",
    ]
    assert verified("--code", module, "--code", "proven_net")[0] == 0
