"""What a run knows: its settings, the studies collected, and where their stages run."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest

from robbench.errors import RobbenchError, unknown
from robbench.plugin.progress import Progress
from robbench.plugin.settings import Settings

if TYPE_CHECKING:
    import torch

    from robbench.cluster.controller import Cluster
    from robbench.record import Record
    from robbench.spec import Model, Study
    from robbench.stages import Task
    from robbench.stages.context import RunContext
    from robbench.stages.graph import Graph


@dataclass
class Session:
    """One pytest run, or one pytest-xdist worker of it."""

    config: pytest.Config
    settings: Settings
    studies: dict[str, Study] = field(default_factory=dict)
    """As this run's options want them, by name."""
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What every study of which a test was set up consists of, as :meth:`plan` gives it."""
    replaced: set[str] = field(default_factory=set)
    """Names of data sets that ``--robbench-dataset`` found and replaced."""
    selected: dict[str, list[Model]] = field(default_factory=dict)
    """Models of the items that this run selected, by study."""
    faults: dict[str, dict[str, str]] = field(default_factory=dict)
    """What is wrong with the models of each study, by model id; with all of them under an empty name."""
    told: dict[str, str] = field(default_factory=dict)
    """Faults that were told in full, and the stage that tells them."""
    wanted: dict[Task, str] = field(default_factory=dict)
    """The stages that the selected items ask for, as far as their code tells, with their studies' names."""
    ended_by: str = "interrupted;"
    """What ends the run before its end, if anything does."""
    switches: ExitStack = field(default_factory=ExitStack)
    """What the run switched on, and its end puts back."""

    @cached_property
    def progress(self) -> Progress:
        """The progress line, and what must be said at once."""
        return Progress(self.config)

    @cached_property
    def context(self) -> RunContext:
        """Where stages run, or what is known here where a cluster makes them; made when needed, since it needs torch.

        Raises:
            RobbenchError: the device cannot be had.
        """
        from robbench.machine.determinism import deterministic_algorithms
        from robbench.machine.environment import share_of_threads
        from robbench.stages.context import RunContext
        from robbench.store import Store

        self.switches.enter_context(share_of_threads(self._workers))
        if self.settings.deterministic:
            self.switches.enter_context(deterministic_algorithms())
        return RunContext(
            store=Store(self.settings.store),
            data=self.settings.data,
            device=self.device,
            download=self.settings.download,
            fresh=self.settings.fresh,
            keep_adversarials=self.settings.keep_adversarials,
            show=self.progress.show,
            announce=self.progress.announce,
        )

    @cached_property
    def device(self) -> torch.device:
        """What stages run on in this process.

        Raises:
            RobbenchError: there is no such device, or several workers of pytest-xdist would share it.
        """
        from robbench.machine.environment import choose_device

        if self.settings.cluster:
            return choose_device("cpu")
        return choose_device(self.settings.device, self._workers)

    @cached_property
    def cluster(self) -> Cluster:
        """The workers that make the stages.

        Raises:
            RobbenchError: there are none, or something is wrong with one.
        """
        from robbench.cluster.controller import Cluster

        settings, places = self.settings, (self.config.invocation_params.dir, self.config.rootpath)
        cluster = Cluster(
            settings.scheduler,
            settings.workers or 1,
            settings.device,
            context=self.context,
            tasks=self.wanted,
            folders=dict.fromkeys([*map(str, places), *sys.path]),
            deterministic=settings.deterministic,
        )
        self.switches.callback(cluster.close)
        self.progress.announce(cluster.workers.said)
        return cluster

    @cached_property
    def graph(self) -> Graph:
        """All wanted stages of models without fault, under way on the cluster."""
        from robbench.stages.graph import Graph

        graph = Graph(self.context, self.cluster)
        faults = {study: self._faults_of(study) for study in dict.fromkeys(self.wanted.values())}
        able = [task for task, study in self.wanted.items() if not {"", task.model.id} & faults[study].keys()]
        graph.start(
            [task for task in able if self.cluster.workers.cuda or not self.needs_cuda(self.studies[self.wanted[task]])]
        )
        return graph

    def run(self, task: Task, suite: str) -> Record:
        """The record of a stage under the names of a suite, made in this process, or on the cluster.

        Raises:
            RobbenchError: bad input, or it failed.
            pytest.exit.Exception: the cluster's scheduler is gone.
        """
        from robbench.stages.graph import named, run_stage

        if not self.settings.cluster:
            return run_stage(task, self.context, suite=suite)
        from robbench.cluster.controller import SchedulerLostError

        self.graph.start([task])
        future = self.graph.futures[task]
        while not future.done():
            wait([future], timeout=0.2)
            self.progress.show_graph(self.graph, self.cluster.running())
        try:
            return named(future.result(), task, suite)
        except SchedulerLostError as error:
            self.ended_by = f"{error}; with one there again, or the address of another,"
            raise pytest.exit.Exception(str(error)) from error

    def needs_cuda(self, study: Study) -> bool:
        """Whether a study is only run where there is CUDA, unless the options say otherwise."""
        return study.needs_cuda and not self.settings.quick and self.settings.device == "auto"

    def has_cuda(self) -> bool:
        """Whether what makes the stages has a CUDA device."""
        if self.settings.cluster:
            return self.cluster.workers.cuda
        import torch

        return torch.cuda.is_available()

    @property
    def _workers(self) -> int:
        """How many workers of pytest-xdist run stages; 1 without it."""
        return int(getattr(self.config, "workerinput", {}).get("workercount", 1))

    def study(self, declared: Study) -> Study:
        """The study as this run's options want it, remembered by its name.

        Raises:
            RobbenchError: two studies of one name.
        """
        from robbench.spec.command_line import adapt, names

        self.replaced |= names(declared) & set(self.settings.datasets)
        study = adapt(
            declared,
            protocol=self.settings.protocol,
            datasets=self.settings.datasets,
            seeds=self.settings.seeds,
            quick=self.settings.quick,
        )
        if self.studies.setdefault(study.name, study) != study:
            raise RobbenchError(f"study {study.name!r}: expected one study of this name, got two that differ")
        return study

    def check_names(self, study: Study) -> None:
        """Raise a RobbenchError for a data set that is not there and has almost the name of one that is, or is known."""
        from robbench.spec.catalogue import DATASETS

        known = {*DATASETS, *(file.stem for file in self.settings.data.glob("*.npz"))}
        for name in [
            dataset.name for dataset in study.datasets if dataset.size is None
        ]:  # pictures have names of their own
            # A name that goes on from a known one (cifar10-c) is somebody's own, to be prepared elsewhere.
            if name not in known and not name.startswith(tuple(known)) and get_close_matches(name, known):
                raise unknown("dataset", name, known)

    def preflight(self, study: str, model: str, stage: str) -> None:
        """Check all selected models of a study before the first of its stages runs; those without fault go on.

        Raises:
            RobbenchError: a data set, shape, checkpoint or folder of this model is at fault; told in full by one stage only.
        """
        faults = self._faults_of(study)
        fault = faults.get("") or faults.get(model)
        if fault is None:
            return
        tells = self.told.setdefault(fault, f"{study}/{stage}") == f"{study}/{stage}"
        raise RobbenchError(fault if tells else f"not run: {fault.partition(';')[0]}")

    def _faults_of(self, study: str) -> dict[str, str]:
        if study not in self.faults:
            self.faults[study] = self._faults(study)
        return self.faults[study]

    def _faults(self, study: str) -> dict[str, str]:
        from robbench.estimation.audit import check_audit
        from robbench.estimation.other_attacks import check_attacks
        from robbench.stages.checks import check
        from robbench.store.files import check_writable

        settings, faults = self.settings, {}
        try:
            for folder in (settings.report, *([settings.baselines] if settings.update else [])):
                check_writable(folder)
            for estimate in (self.studies[study].estimate, *(each.estimate for each in self.studies[study].also)):
                check_audit(estimate.audit)
                check_attacks(estimate)
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

    def plan(self, study: Study) -> dict[str, Any]:
        """A study's name, notes and stages as plain values, which workers can send; nothing where it was given before."""
        from robbench.stages import tasks_of

        if study.name in self.plans:
            return {}
        stages = [(task.model.id, task.stage) for task in tasks_of(study)]
        plan = {
            "study": study.name,
            "protocol": study.protocol,
            "notes": list(study.notes()),
            "stages": stages,
            "accuracy_floor": study.accuracy_floor,
        }
        self.plans[study.name] = plan
        return plan

    def earlier(self) -> dict[str, list[str]]:
        """The records that the store has of the studies of which a test was set up, by study, as JSON."""
        import msgspec

        from robbench.stages import tasks_of
        from robbench.stages.graph import finished_records

        found = {}
        for name in self.plans.keys() & self.studies.keys():
            try:
                records = finished_records(tasks_of(self.studies[name]), self.context, suite=name).values()
            except RobbenchError:
                continue
            found[name] = [msgspec.json.encode(record).decode() for record in records]
        return found

    def end_on_sigterm(self) -> None:
        """Let SIGTERM, which schedulers send before they take a machine away, end the run as Ctrl-C does."""
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGTERM)
        if before is not signal.SIG_DFL:  # somebody else's
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt("SIGTERM")

        signal.signal(signal.SIGTERM, interrupt)
        self.switches.callback(signal.signal, signal.SIGTERM, before)


SESSION = pytest.StashKey[Session]()

OUTCOME = pytest.StashKey[dict[str, str]]()
"""What came out of an item's stage, as text: ``stage`` (study/case.stage), ``fault``, ``record``, ``verdicts``, ``reused``,
and ``tolerances``, as its marker declares them."""


def suite_mark(node: Any) -> pytest.Mark | None:
    """The closest ``suite`` marker of a node that holds a Study; others of that name are somebody else's."""
    if "robbench.spec" not in sys.modules:
        return None
    from robbench.spec import Study

    marks = node.iter_markers("suite")
    return next((mark for mark in marks if len(mark.args) == 1 and isinstance(mark.args[0], Study)), None)


def marked(node: Any) -> Study | None:
    """The Study of a node's ``suite`` marker; None where it has none."""
    mark = suite_mark(node)
    return None if mark is None else mark.args[0]


VERBS = {"train": "training", "estimate": "robustness", "bound": "bounds"}
"""The stages that methods of the ``robbench`` fixture are named after; ``stage`` gets a name."""


def asked_of(item: Any, study: Study) -> list[Task]:
    """The stages that an item will ask for, by the names in its code; what it asks for beyond them is made then."""
    from robbench.stages import tasks_of

    model, search = item.callspec.params["model"], item.callspec.params.get("search")
    code = item.function.__code__
    names = {VERBS.get(name) for name in code.co_names} | {value for value in code.co_consts if isinstance(value, str)}
    if search is not None:
        names = {f"robustness-{search}"}
    return [task for task in tasks_of(study, [model]) if task.stage in names]
