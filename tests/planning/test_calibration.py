"""Timing a network on this machine."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

import robbench.planning.calibration
from robbench.bounds import BoundedNetwork, Boxes
from robbench.machine.graphs import GraphedLoop
from robbench.models import build
from robbench.planning.calibration import RADIUS, measure, measured_speeds
from robbench.planning.work import Work
from robbench.record import Seconds

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_every_kind_of_pass_takes_some_time():
    """Each is timed by itself."""
    speed = measure("cnn3", classes=10, shape=(1, 28, 28), precision="float32", device=CPU)
    assert min(speed.inference, speed.attack, speed.update) > 0


def test_linear_functions_are_timed_at_one_place_of_each_layer():
    """49 places of the second convolution as long as one, and the dense layer, for all neurons, both ways."""
    shape = (1, 28, 28)
    network = BoundedNetwork(build("cnn_small", classes=10, shape=shape).eval())
    boxes = Boxes.around(torch.rand(2, *shape), torch.full((2,), RADIUS))
    found = network.row_seconds(boxes, lambda run: float(run() is not None))
    assert found == (49 + 1) / (2 * 2 * network.neurons(shape))


@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("tf32", True), ("bf16", True)])
def test_what_is_timed_is_what_runs(monkeypatch, precision, rounded):
    """An attack of so many steps in a loop, by the step; TF32 where training allows it, and not as in a p* search."""
    passes, allowed, loops, attacked = [], [], [], robbench.planning.calibration.attacked

    @contextmanager
    def noting(allow):
        allowed.append(allow)
        yield
        allowed.append("over")

    def per_run(run, device):
        """A second for every pass."""
        assert allowed == [rounded]
        before = len(passes)
        run()
        return float(len(passes) - before)

    def spy(model, *given, loop):
        hook = model.register_forward_hook(lambda module, inputs, output: passes.append(output.dtype))
        loops.append(loop)
        found = attacked(model, *given, loop=loop)
        hook.remove()
        return found

    monkeypatch.setattr(robbench.planning.calibration, "tensor_cores", noting)
    monkeypatch.setattr(robbench.planning.calibration, "_per_run", per_run)
    monkeypatch.setattr(robbench.planning.calibration, "attacked", spy)
    monkeypatch.setattr(robbench.planning.calibration, "STEPS", {"cpu": 6})
    monkeypatch.setattr(robbench.planning.calibration, "BATCH_SIZE", {"cpu": 4})
    speed = measure("cnn3", classes=10, shape=(1, 28, 28), precision=precision, device=CPU)
    assert passes == [torch.bfloat16 if precision == "bf16" else torch.float32] * 6
    assert speed.attack == 1 / 4
    assert [type(loop) for loop in loops] == [GraphedLoop]


@pytest.mark.parametrize(("tf32", "measured"), [(None, ["float32"]), (False, ["float32"]), (True, ["tf32", "float32"])])
def test_training_is_timed_apart_only_where_it_computes_otherwise(monkeypatch, tf32, measured):
    """Each network once: a device without TF32 trains and searches at one speed."""
    stages = [
        SimpleNamespace(network=("cnn3", (1, 28, 28), precision), work=Work())
        for precision in ("tf32", "float32", "tf32")
    ]
    asked = []
    monkeypatch.setattr(robbench.planning.calibration, "multiplies_in_tf32", lambda device: tf32)
    monkeypatch.setattr(
        robbench.planning.calibration, "measure", lambda name, **how: asked.append(how["precision"]) or len(asked)
    )
    assert measured_speeds(stages, CPU) == ({stages[0].network: 1, stages[1].network: len(measured)}, 0.0)
    assert asked == measured


def test_time_spent_waiting_for_a_core_is_told(monkeypatch):
    """Of what was measured, as a share."""
    seconds = Seconds(estimation=4.0, waiting_for_core=1.0)
    stopwatch = SimpleNamespace(region=lambda name: nullcontext(), seconds=seconds)
    monkeypatch.setattr(robbench.planning.calibration, "Stopwatch", lambda device: stopwatch)
    assert measured_speeds([], CPU) == ({}, 0.25)


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_on_a_gpu_the_attack_is_captured_once(monkeypatch, precision):
    """In the second discarded run: those that are timed replay it."""
    captures, capture = [], robbench.machine.graphs._CudaGraphs.__call__
    monkeypatch.setattr(
        robbench.machine.graphs._CudaGraphs,
        "__call__",
        lambda self, *given: (capture(self, *given), captures.append(1))[0],
    )
    speed = measure("cnn7", classes=10, shape=(1, 28, 28), precision=precision, device=torch.device("cuda"))
    assert captures == [1]
    assert 0 < speed.attack < 1
