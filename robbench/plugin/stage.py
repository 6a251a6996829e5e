"""The ``robbench`` fixture: runs the one stage a test is about, measures it, and holds it to its baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from robbench.errors import RobbenchError
from robbench.gate.baselines import Baseline, baseline_path, read_baseline, write_baseline
from robbench.gate.verdicts import Mark, Tolerances, Verdict, compare, level_of
from robbench.plugin.session import OUTCOME, SESSION, suite_mark
from robbench.record import Record
from robbench.report.plain_text import for_terminal
from robbench.spec import Model, Study
from robbench.stages import Task, task_of, tasks_of

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


class Robbench:
    """What a suite's test gets: one call runs, measures and judges one stage of one model."""

    def __init__(self, request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> None:
        self._item = request.node
        self._mark = suite_mark(request.node)
        self._session = request.config.stash[SESSION]
        self._benchmark = benchmark

    def train(self, model: Model) -> Record:
        """Train, transfer or load a model; fails the test on a regression of validation accuracy or seconds."""
        return self.stage("training", model)

    def estimate(self, model: Model, search: str | None = None) -> Record:
        """Estimate p* of a model; fails the test on a regression of accuracy, median p* or seconds.

        ``search`` names one of the study's second estimates (:class:`robbench.Also`).
        """
        return self.stage(f"robustness-{search}" if search else "robustness", model)

    def bound(self, model: Model) -> Record:
        """Certify which radii hold no counterexample; fails the test on a regression of the median certified radius."""
        return self.stage("bounds", model)

    def drift(self, model: Model) -> Record:
        """Measure how far an attack moves the features that a transfer keeps; skips a model that keeps none frozen."""
        return self.stage("drift", model)

    def stage(self, name: str, model: Model) -> Record:
        """Run the stage of this name that the study asks of a model, after the stages that it needs."""
        if self._mark is None:
            pytest.fail("the robbench fixture: expected a test marked with pytest.mark.suite(study)", pytrace=False)
        study = self._session.study(self._mark.args[0])
        stages = {(task.stage, task.model) for task in tasks_of(study)}
        if (name, model) not in stages and name in {stage for stage, _ in stages}:
            pytest.skip(f"study {study.name!r} asks for {name!r} of other models only")
        outcome = self._item.stash[OUTCOME] = {"stage": f"{study.name}/{model.id}.{name}"}
        try:
            record, verdicts = self._measured(study, task_of(study, name, model))
        except RobbenchError as error:
            outcome["fault"] = str(error)
        finally:
            self._session.progress.clear()
        if "fault" in outcome:  # outside the except block, so that the message stands once and alone
            pytest.fail(for_terminal(outcome["fault"]), pytrace=False)
        outcome["record"] = msgspec.json.encode(record).decode()
        outcome["verdicts"] = msgspec.json.encode(verdicts).decode()
        outcome["tolerances"] = msgspec.json.encode(self._mark.kwargs).decode()
        if failures := [verdict.message for verdict in verdicts if verdict.fails]:
            pytest.fail(for_terminal(f"{study.name}/{model.id}: " + "\n  ".join(failures)), pytrace=False)
        return record

    def _measured(self, study: Study, task: Task) -> tuple[Record, list[Verdict]]:
        """Run a stage under pytest-benchmark, whose clock moves by the seconds that the stage measured itself."""
        settings, model = self._session.settings, task.model
        clock = self._item.get_closest_marker("benchmark").kwargs["timer"]
        baseline: Baseline | None = None

        def run() -> Record:
            nonlocal baseline
            self._session.preflight(study.name, model.id, task.name)
            if not settings.quick:  # even where it is renewed: a file that is not ours is not written over
                baseline = read_baseline(settings.baselines, study.name, model.id, task.stage)
            context = self._session.context
            record = self._session.run(task, study.name)
            if record.key not in context.made:
                self._item.stash[OUTCOME]["reused"] = "yes"
            clock.advance(record.seconds.measured)
            return record

        self._benchmark.params = {"model": model.id}
        record: Record = self._benchmark.pedantic(run, rounds=1, iterations=1)  # type: ignore[no-untyped-call]
        figures = {
            "digest": record.digest,
            "dataset": record.data.name,
            "device": record.environment.slug,
            "seconds": record.seconds.measured,
            **record.figures,
        }
        self._benchmark.extra_info.update(figures)
        kept = [pair for pair in self._item.user_properties if pair[0] not in figures]  # of a run before, by --reruns
        self._item.user_properties[:] = [
            *kept,
            *((name, value) for name, value in figures.items() if value is not None),
        ]
        return record, self._judged(study, record, baseline)

    @property
    def _tolerances(self) -> Tolerances:
        return Tolerances.of(self._mark.kwargs if self._mark else {})

    def _judged(self, study: Study, record: Record, baseline: Baseline | None) -> list[Verdict]:
        settings = self._session.settings
        if settings.quick:
            return [_verdict(record, "quick", "quick scale")]
        if settings.update:
            return [_verdict(record, "new", f"wrote {write_baseline(settings.baselines, record).name}")]
        if baseline is None:
            path = baseline_path(settings.baselines, record.suite, record.case, record.stage)
            return [_verdict(record, "missing", f"no baseline at {path}; write it with --robbench-update")]
        return compare(record, baseline, self._tolerances, level_of(task.kind for task in tasks_of(study)))


def _verdict(record: Record, mark: Mark, message: str) -> Verdict:
    return Verdict(
        suite=record.suite, case=record.case, stage=record.stage, figure="baseline", mark=mark, message=message
    )
