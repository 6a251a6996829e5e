"""A stage in parts, which several workers share, is image by image the stage that one worker makes."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from msgspec.structs import replace as replaced
from stages import FOOLING, comparable, source

from robbench.spec import Attack, Audit, Bounded, Bounds, Ensemble, Search, Verifier
from robbench.stages import Task, bounds_stage, robustness_stage, run_graph
from robbench.stages.kinds import KINDS
from robbench.stages.resumable import joined
from robbench.stages.work import Work, finished_needs, run_task

SEARCHES = {"reference": "reference", "fast": "fast", "ensemble": Ensemble(searches=("fast", "reference"))}


def in_parts(task, context):
    """The record of a stage that goes on from its parts, each made alone; and where these begin and end."""
    run_graph([*task.needs.values()], context)
    work, division = Work(task, context, finished_needs(task, context)), KINDS[task.kind].division()
    places = division.parts(work)
    state = joined([division.make(Work(task, context, work.needs), *place) for place in places])
    context.store.save_state(work.key, {**state, "seconds": {"estimation": 1.5}})
    return run_task(task, context), places


@pytest.mark.parametrize("keep", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_in_parts_ends_as_the_whole_one(new_run, monkeypatch, search, keep):
    """p*, counterexamples, passes, and what follows the search: robust accuracy and audit."""
    monkeypatch.setattr(robustness_stage, "PART", 7)
    task = Task("robustness", source(), replace(FOOLING, search=SEARCHES[search], audit=Audit(images=4)))
    whole, parts = new_run("whole", keep_adversarials=keep), new_run("parts", keep_adversarials=keep)
    expected, (found, places) = run_graph([task], whole)[task], in_parts(task, parts)
    assert places == [(0, 7), (7, 14), (14, 20)]
    assert found.seconds.estimation == 1.5
    assert comparable(found) == comparable(expected)
    kept = [context.store.adversarials(found.key) for context in (whole, parts)]
    assert kept[0] is kept[1] is None if not keep else kept[0].equal(kept[1])


def timeless(record):
    """A record of bounds without seconds."""
    return comparable(replaced(record, result=replaced(record.result, verifying_seconds=0.0)))


@pytest.mark.parametrize("verified", [False, True], ids=["bounds", "verified"])
def test_bounds_in_parts_end_as_whole_ones(new_run, monkeypatch, tmp_path, verified):
    """Certified radii, methods, rows, and what the verifier decided of images in several parts."""
    monkeypatch.setattr("robbench.bounds.search.IMAGES", 2)
    monkeypatch.setattr(bounds_stage, "PART", 2)
    program = tmp_path / "says_unsat.py"
    program.write_text("import sys; open(sys.argv[3], 'w').write('unsat')")
    asked = f"{sys.executable} {program} {{onnx}} {{vnnlib}} {{result}}"
    verifier = Verifier(engine=asked, images=5, queries=1) if verified else None
    spec = Bounded(bounds=Bounds(images=15, verifier=verifier), estimate=replace(FOOLING, search="fast"))
    task = Task("bounds", source(epochs=3, learning_rate=0.2), spec)
    expected, (found, places) = run_graph([task], new_run("whole"))[task], in_parts(task, new_run("parts"))
    assert places == [(0, 2), (2, 4), (4, 6)]
    right = [image for image, low in zip(found.bounds.images, found.bounds.lower, strict=True) if low >= 0]
    shared = [{*right[first:last]} & {*found.bounds.verified} for first, last in places]
    assert sum(map(bool, shared)) > 1 if verified else not any(shared)
    assert timeless(found) == timeless(expected)


class Own(Search):
    """A search of one's own."""


@pytest.mark.parametrize(
    ("search", "divided"),
    [(Attack(name="own:attack"), True), (Own(), False), (Ensemble(searches=("fast", Own())), False)],
    ids=["attack", "own search", "ensemble with it"],
)
def test_what_may_mix_images_is_not_divided(new_run, monkeypatch, search, divided):
    """An attack's images do not depend on each other; what a search of one's own does nobody knows."""
    monkeypatch.setattr(robustness_stage, "PART", 7)
    task = Task("robustness", source(), replace(FOOLING, search=search))
    assert bool(robustness_stage.images_of_parts(Work(task, new_run(), {}))) == divided
