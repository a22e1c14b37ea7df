"""Checkpoints: the header, the records, what they say, and their repair."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from slurmfutures import CheckpointCorrupt, SlurmFuturesError
from slurmfutures import _journal as journal
from slurmfutures import _records as records
from slurmfutures._commands import checkpoint as commands
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, changed, inputs, json_like

SYNC = b"\x01syncing"
KEYS = [bytes([number]) * records.KEY_SIZE for number in range(1, 6)]
PLACE = {"spool": "0123456789ab", "scheduler": "slurm", "where": "/w on login"}
WORDS: list[Any] = [
    {"batch": "0123456789ab", "name": "f", "options": ["--mem=4G"], "time": 1e9, **PLACE},
    {"batch": "0123456789ac", "name": "pilots", "options": [], "time": 1e9, "pool": 7, "first": 7 << 48, **PLACE},
]
OPENED: Any = {"time": 1e9, "session": "0123456789ab", "host": None, "work_dir": "~/.slurmfutures", **PLACE}
PART: Any = {"batch": "0123456789ab", "job": "7", "tasks": [[0, 3]]}
FAILURE: Any = {"said": "ValueError: no", "kind": "raised", "job": "7_1", "time": 1e9}


def header(version: int = 1, name: bytes = b"0123456789ab", by: bytes = b"process 1 on host") -> bytes:
    return journal._HEADER.pack(b"SFJOURNL", version, SYNC, name, by.ljust(226))


def record(kind: int, body: bytes) -> bytes:
    return b"".join(map(bytes, journal._packed(SYNC, kind, [body])))


def batch(words: Any, firsts: Sequence[int] = (0, 1), keys: Sequence[bytes] = KEYS[:3]) -> bytes:
    text = as_json(words)
    head = records._BATCH.pack(len(text), len(firsts), len(keys))
    return head + text + b"".join(first.to_bytes(4, "big") for first in firsts) + b"".join(keys)


def failure(words: Any, call: int = 1) -> bytes:
    return records._CALL.pack(KEYS[1], b"0123456789ab", call) + as_json(words)


BODIES: list[tuple[int, bytes]] = [
    (records.OPENED, as_json(OPENED)),
    (records.BATCH, batch(WORDS[0])),
    (records.BATCH, batch(WORDS[1], (), KEYS[3:])),
    (records.PART, as_json(PART)),
    (records.RESULT, KEYS[0] + b"\x80\x05N."),
    (records.FAILED, failure(FAILURE)),
    (records.CLOSED, b"0123456789ab"),
]
WHOLE = header() + b"".join(record(*body) for body in BODIES)


def _written(folder: Path, data: bytes) -> Path:
    path = folder / "x.ckpt"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def _scan(data: bytes, folder: Path) -> object:
    """Read a checkpoint as `status` does, with all that is said of it."""
    path = _written(folder, data)
    scan = journal.Scan(str(path))
    if scan.problem is None:
        assert scan.end + scan.torn == len(data)
    commands.document(scan)
    journal.owner(str(path))
    return len(scan.contents.batches)


def _open(data: bytes, folder: Path) -> object:
    """Open a checkpoint for writing, which writes a large one anew."""
    path = _written(folder, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = journal.Journal(path)
    try:
        for key, place in list(one.contents.finished.items())[:10]:
            assert len(key) == records.KEY_SIZE
            one.read(*place)
    finally:
        one.close()
    return one.id


def _repair(data: bytes, folder: Path) -> object:
    """Repair a checkpoint; then there is nothing wrong with it."""
    path = _written(folder, data)
    _, kept = journal.repair(path)
    again = journal.Scan(str(path))
    assert again.problem is None
    if kept:
        os.unlink(kept)
    return again.id


def _take(data: bytes, folder: Path) -> object:
    contents = records.Contents()
    if data:
        for kind, body in BODIES[:2]:
            contents.take(kind, body, 0)
        contents.take(data[0] % 9, data[1:], 0)
    return list(contents.batches)


@st.composite
def _bodies(draw: st.DrawFn) -> tuple[int, bytes]:
    """Return a record's kind and its body, well packed around strange words."""
    kind = draw(st.integers(0, 8))
    keys = st.lists(st.sampled_from([*KEYS, records.NO_KEY]), max_size=4)
    if kind == records.BATCH:
        firsts = draw(st.lists(st.sampled_from((0, 1, 2, 2**32 - 1)), max_size=4))
        words = draw(st.sampled_from(WORDS))
        return kind, batch(draw(changed(words)), firsts, draw(keys))
    if kind == records.FAILED:
        return kind, failure(draw(changed(FAILURE)), draw(st.sampled_from((0, 1, 7, 2**32 - 1))))
    if kind == records.PART:
        return kind, draw(json_like([PART]))
    if kind == records.OPENED:
        return kind, draw(json_like([OPENED]))
    return kind, draw(inputs([body for _, body in BODIES]))


@st.composite
def _journals(draw: st.DrawFn) -> bytes:
    found = [header()]
    for _ in range(draw(st.integers(1, 6))):
        body = draw(st.one_of(st.sampled_from(BODIES), _bodies()))
        found.append(record(*body))
        if draw(st.integers(0, 5)) == 0:
            found.append(draw(st.one_of(st.binary(max_size=30), st.just(SYNC), st.just(record(2, b"")[:20]))))
    return b"".join(found)


def _numbered(count: int) -> bytes:
    """Return a checkpoint of many batches, each closed at once, with a call that has no end."""
    found = [header()]
    for number in range(count):
        words = {**WORDS[0], "batch": f"{number:012x}"}
        found.append(record(records.BATCH, batch(words, (0,), [number.to_bytes(20, "big")])))
    found += [record(records.CLOSED, f"{number:012x}".encode()) for number in range(count)]
    return b"".join(found)


_MANY = _numbered(6000)
_HUGE = [
    SYNC + bytes([2]) + size.to_bytes(8, "big") + bytes(4) for size in (1 << 10, 1 << 17, 1 << 19, 1 << 40, 2**64 - 1)
]
_FILES = [
    *_HUGE,
    record(records.RESULT, KEYS[0]) + b"!",
    record(records.BATCH, BODIES[1][1]),
    record(records.CLOSED, b"0123456789ab"),
    record(records.PART, as_json(PART)),
    record(records.FAILED, failure(FAILURE)),
    SYNC,
    SYNC[:7],
]
_SEEDS = [header(), WHOLE, WHOLE[:-5]]
_OWN = (CheckpointCorrupt,)

PARSERS = (
    Parser(
        "_journal:Scan",
        _scan,
        _SEEDS,
        _OWN,
        _journals(),
        repeated=_FILES,
        tokens=[SYNC, *_HUGE],
        large=[_MANY],
    ),
    Parser("_journal:Journal", _open, _SEEDS, (SlurmFuturesError,), _journals(), repeated=_FILES, tokens=[SYNC]),
    Parser("_journal:repair", _repair, _SEEDS, _OWN, _journals(), repeated=_FILES, tokens=[SYNC]),
    Parser(
        "_records:Contents.take",
        _take,
        [bytes([kind]) + body for kind, body in BODIES],
        (ValueError,),
        _bodies().map(lambda body: bytes([body[0]]) + body[1]),
    ),
)
