"""The command `slurmfutures logs`: what a call has printed."""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

from .. import SlurmFuturesError, _output
from .._remote.logs import LIMIT
from . import checkpoint
from .place import Agent, add_flags, run_at, run_at_place
from .table import show_json, show_lines, show_log


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "logs",
        help="what a call has printed",
        description="Print what the task of a call has written to its standard output so far. Of a pilot that is "
        "what its workers have written, one after the other.",
    )
    parser.add_argument("call", metavar="CALL", help='a job, "123" or "123_7", or BATCH:TASK as status prints it')
    parser.add_argument("--checkpoint", metavar="FILE", help="look where the calls of this checkpoint are")
    parser.add_argument("--stderr", action="store_true", help="its standard error in place of that")
    add_flags(parser)
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.checkpoint is None:
        return run_at_place(parser, run, False, arguments)
    scan = checkpoint.load(arguments.checkpoint)
    return run_at(checkpoint.place_in(scan, parser, arguments), parser, run, arguments)


def run(arguments: argparse.Namespace, agent: Agent) -> int:
    """Show a log, however large; as JSON its end."""
    found = agent.find(arguments.call)
    if "size" in found:
        example = f"{arguments.call}_{found['first']}"
        raise SlurmFuturesError(f"job {arguments.call} is an array of {found['size']} tasks: name one, as {example}")
    if not found:
        raise SlurmFuturesError(f"there is no call {arguments.call} in {agent.where}")
    task = {name: found[name] for name in ("batch", "task", "part")}

    def texts(**worker: str) -> dict[str, str]:
        streams = (("stdout", "out"), ("stderr", "err"))
        return {
            name: _output.read(agent.logs, [_output.Log({**task, **worker, "stream": stream})], LIMIT)
            for name, stream in streams
        }

    def pieces(**worker: str) -> Iterator[bytes]:
        return _output.ranges(agent.logs, {**task, **worker, "stream": stream})

    if arguments.json:
        words = {"batch": found["batch"], "task": found["task"], **texts()}
        if "workers" in found:
            words["workers"] = [{"worker": name, **texts(worker=name)} for name in found["workers"]]
        show_json(words)
        return 0
    stream = "err" if arguments.stderr else "out"
    show_log(pieces())
    for name in found.get("workers", ()):
        show_lines([f"==> worker {name} <=="])
        show_log(pieces(worker=name))
    return 0
