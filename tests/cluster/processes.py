"""Processes as /proc tells of them, and waiting for a condition."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from .errors import ClusterError

POLL_INTERVAL = 0.02  # s


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Return as soon as `condition()` holds; after `seconds` raise ClusterError with the text `otherwise`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{otherwise} within {seconds:g} s")
        time.sleep(POLL_INTERVAL)


def pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def environment(pid: int) -> dict[str, str]:
    """What the process was started with; empty for one that is gone or may not be read."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return {}
    return {name: value for name, is_set, value in (item.partition("=") for item in text.split("\0")) if is_set}


def state(pid: int) -> str:
    """One letter as in ps(1), "T" for stopped; empty for a process that is gone, and for a zombie."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return "" if letter in "ZX" else letter


def name(pid: int) -> str:
    """The first 15 characters of its program's name; empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def has_open(pid: int, file: Path) -> bool:
    """Whether one of the process's descriptors is for `file`."""
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{number}") == str(file) for number in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_all(find: Callable[[], list[int]], seconds: float = 30) -> None:
    """Kill what `find` finds until it finds nothing: a process may have forked meanwhile."""

    def none_left() -> bool:
        found = [pid for pid in find() if state(pid)]
        for pid in found:
            send(pid, signal.SIGKILL)
        return not found

    wait_until(none_left, seconds, "processes of the cluster did not end")
