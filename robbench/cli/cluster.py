"""``robbench cluster``: what starts workers elsewhere, as a script to read, to change and to run."""

from __future__ import annotations

import argparse

from robbench.cli.options import Commands
from robbench.errors import require

SLURM = '''"""Run suites on {gpus} GPUs of a Slurm cluster, one job a GPU: python slurm.py -m suite

Needs `pip install 'robbench[cluster]' dask-jobqueue`. Run it where jobs are submitted, such as on a login node, for as long
as the suites take; run it again after an interruption, and it goes on. What stands after it goes to pytest.
"""

import subprocess
import sys

from dask_jobqueue import SLURMCluster

with SLURMCluster(
    # queue="gpu", account="…",  # as your cluster asks for
    processes=1,  # one stage at a time on a GPU
    cores={cores},
    memory="{memory} GB",
    walltime="{hours:02d}:00:00",
    job_extra_directives=["--gres=gpu:1"],
    # A worker leaves a few minutes before Slurm ends its job, and a new job takes its place.
    worker_extra_args=["--lifetime", "{lifetime}m", "--lifetime-stagger", "3m", "--memory-limit", "0"],
) as cluster:
    cluster.adapt(minimum_jobs={gpus}, maximum_jobs={gpus})
    options = ["--robbench-scheduler", cluster.scheduler_address, *sys.argv[1:]]
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", *options]))
'''


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "cluster",
        help="print a script that runs suites on the GPUs of a Slurm cluster",
        epilog="example: robbench cluster slurm --gpus 8 --hours 24",
    )
    parser.add_argument("scheduler", choices=("slurm",), help="what gives out the machines")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="GPUs, each with a worker")
    parser.add_argument("--hours", type=int, default=24, metavar="H", help="a worker's time limit (default: 24)")
    parser.add_argument("--cores", type=int, default=4, metavar="N", help="of the CPU, for each GPU (default: 4)")
    parser.add_argument("--memory", type=int, default=32, metavar="GB", help="for each GPU (default: 32)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    for name in ("gpus", "hours", "cores", "memory"):
        require(getattr(options, name) > 0, f"--{name}", "an integer ≥ 1", getattr(options, name))
    sizes = {name: getattr(options, name) for name in ("gpus", "hours", "cores", "memory")}
    print(SLURM.format(**sizes, lifetime=60 * options.hours - 10), end="")
    return 0
