"""The gate's error rates: runs told apart by seed, planted losses that are what they say, and rates that count them."""

from __future__ import annotations

import math

import error_rates
import msgspec
import numpy as np
import pytest
from factories import make_facts, robustness_record, training_record
from gate_errors import losses, rates, runs
from hypothesis import given
from hypothesis import strategies as st

from robbench.errors import RobbenchError
from robbench.gate.verdicts import Tolerances
from robbench.record import MISCLASSIFIED, Counts
from robbench.report import Bundle, bundle, write_bundle

GRID = [round(0.005 * i, 10) for i in range(81)]
FACTS = make_facts()
GATE = Tolerances(pstar=0.05, accuracy=0.01, seconds=math.inf)
LOSSES = dict(losses.losses())


def spec_of(seed, source_seed=None):
    """A described model, transferred where a source's seed is given."""
    source = None if source_seed is None else {"kind": "Model", "seed": source_seed, "source": None}
    return {"kind": "Model", "seed": seed, "dataset": {"kind": "Dataset", "seed": 7}, "source": source}


def stages(seed, places, *, method="pgd", seconds=10.0, right=90):
    """The two records of one model of one seed."""
    facts = make_facts(method, seed=seed)
    training = training_record(facts, seconds, spec=spec_of(seed))
    validated = losses.with_validation(training.training, Counts(correct=right, total=100))
    estimate = {"model": spec_of(seed), "estimate": {"kind": "Estimate", "seed": 0}}
    return [
        msgspec.structs.replace(training, result=validated),
        robustness_record(facts, places, grid=GRID, spec=estimate),
    ]


def places(seed, middle=40, count=400):
    """p* scattered around the middle of the grid."""
    return np.clip(np.random.default_rng(seed).normal(middle, 2, count).round(), 1, 81).astype(int).tolist()


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write records as a bundle; returns its folder."""
    monkeypatch.setattr(bundle, "draw", lambda group: [])

    def write(*records, name="run"):
        write_bundle(tmp_path / name, Bundle(title="demo", command="pytest", records=list(records)))
        return tmp_path / name

    return write


def test_seeds_of_one_model_become_one_case():
    """Name, spec and digest without the model's seeds, its source's included; seeds of data and estimate stay."""
    facts = make_facts("transfer", "emnist", k=3, seed=3)
    one, ours = runs.seedless(training_record(facts, spec=spec_of(3, 3)))
    other, theirs = runs.seedless(training_record(make_facts("transfer", "emnist", k=3), spec=spec_of(0, 0)))
    assert (one, other) == (3, 0)
    assert (ours.case, ours.spec, ours.digest, ours.model.seed) == (theirs.case, theirs.spec, theirs.digest, 0)
    assert ours.spec == spec_of(0, 0)
    robust = robustness_record(facts, [1], spec={"model": spec_of(3, 3), "estimate": {"kind": "Estimate", "seed": 5}})
    assert runs.seedless(robust)[1].spec["estimate"]["seed"] == 5


def test_one_run_per_bundle_and_seed(written):
    """Two bundles of two seeds are four runs, each with the same names."""
    folders = [
        written(*stages(0, places(0)), *stages(2, places(2)), name="a"),
        written(*stages(0, places(0)), *stages(2, places(2)), name="b"),
    ]
    found = runs.read_runs(folders)
    assert [run.seed for run in found] == [0, 2, 0, 2]
    assert {tuple(sorted(run.records)) for run in found} == {
        ("demo/cnn7-mnist-pgd.robustness", "demo/cnn7-mnist-pgd.training")
    }
    assert [(old.seed, new.seed) for old, new in runs.repetitions(found)] == [(0, 0), (2, 2)]
    assert [(old.seed, new.seed) for old, new in runs.pairs_of_seeds(found)] == [(0, 2)]


def test_one_seed_at_two_commits_is_no_pair(written):
    """Neither the same code again nor another training; different seeds are a pair at any commits."""
    changed = [
        msgspec.structs.replace(record, environment=msgspec.structs.replace(record.environment, commit="1" * 40))
        for record in stages(0, places(0))
    ]
    folders = [
        written(*stages(0, places(0)), *stages(2, places(2)), name="a"),
        written(*changed, name="b"),
    ]
    found = runs.read_runs(folders)
    assert [(run.seed, run.commit == "1" * 40) for run in found] == [(0, False), (2, False), (0, True)]
    assert runs.repetitions(found) == []
    assert len(runs.trainings(found)) == 3
    assert [(old.seed, new.seed) for old, new in runs.pairs_of_seeds(found)] == [(0, 2)]


def test_every_run_is_in_one_pair(written):
    """Five seeds make two pairs, and leave one over."""
    found = runs.read_runs([written(*(record for seed in range(5) for record in stages(seed, places(seed))))])
    assert [(old.seed, new.seed) for old, new in runs.pairs_of_seeds(found)] == [(0, 1), (2, 3)]


def test_runs_tested_on_other_images_are_refused(written):
    """Image by image there is nothing to compare."""
    records = [record for seed in range(2) for record in stages(seed, places(seed))]
    moved = msgspec.structs.replace(records[3].result, images=list(range(1, 401)))
    records[3] = msgspec.structs.replace(records[3], result=moved)
    with pytest.raises(RobbenchError, match="expected runs tested on the same images, got others for demo/cnn7-mnist"):
        runs.read_runs([written(*records)])


def test_a_rate_of_runs_has_its_exact_interval():
    """No alarm in 72 runs bounds the rate by 5 %: 0.975 = 1 - (1 - 0.05) ** 72; none of none has no rate."""
    assert rates.Rate(0, 72).exact == "0.0% (0 of 72: 0% to 5%)"
    assert rates.Rate(1, 2).exact == "50.0% (1 of 2: 1% to 99%)"
    assert rates.Rate().exact == "–"


@given(
    found=st.lists(st.integers(MISCLASSIFIED, len(GRID)), min_size=1, max_size=60),
    loss=st.sampled_from(losses.PSTAR_LOSSES),
)
def test_a_planted_loss_of_pstar_only_lowers_what_was_found(found, loss):
    """By the share and at most one step more; wrong, censored and clean images stay, and so does the accuracy."""
    before = robustness_record(FACTS, found, grid=GRID)
    after = losses.lose_pstar(before, loss)
    assert after.robustness.clean == before.robustness.clean
    for old, new in zip(found, after.robustness.pstar, strict=True):
        if old in (MISCLASSIFIED, 0, len(GRID)):
            assert new == old
        else:
            assert max(1, old * (1 - loss) - 1) <= new <= math.ceil(old * (1 - loss))


@pytest.mark.parametrize("loss", losses.PSTAR_LOSSES)
def test_a_planted_loss_of_pstar_is_as_large_as_it_says(loss):
    """On average over many images, to a tenth of a step, whatever the grid."""
    found = np.random.default_rng(0).integers(5, 80, 20_000).tolist()
    lost = np.mean(losses.lose_pstar(robustness_record(FACTS, found, grid=GRID), loss).robustness.pstar)
    assert lost == pytest.approx((np.mean(found) - 0.5) * (1 - loss) + 0.5, abs=0.1)


@pytest.mark.parametrize(("points", "images"), [(0.01, 3), (0.02, 5)])
def test_a_planted_loss_of_accuracy_turns_correct_images_wrong(points, images):
    """So many points of all images, rounded up; the others keep their p*."""
    found = [MISCLASSIFIED] * 50 + places(1, count=200)
    before = robustness_record(FACTS, found, grid=GRID)
    after = losses.lose_accuracy(before, points).robustness
    assert after.clean == Counts(correct=200 - images, total=250)
    assert all(new in (old, MISCLASSIFIED) for old, new in zip(found, after.pstar, strict=True))
    training = losses.lose_accuracy(stages(0, found)[0], points).training
    assert training.validation == Counts(correct=90 - math.ceil(points * 100), total=100)
    assert [epoch.validation.correct for epoch in training.epochs] == [50, training.validation.correct, 50]


def test_a_planted_loss_is_found_and_none_is_not(written):
    """With the same seed: nothing without a loss, every model with a fifth of its p* lost, and only that one."""
    run = runs.read_runs([written(*stages(0, places(0)), *stages(0, places(1, 60), method="standard"))])
    same = [(run[0], run[0])]
    none = rates.seen(same, LOSSES["none"], GATE)
    assert (str(none.model), str(none.every), str(none.single)) == ("0.0% (0 of 2)", "0.0% (0 of 1)", "0.0% (0 of 2)")
    lost = rates.seen(same, LOSSES["20% of median p*"], GATE)
    assert (lost.model.hits, lost.every.hits, lost.single.hits) == (2, 1, 2)
    assert rates.seen(same, LOSSES["1 point of accuracy"], GATE).model.hits == 0  # 4 of 400: not significant


def test_alarms_of_another_seed_are_counted_per_comparison_and_per_run(written):
    """Of two pairs of seeds, one has a run that is a tenth less robust than its baseline, and the other one a better one."""
    middles = (40, 36, 36, 40)
    records = [record for seed, middle in enumerate(middles) for record in stages(seed, places(0, middle))]
    grid = rates.Grid(runs.pairs_of_seeds(runs.read_runs([written(*records)])))
    assert str(grid.per_comparison("median p*", 0.05)) == "50.0% (1 of 2)"
    assert str(grid.per_comparison("median p*", 0.10)) == "0.0% (0 of 2)"
    assert str(grid.per_comparison("validation accuracy", 0.01)) == "0.0% (0 of 2)"
    assert grid.per_run(0.05, 0.05).hits == 1
    assert grid.smallest(0.05) == [(0.1, 0.01)]
    assert grid.smallest(0.5) == [(0.05, 0.01)]


def test_seconds_of_runs_are_held_to_each_other(written):
    """A stage of ten seconds that took 14 fails at 1.25, not at 1.5; the shorter one has the floor."""
    records = [*stages(0, places(0)), *stages(1, places(0), seconds=14.0)]
    found = runs.pairs_of_seeds(runs.read_runs([written(*records)]))
    stage, whole = rates.slower(found, 1.25)
    assert (str(stage), str(whole)) == ("50.0% (1 of 2)", "100.0% (1 of 1)")
    assert rates.slower(found, 1.5)[0].hits == 0


def test_the_tables_are_printed(written, capsys):
    """The declared tolerances are those of the suite's marker."""
    folder = written(*(record for seed in range(2) for record in stages(seed, places(seed))))
    assert error_rates.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 runs of 2 stages, seeds 0, 1: 1 distinct pair of")
    assert "| default: 5%, 1 point | 20% of median p\\* | 100.0% (2 of 2) |" in printed
    assert (
        "Smallest tolerances that alarm in at most 5% of the runs with another seed: pstar=0.05, accuracy=0.01"
        in printed
    )


def test_a_bundle_that_is_missing_is_an_error(tmp_path, capsys):
    """Status 2 and one line."""
    assert error_rates.main([str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error_rates: ")
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
