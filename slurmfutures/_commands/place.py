"""Where the batches are: the words that a connection is opened with, and an agent there to be asked."""

import argparse
import importlib
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from shlex import quote
from typing import Any, NamedTuple

from .. import AgentError, SlurmExecutor, SlurmFuturesError, _output
from .._config import DEFAULT_WORK_DIR, HOST, WORK_DIR, from_environment

_MISSING = "slurmfutures: there is no work_dir"


class Place(NamedTuple):
    """What SlurmExecutor has to be told to get to a `work_dir`; the names are its own."""

    host: str | None = None  # this machine, whatever the environment says
    jump: tuple[str, ...] = ()  # outermost first
    transport: str = "paramiko"
    ssh_config: str | None = None
    scheduler: str = "slurm"
    work_dir: str = DEFAULT_WORK_DIR
    python: str | None = None
    setup: str = ""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says where to look."""
    place = parser.add_argument_group("where to look")
    add = place.add_argument
    add("--host", metavar="HOST", help=f"the login node, user@host:port or an alias (default: ${HOST}, or here)")
    add("--jump", metavar="HOST", action="append", default=[], help="a host to go through; outermost first, if several")
    add("--transport", choices=("paramiko", "openssh"), default="paramiko", help="openssh is the system's ssh")
    add("--ssh-config", metavar="FILE", help="in place of ~/.ssh/config")
    add("--scheduler", choices=("slurm", "local"), default="slurm", help="local needs no Slurm there")
    add("--work-dir", metavar="DIR", help=f"(default: ${WORK_DIR}, or {DEFAULT_WORK_DIR})")
    add("--python", metavar="WORD", help="an interpreter there, 3.8 or newer")
    add("--setup", metavar="LINE", default="", help="a line of bash for before the interpreter")
    parser.add_argument("--json", action="store_true", help="one JSON document on the standard output")


def run_at_place(
    parser: argparse.ArgumentParser, command: "Command", tables: bool, arguments: argparse.Namespace
) -> int:
    """Run a command, given its arguments and an agent, and return its exit code."""
    if tables and not arguments.json:
        importlib.import_module("rich")  # that it is missing is said before anything is done
    return run_at(place_of(arguments), parser, command, arguments)


def run_at(place: "Place", parser: argparse.ArgumentParser, command: "Command", arguments: argparse.Namespace) -> int:
    """Run a command, given its arguments and an agent at a place, and return its exit code."""
    try:
        opened = _open(place)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    with opened as executor:
        return command(arguments, Agent(executor, place))


def use(parser: argparse.ArgumentParser, command: "Command", *, tables: bool) -> None:
    """Have a parser run a command on what its flags name; `tables` if it shows any, for which there must be rich."""
    add_flags(parser)
    parser.set_defaults(run=partial(run_at_place, parser, command, tables))


def place_of(arguments: argparse.Namespace) -> Place:
    """Return the place that the flags name, and the environment where they do not."""
    words = {name: getattr(arguments, name) for name in Place._fields}
    host, work_dir = from_environment(arguments.host, arguments.work_dir, arguments.scheduler)
    return Place(**{**words, "host": host, "work_dir": work_dir, "jump": tuple(arguments.jump)})


class Agent:
    """An agent at a place, to be asked."""

    def __init__(self, executor: SlurmExecutor, place: Place) -> None:
        self._executor = executor
        self.place = place

    @property
    def where(self) -> str:
        """The folder and its machine, in words."""
        greeting = self._executor._connection.greeting
        return f"{greeting['work_dir']} on {greeting['host']}"

    def ask(self, op: str, **words: Any) -> bytes:
        """Return what the agent replies to a request. Raises SlurmFuturesError where it cannot do it."""
        poller = self._executor._connection.poller
        head, body = poller.reply_to(poller.request({"op": op, **words})[1])
        if "error" in head:
            raise SlurmFuturesError(f"{self.where}: {head['message']}")
        return bytes(body)

    @property
    def logs(self) -> _output.Agent:
        """How logs are asked for."""
        return self._executor._connection.poller.asked_for_logs()

    def ask_json(self, op: str, **words: Any) -> Any:
        """Return what the agent replies as JSON."""
        return json.loads(self.ask(op, **words))


Command = Callable[[argparse.Namespace, Agent], int]


def _open(place: Place) -> SlurmExecutor:
    """Return an executor that is connected to a place that is there: looking must not make one."""
    words = place._asdict()
    jump: Sequence[str] | None = place.jump or None
    setup = f"{place.setup}\n{_must_be_there(place.work_dir)}"
    try:
        return SlurmExecutor(**{**words, "host": place.host or "", "jump": jump, "setup": setup})
    except AgentError as error:
        if _MISSING not in error.stderr_tail:
            raise
        where = f"on {place.host}" if place.host else "on this machine"
        raise SlurmFuturesError(f"there is no folder {place.work_dir} {where}: name another by --work-dir") from None


def _must_be_there(work_dir: str) -> str:
    """Return a line of bash that ends where there is no such folder; a "~" it takes as Python does."""
    home = re.match(r"~[\w.-]*(/|$)", work_dir, re.ASCII)
    head = home[0] if home else ""
    path = head + (quote(work_dir[len(head) :]) if len(work_dir) > len(head) else "")
    return f"[ -d {path} ] || {{ echo {quote(_MISSING)} >&2; exit 1; }}"
