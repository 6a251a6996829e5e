"""Head against base: two revisions of a suite run in turns on one machine, and their records compared.

Whatever else the machine does meets both sides. Of a stage's rounds the least seconds count, since other work only ever
adds to them.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from robbench.errors import RobbenchError, require
from robbench.gate.baselines import baseline_of, figures_of
from robbench.gate.verdicts import Tolerances, Verdict, compare, declared, levels, plain_verdict
from robbench.record import Record
from robbench.report import Bundle, merge, read_bundle
from robbench.report.terminal import busy

TAIL = 25
"""Last lines of pytest's output that an error shows."""

Records = dict[str, Record]
"""Records by ``suite/case.stage``."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two revisions."""

    name: str
    """base or head."""
    shown: str
    """Its commit, or that it is the working tree."""
    root: Path
    """Current folder of its runs."""
    output: Path
    """Where it leaves store, reports, baselines and log."""


def against_base(
    revision: str,
    arguments: Sequence[str],
    *,
    given: Mapping[str, float],
    rounds: int,
    data: Path,
    keep: Path | None,
    say: Callable[[str], None],
) -> list[Verdict]:
    """Verdicts on the working tree, uncommitted changes included, against a revision that git knows.

    ``arguments`` go to pytest; ``given`` are tolerances in place of those of the suites' markers at head; ``keep`` gets both sides' report bundles; ``say`` gets a line whenever a round is over.

    Raises:
        RobbenchError: no repository, an unknown revision, or a suite that does not run.
    """
    require(rounds >= 1, "against --rounds", "at least 1", rounds)
    for argument in arguments:  # an absolute one would make both sides run the working tree's file
        relative = not Path(argument.partition("::")[0]).is_absolute()
        require(relative, "against", "paths relative to the current folder, which base has too", argument)
    quick = "--robbench-quick" in arguments
    require(not quick, "against", "runs at full scale: quick figures mean nothing", "--robbench-quick")
    found: dict[str, list[Bundle]] = {"base": [], "head": []}
    with _sides(revision) as sides:
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                begun = time.monotonic()
                bundle = _run(side, arguments, data)
                found[side.name].append(bundle)
                took = f"{len(bundle.records)} stages in {time.monotonic() - begun:.0f} s"
                say(f"{side.name} ({side.shown}), round {number + 1} of {rounds}: {took}")
        if keep is not None:
            for side in sides:
                shutil.copytree(side.output / "reports", keep / side.name, dirs_exist_ok=True)
    base, head = (_summary(name, [_named(bundle) for bundle in found[name]], say) for name in ("base", "head"))
    marked = found["head"][0].tolerances
    return judge(base, head, lambda record: declared(marked, record, given))


def _named(bundle: Bundle) -> Records:
    return {f"{record.suite}/{record.name}": record for record in bundle.records}


def _summary(name: str, rounds: Sequence[Records], say: Callable[[str], None]) -> Records:
    """One side's records as they are compared; says whether its rounds differ, and whether the machine was busy."""
    first, *others = rounds
    differing = [
        stage
        for stage, record in first.items()
        if any(stage in other and figures_of(other[stage].result) != figures_of(record.result) for other in others)
    ]
    if differing:
        say(f"{name} differs from itself between rounds ({', '.join(differing)}): this machine is not deterministic")
    records = fastest(rounds)
    if said := busy(list(records.values())):
        say(f"{name}: {said}")
    return records


def judge(
    base: Mapping[str, Record], head: Mapping[str, Record], tolerances: Callable[[Record], Tolerances]
) -> list[Verdict]:
    """Verdicts of head's records on base's. A stage that only head has is new; one that it lost fails.

    Seconds are compared wherever the specification is the same, even if the digest is not: the code may have changed.
    """
    verdicts, level = [], levels(head.values())
    for name, record in head.items():
        if name not in base:
            verdicts.append(plain_verdict(record.suite, record.name, "new", "base has no such stage"))
            continue
        digest = record.digest if base[name].spec == record.spec else base[name].digest
        baseline = msgspec.structs.replace(baseline_of(base[name]), digest=digest)
        verdicts += compare(record, baseline, tolerances(record), level[record.suite])
    lost = [record for name, record in base.items() if name not in head]
    return verdicts + [plain_verdict(old.suite, old.name, "error", "head has no such stage") for old in lost]


def fastest(rounds: Sequence[Mapping[str, Record]]) -> Records:
    """The first round's records with the least seconds of all rounds, stage by stage."""

    def least(name: str) -> Record:
        return min((found[name] for found in rounds if name in found), key=lambda record: record.seconds.measured)

    return {name: msgspec.structs.replace(record, seconds=least(name).seconds) for name, record in rounds[0].items()}


def _run(side: Side, arguments: Sequence[str], data: Path) -> Bundle:
    """Run the suite on one side, every stage anew; all its bundles as one, or a RobbenchError with the end of pytest's output."""
    folders = {name: side.output / name for name in ("store", "reports", "baselines")}
    shutil.rmtree(folders["reports"], ignore_errors=True)  # a round's records are its own
    side.output.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "-m", "suite", "-p", "no:cacheprovider", *arguments, "--robbench-fresh"),
        *(f"--robbench-data={data.absolute()}", f"--robbench-store={folders['store']}"),
        *(f"--robbench-report={folders['reports']}", f"--robbench-baselines={folders['baselines']}"),
        "--robbench-update",
    ]
    log = side.output / "log"
    status = _execute(command, side.root, log)
    bundles = sorted(folders["reports"].glob("*/records.json"))
    if status != 0 or not bundles:
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-TAIL:]
        why = f"pytest ended with status {status}" if status else "no stage ran"
        hint = "; a suite that base does not have cannot be compared with it" if side.name == "base" else ""
        raise RobbenchError(f"against: the suite does not run at {side.name}: {why}{hint}\n" + "\n".join(lines))
    return merge([read_bundle(path) for path in bundles])


def _execute(command: Sequence[str], folder: Path, log: Path) -> int:
    """Run a command; its exit status."""
    with log.open("wb") as output:
        run = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    return run.returncode


@contextmanager
def _sides(revision: str) -> Iterator[tuple[Side, Side]]:
    """Base in a git worktree, head where it is; the worktree is removed, and forgotten by git, in any case."""
    here = Path.cwd().resolve()
    top = Path(_git(here, "rev-parse", "--show-toplevel", wanted="a git repository"))
    wanted = f"a commit, got {revision!r}"
    commit = _git(top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", wanted=wanted)
    within = here.relative_to(top.resolve())
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # by which CI ends a job
    with tempfile.TemporaryDirectory(prefix="robbench-") as name:
        tree = Path(name) / "tree"
        try:
            _git(top, "worktree", "add", "--quiet", "--detach", str(tree), commit, wanted="a worktree of base")
            if not (tree / within).is_dir():
                raise RobbenchError(f"against: expected the folder {str(within)!r} in {revision}, it has none")
            yield (
                Side(name="base", shown=commit[:9], root=tree / within, output=Path(name) / "base"),
                Side(name="head", shown="working tree", root=here, output=Path(name) / "head"),
            )
        finally:
            signal.signal(signal.SIGTERM, before)
            shutil.rmtree(tree, ignore_errors=True)
            subprocess.run(("git", "worktree", "prune"), cwd=top, capture_output=True, check=False)


def _git(folder: Path, *arguments: str, wanted: str) -> str:
    """What a git command prints; a RobbenchError that says what was wanted where it fails."""
    try:
        done = subprocess.run(("git", *arguments), cwd=folder, capture_output=True, text=True, check=True)
    except OSError as error:
        raise RobbenchError(f"against: expected git, it cannot be run: {error.strerror or error}") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise RobbenchError(f"against: expected {wanted}{f' ({said[-1]})' if said else ''}") from error
    return done.stdout.strip()
