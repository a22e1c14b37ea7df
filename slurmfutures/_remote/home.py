"""The pilot's side: finds the agent of its session, by TCP or else by files, however often that is another one.

loop     `Home` and its guest, the agent
seeker   a thread that looks for the agent, while there is none, and does the handshake
"""

import contextlib
import functools
import os
import socket
import threading
import time
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Set, Union

from . import box, meeting, pool_files, seal, wire
from .guest import Guest
from .stream import CHUNK, Lost, Register, SocketStream, Unregister, tune

CONNECT = 2.0  # seconds for each place
HANDSHAKE = 10.0  # seconds
ALL_PLACES = 15.0  # seconds after which no further place is tried
BY_FILES = 20.0, 120.0  # seconds in which an agent takes a box: at first, and at most, twice as long each time
ENDING = 2.0  # seconds in which a search that is given up may end
_AGAIN = 0.2, 2.0  # seconds until the agent's file is read again: at first, and at most
BY_TCP = 10.0  # seconds after which TCP is tried again while an agent may take a box, and
BY_TCP_AFTER = 30.0, 600.0  # while it has one: at first, and at most
SPOILT = 2  # useless connections by TCP to one agent, in a row, after which files are tried first
SHORT = 60.0  # seconds: a connection that is lost within these was of no use, and
STEADY = 600.0  # one that has lasted so long was of use, however it ended
_MARK = {"files": 1.0, "tcp": 10.0}  # seconds between two looks whether another agent is there
_RECEIVED = 1 << 16


class Found(NamedTuple):
    """An agent that has proved itself, and the way to it."""

    agreed: seal.Agreed
    way: Union[socket.socket, box.Box]
    mark: str


class Home:
    """The way to the agent that is there at the time. In the loop's thread, but for what says otherwise.

    `words` are what the agent is told of this pilot. `arrived(guest)` is called when the agent is there, and is to
    attach something to it. When that is told that it is gone, `start` looks for the agent, or the next one, anew.
    """

    def __init__(
        self,
        *,
        folder: str,
        words: Mapping[str, Any],
        register: Register,
        unregister: Unregister,
        post: Callable[[Callable[[], None]], None],
        arrived: Callable[[Guest], None],
        log: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._words = words
        self._register = register
        self._unregister = unregister
        self._post = post
        self._arrived = arrived
        self._log = log
        self._scratch = memoryview(bytearray(CHUNK))
        self._seeker: Optional[Seeker] = None
        self._thread: Optional[threading.Thread] = None
        self._guest: Optional[Guest] = None
        self._box: Optional[box.Box] = None
        self._mark = ""
        self._look_at = 0.0
        self._try_at = 0.0  # when to see whether there is a way by TCP after all
        self._try_again = BY_TCP_AFTER[0]
        self._spoilt = 0  # useless connections by TCP to the present agent, in a row
        self._met = 0.0  # when the present connection was made
        self._better: Optional[Found] = None  # that way, while the one by files is given up

    def start(self) -> None:
        """Look for the agent, if that is not under way and there is none."""
        if self._guest is not None:
            return
        if self._better is not None:
            self._post(self._go_over)
        elif self._seeker is None or self._seeker.by_tcp_only:
            self._stop_seeking()
            self._seek()

    def _seek(self, *, by_tcp_only: bool = False) -> None:
        seeker = self._seeker = Seeker(
            self._folder,
            self._words,
            found=lambda found: self._post(functools.partial(self._found, seeker, found)),
            log=lambda text: self._post(functools.partial(self._log, text)),
            by_tcp_only=by_tcp_only,
            files_first="" if self._spoilt < SPOILT else self._mark,
        )
        self._thread = threading.Thread(target=seeker.run, name="home", daemon=True)
        self._thread.start()

    def _stop_seeking(self) -> None:
        if self._seeker is not None:
            self._seeker.stop()
            self._seeker = None

    def tick(self, now: float) -> Optional[float]:
        """Do what is due; return when this wants to be called again, None where that is not needed."""
        if self._guest is not None and now >= self._look_at:
            self._look_at = now + _MARK[self._guest.via]
            with contextlib.suppress(OSError):
                there = meeting.read_agent_file(self._folder)
                if there is not None and there.mark != self._mark:
                    self._give_up("another agent is there")
        if self._box is not None and now >= self._try_at and self._seeker is None:
            self._seek(by_tcp_only=True)
        if self._box is not None and now >= self._box.due:
            self._poll(now)
        if self._guest is not None and now >= self._guest.due:
            self._guest.look(now)
        if self._guest is None:
            return None
        due = min(self._look_at, self._guest.due)
        if self._box is None:
            return due
        return min(self._box.due, due, self._try_at if self._seeker is None else due)

    def close(self) -> None:
        """End the connection, or the search: nothing is told of that."""
        self._stop_seeking()
        if self._thread is not None:
            self._thread.join(ENDING)  # it takes its box away
        if self._better is not None:
            self._better.way.close()
            self._better = None
        if self._guest is not None:
            self._guest.close()

    def _found(self, seeker: "Seeker", found: Optional[Found]) -> None:
        if seeker is not self._seeker:
            if found is not None:
                found.way.close()
            return
        self._seeker = None
        if found is None:  # there is still no way by TCP
            self._try_again = min(2 * self._try_again, BY_TCP_AFTER[1])
            self._try_at = time.monotonic() + self._try_again
        elif self._guest is not None:
            self._better = found
            self._give_up("there is a way by TCP now")
        else:
            self._meet(found)

    def _give_up(self, why: str) -> None:
        """Have the connection end as if it had broken."""
        if self._box is not None:
            self._box.fail(why)
        elif self._guest is not None:
            self._guest.lose(why)

    def _go_over(self) -> None:
        if self._better is not None:
            found, self._better = self._better, None
            self._meet(found)

    def _meet(self, found: Found) -> None:
        now = time.monotonic()
        stream: Union[SocketStream, box.Box]
        if isinstance(found.way, box.Box):
            stream = self._box = found.way
            self._box.ring = lambda: self._post(self._poll_now)
            self._try_at = now + self._try_again
        else:
            stream = SocketStream(found.way, self._scratch, self._register, self._unregister)
        if found.mark != self._mark:
            self._spoilt = 0
        self._mark = found.mark
        self._met = now
        self._look_at = now + _MARK[stream.via]
        guest = self._guest = Guest(found.agreed, stream, self._over)
        self._arrived(guest)
        guest.begin()

    def _over(self, guest: Guest) -> None:
        self._guest = None
        self._box = None
        if guest.via == "tcp":
            self._note_end(guest)

    def _note_end(self, guest: Guest) -> None:
        """Count connections by TCP that are of no use: something on the way lets a handshake pass, and not the rest."""
        lasted = time.monotonic() - self._met
        if lasted >= STEADY or (lasted >= SHORT and not (guest.is_silent or guest.is_false)):
            self._spoilt = 0
            self._try_again = BY_TCP_AFTER[0]
            return
        self._spoilt += 1
        if self._spoilt > SPOILT:  # it was tried again in vain
            self._try_again = min(2 * self._try_again, BY_TCP_AFTER[1])

    def _poll_now(self) -> None:
        self._poll(time.monotonic())

    def _poll(self, now: float) -> None:
        if self._box is not None:
            before, one = self._box.trouble, self._box
            one.poll(now)
            if one.trouble and not before:
                self._log("cannot write to %s, and tries again: %s" % (one.path, one.trouble))


class Seeker:
    """One search for an agent. All in its own thread, but `stop`."""

    def __init__(
        self,
        folder: str,
        words: Mapping[str, Any],
        found: Callable[[Optional[Found]], None],
        log: Callable[[str], None],
        *,
        by_tcp_only: bool,
        files_first: str = "",
    ) -> None:
        """With `by_tcp_only` one try is made, in silence, of which `found` is told by None where it fails.

        The agent with the mark `files_first` is offered a box before TCP is tried.
        """
        self._folder = folder
        self._words = words
        self._found = found
        self._log = log
        self.by_tcp_only = by_tcp_only
        self._files_first = files_first
        self._stop = threading.Event()
        self._said: Set[str] = set()
        self._by_files = BY_FILES[0]
        self._mark = ""

    def stop(self) -> None:
        """Give up. Any thread."""
        self._stop.set()

    def run(self) -> None:
        """Look until there is an agent, or nobody wants one any more."""
        wait = _AGAIN[0]
        while not self._stop.is_set():
            found = self._look()
            if found is not None or self.by_tcp_only:
                self._found(found)  # who has stopped it closes that
                return
            self._stop.wait(wait)
            wait = min(1.5 * wait, _AGAIN[1])

    def _look(self) -> Optional[Found]:
        try:
            pool_files.check(self._folder)
            there = meeting.read_agent_file(self._folder)
            if there is None:
                return None
            key = meeting.read_key(self._folder)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._say("no way to the agent: %s" % error)
            return None
        if there.mark != self._mark:
            self._mark = there.mark
            self._by_files = BY_FILES[0]
        if there.mark == self._files_first and not self.by_tcp_only:
            where = os.path.join(self._folder, meeting.BOXES)
            self._say("connections by TCP break, or nothing comes through them: by files in %s" % where)
            self._files_first = ""  # once
            return self._by_box(key, there, BY_FILES[1], float("inf"))
        found = self._by_tcp(key, there)
        if found is not None or self.by_tcp_only:
            return found
        found = self._by_box(key, there, self._by_files, BY_TCP)
        self._by_files = min(2 * self._by_files, BY_FILES[1])
        return found

    def _say(self, text: str) -> None:
        """Log something once, however often it is tried in vain."""
        if text not in self._said and not self.by_tcp_only:
            self._said.add(text)
            self._log(text)

    # ---- by TCP

    def _by_tcp(self, key: bytes, there: meeting.Whereabouts) -> Optional[Found]:
        """Try all places; say what became of each where none will do."""
        failed: List[str] = []
        end = time.monotonic() + ALL_PLACES
        ports = list(dict.fromkeys(port for _, port in there.places))
        for address, port in [*there.places, *([name, port] for name in there.names for port in ports)]:
            if self._stop.is_set() or time.monotonic() > end:
                break
            try:
                connection = socket.create_connection((address, port), CONNECT)
            except (OSError, ValueError) as error:
                failed.append("%s port %d (%s)" % (address, port, _reason(error)))
                continue
            try:
                tune(connection)
                agreed = self._shake_hands(connection, key, there.mark)
            except (OSError, wire.WireError) as error:
                connection.close()
                failed.append("%s port %d (%s)" % (address, port, _reason(error)))
            else:
                return Found(agreed, connection, there.mark)
        where = os.path.join(self._folder, meeting.BOXES)
        if failed:
            self._say("no way by TCP to %s: by files in %s" % (", ".join(failed), where))
        else:
            self._say("the agent does not listen: by files in %s" % where)
        return None

    def _shake_hands(self, connection: socket.socket, key: bytes, mark: str) -> seal.Agreed:
        """Raises OSError or WireError."""
        side = seal.Caller(key, self._words)
        end = time.monotonic() + HANDSHAKE
        while side.agreed is None:
            connection.settimeout(max(0.01, end - time.monotonic()))
            data = connection.recv(_RECEIVED)
            if not data:
                raise ConnectionResetError("closed the connection")
            answer = side.feed(data)
            if answer:
                connection.sendall(answer)
        _check_mark(side.agreed, mark)
        return side.agreed

    # ---- by files

    def _by_box(self, key: bytes, there: meeting.Whereabouts, patience: float, by_tcp_after: float) -> Optional[Found]:
        """Offer a box until the agent takes it, another one is there, or it takes longer than `patience`, in seconds.

        TCP is tried meanwhile, each time after `by_tcp_after` seconds.
        """
        side = seal.Caller(key, self._words)
        name = ".".join(filter(None, (there.mark, os.urandom(6).hex())))
        try:
            one = box.make(os.path.join(self._folder, meeting.BOXES), name, lambda: None)
        except OSError as error:
            self._say("no way by files: %s" % error)
            return None
        failed: List[str] = []

        def read() -> None:
            try:
                answer = side.feed(one.receive())
                if answer:
                    one.send([answer])
                if side.agreed is not None:
                    one.follow(lambda: None)  # what comes now is for the guest
                    _check_mark(side.agreed, there.mark)
            except (Lost, wire.WireError) as error:
                failed.append(str(error))

        one.follow(read)
        now = time.monotonic()
        end = now + patience
        by_tcp = now + by_tcp_after
        wait = _AGAIN[0]
        look = now + wait
        while not failed and not self._stop.is_set():
            due = one.poll(now)
            if side.agreed is not None and not failed:
                return Found(side.agreed, one, there.mark)
            if now >= look:
                look, wait = now + wait, min(1.5 * wait, _AGAIN[1])
                try:
                    new = meeting.read_agent_file(self._folder) or there
                except OSError as error:
                    failed.append(str(error))
                    break
                if new.mark != there.mark:
                    break
                there = new
            if now >= by_tcp:  # the agent may not know yet that the network was lost, which is back
                found = self._by_tcp(key, there)
                if found is not None:
                    one.close()
                    one.remove()
                    return found
                by_tcp = time.monotonic() + by_tcp_after
            if now >= end:
                failed.append("nobody took the box within %d s" % patience)
            self._stop.wait(max(0.0, due - now))
            now = time.monotonic()
        if failed:
            self._say("no way by files: %s" % failed[0])
        one.close()
        one.remove()
        return None


def _check_mark(agreed: seal.Agreed, mark: str) -> None:
    """Raise SealError where the agent is not the one that the agent's file names: an earlier one has the key too."""
    if agreed.words.get("mark") != mark:
        raise seal.SealError("is another agent of this pool")


def _reason(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "timed out"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
