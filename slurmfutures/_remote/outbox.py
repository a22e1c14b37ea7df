"""What waits to be written to a stream: small frames first, pieces of large ones in turn behind them.

A frame is large if it does not fit into a piece. Frames of one key keep their order, whatever their size; those
without a key may pass each other. No more pieces are on their way than the window lets.
"""

import itertools
from collections import deque
from typing import Any, Deque, Dict, Hashable, List, Optional, Protocol, Sequence, Union

from . import wire
from .window import SMALL_PIECE, Window


class Source(Protocol):
    """A body that is read when its turn comes, `len()` bytes in all.

    `read` raises OSError or ValueError where it turns out that the frame must not be delivered; it is told once how
    the frame went, by `over`.
    """

    def __len__(self) -> int: ...

    def read(self, limit: int) -> wire.Buffer:
        """Return the next bytes, `limit` at most and one at least."""

    def over(self, *, good: bool) -> None: ...


Content = Union[wire.Buffer, Source]


class _Large:
    """A frame on its way in pieces; `held` of its bytes are in memory."""

    def __init__(self, buffers: Sequence[Content], size: int) -> None:
        self._buffers: Deque[Any] = deque(
            memoryview(buffer) if isinstance(buffer, (bytes, bytearray, memoryview)) else buffer for buffer in buffers
        )
        self.left = size
        self.held = sum(len(buffer) for buffer in self._buffers if isinstance(buffer, memoryview))

    def piece(self, most: int) -> List[wire.Buffer]:
        """Return the next piece, of `most` bytes at most, as buffers. Raises what a source raises."""
        parts: List[wire.Buffer] = []
        room = min(most, self.left)
        while room:
            first = self._buffers[0]
            if isinstance(first, memoryview):
                part: wire.Buffer = first[:room]
                self.held -= len(part)
                self._buffers[0] = first[len(part) :]
                if len(part) == len(first):
                    self._buffers.popleft()
            else:
                part = first.read(room)
            parts.append(part)
            room -= len(part)
            self.left -= len(part)
        return parts

    def over(self, *, good: bool) -> None:
        for buffer in self._buffers:
            if not isinstance(buffer, memoryview):
                buffer.over(good=good)


class _Lane:
    def __init__(self, key: Hashable, number: int, *, counts: bool) -> None:
        self.key = key
        self.number = number
        self.counts = counts  # for `Outbox.waiting`
        self.frames: Deque[_Large] = deque()


class Outbox:
    """Not locked: its owner says who may call it. True while there is something that may be written."""

    def __init__(self) -> None:
        self._window = Window()
        self._now: Deque[memoryview] = deque()
        self.waiting = 0  # bytes that are held for frames without a key, and for what is written next
        self._lanes: Dict[Hashable, _Lane] = {}
        self._turns: Deque[_Lane] = deque()  # those that send a piece each, the next one first
        self._later: Deque[_Lane] = deque()  # those that do when others are done: the other side holds so many
        self._numbers = itertools.count(1)

    def __bool__(self) -> bool:
        return bool(self._now or (self._turns and self._window.room()))

    def acknowledged(self, pieces: int) -> None:
        """The other side has so many pieces more: there may be something to write again."""
        self._window.acknowledged(pieces)

    @property
    def lanes(self) -> int:
        """Return how many large frames, or keys with a large frame, are on their way."""
        return len(self._lanes)

    def add(self, buffers: Sequence[Content], key: Hashable = None, *, bulk: bool = False) -> None:
        """Have a frame written; one of `bulk` waits for its turn like a large one."""
        size = sum(map(len, buffers))
        if size <= SMALL_PIECE + wire.PREFIX.size and not bulk and (key is None or key not in self._lanes):
            for buffer in buffers:
                self._push(buffer)
            return
        name = object() if key is None else key
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(name, next(self._numbers) & 0xFFFFFFFF, counts=key is None)
            (self._turns if len(self._turns) < wire.MOST_LANES else self._later).append(lane)
        frame = _Large(buffers, size)
        lane.frames.append(frame)
        if lane.counts:
            self.waiting += frame.held

    def take(self, limit: int) -> wire.Buffer:
        """Return the next bytes to be written, `limit` at most, nothing where nothing may be."""
        while not self._now:
            if not self:
                return b""
            self._next_piece()
        first = self._now[0]
        if len(first) >= limit or len(self._now) == 1:
            taken: wire.Buffer = first[:limit]
            self._drop(len(taken))
            return taken
        parts: List[memoryview] = []
        room = limit
        while self._now and room:
            part = self._now[0][:room]
            parts.append(part)
            room -= len(part)
            self._drop(len(part))
        return b"".join(parts)

    def clear(self) -> None:
        """Drop everything, for the sake of another stream or because there is none any more."""
        self._window = Window()
        self._now.clear()
        self.waiting = 0
        lanes, self._lanes = self._lanes, {}
        self._turns.clear()
        self._later.clear()
        for lane in lanes.values():
            for frame in lane.frames:
                frame.over(good=False)

    def _push(self, buffer: Any) -> None:
        view = memoryview(buffer)
        self._now.append(view)
        self.waiting += len(view)

    def _drop(self, count: int) -> None:
        """Take `count` bytes off the first buffer."""
        first = self._now[0]
        self.waiting -= count
        if count == len(first):
            self._now.popleft()
        else:
            self._now[0] = first[count:]

    def _next_piece(self) -> None:
        """Move a piece of the lane whose turn it is to what is written now."""
        lane = self._turns[0]
        self._turns.rotate(-1)
        frame = lane.frames[0]
        held = frame.held
        good: Optional[bool] = None
        try:
            parts = frame.piece(self._window.piece())
        except (OSError, ValueError):
            parts, good, frame.held = [], False, 0
        if lane.counts:
            self.waiting -= held - frame.held
        size = sum(map(len, parts))
        self._window.sent(size)
        self._push(wire.PREFIX.pack(wire.PART, lane.number, size))
        for part in parts:
            self._push(part)
        if good is None and not frame.left:
            good = True
        if good is not None:
            frame.over(good=good)
            lane.frames.popleft()
            if not lane.frames:
                del self._lanes[lane.key]
                self._turns.pop()
                if self._later:
                    self._turns.append(self._later.popleft())
