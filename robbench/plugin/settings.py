"""The options of a run: declared once, read from the command line or the ini file, and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robbench.errors import RobbenchError, require, unknown

if TYPE_CHECKING:
    from robbench.spec import Protocol

OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("quick", "shrink every study to its quick scale; compares with no baseline and writes none", {}),
    ("update", "write the baselines from this run instead of comparing with them", {}),
    ("fresh", "make every selected stage again, instead of taking it from the store or going on where it stopped", {}),
    (
        "keep_adversarials",
        "keep the counterexample that every p* rests on in the store, for `robbench verify`",
        {},
    ),
    ("download", "let torchvision download data sets that are not on disk", {}),
    ("deterministic", "allow torch only what gives the same bits every time on the same machine; slower on CUDA", {}),
    ("report", "folder for report bundles, one per study (default: reports)", {"metavar": "DIR", "default": "reports"}),
    ("baselines", "folder of the baselines (default: baselines)", {"metavar": "DIR", "default": "baselines"}),
    ("data", "folder of the data sets (default: .robbench/data)", {"metavar": "DIR", "default": ".robbench/data"}),
    (
        "store",
        "folder of finished stages and of the state of unfinished ones (default: .robbench/store)",
        {"metavar": "DIR", "default": ".robbench/store"},
    ),
    (
        "device",
        "auto, cpu or cuda (default: auto); cpu also runs the studies that need CUDA, slowly",
        {"metavar": "NAME", "default": "auto"},
    ),
    (
        "workers",
        "make stages in N processes of this machine: one a GPU, or N on the CPU",
        {"metavar": "N", "type": int},
    ),
    ("scheduler", "make stages on the workers of a dask scheduler, such as tcp://host:8786", {"metavar": "ADDRESS"}),
    ("dataset", "run on another data set: NAME=OTHER (repeatable)", {"metavar": "NAME=OTHER", "action": "append"}),
    ("seeds", "run every study with seeds 0 to N-1", {"metavar": "N", "type": int}),
    ("protocol", "sound, or thesis: as the published code did it", {"metavar": "NAME"}),
)
_FLAGS = frozenset({"quick", "update", "fresh", "keep_adversarials", "download", "deterministic"})
_FOLDERS = frozenset({"report", "baselines", "data", "store"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a run, from the command line or else the ini file, checked."""

    quick: bool
    update: bool
    fresh: bool
    keep_adversarials: bool
    download: bool
    deterministic: bool
    report: Path
    baselines: Path
    data: Path
    store: Path
    device: str
    datasets: dict[str, str]
    seeds: int | None
    workers: int | None
    scheduler: str | None
    protocol: Protocol | None

    @property
    def cluster(self) -> bool:
        """Whether other processes make the stages, by dask."""
        return self.workers is not None or self.scheduler is not None

    @property
    def changes_studies(self) -> bool:
        """Whether a declared study differs from what runs."""
        return self.quick or bool(self.datasets) or self.seeds is not None or self.protocol is not None

    @classmethod
    def of(cls, config: pytest.Config) -> Settings:
        """Read and check the options.

        Raises:
            RobbenchError: a value that an option does not take, or two that exclude each other.
        """
        values: dict[str, Any] = {}
        for name, _, extra in OPTIONS:
            given = config.getoption(f"robbench_{name}")
            ini = config.getini(f"robbench_{name}")
            base = config.invocation_params.dir if given is not None else config.rootpath
            value: Any = given if given is not None else (ini or extra.get("default"))
            require(name not in _FOLDERS or bool(str(value)), f"--robbench-{name}", "a folder", value)
            values[name] = (
                base / Path(str(value)).expanduser() if name in _FOLDERS else bool(value) if name in _FLAGS else value
            )
        if values["quick"] and values["update"]:
            raise RobbenchError(
                "--robbench-quick and --robbench-update: expected one of them; quick figures mean nothing"
            )
        if values["device"] not in ("auto", "cpu", "cuda"):
            raise unknown("--robbench-device", values["device"], ("auto", "cpu", "cuda"))
        if values["protocol"] not in (None, "sound", "thesis"):
            raise unknown("--robbench-protocol", values["protocol"], ("sound", "thesis"))
        for name in ("seeds", "workers"):
            number = values[name]
            good = number is None or (str(number).isdecimal() and int(number) > 0)
            require(good, f"--robbench-{name}", "an integer ≥ 1", number)
            values[name] = int(number) if number is not None else None
        if values["workers"] and values["scheduler"]:
            raise RobbenchError(
                "--robbench-workers and --robbench-scheduler: expected one of them; a scheduler has its workers"
            )
        if values["workers"] or values["scheduler"]:
            from robbench.cluster.connect import check_installed

            check_installed()
            if getattr(config.option, "numprocesses", None):
                raise RobbenchError(
                    "-n and --robbench-workers or --robbench-scheduler: expected one of them; both share stages among "
                    "processes"
                )
        values["datasets"] = {}
        if texts := values.pop("dataset"):
            from robbench.spec.command_line import parse_datasets  # here, since pydantic is slow to import

            values["datasets"] = parse_datasets("--robbench-dataset", texts)
        return cls(**values)


def add_options(parser: pytest.Parser) -> None:
    """One option group; every option has an ini twin ``robbench_<name>``."""
    group = parser.getgroup(
        "robbench",
        "robbench: robustness transfer, as in: pytest -m suite suites/test_mine.py -k TL3 --robbench-seeds 3",
    )
    for name, text, extra in OPTIONS:
        kind = {"action": "store_true"} if name in _FLAGS else {k: v for k, v in extra.items() if k != "default"}
        option = f"--robbench-{name.replace('_', '-')}"
        group.addoption(option, dest=f"robbench_{name}", default=None, help=text, **kind)
        ini_type: Any = "bool" if name in _FLAGS else "linelist" if name == "dataset" else "string"
        parser.addini(f"robbench_{name}", f"ini twin of {option}", type=ini_type, default=None)
