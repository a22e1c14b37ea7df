"""`work_dir` and the agent's source in it, before anything of it is used.

The loader runs this module as text. A source that is on the disk already is used only if its content has the hash that
names it, and if it and the folders above it belong to the user and are closed to others. Otherwise the source that the
client sends is unpacked in its place.
"""

import errno
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import time
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Iterator, List, Optional, Sequence, Tuple

from . import trust

REMEDY = "name another folder by work_dir="
_DIGEST = 20  # hexadecimal digits
_CACHE = "__pycache__"
_ENTERED_BY_OTHERS = stat.S_IXGRP | stat.S_IXOTH
MOST_UNPACKED = 1 << 32  # bytes of what is sent
_RENAMES = 10  # tries; each is lost to another agent, or to something that cannot be renamed
_LOCK_TIMEOUT = 10.0  # seconds; who holds the lock may have been stopped
# What there is of ours in a work_dir.
_FOLDERS = ("batches", "code", "login", "pilots", "sessions", "ship")
_LOCK = "unpack.lock"
_FILES = ("id", "limits.json", "local_job_id", _LOCK)
_ID = re.compile(rb"[0-9a-f]{12}\s*")
_CODE_NAME = re.compile(r"[0-9a-f]{20}(\..+)?")


class Unusable(Exception):
    """`work_dir` cannot be used; the message says why and what to do."""


def refusal(given: str, path: str, error: Exception) -> str:
    """Return the line that says why a work_dir cannot be used, and what to do; `given` is the user's word for it."""
    why: Any = error
    if isinstance(error, OSError):
        why = "%s; %s" % (error.strerror, REMEDY)
    if isinstance(error, trust.Untrusted):  # its words have a remedy
        why = error.strerror if error.filename == path else "%s: %s" % (error.filename, error.strerror)
    return "work_dir %s on %s cannot be used: %s" % (given, os.uname()[1], why)


class Digest:
    """The hash that names files, given in the order of their names."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, runs: bool, data: bytes) -> None:
        """Take a file in; `runs` says whether it can be executed."""
        self._hash.update(b"%b\0%d %d\0" % (os.fsencode(name), runs, len(data)))
        self._hash.update(data)

    def text(self) -> str:
        return self._hash.hexdigest()[:_DIGEST]


def digest_of_folder(folder: str) -> Optional[str]:
    """Return the hash of what is in a folder, None where not all of it is the user's and closed to others.

    Bytecode has no part in the hash, but it is executed: it must belong to the user and be closed like all else.
    """
    digest = Digest()
    try:
        trust.check_folder(folder)
        for name, path in sorted(_walk("", folder)):
            with trust.open_reader(path) as file:
                runs = bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR)
                digest.add(name, runs, file.read())
    except OSError:
        return None
    return digest.text()


def _walk(prefix: str, folder: str, cache: bool = False) -> Iterator[Tuple[str, str]]:
    """Yield name and path of each file that counts. Raises OSError for what is not as it should be."""
    for entry in os.scandir(folder):
        about = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode):
            trust.check_folder(entry.path)
            yield from _walk(prefix + entry.name + "/", entry.path, cache or entry.name == _CACHE)
        elif not cache:
            yield prefix + entry.name, entry.path
        elif not (stat.S_ISREG(about.st_mode) and trust.is_ours(about) and trust.is_closed(about)):
            raise trust.Untrusted(entry.path, "it is %s" % trust.describe(about))


def unpack(archive: Any, folder: str) -> None:
    """Unpack a zip into a new folder that is closed to others. Raises OSError."""
    import zipfile  # takes longer than all else that an agent imports

    os.mkdir(folder, 0o700)
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            if sum(entry.file_size for entry in entries) > MOST_UNPACKED:
                raise OSError(errno.EFBIG, "what was sent has more than %d bytes" % MOST_UNPACKED)
            for entry in entries:
                path = file.extract(entry, folder)  # within the folder, whatever the name
                os.chmod(path, 0o700 if entry.is_dir() or (entry.external_attr >> 16) & 0o100 else 0o600)
    except OSError:
        raise
    except Exception as error:  # of a dozen kinds: BadZipFile, zlib.error, NotImplementedError, RuntimeError...
        raise OSError(errno.EBADMSG, "what was sent is damaged: %s" % error) from error
    for path, folders, files in [*os.walk(folder)]:
        for name in folders:
            os.chmod(os.path.join(path, name), 0o700)
        if _CACHE not in folders and any(name.endswith(".py") for name in files):
            os.mkdir(os.path.join(path, _CACHE), 0o700)  # by a job's umask it might be open to others


def is_whole(folder: str) -> bool:
    """Whether a folder is there with the content that its name says, and nobody else can put another in its place."""
    try:
        trust.check_folder(os.path.dirname(folder))
    except OSError:
        return False
    return digest_of_folder(folder) == os.path.basename(folder)


def new_name(folder: str) -> str:
    """Return a name beside a folder's that no other process takes, on whatever machine, for what is to become it."""
    return "%s.%s" % (folder, os.urandom(6).hex())


def give_name(part: str, folder: str) -> None:
    """Rename `part` to `folder`, in place of one there whose content is not what its name says. Raises OSError.

    Agents do it one after the other: one that has found a spoiled folder would else take away what another has put in
    its place, while that one imports it.
    """
    lock = _lock(os.path.join(os.path.dirname(os.path.dirname(folder)), _LOCK))
    try:
        if not is_whole(folder):  # another agent may have been faster
            _replace(part, folder)
    finally:
        os.close(lock)


def _replace(part: str, folder: str) -> None:
    for _ in range(_RENAMES):
        try:
            os.rename(part, folder)
            return
        except OSError as error:
            problem = error
        if is_whole(folder):
            return  # by an agent that got no lock
        old = new_name(folder)
        try:
            os.rename(folder, old)
        except FileNotFoundError:
            continue
        shutil.rmtree(old, ignore_errors=True)
    raise problem


def _lock(path: str) -> int:
    """Return a descriptor that holds the lock, or one without where locks do not work here or are held for too long."""
    import fcntl

    handle = trust.open_file(path, os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
        except OSError:  # a file system without locks
            pass
        return handle


class Place:
    """`work_dir` as the loader finds it.

    With `looks` it must be there and nothing is made in it. `error` says why it cannot be used, if it cannot.
    """

    def __init__(self, work_dir: str, digest: str, looks: bool) -> None:
        self.error = self.code_of_error = ""
        self._given = work_dir
        self._looks = looks
        self._digest = digest
        umask = os.umask(0o077)
        try:
            path = os.path.expanduser(work_dir)
            self.path = os.path.abspath(path)
            self.code = os.path.join(self.path, "code", digest)
            if not path or path.startswith("~"):
                words = "nobody's home has the name %s" % path.split("/")[0] if path else "no folder is named"
                raise Unusable("%s; %s" % (words, REMEDY))
            self._prepare()
            self.is_there = is_whole(self.code)
        except (OSError, Unusable) as error:
            self._refuse(error)
        finally:
            os.umask(umask)

    def _refuse(self, error: Exception) -> None:
        self.is_there = True  # nothing is to be sent
        self.code_of_error = "no-folder" if self._looks and isinstance(error, FileNotFoundError) else "work-dir"
        self.error = refusal(self._given, self.path, error)

    def _prepare(self) -> None:
        """Make the folder, or see whether the one that is there is ours. Raises OSError, Unusable."""
        check_links(self.path)
        real = os.path.realpath(self.path)
        if not self._looks:
            _make_folders(real)
            check_links(self.path)  # there may have been nothing yet where somebody else has a link now
        about = os.lstat(real)
        if about.st_uid != os.geteuid():  # not root's either: things are made here
            words = "it is %s, and belongs to another user; %s"
            raise trust.Untrusted(self.path, words % (trust.describe(about), REMEDY))
        trust.check_folder(real)
        names = os.listdir(real)
        strange = [] if self._looks or _has_id(real) else _strange(real, names)
        if strange:
            words = "it holds files that are not slurmfutures' (%s); name an empty or a new folder by work_dir="
            raise Unusable(words % ", ".join(sorted(strange)[:3]))
        if about.st_mode & 0o077 and not self._looks:
            os.chmod(real, 0o700)
        for name in names:
            self._check_entry(os.path.join(real, name))
        if not self._looks:
            trust.make_folder(os.path.join(real, "code"))

    def _check_entry(self, path: str) -> None:
        """Raise Untrusted for what another account has put there while the folder was open to it."""
        try:
            about = os.lstat(path)
        except FileNotFoundError:  # another agent's, for a moment
            return
        if not trust.is_ours(about):
            raise trust.Untrusted(path, "it is %s and not yours: remove it" % trust.describe(about))
        name = os.path.basename(path)
        right = stat.S_ISREG(about.st_mode) or (name in _FOLDERS and stat.S_ISDIR(about.st_mode))
        if name in _FOLDERS + _FILES and not right:
            raise trust.Untrusted(path, "it is %s in place of ours: remove it" % trust.describe(about))
        if stat.S_ISDIR(about.st_mode) and name in _FOLDERS and not trust.is_closed(about) and not self._looks:
            os.chmod(path, about.st_mode & 0o755)  # it is as some umask had it

    def install(self, source: bytes) -> None:
        """Have the package imported from the disk, unpacking `source` where it is not there. Sets `error`."""
        if self.error:
            return
        if not self.is_there:
            if self._looks:
                sys.meta_path.insert(0, _Memory(source))
                return
            umask = os.umask(0o077)
            try:
                self._store(source)
            except OSError as error:
                self._refuse(error)
                return
            finally:
                os.umask(umask)
        sys.path.insert(0, self.code)
        sys.modules[__package__].__path__ = [os.path.join(self.code, __package__)]

    def _store(self, source: bytes) -> None:
        import compileall

        part = new_name(self.code)
        try:
            unpack(io.BytesIO(source), part)
            compileall.compile_dir(part, quiet=2)
            give_name(part, self.code)
        finally:
            shutil.rmtree(part, ignore_errors=True)


class _Memory:
    """Imports the package from a zip in memory: nothing is made on a disk that is only looked at."""

    def __init__(self, source: bytes) -> None:
        import zipfile

        self._files = zipfile.ZipFile(io.BytesIO(source))
        self._names = frozenset(self._files.namelist())

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        file = name.replace(".", "/")
        loader: Any = self
        for found, is_package in ((file + ".py", False), (file + "/__init__.py", True)):
            if found in self._names:
                return ModuleSpec(name, loader, origin=found, is_package=is_package)
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        assert module.__spec__.origin is not None
        origin = module.__spec__.origin
        exec(compile(self._files.read(origin), origin, "exec"), module.__dict__)


def _make_folders(path: str) -> None:
    """Make a folder, and those above it that are missing. By its mode: a default ACL takes the place of the umask."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        if os.path.dirname(path) == path:
            raise
        _make_folders(os.path.dirname(path))
        _make_folders(path)


def _has_id(work_dir: str) -> bool:
    """Whether a folder has the name that we give to a work_dir: see `spool.identify`."""
    try:
        return _ID.fullmatch(trust.read(os.path.join(work_dir, "id"), 100, closed=False)) is not None
    except OSError:
        return False


def _strange(work_dir: str, names: Sequence[str]) -> List[str]:
    """Return what is not ours in a folder without an `id`, which a purge of old files may have taken."""
    strange = [
        name
        for name in names
        if name not in _FOLDERS + _FILES and not name.startswith(("id.", ".limits.json.", ".writable."))
    ]
    if not strange and "code" in names and os.path.isdir(os.path.join(work_dir, "code")):
        strange = [
            "code/" + name for name in os.listdir(os.path.join(work_dir, "code")) if not _CODE_NAME.fullmatch(name)
        ]
    return strange


def check_links(path: str) -> None:
    """Raise Untrusted where a link on the way belongs to another account, which could lead it elsewhere."""
    for place, about in trust.way(path):
        if stat.S_ISLNK(about.st_mode) and not trust.is_ours(about):
            raise trust.Untrusted(place, "it is %s: name the folder itself" % trust.describe(about))


def exposed(path: str) -> str:
    """Return a folder on the way to `path` in which other accounts can rename what is in it, "" where there is none.

    Whoever owns "/" could do anything; that need not be called root where user ids are mapped, as in a container. What
    is below a folder that others cannot enter is out of their reach.
    """
    real = os.path.realpath(path)
    root = os.lstat("/").st_uid
    closed = real + "/"
    for place, about in trust.way(path):
        if place == real or place.startswith(closed) or not stat.S_ISDIR(about.st_mode):
            continue
        if trust.is_ours(about) and not about.st_mode & _ENTERED_BY_OTHERS:
            closed = place + "/"
        theirs = not trust.is_ours(about) and about.st_uid != root
        if theirs or not (trust.is_closed(about) or about.st_mode & stat.S_ISVTX):
            return "%s (%s)" % (place, trust.describe(about))
    return ""
