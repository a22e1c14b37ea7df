"""Files and folders as a stream of bytes, used by both sides.

A stream is a run of records: kind, mode, time of modification, length of the path, length of the content; the path,
relative to the root and of slashes alone where it is the root itself; the content; of files a digest. The order is
that of a walk with names sorted, each folder before what is in it.

What arrives is put together beside its target, in `.<name>.<transfer>.part`, and gets its name when all of it is
there. A transfer that was broken off goes on behind the last file that arrived as a whole: files arrive in order, so
that is the one before the last which is there. Folders and links are sent again, for they are made at the end, so that
no file can be written through a link and read-only folders can be filled.
"""

import errno
import hashlib
import os
import shutil
import stat
from struct import Struct
from typing import Any, Dict, Iterator, List, Optional, Tuple

CHUNK = 1 << 18  # bytes of a stream that travel together
DIGEST = 16  # bytes
_RECORD = Struct(">cIqHQ")  # kind, mode, mtime in ns, lengths of path and content
_FOLDER, _FILE, _LINK, _END = b"d", b"f", b"l", b"e"
_ROOT = "root"
_COPY = 1 << 20  # bytes of a large file that are read in one go


class TreeError(Exception):
    """What came is not a tree that may be written here; the message says why."""


class Measure:
    """How large a tree is; `missing` is what cannot be sent, and why."""

    def __init__(self, folder: bool, entries: int, size: int) -> None:
        self.folder = folder
        self.entries = entries
        self.size = size


def measure(root: str) -> Measure:
    """Return how large a tree is. Raises OSError for what is not there, or cannot be sent."""
    entries = size = 0
    folder = False
    for path, about in _walk(root):
        if stat.S_ISREG(about.st_mode):
            size += about.st_size
        elif stat.S_ISDIR(about.st_mode):
            folder = folder or not path
        elif not stat.S_ISLNK(about.st_mode):
            raise OSError(errno.EINVAL, "neither a file, a folder nor a link", os.path.join(root, path))
        entries += 1
    return Measure(folder, entries, size)


def _walk(root: str) -> Iterator[Tuple[str, os.stat_result]]:
    """Yield paths below `root`, relative to it, and what is known of them; a link is followed at the root alone."""
    about = os.stat(root)
    yield "", about
    if stat.S_ISDIR(about.st_mode):
        yield from _walk_folder(root, "")


def _walk_folder(root: str, path: str) -> Iterator[Tuple[str, os.stat_result]]:
    with os.scandir(os.path.join(root, path)) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        inner = "%s/%s" % (path, entry.name) if path else entry.name
        about = entry.stat(follow_symlinks=False)
        yield inner, about
        if stat.S_ISDIR(about.st_mode):
            yield from _walk_folder(root, inner)


def _order(path: str) -> List[bytes]:
    return os.fsencode(path).split(b"/")


def pack(root: str, after: Optional[str] = None) -> Iterator[bytes]:
    """Yield the stream of a tree in chunks; of files only those behind `after`, where an earlier one has ended.

    Raises OSError, also where a file gets shorter while it is read.
    """
    last = None if after is None else _order(after)
    chunk = bytearray()
    for path, about in _walk(root):
        name = os.fsencode(path)
        if stat.S_ISDIR(about.st_mode):
            chunk += _RECORD.pack(_FOLDER, stat.S_IMODE(about.st_mode), about.st_mtime_ns, len(name), 0) + name
        elif stat.S_ISLNK(about.st_mode):
            target = os.fsencode(os.readlink(os.path.join(root, path)))
            chunk += _RECORD.pack(_LINK, 0, about.st_mtime_ns, len(name), len(target)) + name + target
        elif not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "neither a file, a folder nor a link", os.path.join(root, path))
        elif last is None or _order(path) > last:
            for part in _pack_file(os.path.join(root, path) if path else root, name):
                chunk += part
                if len(chunk) >= CHUNK:
                    yield bytes(chunk)
                    chunk.clear()
        if len(chunk) >= CHUNK:
            yield bytes(chunk)
            chunk.clear()
    chunk += _RECORD.pack(_END, 0, 0, 0, 0)
    yield bytes(chunk)


def _pack_file(path: str, name: bytes) -> Iterator[bytes]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        about = os.fstat(handle)
        left = about.st_size
        yield _RECORD.pack(_FILE, stat.S_IMODE(about.st_mode), about.st_mtime_ns, len(name), left) + name
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
        """Raises OSError where the target cannot be written."""
        if target.endswith("/") or (os.path.isdir(target) and not folder):
            target = os.path.join(target, name)
        target = os.path.abspath(target)
        parent, own = os.path.split(target)
        os.makedirs(parent, exist_ok=True)
        # A link that the user names is meant; those inside a target are not gone through.
        self.target = os.path.realpath(target) if os.path.isdir(target) else target
        if folder and os.path.exists(self.target) and not os.path.isdir(self.target):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.target)
        self._staging = os.path.join(os.path.dirname(self.target), ".%s.%s.part" % (own[:100], transfer))
        self._root = os.path.join(self._staging, _ROOT)
        os.makedirs(self._staging, 0o700, exist_ok=True)
        self.after = self._last_whole()
        self.size = self._size()  # bytes that are there already
        self._buffer = bytearray()
        self._folders: Dict[str, Tuple[int, int]] = {}
        self._links: Dict[str, Tuple[str, int]] = {}
        self._handle: Optional[int] = None
        self._path = ""
        self._left = 0
        self._about = 0, 0  # mode and mtime of the file that is being written
        self._digest: Any = None
        self.complete = False

    def _last_whole(self) -> Optional[str]:
        """Return the last file of an earlier try that is whole for certain, None where there is none."""
        if not os.path.exists(self._root):
            return None
        files = [path for path, about in _walk(self._root) if stat.S_ISREG(about.st_mode)]
        return files[-2] if len(files) > 1 else None

    def _size(self) -> int:
        if self.after is None:
            return 0
        last = _order(self.after)
        walk = _walk(self._root)
        return sum(about.st_size for path, about in walk if stat.S_ISREG(about.st_mode) and _order(path) <= last)

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
                start = at + _RECORD.size + name
                if len(buffer) < start + (size if kind == _LINK else 0):
                    return
                path = self._checked(bytes(buffer[at + _RECORD.size : start]))
                at = start
                if kind == _FILE:
                    self._open(path, mode, mtime, size)
                elif kind == _FOLDER:
                    self._folders[path] = mode, mtime
                    os.makedirs(self._place(path), 0o700, exist_ok=True)
                elif kind == _LINK:
                    self._links[path] = os.fsdecode(bytes(buffer[at : at + size])), mtime
                    at += size
                elif kind == _END:
                    self.complete = True
                else:
                    raise TreeError("a record of the unknown kind %r" % kind)
        finally:
            del buffer[:at]

    def _checked(self, name: bytes) -> str:
        """Return a path that stays below the root, whatever it is joined to."""
        if name and (b"\0" in name or any(part in (b"", b".", b"..") for part in name.split(b"/"))):
            raise TreeError("the path %r leaves the target" % os.fsdecode(name))
        path = os.fsdecode(name)
        parent = os.path.dirname(path)
        # Folders come before what is in them; links are made last, so that nothing is written through one.
        if name and parent not in self._folders:
            raise TreeError("the path %r is in no folder" % path)
        if path in self._links:
            raise TreeError("the path %r came twice" % path)
        return path

    def _place(self, path: str) -> str:
        return "%s/%s" % (self._root, path) if path else self._root

    def _open(self, path: str, mode: int, mtime: int, size: int) -> None:
        if path in self._folders:
            raise TreeError("the path %r came twice" % path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(self._place(path), flags, 0o600)
        self._path = path
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
        if not self.complete or self._handle is not None:
            raise TreeError("the stream has ended too soon")
        for path, (target, mtime) in self._links.items():
            place = self._place(path)
            if os.path.lexists(place):
                os.unlink(place)
            os.symlink(target, place)
            os.utime(place, ns=(mtime, mtime), follow_symlinks=False)
        self._drop_strangers()
        if "" not in self._folders:
            os.replace(self._root, self.target)
        elif not os.path.lexists(self.target):
            self._dress(self._root)
            os.rename(self._root, self.target)
        else:
            self._merge()
            self._dress(self.target)
        self.discard()

    def _drop_strangers(self) -> None:
        """Remove nothing but what an earlier try left of a source that has changed since: folders that are gone."""
        for path, about in list(_walk(self._root)):
            if stat.S_ISDIR(about.st_mode) and path not in self._folders:
                shutil.rmtree(self._place(path), ignore_errors=True)

    def _dress(self, root: str) -> None:
        """Give folders their modes and times, the inner ones first."""
        for path, (mode, mtime) in reversed(list(self._folders.items())):
            place = "%s/%s" % (root, path) if path else root
            os.chmod(place, mode)
            os.utime(place, ns=(mtime, mtime))

    def _merge(self) -> None:
        for path, about in list(_walk(self._root)):
            source, place = self._place(path), "%s/%s" % (self.target, path) if path else self.target
            if not stat.S_ISDIR(about.st_mode):
                os.replace(source, place)  # its folder was looked at before
                continue
            try:
                there = os.lstat(place)
            except FileNotFoundError:
                os.mkdir(place, 0o700)
                continue
            if not stat.S_ISDIR(there.st_mode):
                raise TreeError("%s is no folder, and nothing is written through it" % place)
            if not os.access(place, os.W_OK):
                os.chmod(place, 0o700)

    def discard(self) -> None:
        """Remove what was put together so far."""
        self.close()
        shutil.rmtree(self._staging, ignore_errors=True)

    def close(self) -> None:
        """Let go of the file that is being written; another try goes on from what is there."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
