"""Files in folders that other accounts can write to: what is swapped in for them meanwhile is not followed.

A folder is opened once. What is in it is reached by that descriptor and a name, never by a path again.
"""

import contextlib
import errno
import os
import stat
from typing import Optional

from . import trust

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = getattr(os, "O_PATH", 0)  # Linux has it
_HELD = _PATH | os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40
SWAPPED = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EMLINK)  # errors where something has taken another's place
_NAMELESS = ("", ".", "..")


def is_name(text: str) -> bool:
    """Whether a text can be the name of something in a folder."""
    return text not in _NAMELESS and "/" not in text and "\0" not in text


def resolve(path: str) -> str:
    """Return an absolute path of which neither the last part nor the folder that it is in is a link.

    Links in these two places are followed if they belong to the user or to root. Nothing needs to be there. Raises
    Untrusted for a link of another account, OSError for links that lead in a circle.
    """
    folder, name = os.path.split((path if os.path.isabs(path) else os.path.abspath(path)).rstrip("/"))
    return os.path.realpath(path) if name in _NAMELESS else _followed(os.path.join(_followed(folder or "/"), name))


def _followed(path: str) -> str:
    for _ in range(_MOST_LINKS):
        target = _own_link(path)
        if target is None:
            return path
        path = os.path.join(os.path.realpath(os.path.dirname(path)), target)
        folder, name = os.path.split(path.rstrip("/"))
        path = os.path.realpath(path) if name in _NAMELESS else os.path.join(os.path.realpath(folder), name)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _own_link(path: str) -> Optional[str]:
    """Return where a link leads that belongs to the user or to root, None where there is no link."""
    try:
        # By one descriptor, so that the link that is judged is the one that is read.
        handle = os.open(path, _PATH | os.O_NOFOLLOW | os.O_CLOEXEC) if _PATH else None
        about = os.lstat(path) if handle is None else os.fstat(handle)
    except OSError:
        return None  # whoever uses the path meets the same error
    try:
        if not stat.S_ISLNK(about.st_mode):
            return None
        if not trust.is_ours(about):
            why = "it is %s and not yours: name the place that it leads to" % trust.describe(about)
            raise trust.Untrusted(path, why)
        return os.readlink(path) if handle is None else os.readlink("", dir_fd=handle)
    finally:
        if handle is not None:
            os.close(handle)


def hold(path: str) -> int:
    """Return a descriptor of a folder, by which what is in it can be reached and renamed, but not listed."""
    return os.open(path, _HELD)


def chmod(path: str, mode: int) -> None:
    """Change the mode of what is no link. Raises OSError, for a link too."""
    handle = os.open(path, _PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        os.chmod("/proc/self/fd/%d" % handle, mode)  # what is opened by O_PATH has no fchmod
    finally:
        os.close(handle)


def empty(folder: int) -> None:
    """Remove what is in a folder that is open, as far as that can be done."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            try:
                os.unlink(name, dir_fd=folder)
            except OSError:
                remove_folder(folder, name)


def remove_folder(folder: int, name: str) -> None:
    """Remove a folder in a folder that is open, with all that is in it. Raises OSError."""
    handle = os.open(name, FOLDER, dir_fd=folder)
    try:
        with contextlib.suppress(OSError):
            os.fchmod(handle, 0o700)
        empty(handle)
    finally:
        os.close(handle)
    os.rmdir(name, dir_fd=folder)
