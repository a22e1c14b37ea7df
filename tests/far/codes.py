"""A daemon that asks for a password and then for a code, as sites with one-time codes do."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from tests.cluster.install import program
from tests.far.sshd import Sshd
from tests.far.users import User

# Two modules that ask, one after the other: the second takes whatever it is told for a code.
_PAM = """\
auth requisite pam_unix.so nodelay
auth required pam_ftp.so users={user}
account required pam_permit.so
session required pam_permit.so
"""
CODE = "guest login"  # in its question


@contextmanager
def asking_daemon(folder: Path, user: User, env: Mapping[str, str] | None = None) -> Iterator[Sshd]:
    """A daemon that asks this user twice; only one at a time in a process."""
    name = f"sf-sshd-{os.getpid()}"  # PAM's name of a service is that of the program
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / name
    shutil.copy(program("sshd"), binary)
    rules = Path("/etc/pam.d", name)
    rules.write_text(_PAM.format(user=user.name))
    lines = ["UsePAM yes", "KbdInteractiveAuthentication yes", "PubkeyAuthentication no"]
    try:
        with closing(Sshd(folder / "sshd", folder, env=env, lines=lines, binary=str(binary))) as sshd:
            yield sshd
    finally:
        rules.unlink()
