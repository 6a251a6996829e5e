"""What came of a run: collects the stages' outcomes, writes the bundles, prints the table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from robbench.errors import RobbenchError
from robbench.gate.verdicts import Verdict
from robbench.plugin.session import Session
from robbench.plugin.signals import TERMINATED, Terminated, one_at_a_time
from robbench.record import Record, as_case
from robbench.report.terminal import busy, legend, table, warnings
from robbench.store.interruption import postponed
from robbench.store.locks import locked

if TYPE_CHECKING:
    from robbench.report import Bundle
    from robbench.store.store import Finished


class Results:
    """Registered in the process that reports: the only one, or the controller of pytest-xdist's workers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._digests: dict[tuple[str, str], str] = {}
        """Of every stage that ran, by study and ``case.stage``; empty where it failed before it had a result."""
        self._verdicts: list[Verdict] = []
        self._bundles: list[tuple[Bundle, Path]] = []
        self._said: list[str] = []
        self._faults: list[str] = []
        self._interrupted = self._terminated = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what a stage sent in its properties, and the plan of its study."""
        self._session.plans |= getattr(report, "robbench_plans", {})
        if code := getattr(report, "robbench_code", ""):
            self._session.code = code  # to a controller of pytest-xdist, which collects nothing and lives longest
            self._session.share()
            one_at_a_time(self._session.config)
        properties = dict(report.user_properties)
        if report.when != "call" or "robbench_stage" not in properties:
            return
        study, _, stage = str(properties["robbench_stage"]).partition("/")
        self._digests[study, stage] = str(properties.get("digest", ""))
        self._said += [str(text) for name, text in report.user_properties if name == "robbench_said"]
        if report.failed and "robbench_verdicts" not in properties:
            case, _, kind = stage.rpartition(".")
            message = str(properties.get("robbench_fault") or report.longreprtext.strip().splitlines()[-1])
            self._verdicts.append(
                Verdict(suite=study, case=case, stage=kind, figure="result", mark="error", message=message)
            )
        if "robbench_verdicts" in properties:
            self._verdicts += msgspec.json.decode(str(properties["robbench_verdicts"]), type=list[Verdict])

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Say how to go on after SIGINT, SIGTERM or ``pytest.exit``."""
        if excinfo.type not in (KeyboardInterrupt, Terminated, pytest.exit.Exception):
            return  # such as -x among workers of pytest-xdist
        self._interrupted, self._terminated = True, excinfo.type is Terminated
        if self._session.plans or self._session.studies:
            arguments = [*map(str, self._session.config.invocation_params.args)]
            arguments += ["--robbench-resume"] if "--robbench-resume" not in arguments else []
            self._faults.append(f"interrupted; this goes on with what is left: {shlex.join(['pytest', *arguments])}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write a bundle for every study of which a stage ran; signals change nothing any more."""
        if self._terminated:
            session.exitstatus = TERMINATED
        ran = {study for (study, _), digest in self._digests.items() if digest}
        with postponed(dropped=True):
            for name in sorted(ran & self._session.plans.keys()):
                try:
                    self._bundles.append(self._write(name, self._session.plans[name]))
                except RobbenchError as error:
                    self._faults.append(f"no report of study {name!r}: {error}")
                    if session.exitstatus == pytest.ExitCode.OK:
                        session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a table per study, what fails, and where the bundle lies."""
        for bundle, path in self._bundles:
            terminalreporter.section(f"robbench: {bundle.title}")
            terminalreporter.write_line(table(bundle.records, bundle.verdicts))
            failing = sum(verdict.fails for verdict in bundle.verdicts)
            terminalreporter.write_line("")
            if marks := legend(bundle.verdicts):
                terminalreporter.write_line(marks)
            for warning in warnings(bundle.records):
                terminalreporter.write_line(warning, yellow=True)
            if said := busy(bundle.records):
                terminalreporter.write_line(said, yellow=True)
            if failing:
                terminalreporter.write_line(
                    f"{failing} figure{' fails' if failing == 1 else 's fail'}, see above", red=True
                )
            terminalreporter.write_line(f"report: {path}", bold=True)
        for text in dict.fromkeys(self._said):
            terminalreporter.write_line(text)
        for fault in dict.fromkeys(self._faults):
            terminalreporter.write_line(fault, red=True)

    def _write(self, study: str, plan: dict[str, Any]) -> tuple[Bundle, Path]:
        """Gather a study's records and write its bundle, while no other run does: the last to write knows of all stages."""
        with locked(self._session.settings.report / study, self._session.announce):
            return self._write_alone(study, plan)

    def _write_alone(self, study: str, plan: dict[str, Any]) -> tuple[Bundle, Path]:
        from robbench.report import Bundle, write_bundle

        settings = self._session.settings
        records, missing, earlier = self._records(study, plan)
        notes = list(plan["notes"])
        if plan["protocol"] == "thesis":
            notes.append("thesis protocol: the published code's departures from sound practice are switched on")
        if settings.quick:
            notes.append("quick scale: every stage ran, but no figure here means anything")
        if self._interrupted:
            notes.append("this run was interrupted before its end")
        if earlier:
            notes.append(f"{earlier} of this run's {len(records)} stages come from the store, same digest")
        command = shlex.join(["pytest", *map(str, self._session.config.invocation_params.args)])
        bundle = Bundle(
            title=study,
            command=command.encode(errors="backslashreplace").decode(),  # file names may be no text
            notes=notes,
            verdicts=[verdict for verdict in self._verdicts if verdict.suite == study],
            records=records,
            missing=[f"{study}/{name}" for name in missing],
        )
        return bundle, write_bundle(settings.report / study, bundle)

    def _records(self, study: str, plan: dict[str, Any]) -> tuple[list[Record], list[str], int]:
        """Records of the study's stages, what is missing, and how many come from earlier runs.

        An earlier stage counts only with the same digest, where it and its source had the images of this run, and where
        it began with the weights that the store has now.
        """
        from robbench.store.store import Store

        store = Store(self._session.settings.store, self._session.run)
        found: dict[tuple[str, str], Record] = {}
        stages: dict[tuple[str, str], Finished] = {}
        for case, stage, digest, source, variant in plan["stages"]:
            try:
                finished = store.finished(digest)
            except RobbenchError as error:
                self._faults.append(str(error))
                continue
            if finished is not None and self._digests.get((study, f"{case}.{stage}")) != "":
                stages[case, stage] = finished
                found[case, stage] = as_case(
                    finished.record, suite=study, case=case, source_case=source or None, variant=variant or None
                )
        ran = {key for key in found if (study, ".".join(key)) in self._digests}
        images = {found[key].data.name: found[key].data.sha256 for key in ran}
        stale = {
            case
            for (case, stage), record in found.items()
            if (case, stage) not in ran and images.get(record.data.name, record.data.sha256) != record.data.sha256
        }
        former = {
            (case, stage)
            for case, stage, _, source, _ in plan["stages"]
            if (case, stage) in stages.keys() - ran
            and (trained := stages.get((case if stage == "robustness" else source, "training"))) is not None
            and stages[case, stage].made_from not in (None, trained.weights_sha256)
        }
        records, missing = [], []
        for case, stage, _, source, _ in plan["stages"]:
            outdated = {case, source} & stale or {(case, stage), (case, "training")} & former
            current = (case, stage) in ran or not outdated
            if (case, stage) in found and current:
                records.append(found[case, stage])
            else:
                missing.append(f"{case}.{stage}")
        return records, missing, len(records) - len(ran)
