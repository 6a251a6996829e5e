"""The options that let workers of dask make the stages: what is submitted, and what ends a run before it begins."""

from __future__ import annotations

from importlib import import_module

import pytest
from distributed import LocalCluster

import robbench.stages.training_stage
from robbench.plugin.session import asked_of
from robbench.spec.suite_files import read_studies


def test_an_address_without_a_scheduler_ends_the_run_before_it_begins(one, errors, monkeypatch):
    """One sentence, exit status 4; where nothing would run, nobody is asked."""
    monkeypatch.setattr("robbench.cluster.connect.PATIENCE", 0.5)
    result = one("--robbench-scheduler=tcp://127.0.0.1:1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--robbench-scheduler: expected the address of a dask scheduler that runs, such as" in errors(result)
    assert one("--robbench-scheduler=tcp://127.0.0.1:1", "--collect-only", "-q").ret == pytest.ExitCode.OK


def test_without_dask_the_options_say_what_to_install(one, errors, monkeypatch):
    """And nothing else changes."""
    monkeypatch.setattr(import_module("robbench.cluster.connect"), "find_spec", lambda name: None)
    result = one("--robbench-workers=2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "expected dask.distributed, which is not installed; pip install 'robbench[cluster]'" in errors(result)


def test_a_stage_that_fails_on_three_workers_fails_its_item(tiny, errors, monkeypatch):
    """And what depends on it, with the reason; all other items pass."""
    train = robbench.stages.training_stage.train_model

    def fail(work):
        if "pgd" in work.task.name:
            raise OSError("no space left on device")
        return train(work)

    monkeypatch.setattr(robbench.stages.training_stage, "train_model", fail)
    with LocalCluster(n_workers=3, processes=False, threads_per_worker=1, dashboard_address="127.0.0.1:0") as local:
        options = (f"--robbench-scheduler={local.scheduler_address}", "--robbench-device=cpu", "--robbench-update")
        result = tiny(*options, "-k", "glyphs10")
    result.assert_outcomes(passed=2, failed=2, deselected=6)
    said = "glyphs10-pgd.training failed 3 times, at last on .*: OSError: no space left on device"
    result.stdout.re_match_lines([f".*{said}"])
    errors(result)


def _train(model, robbench):
    robbench.train(model)


def _both(model, robbench):
    robbench.train(model)
    robbench.stage("robustness", model)


def _by_another_function(model, robbench):
    _both(model, robbench)


@pytest.mark.parametrize(
    ("function", "stages"),
    [(_train, ["training"]), (_both, ["training", "robustness"]), (_by_another_function, [])],
)
def test_what_an_item_will_ask_for_is_read_from_its_code(write_suite, pytester, function, stages):
    """So that it is submitted with all others; what cannot be read is submitted when it is asked for."""
    write_suite()
    (study,) = read_studies(pytester.path / "test_tiny.py")

    class Item:
        callspec = type("", (), {"params": {"model": study.models()[0]}})

    Item.function = staticmethod(function)
    assert [task.stage for task in asked_of(Item, study)] == stages
