"""The workers of a run, as the controller knows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from robbench.cluster.connect import PATIENCE, check_versions
from robbench.cluster.messages import PACKAGES, Facts, Run
from robbench.errors import RobbenchError


class Workers:
    """Who is there, what each of them is, and what is wrong with it.

    Args:
        client: of the scheduler.
        run: what they are told.
        machines: gets the classes of machine that come, in order.
        say: takes a sentence for the user.
        asked: asks the scheduler, anew where the connection was lost meanwhile.
    """

    def __init__(
        self,
        client: Any,
        run: Run,
        machines: list[str],
        say: Callable[[str], None],
        asked: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._client, self._run, self._machines, self._say, self._asked = client, run, machines, say, asked
        self._facts: dict[str, Facts] = {}
        self.shared = True
        """Whether every one that came sees the controller's store."""

    def wait_for(self, expected: int) -> None:
        """Wait a while for so many, and then for one; a RobbenchError where the versions there are not those here."""
        from robbench.cluster.worker import mismatch

        try:
            self._client.wait_for_workers(expected, timeout=PATIENCE)
        except TimeoutError:
            self._say(f"waiting for a worker at {self._client.scheduler.address}")
            self._client.wait_for_workers(1)
        check_versions(self._client, mismatch, PACKAGES)

    def welcome(self) -> None:
        """Ask all that are there or will come what they are, and let them get stages.

        Raises:
            RobbenchError: something is wrong with one that is there.
        """
        from robbench.cluster.worker import Welcome

        self._client.register_plugin(Welcome(self._run))
        for facts in self._found():
            self._know(facts)
        faults = [facts.fault for facts in self._facts.values() if facts.fault]
        faults += filter(None, [shares_gpu(self._facts.values()), lacks_gpu(self._facts.values())])
        if faults:
            raise RobbenchError(faults[0])
        self._give_slots([*self._facts])

    def look_again(self) -> None:
        """Take those that came while the scheduler could not be heard."""
        for facts in self._found():
            self.comes(facts.__dict__)

    def dismiss(self) -> None:
        """Tell those that come that the run is over; the scheduler may be gone."""
        with suppress(Exception):
            if self._client.status == "running":
                self._client.unregister_worker_plugin(self._run.name)

    def comes(self, said: Mapping[str, Any]) -> None:
        """Judge a worker that comes after the welcome, and let it get stages where nothing is wrong with it."""
        facts = Facts(**said)
        if facts.address in self._facts:
            return
        if not facts.fault:
            all_of_them = [*self.alive(), facts]
            facts = replace(facts, fault=shares_gpu(all_of_them) or lacks_gpu(all_of_them))
        self._know(facts)
        if not facts.fault:
            self._give_slots([facts.address])
        self._say(facts.fault or f"worker {facts.address} on {facts.host} joins")

    def alive(self) -> list[Facts]:
        """Those that are there and get stages."""
        there = self._asked(self._client.nthreads)
        for address in self._facts.keys() - there.keys():
            gone = self._facts.pop(address, None)
            if gone and not gone.fault:
                self._say(f"worker {address} on {gone.host} is gone; what it had begun goes on elsewhere")
        return [facts for address, facts in list(self._facts.items()) if address in there and not facts.fault]

    @property
    def cuda(self) -> bool:
        """Whether they have GPUs."""
        return any(facts.gpu for facts in self._facts.values())

    @property
    def said(self) -> str:
        """What a user should know of them: ``2 workers: 2 × NVIDIA L4 (node3, node4); dashboard: http://…``."""
        devices = Counter(facts.device for facts in self._facts.values())
        hosts = ", ".join(dict.fromkeys(facts.host for facts in self._facts.values()))
        link = f"; dashboard: {self._client.dashboard_link}" if find_spec("bokeh") else ""
        return f"workers: {', '.join(f'{count} × {device}' for device, count in devices.items())} ({hosts}){link}"

    def _found(self) -> list[Facts]:
        """Of all that are there; one that came just now says so itself."""
        name = self._run.name

        def facts(dask_worker: Any) -> Facts | None:
            return getattr(dask_worker.plugins.get(name), "facts", None)

        return [*filter(None, self._asked(lambda: self._client.run(facts, on_error="ignore")).values())]

    def _give_slots(self, addresses: list[str]) -> None:
        from robbench.cluster.worker import give_slot

        name = self._run.name
        # One that has left meanwhile does not answer.
        self._asked(lambda: self._client.run(give_slot, name, workers=addresses, on_error="ignore"))

    def _know(self, facts: Facts) -> None:
        self._facts[facts.address] = facts
        self.shared &= facts.shared
        if not facts.fault and facts.machine not in self._machines:
            self._machines.append(facts.machine)


def shares_gpu(workers: Iterable[Facts]) -> str | None:
    """What is wrong where two workers see the same GPU first."""
    seen: dict[str, Facts] = {}
    for facts in workers:
        if facts.gpu and (other := seen.setdefault(facts.gpu, facts)) is not facts:
            return (
                f"workers {other.address} and {facts.address}: expected a GPU for each, got one for both; give each its "
                "own by CUDA_VISIBLE_DEVICES, as dask-cuda does"
            )
    return None


def lacks_gpu(workers: Iterable[Facts]) -> str | None:
    """What is wrong where some workers have a GPU and another has none."""
    workers = list(workers)
    without = [facts for facts in workers if not facts.gpu]
    if not without or len(without) == len(workers):
        return None
    return (
        f"worker {without[0].address} on {without[0].host}: expected a CUDA device, as other workers have, got none; "
        "stop it, or use --robbench-device cpu"
    )
