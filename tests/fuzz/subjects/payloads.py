"""Calls, results, how they ended, and the files that hold them."""

import json
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from slurmfutures import _jobinfo, _pickling
from slurmfutures._errors import job_error
from slurmfutures._remote import jsons, payload
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, inputs, json_like


def joined(buffers: Any) -> bytes:
    return b"".join(map(bytes, buffers))


def checked(records: bytes) -> bytes:
    """Return a result file with the right checksum."""
    return joined(payload.pack_results([records]))


RECORDS = [
    joined(payload.pack_record(3, payload.OK, b"\x80\x05K\x01.")),
    joined([*payload.pack_record(3, payload.OK, b"abc"), *payload.pack_record(2**40, payload.RAISED, b"")]),
]
CALLS = [joined([*payload.pack_call(1, 7, b"x"), *payload.pack_call(2, 8, b"yy")])]
HEAD = struct.pack(">QBQ", 1, 0, 0)
LENGTHS = [struct.pack(">Q", size) for size in (1 << 20, 1 << 31, 1 << 40, 1 << 63, (1 << 64) - 1)]


def _error(value: Any) -> bytes:
    text = as_json(value)
    return struct.pack(">II", len(text), 3) + text + b"\x80\x05N"


try:
    raise FileNotFoundError(2, "no such file", "ü")
except FileNotFoundError as error:
    ERRORS = [payload.pack_error(error)]
_WORDS = json.loads(ERRORS[0][8 : 8 + struct.unpack_from(">I", ERRORS[0])[0]])
_ENDED: Any = {
    "job_id": "7", "state": "FAILED", "exit_code": 1, "signal": None, "node": "n1", "reason": "", "started": True,
    "stderr": "Traceback\n", "where": "/w", "cancelled_by": "", "unseen": False,
    "submitted": 1e9, "began": 1e9, "ended": 1.1e9,
}  # fmt: skip


def _records(data: bytes, folder: Path) -> object:
    found = list(payload.records(data))
    assert joined(part for it in found for part in payload.pack_record(it.call, it.status, it.payload)) == data
    return len(found)


def _calls(data: bytes, folder: Path) -> object:
    found = list(payload.calls(data))
    assert joined(part for it in found for part in payload.pack_call(it.call, it.function, it.payload)) == data
    return len(found)


def _result_of(data: bytes, folder: Path) -> object:
    status = data[0] % 9 if data else payload.RAISED
    value, error = _pickling.result_of(payload.Record(1, status or payload.RAISED, data[1:]), "7", "0123456789ab")
    assert error is not None
    return value


def _batch_file(data: bytes, folder: Path) -> object:
    path = folder / "calls"
    path.write_bytes(data)
    file = payload.BatchFile(str(path))
    try:
        tasks, calls = file.size()
        found = [file.initializer(), file.function(0)]
        for number in {0, 1, tasks - 1, 1 << 31, 1 << 62}.intersection(range(tasks)):
            found += [file.call(call)[1] for call in list(file.task(number))[:100]]
        if calls:
            file.function(file.call(calls - 1)[0])
        return len(found)
    finally:
        file.close()


def _job_info(data: bytes, folder: Path) -> object:
    return _jobinfo.job_info(jsons.loads(data))


def _job_error(data: bytes, folder: Path) -> object:
    record = jsons.loads(data)
    if not isinstance(record, dict):
        raise ValueError("no record")
    return str(job_error(record))


_BATCHES = [
    joined(payload.pack_batch(b"init", [b"f0", b"f1"], [(0, b"a0"), (1, b"a1"), (0, b"")], [0, 1])),
    joined(payload.pack_batch(b"", [b"f"], [(0, b"argument" * 9)], [0])),
]
_DAMAGED = (payload.Damaged,)

PARSERS = (
    Parser("_remote.payload:records", _records, RECORDS, _DAMAGED, repeated=[HEAD], tokens=[HEAD, *LENGTHS]),
    Parser(
        "_remote.payload:heads",
        lambda data, folder: list(payload.heads(data)),
        RECORDS,
        _DAMAGED,
        repeated=[HEAD],
        tokens=[HEAD, *LENGTHS],
    ),
    Parser("_remote.payload:calls", _calls, CALLS, _DAMAGED, repeated=[bytes(24)], tokens=LENGTHS),
    Parser(
        "_remote.payload:numbers",
        lambda data, folder: payload.numbers(data),
        [payload.pack_numbers([1, 2**63]), b""],
        _DAMAGED,
    ),
    Parser(
        "_remote.payload:first_call",
        lambda data, folder: payload.first_call(data),
        [*RECORDS, *CALLS],
        _DAMAGED,
    ),
    Parser(
        "_remote.payload:unpack_error",
        lambda data, folder: payload.unpack_error(data),
        ERRORS,
        _DAMAGED,
        st.builds(_error, json_like([_WORDS]).map(json.loads)),
        tokens=LENGTHS,
    ),
    Parser(
        "_pickling:result_of",
        _result_of,
        [b"\1" + ERRORS[0], b"\3" + ERRORS[0], b"\5" + ERRORS[0]],
        (),
        st.builds(
            lambda status, value: bytes([status]) + _error(value),
            st.integers(1, 8),
            json_like([_WORDS]).map(json.loads),
        ),
    ),
    Parser(
        "_remote.payload:BatchFile",
        _batch_file,
        _BATCHES,
        _DAMAGED,
        tokens=[*LENGTHS, struct.pack(">I", 1 << 31), struct.pack(">I", (1 << 32) - 1), b"SFCALLS1"],
    ),
    Parser(
        "_remote.payload:unpack_results",
        lambda data, folder: payload.unpack_results(data),
        [checked(RECORDS[0]), checked(b"")],
        tokens=LENGTHS,
    ),
    Parser(
        "_remote.payload:unpack_results+records",
        lambda data, folder: list(payload.records(payload.unpack_results(data) or b"")),
        [checked(RECORDS[0])],
        _DAMAGED,
        inputs(RECORDS, LENGTHS).map(checked),
    ),
    Parser(
        "_jobinfo:job_info",
        _job_info,
        [as_json(_ENDED), as_json({"job_id": "7", "submitted": 0, "began": None, "ended": 1.0, "node": "n[1-4]"})],
        (ValueError,),
        json_like([_ENDED]),
    ),
    Parser("_errors:job_error", _job_error, [as_json(_ENDED), b"{}"], (ValueError,), json_like([_ENDED])),
)
