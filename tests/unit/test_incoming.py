"""A large batch goes to the disk while it arrives: all of it under its name, or nothing."""

import errno
import queue
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmfutures._remote.incoming import Incoming
from slurmfutures._remote.lane import Lane
from tests.waiting import DEADLINE


class Loop:
    """The agent's loop, in the test's thread."""

    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.lane = Lane("store", self._posted.put)

    def run(self, work: Callable[[], object]) -> object:
        """Have the lane do something, and all that it was given before; return the result or the error."""
        outcome: list[object] = []
        self.lane.do(work, outcome.append)
        while not outcome:
            self._posted.get(timeout=DEADLINE)()
        return outcome[0]


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_what_arrived_in_pieces_gets_its_name_at_the_end(loop: Loop, tmp_path: Path) -> None:
    incoming = Incoming(str(tmp_path / "part"), loop.lane)
    buffer = bytearray(b"one ")
    incoming.write(memoryview(buffer))
    buffer[:] = b"two "  # what was given is copied
    incoming.write(buffer)
    loop.run(lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]
    assert loop.run(lambda: incoming.move_to(str(tmp_path / "calls"))) is None
    assert [path.name for path in tmp_path.iterdir()] == ["calls"]
    assert (tmp_path / "calls").read_bytes() == b"one two "


def test_what_is_dropped_is_gone(loop: Loop, tmp_path: Path) -> None:
    incoming = Incoming(str(tmp_path / "part"), loop.lane)
    incoming.write(b"one")
    incoming.drop()
    loop.run(lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_without_room_nothing_is_left_and_the_end_says_why(loop: Loop, small_disk: Path) -> None:
    incoming = Incoming(str(small_disk / "part"), loop.lane)
    for _ in range(3):
        incoming.write(bytes(1 << 21))
    incoming.write(b"a small piece behind them")
    loop.run(lambda: None)
    assert list(small_disk.iterdir()) == []
    error = loop.run(lambda: incoming.move_to(str(small_disk / "calls")))
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert list(small_disk.iterdir()) == []


def test_where_the_name_cannot_be_given_nothing_is_left(loop: Loop, tmp_path: Path) -> None:
    incoming = Incoming(str(tmp_path / "part"), loop.lane)
    incoming.write(b"one")
    assert isinstance(loop.run(lambda: incoming.move_to(str(tmp_path / "missing/calls"))), FileNotFoundError)
    assert list(tmp_path.iterdir()) == []
