"""What pilots and their agent say to each other, and leave for each other."""

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from slurmfutures._remote import box, meeting, pool_files, seal, wire
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, json_like
from tests.fuzz.subjects.payloads import RECORDS, checked
from tests.fuzz.subjects.wires import HEADS

KEY = bytes(range(32))
_NONCE = bytes(32)
_SIZES = [struct.pack(">I", size) for size in (1, seal.RECORD, seal.RECORD + 1, 1 << 31, (1 << 32) - 1)]


class _Caller(seal.Caller):
    """One whose nonce is known, so that it can be answered."""

    def __init__(self) -> None:
        super().__init__(KEY, {"pilot": "0123456789ab.0.0"})
        self._nonce = _NONCE


class _Acceptor(seal.Acceptor):
    def __init__(self) -> None:
        super().__init__(KEY, {"mark": "m"})
        self._nonce = _NONCE


def _said(words: bytes, role: bytes) -> bytes:
    mac = hashlib.blake2b(_NONCE + _NONCE + words, key=KEY, person=role, digest_size=32).digest()
    return struct.pack(">I", len(words)) + words + mac


def _of_caller(words: bytes) -> bytes:
    return seal.MAGIC + _NONCE + _said(words, b"sf caller proves")


def _of_acceptor(words: bytes) -> bytes:
    return seal.MAGIC + _NONCE + _said(words, b"sf acceptor is")


def _fed(side: seal.Handshake, data: bytes) -> object:
    step = 1 + len(data) // 7
    for at in range(0, len(data), step):
        side.feed(data[at : at + step])
        if side.agreed is not None:
            return dict(side.agreed.words)
    return None


def _unsealed(data: bytes, folder: Path) -> object:
    found = b"".join(map(bytes, seal.Unsealer(KEY).feed(data)))
    step = 1 + len(data) // 7
    again = seal.Unsealer(KEY)
    pieces = [bytes(it) for at in range(0, len(data), step) for it in again.feed(data[at : at + step])]
    assert b"".join(pieces) == found
    return found


def _sealed(*contents: bytes) -> bytes:
    sealer = seal.Sealer(KEY)
    return b"".join(bytes(part) for content in contents for part in sealer.seal([content]))


def _frames_sealed(data: bytes, folder: Path) -> object:
    """Read frames that somebody sends who has the key."""
    reader = wire.Reader()
    return [frame for content in seal.Unsealer(KEY).feed(_sealed(data)) for frame in reader.feed(content)]


def _pool(folder: Path) -> pool_files.PoolFiles:
    (folder / "pool" / "last").mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "pool").chmod(0o700)
    return pool_files.PoolFiles(str(folder / "pool"))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


def _ledger(data: bytes, folder: Path) -> object:
    files = _pool(folder)
    _write(folder / "pool" / "ledger", data)
    return files.batches(), list(files.entries())


def _handed(data: bytes, folder: Path) -> object:
    files = _pool(folder)
    _write(folder / "pool" / "handed", data)
    files.create()
    files.hand(7)
    files.close()
    assert files.handed <= 1 << 65
    return files.handed


def _last(data: bytes, folder: Path) -> object:
    session = folder / "pilots" / "0123456789ab"
    (session / "000007" / "last").mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(session / "000007" / "last" / "0123456789ab.0.0", data)
    pool_files.PoolFiles(str(session / "000007")).left("0123456789ab.0.0")
    return pool_files.finished(str(folder), "0123456789ab")


def _agent_file(data: bytes, folder: Path) -> object:
    _write(folder / "agent", data)
    found = meeting.read_agent_file(str(folder))
    for address, port in found.places if found is not None else ():
        assert isinstance(address, str)
        assert 0 < port < 1 << 16
    return found


def _key(data: bytes, folder: Path) -> object:
    _write(folder / "key", data)
    return meeting.read_key(str(folder))


def _box_name(data: bytes, folder: Path) -> object:
    name = os.fsdecode(data)
    found = box._parse(name)
    assert found is None or f"{found[0]}-{found[1]}" == name
    return found


_LEDGER: list[Any] = [
    {"batch": "0123456789ab", "tasks": 3},
    {"came": "0123456789ab", "task": 0, "run": 1},
    {"settled": "0123456789ab", "task": 0, "run": 0},
    {"over": "0123456789ab"},
]
_AGENT: Any = {"places": [["10.0.0.1", 4711], ["::1", 80]], "names": ["login1"], "mark": "0123456789ab"}
_CAME: Any = {"pilot": "0123456789ab.0.0", "job": "7_0", "node": "n1", "has": [], "workers": 2}
_SEAL = (seal.SealError,)

PARSERS = (
    Parser(
        "_remote.seal:Acceptor.feed",
        lambda data, folder: _fed(_Acceptor(), data),
        [_of_caller(as_json(_CAME)), _of_caller(b"{}") + _sealed(b"more")],
        _SEAL,
        st.one_of(json_like([_CAME]), st.just(b"[" * 5000)).map(_of_caller),
        tokens=[*_SIZES, seal.MAGIC],
    ),
    Parser(
        "_remote.seal:Caller.feed",
        lambda data, folder: _fed(_Caller(), data),
        [_of_acceptor(b'{"mark":"m"}')],
        _SEAL,
        st.one_of(json_like([{"mark": "m"}]), st.just(b"[" * 5000)).map(_of_acceptor),
        tokens=[*_SIZES, seal.MAGIC],
    ),
    Parser(
        "_remote.seal:Unsealer.feed",
        _unsealed,
        [_sealed(b"abc", b"d" * 300), _sealed(b"x" * 70_000)],
        _SEAL,
        repeated=[_sealed(b"a")],
        tokens=_SIZES,
    ),
    Parser(
        "_remote.seal:Unsealer.feed+frames",
        _frames_sealed,
        [b"".join(map(bytes, wire.message(HEADS[0]))), b"".join(map(bytes, wire.packed(wire.RESULTS, RECORDS)))],
        (wire.WireError,),
    ),
    Parser(
        "_remote.pool_files:PoolFiles.entries",
        _ledger,
        [b"\n".join(map(as_json, _LEDGER)) + b"\n", b""],
        (),
        st.lists(json_like(_LEDGER), max_size=5).map(b"\n".join),
        repeated=[as_json(_LEDGER[0]) + b"\n", b"{}\n", b"[" * 1000 + b"\n"],
    ),
    Parser(
        "_remote.pool_files:PoolFiles.create",
        _handed,
        [struct.pack(">Q", 7) + b"boot", b"", struct.pack(">Q", 1 << 50)],
        (),
    ),
    Parser(
        "_remote.pool_files:finished",
        _last,
        [checked(RECORDS[0]), checked(b"")],
        (),
        st.one_of(st.binary(max_size=60), st.sampled_from([RECORDS[0][:-1], RECORDS[0] + b"x"])).map(checked),
        repeated=[checked(RECORDS[0])],
    ),
    Parser("_remote.meeting:read_agent_file", _agent_file, [as_json(_AGENT)], (), json_like([_AGENT])),
    Parser("_remote.meeting:read_key", _key, [KEY], (meeting.KeyRefused,)),
    Parser("_remote.box:_parse", _box_name, [b"0-17", b"12-0"], tokens=[b"-"]),
)
