"""Users of this machine that a test makes: each with a login shell, a home and a password of its own.

All have root's number, so that what belongs to the tests, Slurm and the interpreter are open to them.
"""

import os
import subprocess
from pathlib import Path

from tests.cluster.install import program

PROFILES = {
    "bash": (".bashrc", ".bash_profile"),
    "dash": (None, ".profile"),
    "zsh": (".zshenv", ".zprofile"),
    "csh": (".cshrc", ".login"),
    "tcsh": (".tcshrc", ".login"),
    "fish": (".config/fish/config.fish", ".config/fish/conf.d/login.fish"),
}
"""What each shell reads always, also for a command that comes by SSH, and what it reads as a login shell only."""


class User:
    """A user; `close` takes it away again."""

    def __init__(self, folder: Path, name: str, shell: str = "bash", password: str | None = None) -> None:
        self.name = f"{name}-{os.getpid()}"
        self.shell = shell
        self.home = folder / self.name
        self.home.mkdir(parents=True)
        hashed = "*" if password is None else _hash(password)
        words = ["--non-unique", "--uid", "0", "--gid", "0", "--no-create-home", "--home-dir", str(self.home)]
        _run("useradd", *words, "--shell", program(shell), "--password", hashed, self.name)

    def write_profiles(self, always: str, login: str) -> None:
        """Have the shell run some lines whenever it starts, and others as a login shell only."""
        for name, line in zip(PROFILES[self.shell], (always, login), strict=True):
            if name is not None:
                path = self.home / name
                path.parent.mkdir(parents=True, exist_ok=True)
                only = name.endswith("login.fish")
                path.write_text(f"if status is-login\n{line}\nend\n" if only else f"{line}\n")

    def set_variable(self, name: str, value: str) -> str:
        """Return the line in which this user's shell puts a word into the environment."""
        if self.shell == "fish":
            return f"set -gx {name} '{value}'"
        return f"setenv {name} '{value}'" if self.shell in ("csh", "tcsh") else f"export {name}='{value}'"

    def close(self) -> None:
        _run("userdel", "--force", self.name)


def _hash(password: str) -> str:
    command = ["openssl", "passwd", "-6", "-stdin"]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=True).stdout.strip()


def _run(name: str, *words: str) -> None:
    done = subprocess.run([program(name), *words], capture_output=True, text=True, check=False)
    # userdel says no to a mail spool that is not there, and goes on.
    assert done.returncode in (0, 12), f"{name}: {done.stderr}"
