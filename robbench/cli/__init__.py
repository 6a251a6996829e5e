"""The ``robbench`` command: render, compare and look things up. What runs stages is pytest."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from robbench.errors import RobbenchError, unknown
from robbench.spec.suite_files import find_code_in

if TYPE_CHECKING:
    from robbench.gate.verdicts import Tolerances, Verdict
    from robbench.planning.plan import Speed


def _path(text: str) -> Path:
    """What an option takes as a file or folder."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a file or folder, got {text!r}")
    return Path(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status.

    0; 1 where a comparison or a proof fails, 2 for bad input, 3 where something is left unproven, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    find_code_in(Path.cwd())
    try:
        status: int = options.run(options)
    except RobbenchError as error:
        print(f"robbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("robbench: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robbench", description="Robustness transfer of image classifiers. Stages are run by `pytest -m suite`."
    )
    parser.add_argument("--version", action="version", version=f"robbench {version('robbench')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    report = commands.add_parser("report", help="render a report bundle from records, or one from several")
    report.add_argument(
        "bundles",
        nargs="+",
        type=_path,
        metavar="RECORDS",
        help="a bundle's records.json or folder, or --benchmark-json of `pytest -m perf`",
    )
    report.add_argument(
        "-o", "--output", type=_path, metavar="DIR", help="folder of the new bundle (default: where the only one lies)"
    )
    report.set_defaults(run=_report)

    compare = commands.add_parser(
        "compare",
        help="hold records to baselines, or the working tree to a revision; exit status 1 on a regression",
        usage="%(prog)s [TOLERANCES] [--all] RECORDS [--baselines DIR]\n"
        "       %(prog)s [TOLERANCES] [--all] --base REV [--rounds N] [--data DIR] [-o DIR] [-- PYTEST_ARGUMENT ...]",
        description="Hold a bundle's records to committed baselines; or, with --base, run `pytest -m suite` at a "
        "revision and in the working tree, in turns on this machine, and compare accuracy, p* and seconds.",
    )
    compare.add_argument(
        "arguments",
        nargs="*",
        metavar="RECORDS | PYTEST_ARGUMENT",
        help="a bundle's records.json or folder; with --base, what pytest gets: -- suites/test_mine.py -k TL3",
    )
    compare.add_argument("--baselines", type=_path, metavar="DIR", help="default: baselines")
    compare.add_argument("--base", metavar="REV", help="the git revision to hold the working tree to")
    compare.add_argument(
        "--rounds", type=int, metavar="N", help="runs of each side, the least seconds of which count (default: 2)"
    )
    compare.add_argument("--data", type=_path, metavar="DIR", help="of both sides (default: .robbench/data)")
    compare.add_argument("-o", "--output", type=_path, metavar="DIR", help="keep both sides' report bundles there")
    for name, text in (
        ("pstar", "share of the median p*"),
        ("accuracy", "share"),
        ("seconds", "factor"),
        ("seconds-floor", "seconds"),
    ):
        compare.add_argument(f"--{name}", type=float, metavar="X", help=f"tolerance: {text}")
    compare.add_argument("--all", action="store_true", help="list the figures within tolerance, too")
    compare.set_defaults(run=_compare)

    verifying = commands.add_parser(
        "verify",
        help="check a bundle against store and data, every counterexample included; exit status 1 on a problem, 3 where "
        "records are missing or unproven",
    )
    verifying.add_argument("bundle", type=_path, metavar="BUNDLE", help="a bundle's folder, or its records.json")
    verifying.add_argument(
        "--code",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module of your own networks that may be imported and run: mypackage.nets (repeatable)",
    )
    _add_folders(verifying)
    verifying.set_defaults(run=_verify)

    planning = commands.add_parser(
        "plan", help="what a suite will cost on this machine: passes and time, stage by stage"
    )
    planning.add_argument("suite", metavar="SUITE", help="a suite file, or one item of it (FILE::test[MODEL])")
    planning.add_argument(
        "--dataset", action="append", default=[], metavar="NAME=OTHER", help="on other data (repeatable)"
    )
    planning.add_argument("--protocol", choices=("sound", "thesis"))
    planning.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1")
    planning.add_argument("--quick", action="store_true", help="at the quick scale")
    _add_folders(planning)
    planning.add_argument(
        "--no-calibration", action="store_true", help="passes only: do not time the networks on this machine"
    )
    planning.set_defaults(run=_plan)

    listing = commands.add_parser("list", help="what robbench knows by name; with an architecture, its blocks")
    listing.add_argument("architecture", nargs="?", help="cnn7, timm:resnet26, package.module:function, …")
    listing.add_argument(
        "--shape", default=None, metavar="C,H,W", help="image shape for timm and own networks (3,32,32)"
    )
    listing.set_defaults(run=_list)

    data = commands.add_parser("data", help="prepare a data set as <DIR>/<name>.npz, and check it")
    data.add_argument("name", help="mnist, emnist, cifar10, cifar100, or a file of your own")
    data.add_argument(
        "--data", type=_path, default=Path(".robbench/data"), metavar="DIR", help="default: .robbench/data"
    )
    data.add_argument("--download", action="store_true", help="let torchvision download it")
    data.set_defaults(run=_data)
    return parser


def _add_folders(parser: argparse.ArgumentParser) -> None:
    """Where data and stages are, and what to compute on."""
    for name in ("data", "store"):
        default = Path(".robbench") / name
        parser.add_argument(f"--{name}", type=_path, default=default, metavar="DIR", help=f"default: {default}")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto")


def _report(options: argparse.Namespace) -> int:
    from robbench.report import merge, merged, read_bundle, read_performance, write_bundle, write_performance

    measured = [performance for path in options.bundles if (performance := read_performance(path)) is not None]
    if measured and len(measured) == len(options.bundles):
        for performance in merged(measured):
            print(write_performance(options.output or options.bundles[0].parent, performance))
        return 0
    bundles = [read_bundle(path) for path in options.bundles]
    folder = options.output
    if folder is None:
        if len(bundles) > 1:
            raise RobbenchError("report: expected --output DIR for a bundle made of several, got none")
        only = options.bundles[0]
        folder = only if only.is_dir() else only.parent
    print(write_bundle(folder, merge(bundles) if len(bundles) > 1 else bundles[0]))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from robbench.gate.verdicts import Tolerances

    given = {name: getattr(options, name) for name in ("pstar", "accuracy", "seconds", "seconds_floor")}
    tolerances = Tolerances.of({name: value for name, value in given.items() if value is not None})
    verdicts = _against_baselines(options, tolerances) if options.base is None else _against_base(options, tolerances)
    failing = sum(verdict.fails for verdict in verdicts)
    untimed = Counter(verdict.message for verdict in verdicts if verdict.figure == "seconds" and verdict.mark == "x")
    untimed = Counter({message: stages for message, stages in untimed.items() if stages > 1})
    for verdict in sorted(verdicts, key=lambda verdict: not verdict.fails):
        if verdict.message in untimed:
            continue
        if verdict.fails or options.all or verdict.mark != "=":
            print(f"{verdict.mark:7}  {verdict.suite}/{verdict.case}.{verdict.stage}: {verdict.message}")
    for message, stages in untimed.items():
        print(f"{'x':7}  {stages} stages: {message}")
    equal = sum(verdict.mark == "=" for verdict in verdicts)
    if failing:
        held = f"--pstar {tolerances.pstar:g} --accuracy {tolerances.accuracy:g} --seconds {tolerances.seconds:g}"
        print(f"{failing} of {len(verdicts)} figures fail, held to {held}; suites may declare other tolerances")
    else:
        print(f"no regression: {equal} of {len(verdicts)} as before")
    return 1 if failing else 0


def _verify(options: argparse.Namespace) -> int:
    from robbench.machine.environment import choose_device
    from robbench.stages.context import RunContext
    from robbench.store.store import Store
    from robbench.verify.verification import verify

    if not options.store.is_dir():
        raise RobbenchError(f"verify: expected the store that the run left, {options.store} is none; see --store")
    store = Store(options.store, run="")
    context = RunContext(store=store, data=options.data, device=choose_device(options.device))
    marks: Counter[str] = Counter()
    stages, unproven, proven, smaller = set(), set(), 0, 0
    advice: dict[str, None] = {}
    for finding in verify(options.bundle, context, options.code):
        message = f"{finding.message}; {finding.advice}" if finding.advice else finding.message
        print(f"{finding.mark:8}  {finding.name}: {message}", flush=True)
        marks[finding.mark] += 1
        stages |= {finding.name} if finding.record else set()
        unproven |= {finding.name} if finding.record and finding.mark == "unproven" else set()
        proven += finding.counterexamples
        smaller += finding.smaller
        advice |= {finding.advice: None} if finding.advice else {}
    nearer = f" ({smaller:,} of them smaller than their p*)" if smaller else ""
    parts = [f"{len(stages):,} records", f"{proven:,} counterexamples proven{nearer}"]
    parts += [f"{len(unproven)} records unproven"] if unproven else []
    parts += [f"{marks['untimed']} untimed"] if marks["untimed"] else []
    parts += ["incomplete"] if marks["missing"] else []
    parts += [f"{marks['remark']} remarks"] if marks["remark"] else []
    print(", ".join([*parts, f"{marks['problem']} problems"]))
    if unproven:
        what = f"{len(unproven)} records were not proven in full" if proven else "nothing was proven"
        print("; ".join([what, *advice]))
    left_open = marks["unproven"] or marks["untimed"] or marks["missing"]
    return 1 if marks["problem"] else 3 if left_open else 0


def _against_base(options: argparse.Namespace, tolerances: Tolerances) -> list[Verdict]:
    from robbench.cli.revisions import against_base

    if options.baselines is not None:
        raise RobbenchError("compare: expected --base or --baselines, got both")
    return against_base(
        options.base,
        options.arguments,
        tolerances=tolerances,
        rounds=2 if options.rounds is None else options.rounds,
        data=options.data or Path(".robbench/data"),
        keep=options.output,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )


def _against_baselines(options: argparse.Namespace, tolerances: Tolerances) -> list[Verdict]:
    from robbench.gate.baselines import read_baseline
    from robbench.gate.verdicts import compare, plain_verdict
    from robbench.report import read_bundle

    for name in ("rounds", "data", "output"):
        if getattr(options, name) is not None:
            raise RobbenchError(f"compare: expected --{name} with --base only")
    if len(options.arguments) != 1:
        raise RobbenchError(
            f"compare: expected one bundle, or --base REV, got {' '.join(options.arguments) or 'neither'}"
        )
    bundle, folder = Path(options.arguments[0]), options.baselines or Path("baselines")
    records = read_bundle(bundle).records
    if not records:
        raise RobbenchError(f"compare: expected a bundle with records, {bundle} has none")
    if not folder.is_dir():
        raise RobbenchError(f"compare: expected a folder of baselines, {folder} is none; see --baselines")
    verdicts = []
    for record in records:
        baseline = read_baseline(folder, record.suite, record.case, record.stage)
        if baseline is None:
            verdicts.append(plain_verdict(record.suite, record.name, "missing", f"no baseline in {folder}"))
        else:
            verdicts += compare(record, baseline, tolerances)
    measured = {(record.suite, record.name) for record in records}
    for suite in sorted({record.suite for record in records}):
        verdicts += [
            plain_verdict(suite, path.stem, "error", f"has a baseline, but no record in {bundle}")
            for path in sorted((folder / suite).glob("*.json"))
            if (suite, path.stem) not in measured
        ]
    return verdicts


def _plan(options: argparse.Namespace) -> int:
    from robbench.planning.plan import lines, of_item, plan
    from robbench.record import BUSY
    from robbench.spec.command_line import adapt, names, parse_datasets
    from robbench.spec.suite_files import read_studies
    from robbench.store.store import Store

    path, _, item = options.suite.partition("::")
    store, datasets, studies = Store(options.store, ""), parse_datasets(options.dataset), read_studies(Path(path))
    known = {name for study in studies for name in names(study)}
    for name in datasets:
        if name not in known:
            raise unknown("dataset of the suite", name, known)
    for declared in studies:
        study = adapt(
            declared,
            protocol=options.protocol,
            datasets=datasets,
            seeds=options.seeds,
            quick=options.quick,
        )
        stages = of_item(plan(study, options.data), item)
        done = {stage.digest for stage in stages if store.finished(stage.digest)}
        speeds: dict[tuple[str, tuple[int, int, int], str], Speed] = {}
        busy = 0.0
        if not options.no_calibration:
            from robbench.machine.environment import choose_device
            from robbench.planning.calibration import measured_speeds

            left = [stage for stage in stages if stage.digest not in done]
            speeds, busy = measured_speeds(left, choose_device(options.device))
        print(f"study {study.name}")
        print("\n".join(lines(stages, speeds, done)))
        if busy > BUSY:
            print(f"measured on a busy machine, {busy:.0%} of the time in line for a core: an idle one takes less")
    return 0


def _list(options: argparse.Namespace) -> int:
    from robbench.spec.catalogue import ARCHITECTURES, DATASETS, block_names

    if options.architecture is None:
        print("data sets:")
        for name, facts in DATASETS.items():
            print(f"  {name:12} {facts.classes:3} classes, {'×'.join(map(str, facts.shape))}")
        print("  <name>       any <data dir>/<name>.npz\narchitectures (blocks first to last):")
        for name, blocks in ARCHITECTURES.items():
            print(f"  {name:12} K = {len(blocks)}: {', '.join(blocks)}")
        print("  wrnD_W       K = 5, depth D = 6n + 4, width W\n  timm:NAME, package.module:function")
        return 0
    names = block_names(options.architecture)
    if names is None or options.shape is not None:
        from robbench import models

        shape = _shape(options.shape or "3,32,32")
        network = models.build(options.architecture, classes=10, shape=shape)
        print(f"{options.architecture}: {models.parameter_count(network):,} parameters with 10 classes")
        names = tuple(block.name for block in models.blocks(network))
    for k, name in zip(range(len(names), 0, -1), names, strict=True):
        print(f"  TL#{k:<3} retrains {name} and what follows")
    return 0


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise RobbenchError(f"--shape: expected C,H,W (3,32,32), got {text!r}")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _data(options: argparse.Namespace) -> int:
    from robbench.data import prepare, read_npz

    path = prepare(options.name, folder=options.data, download=options.download)
    data = read_npz(path, options.name)
    print(
        f"{path}: {len(data.train):,} training and {len(data.test):,} test images of "
        f"{'×'.join(map(str, data.shape))}, {len(data.classes)} classes, sha256 {data.fingerprint[:12]}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
