"""What came of a run: collects the stages' outcomes, writes the bundles, prints the table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robbench.errors import RobbenchError
from robbench.plugin.session import Session

if TYPE_CHECKING:
    from robbench.gate.verdicts import Verdict
    from robbench.record import Record
    from robbench.report import Bundle


class Results:
    """Registered in the process that reports: the only one, or the controller of pytest-xdist's workers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._outcomes: dict[str, dict[str, str]] = {}
        """By ``study/case.stage``, of every stage that ran; the last one counts."""
        self._earlier: dict[str, list[str]] = {}
        self._bundles: list[tuple[Bundle, Path]] = []
        self._faults: list[str] = []
        self._remarks: list[str] = []
        self._interrupted = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what a stage sent with its report, and the plan of its study."""
        if plan := getattr(report, "robbench_plan", None):
            self._session.plans[plan["study"]] = plan
            self._session.end_on_sigterm()  # a controller of pytest-xdist collects nothing itself
        outcome = getattr(report, "robbench_outcome", None)
        if outcome is not None:
            if report.failed and not {"fault", "verdicts"} & outcome.keys():
                outcome = {**outcome, "fault": report.longreprtext.strip().splitlines()[-1]}
            self._outcomes[outcome["stage"]] = outcome

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Collect what a worker of pytest-xdist found in the store."""
        for study, records in getattr(node, "workeroutput", {}).get("robbench_earlier", {}).items():
            self._earlier.setdefault(study, []).extend(records)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Say how to go on after Ctrl-C, SIGTERM or ``pytest.exit``."""
        if self._session.plans and excinfo.type in (KeyboardInterrupt, pytest.exit.Exception):
            self._interrupted = True
            self._faults.append(f"{self._session.ended_by} this goes on with what is left: {self._going_on()}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write a bundle for every study of which a stage has a result."""
        with_result = {name.partition("/")[0] for name, outcome in self._outcomes.items() if "record" in outcome}
        if not with_result:
            return
        for study, records in self._session.earlier().items():
            self._earlier.setdefault(study, []).extend(records)
        for name in sorted(with_result):
            try:
                self._bundles.append(self._write(self._session.plans[name]))
            except KeyboardInterrupt:
                self._faults.append(f"interrupted while reports were written; this writes them: {self._going_on()}")
                session.exitstatus = pytest.ExitCode.INTERRUPTED
                return
            except RobbenchError as error:
                self._faults.append(f"no report of study {name!r}: {error}")
                if session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a table per study, what fails, and where the bundle lies."""
        if not self._outcomes and not self._faults:
            return
        from robbench.report.plain_text import for_terminal
        from robbench.report.terminal import busy, legend, recommended, table, warnings

        def say(text: str, **markup: bool) -> None:
            terminalreporter.write_line(for_terminal(text), **markup)

        for bundle, path in self._bundles:
            terminalreporter.section(f"robbench: {bundle.title}")
            say(table(bundle.records, bundle.verdicts))
            say("")
            if marks := legend(bundle.verdicts):
                say(marks)
            for line in recommended(bundle.records, bundle.accuracy_floors):
                say(line)
            for warning in (*warnings(bundle.records), busy(bundle.records)):
                if warning:
                    say(warning, yellow=True)
            if failing := sum(verdict.fails for verdict in bundle.verdicts):
                said = f"{failing} figure{' fails' if failing == 1 else 's fail'}, see above"
                say(said, red=True)
            say(f"report: {path.with_suffix('.html')}", bold=True)
        reused = sum("reused" in outcome for outcome in self._outcomes.values())
        if reused:
            said = (
                f"{reused} of {len(self._outcomes)} stages were taken from the store; --robbench-fresh makes them again"
            )
            say(said)
        for remark in self._remarks:
            say(remark, yellow=True)
        for fault in dict.fromkeys(self._faults):
            say(fault, red=True)

    def _write(self, plan: dict[str, Any]) -> tuple[Bundle, Path]:
        """Write the bundle of a study: what ran, and what the store has of its other stages."""
        from robbench.report import Bundle, write_bundle

        study, settings = plan["study"], self._session.settings
        records, missing = self._records(plan)
        notes = list(plan["notes"])
        if plan["protocol"] == "thesis":
            notes.append("thesis protocol: the published code's departures from sound practice are switched on")
        if settings.quick:
            notes.append("quick scale: every stage ran, but no figure here means anything")
        if self._interrupted:
            notes.append("this run was interrupted before its end")
        notes += self._undeclared(plan)
        bundle = Bundle(
            title=study,
            command=self._command(),
            notes=notes,
            verdicts=self._verdicts(study),
            records=records,
            missing=missing,
            tolerances=self._tolerances(study),
            accuracy_floors={} if plan["accuracy_floor"] is None else {study: plan["accuracy_floor"]},
        )
        return bundle, write_bundle(settings.report / study, bundle)

    def _undeclared(self, plan: dict[str, Any]) -> list[str]:
        """A sentence that names the baselines of what a study no longer declares; an update removes them."""
        from robbench.gate.baselines import undeclared

        study, settings = plan["study"], self._session.settings
        paths = undeclared(settings.baselines, study, [f"{case}.{stage}" for case, stage in plan["stages"]])
        if not paths:
            return []
        for path in paths if settings.update else ():
            path.unlink(missing_ok=True)
        done = "these baselines were removed" if settings.update else "--robbench-update removes these baselines"
        said = f"study {study!r} no longer declares their models or stages, {done}: {', '.join(path.stem for path in paths)}"
        self._remarks.append(said)
        return [said]

    def _tolerances(self, study: str) -> dict[str, dict[str, float | None]]:
        """What the markers of a study's tests declare, by the kind of stage that they run."""
        import msgspec

        return {
            f"{study}/{name.rpartition('.')[2]}": declared
            for name, outcome in self._outcomes.items()
            if name.startswith(f"{study}/") and (declared := msgspec.json.decode(outcome.get("tolerances", "{}")))
        }

    def _verdicts(self, study: str) -> list[Verdict]:
        import msgspec

        from robbench.gate.verdicts import Verdict

        found: list[Verdict] = []
        for name, outcome in self._outcomes.items():
            suite, _, stage = name.partition("/")
            if suite != study:
                continue
            if "verdicts" in outcome:
                found += msgspec.json.decode(outcome["verdicts"], type=list[Verdict])
            elif "fault" in outcome:
                case, _, kind = stage.rpartition(".")
                fault = outcome["fault"]
                found.append(Verdict(suite=suite, case=case, stage=kind, figure="result", mark="error", message=fault))
        return found

    def _records(self, plan: dict[str, Any]) -> tuple[list[Record], list[str]]:
        """The records of a study's stages in their order, and the names of those without one."""
        import msgspec

        from robbench.record import Record

        study = plan["study"]
        texts = [outcome["record"] for outcome in self._outcomes.values() if "record" in outcome]
        earlier = [msgspec.json.decode(text, type=Record) for text in self._earlier.get(study, ())]
        found = {(record.case, record.stage): record for record in earlier}
        ran = [msgspec.json.decode(text, type=Record) for text in texts]
        found |= {(record.case, record.stage): record for record in ran if record.suite == study}
        records, missing = [], []
        for case, stage in plan["stages"]:
            failed = "fault" in self._outcomes.get(f"{study}/{case}.{stage}", {})
            if (case, stage) not in found or failed:
                missing.append(f"{study}/{case}.{stage}")
            else:
                records.append(found[case, stage])
        return records, missing

    def _going_on(self) -> str:
        """The command that takes from the store what this run finished."""
        return self._command().replace(" --robbench-fresh", "")

    def _command(self) -> str:
        return shlex.join(["pytest", *map(str, self._session.config.invocation_params.args)])
