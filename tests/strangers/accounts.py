"""A second account of this machine, whose owner means no good."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.install import program


class Stranger:
    """An account without rights; `close` removes it. For root."""

    def __init__(self, name: str = "mallory") -> None:
        self.name = f"{name}-{os.getpid()}"
        _run("useradd", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/sh", self.name)
        entry = pwd.getpwnam(self.name)
        self.uid, self.gid = entry.pw_uid, entry.pw_gid

    def run(self, command: Sequence[str], **more: Any) -> "subprocess.CompletedProcess[bytes]":
        """Run a command as this account, in `/`."""
        words: dict[str, Any] = {"cwd": "/", "capture_output": True, **more}
        check: bool = words.pop("check", True)
        return subprocess.run(command, check=check, user=self.uid, group=self.gid, extra_groups=[], **words)

    def start(self, command: Sequence[str], **more: Any) -> "subprocess.Popen[bytes]":
        """Start a command as this account, in `/`."""
        return subprocess.Popen(command, user=self.uid, group=self.gid, extra_groups=[], cwd="/", **more)

    def own(self, *paths: Path) -> None:
        """Give files and folders, with all that is in them, to this account, as if it had made them."""
        for path in paths:
            for each in (path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())):
                os.chown(each, self.uid, self.gid, follow_symlinks=False)

    def close(self) -> None:
        _run("userdel", "--force", self.name)


def _run(name: str, *words: str) -> None:
    done = subprocess.run([program(name), *words], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 12), f"{name}: {done.stderr}"  # 12: no mail spool
