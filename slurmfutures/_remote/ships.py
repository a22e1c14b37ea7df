"""The users' own code, as their drivers ship it: each version in work_dir/ship/<hash>, for all who ship the same.

A version comes as a zip and gets its name when all of it is there. Its time says when it was last wanted.
"""

import os
import shutil
import zipfile


def folder_of(work_dir: str, name: str) -> str:
    """Return where a version is, to be put into sys.path."""
    return os.path.join(work_dir, "ship", name)


def is_whole(folder: str, files: int) -> bool:
    """Whether a version is there with all of its files, of which a site may have cleared some away; note its use."""
    try:
        os.utime(folder)
    except OSError:
        return False
    return sum(len(names) for path, _, names in os.walk(folder) if os.path.basename(path) != "__pycache__") >= files


def store(folder: str, archive: str, files: int) -> None:
    """Unpack a version, and remove its zip. Raises OSError, leaving nothing."""
    part = "%s.%s.%d" % (folder, os.uname().nodename, os.getpid())
    try:
        os.makedirs(part, 0o700, exist_ok=True)
        with zipfile.ZipFile(archive) as file:
            file.extractall(part)
            for entry in file.infolist():
                if (entry.external_attr >> 16) & 0o100:
                    os.chmod(os.path.join(part, entry.filename), 0o700)
        _give_name(part, folder, files)
    except zipfile.BadZipFile as error:
        raise OSError("what was shipped is damaged: %s" % error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        try:
            os.unlink(archive)
        except OSError:
            pass


def _give_name(part: str, folder: str, files: int) -> None:
    try:
        os.rename(part, folder)
        return
    except OSError:
        if not os.path.isdir(folder):
            raise
    if is_whole(folder, files):
        return  # another agent was faster
    old = part + ".old"
    os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)
