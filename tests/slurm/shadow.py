"""Scripts that stand before Slurm's commands on the PATH: they write down how they were called, and what they like."""

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_SCRIPT = """\
#!/bin/bash
real={real}
here={here}
printf '%s %s\\n' "$EPOCHREALTIME" "${{*@Q}}" >>"$here/{name}.log"
{body}
exec "$real" "$@"
"""


class Called(NamedTuple):
    """One start of a command."""

    at: float  # seconds since the epoch
    words: list[str]


class Shadow:
    """A folder of such scripts, for the PATH of an executor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir(parents=True)

    def put(self, name: str, body: str = "") -> None:
        """Stand before a command; the script ends with the real one, `$real`, if `body` does not end it before.

        `$here` is `folder`. A script that was put before is replaced, also where it is just being read.
        """
        real = shutil.which(name)
        assert real is not None, f"there is no {name}"
        text = _SCRIPT.format(real=shlex.quote(real), here=shlex.quote(str(self.folder)), name=name, body=body)
        path = self._bin / f".{name}"
        path.write_text(text)
        path.chmod(0o755)
        path.rename(self._bin / name)

    def called(self, name: str) -> list[Called]:
        """Return how a command was called so far."""
        log = self.folder / f"{name}.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [Called(float(line.split(" ", 1)[0]), shlex.split(line.split(" ", 1)[1])) for line in lines]

    @property
    def env(self) -> Mapping[str, str]:
        return {"PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}"}
