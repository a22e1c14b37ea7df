"""How the agent gets to run where nothing is installed.

1. The transport runs one line of shell: the user's setup, then the interpreter with a loader of a few lines.
2. The loader writes a marker, random for each start, its Python's version, and whether it has the source already.
   Whatever a shell printed before the marker is skipped.
3. We answer with the source (a zip, or nothing if it is there) and the greeting (JSON), each behind its length.
4. The loader unpacks the source below work_dir/code/<hash>, once and for all, and hands both ends of the pipe to
   the agent. Nothing else in that process can reach them: its own stdout is its stderr from then on.
"""

import functools
import hashlib
import importlib.util
import io
import json
import re
import secrets
import select
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ._errors import AgentError, PythonMismatch, SchedulerNotFound, SlurmFuturesError
from ._remote import wire
from ._transports.base import Stream

OLDEST_PYTHON = (3, 8)
START_TIMEOUT = 120.0  # seconds: module loads and cold file systems are slow
PACKAGE = "slurmfutures_remote"  # its name over there, so that it cannot be mistaken for an installed slurmfutures

# Also read by Pythons too old for the agent: they must get as far as telling their version.
_LOADER = """\
import os, sys
mark, work, digest, package = sys.argv[1:5]
home = os.path.join(os.path.abspath(os.path.expanduser(work)), "code")
code = os.path.join(home, digest)
def get(size):
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data
have = os.path.isdir(code)
os.write(1, ("%s %d.%d.%d %d\\n" % ((mark,) + tuple(sys.version_info[:3]) + (have,))).encode())
source = get(int(get(12)))
hello = get(int(get(12)))
if not have:
    import compileall, io, json, shutil, struct, zipfile
    part = "%s.%d" % (code, os.getpid())
    try:
        if not os.path.isdir(home):
            os.makedirs(home, 0o700)
        zipfile.ZipFile(io.BytesIO(source)).extractall(part)
        compileall.compile_dir(part, quiet=2)
        try:
            os.rename(part, code)
        except OSError:
            shutil.rmtree(part, True)
            if not os.path.isdir(code):
                raise
    except OSError as error:
        words = {"op": "refusal", "error": "work-dir", "message": "work_dir %s cannot be used: %s" % (work, error)}
        words = json.dumps(words).encode()
        os.write(1, struct.pack(">BIQ", 1, len(words), 0) + words)
        sys.exit(1)
sys.path.insert(0, code)
sys.argv = ["slurmfutures-agent"]
incoming, outgoing = os.dup(0), os.dup(1)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
import importlib, json
importlib.import_module(package + ".agent").main(json.loads(hello.decode()), incoming, outgoing, code)
"""


@functools.cache
def archive() -> tuple[str, bytes]:
    """Return the cluster half and this interpreter's cloudpickle as a zip, behind the hash that names it."""
    files = {f"{PACKAGE}/{path.name}": path for path in sorted((Path(__file__).parent / "_remote").glob("*.py"))}
    spec = importlib.util.find_spec("cloudpickle")
    assert spec is not None
    for folder in spec.submodule_search_locations or ():
        files.update({f"cloudpickle/{path.name}": path for path in sorted(Path(folder).glob("*.py"))})
    digest = hashlib.sha256()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for name, path in files.items():
            data = path.read_bytes()
            digest.update(name.encode() + b"\0" + data + b"\0")
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return digest.hexdigest()[:20], target.getvalue()


def start_line(marker: str, work_dir: str, python: str, setup: str) -> str:
    """Return the bash that starts the loader."""
    digest, _ = archive()
    words = " ".join(quote(word) for word in (_LOADER, marker, work_dir, digest, PACKAGE))
    return f"{setup}\nexec {python} -I -S -u -c {words}"


def new_marker() -> str:
    return f"slurmfutures:{secrets.token_hex(12)}:"


def handshake(
    stream: Stream, marker: str, hello: Mapping[str, Any], where: str
) -> tuple[Mapping[str, Any], wire.Reader]:
    """Bring the agent up on a fresh stream and return its greeting, with the reader that goes on from there.

    Raises AgentError where it cannot start, PythonMismatch for a Python that is too old, SchedulerNotFound where
    there is no Slurm, SlurmFuturesError for a `work_dir` that cannot be used. `where` names the place in messages.
    """
    deadline = time.monotonic() + START_TIMEOUT
    begun = re.compile(re.escape(marker.encode()) + rb" (\d+)\.(\d+)\.(\d+) ([01])\n")
    seen = b""
    while (match := begun.search(seen)) is None:
        seen += _read(stream, deadline, where)
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < OLDEST_PYTHON:
        raise PythonMismatch(f"Python {version[0]}.{version[1]} on {where} is older than 3.8: name another one")
    source = b"" if match[4] == b"1" else archive()[1]
    greeting = json.dumps(hello).encode()
    _write(stream, b"%012d" % len(source) + source + b"%012d" % len(greeting) + greeting, deadline, where)
    reader = wire.Reader()
    data = seen[match.end() :]
    while True:
        for frame in reader.feed(data):
            words: Mapping[str, Any] = frame.head
            if words["op"] == "hello":
                return words, reader
            if words["error"] == "no-scheduler":
                raise SchedulerNotFound(words["message"])
            raise SlurmFuturesError(words["message"])
        data = _read(stream, deadline, where)


def _read(stream: Stream, deadline: float, where: str) -> bytes:
    while True:
        ready, _, _ = select.select([stream.readable()], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AgentError(f"the agent did not start on {where} within {START_TIMEOUT:.0f} s", stream.last_words())
        try:
            data = stream.read(1 << 16)
        except BlockingIOError:
            continue
        if not data:
            raise AgentError(f"the agent could not start on {where}", stream.last_words())
        return data


def _write(stream: Stream, data: bytes, deadline: float, where: str) -> None:
    view = memoryview(data)
    while view:
        _, ready, _ = select.select([], [stream.writable()], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AgentError(f"the agent did not start on {where} within {START_TIMEOUT:.0f} s", stream.last_words())
        try:
            view = view[stream.write(view) :]
        except BlockingIOError:
            continue
        except OSError as error:
            raise AgentError(f"the agent could not start on {where}: {error}", stream.last_words()) from error
