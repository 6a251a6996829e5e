"""A kind of stage of one's own needs no other file: how much a network's accuracy loses to grey noise."""

from __future__ import annotations

import pytest
import torch
from stages import source

from robbench.record import RESULTS, Struct
from robbench.stages import KINDS, StageKind, Task, run_graph
from robbench.stages.kinds import add_kind
from robbench.stages.work import Made, images_used


class Noise(Struct, frozen=True, kw_only=True):
    """What comes out."""

    right: int
    total: int

    def figures(self):
        """For reports and JUnit files."""
        return {"noise_accuracy": self.right / self.total}


def add_noise(work):
    """Make the stage: classify the test images with noise of the asked strength."""
    network, test = work.network("model"), work.data.test
    images = test.take(torch.arange(len(test)))
    noise = work.task.spec * torch.randn(images.images.shape, generator=torch.Generator().manual_seed(0))
    right = int((network((images.images / 255 + noise).clamp(0, 1)).argmax(1) == images.labels).sum())
    used = images_used(work, train=0, validation=0, test=len(test))
    return Made(result=Noise(right=right, total=len(test)), network=network, data=used)


@pytest.fixture
def noise(monkeypatch):
    """The kind, for the time of a test."""
    monkeypatch.setattr("robbench.stages.kinds.KINDS", KINDS)
    add_kind(
        StageKind(
            name="noise",
            result=Noise,
            specs=lambda study, model: {"": 0.1},
            needs=lambda model, spec: {"model": ("training", model)},
            run=add_noise,
        )
    )
    yield
    del KINDS["noise"], RESULTS["noise"]


def test_a_stage_of_a_new_kind_runs_is_stored_and_reused(new_run, noise):
    """Its record comes back from JSON with its own type of result."""
    task = Task("noise", source(), 0.1)
    record = run_graph([task], new_run())[task]
    again = run_graph([task], new_run())[task]
    assert isinstance(again.result, Noise)
    assert again == record
    assert 0 < again.result.figures()["noise_accuracy"] <= 1
