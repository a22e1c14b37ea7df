"""What a pool has in work_dir/pilots/<session>/<pool>/, for whoever serves it next.

key        the secret of its pilots and agents, see `seal`
agent      where the present agent listens, see `door`
box/       frames of pilots that cannot reach it, see `box`
ledger     a line of JSON for each batch of jobs, before it is submitted, and for each pilot that has come
handed     a number that no call that was ever handed out exceeds, and the boot of the machine that wrote it
last/      what a pilot could not hand over before its job's end, by its name

Each folder on the way to a pool's is checked before it is used, and each file when it is opened, see `trust`.

The next agent of the session takes all of it up. When the client closes the pool it is removed, with the last of its
jobs; what a client has left that does not come again is for `clean`.
"""

import contextlib
import io
import json
import os
import re
import shutil
import struct
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Set

from . import payload, publish, trust
from .wire import Buffer

BEHIND = 1 << 30  # calls, at most, by which what a machine that went down has left on disk may be behind
POOLS = "pilots"  # the folder in work_dir
_PILOT = re.compile(r"([^./\0]+)\.([0-9]{1,9})\.([0-9]{1,9})", re.ASCII)
_NUMBER = struct.Struct(">Q")
_HIGHEST = (1 << 64) - 1
_ENTRIES = {"batch": ("tasks",), "came": ("task", "run"), "settled": ("task", "run"), "over": ()}  # and their numbers


def name_of(pool: int) -> str:
    return "%06x" % pool


def folder(work_dir: str, session: str, pool: int) -> str:
    return os.path.join(work_dir, POOLS, session, name_of(pool))


def make(path: str) -> None:
    """Make a pool's folder and those between it and work_dir, or check those that are there. Raises OSError."""
    for folder in _levels(path):
        _make(folder)


def check(path: str) -> None:
    """Check a pool's folder and those between it and work_dir. Raises OSError, trust.Untrusted among others."""
    for folder in _levels(path):
        trust.check_folder(folder)


def _levels(path: str) -> List[str]:
    session = os.path.dirname(path)
    return [os.path.dirname(session), session, path]


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        about = trust.check_folder(path, closed=False)
        if not trust.is_closed(about):  # earlier versions left it open to the group where the umask does
            if len(trust.entries(path)) != len(os.listdir(path)):
                trust.check_folder(path)  # raises
            os.chmod(path, 0o700)


def finished(work_dir: str, session: str) -> List[int]:
    """Return the numbers of the calls whose results pilots of a session have left, sorted."""
    found: Set[int] = set()
    path = os.path.join(work_dir, POOLS, session)
    for pool in _names(path):
        files = PoolFiles(os.path.join(path, pool))
        for pilot in files.pilots():
            records = payload.records(files.left(pilot) or b"")
            found.update(record.call for record in records if record.status != payload.CRASHED)
    return sorted(found)


def _names(path: str) -> List[str]:
    try:
        return [name for name, _ in trust.entries(path) if not name.startswith(".")]
    except OSError:
        return []


class Pilot(NamedTuple):
    """What a pilot's name says."""

    batch: str
    task: int
    run: int


def pilot_name(batch: str, task: int, run: int) -> str:
    return "%s.%d.%d" % (batch, task, run)


def parse_pilot(name: Any) -> Optional[Pilot]:
    """Return what `pilot_name` was given, None where `name` is not of its making."""
    match = _PILOT.fullmatch(name) if isinstance(name, str) else None
    return Pilot(match[1], int(match[2]), int(match[3])) if match is not None else None


class PoolFiles:
    def __init__(self, path: str) -> None:
        self.path = path
        self._last = os.path.join(path, "last")
        self._ledger = os.path.join(path, "ledger")
        self._handle: Optional[int] = None
        self._handed = 0

    def create(self) -> None:
        """Make the folder, or take over what is there. Raises OSError."""
        make(self.path)
        _make(self._last)
        self._handle = trust.open_file(os.path.join(self.path, "handed"), os.O_RDWR | os.O_CREAT)
        data = os.pread(self._handle, 100, 0)
        boot = _boot()
        if len(data) >= _NUMBER.size:
            self._handed = _NUMBER.unpack_from(data)[0]
            if not data[_NUMBER.size :] == boot != b"":
                self._handed = min(self._handed + BEHIND, _HIGHEST)
        os.pwrite(self._handle, _NUMBER.pack(self._handed) + boot, 0)

    def remove(self) -> None:
        """Remove the folder, and that of its session if there is nothing else in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self.path))

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    # ---- which calls may have been handed out

    @property
    def handed(self) -> int:
        return self._handed

    def hand(self, call: int) -> None:
        """Note that this call is about to be handed out. Not fsynced: it is seen by the next agent of this boot."""
        if call > self._handed and self._handle is not None:
            self._handed = call
            with contextlib.suppress(OSError):
                os.pwrite(self._handle, _NUMBER.pack(call), 0)

    # ---- the ledger

    def record(self, entry: Any, *, sync: bool = False) -> None:
        """Append an entry. Raises OSError."""
        handle = trust.open_file(self._ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(handle, b"\n" + json.dumps(entry).encode() + b"\n")  # not behind a torn line
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)

    def entries(self) -> Iterator[Any]:
        """Yield the entries; a torn line is left out. Raises OSError where the ledger cannot be used."""
        try:
            file = io.BufferedReader(trust.open_reader(self._ledger))  # type: ignore[type-var]
        except FileNotFoundError:
            return
        with file:
            for line in file:
                with contextlib.suppress(ValueError, RecursionError):
                    entry = json.loads(line.decode())
                    if _is_entry(entry):
                        yield entry

    def batches(self) -> Set[str]:
        """Return the batches whose jobs may not be over."""
        found: Set[str] = set()
        for entry in self.entries():
            if "batch" in entry:
                found.add(entry["batch"])
            elif "over" in entry:
                found.discard(entry["over"])
        return found

    # ---- last words

    def leave(self, pilot: str, records: Sequence[Buffer]) -> None:
        """Write down the records that a pilot has left. Raises OSError."""
        check(self.path)
        trust.check_folder(self._last)
        publish.publish(self._last, pilot, payload.pack_results(records))

    def pilots(self) -> List[str]:
        """Return the names of the pilots that have left something."""
        return _names(self._last)

    def clear(self, batch: str) -> None:
        """Remove what pilots of a batch have left: the client has all of it."""
        for pilot in self.pilots():
            if pilot.partition(".")[0] == batch:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self._last, pilot))

    def left(self, pilot: str) -> Optional[Buffer]:
        """Return the records that a pilot has left, None where there are none, or where they are damaged."""
        try:
            with trust.open_reader(os.path.join(self._last, pilot)) as file:
                data = payload.unpack_results(file.read())
            for _ in payload.heads(data or b""):
                pass  # none is damaged
        except (OSError, payload.Damaged):
            return None
        return data


def _is_entry(entry: Any) -> bool:
    """Whether a line of the ledger is one that `record` is given."""
    fields = entry if isinstance(entry, dict) else {}
    names = [name for name in _ENTRIES if isinstance(fields.get(name), str)]
    return len(names) == 1 and all(type(fields.get(name)) is int for name in _ENTRIES[names[0]])


def _boot() -> bytes:
    """Return what names this machine since it was started; nothing where nobody knows."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip()
    except OSError:
        return b""
