"""A stream of bytes through files of a folder, for where there is no way by the network.

    <box>/knock         there until an agent has claimed the box, by renaming it
    <box>/up, <box>/down
        <number>-<size>  the next bytes; written under another name, and renamed
        <number>-0       the end

Each side lists the folder that the other one writes to, takes its files in their order, and removes them. The size in
the name tells a file that is not wholly to be seen yet. A number may show before the one in front of it, where folders
are cached; and a file that a first try has written after all may be written again: numbers tell.
"""

import contextlib
import os
import re
import shutil
import time
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple

from . import trust, wire
from .stream import Lost

FILE = 4 << 20  # bytes in a file at most
QUICK, SLOW = 0.01, 0.5  # seconds between two looks: while there is traffic, and when there has been none for long
_FADES = 0.1  # of the time since the last traffic: that long until the next look
_AT_ONCE = 16 << 20  # bytes that are taken in before others have their turn
_MOST_UNREAD = 64  # files that the other side has not taken yet
_RETRY = 0.5  # seconds until a file that could not be written is tried again
_GAP = 300.0  # seconds for which a missing file is waited for
_FEW = 8  # buffers that are written one by one
_NAME = re.compile("(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,17})", re.ASCII)
_KNOCK, _TAKEN = "knock", "taken"
_CALLER, _ACCEPTOR = "up", "down"


def interval(quiet: float) -> float:
    """Return the seconds until the next look, where there has been no traffic for `quiet` seconds."""
    return min(SLOW, max(QUICK, _FADES * quiet))


class Box:
    """One side of a box; a `stream.Stream` whose owner calls `poll`. In one thread at a time."""

    via = "files"

    def __init__(self, path: str, *, reads: str, writes: str, ring: Callable[[], None]) -> None:
        """`ring()` is called when `poll` should be called soon, whatever it has said; not from within `poll`."""
        self.path = path
        self.due = 0.0  # when `poll` wants to be called
        self.trouble = ""  # why a file cannot be written at present
        self.unsent = 0
        self.ring = ring
        self._reads = os.path.join(path, reads)
        self._writes = os.path.join(path, writes)
        self._readable: Callable[[], None] = lambda: None
        self._open = True
        self._polling = False
        self._lost = ""
        self._active = time.monotonic()
        # Outgoing.
        self._waiting: Deque[memoryview] = deque()
        self._file: List[memoryview] = []  # the content of the next file once that was tried
        self._written = 0
        self._unread: Dict[str, int] = {}
        self._retry = 0.0
        # Incoming.
        self._data: wire.Buffer = b""
        self._taken = 0
        self._gap: Optional[float] = None

    # ---- the stream

    def follow(self, readable: Callable[[], None]) -> None:
        self._readable = readable

    def receive(self) -> wire.Buffer:
        data, self._data = self._data, b""
        if not data and self._lost:
            raise Lost(self._lost)
        return data

    def send(self, buffers: Sequence[wire.Buffer]) -> None:
        if not self._open:
            return
        idle = not self.unsent
        for buffer in buffers:
            self._waiting.append(memoryview(buffer))
            self.unsent += len(buffer)
        if idle and self.unsent:
            self.due = 0.0
            if not self._polling:
                self.ring()

    def close(self) -> None:
        """Write what there is and the end, if that can be; remove the box if it is of no use to the other side."""
        if not self._open:
            return
        self._open = False
        self._readable = lambda: None
        if self._lost:
            self.remove()
            return
        try:
            while self._next_file():
                self._write_file()
            self._publish(self._name(0), [])
        except OSError:
            self.remove()
        self._waiting.clear()
        self._file = []
        self.unsent = 0

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def fail(self, why: str) -> None:
        """Have it end as if the other side had."""
        self._lost = self._lost or why
        self._readable()

    # ---- its turn

    def poll(self, now: float) -> float:
        """Write and read what there is; return when this is to be called again."""
        if not self._open:
            return self.due
        self._polling = True
        read = 0
        while self._open and read < _AT_ONCE and (self._data or self._look(now)):
            self._active = now
            size = len(self._data)
            self._readable()
            if self._data:
                break  # nobody wants it at present
            read += size
        if self._open and self._write(now):
            self._active = now
        if self._open and self._lost:
            self._readable()
        self._polling = False
        self.due = now + interval(now - self._active) if read < _AT_ONCE else now
        return self.due

    # ---- outgoing

    def _write(self, now: float) -> bool:
        """Write as many files as may be; return whether there was one."""
        if now < self._retry:
            return False
        before = self._written
        try:
            while self._next_file() and self._room():
                self._write_file()
                self.trouble = ""
        except OSError as error:
            if not os.path.isdir(self.path):
                self._end("the box is not there any more")
            else:
                self.trouble = error.strerror or str(error)
                self._retry = now + _RETRY
        return self._written > before

    def _room(self) -> bool:
        """Whether the other side has taken enough for another file to be written."""
        if len(self._unread) >= _MOST_UNREAD:
            there = set(os.listdir(self._writes))
            self._unread = {name: number for name, number in self._unread.items() if name in there}
        return len(self._unread) < _MOST_UNREAD

    def _next_file(self) -> bool:
        """Settle what the next file holds: it may have to be written twice, and must then be the same."""
        size = 0
        if not self._file:
            while self._waiting and size < FILE:
                first = self._waiting.popleft()
                part = first[: FILE - size]
                if len(part) < len(first):
                    self._waiting.appendleft(first[len(part) :])
                self._file.append(part)
                size += len(part)
            if len(self._file) > _FEW:
                self._file = [memoryview(b"".join(self._file))]
        return bool(self._file)

    def _write_file(self) -> None:
        size = sum(map(len, self._file))
        name = self._name(size)
        self._publish(name, self._file)
        self._unread[name] = self._written
        self._written += 1
        self._file = []
        self.unsent -= size

    def _name(self, size: int) -> str:
        return "%d-%d" % (self._written, size)

    def _publish(self, name: str, buffers: Sequence[memoryview]) -> None:
        """Write a file and give it its name. Raises OSError, leaving nothing."""
        temporary = os.path.join(self._writes, "." + name)
        try:
            handle = trust.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                for buffer in buffers:
                    left = buffer
                    while left:
                        left = left[os.write(handle, left) :]
            finally:
                os.close(handle)  # here some file systems say that there is no room
            os.rename(temporary, os.path.join(self._writes, name))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    # ---- incoming

    def _look(self, now: float) -> bool:
        """See whether there is something to be received; note the end."""
        if self._lost:
            return False
        try:
            names = os.listdir(self._reads)
        except OSError as error:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)) or not os.path.isdir(self.path):
                self._end("the box is not there any more")
            return False
        found = sorted(filter(None, map(_parse, names)))
        while found and found[0][0] < self._taken:
            self._drop(found.pop(0))
        if not found:
            self._gap = None
            return False
        number, size = found[0]
        if size > FILE:
            self._end("the other side wrote a file of %d bytes" % size)
        elif number == self._taken and size == 0:
            self._end("the other side closed the box")
        elif number == self._taken and self._read(found[0]):
            self._gap = None
            return True
        elif self._gap is None:
            self._gap = now
        elif now > self._gap + _GAP:
            self._end("file %d is missing in %s" % (self._taken, self._reads))
        return False

    def _read(self, file: Tuple[int, int]) -> bool:
        """Take the next file, if all of it is to be seen."""
        number, size = file
        try:
            data = trust.read(os.path.join(self._reads, "%d-%d" % file), size + 1)
        except trust.Untrusted as error:
            self._end(str(error))
            return False
        except OSError:
            return False
        if len(data) != size:
            return False
        self._data = data
        self._taken = number + 1
        self._drop(file)
        return True

    def _drop(self, file: Tuple[int, int]) -> None:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._reads, "%d-%d" % file))

    def _end(self, why: str) -> None:
        self._lost = self._lost or why


def _parse(name: str) -> Optional[Tuple[int, int]]:
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match is not None else None


def make(folder: str, name: str, ring: Callable[[], None]) -> Box:
    """Make a box, for an agent to claim. Raises OSError."""
    trust.make_folder(folder)
    temporary = os.path.join(folder, "." + name)
    try:
        for path in (temporary, os.path.join(temporary, _CALLER), os.path.join(temporary, _ACCEPTOR)):
            os.mkdir(path, 0o700)
        os.close(os.open(os.path.join(temporary, _KNOCK), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.rename(temporary, os.path.join(folder, name))
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Box(os.path.join(folder, name), reads=_ACCEPTOR, writes=_CALLER, ring=ring)


def claim(folder: str, name: str, ring: Callable[[], None]) -> Optional[Box]:
    """Return the agent's side of a box if it can be had: nobody else has it then."""
    path = os.path.join(folder, name)
    try:
        for each in (folder, path, os.path.join(path, _CALLER), os.path.join(path, _ACCEPTOR)):
            trust.check_folder(each)
        os.rename(os.path.join(path, _KNOCK), os.path.join(path, _TAKEN))
    except OSError:
        return None
    return Box(path, reads=_CALLER, writes=_ACCEPTOR, ring=ring)


def names(folder: str) -> Set[str]:
    """Return the names of boxes; nothing where there is no folder, or it cannot be seen."""
    try:
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    except OSError:
        return set()


def clear(folder: str, name: str, age: float) -> None:
    """Remove a box that nobody has used for `age` seconds, by the file system's own clock."""
    path = os.path.join(folder, name)
    try:
        trust.check_folder(path)
        last = max(os.lstat(os.path.join(path, side)).st_mtime for side in (_CALLER, _ACCEPTOR))
        os.utime(path)
        old = os.stat(path).st_mtime > last + age
    except OSError:
        return
    if old:
        shutil.rmtree(path, ignore_errors=True)
