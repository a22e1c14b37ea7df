"""The command `slurmfutures demo`."""

import argparse
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from .. import SchedulerNotFound, SlurmExecutor
from . import sweep

_TIME_LIMIT = "00:10:00"  # with a site's default, often a day, jobs of seconds would wait for a gap of a day


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "demo",
        help="a real parameter sweep, to see it work",
        description="Find the critical temperature of the two-dimensional Ising model by a sweep over temperatures: "
        "on Slurm if there is one, else on this machine.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="smaller lattices and fewer sweeps: some seconds")
    add("--scheduler", choices=("auto", "slurm", "local"), default="auto", help="auto is slurm if there is an sbatch")
    add(
        "--option",
        "-o",
        action="append",
        type=option,
        default=[],
        metavar="NAME=VALUE",
        help="an option of sbatch, such as partition=debug; may be given more than once",
    )
    add("--work-dir", metavar="DIR", help="a folder that the compute nodes see too (default: ~/.slurmfutures)")
    add("--size", type=side, metavar="L", help="spins along a side of the larger lattice (default: 32, quick: 16)")
    add("--temperatures", type=temperature, nargs="+", metavar="T", help="in units of J/k (default: 1.5 to 3)")
    add("--seeds", type=seeds, metavar="N", help="simulations at each temperature, of each size (default: 5)")
    parser.set_defaults(run=partial(run, parser))


def run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    """Run the sweep and show what came out."""
    from .report import Screen

    screen = Screen()
    plan = make_plan(arguments)
    try:
        executor, where = start(arguments.scheduler, make_options(arguments))
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    with executor:
        screen.show_plan(plan, where)
        with screen.progress(plan) as on_done:
            outcome = sweep.run(executor, plan, on_done)
    screen.show_outcome(outcome)
    return 0


def start(scheduler: str, options: dict[str, Any]) -> tuple[SlurmExecutor, str]:
    """Return an executor, and in words where its calls run."""
    if scheduler == "slurm" or (scheduler == "auto" and shutil.which("sbatch")):
        try:
            return SlurmExecutor("", scheduler="slurm", **options), "Slurm"
        except SchedulerNotFound:
            if scheduler == "slurm":
                raise
            print("slurmfutures: Slurm does not answer, using this machine", file=sys.stderr)
    return SlurmExecutor(scheduler="local", **options), f"this machine, {os.cpu_count()} at once"


def make_plan(arguments: argparse.Namespace) -> sweep.Plan:
    """Return the plan that the arguments ask for."""
    plan = sweep.QUICK if arguments.quick else sweep.PLAN
    asked = {
        "size": arguments.size,
        "temperatures": arguments.temperatures and tuple(sorted(set(arguments.temperatures))),
        "seeds": arguments.seeds,
    }
    return replace(plan, **{name: value for name, value in asked.items() if value})


def make_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords for SlurmExecutor."""
    options: dict[str, Any] = {"time": _TIME_LIMIT, **dict(arguments.option)}
    if arguments.work_dir:
        options["work_dir"] = arguments.work_dir
    return options


def option(text: str) -> tuple[str, str | bool]:
    """Parse an option of sbatch, with or without a value."""
    name, equals, value = text.lstrip("-").partition("=")
    return name.replace("-", "_"), value if equals else True


def side(text: str) -> int:
    """Parse the side of the larger lattice; the other has half of it."""
    number = int(text)
    if number < 4 or number % 2:
        raise argparse.ArgumentTypeError(f"{text} is not an even number of 4 or more")
    return number


def temperature(text: str) -> float:
    """Parse a temperature."""
    number = float(text)
    if not 0.1 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.1 and 100")
    return number


def seeds(text: str) -> int:
    """Parse the number of seeds."""
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{text} is too few for standard errors: 2 or more")
    return number
