"""A search of p* in parts, which several workers share, is image by image the search of all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stages import FOOLING, comparable, estimate, source

import robbench.stages.robustness_stage as stage
from robbench.spec import Attack, Audit, Ensemble, Search
from robbench.stages import Task
from robbench.stages.work import Work, finished_needs, run_task

SEARCHES = {"reference": "reference", "fast": "fast", "ensemble": Ensemble(searches=("fast", "reference"))}


@pytest.mark.parametrize("keep", [False, True], ids=["", "kept"])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_in_parts_ends_as_the_whole_one(new_run, monkeypatch, search, keep):
    """p*, counterexamples, passes, and what follows the search: robust accuracy and audit."""
    monkeypatch.setattr(stage, "PART", 7)
    spec = replace(FOOLING, search=SEARCHES[search], audit=Audit(images=4))
    whole, parts = new_run("whole", keep_adversarials=keep), new_run("parts", keep_adversarials=keep)
    expected = estimate(source(), whole, spec)
    task = Task("robustness", source(), spec)
    run_task(task.needs["model"], parts)
    work = Work(task, parts, finished_needs(task, parts))
    places = stage.images_of_parts(work)
    assert places == [(0, 7), (7, 14), (14, 20)]
    state = stage.joined([stage.search_part(work, first, last) for first, last in places])
    parts.store.save_state(work.key, {**state, "seconds": {"estimation": 1.5}})
    found = run_task(task, parts)
    assert found.seconds.estimation == 1.5
    assert comparable(found) == comparable(expected)
    kept = [context.store.adversarials(found.key) for context in (whole, parts)]
    assert kept[0] is kept[1] is None if not keep else kept[0].equal(kept[1])


class Own(Search):
    """A search of one's own."""


@pytest.mark.parametrize(
    ("search", "divided"),
    [(Attack(name="own:attack"), True), (Own(), False), (Ensemble(searches=("fast", Own())), False)],
    ids=["attack", "own search", "ensemble with it"],
)
def test_what_may_mix_images_is_not_divided(new_run, monkeypatch, search, divided):
    """An attack's images do not depend on each other; what a search of one's own does nobody knows."""
    monkeypatch.setattr(stage, "PART", 7)
    task = Task("robustness", source(), replace(FOOLING, search=search))
    assert bool(stage.images_of_parts(Work(task, new_run(), {}))) == divided
