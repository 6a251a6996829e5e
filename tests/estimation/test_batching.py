"""Attacks in batches: what is freed before a smaller one is tried."""

from __future__ import annotations

import weakref

import torch
from torch import nn

from robbench.data import Images
from robbench.estimation.batching import Batching
from robbench.estimation.problem import Problem
from robbench.machine.graphs import Captured
from robbench.spec import PGD


def test_tensors_and_graphs_of_the_batch_that_did_not_fit_are_gone_when_memory_is_given_back(monkeypatch):
    """The traceback of its error holds the tensors, and the loop its graphs."""
    problem = Problem(
        network=nn.Identity(),
        images=Images(torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64)),
        device=torch.device("cuda"),
        grid=(0.0, 0.1),
        attack=PGD(steps=2, random_start=False),
    )
    batching, held, living = Batching(problem, "p*", size=8), [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: living.append([each() is not None for each in held]))

    def work():
        if batching.size < 8:
            return batching.size
        activations, kept = torch.zeros(8), torch.zeros(8)
        batching.loop._graphs["kind"] = Captured(lambda: None, (kept,), ())
        held.extend(map(weakref.ref, (activations, kept)))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    assert batching(work) == 4
    assert living == [[False, False]]
    assert problem.notes == ["out of memory: p* went on with batches of 4 images"]
