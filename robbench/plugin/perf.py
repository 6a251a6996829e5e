"""The ``perf`` fixture: times a function beside its references in one run, and what the device could do at most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from robbench.plugin.session import SESSION

if TYPE_CHECKING:
    import torch
    from pytest_benchmark.fixture import BenchmarkFixture
    from torch import Tensor, nn

    from robbench.workplace import Workplace

PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product gives the device's peak."""

PEAK_SECONDS = 0.25
"""How long matrix products are timed."""


class Perf:
    """Measures a benchmark with ratios: every round runs the references, a matrix product, and then what it is about.

    Interleaved like this, whatever else the machine does meets all of them alike; the best round of each counts.
    """

    def __init__(self, request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> None:
        self._benchmark = benchmark
        self._session = request.config.stash[SESSION]

    @property
    def workplace(self) -> Workplace:
        """Where networks are trained and kept, as of the run's options."""
        return self._session.workplace

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return self.workplace.device

    def compare(
        self,
        ours: Callable[[], object],
        against: dict[str, Callable[[], object]],
        *,
        images: int,
        passes: float | None = None,
        flops: float | None = None,
        precision: str = "float32",
        rounds: int = 3,
        **facts: Any,
    ) -> dict[str, float]:
        """Time ``ours`` and its references; the best seconds of each, ``robbench`` the first.

        Args:
            ours: what is measured; called once before, for what happens only once.
            against: references by name.
            images: that one call handles.
            passes: forward and backward passes through the network for each of them.
            flops: floating-point operations of all of them that cannot be avoided.
            precision: float32, tf32 or bf16, of the matrix product that gives the peak.
            rounds: how often everything runs.
            facts: plain values to keep with the result.
        """
        best = dict.fromkeys(("robbench", *against), float("inf"))
        peak = 0.0

        def timed(name: str, function: Callable[[], object]) -> None:
            begun = time.perf_counter()
            function()
            self._wait()
            best[name] = min(best[name], time.perf_counter() - begun)

        def others() -> None:
            nonlocal peak
            peak = max(peak, self.peak(precision))
            for name, function in against.items():
                timed(name, function)

        ours()
        for function in against.values() if rounds > 1 else ():
            function()
        self._benchmark.pedantic(lambda: timed("robbench", ours), setup=others, rounds=rounds, iterations=1)  # type: ignore[no-untyped-call]
        seconds = best["robbench"]
        self._benchmark.extra_info["perf"] = {
            "device": self._slug(),
            "images": images,
            "milliseconds_per_image": 1000 * seconds / images,
            "passes_per_image": passes,
            "precision": precision,
            "peak_gflops": peak / 1e9,
            "gflops": flops / seconds / 1e9 if flops else None,
            "share_of_peak": flops / seconds / peak if flops else None,
            "ratios": {name: value / seconds for name, value in best.items() if name != "robbench"},
            **facts,
        }
        return best

    def note(self, **facts: Any) -> None:
        """Keep plain values with the result."""
        self._benchmark.extra_info["perf"] = self._benchmark.extra_info.get("perf", {"device": self._slug()}) | facts

    def peak(self, precision: str = "float32") -> float:
        """Floating-point operations a second that matrix products in float32, tf32 (CUDA) or bf16 keep up.

        Over a quarter of a second, as long as what is measured: single products catch moments at a higher clock.
        """
        import torch

        from robbench.precision import tensor_cores

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
        from robbench.environment import environment

        return environment(self.device).slug


def forward_flops(network: nn.Module, image: Tensor) -> int:
    """Floating-point operations of one forward pass of one image, (1, C, H, W).

    A pass back to the images takes as many again, one to the weights as well two times as many.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(image)
    return int(counter.get_total_flops())


@pytest.fixture
def perf(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Perf:
    """Time a function beside its references: ``perf.compare(ours, {"Foolbox": theirs}, images=256)``."""
    return Perf(request, benchmark)
