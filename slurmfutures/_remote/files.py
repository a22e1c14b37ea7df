"""What `ClusterPath` does, on the agent's side: each operation is one request, done in a lane, never in the loop.

    path {do, path, ...} [body]    reply: what the operation gives, or the error

Large contents are read in ranges, a request each. What is written goes beside its target while it arrives, and gets its
name when all of it is on disk.
"""

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from . import places, wire
from .lane import Lane

if TYPE_CHECKING:
    from pathlib import Path

MOST_LANES = 32  # operations at once; those beyond wait for one
_CHUNK = 1 << 18
_PATIENCE = 2.0  # seconds
_LIST = "system.posix_acl_access"
_Outcome = Tuple[Dict[str, Any], wire.Buffer]  # words and body of a reply
_Post = Callable[[Callable[[], None]], None]


class Files:
    """All that is under way. The agent's loop calls it."""

    def __init__(self, post: _Post) -> None:
        self._post = post
        self._lanes: List[Lane] = []
        self._writers: Set[Writer] = set()

    def incoming(self, head: Mapping[str, Any]) -> Optional[wire.Sink]:
        """Return what takes the large body of a request, None where memory does."""
        return _Arriving(self._writer(head), self._lane(), self._over) if head["do"] == "write" else None

    def message(self, head: Mapping[str, Any], body: wire.Body, reply: Callable[..., None]) -> None:
        """Have an operation done, and reply what came of it."""
        if head["do"] != "write":
            self.do(lambda: _OPERATIONS[head["do"]](head, body), reply)
            return
        arrived: Optional[_Arriving] = head.get("body")
        writer = arrived.writer if arrived is not None else self._writer(head)
        lane = arrived.let_go() if arrived is not None else self._lane()

        def work() -> _Outcome:
            if arrived is None:
                writer.write(body)
            writer.finish()
            return {}, b""

        def written(outcome: Any) -> None:
            self._over(writer)
            _answer(outcome, reply)

        lane.do(work, written)

    def do(self, work: Callable[[], _Outcome], reply: Callable[..., None]) -> None:
        """Have something else about files done, and reply what came of it."""
        self._lane().do(work, lambda outcome: _answer(outcome, reply))

    def close(self) -> None:
        """Remove what has not become a file; what comes later finds nothing to do."""
        for writer in self._writers:
            writer.discard()

    def _writer(self, head: Mapping[str, Any]) -> "Writer":
        writer = Writer(head["path"], exclusive=head["exclusive"])
        self._writers.add(writer)
        return writer

    def _over(self, writer: "Writer") -> None:
        self._writers.discard(writer)

    def _lane(self) -> Lane:
        """Return a lane that has nothing to do, a new one where there is none."""
        lane = min(self._lanes, key=lambda lane: lane.busy, default=None)
        if lane is None or (lane.busy and len(self._lanes) < MOST_LANES):
            lane = Lane("files", self._post)
            self._lanes.append(lane)
        return lane


class _Arriving:
    """A file's content on its way here: a sink of `wire`, in the loop."""

    def __init__(self, writer: "Writer", lane: Lane, over: Callable[["Writer"], None]) -> None:
        self.writer = writer
        self._lane = lane
        self._lane.busy += 1  # nothing else, which might hang, gets between the pieces
        self._gone = over

    def write(self, data: wire.Buffer) -> None:
        piece = bytes(data)
        self._lane.do(lambda: self.writer.write(piece), _ignore)

    def drop(self) -> None:
        self.let_go().do(self.writer.discard, _ignore)
        self._gone(self.writer)

    def let_go(self) -> Lane:
        """Return the lane, which is for others too from now on."""
        self._lane.busy -= 1
        return self._lane


class Writer:
    """Writes a file beside its target and gives it its name. One thread writes; any thread may discard."""

    def __init__(self, path: str, *, exclusive: bool) -> None:
        self._path = path
        self._exclusive = exclusive
        self._lock = threading.Lock()  # guards the three below, and that the file is made and named before or after
        self._staging: Optional[str] = None  # None too where what is written to is no regular file
        self._folder: Optional[int] = None  # in which it has this name, and gets its own
        self._over = False
        # The writing thread only.
        self._target = path
        self._before: Optional[os.stat_result] = None
        self._lists: Dict[str, bytes] = {}  # the access control list of the file before
        self._handle: Optional[int] = None
        self._error: Optional[Exception] = None

    def write(self, data: wire.Buffer) -> None:
        """Write the next bytes. What goes wrong is told by `finish`."""
        if self._error is not None:
            return
        try:
            if self._handle is None:
                self._begin()
            _write_all(self._handle, data)
        except (OSError, ValueError) as error:
            self._error = error
            self._end()

    def finish(self) -> None:
        """Give the file its name. Raises OSError or ValueError, leaving the target as it was."""
        self.write(b"")
        try:
            if self._error is not None:
                raise self._error
            if self._staging is not None:
                assert self._handle is not None
                if self._before is not None:
                    _dress(self._handle, self._before, self._lists)
                os.fsync(self._handle)
                self._name()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error
        finally:
            self._end()

    def discard(self) -> None:
        """Leave nothing, unless it has its name, or the file system hangs."""
        if not self._lock.acquire(timeout=_PATIENCE):
            return
        try:
            self._over = True
            if self._staging is not None:
                _unlink(self._staging, self._folder)
                self._staging = None
            if self._folder is not None:
                os.close(self._folder)
                self._folder = None
        finally:
            self._lock.release()

    def _end(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        self.discard()

    def _begin(self) -> None:
        target, before = check(self._path, exclusive=self._exclusive)
        if before is not None and not stat.S_ISREG(before.st_mode):
            self._handle = _open_special(self._path, os.O_WRONLY | os.O_CLOEXEC)
            return
        self._before = before
        if before is not None:
            self._lists = _lists_of(target)
        folder, self._target = os.path.split(target)
        random = os.urandom(6).hex().encode()
        staging = os.fsdecode(b".%s.%s.part" % (os.fsencode(self._target)[:100], random))
        # Nobody may read it who must not read what it replaces.
        mode = 0o666 if before is None else 0o600
        with self._lock:
            if self._over:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            self._folder = places.hold(folder)
            self._staging = staging
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._handle = os.open(staging, flags, mode, dir_fd=self._folder)

    def _name(self) -> None:
        with self._lock:
            if self._staging is None:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            if self._exclusive:
                _link(self._staging, self._target, self._folder)
            os.rename(self._staging, self._target, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            _unlink(self._staging, self._folder)  # to rename one name of a file to another does nothing
            self._staging = None


def check(path: str, *, exclusive: bool) -> Tuple[str, Optional[os.stat_result]]:
    """Return where a file is that is to be written, and what is known of it, None where it is new.

    A link is followed if it belongs to the user or to root. Raises OSError as `open` would, and where the folder cannot
    be written, of which a rename asks more.
    """
    if exclusive and os.path.lexists(path):
        raise _error(errno.EEXIST, path)
    target = places.resolve(path)
    try:
        about: Optional[os.stat_result] = os.stat(path)
    except FileNotFoundError:
        about = None
    if about is not None:
        if stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode):
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        if not stat.S_ISREG(about.st_mode):
            return target, about
    folder = os.path.dirname(target)
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise _error(errno.ENOTDIR, path)
    except OSError as error:
        raise _error(error.errno, path) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _error(errno.EACCES, path)
    return target, about


def _open_special(path: str, flags: int) -> int:
    """Open what is no regular file. Raises OSError, also where something else takes its place meanwhile.

    Not where `places.resolve` leads: what /dev/stdout does has no path.
    """
    places.resolve(path)  # raises where a link is another account's
    before = os.stat(path)
    handle = os.open(path, flags)
    if os.path.samestat(before, os.fstat(handle)) and not stat.S_ISREG(before.st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.ESTALE, "was replaced while it was opened", path)


def _error(number: Optional[int], path: str) -> OSError:
    """Return the error of this number, of the class that it has."""
    return OSError(number, os.strerror(number or 0), path)


def _lists_of(path: str) -> Dict[str, bytes]:
    """Return a file's access control list as the attribute that holds it, nothing where there is none."""
    try:
        return {_LIST: os.getxattr(path, _LIST, follow_symlinks=False)}
    except (OSError, AttributeError):  # no attributes there, or none on this system
        return {}


def _dress(handle: int, before: os.stat_result, lists: Mapping[str, bytes]) -> None:
    """Give a file the permissions of the one that it replaces, and its owner and group where that is allowed.

    It is never more open than that one. Nor does it run as somebody: whoever set these bits meant another content.
    """
    now = os.fstat(handle)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        for owner in (before.st_uid, -1):
            try:
                os.fchown(handle, owner, before.st_gid)
                break
            except OSError:
                pass
    mode = before.st_mode & 0o777
    if os.fstat(handle).st_gid != before.st_gid or not _take_list(handle, lists):
        mode &= ~0o070 | mode << 3  # the group may do what all may
    os.fchmod(handle, mode)


def _take_list(handle: int, lists: Mapping[str, bytes]) -> bool:
    """Give a file an access control list, in place of what its folder hands down. Return whether it has that now."""
    try:
        if lists:
            os.setxattr(handle, _LIST, lists[_LIST])
        else:
            os.removexattr(handle, _LIST)
    except OSError as error:
        return not lists and error.errno in (errno.ENODATA, errno.ENOTSUP)
    except AttributeError:
        pass
    return True


def _link(staging: str, target: str, folder: Optional[int]) -> None:
    """Take a name that nobody has. Raises FileExistsError."""
    try:
        os.link(staging, target, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError as error:
        raise FileExistsError(error.errno, error.strerror, target) from None
    except OSError:  # no links on this file system
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))


def _write_all(handle: Optional[int], data: wire.Buffer) -> None:
    assert handle is not None
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _unlink(name: str, folder: Optional[int]) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass


def _ignore(outcome: object) -> None:
    pass


# ---- operations, each in a lane


def _stat(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    about: Any = os.stat(head["path"], follow_symlinks=head["follow"])
    numbers, more = about.__reduce__()[1]
    return {"stat": list(numbers), "more": more}, b""


def _read(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    """Read a range, or all where there are none, of a pipe; `same` is the file that an earlier range was of."""
    path, offset = head["path"], head["offset"]
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        about = os.fstat(handle)
        if stat.S_ISDIR(about.st_mode):
            raise _error(errno.EISDIR, path)
        same = [about.st_dev, about.st_ino]
        if head["same"] not in (None, same):
            raise OSError(errno.ESTALE, "was replaced by another file while it was read", path)
        ranges = stat.S_ISREG(about.st_mode) or stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode)
        parts: List[bytes] = []
        left = head["size"]
        end = False
        while left and not end:
            part = os.pread(handle, left, offset) if ranges else os.read(handle, _CHUNK)
            parts.append(part)
            offset += len(part)
            left -= len(part) if ranges else 0
            end = not part
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(handle)
    return {"same": same, "size": about.st_size, "end": end}, parts[0] if len(parts) == 1 else b"".join(parts)


def _check(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    check(head["path"], exclusive=head["exclusive"])
    return {}, b""


def _at_place(path: str, change: Callable[[str], Any]) -> Any:
    """Do something to a file where it is: only links of the user or of root are followed. An error names `path`."""
    try:
        return change(places.resolve(path))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _append(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    path = head["path"]
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    if os.path.exists(path) and not os.path.isfile(path):
        handle = _open_special(path, flags)
    else:
        handle = _at_place(path, lambda place: os.open(place, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666))
    try:
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        before = os.fstat(handle).st_size
        try:
            _write_all(handle, body)
            if regular:
                os.fsync(handle)
        except OSError:
            if regular and os.fstat(handle).st_size <= before + len(body):  # nobody else has added to it
                os.ftruncate(handle, before)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(handle)
    return {}, b""


def _iterdir(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    return _names(os.listdir(head["path"]))


def _path(path: str) -> "Path":
    """Return a path for what its methods do better than `os`. An agent that is asked for none is there earlier."""
    from pathlib import Path

    return Path(path)


def _glob(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    """Give the paths below a folder that match, relative to it."""
    folder = _path(head["path"])
    base = str(folder)
    start = len(base) + (not base.endswith("/"))
    found = folder.rglob(head["pattern"]) if head["deep"] else folder.glob(head["pattern"])
    return _names([str(path)[start:] for path in found])


def _names(names: Sequence[str]) -> _Outcome:
    return {"count": len(names)}, b"\0".join(map(os.fsencode, names))


def _mkdir(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    _path(head["path"]).mkdir(head["mode"], parents=head["parents"], exist_ok=head["exist_ok"])
    return {}, b""


def _rmdir(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    os.rmdir(head["path"])
    return {}, b""


def _remove(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    _path(head["path"]).unlink(missing_ok=head["missing_ok"])
    return {}, b""


def _rename(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    os.rename(head["path"], head["target"])
    return {}, b""


def _symlink(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    os.symlink(head["target"], head["path"])
    return {}, b""


def _readlink(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    return {"path": os.readlink(head["path"])}, b""


def _touch(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    _at_place(head["path"], lambda place: _path(place).touch(head["mode"], exist_ok=head["exist_ok"]))
    return {}, b""


def _chmod(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    if head["follow"]:
        _at_place(head["path"], lambda place: places.chmod(place, head["mode"]))
    else:
        os.chmod(head["path"], head["mode"], follow_symlinks=False)
    return {}, b""


def _resolve(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    try:
        return {"path": str(_path(head["path"]).resolve(strict=head["strict"]))}, b""
    except RuntimeError as error:  # before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), head["path"]) from error


def _expand(head: Mapping[str, Any], body: wire.Body) -> _Outcome:
    return {"path": os.path.expanduser(head["path"])}, b""


_OPERATIONS: Dict[str, Callable[[Mapping[str, Any], wire.Body], _Outcome]] = {
    "stat": _stat,
    "read": _read,
    "check": _check,
    "append": _append,
    "iterdir": _iterdir,
    "glob": _glob,
    "mkdir": _mkdir,
    "rmdir": _rmdir,
    "unlink": _remove,
    "rename": _rename,
    "symlink": _symlink,
    "readlink": _readlink,
    "touch": _touch,
    "chmod": _chmod,
    "resolve": _resolve,
    "expand": _expand,
}


def _answer(outcome: Any, reply: Callable[..., None]) -> None:
    if isinstance(outcome, Exception):
        reply(_told(outcome))
    else:
        reply(*outcome)


def _told(error: Exception) -> Dict[str, Any]:
    """Return what a reply says of an error."""
    if isinstance(error, OSError) and error.errno:
        names = [os.fsdecode(name) if isinstance(name, (str, bytes)) else None for name in _names_of(error)]
        return {"error": "os", "errno": error.errno, "strerror": error.strerror, "names": names}
    for kind, word in ((NotImplementedError, "not-implemented"), (ValueError, "value")):
        if isinstance(error, kind):
            return {"error": word, "message": str(error)}
    return {"error": "failed", "message": "%s: %s" % (type(error).__name__, error)}


def _names_of(error: OSError) -> Tuple[Any, Any]:
    return error.filename, error.filename2
