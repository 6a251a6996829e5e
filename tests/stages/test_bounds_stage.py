"""Bounds as a stage: below p*, image by image, in a record that comes back from the store."""

from __future__ import annotations

import sys
from dataclasses import replace

import msgspec
import pytest
from stages import FOOLING, Killed, comparable, estimate, source

from robbench.errors import RobbenchError
from robbench.gate.baselines import baseline_of
from robbench.gate.verdicts import Tolerances, compare
from robbench.record import LowerBounds, Record
from robbench.spec import Bounded, Bounds, Model, Verifier
from robbench.stages import Task, run_graph

SPEC = Bounded(bounds=Bounds(images=15), estimate=replace(FOOLING, search="fast"))
MODEL = source(epochs=3, learning_rate=0.2)


def bound(context, spec=SPEC, model=MODEL):
    """The record of a model's bounds."""
    task = Task("bounds", model, spec)
    return run_graph([task], context)[task]


def test_certified_radii_lie_below_pstar_of_the_same_images(new_run):
    """The images are drawn from those of the estimate, whose p* are the upper bounds."""
    context = new_run()
    found, tested = bound(context).bounds, estimate(MODEL, context, SPEC.estimate).robustness
    upper = dict(zip(tested.images, tested.pstar, strict=True))
    assert len(found.images) == 15
    assert found.upper == [upper[image] for image in found.images]
    assert all(low < high or low == high == -1 for low, high in zip(found.lower, found.upper, strict=True))
    assert found.median > 0
    assert 0 < found.certified(0.05).correct <= found.robust(0.05).correct
    assert sum(found.certified_by.values()) == sum(low > 0 for low in found.lower)


def test_the_record_comes_back_and_a_second_run_reuses_it(new_run):
    """From JSON with its own type."""
    record = bound(new_run())
    again = msgspec.json.decode(msgspec.json.encode(record), type=Record)
    assert isinstance(again.result, LowerBounds)
    assert again == record == bound(new_run())


def test_tighter_bounds_certify_more_and_probes_change_nothing(new_run):
    """CROWN after IBP; four radii at once instead of one."""
    context = new_run()
    ibp, crown, probes = (
        bound(context, replace(SPEC, bounds=replace(SPEC.bounds, **change))).bounds
        for change in ({"method": "ibp"}, {}, {"probes": 4})
    )
    assert sum(ibp.lower) < sum(crown.lower)
    assert all(low <= high for low, high in zip(ibp.lower, crown.lower, strict=True))
    assert probes.lower == crown.lower


def test_a_killed_stage_goes_on_from_its_last_batch(new_run, monkeypatch):
    """And finds what an uninterrupted one finds."""
    monkeypatch.setattr("robbench.bounds.search.IMAGES", 4)
    monkeypatch.setattr("robbench.stages.bounds_stage.SAVE_SECONDS", 0.0)
    whole = comparable(bound(new_run("whole")))
    context, seen = new_run(), []

    def die(what, done, total, *_):
        seen.append(what)
        if sum(each.startswith("bounds") for each in seen) == 2:
            raise Killed

    with pytest.raises(Killed):
        bound(replace(context, show=die))
    resumed = comparable(bound(new_run()))
    assert msgspec.structs.replace(resumed, key="") == msgspec.structs.replace(whole, key="")


def test_a_verifier_lowers_pstar_by_counterexamples_that_are_confirmed(new_run, tmp_path):
    """It is asked one step below p*; what it gives is judged by the network itself."""
    program = tmp_path / "says_unsat.py"
    program.write_text("import sys; open(sys.argv[3], 'w').write('unsat')")
    verifier = Verifier(engine=f"{sys.executable} {program} {{onnx}} {{vnnlib}} {{result}}", images=3, queries=1)
    found = bound(new_run(), replace(SPEC, bounds=replace(SPEC.bounds, verifier=verifier))).bounds
    assert len(found.verified) == 3
    assert found.verified_exact == 3
    assert found.exact.correct >= 3
    assert found.verdicts["unsat"] <= 3


def test_a_network_that_always_gives_one_class_is_named(new_run):
    """Its certified radii are those of the whole grid, and say nothing."""
    record = bound(new_run(), model=Model(architecture="bounds_networks:constant", dataset=MODEL.dataset))
    assert record.bounds.one_class == "c1"
    assert set(record.bounds.lower) == {-1, len(record.bounds.grid) - 1}


def test_the_gate_judges_the_median_certified_radius(new_run):
    """Against the same images; a fall of all of them fails."""
    record = bound(new_run())
    (verdict, _) = compare(record, baseline_of(record), Tolerances(), 0.05)
    assert (verdict.figure, verdict.mark) == ("median certified radius", "=")
    low = [max(-1, index - 3) if index > 2 else index for index in record.result.lower]
    worse = msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, lower=low))
    (verdict, _) = compare(worse, baseline_of(record), Tolerances(), 0.05)
    assert verdict.mark == "-"


def test_a_layer_without_bounds_fails_its_stage_by_name(new_run):
    """As any architecture of one's own may have one."""
    with pytest.raises(RobbenchError, match=r"got body\.2 \(GELU\)"):
        bound(new_run(), model=source(architecture="bounds_networks:smooth"))


def test_crossing_bounds_make_no_record():
    """Neither are they read from a file."""
    with pytest.raises(ValueError, match="expected lower bounds below p"):
        LowerBounds(grid=[0.0, 0.1], method="ibp", images=[3], lower=[1], upper=[1])
