"""The users' own code, as their drivers ship it: each version in work_dir/ship/<hash>, for all who ship the same.

A version comes as a zip and gets its name when all of it is there. It is used if its content has the hash that names
it, and if all of it belongs to the user and is closed to others. Its time says when it was last wanted.
"""

import os
import shutil

from . import ids, source


def folder_of(work_dir: str, name: str) -> str:
    """Return where a version is, to be put into sys.path. Raises ValueError for what is not its hash."""
    return os.path.join(work_dir, "ship", ids.digest(name))


def is_whole(folder: str) -> bool:
    """Whether a version is there with the content that its name says; note its use."""
    try:
        os.utime(folder)
    except OSError:
        return False
    return source.is_whole(folder)


def store(folder: str, archive: str) -> None:
    """Unpack a version, and remove its zip. Raises OSError, leaving nothing."""
    part = source.new_name(folder)
    try:
        source.unpack(archive, part)
        source.give_name(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        try:
            os.unlink(archive)
        except OSError:
            pass
