"""The command `slurmfutures status`: which batches there are, and how far they are."""

import argparse
import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from . import checkpoint
from .place import STATES, Agent, add_flags, run_at, run_at_place
from .table import age, count, show_json, show_lines, show_table

_DRIVERS = {True: "connected", False: "gone", None: "unknown"}
_MOST = 100  # failures that are listed


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "status",
        help="the calls of a checkpoint, or the batches in a work_dir, and how far they are",
        description="List the batches in a work_dir: how far their tasks are, whether the driver that submitted "
        "them is connected, and which tasks ended without a result. Of pilots each task is one. Or tell what a "
        "checkpoint says of its calls; "
        "with --live also how far their batches are, where they are.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help="the file; nobody is asked but it")
    parser.add_argument("--live", action="store_true", help="ask the cluster for the checkpoint's batches too")
    add_flags(parser)
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.checkpoint is None:
        return run_at_place(parser, run, True, arguments)
    if not arguments.json:
        importlib.import_module("rich")
    scan = checkpoint.load(arguments.checkpoint)
    found = checkpoint.document(scan)
    if arguments.live:
        names = {batch["batch"] for batch in found["batches"]}
        place = checkpoint.place_in(scan, parser, arguments)

        def ask(arguments: argparse.Namespace, agent: Agent) -> int:
            survey = agent.survey()
            batches = [it for it in survey["batches"] if it["batch"] in names or checkpoint.has_pilots(scan, it)]
            found["live"] = {**survey, "batches": batches}
            return 0

        run_at(place, parser, ask, arguments)
    if arguments.json:
        if arguments.live:
            found["live"] = document(found["live"])
        show_json(found)
        return 0
    checkpoint.show(found)
    if arguments.live:
        _show(found["live"], f"{found['live']['work_dir']} on {found['live']['host']}")
    return 0


def run(arguments: argparse.Namespace, agent: Agent) -> int:
    """Show what there is."""
    found = agent.survey()
    if arguments.json:
        show_json(document(found))
        return 0
    _show(found, agent.where)
    return 0


def _show(found: Mapping[str, Any], where: str) -> None:
    batches = found["batches"]
    if not batches:
        show_lines([f"no batches in {where}"])
    else:
        _show_batches(batches, found["now"])
        _show_failed(batches)
    if found["queue"] is False:
        show_lines(["the queue could not be asked: what runs and what is pending is as the files tell"])
    if found["unreadable"]:
        show_lines([f"not whole, or not readable: {', '.join(found['unreadable'])}"])


def document(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document: see docs/command-line.md."""
    return {**found, "batches": [_batch_words(batch) for batch in found["batches"]]}


def _batch_words(batch: Mapping[str, Any]) -> dict[str, Any]:
    words = {name: batch[name] for name in batch if name not in ("states", "failed", "asked")}
    words["states"] = counts(batch)
    words["ranges"] = batch["states"]
    words["failed"] = [{"call": f"{batch['batch']}:{dead['task']}", **dead} for dead in batch["failed"]]
    return words


def counts(batch: Mapping[str, Any]) -> dict[str, int]:
    """Return how many tasks of a batch are in each state."""
    return {state: sum(end - first for first, end in batch["states"][state]) for state in STATES}


def _show_batches(batches: Sequence[Mapping[str, Any]], now: float) -> None:
    pools = any(batch["pool"] for batch in batches)
    rows = [
        (
            batch["batch"],
            *([batch["pool"] or ""] if pools else []),
            batch["name"],
            age(now - batch["made"]),
            age(now - batch["active"]),
            _calls(batch),
            ", ".join(f"{number} {state}" for state, number in counts(batch).items() if number),
            " ".join(batch["jobs"]),
            _DRIVERS[batch["live"]],
        )
        for batch in batches
    ]
    headings = ("batch", *(["pool"] if pools else []), "name", "made", "active", "calls", "state", "jobs", "driver")
    show_table(headings, rows, numbers=("made", "active", "calls"))


def _calls(batch: Mapping[str, Any]) -> str:
    """Return how many calls there are, and in how many tasks where some share one; or how many pilots."""
    calls, tasks = batch["calls"], batch["tasks"]
    if batch["pool"]:
        return count(tasks, "pilot")
    if calls is None:
        return f"? in {tasks}"
    return str(calls) if calls == tasks else f"{calls} in {tasks}"


def _show_failed(batches: Sequence[Mapping[str, Any]]) -> None:
    _show_deaths([batch for batch in batches if not batch["pool"]], "call", "ended without a result")
    _show_deaths([batch for batch in batches if batch["pool"]], "pilot", "did not end by itself")


def _show_deaths(batches: Sequence[Mapping[str, Any]], what: str, how: str) -> None:
    failed = [(batch["batch"], dead) for batch in batches for dead in batch["failed"]]
    if not failed:
        return
    show_lines([f"{count(len(failed), what)} {how}:"])
    rows = [
        (f"{batch}:{dead['task']}", dead["job"] or "", dead["state"] or "", dead["node"], reason(dead))
        for batch, dead in failed[:_MOST]
    ]
    show_table((what, "job", "state", "node", "reason"), rows)
    if len(failed) > _MOST:
        show_lines([f"and {len(failed) - _MOST} more: --json has them all"])


def reason(dead: Mapping[str, Any]) -> str:
    """Return in words how a task ended."""
    words = [dead["reason"]] if dead["reason"] else []
    if dead["signal"]:
        words.append(f"signal {dead['signal']}")
    elif dead["exit_code"] is not None:
        words.append(f"exit code {dead['exit_code']}")
    return ", ".join(words)
