"""Where the batches are: the words that a connection is opened with, and an agent there to be asked."""

import argparse
import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from .. import SlurmFuturesError, _output
from .._bootstrap import NoFolder
from .._config import DEFAULT_WORK_DIR, HOST, WORK_DIR, from_environment
from .._connection import HEARTBEAT, Connection, default_python
from .._link import Words
from .._remote import entries, jsons
from .._ship import Ship
from .._ssh import Entrance
from .._transports.asking import ask_on_terminal

STATES = ("done", "running", "pending", "ended", "unsubmitted")  # of tasks, as the agent calls them


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
            raise SlurmFuturesError(f"{self.where}: {Words(head, op).message()}")
        return bytes(body)

    @property
    def logs(self) -> _output.Agent:
        """How logs are asked for."""
        return self._connection.poller.asked_for_logs()

    def _ask_json(self, op: str, **words: Any) -> Words:
        """Return what the agent replies as JSON, to be checked."""
        try:
            found = jsons.loads(self.ask(op, **words))
        except jsons.NotJson as error:
            raise Words({}, op).misfit(f"the body is {error}") from None
        return Words({_BODY: found}, op)

    def survey(self) -> dict[str, Any]:
        """Return what there is in `work_dir`."""
        return _read(self._ask_json("survey").inner(_BODY), _SURVEY)

    def clean(self, age: float, *, dry: bool) -> dict[str, Any]:
        """Remove files unused for `age` seconds, unless `dry`; return the removed and the kept ones."""
        return _read(self._ask_json("clean", age=age, dry=dry).inner(_BODY), _CLEANED)

    def find(self, call: str) -> dict[str, Any]:
        """Return where a call is, nothing where it is not; of an array its `size`, and its `first` index."""
        found = self._ask_json("find", call=call).inner(_BODY)
        if not found:
            return {}
        if "size" in found:
            return _read(found, _ARRAY)
        return _read(found, {**_FOUND, "workers": _texts} if "workers" in found else _FOUND)

    def finished(self, session: str) -> set[int]:
        """Return the numbers of the calls whose results pilots of a session have left."""
        return set(self._ask_json("finished", session=session).items(_BODY, int))


# ---- what the agent's documents have

_BODY = "body"
_Read = Callable[[Words, str], Any]
_MOST_CODE = 1 << 32


def _read(words: Words, kinds: Mapping[str, _Read]) -> dict[str, Any]:
    """Return the known words, each checked for its type."""
    return {name: read(words, name) for name, read in kinds.items()}


def _texts(words: Words, name: str) -> list[str]:
    return words.items(name, str)


def _code(words: Words, name: str) -> int | None:
    return words.number_or_none(name, least=-_MOST_CODE, most=_MOST_CODE)


def _task(words: Words, name: str) -> int:
    return words.number(name, most=entries.MOST_TASKS)


def _states(words: Words, name: str) -> dict[str, list[list[int]]]:
    states = words.inner(name)
    return {state: _ranges(states, state) for state in STATES}


def _ranges(words: Words, name: str) -> list[list[int]]:
    """Return ranges of tasks that a batch can have."""
    found = words.items(name, list)
    total = 0
    for ends in found:
        if [type(end) for end in ends] != [int, int] or not 0 <= ends[0] <= ends[1] <= entries.MOST_TASKS:
            raise words.wrong(name)
        total += ends[1] - ends[0]
    if total > entries.MOST_TASKS:
        raise words.wrong(name)
    return found


def _each(kinds: Mapping[str, _Read]) -> _Read:
    return lambda words, name: [_read(one, kinds) for one in words.each(name)]


_FAILED: Mapping[str, _Read] = {
    "task": _task,
    "job": Words.text_or_none,
    "state": Words.text_or_none,
    "exit_code": _code,
    "signal": _code,
    "node": Words.text,
    "reason": Words.text,
}
_BATCH: Mapping[str, _Read] = {
    "batch": Words.text,
    "name": lambda words, name: words.text_or_none(name) or "",
    "options": _texts,
    "scheduler": Words.text_or_none,
    "made": Words.seconds,
    "active": Words.seconds,
    "tasks": _task,
    "calls": Words.number_or_none,
    "pool": Words.text_or_none,
    "workers": Words.number_or_none,
    "jobs": _texts,
    "states": _states,
    "failed": _each(_FAILED),
    "session": Words.text,
    "live": Words.flag_or_none,
    "asked": Words.flag,
}
_SURVEY: Mapping[str, _Read] = {
    "host": Words.text,
    "work_dir": Words.text,
    "now": Words.seconds,
    "queue": Words.flag_or_none,
    "batches": _each(_BATCH),
    "unreadable": _texts,
}
_UNUSED: Mapping[str, _Read] = {"kind": Words.text, "name": Words.text, "used": Words.seconds}
_GONE: Mapping[str, _Read] = {**_UNUSED, "bytes": Words.number}
_KEPT: Mapping[str, _Read] = {**_UNUSED, "why": Words.text}
_CLEANED: Mapping[str, _Read] = {
    "host": Words.text,
    "work_dir": Words.text,
    "now": Words.seconds,
    "queue": Words.flag_or_none,
    "dry": Words.flag,
    "removed": _each(_GONE),
    "kept": _each(_KEPT),
    "freed": Words.number,
}
_ARRAY: Mapping[str, _Read] = {"size": Words.number, "first": Words.number}
_FOUND: Mapping[str, _Read] = {"batch": Words.text, "task": _task, "part": Words.number_or_none}


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
