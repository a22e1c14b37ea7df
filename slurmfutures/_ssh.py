"""The way to a login node: by which transport, through which hosts, and who is asked for what only a person knows."""

import os
import threading
from collections.abc import Callable, Sequence

from ._bootstrap import LOGIN_LINE, login_script
from ._errors import give_warning
from ._hosts import Host, find_route
from ._logs import get_logger
from ._transports.base import Ask, NobodyToAsk, Stream

logger = get_logger("ssh")

TRANSPORTS = ("paramiko", "openssh")


class Entrance:
    """Opens streams to one login node, again and again.

    Called from the thread that makes the executor, and then from that of one reconnect at a time.
    """

    def __init__(
        self,
        host: str | Host,
        *,
        jump: str | Host | Sequence[str | Host] | None,
        transport: str,
        ssh_config: str | os.PathLike[str] | None,
        ask: Ask,
        accept_new_host_keys: bool,
        connect_timeout: float | None,
    ) -> None:
        """Raises ValueError for hosts that cannot be understood and files that cannot be read."""
        if transport not in TRANSPORTS:
            raise ValueError(f"transport={transport!r} is not known: it is 'paramiko' or 'openssh'")
        self.where = Host.parse(host).address
        self._route = find_route(host, jump, ssh_config)
        self._accept_new_host_keys = accept_new_host_keys
        self._timeout = connect_timeout
        self._open: Callable[..., Stream]
        if transport == "paramiko":
            from ._transports import paramiko  # what it brings along takes a second to import

            self._open = paramiko.Opener(self._route).open
        else:
            from ._transports import openssh

            self._open = openssh.Opener(self._route).open
        self._user_ask = ask
        self._attempt = 0
        self._lost = False  # there was a connection before
        self._asked_in: int | None = None  # the attempt in which somebody was asked since it was lost

    def open(self, script: str, stop: threading.Event | None) -> Stream:
        """Run a bash script by a login shell on the login node. Raises what the transports raise."""
        self._attempt += 1
        return self._open(
            LOGIN_LINE,
            login_script(script),
            ask=self._ask,
            timeout=self._timeout,
            accept_new_host_keys=self._accept_new_host_keys,
            stop=stop,
        )

    def connected(self) -> None:
        """There is a connection: when it is lost, somebody may be asked, in one attempt."""
        self._lost = True
        self._asked_in = None

    def _ask(self, host: str, prompt: str, echo: bool) -> str:
        if self._lost and self._asked_in is None:
            text = f"the connection to {self.where} was lost, and another one needs you: {host} asks {prompt.strip()!r}"
            logger.warning("%s", text)
            give_warning(text)
            self._asked_in = self._attempt
        elif self._lost and self._asked_in != self._attempt:
            raise NobodyToAsk(f"you were asked once since the connection to {self.where} was lost")
        return self._user_ask(host, prompt, echo)
