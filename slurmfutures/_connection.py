"""The connection that all views of one executor share: its poller, its agent, and what may travel there."""

import os
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from shlex import quote
from typing import Any

from ._bootstrap import Started, handshake, new_mark, start_here, start_script
from ._checkpoint import Checkpoint
from ._errors import PythonMismatch
from ._link import Reply
from ._pickling import holds_code, name_of, pickle_arguments, pickle_function
from ._poller import Poller
from ._remote import wire
from ._ship import Ship, Shipment
from ._ssh import Entrance
from ._transports.base import Stream
from ._transports.process import ProcessStream

HEARTBEAT = 30.0  # seconds of silence after which a connection by SSH counts as lost, by default
_MOST_SETUP = 30_000  # bytes: what a pipe takes at once, with what goes along
_SILENCE = 300.0  # seconds, at least, of silence after which the agent gives the driver up


class Connection:
    """What all views of one executor share."""

    def __init__(
        self,
        entrance: Entrance | None,
        *,
        scheduler: str,
        work_dir: str,
        python: str,
        setup: str,
        max_workers: int | None,
        retries: int,
        login_workers: int,
        heartbeat: float | None,
        reconnect_timeout: float | None,
        checkpoint: Checkpoint | None,
        ship: Ship,
        looks: bool = False,
    ) -> None:
        """`entrance` is None where the login node is this machine. One that `looks` makes nothing in `work_dir`."""
        _check_setup(setup)
        here, where = entrance is None, entrance.where if entrance is not None else "this machine"
        self.python = python
        self.max_workers = max_workers
        self.retries = retries
        self._local_python = [sys.version_info[0], sys.version_info[1]]
        # This machine's interpreter sees what the driver sees: calls find the same modules and the same folder.
        entries = [
            os.path.abspath(entry) for entry in sys.path if entry.endswith(".zip") or os.path.isdir(entry or ".")
        ]
        path = [sys.prefix, *entries] if here else []
        hello = {
            "scheduler": scheduler,
            "work_dir": work_dir,
            "python": python,
            "setup": setup,
            "max_workers": max_workers,
            "login_workers": login_workers,
            "path": path,
            "looks": looks,
            # One checkpoint is one driver: the agent of one that was killed makes way for that of the next.
            "session": checkpoint.id if checkpoint is not None else uuid.uuid4().hex[:12],
            # Lines of setup may leave something behind that writes to the agent's pipe, as a login shell does.
            "envelope": wire.WIDE if here and not setup.strip() else wire.ENVELOPED,
            "silence": None if heartbeat is None else max(_SILENCE, 10 * heartbeat),
        }
        cwd = os.getcwd() if here else None

        def connect(stop: threading.Event | None) -> Started:
            mark = new_mark()
            script = start_script(mark, work_dir, python, setup, looks=looks)
            stream: Stream = ProcessStream(*start_here(script)) if entrance is None else entrance.open(script, stop)
            try:
                started = handshake(stream, mark, hello, where, python, stop)
            except BaseException:
                stream.close(1.0)
                raise
            if entrance is not None:
                entrance.connected()
            return started

        self.poller = Poller(
            connect,
            lambda greeting: {
                "session": hello["session"],
                "scheduler": scheduler,
                "python": python,
                "setup": setup,
                "path": path,
                "chdir": cwd or greeting["cwd"],
            },
            where,
            heartbeat=heartbeat,
            reconnects=not here or scheduler != "local",  # whose jobs end with the agent
            reconnect_timeout=reconnect_timeout,
            checkpoint=checkpoint,
            retries=retries,
        )
        self.folder: str = cwd or self.greeting["cwd"]  # in which jobs start
        self._ship = ship

    def shipment(self) -> Shipment | None:
        """Return the user's own code as it is now, on its way to the cluster. Raises ValueError as `Ship` does."""
        found = self._ship.current()
        if found is not None:
            self.poller.shipping.send(found)
        return found

    def shipped_path(self) -> list[str]:
        """Return the folders on the cluster that what is shipped is found in, once it is there; none if nothing is.

        They go before all else that Python finds modules in. Raises ValueError as `Ship` does, SlurmFuturesError for
        what cannot be written there. Waits for the connection.
        """
        found = self._ship.current()
        if found is None:
            return []
        there = self.poller.shipping.send(found)
        if self.poller.pump_until(there.done):
            there.result(0)
        else:
            there.result()
        return [f"{self.greeting['work_dir']}/ship/{found.digest}"]

    @property
    def greeting(self) -> Mapping[str, Any]:
        """Return what the agent said of itself and of its machine."""
        return self.poller.greeting

    def pickle(self, function: Callable[..., Any]) -> bytes:
        """Pickle a function. Raises PayloadError, or PythonMismatch where its bytecode cannot run on the other side."""
        data = pickle_function(function)
        self.check_code(data, repr(name_of(function)))
        return data

    def pickle_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> bytes:
        """Pickle the arguments of a call of the function of this name. Raises as `pickle` does."""
        data = pickle_arguments(args, kwargs)
        self.check_code(data, f"an argument of {name}")
        return data

    def check_code(self, data: bytes, what: str) -> None:
        """Raise PythonMismatch where something travels as bytecode that the other side cannot run."""
        if self.greeting["python"][:2] == self._local_python:
            return
        if holds_code(data):
            remote = self.greeting["python"]
            raise PythonMismatch(
                f"{what} travels as bytecode of Python {self._local_python[0]}.{self._local_python[1]}, which Python "
                f"{remote[0]}.{remote[1]} ({self.greeting['executable']}) cannot run: name a matching interpreter by "
                "python=, or put the function into a module that is installed there"
            )


def default_python(host: object) -> str:
    """Return the phrase of shell that runs Python where the user names none."""
    return quote(sys.executable) if host is None else "python3"


def _check_setup(setup: str) -> None:
    """Raise ValueError for lines of setup that cannot be sent."""
    size = len(os.fsencode(setup))
    if "\0" in setup:
        raise ValueError("setup= holds a NUL character, which no shell takes")
    if size > _MOST_SETUP:
        raise ValueError(
            f"setup= has {size} bytes, and at most {_MOST_SETUP} are sent: put it into a file on the cluster, and have "
            "setup= source that"
        )


class Channel:
    """The connection, as a transfer of files sees it."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self.listen = poller.listen
        self.unlisten = poller.unlisten
        self.wait_until_connected = poller.wait_until_connected

    def request(self, head: Mapping[str, Any]) -> "Future[Reply]":
        return self._poller.request(head)[1]

    def wait(self, reply: "Future[Reply]") -> Reply:
        return self._poller.reply_to(reply)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        self._poller.pump_until(condition)

    def send(self, head: Mapping[str, Any], body: wire.Buffer = b"") -> None:
        self._poller.link.send(wire.message(head, body), head["transfer"], bulk=True)
