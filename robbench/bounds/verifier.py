"""Complete verifiers as programs of their own: each query in a process, its answer read from a file."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robbench.bounds.propagation import Boxes
from robbench.bounds.queries import vnnlib
from robbench.bounds.search import BoundSearch, Certification
from robbench.errors import RobbenchError, require
from robbench.spec import Verifier
from robbench.store.files import write_atomically

FOLDER = Path(".verifiers")
"""Where ``make verifiers`` installs them, an environment each; else they are looked for on the PATH."""

_ANSWER = re.compile(r"^\s*(unsat|sat|unknown|timeout|timed-out)\b")

Confirm = Callable[[int, Tensor, float], int | None]
"""From the place of an image, a (C, H, W) counterexample and its radius to the grid index it is confirmed at, or None."""


class Verification:
    """Asks a verifier about the radii that attack and bounds leave open, one image a step; a part of a stage.

    The first query is the radius one step below p*: if it holds, p* is exact. An undecided radius is not asked about again:
    the next query halves what lies below it.

    Args:
        problem: what was bounded.
        search: by which bounds.
        verifier: which, and how long.
        asked: places of the images that it is asked about.
        onnx: the network in that format.
        kept: a folder for counterexamples that are none, or that refute a certified radius.
        confirm: judges the verifier's counterexamples in float32.
        notes: gets a line for each of those that is none.
    """

    def __init__(
        self,
        problem: Certification,
        search: BoundSearch,
        verifier: Verifier,
        *,
        asked: Sequence[int],
        onnx: bytes,
        kept: Path,
        confirm: Confirm,
        notes: list[str],
    ) -> None:
        self._problem, self._verifier, self._onnx = problem, verifier, onnx
        self._kept, self._confirm, self._notes = kept, confirm, notes
        self.asked = asked
        self.lower, self.upper = search.certified.clone(), problem.pstar.clone()
        """(N,) grid indices: the largest certified radius, and p*, which counterexamples of the verifier lower."""
        self.verdicts = {"unsat": 0, "sat": 0, "undecided": 0}
        self.seconds = 0.0
        self._finished = 0

    @property
    def done(self) -> bool:
        """Whether all images were asked about."""
        return self._finished == len(self.asked)

    @property
    def progress(self) -> tuple[float, float]:
        """Images asked about, and all that will be."""
        return self._finished, len(self.asked)

    def step(self) -> None:
        """Ask about one image.

        Raises:
            RobbenchError: the verifier is not there, fails, answers what is no answer, or refutes a certified radius.
        """
        place = self.asked[self._finished]
        ceiling = int(self.upper[place])
        for _ in range(self._verifier.queries):
            if ceiling - int(self.lower[place]) <= 1:
                break
            asked = ceiling - 1 if ceiling == self.upper[place] else (ceiling + int(self.lower[place])) // 2
            decided = self._decide(place, asked)
            ceiling = min(ceiling, int(self.upper[place])) if decided else asked
        self._finished += 1

    def state_dict(self) -> dict[str, Any]:
        """What was answered."""
        found = {"lower": self.lower.clone(), "upper": self.upper.clone(), "verdicts": dict(self.verdicts)}
        return found | {"finished": self._finished, "seconds": self.seconds, "notes": [*self._notes]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same problem."""
        self.lower, self.upper, self.verdicts = state["lower"], state["upper"], dict(state["verdicts"])
        self._finished, self.seconds = state["finished"], state["seconds"]
        self._notes.extend(note for note in state["notes"] if note not in self._notes)

    def _decide(self, place: int, asked: int) -> bool:
        """Ask about a grid radius of an image, and move one of its bounds there; whether that was decided."""
        problem, label = self._problem, int(self._problem.labels[place])
        radius = problem.grid[asked]
        boxes = Boxes.around(problem.images[place : place + 1].cpu(), torch.tensor([radius], dtype=torch.float64))
        query = vnnlib(boxes.low[0], boxes.high[0], label, problem.classes)
        started = time.monotonic()
        verdict, result = answered(self._verifier, self._onnx, query, problem.images.device.type)
        self.seconds += time.monotonic() - started
        found = self._confirmed(place, result, radius, query) if verdict == "sat" else None
        if found is not None:
            if found <= self.lower[place]:
                raise self._crossed(place, found, radius, result, query)
            self.upper[place] = found
        elif verdict == "unsat":
            self.lower[place] = asked
        else:
            verdict = "undecided"
        self.verdicts[verdict] += 1
        return verdict != "undecided"

    def _confirmed(self, place: int, result: str, radius: float, query: str) -> int | None:
        """The grid index of the verifier's counterexample; None, with a note and its files kept, where it is none."""
        original = self._problem.images[place]
        values = {int(pixel): float(value) for pixel, value in re.findall(r"\(\s*X_(\d+)\s+([-+.\deE]+)\s*\)", result)}
        if values.keys() == set(range(original.numel())):
            image = torch.tensor([values[pixel] for pixel in range(original.numel())], dtype=torch.float64)
            found = self._confirm(place, image.float().view_as(original).to(original.device), radius)
            if found is not None:
                return found
        name = self._keep(place, radius, result, query)
        self._notes.append(
            f"{self._verifier.engine.split()[0]} gave a counterexample for image {self._problem.names[place]} at radius "
            f"{radius:g} that is none in float32: not counted, kept as {name} beside the query in {self._kept.name}/"
        )
        return None

    def _crossed(self, place: int, found: int, radius: float, result: str, query: str) -> RobbenchError:
        problem, name = self._problem, self._keep(place, radius, result, query)
        certified, confirmed = problem.grid[int(self.lower[place])], problem.grid[found]
        return RobbenchError(
            f"bounds of image {problem.names[place]}: expected no counterexample up to radius {certified:g}, which is "
            f"certified, got one of {self._verifier.engine.split()[0]} confirmed at {confirmed:g}, kept as {name} beside "
            f"the query in {self._kept}; one of the two is wrong: please report this with the weights"
        )

    def _keep(self, place: int, radius: float, result: str, query: str) -> str:
        """Write down what was asked and answered; the name of the answer's file."""
        name = f"image{self._problem.names[place]}_{radius:g}"
        for suffix, text in ((".txt", result), (".vnnlib", query)):
            write_atomically(self._kept / f"{name}{suffix}", text.encode())
        return f"{name}.txt"


def answered(verifier: Verifier, onnx: bytes, query: str, device: str) -> tuple[str, str]:
    """``unsat``, ``sat`` or ``undecided``, and all that the verifier wrote into its result file.

    Raises:
        RobbenchError: the verifier is not there, fails, or answers what is no answer.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "network.onnx").write_bytes(onnx)
        (folder / "query.vnnlib").write_text(query)
        command, where = command_of(verifier, folder, device)
        limit = 2 * verifier.seconds + 60
        try:
            done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return "undecided", ""
        except OSError as error:
            raise RobbenchError(f"verifier {command[0]!r} cannot be run: {error.strerror or error}") from error
        path = folder / "result.txt"
        result = path.read_text(errors="replace") if path.is_file() else ""
    answer = _ANSWER.match(result)
    if answer is None:
        printed = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        got = f"{result[:80].strip()!r}, status {done.returncode}, and it printed: {printed[:200]}"
        raise RobbenchError(
            f"verifier {verifier.engine.split()[0]}: expected unsat, sat or unknown in its result file, got {got}"
        )
    return answer[1] if answer[1] in ("unsat", "sat") else "undecided", result


def command_of(verifier: Verifier, folder: Path, device: str = "cpu") -> tuple[list[str], Path | None]:
    """The command of a query whose files lie in ``folder``, and where it runs; a RobbenchError if there is no such program."""
    files = {"onnx": folder / "network.onnx", "vnnlib": folder / "query.vnnlib", "result": folder / "result.txt"}
    seconds, where = str(verifier.seconds), None
    if verifier.engine == "vibecheck":
        program = [_found("vibecheck", FOLDER / "vibecheck/bin/vibecheck")]
        options = ["--net", "{onnx}", "--spec", "{vnnlib}", "--results-file", "{result}", "--timeout", seconds]
        options += ["--device", device]
    elif verifier.engine == "neuralsat":
        python = FOLDER.absolute() / "neuralsat/bin/python"
        main = next(python.parent.parent.glob("lib*/python*/site-packages/src/main.py"), None)
        require(main is not None, "verifier neuralsat", "an installation (make verifiers)", "none")
        assert main is not None
        program, where = [str(python), "main.py"], main.parent
        options = ["--net", "{onnx}", "--spec", "{vnnlib}", "--result_file", "{result}", "--timeout", seconds]
        options += ["--device", device, "--export_cex", "--verbosity", "0"]
    else:
        name, *options = shlex.split(verifier.engine)
        program = [_found(name)]
    fill = {**{name: str(path) for name, path in files.items()}, "seconds": seconds}
    return [
        *program,
        *(re.sub(r"\{(\w+)\}", lambda found: fill.get(found[1], found[0]), each) for each in options),
    ], where


def _found(name: str, installed: Path | None = None) -> str:
    """The path of a program: where ``make verifiers`` put it, beside this Python, or on the PATH."""
    for each in (installed, Path(sys.executable).parent / name):
        if each is not None and each.is_file():
            return str(each.absolute())
    path = shutil.which(name)
    require(path is not None, f"verifier {name}", "a program (make verifiers, or one on the PATH)", "none")
    assert path is not None
    return path
