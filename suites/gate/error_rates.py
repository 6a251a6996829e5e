"""How often the gate is wrong: alarms without a cause, planted losses that it sees, and seconds of unchanged code.

``python suites/gate/error_rates.py reports/embedded-runs`` reads bundles of one study that was run with several seeds
(``suites/gate/test_embedded_runs.py --robbench-seeds 12``) or several times, and holds each run to one other. A seed
stands for everything that leads training elsewhere while the code is the same: another processor, another version of
torch. Verdicts are those of ``robbench.gate.verdicts.compare``.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from gate_errors.runs import read_runs
from gate_errors.tables import report

from robbench.errors import RobbenchError
from robbench.gate.verdicts import Tolerances


def main(arguments: Sequence[str] | None = None) -> int:
    """Read bundles and print the tables; returns the exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path, metavar="RECORDS", help="a bundle's records.json or folder")
    parser.add_argument(
        "--suite",
        type=Path,
        default=Path(__file__).parents[1] / "test_embedded.py",
        metavar="FILE",
        help="suite file whose marker declares the tolerances (default: the embedded suite)",
    )
    parser.add_argument(
        "--target", type=float, default=0.05, metavar="SHARE", help="alarms per run to propose for (default: 0.05)"
    )
    options = parser.parse_args(arguments)
    try:
        declared = Tolerances.of(runpy.run_path(str(options.suite))["pytestmark"].kwargs)
        text = report(read_runs(options.bundles), declared, options.target)
    except RobbenchError as error:
        print(f"error_rates: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
