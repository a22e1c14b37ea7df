"""The bare Slurm that ours is held against: jobs without us, and what slurmctld was asked."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..cluster import up

POLL = 0.002  # s between looks for a file


def ready() -> str:
    """Point Slurm's commands at a cluster, the tests' own unless SLURM_CONF names one; return Slurm's version."""
    if "SLURM_CONF" not in os.environ:
        os.environ.update(up(lambda step: print(step, file=sys.stderr)).env)
    return _run("sbatch", "--version").strip()


def drain(settle: float = 1.0, patience: float = 300.0, *, name: str | None = None) -> None:
    """Return when no job of ours, or of that name, is left, not even completing, and the scheduler is at rest."""
    deadline = time.monotonic() + patience
    which = ["--me"] if name is None else ["--me", f"--name={name}"]
    while _run("squeue", *which, "--noheader", "--format=%A", "--states=PD,R,CF,CG,S"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the queue did not get empty within {patience:g} s")
        time.sleep(0.2)
    time.sleep(settle)


class BareJob:
    """A job whose script writes a file: what one call costs without us."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._script = _script(self._folder, 'echo done >"$1"')
        self._count = 0

    def run(self) -> float:
        """Return the seconds from before sbatch to the file being seen."""
        self._count += 1
        file = self._folder / str(self._count)
        begin = time.perf_counter()
        _run("sbatch", "--parsable", "--output=/dev/null", str(self._script), str(file))
        while not _holds_something(file):
            time.sleep(POLL)
        return time.perf_counter() - begin


class BareArray:
    """An array of `size` tasks that each run an interpreter; Slurm writes one output file a task, as by default."""

    def __init__(self, folder: Path, size: int, program: str) -> None:
        self._folder = folder
        self._size = size
        self._lines = f'{shlex.quote(sys.executable)} -c {shlex.quote(program)}\n: >"$1/$SLURM_ARRAY_TASK_ID"'

    def run(self) -> float:
        """Return the seconds from before sbatch to the last task's marker: a file made by bash itself."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        (folder / "marks").mkdir()
        (folder / "logs").mkdir()
        script = _script(folder, self._lines)
        output = f"--output={folder}/logs/%a.out"
        begin = time.perf_counter()
        _run("sbatch", "--parsable", f"--array=0-{self._size - 1}", output, str(script), f"{folder}/marks")
        while len(os.listdir(folder / "marks")) < self._size:
            time.sleep(0.02)
        return time.perf_counter() - begin


# What slurmd and slurmdbd send by themselves, and our own counting.
_NOT_ASKED = re.compile(r"MESSAGE_|ACCOUNTING_|REQUEST_COMPLETE_|REQUEST_STEP_COMPLETE|REQUEST_STATS_INFO")
_SUBMISSION = "REQUEST_SUBMIT_BATCH_JOB"
_COUNT = re.compile(r"^\s+([A-Z_]+)\s+\(\s*\d+\)\s+count:(\d+)", re.MULTILINE)


class Requests:
    """Counts what slurmctld is asked from now on, by everybody: nobody else may use the cluster meanwhile."""

    def __init__(self) -> None:
        self._before = _counts()

    def since(self) -> tuple[int, dict[str, int]]:
        """Return the number of submissions, and of each kind of query."""
        grown = {kind: count - self._before.get(kind, 0) for kind, count in _counts().items()}
        queries = {kind: count for kind, count in grown.items() if count and not _NOT_ASKED.match(kind)}
        return queries.pop(_SUBMISSION, 0), queries


def _counts() -> dict[str, int]:
    """Return how often each kind of request has come to slurmctld since its start."""
    by_type = _run("sdiag").partition("statistics by message type")[2].partition("statistics by user")[0]
    return {kind: int(count) for kind, count in _COUNT.findall(by_type)}


def _run(*command: str) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True).stdout


def _script(folder: Path, lines: str) -> Path:
    script = folder / "script.sh"
    script.write_text(f"#!/bin/bash\n{lines}\n")
    return script


def _holds_something(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False
