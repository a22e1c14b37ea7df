"""How the agent gets to run where nothing is installed.

1. The transport runs bash with a script that has the user's setup, and then the interpreter with a loader. The script
   goes by the environment or by stdin: an argument list can be read by every account of the machine. Over SSH it is
   run by a login shell, whatever kind that is, because nothing else knows its PATH: see `login_script`.
2. The loader writes a marker, random for each start, its Python's version, and whether it has the source already. It
   has looked at `work_dir` before that, by modules that travel with it: see `_remote/source`. Whatever a shell printed
   before the marker is skipped, and what comes after it between two envelopes (`wire`).
3. We answer with the source (a zip, or nothing if it is there) and the greeting (JSON), each behind its length.
4. The loader unpacks the source below work_dir/code/<hash>, once and for all, and hands both ends of the pipe to
   the agent. Nothing else in that process can reach them: its own stdout is its stderr from then on.
"""

import base64
import functools
import importlib.util
import io
import json
import os
import re
import secrets
import select
import threading
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from ._errors import AgentError, PythonMismatch, SchedulerNotFound, SlurmFuturesError
from ._remote import ids, shell, wire
from ._remote.source import Digest
from ._transports.base import GaveUp, Stream

OLDEST_PYTHON = (3, 8)
START_TIMEOUT = 120.0  # seconds: module loads and cold file systems are slow
_PATIENCE = 0.1  # seconds between two looks whether to go on
_LONGEST_MARK = 100  # bytes
_LONGEST_PATH = 1 << 16  # characters
_MOST_QUANTITY = 1e30  # of what a greeting has as numbers: seconds, and bytes
_NOT_FOUND = re.compile(
    r": (?:line \d+: )?(?:exec: )?([^:\n]+): "
    r"(?:not found|command not found|No such file or directory|Permission denied|cannot execute)"
)
PACKAGE = "slurmfutures_remote"  # its name over there, so that it cannot be mistaken for an installed slurmfutures

# Also read by Pythons too old for the agent: they must get as far as telling their version.
_LOADER = """\
import os, sys
mark, digest, package, looks = sys.argv[1:5]
work = os.environ.pop("SLURMFUTURES_FOLDER")
def get(size):
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data
place = None
if sys.version_info >= (3, 8):
    import base64, types, zlib
    parent = sys.modules[package] = types.ModuleType(package)
    parent.__path__ = []
    for name, text in MODULES:
        module = types.ModuleType(package + "." + name)
        module.__package__ = package
        sys.modules[module.__name__] = module
        exec(compile(zlib.decompress(base64.b64decode(text)), name, "exec"), module.__dict__)
        setattr(parent, name, module)
    place = parent.source.Place(work, digest, looks == "looks")
there = place is not None and place.is_there
os.write(1, ("%s %d.%d.%d %d\\n" % ((mark,) + tuple(sys.version_info[:3]) + (there,))).encode())
source = get(int(get(12)))
hello = get(int(get(12)))
place.install(source)
if place.error:
    import json, struct
    words = json.dumps({"op": "refusal", "error": place.code_of_error, "message": place.error}).encode()
    words = struct.pack(">BIQ", 1, len(words), 0) + words
    os.write(1, bytes.fromhex(mark[13:29]) + struct.pack(">H", len(words)) + words)
    sys.exit(1)
sys.argv = ["slurmfutures-agent"]
incoming, outgoing = os.dup(0), os.dup(1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
import importlib, json
importlib.import_module(package + ".agent").main(json.loads(hello.decode()), incoming, outgoing, place.code)
"""
# What `ps` shows of the agent, behind the interpreter.
_SHOWN = """\
# slurmfutures: submits and watches the jobs of its user, and ends with the connection
import os; exec(os.environ.pop("SLURMFUTURES_LOADER"))"""


@functools.cache
def archive() -> tuple[str, bytes]:
    """Return the cluster half and this interpreter's cloudpickle as a zip, behind the hash that names it."""
    paths = {f"{PACKAGE}/{path.name}": path for path in (Path(__file__).parent / "_remote").glob("*.py")}
    paths["start.py"] = paths.pop(f"{PACKAGE}/start.py")
    spec = importlib.util.find_spec("cloudpickle")
    assert spec is not None
    for folder in spec.submodule_search_locations or ():
        paths.update({f"cloudpickle/{path.name}": path for path in Path(folder).glob("*.py")})
    digest, target = Digest(), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for name, path in sorted(paths.items()):
            data = path.read_bytes()
            digest.add(name, False, data)
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return digest.text(), target.getvalue()


@functools.cache
def _loader() -> str:
    texts = [(name, (Path(__file__).parent / "_remote" / f"{name}.py").read_bytes()) for name in ("trust", "source")]
    modules = [(name, base64.b64encode(zlib.compress(text, 9)).decode()) for name, text in texts]
    return f"MODULES = {modules!r}\n{_LOADER}"


def start_script(mark: str, work_dir: str, python: str, setup: str, *, looks: bool = False) -> str:
    """Return the bash that starts the loader. One that `looks` makes nothing in `work_dir`."""
    digest, _ = archive()
    words = " ".join(map(quote, (_SHOWN, mark, digest, PACKAGE, "looks" if looks else "works")))
    variables = f"SLURMFUTURES_LOADER={quote(_loader())} SLURMFUTURES_FOLDER={quote(work_dir)}"
    return f"{setup}\nexport {variables}\nexec {python} -I -S -uXutf8 -c {words}"


def start_here(script: str) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return the words and the environment of a process of this machine that runs a script."""
    return shell.EVAL, {**os.environ, **shell.variable(script)}


_HOME = "cd\n"  # a profile may have gone elsewhere
_BASH = "/usr/bin/env SHLVL=1 /bin/bash"
_CSH_LOGIN = "".join(f"if ($?tcsh == 0 && -r {file}) source {file}; " for file in ("/etc/csh.login", "~/.login"))
#: The command that sshd gives to the user's shell. It reads from stdin, to the first NUL, what is to be done.
LOGIN_LINE = f'exec {_BASH} -c \'IFS= read -r -d "" SLURMFUTURES_START && eval "$SLURMFUTURES_START"\''


def login_script(start: str) -> bytes:
    """Return what `LOGIN_LINE` is to read: it runs some bash by way of the user's login shell.

    sshd gives its command to the user's shell, which reads it as no login shell: PATH need not be what the user has. So
    that one runs bash, bash runs the login shell again, as what it is by a "-" before its name, and that runs bash,
    which finds the script in a variable. All the while nothing is said that csh, fish and a POSIX shell would read
    differently: within single quotes no quote, backslash, exclamation mark or new line.

    Two shells need help. A bash that sshd's variables reach reads ~/.bashrc, and so would each command that the agent
    runs; not where SHLVL says that there is a shell around it. A csh with words to run is never a login shell, unless
    it is a tcsh, and sources by our order what it would have read.
    """
    ((name, text),) = shell.variable(_HOME + start).items()
    again = f"exec {_BASH} -c 'eval \"${name}\"'"
    script = f"""\
export {name}={quote(text)}
words={quote(again)}
[[ ${{SHELL##*/}} == *csh ]] && words={quote(_CSH_LOGIN)}$words
exec -a "-${{SHELL##*/}}" "$SHELL" -c "$words"
"""
    return os.fsencode(script) + b"\0"


def new_mark() -> str:
    return f"slurmfutures:{secrets.token_hex(12)}:"


def sync_of(mark: str) -> str:
    """Return, in hexadecimal digits, the bytes that envelopes on this connection begin with."""
    return mark.partition(":")[2][: 2 * wire.SYNC_SIZE]


# What of the greeting is used, and of which type it is.
_HELLO: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("scheduler", "work_dir", "spool", "exposed", "executable", "host", "cwd", "home"), str),
    "now": (int, float),
    "free": (int, float),
    "python": list,
}


class NoFolder(Exception):
    """There is no `work_dir` to look at; whoever looks has words of its own for that."""


class Started(NamedTuple):
    """An agent that has said hello, and how to read on."""

    stream: Stream
    opener: wire.Opener
    reader: wire.Reader
    greeting: Mapping[str, Any]


def handshake(
    stream: Stream, mark: str, hello: Mapping[str, Any], where: str, python: str, stop: threading.Event | None = None
) -> Started:
    """Bring the agent up on a fresh stream. `stop` ends the waiting.

    Raises AgentError where it cannot start, PythonMismatch for a Python that is too old, SchedulerNotFound where
    there is no Slurm, SlurmFuturesError for a `work_dir` that cannot be used. `where` names the place in messages,
    `python` is what the user calls the interpreter.
    """
    waiting = _Waiting(stream, where, python, stop)
    begun = re.compile(re.escape(mark.encode()) + rb" (\d{1,4})\.(\d{1,4})\.(\d{1,4}) ([01])\n")
    seen = b""
    while (match := begun.search(seen)) is None:
        seen = seen[-_LONGEST_MARK:] + waiting.read()
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < OLDEST_PYTHON:
        raise PythonMismatch(
            f"python={python!r} on {where} is Python {version[0]}.{version[1]}, which is too old: "
            "name one of 3.8 or newer by python="
        )
    source = b"" if match[4] == b"1" else archive()[1]
    greeting = json.dumps({**hello, "sync": sync_of(mark), "mark": mark}).encode()
    waiting.write(b"%012d" % len(source) + source + b"%012d" % len(greeting) + greeting)
    opener, reader = wire.Opener(bytes.fromhex(sync_of(mark))), wire.Reader()
    data = seen[match.end() :]
    while True:
        try:
            frame = next(reader.feed(opener.feed(data)), None)
        except wire.WireError as error:
            raise AgentError(f"what came from the agent on {where} cannot be understood: {error}", "") from error
        if frame is not None:
            words = frame.head if isinstance(frame.head, dict) else {}
            if words.get("op") == "hello" and _is_greeting(words):
                return Started(stream, opener, reader, words)
            kinds = {"no-folder": NoFolder, "no-scheduler": SchedulerNotFound}
            kind = kinds.get(str(words.get("error")), SlurmFuturesError)
            raise kind(str(words.get("message", f"the agent on {where} did not say hello")))
        data = waiting.read()


def is_path(text: str) -> bool:
    """Whether a text can be a path, as far as its characters and its length go."""
    if not 0 < len(text) <= _LONGEST_PATH or "\0" in text:
        return False
    try:
        os.fsencode(text)
    except UnicodeError:
        return False
    return True


def _is_greeting(words: Mapping[str, Any]) -> bool:
    if not all(isinstance(words.get(name), kind) for name, kind in _HELLO.items()):
        return False
    if not all(is_path(words[name]) and os.path.isabs(words[name]) for name in ("work_dir", "cwd")):
        return False
    # A work_dir that is only looked at may have no name yet, and a user no home.
    if not (ids.is_batch(words["spool"]) or words["spool"] == "") or not is_path(words["home"]):
        return False
    if not all(abs(words[name]) <= _MOST_QUANTITY for name in ("now", "free")):
        return False
    return len(words["python"]) >= 2 and all(type(number) is int for number in words["python"])


class _Waiting:
    """Reads and writes with an end to patience."""

    def __init__(self, stream: Stream, where: str, python: str, stop: threading.Event | None) -> None:
        self._stream = stream
        self._where = where
        self._python = python
        self._stop = stop
        self._deadline = time.monotonic() + START_TIMEOUT

    def read(self) -> bytes:
        while True:
            self._until_ready([self._stream.readable()], [])
            try:
                data = self._stream.read(1 << 16)
            except BlockingIOError:
                continue
            if not data:
                raise self._failed()
            return data

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._until_ready([], [self._stream.writable()])
            try:
                view = view[self._stream.write(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._failed() from error

    def _until_ready(self, reading: list[int], writing: list[int]) -> None:
        while time.monotonic() < self._deadline:
            if self._stop is not None and self._stop.is_set():
                raise GaveUp
            ready = select.select(reading, writing, [], _PATIENCE)
            if ready[0] or ready[1]:
                return
        words = self._stream.last_words()
        raise AgentError(f"the agent did not start on {self._where} within {START_TIMEOUT:.0f} s", words)

    def _failed(self) -> AgentError:
        """Return the error for a process that ended, or a connection that broke, before the agent was there."""
        words = self._stream.last_words()
        missing = _NOT_FOUND.search(words)
        if missing:
            return AgentError(
                f"python={self._python!r} on {self._where}: {missing[1].strip()} was not found or cannot run; "
                "name an interpreter of 3.8 or newer by python=, or have setup= make it available",
                words,
                transient=False,
            )
        why = self._stream.why_ended()
        return AgentError(f"the agent could not start on {self._where}{f': {why}' if why else ''}", words)
