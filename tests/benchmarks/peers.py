"""Others with resident workers on Slurm, installed from PyPI at the time, each in an environment of its own."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from .slurm import drain

PATIENCE = 300.0  # s for one answer
ENDING = 30.0  # s to end by itself
ROOT = Path(__file__).parents[2]


class Peer(NamedTuple):
    """One way of using one of them."""

    way: str  # of `peer`
    words: str
    requirement: str
    distributions: Sequence[str]  # whose versions are told
    times: float  # how much faster ours is wanted to be
    calls: int  # enough to know what one takes


_EXECUTORLIB = "executorlib[cluster]", ["executorlib", "pysqa"]
_PARSL = "parsl", ["parsl"]
_DASK = "dask-jobqueue", ["dask-jobqueue", "distributed"]

PEERS = (
    Peer("executorlib-allocation", "block_allocation=True in an allocation", *_EXECUTORLIB, times=5, calls=10_000),
    Peer("executorlib-jobs", "block_allocation=True, jobs", *_EXECUTORLIB, times=5, calls=500),
    Peer("parsl", "HTEX, ParslPoolExecutor", *_PARSL, times=30, calls=10_000),
    Peer("dask-map", "Client.map", *_DASK, times=60, calls=10_000),
    Peer("dask-executor", "its Executor", *_DASK, times=60, calls=10_000),
)


class PeerFailed(Exception):
    """It could not be installed, or did not do what was asked; says why."""


class Process:
    """A peer whose workers run."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log
        self.versions = ", ".join(self._answer())

    def seconds(self, calls: int) -> float:
        """Return how long so many no-ops take; raises PeerFailed."""
        assert self._process.stdin
        with suppress(BrokenPipeError):  # no answer comes either
            print(calls, file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> Any:
        assert self._process.stdout
        timer = threading.Timer(PATIENCE, _kill, [self._process])
        timer.start()
        begin = time.monotonic()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            late = time.monotonic() - begin >= PATIENCE
            raise PeerFailed(
                f"no answer in {PATIENCE:g} s" if late else _last_line(self._log.read_text(errors="replace"))
            )
        return json.loads(line)


@contextmanager
def running(peer: Peer, workers: int, folder: Path) -> Iterator[Process]:
    """Have a peer installed and its workers started; none of its jobs are left in the end. Raises PeerFailed."""
    python = _installed(peer, folder)
    place = folder / peer.way
    place.mkdir()
    name = f"slurmfutures-bench-{os.getpid()}-{peer.way}"
    environment = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",  # its jobs run programs that came with it
        "PYTHONPATH": str(ROOT),
        "SBATCH_JOB_NAME": name,  # goes before what its scripts say
    }
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [str(python), "-m", f"{__package__}.peer", peer.way, str(workers), *peer.distributions],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=place,
            env=environment,
            text=True,
            start_new_session=True,
        )
    try:
        yield Process(process, place / "log")
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=ENDING)  # it ends with its input
    finally:
        _kill(process)
        process.communicate()
        subprocess.run(["scancel", f"--name={name}"], check=True)
        drain(name=name)


def _installed(peer: Peer, folder: Path) -> Path:
    """Return the interpreter of an environment that has it."""
    place = folder / f"environment-{peer.distributions[0]}"
    python = place / "bin" / "python"
    if not python.exists():
        for command in (
            [sys.executable, "-m", "venv", str(place)],
            [str(python), "-m", "pip", "install", peer.requirement],
        ):
            ran = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if ran.returncode:
                raise PeerFailed(f"{shlex.join(command[1:])}: {_last_line(ran.stdout)}")
    return python


def _kill(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(text: str) -> str:
    lines = text.split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word")
