"""SSH by paramiko: one connection through all hops, one channel on it."""

import contextlib
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

from paramiko import Channel
from paramiko.ssh_exception import ChannelException, SSHException

from .._errors import AgentError, HostUnreachable
from .._hosts import Hop, Route
from .._logs import get_logger
from .asking import Asked, Secrets
from .auth import Connection, Conversation, Login
from .base import LAST_WORDS, Ask, GaveUp, logger
from .known_hosts import KnownHosts, check_host_key

DEFAULT_TIMEOUT = 30.0  # seconds for one hop
_LOOK = 0.1  # seconds between two looks at `stop`
_WINDOW = 16 << 20  # bytes on their way to us that we have not asked for: 20 MB/s do not fill it in half a second
_MOST_PACKET = 1 << 15  # bytes; what every server takes
_PIPE = 1 << 18  # bytes between the poller and the thread that writes
_PATIENCE = 5.0  # seconds in which what is closed has to end


class Opener:
    """Opens streams by one route; keeps what a person typed and may be used again."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._secrets = Secrets()

    def open(
        self,
        line: str,
        first: bytes,
        *,
        ask: Ask,
        timeout: float | None,
        accept_new_host_keys: bool,
        stop: threading.Event | None,
    ) -> "ParamikoStream":
        """Run a line in the user's shell on the last hop; `timeout` is in seconds, for each hop.

        `first` is sent to the line's stdin without waiting for anything.

        Raises HostUnreachable, HostKeyError, AuthenticationError, AgentError where commands are not run, GaveUp once
        `stop` is set.
        """
        with contextlib.ExitStack() as stack:
            connection: Connection | None = None
            for index, hop in enumerate(self._route.hops):
                attempt = _Attempt(self._route, index, timeout or hop.connect_timeout or DEFAULT_TIMEOUT, stop)
                connection = attempt.connect(connection, stack)
                attempt.check_key(connection, accept_new=accept_new_host_keys)
                where = attempt.where
                talk = Conversation(connection, hop.user, stop)
                Login(talk, hop, where, Asked(ask, hop.login), self._secrets).run(attempt.timeout)
            assert connection is not None
            try:
                channel = connection.open_session(window_size=_WINDOW, timeout=attempt.timeout)
                channel.exec_command(line)
            except (SSHException, EOFError, OSError) as error:
                raise _no_channel(connection, where, error) from error
            return ParamikoStream(connection, channel, stack.pop_all(), first)


def _no_channel(connection: Connection, where: str, error: Exception) -> Exception:
    if not connection.is_active():
        return HostUnreachable(where, f"the connection was closed before the agent was started{_said(connection)}")
    return AgentError(f"{where} lets us in, but runs no commands: {_words(error)}", transient=False)


class _Attempt:
    """Gets to one hop of a route."""

    def __init__(self, route: Route, index: int, timeout: float, stop: threading.Event | None) -> None:
        self._route = route
        self._index = index
        self._hop = route.hops[index]
        self._stop = stop
        self._deadline = time.monotonic() + timeout
        self.timeout = timeout
        self.where = route.describe(index)

    def connect(self, before: Connection | None, stack: contextlib.ExitStack) -> Connection:
        """Return an SSH connection without a user, to be closed by `stack`."""
        end = self._reach(before, stack)
        try:
            connection = Connection(end, default_window_size=_WINDOW)
        except (SSHException, OSError) as error:
            raise self._unreachable(_words(error)) from error
        stack.callback(_close, connection)
        connection.daemon = True
        connection.name = f"slurmfutures-ssh-{self._index}"
        connection.set_log_channel(get_logger("paramiko").name)
        connection.banner_timeout = connection.handshake_timeout = 2 * self.timeout  # ours ends first, and says more
        self._prefer(connection)
        done = threading.Event()
        connection.start_client(event=done)
        for _ in self._patience():
            if done.wait(_LOOK) or not connection.is_active():
                break
        if not connection.is_active():
            problem = connection.get_exception()
            raise self._unreachable(f"it does not talk SSH as we do: {_words(problem)}{_said(connection)}") from problem
        return connection

    def check_key(self, connection: Connection, *, accept_new: bool) -> None:
        key = connection.get_remote_server_key()
        check_host_key(self._route, self._index, key.get_name(), key.asbytes(), accept_new=accept_new)

    def _prefer(self, connection: Connection) -> None:
        """Have the host show a key of the kind that it is known by, and use the fastest ciphers."""
        hop = self._hop
        files = (*hop.user_known_hosts, *hop.global_known_hosts)
        kinds = KnownHosts.read(files, hop.hostname, hop.port, hop.host_key_alias).kinds
        names = {"rsa-sha2-512", "rsa-sha2-256", *kinds} if "ssh-rsa" in kinds else set(kinds)
        options = connection.get_security_options()
        options.key_types = tuple(sorted(options.key_types, key=lambda name: name not in names))
        options.ciphers = tuple(sorted(options.ciphers, key=lambda name: "gcm" not in name))

    def _reach(self, before: Connection | None, stack: contextlib.ExitStack) -> "socket.socket | Channel":
        hop = self._hop
        if before is not None:
            try:
                return before.open_channel(
                    "direct-tcpip",
                    (hop.hostname, hop.port),
                    ("127.0.0.1", 0),
                    window_size=_WINDOW,
                    timeout=self.timeout,
                )
            except ChannelException as error:
                gate = self._route.hops[self._index - 1]
                raise self._unreachable(f"{gate} says: {before.refusal or error.text}") from error
            except (SSHException, EOFError, OSError) as error:
                raise self._unreachable(_words(error)) from error
        return self._by_command(hop.proxy_command, stack) if hop.proxy_command else self._directly(hop, stack)

    def _directly(self, hop: Hop, stack: contextlib.ExitStack) -> socket.socket:
        try:
            addresses = socket.getaddrinfo(hop.hostname, hop.port, type=socket.SOCK_STREAM)
        except OSError as error:
            name = hop.hostname if hop.hostname == hop.host.name else f"{hop.hostname} ({hop.host.name})"
            raise self._unreachable(
                f"the name {name} is not known ({error.strerror})", "check its spelling, and that you are on line"
            ) from error
        problem: Exception | None = None
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            end = socket.socket(family, kind, protocol)
            stack.callback(end.close)
            try:
                self._connect(end, address, 1 / (len(addresses) - number))
            except (OSError, HostUnreachable) as error:
                problem = error
                continue
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return end
        if isinstance(problem, HostUnreachable):
            raise problem
        raise self._unreachable(
            f"port {hop.port} of {hop.hostname}: {_words(problem)}",
            "check host and port, and whether a gate is needed (jump=)",
        ) from problem

    def _connect(self, end: socket.socket, address: object, share: float) -> None:
        """`share` is how much of the time that is left this address may take."""
        end.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            end.connect(address)  # type: ignore[arg-type]
        for _ in self._patience(share):
            if select.select([], [end], [], _LOOK)[1]:
                break
        code = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        end.setblocking(True)

    def _by_command(self, command: str, stack: contextlib.ExitStack) -> socket.socket:
        near, far = socket.socketpair()
        with far:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=far.fileno(),
                stdout=far.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # the terminal's Ctrl-C is for the driver alone
            )
        stack.callback(_end, process)
        stack.callback(near.close)
        return near

    def _patience(self, share: float = 1.0) -> Iterator[None]:
        """Go on until there is no time left, or nobody waits any more."""
        now = time.monotonic()
        deadline = now + share * (self._deadline - now)
        while time.monotonic() < deadline:
            if self._stop is not None and self._stop.is_set():
                raise GaveUp
            yield
        raise self._unreachable(
            f"it did not answer within {self.timeout:g} s",
            "check host and port, or allow more time by connect_timeout=",
        )

    def _unreachable(self, reason: str, remedy: str = "") -> HostUnreachable:
        return HostUnreachable(self.where, reason, remedy)


def _close(connection: Connection) -> None:
    connection.close()
    connection.join(_PATIENCE)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _words(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error or "").strip().partition("\n")[0]
    return text or "the connection was closed"


def _said(connection: Connection) -> str:
    return f"; it said: {connection.farewell}" if connection.farewell else ""


class ParamikoStream:
    """A command's stdin and stdout.

    What is written goes by a pipe to a thread of its own, as paramiko blocks where the network, or the other side,
    is not as fast as we are.
    """

    def __init__(self, connection: Connection, channel: Channel, resources: contextlib.ExitStack, first: bytes) -> None:
        self._connection = connection
        self._channel = channel
        self._resources = resources  # closes what there is below the channel
        self._words = b""
        self._readable = channel.fileno()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        for end in (self._near, self._far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIPE)
        self._pump = threading.Thread(target=self._write_all, name="slurmfutures-ssh-writer", daemon=True)
        self._pump.start()
        self._near.send(first)

    def readable(self) -> int:
        return self._readable

    def writable(self) -> int:
        return self._near.fileno()

    def read(self, limit: int) -> bytes:
        ended = self._channel.eof_received or self._channel.closed  # before the last look at what there is
        self._listen()
        if self._channel.recv_ready():
            try:
                return self._channel.recv(limit)
            except (EOFError, SSHException) as error:  # it says over there that there is room again
                raise ConnectionAbortedError from error
        if ended:
            return b""
        raise BlockingIOError

    def write(self, data: memoryview) -> int:
        return self._near.send(data)

    def close(self, timeout: float) -> None:
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + timeout
        self._channel.settimeout(_LOOK)
        while time.monotonic() < deadline and self._connection.is_active():
            try:
                if not self._channel.recv(_PIPE):
                    break
            except TimeoutError:
                continue
        self._channel.close()
        self._resources.close()
        self._near.close()
        self._pump.join()

    def last_words(self) -> str:
        self._listen()
        return self._words.decode("utf-8", "replace")

    def why_ended(self) -> str:
        if not self._connection.is_active():
            return self._connection.farewell or _words(self._connection.get_exception())
        if self._channel.status_event.wait(_LOOK) and self._channel.exit_status > 0:
            return f"the agent's process ended with exit code {self._channel.exit_status}"
        return ""

    def _listen(self) -> None:
        """Take in what there is of stderr; unread, it would stop all else."""
        while self._channel.recv_stderr_ready():
            self._words = (self._words + self._channel.recv_stderr(_PIPE))[-LAST_WORDS:]

    def _write_all(self) -> None:
        """The thread of its own: pass on what is written, until the end of it or of the channel."""
        with self._far:
            try:
                while data := self._far.recv(_PIPE):
                    for start in range(0, len(data), _MOST_PACKET):
                        self._channel.sendall(data[start : start + _MOST_PACKET])
                self._channel.shutdown_write()
            except (OSError, EOFError, SSHException) as error:
                logger.debug("cannot write any more: %s", error)
