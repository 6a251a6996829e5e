"""Where a stage runs: the device that is chosen, and the slug that seconds are compared within."""

from __future__ import annotations

import subprocess

import pytest
import torch

import robbench.machine.environment
from robbench.errors import RobbenchError
from robbench.machine.environment import choose_device, environment, multiplies_in_tf32, share_of_threads


@pytest.fixture
def afresh():
    """Environments found out anew before and after the test, which changes what they find."""
    robbench.machine.environment._constant.cache_clear()
    yield
    robbench.machine.environment._constant.cache_clear()


def mock_devices(monkeypatch, count):
    """So many CUDA devices; returns those that were made the current one."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_one_process_takes_the_first_cuda_device_and_several_are_refused(monkeypatch):
    """They would slow each other down in silence; on the CPU there may be any number."""
    current = mock_devices(monkeypatch, 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 0)
    assert current == [torch.device("cuda", 0)] * 2
    with pytest.raises(RobbenchError, match=r"got 3 workers of pytest-xdist; .* use --robbench-workers 2, or -n with"):
        choose_device("auto", 3)
    assert choose_device("cpu", 3) == torch.device("cpu")
    mock_devices(monkeypatch, 0)
    assert choose_device("auto", 3) == torch.device("cpu")


@pytest.mark.parametrize(
    ("threads", "workers", "asked", "share"),
    [(8, 1, None, 8), (8, 3, None, 2), (2, 4, None, 1), (8, 4, "8", 8)],
)
def test_workers_share_the_threads(monkeypatch, threads, workers, asked, share):
    """At least one each, unless the environment says how many; afterwards there are as many as before."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with share_of_threads(workers):
            assert torch.get_num_threads() == share
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_tf32_is_told_of_devices_that_have_it(monkeypatch):
    """From compute capability 8 on; of a CPU there is nothing to tell."""
    for capability, expected in (((7, 5), False), ((8, 0), True), ((8, 9), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert multiplies_in_tf32(torch.device("cuda", 0)) is expected
    assert multiplies_in_tf32(torch.device("cpu")) is None


def test_the_slug_does_not_say_which_of_several_devices(afresh, monkeypatch):
    """Seconds of two workers on two GPUs of one kind compare."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    first, second = (environment(torch.device("cuda", index)) for index in (0, 1))
    assert first.slug == "nvidia-h200"
    assert first == second


def test_a_missing_gpu_and_an_unknown_device_are_errors(monkeypatch):
    """Asking for CUDA without one never falls back in silence, and a misspelt name is corrected."""
    mock_devices(monkeypatch, 0)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(RobbenchError, match="expected a CUDA device for --robbench-device cuda"):
        choose_device("cuda")
    with pytest.raises(RobbenchError, match=r"unknown device 'cdua'; expected one of auto, cpu, cuda.*'cuda'"):
        choose_device("cdua")


@pytest.mark.parametrize(
    ("processor", "slug"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "cpu-6core-intel-xeon-platinum-8481c"),
        ("AMD EPYC 9B14 96-Core Processor", "cpu-6core-amd-epyc-9b14-96-core"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "cpu-6core-intel-core-i7-9750h"),
    ],
)
def test_a_slug_names_the_class_of_machine(afresh, monkeypatch, processor, slug):
    """Cores that this process may use, the processor without trademarks and clock rate, and threads if not one each."""
    monkeypatch.setattr(robbench.machine.environment, "_cpu_name", lambda: processor)
    monkeypatch.setattr(
        robbench.machine.environment.os, "sched_getaffinity", lambda process: set(range(6)), raising=False
    )
    for threads, ending in ((6, ""), (1, "-1thread")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found = environment(torch.device("cpu"))
        assert (found.slug, found.threads) == (slug + ending, threads)
        assert (found.cpu, found.device, found.cores) == (processor, processor, 6)


@pytest.mark.parametrize(("change", "dirty"), [(None, False), ("new.txt", True)])
def test_the_commit_of_the_working_folder_is_recorded(afresh, monkeypatch, tmp_path, change, dirty):
    """The commit's hash, and whether anything differs from it; neither where there is no git."""

    def git(*arguments):
        command = ("git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments)
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    if change:
        (tmp_path / change).write_text("x")
    monkeypatch.chdir(tmp_path)
    found = environment(torch.device("cpu"))
    assert (found.commit, found.dirty) == (git("rev-parse", "HEAD"), dirty)
    robbench.machine.environment._constant.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment(torch.device("cpu"))
    assert (found.commit, found.dirty) == (None, None)
