"""Processes that tests look at."""

import os
import subprocess
import sys
from pathlib import Path

import tests
from tests.waiting import DEADLINE


def lives(process: int) -> bool:
    """Whether a process runs; one that is over but not yet waited for does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def run_script(path: Path, text: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a driver of its own: a script of this text, in which `tests` can be imported."""
    path.write_text(text)
    return subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        env=dict(os.environ, PYTHONPATH=str(Path(tests.__file__).parents[1])),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
