"""The agent's side of the way in: lets in whoever has the key, by TCP or by files, and turns all others away.

All of it is in the agent's loop, and waits for nothing but the file system.
"""

import collections
import functools
import os
import shutil
import socket
import time
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Union

from . import box, seal, wire
from .guest import Guest
from .meeting import BOXES, KeyRefused, make_key, reachable_addresses, read_agent_file, write_agent_file
from .stream import CHUNK, Lost, Register, SocketStream, Unregister, tune

__all__ = [
    "Door",
    "Guest",
    "KeyRefused",
    "make_key",
    "reachable_addresses",
    "read_agent_file",
    "write_agent_file",
]

HANDSHAKE = 10.0  # seconds
HANDSHAKE_BY_FILES = 120.0  # the same where a folder may be cached
MOST_ARRIVALS = 64  # connections in a handshake
_ACCEPTED_AT_ONCE = 16
_BACKLOG = 128
_DEAF = 1.0  # seconds after which listening is tried again, where there were no descriptors
_LEFT = 30.0  # seconds in which the other side may see that its box is closed
_OLD = 3600.0  # seconds after which a box of nobody is removed
_SWEEP = 600.0  # seconds between two looks for those
_NEVER = float("inf")
_MOST_COMPLAINTS = 20  # in a minute that are logged one by one


class _Arrival(NamedTuple):
    """A connection that is not known to be anybody's yet."""

    stream: Union[SocketStream, box.Box]
    side: seal.Acceptor
    name: str  # for the log
    until: float


class Bell:
    """Has the loop do something in its next turn, however often it is rung before that."""

    def __init__(self, register: Register, unregister: Unregister, action: Callable[[], object]) -> None:
        self._unregister = unregister
        self._action = action
        self._rung = False
        self._ears, self._hand = socket.socketpair()
        self._ears.setblocking(False)
        register(self._ears, self._heard, False)

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._hand.send(b"x")

    def close(self) -> None:
        self._unregister(self._ears)
        self._ears.close()
        self._hand.close()
        self._rung = True

    def _heard(self, readable: bool, writable: bool) -> None:
        if self._rung and self._ears.fileno() >= 0:
            self._ears.recv(1)
            self._rung = False
            self._action()


class Door:
    """Listens for pilots, and hands over those that have proved themselves.

    `admit(guest)` is to attach something to the guest, or to close it. `words` are what guests are told of this agent.
    Where `mark` is given, only boxes are taken that were made for the agent with this mark.
    """

    def __init__(
        self,
        *,
        folder: str,
        key: bytes,
        addresses: Sequence[str],
        register: Register,
        unregister: Unregister,
        admit: Callable[[Guest], None],
        log: Callable[[str], None],
        mark: str = "",
        words: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self._boxes_folder = os.path.join(folder, BOXES)
        self._key = key
        self._register = register
        self._unregister = unregister
        self._admit = admit
        self._log = log
        self._mark = mark
        self._words = dict(words or {}, mark=mark)
        self._scratch = memoryview(bytearray(CHUNK))
        self._arrivals: List[_Arrival] = []  # the oldest first
        self._guests: Set[Guest] = set()
        self._look_at_guests = _NEVER  # when the first of them is due
        self._complaints: Deque[float] = collections.deque(maxlen=_MOST_COMPLAINTS)
        self._unsaid = 0
        # By files.
        self._bell: Optional[Bell] = None
        self._boxes: Dict[str, box.Box] = {}  # by name: of guests and arrivals
        self._left: Dict[str, float] = {}  # boxes that were closed here, and when they are to be removed
        self._wanted = False
        self._look_at = 0.0
        self._sweep_at = 0.0
        self._found = 0.0  # when the last box was found
        # By TCP.
        self._listeners: List[socket.socket] = []
        self._deaf_until: Optional[float] = None
        for address in addresses:
            self._listen(address)

    def places(self) -> List[List[Any]]:
        """Return where this listens: [address, port] each, in the order of the addresses."""
        return [list(listener.getsockname()[:2]) for listener in self._listeners]

    def expect_boxes(self, wanted: bool) -> None:
        """Say whether somebody may come by files: boxes are looked for only then, or where there are some."""
        if wanted and not self._wanted:
            self._look_at = 0.0
            self._found = time.monotonic()
        self._wanted = wanted

    def tick(self, now: float) -> Optional[float]:
        """Do what is due; return when this wants to be called again, None where that is not needed.

        Times are those of `time.monotonic`.
        """
        times: List[float] = []
        for arrival in [arrival for arrival in self._arrivals if now >= arrival.until]:
            self._refuse(arrival, "did not say in time who it is")
        if self._arrivals:
            times.append(min(arrival.until for arrival in self._arrivals))
        if self._deaf_until is not None:
            if now >= self._deaf_until:
                self._hear()
            else:
                times.append(self._deaf_until)
        if self._wanted or self._boxes:
            if now >= self._look_at:
                self._look_for_boxes(now)
            times.append(self._look_at)
        for one in list(self._boxes.values()):
            times.append(one.due if now < one.due else self._poll(one, now))
        if now >= self._look_at_guests:
            for guest in [guest for guest in self._guests if now >= guest.due]:
                guest.look(now)
            self._look_at_guests = min((guest.due for guest in self._guests), default=_NEVER)
        if self._guests:
            times.append(self._look_at_guests)
        for name, at in list(self._left.items()):
            if now >= at:
                del self._left[name]
                shutil.rmtree(os.path.join(self._boxes_folder, name), ignore_errors=True)
            else:
                times.append(at)
        return min(times) if times else None

    def close(self) -> None:
        """Let nobody in any more, and close all guests: nothing is told of that."""
        for listener in self._listeners:
            if self._deaf_until is None:
                self._unregister(listener)
            listener.close()
        self._listeners = []
        self._deaf_until = None
        for arrival in self._arrivals:
            arrival.stream.close()
        self._arrivals = []
        for guest in list(self._guests):
            guest.close()
        self._boxes = {}
        self._left = {}
        self._wanted = False
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    # ---- by TCP

    def _listen(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.bind((address, 0))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            self._log("no listening on %s: %s" % (address, error.strerror or error))
            return
        listener.setblocking(False)
        self._listeners.append(listener)
        self._register(listener, functools.partial(self._accept, listener), False)

    def _accept(self, listener: socket.socket, readable: bool, writable: bool) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if listener not in self._listeners or self._deaf_until is not None:
                return
            try:
                connection, place = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors, as a rule: it would be told again and again
                self._log("no connection can be taken: %s" % (error.strerror or error))
                self._deaf_until = time.monotonic() + _DEAF
                for one in self._listeners:
                    self._unregister(one)
                return
            try:
                tune(connection)
            except OSError:
                connection.close()  # it is gone already
                continue
            stream = SocketStream(connection, self._scratch, self._register, self._unregister)
            self._receive(stream, "%s port %d" % place[:2], HANDSHAKE)

    def _hear(self) -> None:
        self._deaf_until = None
        for listener in self._listeners:
            self._register(listener, functools.partial(self._accept, listener), False)

    # ---- by files

    def _look_for_boxes(self, now: float) -> None:
        found = box.names(self._boxes_folder)
        sweep = now >= self._sweep_at
        if sweep:
            self._sweep_at = now + _SWEEP
        for name in found - self._boxes.keys() - self._left.keys():
            if not self._mark or name.startswith(self._mark + "."):
                if self._bell is None:
                    self._bell = Bell(self._register, self._unregister, self._answer_bell)
                claimed = box.claim(self._boxes_folder, name, self._bell.ring)
                if claimed is not None:
                    self._found = now
                    self._boxes[name] = claimed
                    self._receive(claimed, "box %s" % name, HANDSHAKE_BY_FILES)
                    continue
            if sweep:
                box.clear(self._boxes_folder, name, _OLD)
        self._look_at = now + box.interval(now - self._found)

    def _answer_bell(self) -> None:
        now = time.monotonic()
        for one in list(self._boxes.values()):
            if now >= one.due:
                self._poll(one, now)

    def _poll(self, one: box.Box, now: float) -> float:
        before = one.trouble
        due = one.poll(now)
        if one.trouble and not before:
            self._log("cannot write to %s, and tries again: %s" % (one.path, one.trouble))
        return due

    def _put_away(self, one: box.Box) -> None:
        """A box was closed: what is left of it is removed when the other side must have seen that."""
        name = os.path.basename(one.path)
        if self._boxes.pop(name, None) is not None:
            self._left[name] = time.monotonic() + _LEFT

    # ---- handshakes

    def _receive(self, stream: Union[SocketStream, box.Box], name: str, seconds: float) -> None:
        if isinstance(stream, SocketStream):
            by_tcp = [arrival for arrival in self._arrivals if isinstance(arrival.stream, SocketStream)]
            if len(by_tcp) >= MOST_ARRIVALS:
                self._refuse(by_tcp[0], "made way for others that came after it")
        arrival = _Arrival(stream, seal.Acceptor(self._key, self._words), name, time.monotonic() + seconds)
        self._arrivals.append(arrival)
        stream.follow(lambda: self._read(arrival))
        stream.send([arrival.side.greeting])

    def _read(self, arrival: _Arrival) -> None:
        try:
            answer = arrival.side.feed(arrival.stream.receive())
        except (Lost, wire.WireError) as error:
            self._refuse(arrival, str(error))
            return
        agreed = arrival.side.agreed
        if agreed is None:
            return
        self._arrivals.remove(arrival)
        arrival.stream.send([answer])
        guest = Guest(agreed, arrival.stream, lambda guest: self._over(guest, arrival.stream))
        self._guests.add(guest)
        self._look_at_guests = min(self._look_at_guests, guest.due)
        self._admit(guest)
        guest.begin()

    def _over(self, guest: Guest, stream: Union[SocketStream, box.Box]) -> None:
        self._guests.discard(guest)
        if isinstance(stream, box.Box):
            self._put_away(stream)

    def _refuse(self, arrival: _Arrival, why: str) -> None:
        self._arrivals.remove(arrival)
        arrival.stream.close()
        if isinstance(arrival.stream, box.Box):
            self._put_away(arrival.stream)
        now = time.monotonic()
        if len(self._complaints) == _MOST_COMPLAINTS and now < self._complaints[0] + 60.0:
            self._unsaid += 1
            return
        self._complaints.append(now)
        more = " (and %d others)" % self._unsaid if self._unsaid else ""
        self._unsaid = 0
        self._log("turned away %s: %s%s" % (arrival.name, why, more))
