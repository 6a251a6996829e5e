"""The ``perf`` fixture: times a function beside its references in one run, and what the device could do at most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

from robbench.plugin.session import SESSION

if TYPE_CHECKING:
    import torch
    from pytest_benchmark.fixture import BenchmarkFixture

    from robbench.stages.context import RunContext

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

    def __getitem__(self, name: str) -> float:
        """The median of its seconds."""
        return median(self.seconds[name])

    def ratio(self, name: str, to: str = "robbench") -> float:
        """How many times faster ``to`` is: the median over the rounds of the ratio within a round."""
        return median(one / other for one, other in zip(self.seconds[name], self.seconds[to], strict=True))


class Perf:
    """Measures a benchmark with ratios: every round runs the references, a matrix product, and then what it is about.

    Interleaved like this, whatever else the machine does meets all of them alike: a ratio is taken within a round, and
    the median of the rounds counts.
    """

    def __init__(self, request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> None:
        self._benchmark = benchmark
        self._session = request.config.stash[SESSION]

    @property
    def context(self) -> RunContext:
        """Where networks are trained and kept, as of the run's options."""
        return self._session.context

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return self.context.device

    @property
    def figures(self) -> dict[str, Any]:
        """What is kept so far."""
        found: dict[str, Any] = self._benchmark.extra_info.get("perf", {"device": self._slug()})
        return found

    def compare(
        self,
        ours: Callable[[], object],
        against: dict[str, Callable[[], object]],
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
        found = Rounds({name: [] for name in ("robbench", *against)})
        peaks: list[float] = []

        def timed(name: str, function: Callable[[], object]) -> None:
            self._wait()
            begun = time.perf_counter()
            function()
            self._wait()
            found.seconds[name].append(time.perf_counter() - begun)

        def others() -> None:
            for name, function in against.items():
                timed(name, function)
            peaks.append(self.peak(precision))

        def share(name: str, flops: float) -> float:
            each = zip(found.seconds[name], peaks, strict=True)
            return median(flops / seconds / peak for seconds, peak in each)

        for function in [warm_up] if warm_up else [ours, *(against.values() if rounds > 1 else ())]:
            function()
        self._benchmark.pedantic(lambda: timed("robbench", ours), setup=others, rounds=rounds, iterations=1)  # type: ignore[no-untyped-call]
        seconds = found["robbench"]
        done = dict(work()) if work else {}
        if "robbench" in done:
            passes, flops = done["robbench"].passes, done["robbench"].flops
        self._benchmark.extra_info["perf"] = {
            "device": self._slug(),
            "images": images,
            "rounds": rounds,
            "milliseconds_per_image": 1000 * seconds / images,
            "passes_per_image": passes,
            "precision": precision,
            "peak_gflops": median(peaks) / 1e9,
            "gflops": flops / seconds / 1e9 if flops else None,
            "share_of_peak": share("robbench", flops) if flops else None,
            "ratios": {name: found.ratio(name) for name in against},
            "references": {
                name: {
                    "passes_per_image": theirs.passes,
                    "gflops": theirs.flops / found[name] / 1e9,
                    "share_of_peak": share(name, theirs.flops),
                }
                for name, theirs in done.items()
                if name != "robbench"
            },
            **facts,
        }
        return found

    def note(self, **facts: Any) -> None:
        """Keep plain values with the result."""
        self._benchmark.extra_info["perf"] = self.figures | facts

    def target(self, what: str, value: float, least: float) -> None:
        """Keep a figure beside what it is to reach, for the report."""
        self.note(targets=[*self.figures.get("targets", ()), {"what": what, "value": value, "least": least}])

    def peak(self, precision: str = "float32") -> float:
        """Floating-point operations a second that matrix products in float32, tf32 (CUDA) or bf16 keep up.

        Over a quarter of a second, as long as what is measured: single products catch moments at a higher clock.
        """
        import torch

        from robbench.machine.precision import tensor_cores

        side = PEAK_SIDE[self.device.type]
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        factor = torch.rand(side, side, device=self.device).to(dtype)
        with tensor_cores(precision == "tf32"):

            def seconds(products: int) -> float:
                self._wait()
                begun = time.perf_counter()
                for _ in range(products):
                    factor @ factor
                self._wait()
                return time.perf_counter() - begun

            seconds(1)
            products = max(1, math.ceil(PEAK_SECONDS / seconds(1)))
            return float(2 * side**3 * products / seconds(products))

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _slug(self) -> str:
        from robbench.machine.environment import environment

        return environment(self.device).slug


@pytest.fixture
def perf(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Perf:
    """Time a function beside its references: ``perf.compare(ours, {"Foolbox": theirs}, images=256)``."""
    return Perf(request, benchmark)
