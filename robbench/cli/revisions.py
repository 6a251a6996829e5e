"""Head against base: two revisions of a suite run in turns on one machine, and their records compared. No torch.

Seconds of different machines, or of one machine on different days, say little about the code. Here both sides run in
one job, alternating, so that whatever else the machine does meets both; the least seconds of a stage's rounds count,
since other work only ever adds to them.
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
from types import FrameType

import msgspec

from robbench.errors import RobbenchError
from robbench.gate.baselines import Baseline, baseline_of
from robbench.gate.verdicts import Tolerances, Verdict, compare, plain_verdict
from robbench.record import Record
from robbench.report import read_bundle
from robbench.report.terminal import busy
from robbench.store.files import check_writable

OWN_OPTIONS = ("data", "store", "report", "baselines", "update", "resume")
"""Options of a suite's run that are set here, without their ``--robbench-``."""

TAIL = 25
"""Last lines of pytest's output that an error shows."""

Records = dict[str, Record]
"""Records by ``suite/case.stage``."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two revisions: where it lies, and where it leaves what it makes."""

    name: str
    """base or head."""
    root: Path
    """Current folder of its runs."""
    output: Path
    """Store, reports, baselines and log."""


def against_base(
    revision: str,
    arguments: Sequence[str],
    *,
    tolerances: Tolerances,
    rounds: int,
    data: Path,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Verdict]:
    """Run a suite at a revision and in the working tree, and hold the working tree's records to the revision's.

    The revision is checked out into a git worktree in temporary space, which is removed in any case. Head is the
    working tree as it is, uncommitted changes included.

    Args:
        revision: of base: anything git knows as a commit.
        arguments: for pytest, after ``-m suite``; paths in them are relative to the current folder.
        tolerances: as of :func:`robbench.gate.verdicts.compare`.
        rounds: how often each side runs; the order turns round every time: base, head, head, base, …
        data: folder of the data sets, for both.
        keep: folder that gets both sides' report bundles.
        say: gets a line whenever something was done.

    Raises:
        RobbenchError: no repository, an unknown revision, options that are set here, a folder to keep bundles in that
            cannot be written, or a suite that does not run.
    """
    if rounds < 1:
        raise RobbenchError(f"compare --rounds: expected at least 1, got {rounds}")
    top = Path(_git(Path.cwd(), "rev-parse", "--show-toplevel", wanted="a git repository to find --base in"))
    commit = _git(
        top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", wanted=f"a commit, got {revision!r}"
    )
    _check_arguments(arguments, top)
    if keep is not None:
        check_writable(keep)
    within = Path.cwd().resolve().relative_to(top.resolve())
    with (
        _interruptible(),
        tempfile.TemporaryDirectory(prefix="robbench-") as name,
        _worktree(top, commit, name) as tree,
    ):
        if not (tree / within).is_dir():
            raise RobbenchError(f"compare --base: expected the folder {str(within)!r} in {revision}, it has none")
        base = Side(name="base", root=tree / within, output=Path(name) / "base")
        head = Side(name="head", root=Path.cwd(), output=Path(name) / "head")
        found: dict[str, list[Records]] = {"base": [], "head": []}
        for number in range(rounds):
            for side in (base, head) if number % 2 == 0 else (head, base):
                begun = time.monotonic()
                records = _run(side, arguments, data)
                found[side.name].append(records)
                what = f"{side.name} ({commit[:9] if side is base else 'working tree'}), round {number + 1} of {rounds}"
                say(f"{what}: {len(records)} stages in {time.monotonic() - begun:.0f} s")
        if keep is not None:
            for side in (base, head):
                shutil.copytree(side.output / "reports", keep / side.name, dirs_exist_ok=True)
    for name, (first, *others) in found.items():
        stages = [
            stage for stage in first if any(stage in run and not _equal(first[stage], run[stage]) for run in others)
        ]
        if stages:
            say(f"{name} differs from itself between rounds ({', '.join(stages)}): this machine is not deterministic")
    best = {name: fastest(rounds) for name, rounds in found.items()}
    for name, records in best.items():
        if said := busy([*records.values()]):
            say(f"{name}: {said}")
    return judge(best["base"], best["head"], tolerances)


def judge(base: Mapping[str, Record], head: Mapping[str, Record], tolerances: Tolerances) -> list[Verdict]:
    """Verdicts of head's records on base's.

    Seconds are compared wherever the specification is the same, even where a digest tells two versions of the code
    apart: its speed is what is in question. A stage that only head has is new; one that it lost fails.
    """
    verdicts = []
    for name, record in head.items():
        if name not in base:
            verdicts.append(plain_verdict(record.suite, record.name, "new", "base has no such stage"))
            continue
        verdicts += compare(record, _baseline(base[name], record), tolerances)
    lost = [record for name, record in base.items() if name not in head]
    return verdicts + [plain_verdict(old.suite, old.name, "error", "head has no such stage") for old in lost]


def fastest(rounds: Sequence[Mapping[str, Record]]) -> Records:
    """The first round's records with the least seconds of all rounds, stage by stage."""
    return {
        name: msgspec.structs.replace(
            record,
            seconds=min(
                (found[name].seconds for found in rounds if name in found), key=lambda seconds: seconds.measured
            ),
        )
        for name, record in rounds[0].items()
    }


def _baseline(base: Record, head: Record) -> Baseline:
    baseline = baseline_of(base)
    return msgspec.structs.replace(baseline, digest=head.digest) if base.spec == head.spec else baseline


def _equal(one: Record, other: Record) -> bool:
    """Whether two records of one stage say the same of the network."""
    return one.robustness == other.robustness and (one.training and one.training.validation) == (
        other.training and other.training.validation
    )


# --- running ----------------------------------------------------------------------------------------------------------


def _run(side: Side, arguments: Sequence[str], data: Path) -> Records:
    """Run the suite on one side, every stage anew; its records.

    Raises:
        RobbenchError: pytest ends with anything but success; the error shows the end of what it printed.
    """
    folders = {name: side.output / name for name in ("store", "reports", "baselines")}
    shutil.rmtree(folders["reports"], ignore_errors=True)  # a round's records are its own
    command = [
        *(sys.executable, "-m", "pytest", "-m", "suite", "-p", "no:cacheprovider", *arguments),
        *(f"--robbench-data={data.absolute()}", f"--robbench-store={folders['store']}"),
        *(f"--robbench-report={folders['reports']}", f"--robbench-baselines={folders['baselines']}"),
        *(() if "--robbench-quick" in arguments else ("--robbench-update",)),
    ]
    side.output.mkdir(parents=True, exist_ok=True)
    log = side.output / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=side.root, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    bundles = sorted(folders["reports"].glob("*/records.json"))
    if status != 0 or not bundles:
        lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-TAIL:]
        why = f"pytest ended with status {status}" if status else "no stage ran"
        hint = "; a suite that base does not have cannot be compared with it" if side.name == "base" else ""
        raise RobbenchError(f"compare --base: the suite does not run at {side.name}: {why}{hint}\n" + "\n".join(lines))
    return {f"{record.suite}/{record.name}": record for path in bundles for record in read_bundle(path).records}


def _check_arguments(arguments: Sequence[str], top: Path) -> None:
    """Refuse what would make both sides run the same files, or lead their results astray."""
    for argument in arguments:
        for name in OWN_OPTIONS:
            if argument.partition("=")[0] == f"--robbench-{name}":
                raise RobbenchError(
                    f"compare --base: expected no {argument.partition('=')[0]} for pytest, "
                    f"{'give --data to compare itself' if name == 'data' else 'both sides have folders of their own'}"
                )
        path = Path(argument.partition("::")[0])
        if path.is_absolute() and path.resolve().is_relative_to(top.resolve()):
            raise RobbenchError(
                f"compare --base: expected paths relative to the current folder, which base has too, got {argument!r}"
            )


@contextmanager
def _worktree(top: Path, commit: str, temporary: str) -> Iterator[Path]:
    """A commit checked out beside the working tree; removed, and forgotten by git, in any case."""
    tree = Path(temporary) / "tree"
    try:
        _git(top, "worktree", "add", "--quiet", "--detach", str(tree), commit, wanted="a worktree of base")
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(("git", "worktree", "prune"), cwd=top, capture_output=True, check=False)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, by which CI ends a job, as Ctrl-C: what is being done is undone."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _git(folder: Path, *arguments: str, wanted: str) -> str:
    """What a git command prints.

    Raises:
        RobbenchError: git is not there or fails; says what was wanted.
    """
    try:
        done = subprocess.run(("git", *arguments), cwd=folder, capture_output=True, text=True, check=True)
    except OSError as error:
        raise RobbenchError(f"compare --base: expected git, it cannot be run: {error.strerror or error}") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()
        raise RobbenchError(f"compare --base: expected {wanted}{f' ({said[-1]})' if said else ''}") from error
    return done.stdout.strip()
