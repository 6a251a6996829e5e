"""What a run knows: its settings, the studies collected, where stages run, and progress."""

from __future__ import annotations

import re
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from robbench.errors import RobbenchError
from robbench.gate.verdicts import Tolerances
from robbench.plugin.code import code_of_run
from robbench.plugin.settings import Settings
from robbench.report.terminal import progress_line
from robbench.spec import Model, Study
from robbench.spec.command_line import adapt, names
from robbench.store.files import check_writable
from robbench.store.locks import among_the_living, to_stderr

if TYPE_CHECKING:
    import torch

    from robbench.stages.context import RunContext


@dataclass
class Session:
    """One pytest run, or one pytest-xdist worker of it."""

    config: pytest.Config
    settings: Settings
    run: str
    """Identifies the run; the same in all its workers."""
    began: float
    """When the run began, in seconds since 1970; the same in all its workers."""
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What every study of which a test was set up consists of: notes, and stages by case, stage, digest, source, variant."""
    studies: dict[str, Study] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    """Data-set names that a replacement found."""
    ending: bool = False
    """Whether the last test has run."""
    measures: bool = False
    """Whether a benchmark of robbench itself was selected."""
    selected: dict[str, list[Model]] = field(default_factory=dict)
    """Models of the items that this run selected, by study."""
    faults: dict[str, dict[str, str]] = field(default_factory=dict)
    """What is wrong with the models of each study that was looked at, by id; with all of them under no name."""
    told: set[str] = field(default_factory=set)
    """Faults that were told in full."""
    said: list[str] = field(default_factory=list)
    """What stages had to say beside their results, since the last one's end."""
    switches: ExitStack = field(default_factory=ExitStack)
    """What the run switched on, and its end puts back."""
    shown: float = 0.0
    showing: tuple[str, float] = ("", 0.0)
    """What the progress line is about, and since when."""

    @cached_property
    def context(self) -> RunContext:
        """Where stages run; made when the first one does, since it needs torch.

        Raises:
            RobbenchError: the device or the store cannot be had.
        """
        from robbench.machine.determinism import deterministic_algorithms
        from robbench.stages.context import RunContext
        from robbench.store.store import Store

        device, since = self.device, self.since
        if self.settings.deterministic:
            self.switches.enter_context(deterministic_algorithms())
        return RunContext(
            store=Store(self.settings.store, self.run, self.code),
            data=self.settings.data,
            device=device,
            download=self.settings.download,
            resume=self.settings.resume,
            keep_adversarials=self.settings.keep_adversarials,
            show=self.show,
            say=self.said.append,
            announce=self.announce,
            began=since,
        )

    @cached_property
    def since(self) -> float:
        """When the first of the runs of this code began that share the store with this one: one of them from now to its end.

        Raises:
            RobbenchError: the store cannot be written.
        """
        living = among_the_living(self.settings.store / "processes", self.began, self.code)
        return self.switches.enter_context(living)

    def share(self) -> None:
        """Count as one of the runs that share the store from now on, if it can be written; every stage says if it cannot."""
        with suppress(RobbenchError):
            _ = self.since

    @cached_property
    def code(self) -> str:
        """Identifies robbench's and the project's code; a controller of pytest-xdist has its workers'."""
        models = (model for chosen in self.selected.values() for model in chosen)
        return code_of_run(self.config.rootpath, {model.architecture for model in models})

    @cached_property
    def device(self) -> torch.device:
        """What stages run on.

        Raises:
            RobbenchError: there is no such device.
        """
        from robbench.machine.environment import choose_device

        return choose_device(self.settings.device, self._worker)

    @property
    def _worker(self) -> int:
        """Number of the pytest-xdist worker that this is: 3 in gw3; 0 without."""
        digits = re.search(r"\d+$", getattr(self.config, "workerinput", {}).get("workerid", ""))
        return int(digits[0]) if digits else 0

    def show(self, what: str, done: float, total: float) -> None:
        """Draw a progress line, five times a second at most, and only on a terminal."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        now = time.monotonic()
        if reporter is None or not reporter.isatty or now - self.shown < 0.2:
            return
        if self.showing[0] != what:
            self.showing = (what, now)
        self.shown = now
        self._draw(reporter, f"  {progress_line(what, done, total, now - self.showing[1])}")

    def announce(self, text: str) -> None:
        """Write a line at once; a worker of pytest-xdist, whose terminal nobody sees, on the run's standard error."""
        self.clear()
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        with self._uncaptured():
            if reporter is None or hasattr(self.config, "workerinput"):
                to_stderr(text)
            else:
                reporter.write_line(text)
                reporter.flush()

    def clear(self) -> None:
        """Wipe the progress line, if one was drawn."""
        if self.shown:
            self.shown = 0.0
            self._draw(self.config.pluginmanager.get_plugin("terminalreporter"), "")

    def _draw(self, reporter: Any, line: str) -> None:
        with self._uncaptured():
            reporter.rewrite(line, erase=True)
            reporter.write("\r", flush=True)

    def _uncaptured(self) -> AbstractContextManager[None]:
        """While it lasts, what is written reaches the terminal, whatever pytest captures."""
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else nullcontext()

    def study(self, declared: Study) -> Study:
        """The study as this run's options want it, remembered by its name.

        Raises:
            RobbenchError: two studies of one name.
        """
        self.replaced |= names(declared) & set(self.settings.datasets)
        study = adapt(
            declared,
            protocol=self.settings.protocol,
            datasets=self.settings.datasets,
            seeds=self.settings.seeds,
            quick=self.settings.quick,
        )
        known = self.studies.setdefault(study.name, study)
        if known != study:
            raise RobbenchError(f"study {study.name!r}: expected one study of this name, got two that differ")
        return study

    def preflight(self, study: str, model: str) -> None:
        """Check all selected models of a study before the first of its stages runs; those without fault go on.

        Raises:
            RobbenchError: a data set, shape or checkpoint of this model is at fault, or a folder; in full once only.
        """
        if study not in self.faults:
            self.faults[study] = self._faults(study)
        faults = self.faults[study]
        fault = faults.get("") or faults.get(model)
        if fault is None:
            return
        if fault in self.told:
            raise RobbenchError(f"not run: {fault.partition(';')[0]}")
        self.told.add(fault)
        raise RobbenchError(fault)

    def _faults(self, study: str) -> dict[str, str]:
        from robbench.estimation.audit import check_audit
        from robbench.stages.pipeline import check

        settings, faults = self.settings, {}
        try:
            for folder in (settings.report, *([settings.baselines] if settings.update else [])):
                check_writable(folder)
            check_audit(self.studies[study].estimate.audit)
            context = self.context
        except RobbenchError as error:
            return {"": str(error)}
        for model in self.selected.get(study, []):
            try:
                check(model, context)
            except RobbenchError as error:
                faults[model.id] = str(error)
            except (KeyboardInterrupt, pytest.exit.Exception):
                raise
            except BaseException as error:  # a network is the user's code: the others' models go on
                faults[model.id] = f"{model.id}: its check failed with {error!r}"
        return faults

    def plan(self, study: Study) -> dict[str, dict[str, Any]]:
        """A study's plan by its name, as plain values, which workers can send; nothing where it was given before.

        A study whose digests cannot be taken (a checkpoint is missing) has none: none of its stages has a result.
        """
        if study.name in self.plans:
            return {}
        try:
            stages = [
                (model.id, stage, digest, model.source.id if model.source else "", model.variant or "")
                for model in study.models()
                for stage, digest in (("training", model.digest), ("robustness", model.estimate_digest(study.estimate)))
            ]
        except RobbenchError:
            return {}
        plan = {"protocol": study.protocol, "notes": list(study.notes()), "stages": stages}
        self.plans[study.name] = plan
        return {study.name: plan}


SESSION = pytest.StashKey[Session]()


def marked(node: Any) -> tuple[Study, Tolerances] | None:
    """Study and tolerances of a node's ``suite`` marker, checked.

    Raises:
        RobbenchError: the marker's first argument is no Study, or a tolerance is unknown or no number.
    """
    mark = node.get_closest_marker("suite")
    if mark is None:
        return None
    if len(mark.args) != 1 or not isinstance(mark.args[0], Study):
        raise RobbenchError(f"marker suite: expected suite(study, **tolerances) with a Study, got suite{mark.args!r}")
    return mark.args[0], Tolerances.of(mark.kwargs)
