"""Frames to and from a process that has proved itself."""

import time
from typing import Any, Callable, Mapping, Sequence

from . import seal, wire
from .pulse import Pulse
from .stream import Lost, Stream


class Guest:
    """The other end of an authenticated connection: a pilot, or for a pilot its agent. In the loop's thread only.

    It tells whom it is attached to of each frame, and once of the end, unless that was by `close`. Neither happens
    within `attach` or `send`. Frames that were sent may not have arrived when it is gone.

    Its owner calls `look` when that is `due`: a connection on which nothing comes any more is ended then.
    """

    def __init__(self, agreed: seal.Agreed, stream: Stream, over: Callable[["Guest"], None]) -> None:
        """`over(guest)` is called at its end, however that came."""
        self.words: Mapping[str, Any] = agreed.words
        self.via = stream.via
        self._sealer = agreed.sealer
        self._unsealer = agreed.unsealer
        self._rest = agreed.rest
        self._stream = stream
        self._over = over
        self._reader = wire.Reader()
        self._frames: Callable[[wire.Frame], None] = lambda frame: None
        self._gone: Callable[[str], None] = lambda why: None
        self._open = True
        self._pulse = Pulse(stream.via, time.monotonic())
        self.is_false = False  # something came that was not what the other end had sent
        self.is_silent = False  # nothing came any more

    @property
    def unsent(self) -> int:
        """Return how many bytes wait to be written."""
        return self._stream.unsent

    @property
    def due(self) -> float:
        """Return when `look` is to be called, on the monotonic clock."""
        return self._pulse.due

    def look(self, now: float) -> None:
        """Show the other end that this one is here, if it has heard nothing lately; end a silent connection."""
        look = self._pulse.look(now)
        if look.lost:
            self.is_silent = True
            self.lose("nothing was heard for %.0f s" % self._pulse.silence)
        elif look.beat and self._open:
            self._stream.send([self._sealer.beat()])

    def attach(self, frames: Callable[[wire.Frame], None], gone: Callable[[str], None]) -> None:
        """Have each frame given to `frames`, and `gone(why)` called when the connection is lost."""
        self._frames, self._gone = frames, gone

    def begin(self) -> None:
        """Start to read: whoever has made it calls this when it is attached."""
        if self._open:
            self._stream.follow(self._read)
            rest, self._rest = self._rest, b""
            self._take(rest)

    def send(self, buffers: Sequence[wire.Buffer]) -> None:
        """Send a frame; nothing where the connection is over. Large buffers must not be changed any more."""
        if self._open:
            self._pulse.sent = True
            self._stream.send(self._sealer.seal(buffers))

    def close(self) -> None:
        """End the connection; nothing is told of it. What has not been written yet may be lost."""
        if self._open:
            self._open = False
            self._frames = lambda frame: None
            self._stream.close()
            self._over(self)

    def _read(self) -> None:
        try:
            data = self._stream.receive()
        except Lost as lost:
            self.lose(str(lost))
        else:
            self._take(data)

    def _take(self, data: wire.Buffer) -> None:
        try:
            for content in self._unsealer.feed(data):
                self._pulse.heard = True
                for frame in self._reader.feed(content):
                    self._frames(frame)
                    if not self._open:
                        return
        except wire.WireError as error:
            self.is_false = True
            self.lose(str(error))
        except wire.MISFITS as error:
            self.is_false = True
            self.lose("sent a frame with wrong content (%s: %s)" % (type(error).__name__, error))

    def lose(self, why: str) -> None:
        """Have the connection end as if it had broken."""
        if self._open:
            self.close()
            self._gone(why)
