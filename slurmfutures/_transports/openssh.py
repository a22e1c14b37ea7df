"""SSH by the system's `ssh`: whatever it can do and is configured to do, it does here.

It asks nobody by itself: it has no terminal, and calls a program (SSH_ASKPASS) that hands each question over to us by a
socket, so that it is answered in the thread that opens the stream. Each hop has an ssh of its own. Which of them asks
is known by its process id, never by the words of the question: a server may choose those. Each ssh keeps a log, from
which is read whether it could not go on, and why.
"""

import contextlib
import fcntl
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from .._errors import AuthenticationError, HostKeyError, HostUnreachable, SlurmFuturesError, give_warning
from .._hosts import Route
from .asking import Asked, Secrets
from .base import Ask
from .known_hosts import KnownHosts, Verdict, host_key_error
from .limits import CONNECT_TIMEOUT, LOGIN_TIMEOUT, MOST_QUESTION, Clock, TooMuch, TooSlow, limited, words
from .process import ProcessStream

_FIRST_BYTE = 120.0  # seconds from the login until a shell's first word: module loads are slow
_CONFIGURED = "what ssh's configuration and its agent have"
_GRACE = 1.0  # seconds in which ssh itself says that it was too long
_MORE_TIME = "check host and port, or allow more time by connect_timeout="
_LOOK = 0.1  # seconds between two looks at the clock
_PATIENCE = 5.0  # seconds
_MOST_LOG = 1 << 16  # bytes, the last ones, that are read of a log
_MOST_SAID = 16 << 20  # bytes that ssh may write to its log and its stderr before the other side is there
_NAMES_SERVER = (8, 5)  # the first version that puts "(user@host) " before the words of a server

_OPTIONS = (
    "ClearAllForwardings=yes",
    "ControlPath=none",
    "EscapeChar=none",
    "ForwardAgent=no",
    "ForwardX11=no",
    "LogLevel=VERBOSE",
    "NumberOfPasswordPrompts=1",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
)

# The ssh of a hop: it leaves its process id, by which its questions are known.
_SSH = """\
#!/bin/sh
echo $$ >{pid} || exit
exec ssh "$@"
"""

# Run by ssh; the words are the socket, ssh's process id and the question. Its exit code says whether somebody answered.
_ASKPASS = """\
#!/bin/sh
exec {python} -I -S -c {program} {socket} "$PPID" "$@"
"""
_ASKER = """\
import os, socket, sys
end = socket.socket(socket.AF_UNIX)
end.connect(sys.argv[1])
question = "\\0".join((sys.argv[2], os.environ.get("SSH_ASKPASS_PROMPT", ""), " ".join(sys.argv[3:])))
end.sendall(question.encode("utf-8", "surrogateescape"))
end.shutdown(socket.SHUT_WR)
answer = b"".join(iter(lambda: end.recv(4096), b""))
if answer[:1] != b"+":
    sys.exit(1)
os.write(1, answer[1:] + b"\\n")
"""

_TRUST = re.compile(r"(?:(\S+) key fingerprint is|key fingerprint is) (\S+?)\.?\s", re.DOTALL)
_SERVER = re.compile(r"\(\S+@\S+\) ")
_HOST_KEY = re.compile(r"(The authenticity of host |Accept updated hostkeys\?).*\(yes/no", re.DOTALL)
_PASSWORD = re.compile(r"\S+@\S+'s password: *$")
_UNLOCKS = re.compile(r"Enter passphrase for |Enter PIN for ")  # without an answer, ssh goes on to the next key
_CHANGED = re.compile(r"The fingerprint for the (\S+) key sent by the remote host is\s+(\S+?)\.?\s")
_REVOKED = re.compile(r"^The (\S+) host key for \S+ is marked as revoked\.", re.MULTILINE)
_REVOKED_BY = re.compile(
    r"^(?:Host key (\S+ \S+) revoked by file (.+)|Error checking host key (\S+ \S+) in revoked keys file (.+?): .+)$",
    re.MULTILINE,
)
_NOT_KNOWN = re.compile(r"No (\S+) host key is known for")
_DENIED = re.compile(r"Permission denied \(([^)]*)\)")
_TOO_MANY = re.compile(r"Too many authentication failures")
_NAME = re.compile(r"Could not resolve hostname (\S+): (.+)")
_CONNECT = re.compile(r"connect to host (\S+) port (\d+): (.+)")
_SLOW = re.compile(r"[Tt]imed out during banner exchange|Connection timed out|Operation timed out")
_FORWARD = re.compile(r"open failed: (.+)")
_RUNS = re.compile(r"exec request accepted on channel")
_CHATTER = re.compile(r"Authenticated to |Transferred: |Bytes per second: |debug\d: ")
_PREFIX = re.compile(r"^(?:ssh|kex_exchange_identification|ssh_dispatch_run_fatal|client_loop): ")


class Opener:
    """Opens streams by one route; keeps what a person typed and may be used again."""

    def __init__(self, route: Route) -> None:
        """Raises ValueError where there is no ssh."""
        if shutil.which("ssh") is None:
            raise ValueError('transport="openssh" needs the program ssh, which is not on the PATH: install OpenSSH')
        self.route = replace(route, given=True)  # each hop is an ssh of ours
        self.secrets = Secrets()
        self.version = version()

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
        """Run a line in the user's shell on the last hop.

        `timeout` is in seconds, for each hop, without the time in which a person is asked; None is what the
        configuration says, or the usual.

        `first` is sent to the line's stdin without waiting for anything.

        Raises HostUnreachable, HostKeyError, AuthenticationError, GaveUp once `stop` is set.
        """
        attempt = _Attempt(self, ask, timeout, stop)
        try:
            stream = attempt.start(line, first, accept_new=accept_new_host_keys)
            attempt.wait(stream)
        except BaseException:
            attempt.close()
            raise
        return stream


class _Hop:
    """The ssh of one hop: its log, its questions, and what is known of its host's key."""

    def __init__(self, folder: Path, route: Route, index: int, ask: Ask, clock: Clock) -> None:
        self.index = index
        self.where = route.describe(index)
        self.log = folder / f"log{index}"
        self.asked = Asked(limited(ask, clock), route.hops[index].login)
        self.was_asked = False
        self.shown = ""  # the fingerprint of a new host key
        self._pid = folder / f"pid{index}"
        self._script = folder / f"ssh{index}"
        self._script.write_text(_SSH.format(pid=quote(str(self._pid))))

    def words(self, options: Sequence[str]) -> list[str]:
        return ["/bin/sh", str(self._script), "-T", "-E", str(self.log), *(w for o in options for w in ("-o", o))]

    def is_process(self, pid: str) -> bool:
        return _read(self._pid).strip() == pid

    def text(self) -> str:
        return _read(self.log)


class _Attempt:
    """One ssh for each hop, from their start until the other side says something."""

    def __init__(self, opener: Opener, ask: Ask, timeout: float | None, stop: threading.Event | None) -> None:
        self._route = opener.route
        self._secrets = opener.secrets
        self._names_server = opener.version >= _NAMES_SERVER
        self._connect = [timeout or hop.connect_timeout or CONNECT_TIMEOUT for hop in self._route.hops]
        self._login = [timeout or max(LOGIN_TIMEOUT, seconds) for seconds in self._connect]
        self._clock = Clock(self._connect[0] + _GRACE, stop)
        self._folder = tempfile.TemporaryDirectory(prefix="slurmfutures-")
        folder = Path(self._folder.name)
        self._hops = [_Hop(folder, self._route, index, ask, self._clock) for index in range(len(self._route.hops))]
        # A program of the configuration, such as a ProxyCommand, may start an ssh of its own.
        first = self._route.hops[0].login
        self._other = Asked(limited(ask, self._clock), f"a program started by the ssh to {first}")
        self._answers: dict[str, str] = {}  # those that are good again if they were right, by what they are kept as
        self._stage = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._stream: OpensshStream | None = None

    def start(self, line: str, first: bytes, *, accept_new: bool) -> "OpensshStream":
        folder = Path(self._folder.name)
        path = str(folder / "ask")
        self._socket.bind(path)
        self._socket.listen()
        askpass = folder / "askpass"
        askpass.write_text(_ASKPASS.format(python=quote(sys.executable), program=quote(_ASKER), socket=quote(path)))
        askpass.chmod(0o700)
        last = len(self._hops) - 1
        self._accept_new = accept_new

        def ssh(index: int) -> Sequence[str]:
            # Those behind a jump host would count the time in which somebody types what the jump host asks.
            seconds = max(1, round(self._connect[0])) if index == 0 else 0
            wanted = [*_OPTIONS, f"ConnectTimeout={seconds}"]
            if accept_new:
                wanted.append("StrictHostKeyChecking=accept-new")
            if index == last:
                wanted.remove("ControlPath=none")  # one connection for all of the user's sessions, if he wants that
                if self._names_server:
                    wanted.append("LogVerbose=clientloop.c:client_status_confirm():*")
            return self._hops[index].words(wanted)

        display = os.environ.get("DISPLAY") or ":none"  # without one, versions before 8.4 ask nobody
        env = {**os.environ, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": display}
        logs = [hop.log for hop in self._hops]
        self._stream = OpensshStream([*self._route.ssh_command(ssh), line], env, first, logs, self._folder)
        return self._stream

    def wait(self, stream: "OpensshStream") -> None:
        """Answer questions until the other side says something. Raises what stands in the way of that."""
        while True:
            self._advance()
            try:
                self._clock.check()
            except TooSlow:
                if self._has_master():
                    self._stage = len(self._hops) + 1
                    self._clock.restart(_FIRST_BYTE)
                    continue
                seconds = self._clock.seconds
                raise HostUnreachable(self._where(), f"it did not answer within {seconds:g} s", _MORE_TIME) from None
            if stream.size_of_words() > _MOST_SAID:
                raise HostUnreachable(self._where(), f"it says more than {_MOST_SAID} bytes before it lets us in")
            ready = select.select([stream.readable(), self._socket.fileno()], [], [], _LOOK)[0]
            if self._socket.fileno() in ready:
                self._answer()
            elif ready:
                break
        if stream.ended():
            error = self._error(stream)
            if error is not None:
                raise error
        for name, answer in self._answers.items():
            self._secrets.keep(name, answer)
        self._socket.close()

    def _advance(self) -> None:
        """See how far the hops are, and give the next one its time. There is no way back: a server words some logs."""
        count = len(self._hops)
        while self._stage <= count and self._is_through(self._stage):
            self._stage += 1
            if self._stage < count:
                self._clock.restart(self._connect[self._stage] + _GRACE)
            elif self._stage == count and self._names_server:
                self._clock.restart(self._connect[-1] + _GRACE)
            else:
                self._clock.restart(_FIRST_BYTE)

    def _is_through(self, stage: int) -> bool:
        if stage < len(self._hops):
            return "Authenticated to " in self._hops[stage].text()
        return not self._names_server or _RUNS.search(self._hops[-1].text()) is not None

    def _has_master(self) -> bool:
        """Whether a connection that was there before serves the last hop: then the others have not been started."""
        return self._stage == 0 and not self._hops[0].log.exists()

    def _at(self) -> int:
        """Return the first hop that has not let us in yet; the last where all have."""
        return min(self._stage, len(self._hops) - 1)

    def _where(self) -> str:
        return self._hops[self._at()].where

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
                while len(data) <= 4 * MOST_QUESTION and (more := end.recv(4096)):  # an UTF-8 character has four bytes
                    data += more
            pid, _, rest = data.decode("utf-8", "replace").partition("\0")
            kind, _, question = rest.partition("\0")
            hop = next((hop for hop in self._hops if hop.is_process(pid)), None)
            if hop is not None and not hop.was_asked:
                hop.was_asked = True
                self._clock.restart(self._login[hop.index] + _GRACE)
            try:
                answer = self._answer_to(hop, kind, question)
            except TooMuch as error:
                raise self._denied(hop, question, str(error)) from error
            if answer is None and not self._unlocks(question):  # ssh would go on with an empty answer
                raise self._denied(hop, question, str((self._other if hop is None else hop.asked).nobody or ""))
            end.settimeout(None)
            with contextlib.suppress(OSError):  # it did not wait for the answer
                if answer is not None:
                    end.sendall(b"+" + answer.encode())

    def _answer_to(self, hop: _Hop | None, kind: str, question: str) -> str | None:
        if kind == "none":  # nothing to answer: touch the key
            give_warning(question.strip())
            return ""
        if _HOST_KEY.match(question):
            found = _TRUST.search(question)
            if hop is not None and found:
                hop.shown = " ".join(filter(None, found.groups()))
            return "yes" if self._accept_new else "no"
        if hop is None:
            return self._other(question)
        name = self._kept_as(hop, question)
        answer = self._secrets.get(name)
        if answer is None:
            answer = hop.asked(question)
        else:
            self._secrets.forget(name)  # unless it turns out to be right
        if answer is not None and name:
            self._answers[name] = answer
        return answer

    def _kept_as(self, hop: _Hop, question: str) -> str:
        """Return as what an answer is kept, nothing for what is not: as this hop's, and never by a server's words."""
        if _PASSWORD.match(question):
            return f"password of {hop.where}"
        if self._unlocks(question) and self._names_server:
            return f"{question} of {hop.where}"
        return ""  # it may be a one-time password, or a server that poses as a key

    def _unlocks(self, question: str) -> bool:
        """Whether this asks for what unlocks a key. Where versions do not name the server, it may have worded that."""
        return _UNLOCKS.match(question) is not None

    def _denied(self, hop: _Hop | None, question: str, reason: str) -> AuthenticationError:
        offered = ["password" if _PASSWORD.match(question) else "keyboard-interactive"]
        return AuthenticationError((hop or self._hops[0]).where, [_CONFIGURED], offered, reason)

    # ---- errors

    def _error(self, stream: "OpensshStream") -> SlurmFuturesError | None:
        """Return why there is no way in; None where there is one, and it is the shell that ended."""
        for hop in self._hops:
            error = self._error_of(hop.index, hop.text())
            if error is not None:
                return error
        if stream.exit_code() == 255 and not stream.last_words():
            said = "; ".join(filter(None, (_last(hop.text()) for hop in self._hops)))
            return HostUnreachable(self._route.describe(), said or "ssh gave up without a word")
        return None

    def _error_of(self, index: int, text: str) -> SlurmFuturesError | None:
        where, asked = self._hops[index].where, self._hops[index].asked
        hop = self._route.hops[index]
        changed, missing = _CHANGED.search(text), _NOT_KNOWN.search(text)
        if "Host key verification failed" in text or changed or missing:
            return self._host_key_error(index, text)
        denied = _DENIED.search(text)
        if denied or _TOO_MANY.search(text):
            offered = words(denied[1]).split(",") if denied else []
            reason = str(asked.nobody) if asked.nobody else "" if denied else "it was offered too many keys"
            typed = ["what was typed"] if self._hops[index].was_asked and not asked.nobody else []
            return AuthenticationError(where, [_CONFIGURED, *typed], offered, reason)
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
            return HostUnreachable(where, f"it did not answer within {self._connect[index]:g} s", _MORE_TIME)
        if (found := _FORWARD.search(text)) and index < len(self._hops) - 1:
            return HostUnreachable(self._route.describe(index + 1), f"{hop} says: {found[1]}")
        return None

    def _host_key_error(self, index: int, text: str) -> HostKeyError:
        hop = self._route.hops[index]
        if found := _REVOKED_BY.search(text):
            shown, file, shown_too, unread = found.groups()
            note = f"ssh cannot read {unread}" if unread else ""
            return HostKeyError(self._hops[index].where, shown or shown_too, "revoked", file or unread, note=note)
        files = (*hop.user_known_hosts, *hop.global_known_hosts)
        known = KnownHosts.read(files, hop.hostname, hop.port, hop.host_key_alias)
        if _REVOKED.search(text):
            return host_key_error(self._route, index, known, Verdict.REVOKED, self._hops[index].shown)
        if changed := _CHANGED.search(text):
            return host_key_error(self._route, index, known, Verdict.CHANGED, f"{changed[1]} {changed[2]}")
        return host_key_error(self._route, index, known, Verdict.UNKNOWN, self._hops[index].shown)


class OpensshStream(ProcessStream):
    """An ssh and what it runs."""

    def __init__(
        self,
        words: Sequence[str],
        env: dict[str, str],
        first: bytes,
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

    def size_of_words(self) -> int:
        """Return how many bytes there are of logs and stderr."""
        return sum(log.stat().st_size for log in self._logs if log.exists()) + os.fstat(self._stderr.fileno()).st_size

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
    """Return the end of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_LOG))
            return file.read(_MOST_LOG).decode("utf-8", "replace")
    except OSError:
        return ""


def _last(text: str) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip() and not _CHATTER.match(line)]
    return words(_PREFIX.sub("", lines[-1])) if lines else ""


def version() -> tuple[int, int]:
    """Return the version of the system's OpenSSH, (0, 0) for another program."""
    try:
        done = subprocess.run(
            ["ssh", "-V"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.match(rb"OpenSSH_(\d+)\.(\d+)", done.stderr)
    return (int(found[1]), int(found[2])) if found else (0, 0)
