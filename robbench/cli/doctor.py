"""``robbench doctor``: what a run would find on this machine, and what is missing."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robbench.cli.options import Commands, add_json, add_places
from robbench.errors import RobbenchError

EXTRAS = {
    "adv_lib": ("attacks", "attacks of adversarial-library"),
    "pyautoattack": ("audit", "Square in audits"),
    "datasets": ("hub", "data sets of Hugging Face's hub"),
    "onnxscript": ("onnx", "robbench export -o model.onnx"),
    "distributed": ("cluster", "several GPUs and clusters"),
}
"""Modules that are asked for by name only: the extra that installs each, and what it is for."""


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "doctor",
        help="device, threads, versions, data and store of this machine, and what is missing; 2 if no run can start",
        epilog="example: robbench doctor --data /data --json",
    )
    add_places(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print what was found; 2 where no run can start."""
    found, missing, faults = _found(options)
    if options.json:
        print(json.dumps({**found, "missing": missing, "faults": faults}))
    else:
        for name, value in found.items():
            print(f"{name:11} {value}")
        for text in missing:
            print(f"{'missing':11} {text}")
        for text in faults:
            print(f"{'at fault':11} {text}")
        print("no run can start" if faults else "ready: pytest -m suite")
    return 2 if faults else 0


def _found(options: argparse.Namespace) -> tuple[dict[str, Any], list[str], list[str]]:
    """What there is by name, what is not installed, and why no run can start."""
    import torch

    from robbench.machine.environment import choose_device, environment
    from robbench.machine.memory import free_bytes
    from robbench.store.files import check_writable

    faults = []
    try:
        device = choose_device(options.device)
    except RobbenchError as error:
        faults.append(str(error))
        device = torch.device("cpu")
    facts = environment(device)
    versions = {name: _version(name) for name in ("pytest", "pytest-xdist", "pytest-benchmark")}
    for folder in (options.data, options.store):
        try:
            check_writable(folder) if folder.exists() else check_writable_parent(folder)
        except RobbenchError as error:
            faults.append(str(error))
    unset = "OMP_NUM_THREADS not set"
    found = {
        "robbench": facts.robbench,
        "python": facts.python,
        "torch": f"{facts.torch}, torchvision {facts.torchvision}, CUDA {facts.cuda or 'not used'}",
        "pytest": ", ".join(f"{name} {number}".removeprefix("pytest ") for name, number in versions.items() if number),
        "device": f"{device.type}: {facts.device}{'' if device.type == 'cuda' else _why_no_cuda()}",
        "memory": f"{free_bytes(device) / 2**30:.1f} GiB free",
        "threads": f"{facts.threads} of {facts.cores} cores, {os.environ.get('OMP_NUM_THREADS', unset)}",
        "class": f"{facts.slug}, of which seconds are compared",
        "data": f"{options.data}: {_data_sets(options.data)}",
        "store": f"{options.store}: {len([*options.store.glob('**/stage.json')]):,} finished stages",
        "disk": f"{shutil.disk_usage(existing(options.store)).free / 2**30:.1f} GiB free",
    }
    missing = [
        f"{module}, for {what}: pip install 'robbench[{extra}]'"
        for module, (extra, what) in EXTRAS.items()
        if find_spec(module) is None
    ]
    return found, missing, faults


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())


def check_writable_parent(folder: Path) -> None:
    """Raise a RobbenchError unless the folder could be made."""
    if not os.access(above := existing(folder), os.W_OK):
        raise RobbenchError(f"{str(folder)!r} cannot be made: {str(above)!r} is not writable")


def _data_sets(folder: Path) -> str:
    names = sorted({path.stem if path.is_file() else path.name for path in folder.glob("*") if path.name[0] != "."})
    return ", ".join(names) or "nothing yet; glyphs10 and glyphs47 are drawn when they are needed"


def _why_no_cuda() -> str:
    """Why no CUDA device is used, where that is known."""
    import torch

    if torch.version.cuda is None:
        return " (this torch was built without CUDA)"
    return " (no CUDA device)" if not torch.cuda.is_available() else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
