"""How an array task's results get their names: temporary name, fsync, rename. Kept light for the task's sake."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence, Union

    Buffer = Union[bytes, bytearray, memoryview]

NO_ROOM = 73  # exit code of a task that could not write down anything about its calls, nor why

PARTIAL = "p"
FINAL = "r"


def final_name(task: int) -> str:
    return "%d.%s" % (task, FINAL)


def partial_name(task: int, run: int, number: int) -> str:
    return "%d.%d.%d.%s" % (task, run, number, PARTIAL)


def publish(directory: str, name: str, data: Sequence[Buffer]) -> None:
    """Write a file so that whoever sees its name sees all of it: temporary name, fsync, rename."""
    temporary = os.path.join(directory, ".%s.%d" % (name, os.getpid()))
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            for part in data:
                view = memoryview(part)
                while view:
                    view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        os.rename(temporary, os.path.join(directory, name))
    except OSError:
        os.unlink(temporary)  # where there is no room, a part of a file must not take what there is
        raise
