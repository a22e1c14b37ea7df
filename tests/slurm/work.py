# ruff: noqa: UP006, UP035 - any Python from 3.8 on may import this
"""What the jobs of these tests do, beside what `tests.calls` has. Light: every job imports it."""

import os
import signal
import time
from typing import Any, Callable, Dict, NoReturn, Tuple


def write(path: str, line: str) -> None:
    """Append a line; lines of several jobs do not mix."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, line.encode() + b"\n")
    finally:
        os.close(handle)


def job() -> str:
    """Return the id of the job, or of the array, that this is called in, and how often it was requeued."""
    name = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
    return "{} {}".format(name, os.environ.get("SLURM_RESTART_COUNT", "0"))


def write_job(path: str) -> str:
    write(path, job())
    return job()


def counted(path: str, line: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Write down that this runs, and call something."""
    write(path, str(line))
    return function(*arguments)


def place() -> Tuple[str, int, str]:
    """Return the job that this is called in, the process, and how often the job was requeued."""
    return os.environ["SLURM_JOB_ID"], os.getpid(), os.environ.get("SLURM_RESTART_COUNT", "0")


def wait_for_the_second_run(path: str) -> str:
    """Write down each run of the job; the first has no end of its own."""
    write_job(path)
    while os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        time.sleep(60)
    return job()


def variables() -> Dict[str, str]:
    return dict(os.environ)


def use_memory(megabytes: int) -> NoReturn:
    """Write to that much memory."""
    kept = []
    for _ in range(megabytes):
        kept.append(bytearray(os.urandom(1024) * 1024))
    raise AssertionError("there was enough")


def kill_the_pilot() -> NoReturn:
    """End the process that this worker belongs to, but not the worker."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
    raise AssertionError("not reached")


def kill_the_batch_script() -> NoReturn:
    """End all that could tell how this ended."""
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def end_only_by_force(folder: str) -> NoReturn:
    """Take no notice of SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    from tests import calls

    calls.mark(folder)
    while True:
        time.sleep(60)


def run_twice(path: str, number: int, twice: int, folder: str) -> str:
    """Write down that this call ran; number `twice` ends in its second run only, others wait at the gate, if any."""
    run = os.environ.get("SLURM_RESTART_COUNT", "0")
    write(path, f"{number} {run}")
    if number == twice and run == "0":
        time.sleep(600)
    if number != twice and folder:
        from tests import calls

        calls.pass_gate(folder)
    return job()


def fill(path: str, size: int = 1 << 30) -> None:
    """Write so much, or as much as there is room for."""
    with open(path, "wb", 0) as file:
        try:
            while file.tell() < size:
                file.write(bytes(4096))
        except OSError:
            pass


def fill_and_return(path: str, value: int) -> int:
    fill(path)
    return value


def noise_at(large: int, number: int, size: int) -> bytes:
    """Return many bytes for one number, and few for all others."""
    return os.urandom(size if number == large else 8)
