"""How much of what is large may be on its way at once. Pure: the clock is passed in.

What was written waits in buffers that nobody sees, those of pipes, of ssh and of the network, and what is written after
it waits behind it. So the other side acknowledges each piece, and no more is sent ahead than keeps the line busy: when
pieces take longer than the line's own time, the window gets smaller. The rule is that of LEDBAT (RFC 6817), with a
start that doubles. Ways get longer, so the line's own time is measured again now and then, after what is on its way has
come through.
"""

import collections
import time
from typing import Callable, Deque, Tuple

FIRST = 1 << 18  # bytes
LEAST = 1 << 17  # bytes
MOST = 1 << 26  # bytes
SHARES = 4  # pieces in a window, unless they would be smaller, or larger, than this
SMALL_PIECE = 1 << 16  # bytes; a frame that has no more is not taken to pieces
LARGE_PIECE = 1 << 18  # bytes
AGAIN = 60.0  # seconds after which the line's own time is measured again
TARGET = 0.1  # seconds that something small may wait behind what is large, beside the line's own time


class Window:
    """Not locked: its owner says who may call it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._out = 0  # bytes
        self._pieces: Deque[Tuple[float, int]] = collections.deque()  # when each was sent, and its size
        self._begin()

    def _begin(self) -> None:
        """Nothing is on its way, and nothing is known of the line."""
        self._size = float(FIRST)
        self._starting = True
        self._emptying = False  # nothing more is sent until all has come through
        self._measure_at = self._clock() + AGAIN
        self._fastest = float("inf")  # seconds from a piece to its acknowledgement, on an empty line

    def room(self) -> bool:
        """Whether another piece may be sent."""
        return self._out < self._size and not (self._emptying and self._out)

    def piece(self) -> int:
        """Return the most bytes that the next piece may have: few on a slow line, many where each costs more."""
        return int(min(max(self._size / SHARES, SMALL_PIECE), LARGE_PIECE))

    def sent(self, size: int) -> None:
        self._pieces.append((self._clock(), size))
        self._out += size

    def acknowledged(self, count: int) -> None:
        """The other side has so many pieces more."""
        now = self._clock()
        for _ in range(min(count, len(self._pieces))):
            full = not self.room()
            at, size = self._pieces.popleft()
            self._out -= size
            if not self._emptying:
                self._learn(now - at, size, full)
        self._emptying = self._emptying or now > self._measure_at
        if self._emptying and not self._pieces:
            self._begin()

    def _learn(self, took: float, size: int, full: bool) -> None:
        self._fastest = min(self._fastest, took)
        late = took - self._fastest
        if late > 2 * TARGET:
            self._size -= size / 2  # by half in the time of one window
        elif late > TARGET / 2 or not self._starting:
            change = LEAST * size / self._size * (1 - late / TARGET)
            self._size += change if full else min(0.0, change)
        elif full:
            self._size += size
        self._starting = self._starting and late <= TARGET / 2
        self._size = min(max(self._size, LEAST), MOST)
