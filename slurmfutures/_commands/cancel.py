"""The command `slurmfutures cancel`: end the jobs of drivers that have gone."""

import argparse
import bisect
import contextlib
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from .. import SlurmFuturesError, _journal, _records
from . import checkpoint
from .place import Agent, add_flags, run_at, run_at_place
from .table import count, show_json, show_lines

_OPEN = ("running", "pending")
_BATCH = re.compile(r"[0-9a-f]{12}")
_LEFT = "cancelled, but not out of the queue yet: "
_PATIENCE = 90.0  # seconds in which cancelled jobs may leave the queue; Slurm's KillWait is 30 by default
_FIRST = 0.5  # seconds before the queue is looked at; twice as long each time
_LONGEST = 8.0


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "cancel",
        help="end the jobs of drivers that have gone",
        description="Cancel what is queued or runs of batches whose driver has gone, and wait until it has left the "
        "queue. What was done before stays. A driver that is connected has to cancel by itself. Calls of a checkpoint, "
        "also those that are in pilots, run again when they are asked for.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("batch", metavar="BATCH", nargs="*", default=[], help="as status prints it, or a CHECKPOINT")
    which.add_argument("--all", action="store_true", help="all of which no driver is connected")
    parser.add_argument("--forget", action="store_true", help="of a CHECKPOINT whose work_dir is gone: ask nobody")
    add_flags(parser)
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    alone = arguments.batch[0] if len(arguments.batch) == 1 else ""
    if not alone or _BATCH.fullmatch(alone):
        if arguments.forget:
            parser.error("--forget is for one CHECKPOINT")
        return run_at_place(parser, run, False, arguments)
    scan = checkpoint.load(alone)
    with contextlib.closing(_journal.Journal(scan.path)) as journal:
        return _cancel_checkpoint(journal, parser, arguments, scan)


def _cancel_checkpoint(
    journal: _journal.Journal, parser: argparse.ArgumentParser, arguments: argparse.Namespace, scan: _journal.Scan
) -> int:
    """Cancel the calls under way of a checkpoint that nobody has open, and write that into it."""
    alive = {batch.id: set(batch.open) for batch in journal.contents.batches.values() if batch.open}
    cancelled: list[dict[str, Any]] = []

    def at_place(arguments: argparse.Namespace, agent: Agent) -> int:
        batches = agent.survey()["batches"]
        there = [it for it in batches if it["batch"] in alive or checkpoint.has_pilots(scan, it)]
        cancelled.extend(_cancel(there, agent))
        # What has ended is for the next driver: its results are there to be fetched.
        _keep_finished(journal.contents.batches, alive, agent, scan)
        for batch in there:
            if batch["batch"] not in alive:
                continue
            kept = {
                task
                for state in ("done", "ended")
                for first, end in batch["states"][state]
                for task in range(first, end)
            }
            firsts = journal.contents.batches[batch["batch"]].firsts
            alive[batch["batch"]] = {
                call for call in alive[batch["batch"]] if bisect.bisect_right(firsts, call) - 1 not in kept
            }
        return 0

    if alive and not arguments.forget:
        run_at(checkpoint.place_in(scan, parser, arguments), parser, at_place, arguments)
    _write_down(journal, alive)
    calls = sum(map(len, alive.values()))
    if arguments.json:
        show_json({"checkpoint": scan.path, "calls": calls, "cancelled": cancelled, "refused": [], "left": []})
    else:
        show_lines([f"{count(calls, 'call')} of {scan.path} cancelled" if calls else "nothing to cancel"])
    return 0


def _keep_finished(
    batches: Mapping[str, _records.Batch], alive: dict[str, set[int]], agent: Agent, scan: _journal.Scan
) -> None:
    """Take those calls off `alive` of which pilots that are over have left the results."""
    pilots = {name: batches[name].words["first"] for name in alive if batches[name].pool}
    if pilots:
        finished = agent.finished(scan.id)
        for name, first in pilots.items():
            alive[name] = {call for call in alive[name] if first + call not in finished}


def _write_down(journal: _journal.Journal, cancelled: Mapping[str, set[int]]) -> None:
    words = {"kind": "cancelled", "said": "cancelled", "time": time.time()}
    records = []
    for name, calls in cancelled.items():
        batch = journal.contents.batches[name]
        for call in sorted(calls):
            records.append((_records.FAILED, [_records.pack_failure(batch.keys[call], name, call, words)]))
        if calls >= batch.open:
            records.append((_records.CLOSED, [name.encode()]))
    try:
        journal.append(records)
    except OSError as error:
        raise SlurmFuturesError(f"the checkpoint {journal.path} cannot be written: {error.strerror}") from error


def run(arguments: argparse.Namespace, agent: Agent) -> int:
    """Cancel, and say what was."""
    batches = agent.survey()["batches"]
    chosen = _named(arguments.batch, batches, agent) if arguments.batch else batches
    refused = [{"batch": batch["batch"], "why": why} for batch in chosen if (why := _refusal(batch, agent))]
    if refused and not arguments.all:
        raise SlurmFuturesError("; ".join(f"batch {one['batch']}: {one['why']}" for one in refused))
    kept = {one["batch"] for one in refused}
    mine = {batch["batch"]: _tasks(batch) for batch in chosen if batch["batch"] not in kept}
    cancelled, left = _end(mine, agent)
    if arguments.json:
        show_json({"cancelled": cancelled, "refused": refused, "left": left})
    else:
        show_lines(f"batch {one['batch']}: {count(one['tasks'], 'task')} cancelled" for one in cancelled)
        show_lines(f"batch {one['batch']} stays: {one['why']}" for one in refused)
        if not cancelled:
            show_lines(["nothing to cancel"])
    if left:
        raise SlurmFuturesError(_LEFT + ", ".join(left))
    return 0


def _cancel(batches: Sequence[Mapping[str, Any]], agent: Agent) -> list[dict[str, Any]]:
    """Cancel all of these, or none. Raises SlurmFuturesError."""
    refused = [f"batch {batch['batch']}: {why}" for batch in batches if (why := _refusal(batch, agent))]
    if refused:
        raise SlurmFuturesError("; ".join(refused))
    cancelled, left = _end({batch["batch"]: _tasks(batch) for batch in batches}, agent)
    if left:
        raise SlurmFuturesError(_LEFT + ", ".join(left))
    return cancelled


def _end(tasks: Mapping[str, Sequence[int]], agent: Agent) -> tuple[list[dict[str, Any]], list[str]]:
    """Cancel tasks and wait for their end; return what was cancelled, and the batches that are still in the queue."""
    mine = {name: numbers for name, numbers in tasks.items() if numbers}
    for name, numbers in mine.items():
        agent.ask("cancel", batch=name, tasks=numbers)
    return [{"batch": name, "tasks": len(numbers)} for name, numbers in mine.items()], _wait(agent, mine)


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


def _tasks(batch: Mapping[str, Any], states: Sequence[str] = _OPEN) -> list[int]:
    return [task for state in states for first, end in batch["states"][state] for task in range(first, end)]


def _wait(agent: Agent, cancelled: Mapping[str, Sequence[int]]) -> list[str]:
    """Wait until the queue has none of these batches; return those of which it still has some, patience being over."""
    end = time.monotonic() + _PATIENCE
    pause = _FIRST
    left = list(cancelled)
    while left and time.monotonic() < end:
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
        found = agent.survey()
        if found["queue"] is False:
            continue
        left = [
            batch["batch"]
            for batch in found["batches"]
            if batch["batch"] in cancelled and (batch["states"]["running"] or batch["states"]["pending"])
        ]
    return left
