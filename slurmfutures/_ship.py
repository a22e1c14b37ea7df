"""`ship=`: a user's own modules, packages and folders, as a zip for the cluster, and anew when they are edited.

What there is to send is found when the executor is made. From then on whoever submits has it looked at again: first at
the files' sizes and times, and where these differ, or are too young to be told from the next ones, at what they hold.
"""

import ast
import errno
import hashlib
import importlib.machinery
import importlib.util
import io
import os
import pickletools
import threading
import time
import zipfile
from collections.abc import Container, Iterable, Iterator
from types import ModuleType
from typing import NamedTuple, Union

from . import _keys
from ._printable import printable
from ._remote.source import Digest

MOST_BYTES = 512 << 20  # of an item
MOST_FILES = 50_000  # the same
_TRIES = 3  # where files change while they are read
_SHARE = 0.05  # of the time is what looking may take
_BURST = 0.25  # seconds of looking that may be ahead of that
_YOUNG = 2.0  # seconds in which a file may change again with no change of its time, on the coarsest file systems
_EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_LEFT_OUT = (".pyc", ".pyo")

Item = Union[str, "os.PathLike[str]", ModuleType]


class Shipment:
    """One version of what is shipped. Equal content is equal, also in another driver's `digest`."""

    def __init__(self, digest: str, data: bytes) -> None:
        self.digest = digest
        self.data = data  # the zip
        self._names = {_module_of(name): name for name in _archive(data).namelist() if _module_of(name)}
        self._codes: dict[str, tuple[bytes, frozenset[str]]] = {}  # of the modules that were asked for

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shipment) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def code_behind(self, pickled: bytes) -> bytes:
        """Return a digest of the shipped code that a pickled function may run, nothing where that is none.

        It is that of the modules which the function names, and of those which they import. Any thread.
        """
        named = {word for _, word, _ in pickletools.genops(pickled) if isinstance(word, str)}
        waiting = [module for module in self._names if module in named]
        seen: set[str] = set()
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting.extend(self._code(module)[1])
                waiting.extend(parent for parent in _parents(module) if parent in self._names)
        if not seen:
            return b""
        return hashlib.sha256(b"".join(module.encode() + self._code(module)[0] for module in sorted(seen))).digest()

    def _code(self, module: str) -> tuple[bytes, frozenset[str]]:
        """Return a digest of a module's code, and which modules of this shipment it imports."""
        found = self._codes.get(module)
        if found is None:
            name = self._names[module]
            source = _archive(self.data).read(name)
            imports: set[str] = set()
            digest = hashlib.sha256(source).digest()
            if name.endswith(".py"):
                try:
                    tree = ast.parse(source)
                    digest = _keys.code_digest(compile(tree, name, "exec", dont_inherit=True))
                    imports = self._names.keys() & _imports(tree, module, is_package=name.endswith("/__init__.py"))
                except (SyntaxError, ValueError):  # it will be said where it is imported
                    pass
            found = self._codes[module] = digest, frozenset(imports)
        return found


class Ship:
    """What an executor ships, as it is now. Raises ValueError or TypeError for what cannot be found or shipped."""

    def __init__(self, items: Item | Iterable[Item], without: Iterable[str] = ()) -> None:
        """`without` are files that stay here: they change all the time."""
        alone = isinstance(items, str | os.PathLike | ModuleType)
        self._sources = [_find(item) for item in ([items] if alone else items)]  # type: ignore[union-attr]
        self._without = frozenset(without)
        self._lock = threading.Lock()  # guards all below
        self._files: list[_File] = []
        self._seen = 0.0  # when the files were looked at, by the clock of files
        self._spent = 0.0  # seconds of looking that are ahead of its share
        self._end = 0.0  # of the last look
        self._shipment: Shipment | None = None
        self.current()

    def current(self) -> Shipment | None:
        """Return what is to be shipped now, None where nothing is. Any thread; takes the time to look at the files.

        Where this is asked thousands of times on end, looking takes a twentieth of the time, and an edit may show some
        milliseconds later. Raises ValueError where something is not there any more, or has become too large.
        """
        if not self._sources:
            return None
        with self._lock:
            begun = time.monotonic()
            spent = max(0.0, self._spent - _SHARE * (begun - self._end))
            if self._shipment is None or spent < _BURST:
                self._look()
                self._end = time.monotonic()
                self._spent = spent + self._end - begun
            return self._shipment

    def _look(self) -> None:
        seen, files = time.time(), _listed(self._sources, self._without)
        young = max((file.mtime for file in self._files), default=0) > (self._seen - _YOUNG) * 1e9
        if files == self._files and not young:
            return
        for tries in range(1, _TRIES + 1):
            try:
                digest, data = _packed(files)
            except UnicodeEncodeError as error:
                raise ValueError(f"ship: the name of a file is no text: {error.object!r}") from error
            except OSError as error:
                if tries == _TRIES or error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise ValueError(f"ship: {printable(error.filename)} cannot be read: {error.strerror}") from error
                files = _listed(self._sources, self._without)
                continue
            again = _listed(self._sources, self._without)
            if again == files:
                break
            seen, files = time.time(), again
        self._files, self._seen = files, seen
        if self._shipment is None or digest != self._shipment.digest:
            self._shipment = Shipment(digest, data)


# ---- what is meant


class _Source(NamedTuple):
    """Where an item is: files and folders, each with what its name begins with over there."""

    told: str  # the item, for messages
    roots: tuple[tuple[str, str], ...]


def _find(item: object) -> _Source:
    """Return where an item is. Raises ValueError, or TypeError for what can be none."""
    if isinstance(item, ModuleType):
        return _of_module(item)
    if isinstance(item, os.PathLike) or (isinstance(item, str) and os.sep in item):
        return _of_path(os.fspath(item))
    if isinstance(item, str):
        return _of_name(item)
    raise TypeError(f"ship cannot hold {item!r}: it takes modules, names of modules, and paths")


def _of_path(given: object) -> _Source:
    if not isinstance(given, str):
        raise TypeError(f"ship cannot hold {given!r}: a path is text")
    told, path = repr(given), os.path.abspath(os.path.expanduser(given))
    if os.path.basename(path) == "__init__.py":
        path = os.path.dirname(path)
    name = os.path.basename(path)
    if os.path.isdir(path):
        package = os.path.isfile(os.path.join(path, "__init__.py"))
        _check_name(told, name if package else "folder")
        return _Source(told, ((name if package else "", path),))
    if not os.path.isfile(path):
        raise ValueError(f"ship={told}: there is no {printable(path)}")
    if not name.endswith((".py", *_EXTENSIONS)):
        raise ValueError(f"ship={told} is no module: that is a .py file, or a folder; other files go by put()")
    _check_name(told, name.partition(".")[0])
    return _Source(told, ((name, path),))


def _check_name(told: str, name: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"ship={told} cannot be imported: {name!r} is no name of a module")


def _of_name(name: str) -> _Source:
    told = repr(name)
    words = name.split(".")
    for end in range(1, len(words) + 1):
        prefix = ".".join(words[:end])
        spec = _spec(told, prefix)
        if spec is None:
            break
        if end == len(words) or spec.origin not in (None, "namespace"):
            if end < len(words) and _spec(told, name) is None:
                break
            return _located(told, prefix, spec.origin, spec.submodule_search_locations)
    path = f"; for a path write {os.path.join(os.curdir, name)!r}" if os.path.exists(name) else ""
    raise ValueError(f"ship={told}: there is no module of this name that can be imported here{path}")


def _spec(told: str, name: str) -> importlib.machinery.ModuleSpec | None:
    """Return how a module is imported, None where it cannot be."""
    try:
        return importlib.util.find_spec(name) if all(name.split(".")) else None
    except ModuleNotFoundError:
        return None
    except Exception as error:  # a package that is imported on the way may raise anything
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"ship={told}: {name} cannot be imported here: {printable(said)}") from error


def _of_module(module: ModuleType) -> _Source:
    name, told = module.__name__, repr(module)
    if name == "__main__":
        raise ValueError(f"ship={told}: functions of the main script travel by themselves")
    if "." in name:
        return _of_name(name)
    path = getattr(module, "__path__", None)
    return _located(told, name, getattr(module, "__file__", None), None if path is None else list(path))


def _located(told: str, name: str, file: str | None, folders: Iterable[str] | None) -> _Source:
    prefix = name.replace(".", "/")
    if folders is not None:
        found = [folder for folder in folders if os.path.isdir(folder)]
        if found:
            return _Source(told, tuple((prefix, os.path.abspath(folder)) for folder in found))
    elif file is not None and os.path.isfile(file) and file.endswith((".py", *_EXTENSIONS)):
        return _Source(
            told, ((f"{os.path.dirname(prefix)}/{os.path.basename(file)}".lstrip("/"), os.path.abspath(file)),)
        )
    raise ValueError(
        f"ship={told} cannot be shipped: it has no file of its own with source ({printable(file or 'none')})"
    )


# ---- its files


class _File(NamedTuple):
    """A file, and by what a change of it is noticed."""

    name: str  # over there
    path: str
    mtime: int  # ns
    size: int
    inode: int
    runs: bool  # as a program


def _listed(sources: Iterable[_Source], without: Container[str]) -> list[_File]:
    """Return all files there are, by name. Raises ValueError."""
    found: dict[str, tuple[_File, str]] = {}
    for source in sources:
        own: dict[str, _File] = {}
        for prefix, root in source.roots:
            for file in _files_of(source.told, prefix, root):
                if file.path not in without:
                    own.setdefault(file.name, file)
        _check_size(source.told, own.values())
        for name, file in own.items():
            other, told = found.setdefault(name, (file, source.told))
            if other.path != file.path:
                text = f"ship={source.told} and ship={told} both have {name}: {file.path} and {other.path}"
                raise ValueError(printable(text))
    return [found[name][0] for name in sorted(found)]


def _files_of(told: str, prefix: str, root: str) -> Iterator[_File]:
    try:
        about = os.stat(root)
    except OSError as error:
        raise ValueError(f"ship={told}: {printable(root)} cannot be read: {error.strerror}") from error
    if os.path.isfile(root):
        yield _file(prefix, root, about)
        return
    yield from _walk(prefix, root, frozenset(((about.st_dev, about.st_ino),)))


def _walk(prefix: str, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[_File]:
    """Yield the files of a folder that are shipped; `above` are the folders that it is in, against links in circles."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:  # just removed
        return
    except OSError as error:
        raise ValueError(f"ship: {printable(folder)} cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in ("__pycache__", "CVS") or entry.name.endswith(_LEFT_OUT):
            continue
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        try:
            about = entry.stat()
            if entry.is_file():
                yield _file(name, entry.path, about)
            elif entry.is_dir() and not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                inner = about.st_dev, about.st_ino
                if inner not in above:
                    yield from _walk(name, entry.path, above | {inner})
        except OSError:  # just removed, or a link to nowhere
            continue


def _file(name: str, path: str, about: os.stat_result) -> _File:
    return _File(name, path, about.st_mtime_ns, about.st_size, about.st_ino, bool(about.st_mode & 0o100))


def _check_size(told: str, files: Iterable[_File]) -> None:
    number = size = 0
    for file in files:
        number += 1
        size += file.size
    if size > MOST_BYTES or number > MOST_FILES:
        raise ValueError(
            f"ship={told} has {size / 1e6:.0f} MB in {number} files, and at most {MOST_BYTES >> 20} MB in "
            f"{MOST_FILES} files are shipped: ship the package alone, and send data by put()"
        )


def _packed(files: Iterable[_File]) -> tuple[str, bytes]:
    """Return files as a zip, and the digest that says what they hold. Raises OSError."""
    digest, target = Digest(), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            with open(file.path, "rb") as source:
                data = source.read()
            digest.add(file.name, file.runs, data)
            entry = zipfile.ZipInfo(file.name)
            entry.external_attr = (0o700 if file.runs else 0o600) << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 1)
    return digest.text(), target.getvalue()


def _archive(data: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(data))


# ---- its code


def _module_of(name: str) -> str:
    """Return the name under which a file is imported, "" where it is no module."""
    folder, _, last = name.rpartition("/")
    if not last.endswith((".py", *_EXTENSIONS)):
        return ""
    stem = last.partition(".")[0]
    words = [*folder.split("/"), stem] if folder else [stem]
    if stem == "__init__":
        words.pop()
    return ".".join(words) if words and all(word.isidentifier() for word in words) else ""


def _parents(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _imports(tree: ast.AST, module: str, *, is_package: bool) -> set[str]:
    """Return the names of all that a module's source imports, wherever in it, that may be modules."""
    found: set[str] = set()
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            words = package.split(".")
            base = ".".join(words[: len(words) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return found | {parent for name in found for parent in _parents(name)}
