"""The pytest plugin: options, the ``suite`` marker, the ``robbench`` fixture, gate, terminal table and report bundles.

The only package that knows pytest. Nothing that needs torch is imported before a stage runs, so collecting is quick.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from robbench.errors import RobbenchError, unknown
from robbench.machine.determinism import cublas_workspace
from robbench.plugin.clock import Clock
from robbench.plugin.results import Results
from robbench.plugin.session import SESSION, Session, marked
from robbench.plugin.settings import Settings, add_options
from robbench.plugin.signals import end_orderly, one_at_a_time
from robbench.plugin.stage import Robbench
from robbench.spec import Study
from robbench.spec.command_line import names
from robbench.spec.suite_files import find_code_in

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and their ini twins."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and check the options before anything is collected."""
    config.addinivalue_line(
        "markers",
        "suite(study, **tolerances): the tests of a robbench Study, one per model; tolerances: pstar (share of median "
        "p*), accuracy (share), seconds (factor), seconds_floor (seconds)",
    )
    try:
        settings = Settings.of(config)
    except RobbenchError as error:
        raise pytest.UsageError(str(error)) from error
    worker = getattr(config, "workerinput", {})
    session = Session(
        config,
        settings,
        run=worker.get("testrunuid") or uuid.uuid4().hex,
        began=worker.get("robbench_began") or time.time(),
    )
    config.stash[SESSION] = session
    if settings.deterministic:
        session.switches.enter_context(cublas_workspace())
    config.add_cleanup(end_orderly(session))
    if not worker:
        config.pluginmanager.register(Results(session), "robbench-results")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """From here on a SIGTERM ends nothing that would not end at once."""
    session.config.stash[SESSION].ending = True


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put back what the run switched on."""
    if (session := config.stash.get(SESSION, None)) is not None:
        session.switches.close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist when the run began."""
    node.workerinput["robbench_began"] = node.config.stash[SESSION].began


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Show a wrong value in a suite file as one sentence with its line, not as frames of this package."""
    report = yield
    raised = getattr(report.__dict__.get("call"), "excinfo", None)
    if raised is not None and isinstance(raised.value, RobbenchError):
        lines = [entry.lineno + 1 for entry in raised.traceback if str(entry.path) == str(collector.path)]
        report.longrepr = f"{collector.path}:{lines[-1] if lines else 1}: {raised.value}"
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test of a suite that takes ``model`` the models of its study."""
    session = metafunc.config.stash[SESSION]
    try:
        found = marked(metafunc.definition)
        if found is None or "model" not in metafunc.fixturenames:
            return
        find_code_in(metafunc.config.invocation_params.dir)
        study = session.study(found[0])
        if not _parametrises_models(metafunc.definition):
            metafunc.parametrize("model", study.models(), ids=str)
        elif session.settings.changes_studies:
            raise RobbenchError(
                "the test parametrises its models itself, so options that change a study (quick, dataset, seeds, protocol) "
                "cannot reach them; leave the parametrisation to the suite marker"
            )
    except RobbenchError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from error


def _parametrises_models(test: pytest.Function) -> bool:
    """Whether a test lists its models itself."""
    for mark in test.iter_markers("parametrize"):
        argnames = mark.kwargs.get("argnames", mark.args[0] if mark.args else ())
        if "model" in ([name.strip() for name in argnames.split(",")] if isinstance(argnames, str) else argnames):
            return True
    return False


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Prepare the suites' items for pytest-benchmark, and skip those that run on request only.

    Refuses a data-set replacement that replaces nothing.
    """
    state = session.config.stash[SESSION]
    for item in items:
        try:
            if (found := marked(item)) is not None:
                # In front of a benchmark marker of the user's own, whose timer would measure more than the stage does.
                benchmark = pytest.mark.benchmark(timer=Clock(), group=state.study(found[0]).name)
                item.add_marker(benchmark, append=False)
                if found[0].on_request and not _named(item):
                    path = os.path.relpath(item.path, item.config.invocation_params.dir)
                    reason = f"study {found[0].name!r} runs on request only: pytest -m suite {path}"
                    item.add_marker(pytest.mark.skip(reason=reason))
        except RobbenchError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from error
    idle = sorted(set(state.settings.datasets) - state.replaced)
    if idle and state.studies:
        known = {name for study in state.studies.values() for name in names(study)}
        raise pytest.UsageError(f"--robbench-dataset: {unknown('dataset of the collected studies', idle[0], known)}")


def _named(item: pytest.Item) -> bool:
    """Whether the command line names the item's file, or something in it; a folder around it does not count."""
    folder = item.config.invocation_params.dir
    return any((folder / argument.partition("::")[0]).resolve() == item.path.resolve() for argument in item.config.args)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remember which models were selected, so that all can be checked before the first is trained.

    A run counts as one of those that share the store from now on: importing torch takes seconds.
    """
    state = session.config.stash[SESSION]
    shares = False
    for item in session.items:
        mark, parameters = item.get_closest_marker("suite"), getattr(item, "callspec", None)
        if mark is not None and parameters is not None and "model" in parameters.params:
            state.selected.setdefault(state.study(mark.args[0]).name, []).append(parameters.params["model"])
            shares |= not item.get_closest_marker("skip") and not _asks_for_cuda(state, item)
    if state.selected:
        one_at_a_time(session.config)
    if shares and not session.config.option.collectonly:
        state.share()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip studies that need CUDA where there is none, unless they are quick or forced."""
    study = _asks_for_cuda(item.config.stash[SESSION], item)
    if study is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip(
            f"study {study.name!r} needs a CUDA device at its full scale; run it all the same with "
            "--robbench-device cpu (days), or shrunk with --robbench-quick"
        )


def _asks_for_cuda(session: Session, item: pytest.Item) -> Study | None:
    """The study of an item that runs only where there is a CUDA device."""
    mark = item.get_closest_marker("suite")
    if mark is None or session.settings.quick or session.settings.device != "auto":
        return None
    study: Study = mark.args[0]
    return study if study.needs_cuda else None


@pytest.fixture
def robbench(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Robbench:
    """Run one stage of one model: ``robbench.train(model)`` or ``robbench.estimate(model)``."""
    return Robbench(request, benchmark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the first report of a study carry its plan: a controller of pytest-xdist collects nothing itself."""
    report = yield
    session, found = item.config.stash[SESSION], marked(item)
    if report.when == "setup" and found is not None:
        report.robbench_plans = session.plan(session.study(found[0]))  # type: ignore[attr-defined]
        if report.passed:
            report.robbench_code = session.code  # type: ignore[attr-defined]
    return report


# --- pytest-benchmark -------------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """In place of pytest-benchmark's machine info: device, driver and versions, where a suite runs."""
    session = config.stash[SESSION]
    if session.studies:
        import msgspec

        from robbench.machine.environment import environment

        try:
            device = session.device
        except RobbenchError:
            return  # every stage has said so
        machine_info.clear()
        machine_info.update(msgspec.to_builtins(environment(device)))


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_benchmark_group_stats(benchmarks: list[dict[str, Any]]) -> Generator[None, Any, Any]:
    """Leave the suites' stages out of pytest-benchmark's table: one run has no spread, and they have their own."""
    groups = yield
    kept = [(name, [bench for bench in group if "digest" not in bench["extra_info"]]) for name, group in groups]
    return [(name, group) for name, group in kept if group]
