"""SSH by paramiko: one connection through all hops, one channel on it."""

import contextlib
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from paramiko import Channel
from paramiko.ssh_exception import ChannelException, SSHException

from .._errors import AgentError, HostUnreachable, SlurmFuturesError
from .._hosts import Hop, Route
from .._logs import get_logger
from .asking import Asked, Secrets
from .auth import WINDOW, Connection, Conversation, Login
from .base import LAST_WORDS, Ask, GaveUp, logger
from .known_hosts import KnownHosts, check_host_key
from .limits import CONNECT_TIMEOUT, LOGIN_TIMEOUT, Clock, TooSlow, limited, words

_LOOK = 0.1  # seconds between two looks at the clock
_MOST_PACKET = 1 << 15  # bytes; what every server takes
_PIPE = 1 << 18  # bytes between the poller and the thread that writes
_FAREWELL = 1.0  # seconds for telling a server that a connection ends
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
        """Run a line in the user's shell on the last hop.

        `timeout` is in seconds, for each hop, without the time in which a person is asked; None is what the
        configuration says, or the usual.

        `first` is sent to the line's stdin without waiting for anything.

        Raises HostUnreachable, HostKeyError, AuthenticationError, AgentError where commands are not run, GaveUp once
        `stop` is set.
        """
        with _Guard() as guard, contextlib.ExitStack() as stack:
            connection: Connection | None = None
            for index in range(len(self._route.hops)):
                attempt = _Attempt(self._route, index, timeout, stop)
                with guard.watching(attempt):
                    connection = attempt.connect(connection, stack, guard)
                    attempt.check_key(connection, accept_new=accept_new_host_keys)
                    attempt.log_in(connection, ask, self._secrets)
            assert connection is not None
            with guard.watching(attempt):
                channel = attempt.run(connection, line)
            return ParamikoStream(guard.connections, channel, stack.pop_all(), first)


class _Guard(contextlib.AbstractContextManager["_Guard"]):
    """A thread that closes connections, the outermost first, once a clock has run down.

    paramiko sends and waits without an end where a server does not read, or does not answer.
    """

    def __init__(self, connections: Iterable[Connection] = (), clock: Clock | None = None) -> None:
        self.connections = list(connections)
        self._clock = clock
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="slurmfutures-ssh-guard", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @contextlib.contextmanager
    def watching(self, attempt: "_Attempt") -> Iterator[None]:
        """Have the hop's clock hold inside, and after an error until all is closed.

        Raises HostUnreachable where the time is used up or the connection breaks, GaveUp.
        """
        self._clock = attempt.clock
        try:
            yield
        except (TooSlow, HostUnreachable, AgentError, SSHException, EOFError) as error:
            if attempt.clock.is_stopped():
                raise GaveUp from error
            if isinstance(error, TooSlow) or attempt.clock.is_over():
                raise attempt.too_slow() from error
            if isinstance(error, SlurmFuturesError):
                raise
            raise attempt.unreachable(_words(error)) from error
        self._clock = None

    def _watch(self) -> None:
        while not self._done.wait(_LOOK):
            clock = self._clock
            if clock is not None and (clock.is_over() or clock.is_stopped()):
                for connection in list(self.connections):  # the others go through the first
                    with contextlib.suppress(EOFError, OSError, SSHException):
                        connection.packetizer.close()


class _Attempt:
    """Gets to one hop of a route, in, and to a command there."""

    def __init__(self, route: Route, index: int, timeout: float | None, stop: threading.Event | None) -> None:
        self._route = route
        self._index = index
        self._hop = route.hops[index]
        self._timeout = timeout or self._hop.connect_timeout or CONNECT_TIMEOUT
        self._login_timeout = timeout or max(LOGIN_TIMEOUT, self._timeout)
        self.clock = Clock(self._timeout, stop)
        self._where = route.describe(index)

    def log_in(self, connection: Connection, ask: Ask, secrets: Secrets) -> None:
        asked = Asked(limited(ask, self.clock), self._hop.login)
        talk = Conversation(connection, self._hop.user, self.clock)
        Login(talk, self._hop, self._where, asked, secrets, self.clock).run(self._login_timeout)

    def run(self, connection: Connection, line: str) -> Channel:
        """Return a channel to a command."""
        self.clock.restart(self._timeout)
        try:
            channel = connection.open_session(window_size=WINDOW)
            channel.exec_command(line)
        except (SSHException, EOFError, OSError) as error:
            if not connection.is_active():
                raise self.unreachable(
                    f"the connection was closed before the agent was started{_said(connection)}"
                ) from error
            text = f"{self._where} lets us in, but runs no commands: {_words(error)}"
            raise AgentError(text, transient=False) from error
        return channel

    def too_slow(self) -> HostUnreachable:
        return self.unreachable(
            f"it did not answer within {self.clock.seconds:g} s",
            "check host and port, or allow more time by connect_timeout=",
        )

    def connect(self, before: Connection | None, stack: contextlib.ExitStack, guard: _Guard) -> Connection:
        """Return an SSH connection without a user, to be closed by `stack`."""
        end = self._reach(before, stack)
        try:
            connection = Connection(end)
        except (SSHException, OSError) as error:
            raise self.unreachable(_words(error)) from error
        stack.callback(_close, connection)
        guard.connections.append(connection)
        connection.daemon = True
        connection.name = f"slurmfutures-ssh-{self._index}"
        connection.set_log_channel(get_logger("paramiko").name)
        connection.banner_timeout = 2 * self._timeout  # ours ends first, and says more
        self._prefer(connection)
        done = threading.Event()
        connection.start_client(event=done)
        while not done.wait(_LOOK) and connection.is_active():
            self.clock.check()
        if not connection.is_active():
            problem = connection.get_exception()
            raise self.unreachable(f"it does not talk SSH as we do: {_words(problem)}{_said(connection)}") from problem
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
                    window_size=WINDOW,
                )
            except ChannelException as error:
                gate = self._route.hops[self._index - 1]
                raise self.unreachable(f"{gate} says: {before.refusal or error.text}") from error
            except (SSHException, EOFError, OSError) as error:
                raise self.unreachable(_words(error)) from error
        return self._by_command(hop.proxy_command, stack) if hop.proxy_command else self._directly(hop, stack)

    def _directly(self, hop: Hop, stack: contextlib.ExitStack) -> socket.socket:
        try:
            addresses = socket.getaddrinfo(hop.hostname, hop.port, type=socket.SOCK_STREAM)
        except OSError as error:
            name = hop.hostname if hop.hostname == hop.host.name else f"{hop.hostname} ({hop.host.name})"
            raise self.unreachable(
                f"the name {name} is not known ({error.strerror})", "check its spelling, and that you are on line"
            ) from error
        problem: Exception | None = None
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            end = socket.socket(family, kind, protocol)
            stack.callback(end.close)
            try:
                self._connect(end, address, self.clock.left() / (len(addresses) - number))
            except OSError as error:
                problem = error
                continue
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return end
        if isinstance(problem, TimeoutError):
            raise self.too_slow() from problem
        raise self.unreachable(
            f"port {hop.port} of {hop.hostname}: {_words(problem)}",
            "check host and port, and whether a gate is needed (jump=)",
        ) from problem

    def _connect(self, end: socket.socket, address: object, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        end.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            end.connect(address)  # type: ignore[arg-type]
        while not select.select([], [end], [], _LOOK)[1]:
            if self.clock.is_stopped():
                raise GaveUp
            if time.monotonic() > deadline:
                raise TimeoutError
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

    def unreachable(self, reason: str, remedy: str = "") -> HostUnreachable:
        return HostUnreachable(self._where, reason, remedy)


def _close(connection: Connection) -> None:
    with contextlib.suppress(EOFError, OSError, SSHException):  # the one that it goes through has ended
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
    text = words(str(error or "")).partition("\n")[0]
    return text or "the connection was closed"


def _said(connection: Connection) -> str:
    return f"; it said: {connection.farewell}" if connection.farewell else ""


class ParamikoStream:
    """A command's stdin and stdout.

    What is written goes by a pipe to a thread of its own, as paramiko blocks where the network, or the other side,
    is not as fast as we are.
    """

    def __init__(
        self, connections: Sequence[Connection], channel: Channel, resources: contextlib.ExitStack, first: bytes
    ) -> None:
        self._connections = connections  # through each other, the outermost first
        self._connection = connections[-1]
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
        with _Guard(self._connections, Clock(_FAREWELL)):
            with contextlib.suppress(OSError, EOFError, SSHException):
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
