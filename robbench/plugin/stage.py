"""The ``robbench`` fixture: runs the one stage a test is about, measures it, and holds it to its baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from robbench.errors import RobbenchError
from robbench.gate.baselines import Baseline, baseline_path, read_baseline, write_baseline
from robbench.gate.verdicts import Mark, Tolerances, Verdict, compare
from robbench.plugin.session import SESSION, marked
from robbench.record import Record
from robbench.report.text import printable, printable_lines
from robbench.spec import Model, Study

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


class Robbench:
    """What a suite's test gets: one call runs, measures and judges one stage of one model."""

    def __init__(self, request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> None:
        self._item = request.node
        self._session = request.config.stash[SESSION]
        self._benchmark = benchmark

    def train(self, model: Model) -> Record:
        """Train, transfer or load a model; fails the test on a regression of validation accuracy or seconds."""
        from robbench.stages.pipeline import run_training

        study, tolerances = self._study()
        return self._stage(
            study, tolerances, model, "training", lambda: run_training(model, self._session.context, suite=study.name)
        )

    def estimate(self, model: Model) -> Record:
        """Estimate p* of a model; fails the test on a regression of accuracy, median p* or seconds."""
        from robbench.stages.pipeline import run_estimate

        study, tolerances = self._study()
        return self._stage(
            study,
            tolerances,
            model,
            "robustness",
            lambda: run_estimate(model, study.estimate, self._session.context, suite=study.name),
        )

    def _study(self) -> tuple[Study, Tolerances]:
        found = marked(self._item)
        if found is None:
            pytest.fail("the robbench fixture: expected a test marked with pytest.mark.suite(study)", pytrace=False)
        return self._session.study(found[0]), found[1]

    def _stage(
        self, study: Study, tolerances: Tolerances, model: Model, stage: str, run: Callable[[], Record]
    ) -> Record:
        properties, settings = self._item.user_properties, self._session.settings
        properties.append(("robbench_stage", f"{study.name}/{model.id}.{stage}"))
        self._benchmark.params = {"model": model.id}
        clock = self._item.get_closest_marker("benchmark").kwargs["timer"]
        baseline: Baseline | None = None

        def measured() -> Record:
            nonlocal baseline
            self._session.preflight(study.name, model.id)
            if not settings.quick:  # even where it is renewed: what is not ours is not written over
                baseline = read_baseline(settings.baselines, study.name, model.id, stage)
            record: Record = run()
            clock.advance(record.seconds.measured)
            return record

        fault = ""
        try:
            record: Record = self._benchmark.pedantic(measured, rounds=1, iterations=1)  # type: ignore[no-untyped-call]
            verdicts = self._judge(record, baseline, tolerances)
        except RobbenchError as error:
            fault = printable_lines(str(error))
        finally:
            self._session.clear()
            properties.extend(("robbench_said", text) for text in self._session.said)
            self._session.said.clear()
        if fault:  # outside the except block, so that the message stands once and alone
            properties.append(("robbench_fault", fault))
            pytest.fail(fault, pytrace=False)
        figures = _figures(record)
        self._benchmark.extra_info.update(figures)
        properties.extend((name, value) for name, value in figures.items() if value is not None)
        properties.append(("robbench_verdicts", msgspec.json.encode(verdicts).decode()))
        failures = [printable(verdict.message) for verdict in verdicts if verdict.fails]
        if failures:
            pytest.fail(f"{study.name}/{model.id}: " + "\n  ".join(failures), pytrace=False)
        return record

    def _judge(self, record: Record, baseline: Baseline | None, tolerances: Tolerances) -> list[Verdict]:
        settings = self._session.settings

        def one(mark: Mark, message: str) -> list[Verdict]:
            return [
                Verdict(
                    suite=record.suite,
                    case=record.case,
                    stage=record.stage,
                    figure="baseline",
                    mark=mark,
                    message=message,
                )
            ]

        if settings.quick:
            return one("quick", "quick scale")
        if settings.update:
            path = write_baseline(settings.baselines, record)
            return one("new", f"wrote {path.name}")
        if baseline is None:
            path = baseline_path(settings.baselines, record.suite, record.case, record.stage)
            return one(
                "missing",
                f"no baseline at {path}; make it from this run with --robbench-update (and --robbench-resume)",
            )
        return compare(record, baseline, tolerances)


def _figures(record: Record) -> dict[str, Any]:
    """A record's figures as plain, finite values: for pytest-benchmark's JSON and JUnit XML."""
    figures: dict[str, Any] = {
        "digest": record.digest,
        "dataset": record.data.name,
        "device": record.environment.slug,
        "seconds": record.seconds.measured,
    }
    if (training := record.training) is not None:
        figures |= {"epochs": len(training.epochs), "validation_accuracy": training.validation.share}
    if (robustness := record.robustness) is not None:
        median = robustness.median
        censored = median is not None and median == float("inf")
        figures |= {
            "accuracy": robustness.clean.share,
            "median_pstar": None if censored else median,
            "median_pstar_censored": censored,
            "forward_passes": robustness.forward,
            "backward_passes": robustness.backward,
        }
        for tested in robustness.attacks:
            name = f"pgd{tested.steps}" if tested.attack == "pgd" else tested.attack
            figures[f"robust_accuracy_{name}_{tested.epsilon:.4g}"] = tested.robust.share
    return figures
