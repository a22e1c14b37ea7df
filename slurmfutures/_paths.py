"""`ClusterPath`: a path on the cluster, with the names and meanings of pathlib.

What can be said of a path by itself is PurePosixPath's business; all else is a request to the agent.
"""

import errno
import importlib
import io
import mmap
import os
import stat
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Protocol, Union

from ._errors import SlurmFuturesError
from ._link import MOST_NUMBER, MOST_SIZE, Reply, Words
from ._printable import printable
from ._remote import places, wire

RANGE = 4 << 20  # bytes of a file that are read by one request
AHEAD = 4  # ranges that are asked for at once
_FIRST = 1 << 18  # bytes of a file that are read where it is opened
_MOST_MODE = 0xFFFF  # of a file: type and permissions
_MOST_FIELD = 1 << 100  # more than nanoseconds since the epoch will be; infinity is not
_BY_PLACE = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")  # fields of os.stat_result
_BY_NAME = {name for name in dir(os.stat_result) if name.startswith("st_")}.difference(_BY_PLACE, ("st_fstype",))
_SECONDS = {"st_atime", "st_mtime", "st_ctime", "st_birthtime"}  # those of the fields that are no whole numbers
_NEEDED = {f"st_{letter}time{unit}" for letter in "amc" for unit in ("", "_ns")}
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)

StrPath = Union[str, "os.PathLike[str]", "ClusterPath"]


class Cluster(Protocol):
    """The executor, as its paths see it: alive as long as they are. Any thread."""

    @property
    def folder(self) -> str:
        """The folder that relative paths are relative to."""

    def request(self, head: Mapping[str, Any], body: Sequence[wire.Buffer], *, again: bool) -> "Future[Reply]":
        """Send a request, once more after a lost connection if `again`. Raises RuntimeError after shutdown."""

    def wait(self, reply: "Future[Reply]") -> Reply:
        """Wait for a reply, also in a callback."""


class ClusterPath:
    """A path on the cluster: `SlurmExecutor.path` makes it, `/` makes others of it.

    Methods have the names and meanings of `pathlib.Path`, and raise what it raises: FileNotFoundError and its kin with
    errno and filename. Each that looks at files is one round trip, however many files it is about.

    What is written shows under its name when all of it is on disk there, with the permissions of what it replaces. The
    folder must be writable for that. A link is written through if it belongs to the user or to root; one of another
    account raises PermissionError. While a connection is lost all methods wait for the next one.
    What may be done twice is asked again then; `rename`, `replace`, `rmdir`, `symlink_to`, appending, and `mkdir`,
    `touch`, `unlink` and the mode "x" where they mind what is there, may raise ConnectionLost, for they may have been
    done.

    It is no os.PathLike: the built-in `open` would look for a file of that name on this machine. As an argument of a
    call it arrives as a `pathlib.Path`, an absolute one. Raises RuntimeError after the executor's shutdown. Any thread.
    """

    __slots__ = ("_cluster", "_pure")

    def __init__(self, cluster: Cluster, pure: PurePosixPath) -> None:
        self._cluster = cluster
        self._pure = pure

    # ---- the path by itself

    def _like(self, pure: PurePosixPath) -> "ClusterPath":
        return ClusterPath(self._cluster, pure)

    def __str__(self) -> str:
        return str(self._pure)

    def __repr__(self) -> str:
        return f"ClusterPath({str(self._pure)!r})"

    def __hash__(self) -> int:
        return hash((self._cluster, self._pure))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClusterPath):
            return NotImplemented
        return self._cluster == other._cluster and self._pure == other._pure

    def __lt__(self, other: "ClusterPath") -> bool:
        return self._pure < other._pure if isinstance(other, ClusterPath) else NotImplemented

    def __le__(self, other: "ClusterPath") -> bool:
        return self._pure <= other._pure if isinstance(other, ClusterPath) else NotImplemented

    def __gt__(self, other: "ClusterPath") -> bool:
        return self._pure > other._pure if isinstance(other, ClusterPath) else NotImplemented

    def __ge__(self, other: "ClusterPath") -> bool:
        return self._pure >= other._pure if isinstance(other, ClusterPath) else NotImplemented

    def __truediv__(self, other: StrPath) -> "ClusterPath":
        try:
            return self._like(self._pure / text_of(other))
        except TypeError:
            return NotImplemented

    def __rtruediv__(self, other: "str | os.PathLike[str]") -> "ClusterPath":
        try:
            return self._like(PurePosixPath(other) / self._pure)
        except TypeError:
            return NotImplemented

    def __copy__(self) -> "ClusterPath":
        return self

    def __deepcopy__(self, memo: object) -> "ClusterPath":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _PATH, (place_of(self),)  # jobs may start in another folder

    @property
    def parts(self) -> tuple[str, ...]:
        return self._pure.parts

    @property
    def root(self) -> str:
        return self._pure.root

    @property
    def anchor(self) -> str:
        return self._pure.anchor

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._pure.suffixes

    @property
    def parent(self) -> "ClusterPath":
        return self._like(self._pure.parent)

    @property
    def parents(self) -> "tuple[ClusterPath, ...]":
        return tuple(map(self._like, self._pure.parents))

    def as_posix(self) -> str:
        return self._pure.as_posix()

    def joinpath(self, *others: StrPath) -> "ClusterPath":
        return self._like(self._pure.joinpath(*map(text_of, others)))

    def with_name(self, name: str) -> "ClusterPath":
        return self._like(self._pure.with_name(name))

    def with_stem(self, stem: str) -> "ClusterPath":
        return self._like(self._pure.with_stem(stem))

    def with_suffix(self, suffix: str) -> "ClusterPath":
        return self._like(self._pure.with_suffix(suffix))

    def relative_to(self, other: StrPath, **options: Any) -> "ClusterPath":
        """Return the path relative to another; `walk_up` where this Python's pathlib has it."""
        return self._like(self._pure.relative_to(text_of(other), **options))

    def is_relative_to(self, other: StrPath) -> bool:
        return self._pure.is_relative_to(text_of(other))

    def is_absolute(self) -> bool:
        return self._pure.is_absolute()

    def match(self, pattern: str) -> bool:
        return self._pure.match(pattern)

    def absolute(self) -> "ClusterPath":
        """Return an absolute path: what is relative is so to the folder in which the executor's jobs start."""
        return self._like(self._cluster.folder / self._pure)

    # ---- requests

    def _send(
        self, do: str, body: Sequence[wire.Buffer] = (), *, again: bool = True, changes: bool = False, **words: Any
    ) -> "Future[Reply]":
        """Ask for an operation; one that `changes` files is not done while an agent from before may still be at it."""
        head = {"op": "path", "do": do, "path": str(self.absolute()), **words}
        if changes:
            head["changes"] = True
        return self._cluster.request(head, body, again=again)

    def _answer(self, reply: "Future[Reply]") -> Reply:
        """Wait for what came of an operation. Raises what pathlib would."""
        found = self._cluster.wait(reply)
        if "error" not in found.head:
            return found
        words = Words(found.head, "path")
        kind = words.text("error")
        if kind == "os":
            names = words.items("names", length=2)
            if not all(name is None or type(name) is str for name in names):
                raise words.wrong("names")
            first, second = map(self._as_said, names)
            raise words.os_error(first, None, second)
        kinds: dict[str, type[Exception]] = {"value": ValueError, "not-implemented": NotImplementedError}
        raise kinds.get(kind, SlurmFuturesError)(words.message())

    def _as_said(self, name: str | None) -> str | None:
        """Return a file's name the way this path is written: relative where it is."""
        if name is None or self.is_absolute():
            return name
        path = PurePosixPath(name)
        return str(path.relative_to(self._cluster.folder)) if path.is_relative_to(self._cluster.folder) else name

    def _ask(self, do: str, body: Sequence[wire.Buffer] = (), **words: Any) -> Reply:
        return self._answer(self._send(do, body, **words))

    # ---- what is known of files

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return what is known of the file; `st_dev` and `st_ino` are the cluster's."""
        return _stat_result(Words(self._ask("stat", follow=follow_symlinks).head, "stat"))

    def lstat(self) -> os.stat_result:
        return self.stat(follow_symlinks=False)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self._mode(follow=follow_symlinks) is not None

    def is_file(self) -> bool:
        mode = self._mode(follow=True)
        return mode is not None and stat.S_ISREG(mode)

    def is_dir(self) -> bool:
        mode = self._mode(follow=True)
        return mode is not None and stat.S_ISDIR(mode)

    def is_symlink(self) -> bool:
        mode = self._mode(follow=False)
        return mode is not None and stat.S_ISLNK(mode)

    def _mode(self, *, follow: bool) -> int | None:
        """Return a file's mode, None where there is no file."""
        try:
            return self.stat(follow_symlinks=follow).st_mode
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return None
        except ValueError:  # a name that no file can have
            return None

    def iterdir(self) -> "Iterator[ClusterPath]":
        """Return an iterator over what is in this folder, all of it by one request."""
        return self._below(self._ask("iterdir"), "iterdir")

    def glob(self, pattern: str) -> "Iterator[ClusterPath]":
        """Return an iterator over what is below this folder and matches, all of it by one request."""
        return self._below(self._ask("glob", pattern=str(pattern), deep=False), "glob", str(pattern))

    def rglob(self, pattern: str) -> "Iterator[ClusterPath]":
        """Return an iterator over what matches in this folder or any below it, all of it by one request."""
        return self._below(self._ask("glob", pattern=str(pattern), deep=True), "rglob", str(pattern))

    def _below(self, found: Reply, op: str, pattern: str | None = None) -> "Iterator[ClusterPath]":
        """Return paths in this folder, or by a pattern below it: the agent must not name another place."""
        words = Words(found.head, op)
        count = words.number("count")
        names = os.fsdecode(bytes(found.body)).split("\0") if count or found.body else []
        if len(names) != count:
            raise words.wrong("count")
        upwards = pattern is not None and ".." in pattern.split("/")
        for name in names:
            parts = [name] if pattern is None else name.split("/") if name else []  # "" is the folder itself
            if not all(places.is_name(part) or (upwards and part == "..") for part in parts):
                raise SlurmFuturesError(f"the cluster sent {name!r:.200} as the name of a file in {self._pure}")
        return iter([self._like(self._pure / name) for name in names])

    def readlink(self) -> "ClusterPath":
        return self._like(PurePosixPath(Words(self._ask("readlink").head, "readlink").path("path")))

    def resolve(self, strict: bool = False) -> "ClusterPath":
        """Return the absolute path without links; with `strict` it must be there."""
        words = Words(self._ask("resolve", strict=strict).head, "resolve")
        found = PurePosixPath(words.path("path"))
        if not found.is_absolute():
            raise words.wrong("path")
        return self._like(found)

    def expanduser(self) -> "ClusterPath":
        """Return the path with a leading ~ or ~user replaced by that home on the cluster."""
        first = self._pure.parts[:1]
        if not first or not first[0].startswith("~"):
            return self
        head = {"op": "path", "do": "expand", "path": first[0]}
        home = Words(self._answer(self._cluster.request(head, (), again=True)).head, "expand").path("path")
        if home == first[0]:
            raise RuntimeError(f"the cluster does not know the home of {printable(first[0])}")
        return self._like(PurePosixPath(home, *self._pure.parts[1:]))

    # ---- contents

    def read_bytes(self) -> bytes:
        """Return a file's content. Raises OSError with ESTALE where another file gets its name meanwhile."""
        return b"".join(self._contents(0, None))

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        with io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding, errors, newline) as file:
            return file.read()

    def write_bytes(self, data: wire.Buffer) -> int:
        """Give a file this content, at once or not at all; return the number of bytes."""
        view = memoryview(data).cast("B")
        self._write([view], "w")
        return len(view)

    def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        """Give a file this content, at once or not at all; return the number of characters."""
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        content = io.BytesIO()
        with io.TextIOWrapper(content, encoding, errors, newline) as file:
            file.write(data)
            file.flush()
            self._write([content.getvalue()], "w")
        return len(data)

    def _write(self, body: Sequence[wire.Buffer], mode: str) -> None:
        if mode == "a":
            self._ask("append", body, again=False, changes=True)
        else:
            exclusive = mode == "x"
            self._ask("write", body, again=not exclusive, changes=True, exclusive=exclusive)

    def _range(self, offset: int, size: int, same: object) -> "Future[Reply]":
        """Ask for a part of a file, and of no other than `same`, if that is given."""
        return self._send("read", offset=offset, size=size, same=same)

    def _contents(self, offset: int, same: object) -> Iterator[wire.Body]:
        """Yield all that a file has from an offset on, as much of it as can be on its way at once."""
        asked = deque([self._range(offset, RANGE, same)])
        while asked:
            found = _range_of(self._answer(asked.popleft()), RANGE)
            yield found.body
            offset += len(found.body)
            if found.end:
                return  # what was asked for beyond the end is of no interest
            same = found.same
            while len(asked) < AHEAD and (not asked or offset + RANGE * len(asked) < found.size):
                asked.append(self._range(offset + RANGE * len(asked), RANGE, same))

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a file to read it ("r"), or to write ("w", "x") or append ("a") when it is closed; as text, or with "b".

        It is read in ranges, as far as it is asked for. What is written is kept on this machine until the file is
        closed, and sent then; nothing is changed where an exception leaves the `with` block, or where it is not closed.
        `buffering` has no effect.
        """
        kinds = mode.replace("b", "").replace("t", "")
        if kinds not in ("r", "w", "a", "x") or len(mode) > 2:
            raise ValueError(f"mode={mode!r}: it is one of r, w, a, x, with b for bytes; files are written as a whole")
        binary = "b" in mode
        for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if binary and value is not None:
                raise ValueError(f"binary mode doesn't take {name}={value!r}")
        if kinds == "r":
            reader = io.BufferedReader(_Reading(self))
            return reader if binary else _with_mode(io.TextIOWrapper(reader, encoding, errors, newline), mode)
        self._ask("check", exclusive=kinds == "x")
        writer = _BinaryWriter(_Writing(self, kinds))
        try:
            return writer if binary else _with_mode(_TextWriter(writer, encoding, errors, newline), mode)
        except BaseException:
            writer.raw.give_up()
            writer.close()
            raise

    # ---- changes

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        self._ask("mkdir", again=exist_ok, changes=True, mode=mode, parents=parents, exist_ok=exist_ok)

    def rmdir(self) -> None:
        self._ask("rmdir", again=False, changes=True)

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        self._ask("touch", again=exist_ok, changes=True, mode=mode, exist_ok=exist_ok)

    def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        self._ask("chmod", changes=True, mode=mode, follow=follow_symlinks)

    def unlink(self, missing_ok: bool = False) -> None:
        self._ask("unlink", again=missing_ok, changes=True, missing_ok=missing_ok)

    def rename(self, target: StrPath) -> "ClusterPath":
        """Give the file another name, which it may take from another file; return the new path."""
        new = self._like(PurePosixPath(text_of(target)))
        self._ask("rename", again=False, changes=True, target=str(new.absolute()))
        return new

    def replace(self, target: StrPath) -> "ClusterPath":
        return self.rename(target)

    def symlink_to(self, target: StrPath, target_is_directory: bool = False) -> None:
        """Make this a link to `target`."""
        self._ask("symlink", again=False, changes=True, target=text_of(target))


class _Range(NamedTuple):
    """A part of a file, as it was read."""

    body: wire.Body
    same: "list[int]"  # which file it is
    size: int  # of all of the file
    end: bool  # whether nothing follows


def _range_of(found: Reply, size: int) -> _Range:
    """Return a part of a file of which `size` bytes were asked for: all of them, if it is not the last."""
    words = Words(found.head, "read")
    same = words.items("same", int, 2)
    end = words.flag("end")
    if not end and len(found.body) != size:
        raise words.misfit(f"the body has {len(found.body)} bytes, not {size},")
    return _Range(found.body, same, words.number("size", most=MOST_SIZE), end)


def _stat_result(words: Words) -> os.stat_result:
    """Return what is known of a file; fields that this Python does not have are left out."""
    numbers = words.items("stat", int, len(_BY_PLACE) + 3)  # the times follow, in whole seconds
    if not 0 <= numbers[0] <= _MOST_MODE or max(numbers) > MOST_NUMBER or min(numbers) < -MOST_NUMBER:
        raise words.wrong("stat")
    more = {name: value for name, value in words.mapping("more").items() if name in _BY_NAME}
    for name, value in more.items():
        if type(value) is not int and not (type(value) is float and name in _SECONDS):
            raise words.wrong("more")
        if not -_MOST_FIELD <= value <= _MOST_FIELD:
            raise words.wrong("more")
    if not more.keys() >= _NEEDED:
        raise words.wrong("more")
    return os.stat_result(numbers, more)


def text_of(path: StrPath) -> str:
    """Return the text of a path, of this machine's kind or the cluster's. Raises TypeError for anything else."""
    return str(path) if isinstance(path, ClusterPath) else os.fspath(path)


def place_of(path: StrPath) -> str:
    """Return the text of a path whose meaning is the same wherever it is used."""
    return str(path.absolute()) if isinstance(path, ClusterPath) else os.fspath(path)


# ---- as an argument of a call


class _Named:
    """Something that pickles as a look-up by the name that all versions of Python have it under."""

    def __init__(self, make: Callable[..., Any], owner: "tuple[Callable[..., Any], tuple[Any, ...]]") -> None:
        self._make = make
        self._owner = owner

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._owner


# Python 3.13 has pathlib's classes in a module that no other version knows.
_PATHLIB = _Named(importlib.import_module, (importlib.import_module, ("pathlib",)))
_PATH = _Named(Path, (getattr, (_PATHLIB, "Path")))


# ---- open files


def _with_mode(file: io.TextIOWrapper, mode: str) -> io.TextIOWrapper:
    file.mode = mode  # type: ignore[misc]
    return file


class _Reading(io.RawIOBase):
    """A file that is read in ranges, larger ones while they follow each other."""

    mode = "rb"

    def __init__(self, path: ClusterPath) -> None:
        super().__init__()
        self.name = str(path)
        self._path = path
        self._same: object = None
        self._at = 0
        self._start = 0  # of what is held
        self._held = memoryview(b"")
        self._ahead = _FIRST
        self._ended = False  # whether what is held was all that there was
        self._fetch()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._check_open()
        behind = self._start + len(self._held)
        if not self._start <= self._at < behind:
            if self._ended and self._at == behind:
                self._ended = False  # who asks once more wants to know anew
                return 0
            self._ahead = min(2 * self._ahead, RANGE) if self._at == behind else _FIRST
            self._fetch()
        first = self._at - self._start
        part = self._held[first : first + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def readall(self) -> bytes:
        self._check_open()
        behind = self._start + len(self._held)
        parts: list[wire.Body] = []
        if self._start <= self._at < behind:
            parts.append(self._held[self._at - self._start :])
            self._at = behind
        if not self._ended or self._at != behind:
            for part in self._path._contents(self._at, self._same):
                parts.append(part)
                self._at += len(part)
        self._ended = False
        return b"".join(parts)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        if whence == os.SEEK_CUR:
            offset += self._at
        elif whence == os.SEEK_END:
            offset += _range_of(self._path._answer(self._path._range(0, 0, self._same)), 0).size
        elif whence != os.SEEK_SET:
            raise ValueError(f"whence={whence!r} is not supported")
        if offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def _fetch(self) -> None:
        found = _range_of(self._path._answer(self._path._range(self._at, self._ahead, self._same)), self._ahead)
        self._same = found.same
        self._start, self._held = self._at, memoryview(found.body)
        self._ended = found.end

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")


class _Writing(io.RawIOBase):
    """A file that is written to this machine's disk, and sent when it is closed."""

    def __init__(self, path: ClusterPath, mode: str) -> None:
        super().__init__()
        self.name = str(path)
        self.mode = f"{mode}b"
        self._path = path
        self._kind = mode
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as this one
        self._wanted = True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._kind != "a"

    def write(self, data: Any) -> int | None:
        try:
            return self._file.write(data)
        except BaseException:  # what has a hole is not sent, whoever closes the file after this
            self.give_up()
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if not self.seekable():
            raise io.UnsupportedOperation("a file that is appended to has no position")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self.seek(0, os.SEEK_CUR)

    def truncate(self, size: int | None = None) -> int:
        return self._file.truncate(size)

    def give_up(self) -> None:
        """Send nothing."""
        self._wanted = False

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._wanted:
                self._path._write([self._content()], self._kind)
        finally:
            self._file.close()
            super().close()

    def _content(self) -> wire.Buffer:
        if not os.fstat(self._file.fileno()).st_size:
            return b""
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))


class _BinaryWriter(io.BufferedWriter):
    """Sends nothing where an exception leaves its block, or where nobody closes it."""

    raw: Any

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is not None:
            self.raw.give_up()
        self.close()

    def __del__(self) -> None:
        _forgotten(self, self.raw)


class _TextWriter(io.TextIOWrapper):
    """The same for text."""

    _writing: "_Writing | None" = None  # until it is open

    def __init__(self, writer: _BinaryWriter, *options: Any) -> None:
        super().__init__(writer, *options)
        self._writing = writer.raw

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is not None and self._writing is not None:
            self._writing.give_up()
        self.close()

    def __del__(self) -> None:
        if self._writing is not None:
            _forgotten(self, self._writing)


def _forgotten(file: "io.BufferedWriter | io.TextIOWrapper", writing: _Writing) -> None:
    if not file.closed:
        writing.give_up()
        text = f"{printable(writing.name)} was not closed, and so not written"
        warnings.warn(text, ResourceWarning, source=file, stacklevel=3)
        file.close()
