"""No waiting inside the attack: nothing in its steps asks the device for a value."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from loops import network, recipe
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from robbench.attacks import pgd
from robbench.estimation.shrinking_ball import _step
from robbench.machine.graphs import GraphedLoop, _without_waiting, repeat
from robbench.machine.precision import tensor_cores
from robbench.spec import PGD
from robbench.training import Batch
from robbench.training.optimisers import new_optimiser
from robbench.training.updates import attacked, update

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

READS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero")
"""Operations of ``aten`` whose result, or its shape, depends on values, which a GPU has to be waited for."""


class Reads(TorchDispatchMode):
    """Notes the operations that read values."""

    def __init__(self):
        super().__init__()
        self.found, self.operations = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Run it, and note it where it reads; an index of booleans does, too."""
        name = function.overloadpacket.__name__
        masks = [part for part in args[1] if part is not None] if name.startswith("index") and len(args) > 1 else []
        if name in READS or any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in masks):
            self.found.append(name)
        self.operations += 1
        return function(*args, **(kwargs or {}))


def batch(count=9, device="cpu"):
    """Images of the toy network, and labels."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 6, 6, generator=generator).to(device), (torch.arange(count) % 3).to(device)


@pytest.mark.parametrize(
    "ask",
    [
        lambda images: images.sum().item(),
        lambda images: images[images > 0.5],
        lambda images: (images > 0.5).nonzero(),
    ],
    ids=["item", "mask", "nonzero"],
)
def test_the_watch_sees_what_reads_values(ask):
    """So that none seen means none there; as it is for other operations."""
    images, _ = batch()
    with Reads() as reads:
        images.clone().clamp_(0, 1).argmax(dim=1)
    assert (reads.found, reads.operations) == ([], 3)
    with reads:
        ask(images)
    assert reads.found


@pytest.mark.parametrize("epsilon", [0.1, torch.linspace(0, 0.2, 9)], ids=["one", "each"])
def test_no_step_of_pgd_reads_a_value(epsilon):
    """Forward, backward, and the projection into ball and box."""
    images, labels = batch()
    reads = Reads()

    def watched(step, *given):
        with reads:
            return repeat(step, *given)

    pgd(network().eval(), images, labels, epsilon, steps=4, loop=watched)
    assert reads.operations > 4 * 10
    assert reads.found == []


def test_no_step_of_the_shrinking_ball_reads_a_value():
    """Also where a ball shrinks, and where another one is settled."""
    images, labels = batch()
    found, age = torch.tensor([2] * 5 + [1] * 4), torch.tensor([0, 7, 30] * 3)
    radii, zeros = torch.tensor([0.0, 0.1]).double(), torch.zeros_like(age)
    state, targets = (images + 0.05, images.clone(), found, age, zeros + 1), (labels.view(-1, 1) + 1) % 3
    with Reads() as reads:
        _, _, shrunk, _, _ = _step(
            network().eval(), state, (images, labels, zeros, targets), radii, torch.tensor([20]), 1, (0.0, 1.0), "linf"
        )
    assert reads.operations > 40
    assert reads.found == []
    assert (shrunk < found).any()


# --- CUDA -------------------------------------------------------------------------------------------------------------


@contextmanager
def no_waiting():
    """An error for what waits for the device; torch warns that it does not see everything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _without_waiting():
            yield


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_an_adversarial_update_on_a_gpu_waits_for_nothing(optimiser, precision):
    """Replayed steps and the update; what they need is on the device before."""
    device = torch.device("cuda")
    spec = recipe(
        optimiser=optimiser, precision=precision, clip_norm=1.0, attack=PGD(epsilon=0.1, step_size=0.05, steps=5)
    )
    model, notes, (images, labels) = network().to(device), [], batch(device=device)
    loop = GraphedLoop(device, notes)
    generator, learner = torch.Generator(device).manual_seed(0), new_optimiser(model, spec, None)

    def train():
        adversarial = attacked(model, spec.attack, spec.precision, images, labels, generator, loop=loop)
        update(model, spec, learner, Batch(images, adversarial, labels))

    with tensor_cores():
        for _ in range(2):  # steps one by one, and captured; libraries are loaded, and the optimiser's state is made
            train()
        torch.cuda.synchronize()
        with no_waiting():
            for _ in range(3):
                train()
    assert (len(loop._graphs), notes) == (1, [])


class Awkward(nn.Module):
    """Asks for a value in its forward pass, and drops features at random whatever its mode."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 3)

    def forward(self, images):
        """(N, 1, 6, 6) -> (N, 3)."""
        return self.layer(F.dropout(images.flatten(1), 0.5, training=True)) * images.amax().item()


@needs_cuda
def test_a_network_that_cannot_be_captured_trains_all_the_same_and_leaves_no_trace():
    """Random numbers, memory and streams work as before, and the notes say why there is no graph."""
    device, notes = torch.device("cuda"), []
    model, loop, (images, labels) = Awkward().to(device), GraphedLoop(device, notes), batch(device=device)
    stream, mode = torch.cuda.current_stream(), torch.cuda.get_sync_debug_mode()
    for _ in range(3):
        adversarial = pgd(model, images, labels, 0.1, steps=5, random_start=False, loop=loop)
        F.cross_entropy(model(adversarial), labels).backward()
        assert torch.rand(4, device=device).isfinite().all()
    assert torch.cuda.current_stream() == stream
    assert torch.cuda.get_sync_debug_mode() == mode
    assert loop._graphs == {}
    assert len(notes) == 1
    assert "synchroniz" in notes[0]
    torch.cuda.synchronize()
