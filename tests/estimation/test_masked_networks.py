"""The audit in a record: of trained networks that mask, and of those that do not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

import robbench.estimation.audit
from robbench.errors import RobbenchError
from robbench.estimation.audit import check_audit
from robbench.spec import PGD
from robbench.spec import Audit as AuditSpec
from robbench.stages import Task, run_stage
from robbench.stages.context import RunContext
from robbench.store.store import Store


@pytest.fixture(scope="module")
def demonstration():
    """The module of the networks that are built to mask."""
    root = str(Path(__file__).parents[1])
    sys.path.insert(0, root)
    try:
        import suites.masking

        yield suites.masking
    finally:
        sys.path.remove(root)


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """One store for the trained networks."""
    folder = tmp_path_factory.mktemp("masking")
    return RunContext(store=Store(folder), data=folder, device=torch.device("cpu"))


def record_of(demonstration, context, name, recipe=None, search="reference", **changes):
    """The record of a small estimate of one of the demonstration's networks, trained on fewer images."""
    spec = demonstration.model(name, recipe or demonstration.STANDARD)
    spec = replace(spec, dataset=replace(spec.dataset, train=600, test=60))
    estimate = replace(
        demonstration.estimate(search, 0), images=40, attack=PGD(steps=10, random_start=False), **changes
    )
    return run_stage(Task("robustness", spec, estimate), context)


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("quantised", "gradients are exactly zero"),
        ("saturating", "gradients are exactly zero"),
        ("steep", "gradients are exactly zero"),
        ("sharpened", "gradients are exactly zero"),
        ("shattered", "one step fools more images"),
        ("rooted", "gradients are not finite"),
        ("misled", "the way to an image of another class"),
    ],
)
def test_a_trained_network_that_masks_is_recognised(demonstration, context, name, sign):
    """Its p* looks larger than the same network's without the mask, and the record says why not to believe it."""
    record = record_of(demonstration, context, name)
    assert any(warning.startswith(sign) for warning in record.robustness.audit.warnings)
    sound = record_of(demonstration, context, "plain")
    assert record.robustness.median > sound.robustness.median


@pytest.mark.parametrize("search", ["reference", "fast"])
@pytest.mark.parametrize("recipe", ["STANDARD", "ADVERSARIAL"])
def test_a_trained_network_that_does_not_is_not_suspected_of_it(demonstration, context, recipe, search):
    """Conventionally and adversarially trained, with both searches, however weak these are."""
    record = record_of(demonstration, context, "plain", getattr(demonstration, recipe), search)
    assert [warning for warning in record.robustness.audit.warnings if "APGD-T" not in warning] == []
    assert record.robustness.audit.scanned >= 5


def test_the_reference_is_too_weak_for_an_adversarially_trained_network(demonstration, context):
    """APGD-T fools most images below the p* that the published search gives them; nothing else is found."""
    record = record_of(demonstration, context, "plain", demonstration.ADVERSARIAL)
    (warning,) = record.robustness.audit.warnings
    assert warning.startswith("a stronger attack (APGD-T) fools")


def test_the_audit_changes_no_figure(demonstration, context):
    """Its passes are not the search's; without it, a record says that it was not audited."""
    with_audit = record_of(demonstration, context, "plain")
    without = record_of(demonstration, context, "plain", audit=None)
    assert without.robustness.audit is None
    assert without.robustness == msgspec.structs.replace(with_audit.robustness, audit=None)


def test_square_without_its_library_is_refused(monkeypatch):
    """One sentence says what to install."""
    monkeypatch.setattr(robbench.estimation.audit, "find_spec", lambda name: None)
    with pytest.raises(
        RobbenchError, match=r"expected pyautoattack .* 50 queries of Square, got none; pip install 'robbench\[audit\]'"
    ):
        check_audit(AuditSpec(square_queries=50))
    check_audit(AuditSpec())
    check_audit(None)
