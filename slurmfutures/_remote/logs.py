"""What jobs have printed: files that may be anywhere, of any size, and not theirs.

The output of a user's own script is where a link leads that the job made on a compute node. On this machine there may
be something else of that name. So only a regular file of the user's is read, and never more than a range at once.

    log {batch, task, stream, part?, worker?, offset, tail, size, same}    reply: {part, size, offset, same} and bytes

An `offset` of None is so far from the end as `tail` says. `same` is the file that an earlier range was of. In place of
all that, {refused} says why a file is not read.
"""

import errno
import fcntl
import os
import stat
from typing import IO, Any, Dict, Mapping, Optional, Tuple

from . import places, trust

LIMIT = 4 << 20  # bytes of a log, from its end, that are read unless more is asked for
RANGE = 1 << 20  # bytes that are read at once
_NOTHING = "/dev/null"


def open_log(path: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a job's log. Raises Untrusted for what is no file of the user's, OSError."""
    place = places.resolve(path)
    if place == _NOTHING:
        raise OSError(errno.ENOENT, "the output was thrown away", path)
    _check(place, os.lstat(place))  # a device may do something when it is opened
    handle = os.open(place, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(place, os.fstat(handle))
    except OSError:
        os.close(handle)
        raise
    return handle


def _check(path: str, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
        why = "it is %s on %s, not a file of yours, so it is not read as a job's output: name another file by --output"
        raise trust.Untrusted(path, why % (trust.describe(about), os.uname().nodename))


def held_log(path: str) -> Optional[IO[bytes]]:
    """Return an embedded job's log, opened, if a process of that job lives.

    A file system that has no locks says that none does. On NFS a lock is its process's own, and went with the agent.
    """
    try:
        file = open(open_log(path, os.O_RDWR), "r+b", 0)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return file
    except OSError:
        pass
    file.close()
    return None


def tail(path: str, limit: int) -> Tuple[int, bytes]:
    """Return the last `limit` bytes of a log, behind how many there are before them; nothing where it is not read."""
    try:
        handle = open_log(path)
        try:
            start = max(0, os.fstat(handle).st_size - limit)
            return start, os.pread(handle, limit, start)
        finally:
            os.close(handle)
    except OSError:
        return 0, b""


def note(before: int, why: str) -> str:
    """Return what stands at the start of a text that is the end of a log, nothing where it is all of it."""
    return "[slurmfutures: the first %d bytes are left out: %s]\n" % (before, why) if before else ""


def whole(before: int, data: bytes) -> bytes:
    """Return the end of a log without what the cut has left of a character of UTF-8."""
    start = 0
    while before and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]


def read(path: str, head: Mapping[str, Any]) -> Tuple[Dict[str, Any], bytes]:
    """Return words and body of the reply to a request."""
    nothing = {"size": 0, "offset": 0, "same": None}
    try:
        handle = open_log(path)
    except trust.Untrusted as error:
        return dict(nothing, refused="%s: %s" % (error.filename, error.strerror)), b""
    except OSError:
        return nothing, b""
    try:
        about = os.fstat(handle)
        same = [about.st_dev, about.st_ino]
        offset = max(0, about.st_size - head["tail"]) if head["offset"] is None else head["offset"]
        size = min(head["size"], RANGE) if head["same"] in (None, same) else 0
        return {"size": about.st_size, "offset": offset, "same": same}, os.pread(handle, size, offset)
    except OSError:
        return nothing, b""
    finally:
        os.close(handle)
