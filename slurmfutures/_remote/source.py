"""`work_dir` and the agent's source in it, before anything of it is used.

The loader runs this module as text. A source that is on the disk already is used only if its content has the hash that
names it, and if it and the folders above it belong to the user and are closed to others. Otherwise the source that the
client sends is unpacked in its place.
"""

import errno
import hashlib
import io
import os
import shutil
import stat
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Iterator, Optional, Tuple

from . import trust

REMEDY = "name another folder by work_dir="
_DIGEST = 20  # hexadecimal digits
_CACHE = "__pycache__"
MOST_UNPACKED = 1 << 32  # bytes of what is sent
# What there is of ours in a work_dir that has lost its `id`, as a purge of old files may take it.
_OURS = ("batches", "code", "id", "limits.json", "local_job_id", "login", "pilots", "sessions", "ship")


class Unusable(Exception):
    """`work_dir` cannot be used; the message says why and what to do."""


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
    for path, folders, _ in os.walk(folder):
        for name in folders:
            os.chmod(os.path.join(path, name), 0o700)


def give_name(part: str, folder: str) -> None:
    """Rename `part` to `folder`, in place of one there whose content is not what its name says. Raises OSError."""
    try:
        os.rename(part, folder)
        return
    except OSError:
        if not os.path.lexists(folder):
            raise
    if digest_of_folder(folder) == os.path.basename(folder):
        return  # another agent was faster
    old = part + ".old"
    os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)


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
            self.path = os.path.abspath(os.path.expanduser(work_dir))
            self.code = os.path.join(self.path, "code", digest)
            self._prepare()
            self.is_there = digest_of_folder(self.code) == digest
        except (OSError, Unusable) as error:
            self._refuse(error)
        finally:
            os.umask(umask)

    def _refuse(self, error: Exception) -> None:
        self.is_there = True  # nothing is to be sent
        self.code_of_error = "no-folder" if self._looks and isinstance(error, FileNotFoundError) else "work-dir"
        why: Any = error
        if isinstance(error, OSError):
            why = "%s; %s" % (error.strerror, REMEDY)
        if isinstance(error, trust.Untrusted):  # its words have a remedy
            why = error.strerror if error.filename == self.path else "%s: %s" % (error.filename, error.strerror)
        self.error = "work_dir %s on %s cannot be used: %s" % (self._given, os.uname()[1], why)

    def _prepare(self) -> None:
        """Make the folder, or see whether the one that is there is ours. Raises OSError, Unusable."""
        check_links(self.path)
        if not self._looks:
            try:
                os.mkdir(self.path)
            except FileExistsError:
                pass
            except FileNotFoundError:
                os.makedirs(self.path, exist_ok=True)
        real = os.path.realpath(self.path)
        about = os.lstat(real)
        if about.st_uid != os.geteuid():  # not root's either: things are made here
            words = "it is %s, and belongs to another user; %s"
            raise trust.Untrusted(self.path, words % (trust.describe(about), REMEDY))
        trust.check_folder(real)
        names = os.listdir(real)
        strange = [name for name in names if not _is_our_name(name)]
        if strange and "id" not in names and not self._looks:
            words = "it holds files that are not slurmfutures' (%s); name an empty or a new folder by work_dir="
            raise Unusable(words % ", ".join(sorted(strange)[:3]))
        if about.st_mode & 0o077 and not self._looks:
            os.chmod(real, 0o700)
        for name in names:
            self._check_entry(os.path.join(real, name), name in _OURS)
        if not self._looks:
            trust.make_folder(os.path.join(real, "code"))

    def _check_entry(self, path: str, expected: bool) -> None:
        """Raise Untrusted for what another account has put there while the folder was open to it."""
        try:
            about = os.lstat(path)
        except FileNotFoundError:  # another agent's, for a moment
            return
        if not trust.is_ours(about):
            raise trust.Untrusted(path, "it is %s and not yours: remove it" % trust.describe(about))
        if not expected or stat.S_ISREG(about.st_mode):
            return
        if not stat.S_ISDIR(about.st_mode):
            raise trust.Untrusted(path, "it is %s in place of ours: remove it" % trust.describe(about))
        if not trust.is_closed(about) and not self._looks:  # as the umask had it; nobody else got as far as this
            os.chmod(path, about.st_mode & 0o755)

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

        part = "%s.%d" % (self.code, os.getpid())
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


def _is_our_name(name: str) -> bool:
    return name in _OURS or name.startswith(("id.", ".limits.json.", ".writable."))


def check_links(path: str) -> None:
    """Raise Untrusted where a link on the way belongs to another account, which could lead it elsewhere."""
    while path != os.path.dirname(path):
        try:
            about = os.lstat(path)
        except OSError:
            about = None
        if about is not None and stat.S_ISLNK(about.st_mode) and not trust.is_ours(about):
            raise trust.Untrusted(path, "it is %s: name the folder itself" % trust.describe(about))
        path = os.path.dirname(path)


def exposed(path: str) -> str:
    """Return the folder above `path` in which other accounts can rename what is in it, "" where there is none."""
    path = os.path.realpath(path)
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        about = os.stat(path)
        if not trust.is_closed(about) and not about.st_mode & stat.S_ISVTX:
            return "%s (%s)" % (path, trust.describe(about))
    return ""
