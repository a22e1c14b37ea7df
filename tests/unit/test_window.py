"""The window lets small things pass large ones soon, and keeps the line busy. On lines whose time is simulated."""

import random
from collections import deque

import pytest

from slurmfutures._remote.window import AGAIN, FIRST, LARGE_PIECE, LEAST, MOST, SMALL_PIECE, TARGET, Window


class Line:
    """Passes pieces on one after the other, `rate` bytes a second, and tells of each `round_trip` seconds later.

    What receives runs for a twentieth of a second at a time, and then not for up to `pauses` seconds.
    """

    def __init__(self, rate: float, round_trip: float, pauses: float = 0.0) -> None:
        self.now = 0.0
        self.rate = rate
        self.round_trip = round_trip
        self._pauses = pauses
        self._chosen = random.Random(1)
        self._pause = (0.0, 0.0)  # from when to when
        self.window = Window(lambda: self.now)
        self._free_at = 0.0
        self._told: deque[tuple[float, int]] = deque()
        self.sent = self.passed = 0  # bytes

    def wait_behind(self) -> float:
        """Return the seconds that something small would wait now."""
        return max(0.0, self._free_at - self.now)

    def _runs_at(self, time: float) -> float:
        """Return when the receiver runs, at this time or later."""
        while self._pauses and time >= self._pause[1]:
            begin = self._pause[1] + 0.05
            self._pause = begin, begin + self._chosen.uniform(0, self._pauses)
        return self._pause[1] if self._pause[0] <= time < self._pause[1] else time

    def run(self, seconds: float, pause: float = 0.0) -> list[float]:
        """Send as much as is let, in pieces with a pause between them; return how long others would have waited."""
        end, waits, next_at = self.now + seconds, [], self.now
        while self.now < end:
            while self.window.room() and self.now >= next_at:
                size = self.window.piece()
                self.window.sent(size)
                self.sent += size
                self._free_at = max(self._free_at, self.now) + size / self.rate
                self._told.append((self._runs_at(self._free_at + self.round_trip), size))
                waits.append(self.wait_behind())
                next_at = self.now + pause
            upcoming = [at for at in (self._told[0][0] if self._told else None, next_at if pause else None) if at]
            self.now = max(self.now, min(upcoming, default=end))
            while self._told and self._told[0][0] <= self.now:
                self.passed += self._told.popleft()[1]
                self.window.acknowledged(1)
        return waits


RATES = [3e5, 2e6, 2e7, 2e8]  # bytes a second
ROUND_TRIPS = [0.0005, 0.02, 0.1, 0.3]  # seconds


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
def test_small_things_wait_little_and_the_line_is_busy(rate: float, round_trip: float) -> None:
    line = Line(rate, round_trip)
    line.run(20.0)
    before = line.passed
    waits = line.run(20.0)
    assert line.passed - before > 0.85 * 20 * min(rate, MOST / round_trip)
    assert max(waits) < 2 * TARGET + (LEAST + SMALL_PIECE) / rate


@pytest.mark.parametrize("rate", RATES)
def test_it_begins_small_and_doubles(rate: float) -> None:
    line = Line(rate, 0.1)
    line.run(0.05)
    assert line.sent <= FIRST + SMALL_PIECE
    line.run(1.0)
    assert max(line.run(1.0)) < 4 * TARGET + (LEAST + SMALL_PIECE) / rate


def test_a_line_that_becomes_slow_is_noticed() -> None:
    line = Line(2e7, 0.02)
    line.run(10.0)
    line.rate = 1e6
    line.run(5.0)
    assert max(line.run(5.0)) < 2 * TARGET + (LEAST + SMALL_PIECE) / line.rate


@pytest.mark.parametrize("rate", [2e6, 2e7])
def test_a_way_that_becomes_longer_is_not_taken_for_a_full_one(rate: float) -> None:
    line = Line(rate, 0.02)
    line.run(20.0)
    line.round_trip = 0.3
    line.run(2 * AGAIN)
    before = line.passed
    waits = line.run(20.0)
    assert line.passed - before > 0.8 * 20 * rate
    assert max(waits) < 2 * TARGET + (LEAST + SMALL_PIECE) / rate


def test_a_receiver_that_is_late_now_and_then_is_not_taken_for_a_full_line() -> None:
    line = Line(2e7, 0.02, pauses=0.2)
    line.run(20.0)
    before = line.passed
    line.run(60.0)
    assert line.passed - before > 0.5 * 60 * line.rate


def test_what_small_things_wait_does_not_grow_in_a_long_transfer() -> None:
    line = Line(2e6, 0.02)
    line.run(20 * AGAIN)
    before = line.passed
    waits = line.run(2 * AGAIN)
    assert max(waits) < 4 * TARGET + (LEAST + SMALL_PIECE) / line.rate  # it began anew in between
    assert line.passed - before > 0.9 * 2 * AGAIN * line.rate


def test_a_stall_does_not_slow_it_for_good() -> None:
    line = Line(2e7, 0.1)
    line.run(10.0)
    line.now += 1.0
    line.run(5.0)
    before = line.passed
    line.run(5.0)
    assert line.passed - before > 0.8 * 5 * line.rate


def test_it_does_not_grow_while_it_is_not_full() -> None:
    line = Line(2e8, 0.001)
    line.run(5.0, pause=0.01)
    line.rate = 1e6
    assert max(line.run(0.5)) < 2.5 * FIRST / line.rate


def test_pieces_are_small_on_a_slow_line_and_large_on_a_fast_one() -> None:
    slow, fast = Line(3e5, 0.02), Line(2e8, 0.02)
    for line in (slow, fast):
        line.run(10.0)
    assert (slow.window.piece(), fast.window.piece()) == (SMALL_PIECE, LARGE_PIECE)
