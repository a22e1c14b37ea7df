"""The checkpoint's file: records that are only ever added, each behind its length and its checksum.

A header names the format, the file and who has it open; records follow (`_records`). Each begins with eight bytes that
were made up for this file, so that whole ones are found behind a damaged one. What was being written when the machine
or the driver went down is the end of the file: it is cut off when the file is opened. Damage anywhere else is an error.

The file is locked by the one beside it, "<name>.lock". A lock ends with its process, however that ends.

A checkpoint holds pickles, and the line of shell that leads to its jobs. An account that can write one can run code as
its reader. So it is opened once, and refused unless it belongs to the user or root and is closed to others.
"""

import contextlib
import errno
import os
import secrets
import socket
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import filelock

from ._errors import CheckpointCorrupt, CheckpointLocked, SlurmFuturesError, give_warning
from ._records import BATCH, FAILED, NO_KEY, OPENED, PART, RESULT, Contents, dumps, pack_batch, pack_failure
from ._remote import ids, trust, wire

VERSION = 1

_MAGIC = b"SFJOURNL"
_HEADER = struct.Struct(">8sH8s12s226s")  # magic, version, sync, the file's id, who has it open
_RECORD = struct.Struct(">8sBQI")  # sync, kind, length of the body, crc32 of the two and the body
_SUMMED = struct.Struct(">BQ")
_CHUNK = 1 << 20
_BLOCK = 1 << 16
_DOUBTS = 16  # times the size of a file: what is read of it to find whole records behind damage
_COMPACT_FROM = 1 << 20  # bytes that are dead and half of all, from which on the file is written anew


class Scan:
    """Reads a checkpoint once, whoever has it open.

    Raises SlurmFuturesError where another account could have written it, OSError, CheckpointCorrupt where it is none.
    """

    def __init__(self, path: str, opened: int | None = None, *, mends: bool = False) -> None:
        """`opened` is a descriptor of the file, which stays open; None opens the one at `path`, which is no link.

        A whole record whose words make no sense is CheckpointCorrupt; to one that `mends` it is damage.
        """
        self.path = path
        self._mends = mends
        self.contents = Contents()
        self.problem: CheckpointCorrupt | None = None  # damage in the middle
        self.lost = 0  # bytes of damage that were passed over, at the end of the file or before
        self._doubted = 0  # bytes of what might have been records behind damage
        handle = _open(path, os.O_RDONLY) if opened is None else opened
        with open(handle, "rb", _CHUNK, closefd=opened is None) as file:
            file.seek(0)
            self.size = os.fstat(file.fileno()).st_size
            self.id, self.sync, self.owner = self._read_header(file.read(_HEADER.size))
            self.end = _HEADER.size  # of the last record that is whole
            self._read_records(file)
        self.torn = self.size - self.end if self.problem is None else 0

    def _read_header(self, header: bytes) -> tuple[str, bytes, str]:
        if len(header) < _HEADER.size:
            if header[: len(_MAGIC)] != _MAGIC[: len(header)]:
                raise CheckpointCorrupt(self.path, "it is no checkpoint")
            return "", b"", ""
        magic, version, sync, name, by = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise CheckpointCorrupt(self.path, "it is no checkpoint")
        if version > VERSION:
            raise CheckpointCorrupt(
                self.path, f"it is of format {version}, and this slurmfutures reads up to {VERSION}: use a newer one"
            )
        id_ = name.decode("ascii", "replace")
        if not ids.is_session(id_):
            raise CheckpointCorrupt(self.path, "its header is damaged: it has no valid id")
        return id_, sync, by.decode(errors="replace").strip(" \0")

    def _read_records(self, file: Any) -> None:
        at, damage = self.end, None
        while at < self.size:
            file.seek(at)
            size = self._read_record(file, at)
            if size:
                at += size
                if damage is None:
                    self.end = at
                continue
            found = self._find(file, at + 1)
            if found is None:
                self.lost += self.size - at
                break
            damage = at if damage is None else damage
            self.lost += found - at
            at = found
        if damage is not None:
            self.problem = self._damage(damage)

    def _damage(self, offset: int) -> CheckpointCorrupt:
        results, calls = len(self.contents.finished), len(self.contents.flying)
        saved = f"{results} results and {calls} calls under way can be saved by: slurmfutures repair {self.path}"
        return CheckpointCorrupt(self.path, "it is damaged", offset, saved)

    def _read_record(self, file: Any, at: int) -> int:
        """Take in the record here; return its size, 0 where there is no whole one."""
        head = file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return 0
        length: int
        sync, kind, length, checksum = _RECORD.unpack(head)
        if sync != self.sync or length > self.size - at - _RECORD.size:
            return 0
        body = file.read(length)
        if len(body) < length or zlib.crc32(body, zlib.crc32(_SUMMED.pack(kind, length))) != checksum:
            return 0
        try:
            self.contents.take(kind, body, at + _RECORD.size)
        except ValueError as error:
            problem = CheckpointCorrupt(self.path, f"a record makes no sense ({error})", offset=at)
            if not self._mends:
                raise problem from error
            self.problem = problem
            return 0
        return _RECORD.size + length

    def _find(self, file: Any, at: int) -> int | None:
        """Return where the next whole record begins, None where there is none, or too much that looks like one."""
        size = _BLOCK // 16
        while at < self.size:
            file.seek(at)
            data: bytes = file.read(size + _RECORD.size - 1)
            place = data.find(self.sync, 0, size + len(self.sync) - 1)
            while place >= 0:
                if self._is_whole(file, at + place, data[place : place + _RECORD.size]):
                    return at + place
                if self._doubted > _DOUBTS * self.size:
                    return None
                place = data.find(self.sync, place + 1, size + len(self.sync) - 1)
            at += size
            size = min(2 * size, _CHUNK)  # what is whole is mostly near
        return None

    def _is_whole(self, file: Any, at: int, head: bytes) -> bool:
        if len(head) < _RECORD.size:
            return False
        _, kind, length, checksum = _RECORD.unpack(head)
        if length > self.size - at - _RECORD.size:
            return False
        self._doubted += _RECORD.size + length
        file.seek(at + _RECORD.size)
        found = int(zlib.crc32(file.read(length), zlib.crc32(_SUMMED.pack(kind, length))))
        return found == int(checksum)


class Journal:
    """A checkpoint that is open for writing, and locked. One thread at a time: `Checkpoint` has the lock for that."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file, made if missing, and take in what it says.

        Raises CheckpointLocked, CheckpointCorrupt, SlurmFuturesError where it cannot be read or written.
        """
        self.path = os.path.realpath(os.path.expanduser(os.fspath(path)))
        self._file = -1
        self._dirty = False
        self._block = 0, b""  # what was read last
        self._lock = _acquire(self.path)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + ".new")  # a process was ended while it wrote the file anew
            file = self._open()
            try:
                scan = Scan(self.path, file)
                if scan.problem is not None:
                    raise scan.problem
            except BaseException:
                os.close(file)
                raise
            self.id, self._sync, self.contents = scan.id, scan.sync, scan.contents
            self._file, self._end = file, scan.end
            if scan.torn:
                os.ftruncate(self._file, scan.end)
                give_warning(
                    f"the checkpoint {self.path} ended in the middle of a record, as it does where a machine goes "
                    f"down: its last {scan.torn} bytes were dropped, and what they would have said is found anew"
                )
            if self.contents.dead > max(_COMPACT_FROM, self._end // 2):
                self._compact()
            self._write_owner(f"process {os.getpid()} on {socket.gethostname()}")
        except OSError as error:
            self.close()
            raise SlurmFuturesError(f"the checkpoint {self.path} cannot be used: {_why(error, self.path)}") from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        """Return a descriptor of the file. One that is missing, or was torn off in its header, is made."""
        with contextlib.suppress(FileNotFoundError):
            file = _open(self.path, os.O_RDWR)
            if os.fstat(file).st_size >= _HEADER.size:
                return file
            start = os.pread(file, len(_MAGIC), 0)
            os.close(file)
            if start != _MAGIC[: len(start)]:
                raise CheckpointCorrupt(self.path, "it is no checkpoint")
        header = _HEADER.pack(_MAGIC, VERSION, secrets.token_bytes(8), secrets.token_hex(6).encode(), b"")
        file = _new(self.path)
        try:
            os.write(file, header)
            _put_in_place(self.path, file)
        except BaseException:
            os.close(file)
            raise
        return file

    def _write_owner(self, text: str) -> None:
        os.pwrite(self._file, text.encode()[:226].ljust(226), _HEADER.size - 226)

    def _compact(self) -> None:
        """Write the file anew without what says nothing any more."""
        file, self.contents, self._end = _write_anew(self.path, self._file, self.contents)
        os.close(self._file)
        self._file = file
        self._block = 0, b""

    def append(self, records: Iterable[tuple[int, Sequence[wire.Buffer]]]) -> list[int]:
        """Add records; return where their bodies are. Raises OSError, and then none of them is there."""
        buffers: list[wire.Buffer] = []
        places = []
        at = self._end
        for kind, body in records:
            packed = _packed(self._sync, kind, body)
            buffers += packed
            places.append(at + _RECORD.size)
            at += sum(map(len, packed))
        try:
            written = self._end
            for data in _joined(buffers):
                view = memoryview(data)
                while view:
                    count = os.pwrite(self._file, view, written)
                    view, written = view[count:], written + count
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end = at
        self._dirty = True
        return places

    def sync(self) -> None:
        """Return when all records are on disk. Raises OSError."""
        if self._dirty:
            os.fsync(self._file)
            self._dirty = False

    def read(self, offset: int, length: int) -> bytes:
        """Return what lies there. Raises OSError where the file is shorter now."""
        at, block = self._block
        if at <= offset and offset + length <= at + len(block):
            return block[offset - at : offset - at + length]
        if length > _BLOCK:
            return _read(self._file, offset, length)
        self._block = offset, os.pread(self._file, _BLOCK, offset)  # results are mostly asked for in their order
        if len(self._block[1]) < length:
            return _read(self._file, offset, length)
        return self._block[1][:length]

    def close(self) -> None:
        """Let go of the file and of its lock."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                self._write_owner("")
            with contextlib.suppress(OSError):
                self.sync()
            os.close(self._file)
            self._file = -1
        self._lock.release()


def repair(path: str | os.PathLike[str]) -> tuple[Scan, str]:
    """Write a damaged checkpoint anew from the records that are whole; return what was found, and where the old one is.

    That is "" where there is no damage. Raises CheckpointLocked, SlurmFuturesError where another account could have
    written it, OSError, and CheckpointCorrupt where it is none.
    """
    path = os.path.realpath(os.path.expanduser(os.fspath(path)))
    with contextlib.ExitStack() as stack:
        stack.callback(_acquire(path).release)
        file = _open(path, os.O_RDONLY)
        stack.callback(os.close, file)
        scan = Scan(path, file, mends=True)
        if scan.problem is None:
            return scan, ""
        kept = path + ".damaged"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(kept)
        os.link(path, kept, follow_symlinks=False)
        os.close(_write_anew(path, file, scan.contents)[0])
        return scan, kept


def files_of(path: Any) -> list[str]:
    """Return the files that a journal has on its disk: itself, its lock, and what it is written anew to."""
    whole = os.path.abspath(os.path.expanduser(os.fspath(path)))
    return [f"{one}{end}" for one in {whole, os.path.realpath(whole)} for end in ("", ".lock", ".new")]


def _open(path: str, flags: int) -> int:
    """Return a descriptor of a checkpoint. Raises SlurmFuturesError where others could have written it, OSError."""
    try:
        return trust.open_file(path, flags)
    except trust.Untrusted as error:
        raise SlurmFuturesError(
            f"the checkpoint {path} is not used, because code in it would run as you: {error.strerror}"
        ) from error


def _acquire(path: str) -> filelock.BaseFileLock:
    """Return the lock of a checkpoint, held."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):  # filelock would make it
        raise SlurmFuturesError(f"the checkpoint {path} cannot be used: there is no folder {folder}")
    with contextlib.suppress(FileNotFoundError):
        os.close(_open(path, os.O_RDONLY))  # beside one that is refused no lock is left
    # Not of a thread: it is taken and released by different ones.
    lock = filelock.FileLock(path + ".lock", timeout=0, mode=0o600, thread_local=False)
    try:
        _prepare_lock(lock.lock_file)
        lock.acquire()
    except filelock.Timeout:
        raise CheckpointLocked(path, owner(path)) from None
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        raise SlurmFuturesError(f"the checkpoint {path} cannot be used: {path}.lock cannot be locked: {why}") from error
    return lock


def _prepare_lock(path: str) -> None:
    """Make the file that is locked, or check the one that is there. Raises Untrusted, OSError.

    filelock follows no link. But it opens files of any kind and owner, and its older versions empty them.
    """
    handle = trust.open_file(path, os.O_RDWR | os.O_CREAT, closed=False)
    about = os.fstat(handle)
    os.close(handle)
    if about.st_nlink > 1 and about.st_size:
        why = f"it is {trust.describe(about)}, which has other names, and is not empty: remove it"
        raise trust.Untrusted(path, why)


def _write_anew(path: str, source: int, contents: Contents) -> tuple[int, Contents, int]:
    """Write what `contents` says, read from `source`, to a new file at `path`.

    Returns its descriptor, the same contents as it has them, and its size. It has its name when it is all there, and on
    disk.
    """
    new, end = Contents(), _HEADER.size
    header = _read(source, 0, _HEADER.size)
    sync = _HEADER.unpack(header)[2]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + ".new")
    handle = _new(path)
    try:
        with open(handle, "wb", closefd=False) as file:
            file.write(header)
            for kind, body in _live(contents, source):
                for buffer in _packed(sync, kind, [body]):
                    file.write(buffer)
                new.take(kind, body, end + _RECORD.size)
                end += _RECORD.size + len(body)
        _put_in_place(path, handle)
    except BaseException:
        os.close(handle)
        raise
    return handle, new, end


def _new(path: str) -> int:
    """Return a descriptor of a new file, closed to others, that is to become the checkpoint at `path`."""
    return trust.open_file(path + ".new", os.O_RDWR | os.O_CREAT | os.O_EXCL)


def _put_in_place(path: str, file: int) -> None:
    """Give a new file its name, with all of it on disk."""
    os.fsync(file)
    os.replace(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _live(contents: Contents, source: int) -> Iterator[tuple[int, bytes]]:
    """Yield the records that say the same as all that there were."""
    if contents.opened:
        yield OPENED, dumps(contents.opened)
    for batch in contents.batches.values():
        if not batch.closed:
            keys = [key if call in batch.open else NO_KEY for call, key in enumerate(batch.keys)]
            yield BATCH, pack_batch({**batch.words, "failed": batch.failed}, batch.firsts, keys)
            for words in batch.parts:
                yield PART, dumps(words)
    for key, place in contents.finished.items():
        yield RESULT, key + _read(source, *place)
    for key, failure in contents.failures.items():
        yield FAILED, pack_failure(key, *failure)


def _packed(sync: bytes, kind: int, body: Sequence[wire.Buffer]) -> list[wire.Buffer]:
    length = sum(map(len, body))
    checksum = zlib.crc32(_SUMMED.pack(kind, length))
    for buffer in body:
        checksum = zlib.crc32(buffer, checksum)
    return [_RECORD.pack(sync, kind, length, checksum), *body]


def _read(file: int, offset: int, length: int) -> bytes:
    data = os.pread(file, length, offset)
    while len(data) < length:
        more = os.pread(file, length - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EIO, "the file is shorter than it was")
        data += more
    return data


def owner(path: str) -> str:
    """Return who has a checkpoint open, "process 123 on host", "" where nobody says so."""
    try:
        header = trust.read(path, _HEADER.size)
        by: bytes = _HEADER.unpack(header)[4]
        return by.decode(errors="replace").strip(" \0")
    except (OSError, struct.error):
        return ""


def _why(error: OSError, path: str) -> str:
    """Return what an error says, and of which file where that is another one than the checkpoint."""
    other = f"{error.filename}: " if error.filename not in (None, path) else ""
    return f"{other}{error.strerror or error}"


def _joined(buffers: Sequence[wire.Buffer]) -> Iterator[wire.Buffer]:
    """Yield the same bytes in fewer pieces: what is small is joined, what is large is not copied."""
    small: list[wire.Buffer] = []
    for buffer in buffers:
        if len(buffer) < _CHUNK:
            small.append(buffer)
            continue
        yield b"".join(small)
        small = []
        yield buffer
    yield b"".join(small)
