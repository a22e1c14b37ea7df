"""What lies in work_dir: batches, their parts, claims, results and ends."""

import os
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from slurmfutures._remote import batch, job, spool, survey, watch
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, json_like
from tests.fuzz.subjects.payloads import RECORDS, checked

BATCH = "0123456789ab"
_SPEC: Any = {
    "batch": BATCH, "session": "ba9876543210", "name": "f", "options": ["--mem=4G"], "tasks": 3, "skip": [1],
    "scheduler": "slurm", "chdir": "/w", "comment": "", "throttle": None,
}  # fmt: skip
_SCRIPT: Any = {**_SPEC, "script": {"cwd": None, "array": "0-4:2%1", "indices": "0-4:2", "output": "", "error": ""}}
_PILOT: Any = {**_SPEC, "pilot": {"folder": "/w/pilots/ba9876543210/000007", "workers": 2, "idle": 60.0}}
_INTENT: Any = {"part": 0, "tasks": [[0, 1], [2, 3]], "name": f"f.sf-{BATCH}.0", "time": 1e9, "throttle": None}
_RETRY: Any = {"task": 0, "attempt": 1, "exclude": ["n1"], "done": [[0, 2]]}
_ENTRIES: list[Any] = [
    _INTENT,
    {"part": 0, "job": "7"},
    {"retries": [_RETRY]},
    {**_INTENT, "part": 1, "name": f"f.sf-{BATCH}.1", "tasks": [[0, 1]], "attempt": 1, "exclude": ["n1"]},
    {"part": 1, "void": True},
]


def _name(data: bytes, folder: Path) -> object:
    text = os.fsdecode(data)
    name = spool.parse_name(text)
    if name is not None:  # there is no other way to write it
        numbers = {2: (name.task,), 3: (name.task, name.run)}.get(text.count(".") + 1, ())
        assert not numbers or ".".join((*map(str, numbers), name.kind)) == text
    return name


def _end(data: bytes, folder: Path) -> object:
    end = watch.parse_end(data, 0)
    assert end is None or abs(end.exit_code) < 1 << 32
    return end


def _batch(folder: Path, spec: bytes, entries: bytes) -> Path:
    path = folder / "batches" / BATCH
    if not path.exists():
        for name in ("r", "l", "w"):
            (path / "0" / name).mkdir(mode=0o700, parents=True)
    (path / "batch.json").write_bytes(spec)
    (path / "parts.jsonl").write_bytes(entries)
    return path


class _Scheduler:
    """One with an empty queue."""

    keeps_jobs = True

    def queue(self) -> list[Any]:
        return []

    def why(self, jobs: Any) -> dict[Any, Any]:
        return {}


def _look(folder: Path) -> object:
    scheduler: Any = type(
        "Scheduler", (), {"keeps_jobs": True, "queue": lambda self: [], "why": lambda self, jobs: {}}
    )()
    found = survey.survey(str(folder), scheduler, "")
    survey.find(str(folder), "7_0")
    survey.find(str(folder), f"{BATCH}:0")
    return found["batches"]


def _spec(data: bytes, folder: Path) -> object:
    _batch(folder, data, b"\n".join(map(as_json, _ENTRIES[:2])))
    return _look(folder)


def _parts(data: bytes, folder: Path) -> object:
    _batch(folder, as_json(_SPEC), data)
    return _look(folder)


def _claim(data: bytes, folder: Path) -> object:
    path = folder / "part"
    (path / "r").mkdir(parents=True, exist_ok=True)
    (path / "r" / "0.c").write_bytes(data)
    owner = spool.Part(str(path)).owner(0)
    assert owner == "" or (owner.isascii() and owner.isdigit() and len(owner) < 20)
    return owner


def _owner(data: bytes, folder: Path) -> object:
    path = _batch(folder, as_json(_SPEC), b"")
    (path / "session").write_bytes(data)
    return spool.Batch(str(folder), BATCH).owner(_SPEC)


def _result(data: bytes, folder: Path) -> object:
    path = folder / "0.r"
    path.write_bytes(data)
    source = spool.ResultSource(str(path), lambda good: None)
    left, found = len(source), 0
    try:
        while found < left:
            found += len(source.read(1000))
    finally:
        source.over(good=False)
    return found


def _share(data: bytes, folder: Path) -> object:
    (folder / "map").write_bytes(data)
    task, done = job.share(0, "map", str(folder))
    return task, len(done)


def _done(data: bytes, folder: Path) -> object:
    (folder / "0.0.1.p").write_bytes(data)
    return job._already_published(str(folder), 0)


def _logs(data: bytes, folder: Path) -> object:
    """Collect logs of which one has a strange name."""
    path = folder / "batches" / BATCH
    shutil.rmtree(path, ignore_errors=True)
    _batch(folder, as_json(_SPEC), b"\n".join(map(as_json, _ENTRIES[:2])))
    name = data.replace(b"/", b"").replace(b"\0", b"")[:200]
    if name not in (b"", b".", b".."):
        with open(os.path.join(os.fsencode(path), b"0", b"l", name), "wb") as file:
            file.write(b"printed")
    found = survey.read(str(folder), BATCH)
    assert found is not None
    return batch.collect_logs(found)


_DAMAGED = (ValueError,)
_DONE = [b":0-4000000000", b":0-9", b"7 ", b":"]

PARSERS = (
    Parser("_remote.spool:parse_name", _name, [b"7.c", b"7.r", b"7.0.x", b"7.0.1.p"], tokens=[b".", b".r", b"7"]),
    Parser(
        "_remote.watch:parse_end",
        _end,
        [b"7_0 0 1 n1 1000000000.5 1000000001 n[1-2]\n", b"7 0 137\n"],
        tokens=[b" "],
    ),
    Parser(
        "_remote.survey:survey (batch.json)",
        _spec,
        [as_json(_SPEC), as_json(_PILOT), as_json(_SCRIPT)],
        (),
        json_like([_SPEC, _PILOT, _SCRIPT]),
    ),
    Parser(
        "_remote.survey:survey (parts.jsonl)",
        _parts,
        [b"\n".join(map(as_json, _ENTRIES)), b""],
        (),
        st.lists(json_like(_ENTRIES), max_size=6).map(b"\n".join),
        repeated=[as_json(entry) + b"\n" for entry in _ENTRIES],
    ),
    Parser("_remote.spool:Part.owner", _claim, [b"7 0 n1\n", b"7\n"], repeated=[b"7"]),
    Parser("_remote.spool:Batch.owner", _owner, [b"ba9876543210"], repeated=[b"a"]),
    Parser("_remote.spool:ResultSource", _result, [checked(RECORDS[0]), checked(b"")], _DAMAGED),
    Parser(
        "_remote.job:share",
        _share,
        [b"7\n", b"7:40-42:45-46\n8\n"],
        _DAMAGED,
        repeated=[b":0-9", b"7 "],
        tokens=[b":0-4000000000", b":0-1000000", b":"],
        memory=128 << 20,  # for MOST_DONE calls
    ),
    Parser("_remote.job:_already_published", _done, [checked(RECORDS[0])], (), st.just(checked(RECORDS[0][:-1]))),
    Parser("_remote.batch:collect_logs", _logs, [b"0.out", b"1.err"], tokens=[b".out", b"."]),
)
