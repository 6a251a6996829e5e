"""The pytest plugin: options, the ``suite`` marker, the ``robbench`` fixture, gate, terminal table and report bundles.

The only package that knows pytest. Installed, it must cost a run that does not use it nothing, so this module and those
that it imports need neither specs nor torch; what a suite needs is imported where a suite is found.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from robbench.errors import RobbenchError, unknown
from robbench.plugin.session import OUTCOME, SESSION, Session, asked_of, marked, suite_mark
from robbench.plugin.settings import Settings, add_options

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from robbench.plugin.stage import Robbench


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
        session = config.stash[SESSION] = Session(config, Settings.of(config))
    except RobbenchError as error:
        raise pytest.UsageError(str(error)) from error
    if session.settings.deterministic:
        from robbench.machine.determinism import cublas_workspace

        session.switches.enter_context(cublas_workspace())
    if not hasattr(config, "workerinput"):
        from robbench.plugin.results import Results

        config.pluginmanager.register(Results(session), "robbench-results")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put back what the run switched on."""
    if (session := config.stash.get(SESSION, None)) is not None:
        session.switches.close()


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
    """Give every test of a suite that takes ``model`` the models of its study; with ``search``, its second estimates."""
    mark = suite_mark(metafunc.definition)
    if mark is None or "model" not in metafunc.fixturenames:
        return
    from robbench.gate.verdicts import Tolerances
    from robbench.spec.suite_files import find_code_in

    session = metafunc.config.stash[SESSION]
    try:
        Tolerances.of(mark.kwargs)
        find_code_in(metafunc.config.invocation_params.dir, metafunc.config.rootpath)
        study = session.study(mark.args[0])
        session.check_names(study)
        if not _parametrises_models(metafunc.definition):
            models = study.models()
            if study.also and "search" in metafunc.fixturenames:
                asked = [(each, model) for each in study.also for model in filter(each.asks, models)]
                pairs = [(model, each.estimate.search_label) for each, model in asked]
                metafunc.parametrize("model, search", pairs, ids=[f"{model}-{search}" for model, search in pairs])
            else:
                metafunc.parametrize("model", models, ids=str)
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
    """Prepare the suites' items for pytest-benchmark, and skip those that run on request only."""
    state = session.config.stash[SESSION]
    for item in items:
        declared = marked(item)
        if declared is None:
            continue
        from robbench.plugin.clock import Clock

        try:
            # In front of a benchmark marker of the user's own, whose timer would measure more than the stage does.
            benchmark = pytest.mark.benchmark(timer=Clock(), group=state.study(declared).name)
        except RobbenchError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from error
        item.add_marker(benchmark, append=False)
        if declared.on_request and not _named(item):
            path = os.path.relpath(item.path, item.config.invocation_params.dir)
            reason = f"study {declared.name!r} runs on request only: pytest -m suite {path}"
            item.add_marker(pytest.mark.skip(reason=reason))
    idle = sorted(set(state.settings.datasets) - state.replaced)
    if idle and state.studies:
        from robbench.spec.command_line import names

        known = {name for study in state.studies.values() for name in names(study)}
        raise pytest.UsageError(f"--robbench-dataset: {unknown('dataset of the collected studies', idle[0], known)}")


def _named(item: pytest.Item) -> bool:
    """Whether the command line names the item's file, or something in it; a folder around it does not count."""
    folder = item.config.invocation_params.dir
    return any((folder / argument.partition("::")[0]).resolve() == item.path.resolve() for argument in item.config.args)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Remember which models were selected, so that all can be checked before the first is trained."""
    state = session.config.stash[SESSION]
    for item in session.items:
        declared, parameters = marked(item), getattr(item, "callspec", None)
        if declared is not None and parameters is not None and "model" in parameters.params:
            state.selected.setdefault(state.study(declared).name, []).append(parameters.params["model"])
            if state.settings.cluster and item.get_closest_marker("skip") is None:
                study = state.study(declared)
                state.wanted |= dict.fromkeys(asked_of(item, study), study.name)
    if state.selected:
        state.end_on_sigterm()
    if state.wanted and not session.config.option.collectonly:
        try:
            _ = state.cluster
        except RobbenchError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip studies that need CUDA where there is none, unless they are quick or forced."""
    study = marked(item)
    state = item.config.stash[SESSION]
    if study is not None and state.needs_cuda(study) and not state.has_cuda():
        pytest.skip(
            f"study {study.name!r} needs a CUDA device at its full scale; run it all the same with "
            "--robbench-device cpu (days), or shrunk with --robbench-quick"
        )


@pytest.fixture
def robbench(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Robbench:
    """Run one stage of one model: ``robbench.train(model)`` or ``robbench.estimate(model)``."""
    from robbench.plugin.stage import Robbench

    return Robbench(request, benchmark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let reports carry what came out, and the first one of a study its plan: workers of pytest-xdist send reports only."""
    report = yield
    declared = marked(item)
    if declared is not None and report.when == "setup":
        session = item.config.stash[SESSION]
        report.robbench_plan = session.plan(session.study(declared))  # type: ignore[attr-defined]
    if report.when == "call" and (outcome := item.stash.get(OUTCOME, None)) is not None:
        report.robbench_outcome = outcome  # type: ignore[attr-defined]
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send what the store has of the studies' other stages from a worker of pytest-xdist."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["robbench_earlier"] = session.config.stash[SESSION].earlier()


# --- pytest-benchmark -------------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add device, driver and versions to pytest-benchmark's machine info, where a test of a suite ran."""
    session = config.stash[SESSION]
    if session.plans and "torch" in sys.modules:
        import msgspec

        from robbench.machine.environment import environment

        try:
            device = session.device
        except RobbenchError:
            return  # every stage has said so
        machine_info["robbench"] = msgspec.to_builtins(environment(device))


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_benchmark_group_stats(benchmarks: list[dict[str, Any]]) -> Generator[None, Any, Any]:
    """Leave the suites' stages out of pytest-benchmark's table: one run has no spread, and they have their own."""
    groups = yield
    kept = [(name, [bench for bench in group if "digest" not in bench["extra_info"]]) for name, group in groups]
    return [(name, group) for name, group in kept if group]
