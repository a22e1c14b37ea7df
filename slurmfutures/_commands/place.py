"""Where the batches are: the words that a connection is opened with, and an agent there to be asked."""

import argparse
import importlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from .. import SlurmFuturesError, _output
from .._bootstrap import NoFolder
from .._config import DEFAULT_WORK_DIR, HOST, WORK_DIR, from_environment
from .._connection import HEARTBEAT, Connection, default_python
from .._remote import entries
from .._ship import Ship
from .._ssh import Entrance
from .._transports.asking import ask_on_terminal


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
    try:
        return command(arguments, Agent(opened, place))
    finally:
        opened.poller.stop()
        opened.poller.join()


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

    def __init__(self, connection: Connection, place: Place) -> None:
        self._connection = connection
        self.place = place

    @property
    def where(self) -> str:
        """The folder and its machine, in words."""
        greeting = self._connection.greeting
        return f"{greeting['work_dir']} on {greeting['host']}"

    def ask(self, op: str, **words: Any) -> bytes:
        """Return what the agent replies to a request. Raises SlurmFuturesError where it cannot do it."""
        poller = self._connection.poller
        head, body = poller.reply_to(poller.request({"op": op, **words})[1])
        if "error" in head:
            raise SlurmFuturesError(f"{self.where}: {head['message']}")
        return bytes(body)

    @property
    def logs(self) -> _output.Agent:
        """How logs are asked for."""
        return self._connection.poller.asked_for_logs()

    def ask_json(self, op: str, **words: Any) -> Any:
        """Return what the agent replies as JSON."""
        return json.loads(self.ask(op, **words))

    def survey(self) -> Any:
        """Return what there is in `work_dir`. Raises SlurmFuturesError for tasks that no batch can have."""
        found = self.ask_json("survey")
        for batch in found["batches"]:
            for first, end in (ends for ranges in batch["states"].values() for ends in ranges):
                if not 0 <= first <= end <= entries.MOST_TASKS:
                    raise SlurmFuturesError(f"{self.where}: the agent lists tasks {first} to {end}, which cannot be")
        return found


Command = Callable[[argparse.Namespace, Agent], int]


def _open(place: Place) -> Connection:
    """Return a connection to an agent that makes nothing in `work_dir`: one that is not there is an error."""
    entrance = None
    if place.host is None and place.jump:
        raise TypeError(f"--jump {place.jump[0]} needs a host to jump to: name it by --host")
    if place.host is not None:
        entrance = Entrance(
            place.host,
            jump=place.jump or None,
            transport=place.transport,
            ssh_config=place.ssh_config,
            ask=ask_on_terminal,
            accept_new_host_keys=False,
            connect_timeout=None,
        )
    try:
        return Connection(
            entrance,
            scheduler=place.scheduler,
            work_dir=place.work_dir,
            python=place.python or default_python(place.host),
            setup=place.setup,
            max_workers=None,
            retries=0,
            login_workers=1,
            heartbeat=None if place.host is None else HEARTBEAT,
            reconnect_timeout=None,
            checkpoint=None,
            ship=Ship(()),
            looks=True,
        )
    except NoFolder:
        where = f"on {place.host}" if place.host else "on this machine"
        raise SlurmFuturesError(f"there is no folder {place.work_dir} {where}: name another by --work-dir") from None
