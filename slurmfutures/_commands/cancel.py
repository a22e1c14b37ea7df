"""The command `slurmfutures cancel`: end the jobs of drivers that have gone."""

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .. import SlurmFuturesError
from .place import Agent, use
from .table import count, show_json, show_lines

_OPEN = ("running", "pending")
_PATIENCE = 90.0  # seconds in which cancelled jobs may leave the queue; Slurm's KillWait is 30 by default
_FIRST = 0.5  # seconds before the queue is looked at; twice as long each time
_LONGEST = 8.0


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "cancel",
        help="end the jobs of drivers that have gone",
        description="Cancel what is queued or runs of batches whose driver has gone, and wait until it has left the "
        "queue. What was done before stays. A driver that is connected has to cancel by itself.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("batch", metavar="BATCH", nargs="*", default=[], help="as status prints it")
    which.add_argument("--all", action="store_true", help="all of which no driver is connected")
    use(parser, run, tables=False)


def run(arguments: argparse.Namespace, agent: Agent) -> int:
    """Cancel, and say what was."""
    batches = agent.ask_json("survey")["batches"]
    chosen = _named(arguments.batch, batches, agent) if arguments.batch else batches
    refused = [{"batch": batch["batch"], "why": why} for batch in chosen if (why := _refusal(batch, agent))]
    if refused and not arguments.all:
        raise SlurmFuturesError("; ".join(f"batch {one['batch']}: {one['why']}" for one in refused))
    kept = {one["batch"] for one in refused}
    mine = {batch["batch"]: _open_tasks(batch) for batch in chosen if batch["batch"] not in kept}
    mine = {name: tasks for name, tasks in mine.items() if tasks}
    for name, tasks in mine.items():
        agent.ask("cancel", batch=name, tasks=tasks)
    left = _wait(agent, mine)
    cancelled = [{"batch": name, "tasks": len(tasks)} for name, tasks in mine.items()]
    if arguments.json:
        show_json({"cancelled": cancelled, "refused": refused, "left": left})
    else:
        show_lines(f"batch {one['batch']}: {count(one['tasks'], 'task')} cancelled" for one in cancelled)
        show_lines(f"batch {one['batch']} stays: {one['why']}" for one in refused)
        if not cancelled:
            show_lines(["nothing to cancel"])
    if left:
        raise SlurmFuturesError(f"cancelled, but not out of the queue yet: {', '.join(left)}")
    return 0


def _named(names: Sequence[str], batches: Sequence[Mapping[str, Any]], agent: Agent) -> list[Mapping[str, Any]]:
    by_name = {batch["batch"]: batch for batch in batches}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise SlurmFuturesError(f"there is no batch {', '.join(missing)} in {agent.where}")
    return [by_name[name] for name in dict.fromkeys(names)]


def _refusal(batch: Mapping[str, Any], agent: Agent) -> str:
    """Return why a batch cannot be cancelled from here, "" where it can."""
    if batch["live"]:
        return "its driver is connected: cancel there, by future.cancel() or Ctrl-C"
    scheduler = batch["scheduler"] or agent.place.scheduler
    if scheduler != agent.place.scheduler and any(batch["states"][state] for state in _OPEN):
        return f"its jobs are not this scheduler's: use --scheduler {scheduler}"
    return ""


def _open_tasks(batch: Mapping[str, Any]) -> list[int]:
    return [task for state in _OPEN for first, end in batch["states"][state] for task in range(first, end)]


def _wait(agent: Agent, cancelled: Mapping[str, Sequence[int]]) -> list[str]:
    """Wait until the queue has none of these batches; return those of which it still has some, patience being over."""
    end = time.monotonic() + _PATIENCE
    pause = _FIRST
    left = list(cancelled)
    while left and time.monotonic() < end:
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
        found = agent.ask_json("survey")
        if found["queue"] is False:
            continue
        left = [
            batch["batch"]
            for batch in found["batches"]
            if batch["batch"] in cancelled and (batch["states"]["running"] or batch["states"]["pending"])
        ]
    return left
