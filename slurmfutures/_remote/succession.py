"""Which agent serves a driver: one at a time, however many connections were lost.

An agent that takes over ends its predecessor, which may not know yet that its connection is dead, and waits until it
is gone: it may be in the middle of a submission. It is gone when it lets go of the lock; where the file system has
no locks, or the other one is on a login node that hangs, patience ends the wait. What is submitted twice then is
sorted out by the claims of the jobs.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from typing import Any, Dict, Optional, Sequence

from . import entries, ids, trust

_MARK = "slurmfutures:"  # what the mark of an agent begins with
POLL = 0.02  # seconds between two tries for the lock
PATIENCE = 45.0  # seconds; an agent that was told to end takes up to 30 for what must not be cut off


class Succession:
    """Owner of sessions/<session> and of the lock beside it, from `claim` to `leave`."""

    def __init__(self, work_dir: str, session: str, mark: str, code: str = "") -> None:
        """`mark` is a word in this process's command line, and in that of no other; `code` is where its source is.

        Raises ValueError for what is not the id of a session.
        """
        self._path = _path_of(work_dir, session)
        self.session = session
        self._mark = mark
        self._code = code
        self._lock: Optional[int] = None
        self._before = ""  # the machine of the predecessor
        self._process = 0, ""  # its number and mark, if it is on this machine

    def claim(self) -> bool:
        """Become the agent of the session; False where another one has still to go: then `wait` for that."""
        trust.make_folder(os.path.dirname(self._path))
        self._lock = self._open()
        free = self._try()
        self._see_predecessor(end=not free)
        self._write([])
        return free

    def _write(self, ships: Sequence[str]) -> None:
        named = {"host": os.uname().nodename, "pid": os.getpid(), "mark": self._mark, "code": self._code}
        words = json.dumps(dict(named, ships=ships)).encode()
        temporary = "%s.%d" % (self._path, os.getpid())
        try:
            with open(trust.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                file.write(words)
            os.rename(temporary, self._path)
        except OSError:  # no room: nobody will be able to end this one before its time
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def note_ships(self, ships: Sequence[str]) -> None:
        """Write down which versions of its own code the driver may use: nobody clears them away while it is here."""
        if self.is_ours():
            self._write(ships)

    def wait(self) -> None:
        """Return when the predecessor is gone, or has had time enough. For a thread of its own."""
        end = time.monotonic() + PATIENCE
        while not self._try():
            if time.monotonic() > end:
                self._tell_predecessor(signal.SIGKILL)
                break
            time.sleep(POLL)

    def is_ours(self) -> bool:
        """Whether no other agent has taken over, on whatever machine."""
        words = _read(self._path)
        return not words or words["mark"] == self._mark

    def leave(self, *, for_good: bool) -> None:
        """Let go; `for_good` if the driver said that it will not come back."""
        if for_good and self.is_ours():
            for path in (self._path, self._path + ".lock"):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        elif self.is_ours():
            with contextlib.suppress(OSError):
                os.utime(self._path)  # when the driver was last seen: it may come back, see `last_seen`
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> int:
        path = self._path + ".lock"
        try:
            return trust.open_file(path, os.O_RDWR | os.O_CREAT, closed=False)
        except trust.Untrusted:  # put here while others could: nobody of ours holds it
            os.unlink(path)
            return trust.open_file(path, os.O_RDWR | os.O_CREAT)

    def _try(self) -> bool:
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        if os.fstat(self._lock).st_nlink:
            return True
        os.close(self._lock)  # the predecessor left for good, and took the file along, after it was opened here
        self._lock = self._open()
        return self._try()

    def _see_predecessor(self, *, end: bool) -> None:
        """Note where the agent before this one was, and end it if asked."""
        words = _read(self._path)
        if not words:
            return  # there was none
        self._before = words["host"]
        if self._before == os.uname().nodename:
            self._process = words["pid"], words["mark"]
        if end:
            self._tell_predecessor(signal.SIGTERM)
            self._tell_predecessor(signal.SIGCONT)  # it may have been stopped

    def _tell_predecessor(self, number: int) -> None:
        """Send a signal to its process; on another machine it notices by itself that another agent took over."""
        process, mark = self._process
        if mark.startswith(_MARK) and mark in _command_line(str(process)):
            with contextlib.suppress(OSError):
                os.kill(process, number)

    def may_be_submitting(self, name: str) -> Optional[bool]:
        """Whether a command of the predecessor that submits a job of this name still runs.

        None if that cannot be seen. Only the user's own processes count.
        """
        if self._before != os.uname().nodename:
            return None
        return any(name in _command_line(process) for process in os.listdir("/proc") if process.isdigit())


def agent_of(work_dir: str, session: str) -> Dict[str, Any]:
    """Return what the agent that serves a session, or did last, wrote of itself; nothing where there is none."""
    return _read(_path_of(work_dir, session))


def is_live(work_dir: str, session: str) -> Optional[bool]:
    """Whether an agent serves the session, that is: its driver is connected; None if nobody can say.

    An agent that takes over in the very moment of the test waits a little longer for the lock: no more than that.
    """
    try:
        handle = trust.open_file(_path_of(work_dir, session) + ".lock", closed=False)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        agent = agent_of(work_dir, session)
        if agent.get("host") != os.uname().nodename:
            return None
        return bool(agent.get("mark")) and str(agent["mark"]) in _command_line(str(agent.get("pid")))
    finally:
        os.close(handle)
    return False


def last_seen(work_dir: str, session: str) -> float:
    """Return when an agent of the session has come or gone, in seconds since the epoch; 0 where there was none."""
    try:
        return os.lstat(_path_of(work_dir, session)).st_mtime
    except OSError:
        return 0.0


def _path_of(work_dir: str, session: str) -> str:
    """Return where a session's file is. Raises ValueError for what is not the id of a session."""
    return os.path.join(work_dir, "sessions", ids.session(session))


def _read(path: str) -> Dict[str, Any]:
    """Return what an agent wrote of itself; nothing where there is none, or not all of it."""
    try:
        words = entries.document(trust.read(path, entries.MOST_BYTES, closed=False))
        pid = ids.count(words.get("pid"), 1 << 31)
    except (OSError, ValueError):
        return {}
    whole = pid > 0 and all(isinstance(words.get(name), str) and words[name] for name in ("host", "mark"))
    return words if whole and isinstance(words.get("code", ""), str) else {}


def _command_line(process: str) -> str:
    """Return the words that one of the user's processes was started with; "" for those of other accounts."""
    try:
        # Another account can write our words into its own command line, and can have the reading of it hang.
        if not _is_ours(process):
            return ""
        with open("/proc/%s/cmdline" % process, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _is_ours(process: str) -> bool:
    """Whether a process belongs to the user. Raises OSError where there is none.

    Its folder in /proc is root's if it cannot be debugged, as with a command that the user may run but not read.
    """
    with open("/proc/%s/status" % process, "rb") as file:
        for line in file:
            if line.startswith(b"Uid:"):
                return int(line.split()[1]) == os.getuid()
    return False
