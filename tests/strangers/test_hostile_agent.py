"""What an agent sends that means no good: the executor ends with an AgentError, and holds no more than really came."""

import json
import shlex
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import AgentError, SlurmExecutor, _bootstrap
from slurmfutures._journal import Scan
from slurmfutures._remote import payload, wire
from tests import calls
from tests.strangers import hostile
from tests.waiting import DEADLINE


def message(head: Any, body: int = 0) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return wire.PREFIX.pack(wire.MESSAGE, len(text), body) + text


def event(op: str, **words: Any) -> bytes:
    return message({"op": op, "batch": "BATCH-OF-ITS", **words})


def results(body: bytes, length: int | None = None) -> bytes:
    return wire.PREFIX.pack(wire.RESULTS, 0, len(body) if length is None else length) + body


def record(call: int) -> bytes:
    return b"".join(map(bytes, payload.pack_record(call, payload.OK, b"x")))


ENDED = {
    "task": 0,
    "attempt": 0,
    "state": "FAILED",
    "exit_code": 1,
    "signal": None,
    "stderr": "",
    "node": "n",
    "reason": "",
    "job_id": "1",
    "cancelled_by": None,
    "started": True,
    "unseen": False,
    "where": "x",
    "earlier": True,
}
FRAMES = {
    "no frame": b"\xff" * 100,
    "a frame without end": results(b"", 1 << 63),
    "a head that is no mapping": message(b"[]"),
    "a deep head": message(b"[" * 100_000),
    "calls": wire.PREFIX.pack(wire.CALLS, 0, 8) + bytes(8),
    "results without a record": results(b"x"),
    "a reply without a number": message({"op": "reply"}),
    "a reply to a list": message({"op": "reply", "id": [1]}),
    "a reply to a truth": message({"op": "reply", "id": True}),
    "an unknown event": message({"op": "surprise"}),
    "a transfer that is none": message({"op": "get-data", "transfer": {}}),
    "a pool that is none": message({"op": "pool_note", "pool": []}),
    "a batch that is none": message({"op": "states", "batch": {}, "states": []}),
    "an event that is too large": message({"op": "pong"}, 1 << 30),
    "states that are none": event("states", states=7),
    "a state that is none": event("states", states=[["HUNGRY", [[0, 1]]]]),
    "a task that is none": event("states", states=[["RUNNING", [[5, 9]]]]),
    "tasks without end": event("states", states=[["PENDING", [[0, 10**29]]]]),
    "tasks below the first": event("states", states=[["RUNNING", [[-1, 0]]]]),
    "the end of a task below the first": event("ended", ended=[{**ENDED, "task": -1}]),
    "a job of tasks without end": event("part", job="7", tasks=[[0, 10**29]]),
    "a job that is none": event("part", job=7, tasks=[[0, 1]]),
    "a refusal of tasks without end": event("refused", message="", tasks=[[0, 10**29]]),
    "an error without words in the reply to a batch": message({"op": "reply", "id": 1, "error": "failed"}),
    "a reply to a batch with a job that is none": message({"op": "reply", "id": 1, "parts": [[7, [[0, 1]]]]}),
    "an end without words": event("ended", ended=[{}]),
    "the end of an earlier driver's task": event("ended", ended=[ENDED]),
    "results of nothing": event("results"),
    "a result of a call that is none": message({"op": "results", "batch": "BATCH-OF-ITS", "done": []}, len(record(999)))
    + record(999),
    "a call on the login node that is none": message({"op": "crashed", "calls": 1}),
}


GREETING: Any = {
    **dict.fromkeys(("scheduler", "exposed", "executable", "host"), ""),
    **dict.fromkeys(("work_dir", "cwd", "home"), "/"),
    "spool": "0123456789ab",
    "now": 0.0,
    "free": 0,
    "python": [3, 11, 7],
}


def executor(folder: Path, frames: bytes, checkpoint: Path | None = None) -> SlurmExecutor:
    (folder / "frames").write_bytes(frames)
    words = [sys.executable, hostile.__file__, str(folder / "frames")]
    python = shlex.join(words)
    return SlurmExecutor(scheduler="local", work_dir=folder / "work", python=python, checkpoint=checkpoint)


@pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES)
def test_what_cannot_be_understood_costs_the_connection(tmp_path: Path, frames: bytes) -> None:
    with executor(tmp_path, frames) as ex:
        error = ex.submit(calls.square, 3).exception(DEADLINE)
    assert isinstance(error, AgentError)
    assert "cannot be understood" in str(error)


GETTING = message({"op": "reply", "id": 1, "folder": False, "size": 1, "entries": 1})
DATA = {"op": "get-data", "transfer": "BATCH-OF-ITS"}
TRANSFERS = {
    "nothing of what belongs to it": message({"op": "reply", "id": 1}),
    "an error without words": message({"op": "reply", "id": 1, "error": "os"}),
    "more frames than may be on their way": GETTING + (message(DATA, 1) + b"x") * 200 + b"\xff" * 100,
    "a frame without data": GETTING + message(DATA),
    "a frame that is none of a transfer": GETTING + message({**DATA, "op": "x" * 1000}),
    "no frame": GETTING + b"\xff" * 100,
}


@pytest.mark.parametrize("frames", TRANSFERS.values(), ids=TRANSFERS)
def test_a_transfer_that_cannot_be_understood_fails(tmp_path: Path, frames: bytes) -> None:
    with executor(tmp_path, frames) as ex, pytest.raises(AgentError, match="cannot be understood"):
        ex.get("x", tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []


@pytest.mark.parametrize("job", [7, [], "\x1b[2J"])
def test_a_job_that_is_none_does_not_spoil_a_checkpoint(tmp_path: Path, job: Any) -> None:
    checkpoint = tmp_path / "checkpoint"
    with executor(tmp_path, event("part", job=job, tasks=[[0, 1]]), checkpoint) as ex:
        assert isinstance(ex.submit(calls.square, 3).exception(DEADLINE), AgentError)
    assert Scan(str(checkpoint)).problem is None


def test_a_reply_that_nothing_waits_for_is_not_kept(tmp_path: Path) -> None:
    size = 64 << 20
    frames = message({"op": "reply", "id": 10_000}, size) + bytes(size) + message(b"[]")
    tracemalloc.start()
    try:
        with executor(tmp_path, frames) as ex:
            assert isinstance(ex.submit(calls.square, 3).exception(DEADLINE), AgentError)
        assert tracemalloc.get_traced_memory()[1] < size / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [[], [3], ["3", "11"], [3, None]])
def test_a_version_of_python_that_is_none_is_no_greeting(version: Any) -> None:
    assert _bootstrap._is_greeting(GREETING)
    assert not _bootstrap._is_greeting({**GREETING, "python": version})


@pytest.mark.parametrize("word", ["work_dir", "cwd", "home"])
@pytest.mark.parametrize("path", ["", "/a\0b", "/" * (1 << 17), "/\ud800", None, ["/"]])
def test_a_folder_that_is_none_is_no_greeting(word: str, path: Any) -> None:
    assert not _bootstrap._is_greeting({**GREETING, word: path})


def test_relative_folders_are_no_greeting() -> None:
    assert not _bootstrap._is_greeting({**GREETING, "work_dir": "w"})
    assert not _bootstrap._is_greeting({**GREETING, "cwd": "w"})
    assert _bootstrap._is_greeting({**GREETING, "home": "~"})


@pytest.mark.parametrize("name", ["0123", "0123456789AB", "/etc", "0123456789ab\n", 1, None])
def test_a_name_of_work_dir_that_is_none_is_no_greeting(name: Any) -> None:
    assert _bootstrap._is_greeting({**GREETING, "spool": ""})
    assert not _bootstrap._is_greeting({**GREETING, "spool": name})


@pytest.mark.parametrize("word", ["now", "free"])
def test_numbers_without_bound_are_no_greeting(word: str) -> None:
    for number in (float("inf"), -float("inf"), 10**400):
        assert not _bootstrap._is_greeting({**GREETING, word: number})
