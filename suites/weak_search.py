"""How often APGD-T finds a counterexample one grid step below p*: networks of the embedded suite, search by search.

``python -m suites.weak_search FOLDER reference fast`` trains them, and prints a line for each network and search.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from robbench import Audit
from robbench.stages import Task, run_stage
from robbench.stages.context import RunContext
from robbench.store.store import Store
from suites.test_embedded import STUDY


def main(folder: Path, *searches: str) -> None:
    """Print what APGD-T fools, and the seconds of the search and of its audit with and without APGD-T."""
    context = RunContext(store=Store(folder / "store"), data=folder / "data", device=torch.device("cpu"))
    print("| model | search | APGD-T fools | search s | audit s | audit without s | warns |")
    print("| --- | --- | --: | --: | --: | --: | --- |")
    for model in STUDY.models():
        for search in searches:
            estimate = replace(STUDY.estimate, search=search)
            with_it, without = (
                run_stage(Task("robustness", model, replace(estimate, audit=audit)), context, suite="weak_search")
                for audit in (Audit(), Audit(apgd_images=0))
            )
            audit, seconds = with_it.robustness.audit, [record.seconds for record in (with_it, without)]
            print(
                f"| {model.id} | {search} | {audit.apgd_fooled} of {audit.apgd_images} | {seconds[0].measured:.2f} | "
                f"{seconds[0].validation:.2f} | {seconds[1].validation:.2f} | {'yes' if audit.warnings else 'no'} |",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
