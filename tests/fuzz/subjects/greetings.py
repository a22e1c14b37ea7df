"""What comes from a host on which an agent is started: banners, the marker, the agent's greeting."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from slurmfutures import SlurmFuturesError, _bootstrap
from slurmfutures._remote import wire
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, json_like

_MARK = "slurmfutures:0123456789abcdef01234567:"
_SYNC = bytes.fromhex(_bootstrap.sync_of(_MARK))
_HELLO: Any = {
    "op": "hello", "protocol": 3, "python": [3, 8, 1], "executable": "/usr/bin/python3", "scheduler": "slurm 22.05",
    "work_dir": "/w", "spool": "0123456789ab", "now": 1e9, "exposed": "", "free": 1 << 40, "host": "login", "cwd": "/w",
    "home": "/w", "pid": 7,
}  # fmt: skip
_REFUSAL: Any = {"op": "refusal", "error": "work-dir", "message": "work_dir x cannot be used"}


class _Stream:
    """A stream that says one thing and ends; what is written to it is lost."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._sink = os.open(os.devnull, os.O_WRONLY)

    def readable(self) -> int:
        return self._file

    def writable(self) -> int:
        return self._sink

    def read(self, size: int) -> bytes:
        return os.read(self._file, size)

    def write(self, data: Any) -> int:
        return os.write(self._sink, data)

    def last_words(self) -> str:
        return ""

    def why_ended(self) -> str:
        return ""

    def close(self, timeout: float = 0.0) -> None:
        os.close(self._file)
        os.close(self._sink)


def _handshake(data: bytes, folder: Path) -> object:
    path = folder / "said"
    path.write_bytes(data)
    stream = _Stream(path)
    try:
        any_stream: Any = stream
        started = _bootstrap.handshake(any_stream, _MARK, {"session": "x"}, "login", "python3")
        assert isinstance(started.greeting, Mapping)
        return started.greeting
    finally:
        stream.close()


def _greeting(head: bytes, version: bytes = b"3.11.7 1") -> bytes:
    frame = wire.PREFIX.pack(wire.MESSAGE, len(head), 0) + head
    return b"Welcome\n" + _MARK.encode() + b" " + version + b"\nmotd\n" + wire.enveloped(_SYNC, frame)


_VERSIONS = st.sampled_from(
    (
        b"3.11.7 1",
        b"3.11.7 0",
        b"2.7.5 0",
        b"3.8.1 7",
        b"9" * 30 + b".1.1 1",
        b"9" * 5000 + b".0.0 0",
        b"\xd9\xa3.8.1 1",
    )
)
_SEEDS = [_greeting(as_json(_HELLO))]

PARSERS = (
    Parser(
        "_bootstrap:handshake",
        _handshake,
        _SEEDS,
        (SlurmFuturesError,),
        st.builds(_greeting, json_like([_HELLO, _REFUSAL]), _VERSIONS),
        repeated=[_MARK.encode(), _MARK.encode() + b" 3.", _SYNC, wire.enveloped(_SYNC, wire.PREFIX.pack(5, 1, 0))],
        tokens=[_MARK.encode(), _SYNC, b" 3.11.7 1\n"],
    ),
)
