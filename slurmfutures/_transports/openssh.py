"""SSH by the system's `ssh`: whatever it can do and is configured to do, it does here.

It asks nobody by itself: it has no terminal, and calls a program (SSH_ASKPASS) that hands each question over to us by a
socket, so that it is answered in the thread that opens the stream. Each ssh on the way keeps a log of its own, from
which is read which of them could not go on, and why.
"""

import contextlib
import fcntl
import os
import re
import select
import shutil
import socket
import struct
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from .._errors import AuthenticationError, HostKeyError, HostUnreachable, SlurmFuturesError, give_warning
from .._hosts import Route
from .asking import Asked, Secrets
from .base import Ask, GaveUp
from .known_hosts import KnownHosts, Verdict, host_key_error
from .process import ProcessStream

DEFAULT_TIMEOUT = 30.0  # seconds for one hop
_FIRST_BYTE = 120.0  # seconds from the login until a shell's first word: module loads are slow
_CONFIGURED = "what ssh's configuration and its agent have"
_GRACE = 1.0  # seconds in which ssh itself says that it was too long
_MORE_TIME = "check host and port, or allow more time by connect_timeout="
_LOOK = 0.1  # seconds between two looks at `stop`
_PATIENCE = 5.0  # seconds
_MOST_QUESTION = 1 << 16  # bytes

_OPTIONS = (
    "ClearAllForwardings=yes",
    "ControlPath=none",
    "EscapeChar=none",
    "ForwardX11=no",
    "LogLevel=VERBOSE",
    "NumberOfPasswordPrompts=1",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
)

# Run by ssh; the words are the socket and the question. Its exit code says whether somebody answered.
_ASKER = """\
import os, socket, sys
end = socket.socket(socket.AF_UNIX)
end.connect(sys.argv[1])
question = os.environ.get("SSH_ASKPASS_PROMPT", "") + "\\0" + " ".join(sys.argv[2:])
end.sendall(question.encode("utf-8", "surrogateescape"))
end.shutdown(socket.SHUT_WR)
answer = b"".join(iter(lambda: end.recv(4096), b""))
if answer[:1] != b"+":
    sys.exit(1)
os.write(1, answer[1:] + b"\\n")
"""

_TRUST = re.compile(r"(?:(\S+) key fingerprint is|key fingerprint is) (\S+?)\.?\s", re.DOTALL)
_SECRET = re.compile(r"passphrase for |'s password: *$|PIN for ")
_UNLOCKS = re.compile(r"passphrase for |PIN for |\(yes/no")  # without an answer, ssh goes on to the next key, or ends
_ASKED_BY = re.compile(r"^\((\S+@\S+)\) |^(\S+@\S+)'s password")
_CHANGED = re.compile(r"The fingerprint for the (\S+) key sent by the remote host is\s+(\S+?)\.?\s")
_NOT_KNOWN = re.compile(r"No (\S+) host key is known for")
_DENIED = re.compile(r"Permission denied \(([^)]*)\)")
_TOO_MANY = re.compile(r"Too many authentication failures")
_NAME = re.compile(r"Could not resolve hostname (\S+): (.+)")
_CONNECT = re.compile(r"connect to host (\S+) port (\d+): (.+)")
_SLOW = re.compile(r"[Tt]imed out during banner exchange|Connection timed out|Operation timed out")
_FORWARD = re.compile(r"open failed: (.+)")
_CHATTER = re.compile(r"Authenticated to |Transferred: |Bytes per second: ")
_PREFIX = re.compile(r"^(?:ssh|kex_exchange_identification|ssh_dispatch_run_fatal|client_loop): ")


class Opener:
    """Opens streams by one route; keeps what a person typed and may be used again."""

    def __init__(self, route: Route) -> None:
        """Raises ValueError where there is no ssh."""
        if shutil.which("ssh") is None:
            raise ValueError('transport="openssh" needs the program ssh, which is not on the PATH: install OpenSSH')
        self._route = replace(route, given=True)  # each hop is an ssh of ours
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
    ) -> "OpensshStream":
        """Run a line in the user's shell on the last hop; `timeout` is in seconds, for each hop.

        `first` is sent to the line's stdin without waiting for anything.

        Raises HostUnreachable, HostKeyError, AuthenticationError, GaveUp once `stop` is set.
        """
        attempt = _Attempt(self._route, self._secrets, ask, accept_new=accept_new_host_keys)
        try:
            stream = attempt.start(line, first, timeout)
            attempt.wait(stream, stop)
        except BaseException:
            attempt.close()
            raise
        return stream


class _Attempt:
    """One ssh, from its start until the other side says something."""

    def __init__(self, route: Route, secrets: Secrets, ask: Ask, *, accept_new: bool) -> None:
        self._route = route
        self._secrets = secrets
        self._ask = ask
        self._accept_new = accept_new
        self._asked: dict[str, Asked] = {}
        self._answers: dict[str, str] = {}  # by question: those that are good again if they were right
        self._shown: tuple[str, str] | None = None  # a new host key's prompt and fingerprint
        self._folder = tempfile.TemporaryDirectory(prefix="slurmfutures-")
        self._logs = [Path(self._folder.name, f"log{index}") for index in range(len(route.hops))]
        self._socket = socket.socket(socket.AF_UNIX)
        self._stream: OpensshStream | None = None

    def start(self, line: str, first: bytes, timeout: float | None) -> "OpensshStream":
        path = os.path.join(self._folder.name, "ask")
        self._socket.bind(path)
        self._socket.listen()
        program = Path(self._folder.name, "askpass")
        program.write_text(f'#!/bin/sh\nexec {quote(sys.executable)} -I -S -c {quote(_ASKER)} {quote(path)} "$@"\n')
        program.chmod(0o700)

        self._seconds = [timeout or hop.connect_timeout or DEFAULT_TIMEOUT for hop in self._route.hops]

        def options(index: int) -> Sequence[str]:
            # Those behind a gate would count the time in which somebody types what the gate asks.
            seconds = max(1, round(self._seconds[0])) if index == 0 else 0
            wanted = [*_OPTIONS, f"ConnectTimeout={seconds}"]
            if self._accept_new:
                wanted.append("StrictHostKeyChecking=accept-new")
            if index == len(self._route.hops) - 1:
                wanted.remove("ControlPath=none")  # one connection for all of the user's sessions, if he wants that
            return ["-T", "-E", str(self._logs[index]), *(word for option in wanted for word in ("-o", option))]

        display = os.environ.get("DISPLAY") or ":none"  # without one, versions before 8.4 ask nobody
        env = {**os.environ, "SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": display}
        words = [*self._route.ssh_command(options), line]
        self._stream = OpensshStream(words, env, first, self._route, self._logs, self._folder)
        return self._stream

    def wait(self, stream: "OpensshStream", stop: threading.Event | None) -> None:
        """Answer questions until the other side says something. Raises what stands in the way of that."""
        begun, at = time.monotonic(), self._at()
        while True:
            if stop is not None and stop.is_set():
                raise GaveUp
            if at != (at := self._at()):
                begun = time.monotonic()
            ready = select.select([stream.readable(), self._socket.fileno()], [], [], _LOOK)[0]
            if self._socket.fileno() in ready:
                self._answer()
                begun = time.monotonic()
            elif ready:
                break
            limit = _FIRST_BYTE if at is None else self._seconds[at] + _GRACE
            if time.monotonic() > begun + limit:
                where = self._route.describe(-1 if at is None else at)
                raise HostUnreachable(where, f"it did not answer within {limit:g} s", _MORE_TIME)
        if stream.ended():
            error = self._error(stream)
            if error is not None:
                raise error
        for question, answer in self._answers.items():
            self._secrets.keep(question, answer)
        self._socket.close()

    def _at(self) -> int | None:
        """Return the first hop that has not let us in yet; None where all have, or where a master connection serves."""
        texts = [_read(log) for log in self._logs]
        if len(texts) > 1 and not self._logs[0].exists():
            return None
        return next((index for index, text in enumerate(texts) if "Authenticated to " not in text), None)

    def close(self) -> None:
        self._socket.close()
        if self._stream is not None:
            self._stream.close(0.0)
        else:
            self._folder.cleanup()

    # ---- questions

    def _answer(self) -> None:
        end, _ = self._socket.accept()
        with end:
            end.settimeout(_PATIENCE)
            data = b""
            with contextlib.suppress(OSError):
                while len(data) < _MOST_QUESTION and (more := end.recv(4096)):
                    data += more
            kind, _, question = data.decode("utf-8", "replace").partition("\0")
            end.settimeout(None)
            with contextlib.suppress(OSError):  # it did not wait for the answer
                answer = self._answer_to(kind, question)
                if answer is not None:
                    end.sendall(b"+" + answer.encode())
                elif not _UNLOCKS.search(question):  # ssh would go on with an empty answer
                    raise self._nobody(question)

    def _answer_to(self, kind: str, question: str) -> str | None:
        if kind == "none":  # nothing to answer: touch the key
            give_warning(question.strip())
            return ""
        if "(yes/no" in question:
            found = _TRUST.search(question)
            self._shown = question, " ".join(filter(None, found.groups())) if found else ""
            return "yes" if self._accept_new else "no"
        known = self._secrets.get(question)
        if known is not None:
            self._secrets.forget(question)  # unless it turns out to be right
            self._answers[question] = known
            return known
        by = _ASKED_BY.match(question)
        host = next(filter(None, by.groups())) if by else self._route.target.login
        answer = self._asked.setdefault(host, Asked(self._ask, host))(question)
        if answer is not None and _SECRET.search(question):
            self._answers[question] = answer
        return answer

    # ---- errors

    def _nobody(self, question: str) -> AuthenticationError:
        at = self._at()
        where = self._route.describe(-1 if at is None else at)
        nobody = next(asked.nobody for asked in self._asked.values() if asked.nobody)
        offered = ["keyboard-interactive" if question.startswith("(") else "password"]
        return AuthenticationError(where, [_CONFIGURED], offered, str(nobody))

    def _error(self, stream: "OpensshStream") -> SlurmFuturesError | None:
        """Return why there is no way in; None where there is one, and it is the shell that ended."""
        for index, log in enumerate(self._logs):
            text = _read(log)
            error = self._error_of(index, text)
            if error is not None:
                return error
        if stream.exit_code() == 255 and not stream.last_words():
            said = "; ".join(filter(None, (_last(_read(log)) for log in self._logs)))
            return HostUnreachable(self._route.describe(), said or "ssh gave up without a word")
        return None

    def _error_of(self, index: int, text: str) -> SlurmFuturesError | None:
        where = self._route.describe(index)
        hop = self._route.hops[index]
        changed, missing = _CHANGED.search(text), _NOT_KNOWN.search(text)
        if "Host key verification failed" in text or changed or missing:
            return self._host_key_error(index, changed, missing)
        denied = _DENIED.search(text)
        if denied or _TOO_MANY.search(text):
            offered = denied[1].split(",") if denied else []
            nobody = next((asked.nobody for asked in self._asked.values() if asked.nobody), None)
            reason = str(nobody) if nobody else "" if denied else "it was offered too many keys"
            typed = ["what was typed"] if self._asked and not nobody else []
            tried = [_CONFIGURED, *typed]
            return AuthenticationError(where, tried, offered, reason)
        if found := _NAME.search(text):
            return HostUnreachable(
                where, f"the name {found[1]} is not known ({found[2]})", "check its spelling, and that you are on line"
            )
        if found := _CONNECT.search(text):
            remedy = "check host and port, and whether a gate is needed (jump=)"
            if _SLOW.search(found[3]):
                remedy = _MORE_TIME
            return HostUnreachable(where, f"port {found[2]} of {found[1]}: {found[3]}", remedy)
        if _SLOW.search(text):
            return HostUnreachable(where, f"it did not answer within {self._seconds[index]:g} s", _MORE_TIME)
        if (found := _FORWARD.search(text)) and index < len(self._logs) - 1:
            return HostUnreachable(self._route.describe(index + 1), f"{hop} says: {found[1]}")
        return None

    def _host_key_error(
        self, index: int, changed: "re.Match[str] | None", missing: "re.Match[str] | None"
    ) -> HostKeyError:
        hop = self._route.hops[index]
        files = (*hop.user_known_hosts, *hop.global_known_hosts)
        known = KnownHosts.read(files, hop.hostname, hop.port, hop.host_key_alias)
        if changed:
            return host_key_error(self._route, index, known, Verdict.CHANGED, f"{changed[1]} {changed[2]}")
        shown = self._shown[1] if self._shown else ""
        return host_key_error(self._route, index, known, Verdict.UNKNOWN, shown)


class OpensshStream(ProcessStream):
    """An ssh and what it runs."""

    def __init__(
        self,
        words: Sequence[str],
        env: dict[str, str],
        first: bytes,
        route: Route,
        logs: Sequence[Path],
        folder: "tempfile.TemporaryDirectory[str]",
    ) -> None:
        self._logs = logs
        self._folder = folder
        super().__init__(words, env, first)

    def ended(self) -> bool:
        """Whether the other end is closed already; to be called when there is something to read."""
        waiting = fcntl.ioctl(self.readable(), termios.FIONREAD, bytes(struct.calcsize("i")))
        return not any(waiting)

    def why_ended(self) -> str:
        code = self.exit_code()
        if code in (None, 255):
            said = "; ".join(filter(None, (_last(_read(log)) for log in self._logs)))
            return said or _last(self.last_words())
        return super().why_ended()

    def close(self, timeout: float) -> None:
        super().close(timeout)
        self._folder.cleanup()


def _read(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _CHATTER.match(line)]
    return _PREFIX.sub("", lines[-1]) if lines else ""
