"""What on a disk may be used: files and folders of the user or of root that no other account can write to.

Everything that is executed, unpickled, imported or followed is opened here. The loader runs this module as text, before
anything can be imported from a disk, so it imports nothing but the standard library.
"""

import os
import stat

TYPE_CHECKING = False  # `typing` itself would cost an array task more than all that is imported here
if TYPE_CHECKING:
    from typing import IO, Any, Callable, Iterator, List, Tuple

_CHUNK = 1 << 20  # bytes that are read at once
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40  # on a way, as the kernel has it
_KINDS = ((stat.S_ISREG, "a file"), (stat.S_ISDIR, "a folder"), (stat.S_ISLNK, "a link"), (stat.S_ISFIFO, "a FIFO"))


class Untrusted(PermissionError):
    """Another account could have written a file or folder, so it is not used.

    `strerror` names the owner, the mode and the remedy; `filename` is the path.
    """

    def __init__(self, path: str, why: str) -> None:
        import errno  # not for array tasks, which rarely come here

        super().__init__(errno.EPERM, why, path)


def owner_of(about: os.stat_result) -> str:
    """Return an account's name and number, "mallory (uid 1001)"."""
    try:
        import pwd

        return "%s (uid %d)" % (pwd.getpwuid(about.st_uid).pw_name, about.st_uid)
    except (ImportError, KeyError, ValueError):
        return "uid %d" % about.st_uid


def describe(about: os.stat_result) -> str:
    """Return what something is, whose, and its mode: "a folder of mallory (uid 1001), mode 0777"."""
    kind = next((word for check, word in _KINDS if check(about.st_mode)), "a special file")
    return "%s of %s, mode %04o" % (kind, owner_of(about), stat.S_IMODE(about.st_mode))


def is_ours(about: os.stat_result) -> bool:
    """Whether something belongs to the user or to root."""
    return about.st_uid in (0, os.geteuid())


def is_closed(about: os.stat_result) -> bool:
    """Whether nobody but the owner can write to something. A link has no mode of its own."""
    return stat.S_ISLNK(about.st_mode) or not about.st_mode & _WRITABLE_BY_OTHERS


def _check(path: str, about: os.stat_result, kind: "Callable[[int], bool]", words: str, closed: bool) -> None:
    if not is_ours(about):
        raise Untrusted(path, "it is %s and not yours: remove it, or name another place" % describe(about))
    if not kind(about.st_mode):
        raise Untrusted(path, "it is %s in place of a %s" % (describe(about), words))
    if closed and not is_closed(about):
        why = "it is %s, so others can write to it: check what is in it, then run `chmod go-w` on it"
        raise Untrusted(path, why % describe(about))


def check_folder(path: str, closed: bool = True) -> os.stat_result:
    """Return what lstat says of a folder that may be used. Raises Untrusted, OSError where there is none."""
    about = os.lstat(path)
    _check(path, about, stat.S_ISDIR, "folder: remove it, or name another place", closed)
    return about


def way(path: str) -> "Iterator[Tuple[str, os.stat_result]]":
    """Yield the folders and links that an absolute path leads over, links' targets included, with their lstat.

    It ends where the path does, or before what is not there.
    """
    here, left, links = "/", path.split("/")[::-1], 0
    yield here, os.lstat(here)
    while left:
        name = left.pop()
        if name == "..":
            here = os.path.dirname(here)
        elif name not in ("", "."):
            there = os.path.join(here, name)
            try:
                about = os.lstat(there)
            except OSError:
                return
            yield there, about
            if not stat.S_ISLNK(about.st_mode):
                here = there
                continue
            links += 1
            if links > _MOST_LINKS:
                return
            target = os.readlink(there)
            here = "/" if target.startswith("/") else here
            left += target.split("/")[::-1]


def make_folder(path: str) -> None:
    """Make a folder that is closed to others, or check the one that is there. Raises Untrusted, OSError."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        check_folder(path)


def open_file(path: str, flags: int = os.O_RDONLY, closed: bool = True) -> int:
    """Return a descriptor of a regular file that may be used. Follows no link, waits for no FIFO.

    A file that `flags` creates is closed to others. Raises Untrusted, OSError.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        try:
            about = os.lstat(path)
        except OSError:
            raise error from None
        if not stat.S_ISREG(about.st_mode):
            raise Untrusted(path, "it is %s in place of a file: remove it" % describe(about)) from None
        raise
    try:
        _check(path, os.fstat(handle), stat.S_ISREG, "file: remove it", closed)
    except OSError:
        os.close(handle)
        raise
    return handle


def open_reader(path: str, closed: bool = True) -> "IO[bytes]":
    """Return a file to read from, unbuffered. Raises as `open_file` does."""
    return open(open_file(path, closed=closed), "rb", 0)


def read(path: str, limit: int, closed: bool = True) -> bytes:
    """Return at most `limit` bytes of a file. Raises as `open_file` does."""
    found = []
    with open_reader(path, closed) as file:
        while limit > 0:
            data = file.read(min(limit, _CHUNK))
            if not data:
                break
            found.append(data)
            limit -= len(data)
    return b"".join(found)


def entries(folder: str) -> "List[Tuple[str, Any]]":
    """Return the names in a folder that belong to the user or to root, with their lstat; others are left out."""
    found = []
    for name in sorted(os.listdir(folder)):
        try:
            about = os.lstat(os.path.join(folder, name))
        except OSError:
            continue
        if is_ours(about):
            found.append((name, about))
    return found
