"""Times a function beside its references in one run, and measures what the device could do at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from robbench.machine.environment import environment
from robbench.machine.precision import tensor_cores

PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product gives the device's peak."""

PEAK_SECONDS = 0.25
"""How long matrix products are timed."""


@dataclass(frozen=True)
class Work:
    """What something did while it was timed, where only the run itself tells."""

    passes: float
    """Forward passes through the network for each image."""
    flops: float
    """Floating-point operations of all images."""


@dataclass(frozen=True)
class Rounds:
    """Seconds by name, ``robbench`` the first, one of each round."""

    seconds: Mapping[str, list[float]]
    peaks: list[float]
    """Of each round: floating-point operations a second of a matrix product."""

    def __getitem__(self, name: str) -> float:
        """The median of its seconds."""
        return median(self.seconds[name])

    def ratio(self, name: str, to: str = "robbench") -> float:
        """How many times faster ``to`` is: the median over the rounds of the ratio within a round."""
        return median(one / other for one, other in zip(self.seconds[name], self.seconds[to], strict=True))

    def speed(self, name: str, flops: float | None) -> dict[str, float | None]:
        """Arithmetic a second, and its share of the peak: the median over the rounds of the share within a round."""
        if not flops:
            return {"gflops": None, "share_of_peak": None}
        shares = [flops / one / peak for one, peak in zip(self.seconds[name], self.peaks, strict=True)]
        return {"gflops": flops / self[name] / 1e9, "share_of_peak": median(shares)}


class Perf:
    """Measures a benchmark with ratios: every round runs the references, a matrix product, and then what it is about.

    Since all of them run in every round, whatever else the machine does meets them alike. A ratio is taken within a
    round, and the median of the rounds counts.
    """

    def __init__(self, benchmark, context) -> None:
        """``benchmark`` is pytest-benchmark's fixture, ``context`` the :class:`RunContext` of the run."""
        self._benchmark = benchmark
        self.context = context

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return self.context.device

    @property
    def figures(self) -> dict[str, Any]:
        """What is kept so far."""
        return self._benchmark.extra_info.get("perf", {"device": environment(self.device).slug})

    def compare(
        self,
        ours: Callable[[], object],
        against: Mapping[str, Callable[[], object]],
        *,
        images: int,
        passes: float | None = None,
        flops: float | None = None,
        work: Callable[[], Mapping[str, Work]] | None = None,
        warm_up: Callable[[], object] | None = None,
        precision: str = "float32",
        rounds: int = 3,
        **facts: Any,
    ) -> Rounds:
        """Time ``ours`` and its references, and keep what the report shows.

        Args:
            ours: what is measured.
            against: references by name.
            images: that one call handles.
            passes: forward and backward passes through the network for each of them.
            flops: floating-point operations of all of them that cannot be avoided.
            work: called at the end in place of both: the work of ``robbench`` and, by name, of references with another.
            warm_up: called once before, for what happens only once; None for ``ours``, and with several rounds
                every reference.
            precision: float32, tf32 or bf16, of the matrix product that gives the peak.
            rounds: how often everything runs.
            facts: plain values to keep with the result.
        """
        for function in [warm_up] if warm_up else [ours, *(against.values() if rounds > 1 else ())]:
            function()
        found = self._time(ours, against, precision, rounds)
        done = dict(work()) if work else {}
        own = done.pop("robbench", Work(passes, flops))
        self._benchmark.extra_info["perf"] = self.figures | {
            "images": images,
            "rounds": rounds,
            "milliseconds_per_image": 1000 * found["robbench"] / images,
            "passes_per_image": own.passes,
            "precision": precision,
            "peak_gflops": median(found.peaks) / 1e9,
            **found.speed("robbench", own.flops),
            "ratios": {name: found.ratio(name) for name in against},
            "references": {
                name: {"passes_per_image": theirs.passes, **found.speed(name, theirs.flops)}
                for name, theirs in done.items()
            },
            **facts,
        }
        return found

    def _time(self, ours, against, precision, rounds) -> Rounds:
        """Run everything so many times."""
        found = Rounds({name: [] for name in ("robbench", *against)}, [])

        def timed(name, function):
            self._wait()
            begun = perf_counter()
            function()
            self._wait()
            found.seconds[name].append(perf_counter() - begun)

        def others():
            for name, function in against.items():
                timed(name, function)
            found.peaks.append(self.peak(precision))

        self._benchmark.pedantic(lambda: timed("robbench", ours), setup=others, rounds=rounds, iterations=1)
        return found

    def note(self, **facts: Any) -> None:
        """Keep plain values with the result."""
        self._benchmark.extra_info["perf"] = self.figures | facts

    def target(self, what: str, value: float, least: float) -> None:
        """Keep a figure beside what it is to reach, for the report."""
        self.note(targets=[*self.figures.get("targets", ()), {"what": what, "value": value, "least": least}])

    def peak(self, precision: str = "float32") -> float:
        """Floating-point operations a second that matrix products in float32, tf32 (CUDA) or bf16 keep up.

        They run for a quarter of a second, as long as what is measured: a single product may catch a higher clock.
        """
        side = PEAK_SIDE[self.device.type]
        factor = torch.rand(side, side, device=self.device).to(torch.bfloat16 if precision == "bf16" else torch.float32)

        def seconds(products):
            self._wait()
            begun = perf_counter()
            for _ in range(products):
                factor @ factor
            self._wait()
            return perf_counter() - begun

        with tensor_cores(precision == "tf32"):
            seconds(1)
            products = max(1, math.ceil(PEAK_SECONDS / seconds(1)))
            return 2 * side**3 * products / seconds(products)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
