"""Clearing away what drivers have left in work_dir: batches, and what belongs to agents that are no more.

Only what is known to be nobody's goes: no connected driver has it, no job in the queue, and for long enough nothing of
it was used. Files that are not ours stay. For a thread of its own.
"""

import os
import re
import shutil
import stat
import time
from typing import Any, Dict, Iterator, List, Set, Tuple

from . import ids, pool_files, spool, succession, survey, trust
from .scheduler import Scheduler

_CODE = re.compile(rb"/code/([0-9a-f]+)")
_CODE_NAME = re.compile(r"[0-9a-f]{20}(\.[0-9a-f]+)?")
_SHIP = re.compile(rb"/ship/([0-9a-f]{20})")
_SHIP_NAME = re.compile(r"[0-9a-f]{20}(\..+)?")
_LOGIN_NAME = re.compile(r".+\.[0-9]+")  # a host, and a process there
_LONGEST_SCRIPT = 4 << 20  # bytes


class Clean:
    """One time of clearing away. What is younger than `age` seconds stays; with `dry` all does."""

    def __init__(self, work_dir: str, scheduler: Scheduler, own: str, code: str, age: float, *, dry: bool) -> None:
        """`own` and `code` are the session and the source of the agent that does it."""
        self._work_dir = work_dir
        self._scheduler = scheduler
        self._own = own
        self._code = code
        self._age = age
        self._dry = dry
        self._now = time.time()
        self._removed: List[Dict[str, Any]] = []
        self._kept: List[Dict[str, Any]] = []

    def run(self) -> Dict[str, Any]:
        """Clear away; return what has gone, what has stayed and why, in words for JSON."""
        seen, unreadable, asked = survey.look(self._work_dir, self._scheduler, self._own)
        left: Set[str] = set(unreadable)  # names of batches
        sessions: Set[str] = set()  # that what stays refers to
        meetings: Set[str] = set()  # folders of pools that have jobs
        for one in seen:
            if not self._batch(one, asked):
                left.add(one.batch.id)
                sessions.add(one.session)
                meetings.add(one.batch.meeting)
        live = self._live()
        for name in unreadable:
            if self._torn(name, live):
                left.discard(name)
        sessions |= self._pilots(meetings, left)
        self._sessions(sessions)
        self._sources(left, live)
        self._ships(left, live)
        self._logins(live)
        return {
            "host": os.uname().nodename,
            "work_dir": self._work_dir,
            "now": self._now,
            "queue": asked,
            "dry": self._dry,
            "removed": self._removed,
            "kept": self._kept,
            "freed": sum(one["bytes"] for one in self._removed),
        }

    def _batch(self, seen: survey.Seen, asked: Any) -> bool:
        """Remove a batch if it may go; return whether it has gone, or would have."""
        used = max(seen.active, succession.last_seen(self._work_dir, seen.session) if seen.session else 0.0)
        if os.path.isdir(seen.batch.meeting):
            used = max(used, _newest(seen.batch.meeting))
        why = ""
        if seen.live:
            why = "its driver is connected"
        elif seen.live is None:
            why = "nobody can say whether its driver is connected"
        elif seen.queued:
            why = "it has jobs in the queue"
        elif not seen.asked and not seen.over:
            why = "the queue cannot be asked" if asked is False else "its jobs are another scheduler's"
        elif not self._is_old(used):
            why = "it was used lately"
        elif not self._dry and survey.Sessions(self._work_dir, self._own).is_live(seen.session) is not False:
            why = "its driver has come back"
        return self._remove("batch", seen.batch.id, [seen.batch.folder.path], used, why)

    def _torn(self, name: str, live: Dict[str, Any]) -> bool:
        """Remove a folder that holds no whole batch, but not while one may be being written."""
        path = os.path.join(self._work_dir, "batches", name)
        used = _newest(path)
        why = "it is not whole, and a driver is connected" if live else ""
        if not why and not self._is_old(used):
            why = "it is not whole, but was used lately"
        return self._remove("batch", name, [path], used, why)

    def _pilots(self, meetings: Set[str], left: Set[str]) -> Set[str]:
        """Remove what pools of drivers that have gone have left, but not while a job of them may need it.

        Returns the sessions whose pools stay.
        """
        kept: Set[str] = set()
        sessions = survey.Sessions(self._work_dir, self._own)
        for session in filter(ids.is_session, self._folders(pool_files.POOLS)):
            path = os.path.join(self._work_dir, pool_files.POOLS, session)
            used = max(_newest(path), succession.last_seen(self._work_dir, session))
            names = filter(ids.is_pool, self._folders(os.path.join(pool_files.POOLS, session)))
            pools = [os.path.join(path, name) for name in names]
            live = sessions.is_live(session)
            why = next(filter(None, (_held(pool, meetings, left) for pool in pools)), "")
            if live is not False:
                why = "its driver is connected" if live else "nobody can say whether its driver is connected"
            elif not why and not self._is_old(used):
                why = "it was used lately"
            if not self._remove("pilots", session, [path], used, why):
                kept.add(session)
        return kept

    def _live(self) -> Dict[str, Any]:
        """Return the sessions, not this one, that are connected or may be, with what their agents say of themselves."""
        sessions = survey.Sessions(self._work_dir, self._own)
        live = [name for name in self._session_files() if name != self._own and sessions.is_live(name) is not False]
        return {name: succession.agent_of(self._work_dir, name) for name in live}

    def _sessions(self, wanted: Set[str]) -> None:
        """Remove what drivers that have gone have left, but for those that a batch may be attached by again."""
        files = self._session_files()
        sessions = survey.Sessions(self._work_dir, self._own)
        for session, paths in sorted(files.items()):
            used = max(map(_mtime, paths))
            if session in wanted or not self._is_old(used) or sessions.is_live(session) is not False:
                continue
            self._remove("session", session, paths, used)

    def _sources(self, batches: Set[str], live: Dict[str, Any]) -> None:
        """Remove shipped source that no batch's script, and no agent, needs any more."""
        wanted = {self._code}
        for words in live.values():
            if not words.get("code"):
                return  # which one it uses is not known
            wanted.add(os.path.basename(words["code"]))
        for name in batches:
            wanted.update(self._named(name, _CODE))
        for name in self._list("code"):
            path = os.path.join(self._work_dir, "code", name)
            if name not in wanted and _CODE_NAME.fullmatch(name) and self._is_old(_mtime(path)):
                self._remove("source", name, [path], _mtime(path))

    def _ships(self, batches: Set[str], live: Dict[str, Any]) -> None:
        """Remove what drivers have shipped of their own code that no batch, and no driver that is there, needs."""
        wanted: Set[str] = set()
        for words in [*live.values(), succession.agent_of(self._work_dir, self._own)]:
            if not isinstance(words.get("ships"), list):
                return  # which it uses is not known
            wanted.update(words["ships"])
        for name in batches:
            wanted.update(self._named(name, _SHIP))
        for name in self._list("ship"):
            path = os.path.join(self._work_dir, "ship", name)
            if name not in wanted and _SHIP_NAME.fullmatch(name) and self._is_old(_mtime(path)):
                self._remove("ship", name, [path], _mtime(path))

    def _named(self, batch: str, pattern: "re.Pattern[bytes]") -> List[str]:
        """Return what a batch's script says of a kind."""
        try:
            script = trust.read(spool.Batch(self._work_dir, batch).script, _LONGEST_SCRIPT)
            return [match.decode() for match in pattern.findall(script)]
        except OSError:
            return []

    def _session_files(self) -> Dict[str, List[str]]:
        """Return the paths of what agents have left of their sessions, by session."""
        files: Dict[str, List[str]] = {}
        for name in self._list("sessions"):
            session = name.partition(".")[0]
            if ids.is_session(session):
                files.setdefault(session, []).append(os.path.join(self._work_dir, "sessions", name))
        return files

    def _logins(self, live: Dict[str, Any]) -> None:
        """Remove what agents that have ended have left on any machine."""
        if not all("host" in words and "pid" in words for words in live.values()):
            return
        wanted = {"%s.%s" % (words["host"], words["pid"]) for words in live.values()}
        wanted.add("%s.%d" % (os.uname().nodename, os.getpid()))
        for name in self._list("login"):
            path = os.path.join(self._work_dir, "login", name)
            used = _newest(path)
            if name not in wanted and _LOGIN_NAME.fullmatch(name) and self._is_old(used):
                self._remove("login", name, [path], used)

    def _is_old(self, used: float) -> bool:
        return self._now - used >= self._age

    def _list(self, folder: str) -> List[str]:
        """Return the names of what is the user's in a folder."""
        return [name for name, _ in self._entries(folder)]

    def _folders(self, folder: str) -> List[str]:
        """Return the names of the user's folders in a folder."""
        return [name for name, about in self._entries(folder) if stat.S_ISDIR(about.st_mode)]

    def _entries(self, folder: str) -> List[Tuple[str, Any]]:
        path = os.path.join(self._work_dir, folder)
        try:
            trust.check_folder(path, closed=False)
            return trust.entries(path)
        except OSError:
            return []

    def _remove(self, kind: str, name: str, paths: List[str], used: float, why: str = "") -> bool:
        """Remove these, unless `why` says why not, and note that; return whether they are gone, or would be."""
        words: Dict[str, Any] = {"kind": kind, "name": name, "used": used}
        if not why:
            size = sum(map(_size, paths))
            if not self._dry:
                for path in paths:
                    _remove(path)
            if self._dry or not any(map(os.path.lexists, paths)):
                self._removed.append(dict(words, bytes=size))
                return True
            why = "it cannot be removed"
        self._kept.append(dict(words, why=why))
        return False


def _held(pool: str, meetings: Set[str], left: Set[str]) -> str:
    """Return why a pool's folder has to stay, "" where it need not; `left` are the batches that stay."""
    try:
        batches = pool_files.PoolFiles(pool).batches()
    except (OSError, ValueError, KeyError, TypeError):
        return "its ledger cannot be read"
    return "its jobs stay" if pool in meetings or not left.isdisjoint(batches) else ""


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        os.unlink(path)
    except OSError:
        pass


def _mtime(path: str) -> float:
    """Return when a file was changed, or made; now where that cannot be seen."""
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return time.time()


def _walk(path: str) -> Iterator[Tuple[str, os.stat_result]]:
    for folder, _, files in os.walk(path):
        for inner in [folder, *(os.path.join(folder, name) for name in files)]:
            try:
                yield inner, os.lstat(inner)
            except OSError:
                pass


def _newest(path: str) -> float:
    """Return when anything in a folder was changed last."""
    return max((about.st_mtime for _, about in _walk(path)), default=time.time())


def _size(path: str) -> int:
    """Return the bytes of all files below a path, or of a file."""
    if os.path.isdir(path) and not os.path.islink(path):
        return sum(about.st_size for inner, about in _walk(path) if not os.path.isdir(inner))
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
