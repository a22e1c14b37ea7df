"""Files and folders as a stream of bytes, used by both sides.

A stream is a run of records: kind, mode, time of modification, length of the path, length of the content; the path,
relative to the root and of slashes alone where it is the root itself; the content; of files a digest. The order is
that of a walk with names sorted, each folder before what is in it.

What arrives is put together beside its target, in `.<name>.<transfer>.part`, and gets its name when all of it is
there. A transfer that was broken off goes on behind the last file that arrived as a whole: files arrive in order, so
that is the one before the last which is there. Folders and links are sent again, for they are made at the end, so that
no file can be written through a link and read-only folders can be filled.

Other accounts may be able to write to the source and to the target, and either side may be hostile to the other. So
files are reached by the descriptor of their folder (`places`), no link below a root is followed, each path comes once
and in its order, and of a mode only the permissions count.
"""

import contextlib
import errno
import hashlib
import os
import stat
from struct import Struct
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from . import places, trust

CHUNK = 1 << 18  # bytes of a stream that travel together
DIGEST = 16  # bytes
_RECORD = Struct(">cIqHQ")  # kind, mode, mtime in ns, lengths of path and content
_FOLDER, _FILE, _LINK, _END = b"d", b"f", b"l", b"e"
_ROOT = "root"
_PERMISSIONS = 0o777  # of a mode: nothing that runs as its owner or group
_MOST_TARGET = 1 << 16  # bytes of a link
_DEEPEST = 400  # folders in one another, each of which is held open


class TreeError(Exception):
    """What came is not a tree that may be written here; the message says why."""


class Measure:
    """How large a tree is; `missing` is what cannot be sent, and why."""

    def __init__(self, folder: bool, entries: int, size: int) -> None:
        self.folder = folder
        self.entries = entries
        self.size = size


class _Found(NamedTuple):
    """Something in a tree, by its path below the root, and by the open folder that it is in."""

    path: str
    about: os.stat_result
    name: str  # in the folder; of no meaning for the root
    folder: int  # of the root it is the root itself


def measure(root: str) -> Measure:
    """Return how large a tree is. Raises OSError for what is not there, or cannot be sent."""
    entries = size = 0
    folder = False
    for path, about, _, _ in _walk(root):
        if stat.S_ISREG(about.st_mode):
            size += about.st_size
        elif stat.S_ISDIR(about.st_mode):
            folder = folder or not path
        elif not stat.S_ISLNK(about.st_mode):
            raise _unsendable(os.path.join(root, path))
        entries += 1
    return Measure(folder, entries, size)


def _unsendable(path: str) -> OSError:
    return OSError(errno.EINVAL, "neither a file, a folder nor a link", path)


def _walk(root: str) -> Iterator[_Found]:
    """Yield what is in a tree; a link is followed at the root alone, if it is the user's or root's."""
    place = places.resolve(root)
    about = os.stat(place)  # a device may do something when it is opened
    if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
        raise _unsendable(root)
    handle = _open(None, place, places.READ, root)
    try:
        about = os.fstat(handle)
        yield _Found("", about, "", handle)
        if stat.S_ISDIR(about.st_mode):
            yield from _walk_folder(handle, "", root)
    finally:
        os.close(handle)


def _walk_folder(handle: int, path: str, root: str) -> Iterator[_Found]:
    with os.scandir(handle) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        inner = "%s/%s" % (path, entry.name) if path else entry.name
        about = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(about.st_mode):
            yield _Found(inner, about, entry.name, handle)
            continue
        folder = _open(handle, entry.name, places.FOLDER, os.path.join(root, inner))
        try:
            yield _Found(inner, os.fstat(folder), entry.name, handle)
            yield from _walk_folder(folder, inner, root)
        finally:
            os.close(folder)


def _open(folder: Optional[int], name: str, flags: int, path: str) -> int:
    """Open something in a folder. Raises OSError, which names it by `path`."""
    try:
        return os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        swapped = error.errno in places.SWAPPED
        raise OSError(error.errno, "was replaced while it was copied" if swapped else error.strerror, path) from None


def _order(path: str) -> List[bytes]:
    return os.fsencode(path).split(b"/")


def pack(root: str, after: Optional[str] = None) -> Iterator[bytes]:
    """Yield the stream of a tree in chunks; of files only those behind `after`, where an earlier one has ended.

    Raises OSError, also where a file gets shorter while it is read.
    """
    last = None if after is None else _order(after)
    chunk = bytearray()
    for found in _walk(root):
        path, about = found.path, found.about
        name = os.fsencode(path)
        if stat.S_ISDIR(about.st_mode):
            chunk += _RECORD.pack(_FOLDER, about.st_mode & _PERMISSIONS, about.st_mtime_ns, len(name), 0) + name
        elif stat.S_ISLNK(about.st_mode):
            target = os.fsencode(_link_of(found, root))
            chunk += _RECORD.pack(_LINK, 0, about.st_mtime_ns, len(name), len(target)) + name + target
        elif not stat.S_ISREG(about.st_mode):
            raise _unsendable(os.path.join(root, path))
        elif last is None or _order(path) > last:
            for part in _pack_file(found, os.path.join(root, path) if path else root, name):
                chunk += part
                if len(chunk) >= CHUNK:
                    yield bytes(chunk)
                    chunk.clear()
        if len(chunk) >= CHUNK:
            yield bytes(chunk)
            chunk.clear()
    chunk += _RECORD.pack(_END, 0, 0, 0, 0)
    yield bytes(chunk)


def _link_of(found: _Found, root: str) -> str:
    try:
        return os.readlink(found.name, dir_fd=found.folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.path.join(root, found.path)) from None


def _pack_file(found: _Found, path: str, name: bytes) -> Iterator[bytes]:
    handle = _open(found.folder, found.name, places.READ, path) if found.path else os.dup(found.folder)
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "was replaced while it was copied", path)
        left = about.st_size
        yield _RECORD.pack(_FILE, about.st_mode & _PERMISSIONS, about.st_mtime_ns, len(name), left) + name
        digest = hashlib.blake2b(digest_size=DIGEST)
        while left:
            data = os.read(handle, min(left, CHUNK))
            if not data:
                raise OSError(errno.EIO, "became shorter while it was read", path)
            digest.update(data)
            left -= len(data)
            yield data
        yield digest.digest()
    finally:
        os.close(handle)


class Unpacker:
    """Puts a tree together beside its target. All of it is called by one thread.

    `name` is what the source is called: a target that ends in a slash, or is a folder where the source is none, gets
    the source into it. Two folders are merged.
    """

    def __init__(self, target: str, transfer: str, name: str, *, folder: bool) -> None:
        """Raises OSError where the target cannot be written, TreeError where it needs the name of a nameless source."""
        if target.endswith("/") or (os.path.isdir(target) and not folder):
            if not places.is_name(name):
                raise TreeError("the source has no name of its own: give the name that it is to have in %s" % target)
            target = os.path.join(target, name)
        target = os.path.abspath(target)
        parent, own = os.path.split(target)
        os.makedirs(parent, exist_ok=True)
        # A link that the user names is meant; those inside a target are not gone through.
        if os.path.isdir(target):
            place = target = places.resolve(target)
        else:
            place = os.path.join(places.resolve(parent), own)
        if folder and os.path.exists(place) and not os.path.isdir(place):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), target)
        self.target = target
        self._folder = folder
        self._name = os.path.basename(place) or "."
        self._part = ".%s.%s.part" % (os.fsdecode(os.fsencode(own)[:100]), transfer)
        self._held: List[int] = []  # descriptors of the two below
        self._buffer = bytearray()
        self._modes: Dict[str, Tuple[int, int]] = {}  # mode and mtime of each folder
        self._links: Dict[str, List[Tuple[str, str, int]]] = {}  # name, target and mtime of those in each folder
        self._open: List[Tuple[str, int]] = []  # the folders, one in the other, that the last record was in
        self._last: Optional[List[bytes]] = None  # place of the last record in the order
        self._handle: Optional[int] = None
        self._path = ""  # of what is being made
        self._left = 0
        self._about = 0, 0  # mode and mtime of the file that is being written
        self._digest: Any = None
        self.complete = False
        try:
            self._parent = self._hold(places.hold(os.path.dirname(place)))
            self._staging = self._hold(self._stage(os.path.join(os.path.dirname(target), self._part)))
            self.after, self.size = self._earlier()  # the last whole file of an earlier try; bytes that are there
        except BaseException:
            self.close()
            raise

    def _hold(self, handle: int) -> int:
        self._held.append(handle)
        return handle

    def _stage(self, path: str) -> int:
        """Return the folder in which the tree is put together, which no other account can enter."""
        try:
            os.mkdir(self._part, 0o700, dir_fd=self._parent)
        except FileExistsError:  # of an earlier try
            pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        handle = _open(self._parent, self._part, places.FOLDER, path)
        about = os.fstat(handle)
        if not trust.is_ours(about):
            os.close(handle)
            raise trust.Untrusted(path, "it is %s and not yours: remove it" % trust.describe(about))
        if about.st_mode & 0o077:
            with contextlib.suppress(OSError):  # a file system without modes
                os.fchmod(handle, 0o700)
        return handle

    def _earlier(self) -> Tuple[Optional[str], int]:
        """Return the last file of an earlier try that is whole for certain, and the size of all up to it."""
        try:
            root = os.open(_ROOT, places.FOLDER, dir_fd=self._staging)
        except OSError:
            return None, 0
        try:
            files = [found for found in _walk_folder(root, "", self.target) if stat.S_ISREG(found.about.st_mode)]
        finally:
            os.close(root)
        return (files[-2].path, sum(found.about.st_size for found in files[:-1])) if len(files) > 1 else (None, 0)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream. Raises OSError, and TreeError for what must not be written here."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while True:
                if self._handle is not None:
                    at = self._fill(at)
                    if self._handle is not None:
                        return
                if len(buffer) - at < _RECORD.size:
                    return
                kind, mode, mtime, name, size = _RECORD.unpack_from(buffer, at)
                if kind == _LINK and size > _MOST_TARGET:
                    raise TreeError("a link to a path of %d bytes" % size)
                start = at + _RECORD.size + name
                if len(buffer) < start + (size if kind == _LINK else 0):
                    return
                path = self._checked(kind, bytes(buffer[at + _RECORD.size : start]))
                mode &= _PERMISSIONS
                at = start
                if kind == _FILE:
                    self._begin(path, mode, mtime, size)
                elif kind == _FOLDER:
                    self._enter(path)
                    self._modes[path] = mode, mtime
                elif kind == _LINK:
                    self._keep_link(path, bytes(buffer[at : at + size]), mtime)
                    at += size
                else:
                    self.complete = True
        except OSError as error:
            raise self._told(error) from error
        finally:
            del buffer[:at]

    def _told(self, error: OSError) -> OSError:
        """Return an error that names what is being made by its place in the target."""
        if isinstance(error, trust.Untrusted):
            return error
        path = os.path.join(self.target, self._path) if self._path else self.target
        return OSError(error.errno, error.strerror, path)

    def _checked(self, kind: bytes, name: bytes) -> str:
        """Return a path that stays below the root, and comes in its order."""
        if self.complete:
            raise TreeError("a record behind the end")
        if kind == _END:
            return ""
        if kind not in (_FOLDER, _FILE, _LINK):
            raise TreeError("a record of the unknown kind %r" % kind)
        path = os.fsdecode(name)
        if not name:
            if kind != (_FOLDER if self._folder else _FILE):
                raise TreeError("the root is not what was announced")
        elif b"\0" in name or any(part in (b"", b".", b"..") for part in name.split(b"/")):
            raise TreeError("the path %r leaves the target" % path)
        if name.count(b"/") > _DEEPEST:
            raise TreeError("the path %r... is in more than %d folders" % (path[:100], _DEEPEST))
        order = _order(path)
        if self._last is not None and order <= self._last:
            raise TreeError("the path %r came twice, or too late" % path)
        self._last = order
        return path

    def _place(self, path: str) -> Tuple[int, str]:
        """Return the open folder that a path is in, and its name there."""
        self._path = path
        if not path:
            return self._staging, _ROOT
        parent, _, name = path.rpartition("/")
        # Folders come before what is in them, and all of that before anything else.
        while self._open and self._open[-1][0] != parent:
            os.close(self._open.pop()[1])
        if not self._open:
            raise TreeError("the path %r is in no folder" % path)
        return self._open[-1][1], name

    def _enter(self, path: str) -> None:
        folder, name = self._place(path)
        with contextlib.suppress(FileExistsError):  # of an earlier try
            os.mkdir(name, 0o700, dir_fd=folder)
        self._open.append((path, os.open(name, places.FOLDER, dir_fd=folder)))

    def _keep_link(self, path: str, target: bytes, mtime: int) -> None:
        """Links are made last, so that nothing is written through one."""
        if not target or b"\0" in target:
            raise TreeError("the link %r leads nowhere" % path)
        self._place(path)
        parent, _, name = path.rpartition("/")
        self._links.setdefault(parent, []).append((name, os.fsdecode(target), mtime))

    def _begin(self, path: str, mode: int, mtime: int, size: int) -> None:
        folder, name = self._place(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(name, flags, 0o600, dir_fd=folder)
        self._left = size
        self._about = mode, mtime
        self._digest = hashlib.blake2b(digest_size=DIGEST)

    def _fill(self, at: int) -> int:
        """Write what there is of a file; return where the next record begins."""
        assert self._handle is not None
        part = min(self._left, len(self._buffer) - at)
        if part:
            data = bytes(self._buffer[at : at + part])
            self._digest.update(data)
            written = 0
            while written < part:
                written += os.write(self._handle, data[written:] if written else data)
            self._left -= part
            at += part
        if self._left or len(self._buffer) - at < DIGEST:
            return at
        if self._digest.digest() != bytes(self._buffer[at : at + DIGEST]):
            raise TreeError("the file %r arrived damaged" % self._path)
        mode, mtime = self._about
        os.fchmod(self._handle, mode)
        os.utime(self._handle, ns=(mtime, mtime))
        os.close(self._handle)
        self._handle = None
        return at + DIGEST

    def finish(self) -> None:
        """Give the tree its name. Raises OSError, and TreeError where a link in the target would be gone through."""
        if not self.complete or self._handle is not None or self._last is None:
            raise TreeError("the stream has ended too soon")
        self._path = ""
        try:
            if self._folder:
                self._finish_folder()
            else:
                os.replace(_ROOT, self._name, src_dir_fd=self._staging, dst_dir_fd=self._parent)
        except OSError as error:
            raise self._told(error) from error
        self.discard()

    def _finish_folder(self) -> None:
        root = os.open(_ROOT, places.FOLDER, dir_fd=self._staging)
        try:
            new = not _is_there(self._parent, self._name)
            self._complete(root, "", dress=new)
            if new:
                os.rename(_ROOT, self._name, src_dir_fd=self._staging, dst_dir_fd=self._parent)
                self._dress(root, "")  # a folder that cannot be written to cannot be moved
            else:
                self._merge_into(self._parent, self._name, root, "")
        finally:
            os.close(root)

    def _complete(self, folder: int, path: str, *, dress: bool) -> None:
        """Make the links, dress the folders if asked, and remove those that only an earlier try has sent."""
        with os.scandir(folder) as entries:
            inner = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in inner:
            below = "%s/%s" % (path, name) if path else name
            if below not in self._modes:
                places.remove_folder(folder, name)
                continue
            handle = os.open(name, places.FOLDER, dir_fd=folder)
            try:
                self._complete(handle, below, dress=dress)
                if dress:
                    self._dress(handle, below)
            finally:
                os.close(handle)
        for name, target, mtime in self._links.get(path, ()):
            self._path = "%s/%s" % (path, name) if path else name
            if _is_there(folder, name):
                os.unlink(name, dir_fd=folder)
            os.symlink(target, name, dir_fd=folder)
            os.utime(name, ns=(mtime, mtime), dir_fd=folder, follow_symlinks=False)

    def _dress(self, folder: int, path: str) -> None:
        """Give a folder its mode and time, unless it was there before and is another account's.

        What a folder hands down to those in it, a group or the rule who may remove what, is its place's and stays.
        """
        mode, mtime = self._modes[path]
        about = os.fstat(folder)
        if os.geteuid() in (0, about.st_uid):
            os.fchmod(folder, stat.S_IMODE(about.st_mode) & ~_PERMISSIONS | mode)
            os.utime(folder, ns=(mtime, mtime))

    def _merge_into(self, folder: int, name: str, source: int, path: str) -> None:
        """Move what is in an open folder into the one of that name."""
        self._path = path
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=folder)
        try:
            target = os.open(name, places.FOLDER, dir_fd=folder)
        except OSError as error:
            if error.errno not in places.SWAPPED:
                raise
            place = os.path.join(self.target, path)
            raise TreeError("%s is no folder, and nothing is written through it" % place) from None
        try:
            if not os.access(".", os.W_OK, dir_fd=target):
                os.fchmod(target, 0o700)
            self._merge(source, target, path)
            self._dress(target, path)
        finally:
            os.close(target)

    def _merge(self, source: int, target: int, path: str) -> None:
        with os.scandir(source) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        for name, is_folder in found:
            below = "%s/%s" % (path, name) if path else name
            self._path = below
            if not is_folder:
                os.replace(name, name, src_dir_fd=source, dst_dir_fd=target)
                continue
            handle = os.open(name, places.FOLDER, dir_fd=source)
            try:
                self._merge_into(target, name, handle, below)
            finally:
                os.close(handle)

    def discard(self) -> None:
        """Remove what was put together so far."""
        if self._held:
            places.empty(self._staging)
            with contextlib.suppress(OSError):
                os.rmdir(self._part, dir_fd=self._parent)
        self.close()

    def close(self) -> None:
        """Close all files; another try goes on from what is there."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        for handle in [*(handle for _, handle in self._open), *self._held]:
            os.close(handle)
        self._open, self._held = [], []


def _is_there(folder: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True
