"""Warnings of the audit in the report: at the top, at the model, and nothing where nothing was looked at."""

from __future__ import annotations

from pathlib import Path

import msgspec
from factories import both_records, make_facts

from robbench.record import Audit, Record
from robbench.report import Bundle, read_bundle, write_bundle
from robbench.report.prose import report_text
from robbench.report.rows import group_records
from robbench.report.trust import audit_remark, suspect_section

SOUND = Audit(
    images=100,
    zero_gradient=0,
    not_finite=0,
    one_step=[],
    scanned=10,
    probes=80,
    not_monotone=1,
    below=2,
    forward=900,
    backward=800,
)
MASKED = msgspec.structs.replace(SOUND, zero_gradient=100, warnings=["gradients are *zero*", "and so on"])


def model(audit: Audit | None, k: int | None = None) -> list[Record]:
    """Both records of a model with such an audit."""
    training, robustness = both_records(make_facts("transfer", "emnist", k) if k else make_facts(), [1, 2, 3, 3])
    assert robustness.robustness is not None
    found = msgspec.structs.replace(robustness.robustness, audit=audit)
    return [training, msgspec.structs.replace(robustness, result=found)]


def text(*audits: Audit | None) -> str:
    """A report of so many models."""
    records = [record for k, audit in enumerate(audits) for record in model(audit, k)]
    return report_text(group_records(records), {}, title="demo")


def test_a_suspect_model_is_named_at_the_top_and_marked_in_the_tables() -> None:
    """Before anything else is said, with its reasons; the sound model beside it is not marked."""
    found = text(SOUND, MASKED)
    top = found.split("## ")[0]
    assert "**⚠ p\\* of 1 model cannot be trusted**, for what the audit found. It is marked ⚠ below." in top
    assert "- demo/cnn7-emnist-TL1: gradients are \\*zero\\*; and so on" in top
    rows = [line for line in found.splitlines() if line.startswith("|")]
    assert sum(line.startswith("| TL#1 ⚠ ") for line in rows) == 2
    assert any(line.startswith("| PGD MNIST ") for line in rows)
    assert "PGD MNIST ⚠" not in found
    assert "Audit of p\\*, 2 models: **1 not to be trusted**: TL#1 (⚠)." in found


def test_chance_is_not_called_a_masked_gradient() -> None:
    """Where the only warning is that a network draws random numbers, the report says that and no other reason."""
    reason = "the network gives 9 of 100 images other logits the second time, in other company"
    chance = msgspec.structs.replace(SOUND, by_chance=9, warnings=[reason])
    found = text(SOUND, chance, chance)
    assert "p\\* of 2 models cannot be trusted**, for what the audit found. They are marked ⚠ below." in found
    assert f"- demo/cnn7-emnist-TL1: {reason}\n" in found
    assert "mask" not in found


def test_a_suspect_variant_is_told_from_its_base() -> None:
    """They share their label."""
    records = model(SOUND, 1) + [
        msgspec.structs.replace(record, model=msgspec.structs.replace(record.model, variant="box"), case="other")
        for record in model(MASKED, 1)
    ]
    (group,) = group_records(records)
    assert "**1 not to be trusted**: TL#1 (box) (⚠)" in (audit_remark(group) or "").replace("\\", "")


def test_an_audit_that_found_nothing_is_said_in_one_line() -> None:
    """With what it looked at, and the share of the linear scan that disagrees."""
    found = text(SOUND, SOUND)
    assert "⚠" not in found
    assert (
        "Audit of p\\*, 2 models: nothing found. Looked at: gradients, and one step against the search, on "
        "200 images; a linear scan of 20 images, of which 4 (20.0%) disagree with the search and 2 are not monotone in ε; "
        "not Square, which was not asked for."
    ) in found


def test_models_that_were_not_audited_are_counted_beside_those_that_were() -> None:
    """Only where there are both."""
    assert "Not audited: 1." in text(SOUND, None)
    (group,) = group_records(model(None))
    assert audit_remark(group) is None
    assert suspect_section([group]) == []
    assert "udit" not in text(None)


def test_a_bundle_keeps_the_warnings(tmp_path: Path) -> None:
    """In its records, from which the same report is made again."""
    path = write_bundle(tmp_path, Bundle(title="demo", command="", records=model(MASKED)))
    before = path.read_text(encoding="utf-8")
    assert write_bundle(tmp_path, read_bundle(tmp_path)).read_text(encoding="utf-8") == before
    assert "cannot be trusted" in before
