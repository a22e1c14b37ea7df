"""Hands calls to the workers of this machine and takes their results.

One hub lives in the loop of the agent, for the login node, and one in that of each pilot, for its job; all of it runs
in that thread. A worker gets calls ahead of time only while calls are short: what it has been handed should last for
about `AHEAD` seconds.
"""

import os
import signal
import socket
import subprocess
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple

from . import logs, modules, payload, wire

AHEAD = 0.01  # seconds of work that a worker may hold beside the call it runs
MOST_AHEAD = 64  # calls
BEGAN_AFTER = 0.05  # seconds; shorter calls are not reported as running
LOOK_EVERY = 1.0  # seconds between two looks at a worker that is in a long call
FREEZE_WAIT = 0.05  # seconds in which a stopped worker stands still; longer only in a system call, and so in a call
IDLE_AFTER = 300.0  # seconds without a call after which a worker is let go
_CHUNK = 1 << 18
_TAIL = 4000  # bytes of a dead worker's output that are told
_GIVE_UP = 3  # workers that die one after the other before they are ready


class Child:
    """One worker process and what it has been handed, oldest first: the first one is the call it runs."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", connection: socket.socket, log: str, ship: str, slot: int, number: int
    ) -> None:
        self.process = process
        self.slot = slot
        self.number = number  # in the order of their start, from 1 on
        self.connection = connection
        self.log = log  # what it writes to its stderr
        self.ship = ship
        self.reader = wire.Reader()
        self.out: Deque[memoryview] = deque()
        self.handed: Deque[payload.Call] = deque()
        self.known: Set[int] = set()
        self.ready = False
        self.quota = 1
        self.done = 0  # calls
        self.since = time.monotonic()  # when the first of `handed` became that, or when it fell idle
        self.looked = 0.0  # when that call was last looked at
        self.told: Optional[int] = None  # the call that was reported as running
        self.killed_for: Optional[int] = None  # the call whose cancelling ended it


def _nothing_of_its_own(slot: int) -> Dict[str, str]:
    return {}


class Hub:
    """Feeds up to `most` workers, started as calls come.

    `register(socket, callback, writing)` and `unregister(socket)` tie it to the loop. `results(calls, records)` gets
    the packed results of calls, `tell(head, body)` the other events. `command` starts a worker; a descriptor number is
    appended. `logs` is the folder for what they print, `<prefix>-1.out` and `<prefix>-1.err` for the first one.
    `shipped(name)` is the folder with a version of the client's own code, None until it is there.

    `initializer` is called by each worker before its first call; one in which it fails gets none. A worker is replaced
    after `most_calls` calls, and let go after `idle_after` seconds without one. `own(slot)` is what a worker's
    environment has that those of the others do not; slots count from 0. By `give_back(calls)` calls go back that have
    waited for `BEGAN_AFTER` seconds without any worker becoming free, or ready; where it is None they wait on.

    A worker has one version of that code; those that are started before there are calls have `ship`. Calls of another
    one wait until it is there, and workers make way for them as soon as they have nothing to do.
    """

    def __init__(
        self,
        *,
        most: int,
        command: Sequence[str],
        environment: Dict[str, str],
        logs: str,
        shipped: Callable[[str], Optional[str]],
        register: Callable[[socket.socket, Callable[[bool, bool], None], bool], None],
        unregister: Callable[[socket.socket], object],
        results: Callable[[List[int], List[wire.Buffer]], None],
        tell: Callable[..., None],
        prefix: str = "worker",
        initializer: wire.Buffer = b"",
        most_calls: Optional[int] = None,
        idle_after: float = IDLE_AFTER,
        own: Callable[[int], Dict[str, str]] = _nothing_of_its_own,
        give_back: Optional[Callable[[List[payload.Call]], None]] = None,
        ship: str = "",
    ) -> None:
        self._most = most
        self._command = list(command)
        self._environment = environment
        self._logs = logs
        self._shipped = shipped
        self._register = register
        self._unregister = unregister
        self._results = results
        self._tell = tell
        self._prefix = prefix
        self._initializer = initializer
        self._most_calls = most_calls
        self._idle_after = idle_after
        self._own = own
        self._give_back = give_back
        self._moved = 0.0  # when a call was last taken off those that wait, or the first one came
        self._functions: Dict[int, wire.Body] = {}
        self._ships: Dict[int, str] = {}  # of functions: the version of the client's code that they need, or nothing
        self._unshipped: Dict[str, str] = {}  # versions that could not be stored, and why
        self._uses: Dict[int, int] = {}
        self._dropped: Set[int] = set()
        self._waiting: Deque[payload.Call] = deque()
        self._scratch = memoryview(bytearray(_CHUNK))
        self._children: List[Child] = []
        self._stillborn = 0
        self._started = 0
        # Version of the client's code, and its folder, of the worker that was started last, or for the first one.
        self._last = ship, (shipped(ship) if ship else "") or ""
        self._unwanted: Set[int] = set()  # what was cancelled last

    # ---- what the client says

    def function(self, number: int, source: wire.Body, ship: str) -> None:
        self._dropped.discard(number)
        self._functions[number] = source
        self._ships[number] = ship

    def drop(self, number: int) -> None:
        self._dropped.add(number)
        self._forget_unused(number)

    def calls(self, data: wire.Body) -> None:
        if not self._waiting:
            self._moved = time.monotonic()
        for call in payload.calls(data):
            self._uses[call.function] = self._uses.get(call.function, 0) + 1
            self._waiting.append(call)
        self.hand_out()

    def cancel(self, numbers: Sequence[int]) -> None:
        """Take calls back; a worker that runs one of them is ended."""
        unwanted = self._unwanted = set(numbers)
        kept: Deque[payload.Call] = deque()
        for call in self._waiting:
            if call.call in unwanted:
                self._done(call)
            else:
                kept.append(call)
        self._waiting = kept
        for child in list(self._children):
            if unwanted.isdisjoint(call.call for call in child.handed) or not self._freeze(child):
                continue
            hit = [call for call in child.handed if call.call in unwanted]
            if hit and child.handed[0] is hit[0]:
                child.killed_for = hit.pop(0).call
                _kill_group(child.process)  # the end of its connection does the rest
            else:
                self._send(child, wire.message({"op": "cancel", "calls": [call.call for call in hit]}))
                os.kill(child.process.pid, signal.SIGCONT)
            for call in hit:
                child.handed.remove(call)
                self._done(call)

    def shipping(self, ship: str) -> None:
        """A version of the client's code is looked for, or on its way."""
        self._unshipped.pop(ship, None)

    def unshipped(self, ship: str, why: str) -> None:
        """A version of the client's code could not be stored: calls that wait for it fail, and so do those to come."""
        self._unshipped[ship] = why
        self.hand_out()

    def _fail_unshipped(self, ship: str) -> None:
        lost = [call for call in self._waiting if self._ships[call.function] == ship]
        self._waiting = deque(call for call in self._waiting if self._ships[call.function] != ship)
        words = {"exit_code": None, "signal": None, "stderr": self._unshipped[ship]}
        self._tell({"op": "crashed", "calls": [call.call for call in lost], "start": True, **words})
        for call in lost:
            self._done(call)

    def fill(self) -> None:
        """Start what is missing of all workers, with the version of the client's code that the last one had."""
        while len(self._children) < self._most:
            self._start(*self._last)

    def held(self) -> List[int]:
        """Return the calls that are here and have no result yet."""
        return [call.call for child in self._children for call in child.handed] + [it.call for it in self._waiting]

    def is_idle(self) -> bool:
        """Whether no call is here."""
        return not self._waiting and not any(child.handed for child in self._children)

    def ready(self) -> int:
        """Return how many workers can take calls, busy or not."""
        return sum(child.ready for child in self._children)

    def running(self) -> List[int]:
        """Return the calls that workers have begun, or are about to: the first one of each."""
        return [child.handed[0].call for child in self._children if child.handed]

    def told(self) -> List[Tuple[int, int]]:
        """Return the calls that were reported as running and still are, each with the number of its worker."""
        return [
            (child.told, child.number)
            for child in self._children
            if child.told is not None and child.handed and child.handed[0].call == child.told
        ]

    def recall(self) -> List[payload.Call]:
        """Take back all calls that no worker has begun."""
        for child in list(self._children):
            if child in self._children and len(child.handed) > 1:
                self._relieve(child)
        calls = list(self._waiting)
        self._waiting.clear()
        for call in calls:
            self._done(call)
        return calls

    def stop(self) -> None:
        """Hand out nothing more: what comes waits for `recall`."""
        self._most = 0
        for child in self._children:
            child.quota = 0

    def state(self) -> List[List[Any]]:
        """Return, for each worker that is ready, its process, since when it runs its call or None, calls done."""
        now, epoch = time.monotonic(), time.time()
        return [
            [child.process.pid, round(epoch - (now - child.since), 1) if child.handed else None, child.done]
            for child in self._children
            if child.ready
        ]

    def signal(self, number: int) -> None:
        """Pass a signal on to the workers that are in a call which has a handler for it: others would die by it."""
        for child in self._children:
            if child.handed and _catches(child.process.pid, number):
                os.kill(child.process.pid, number)

    def close(self) -> None:
        """End all workers, and what the calls that they are in have started."""
        for child in self._children:
            child.connection.close()
            if child.handed:
                _kill_group(child.process)
            child.process.kill()
            child.process.wait()
        self._children = []

    # ---- the loop's turn

    def tick(self, now: float) -> Optional[float]:
        """Report calls that have begun, let idle workers go; return when this wants to be called again."""
        wanted: Optional[float] = None
        for child in list(self._children):
            if not child.handed:
                at = child.since + self._idle_after
                if now >= at:
                    self._remove(child)
                    continue
            elif not child.ready:
                continue
            else:
                told = child.told == child.handed[0].call
                at = child.looked + LOOK_EVERY if told else child.since + BEGAN_AFTER
                if now >= at:
                    child.looked = now
                    self._look_after(child)
                    at = now + BEGAN_AFTER  # others may have been given calls
            wanted = at if wanted is None else min(wanted, at)
        if self._give_back is not None and self._waiting:
            at = self._moved + BEGAN_AFTER
            if now >= at:
                self._give_back(self.recall())
            else:
                at = max(at, now + BEGAN_AFTER / 2)
                wanted = at if wanted is None else min(wanted, at)
        return wanted

    def _look_after(self, child: Child) -> None:
        """A call takes long: tell that it has begun, let others have those behind it, see whether its worker lives."""
        first = child.handed[0].call
        if child.told != first:
            child.told = first
            self._tell({"op": "began", "calls": [first], "worker": child.number})
        if child.process.poll() is not None:
            # Its connection is still open: a child that it forked holds it.
            self._event(child, True, False)
            if child in self._children:
                self._died(child)
        elif len(child.handed) > 1:
            self._relieve(child)

    def _relieve(self, child: Child) -> None:
        """Give the calls that wait behind a long one to whoever is free."""
        child.quota = 1
        if not self._freeze(child):
            return
        behind = list(child.handed)[1:]
        words = wire.message({"op": "cancel", "calls": [call.call for call in behind]})
        try:
            # All of it is there before the worker goes on, or nothing is changed: a Unix socket takes what is small as
            # a whole or not at all.
            sent = bool(behind) and not child.out and child.connection.send(b"".join(words)) > 0
        except OSError:
            sent = False
        os.kill(child.process.pid, signal.SIGCONT)
        if sent:
            for _ in behind:
                child.handed.pop()
            self._waiting.extendleft(reversed(behind))
            self.hand_out()

    def _freeze(self, child: Child) -> bool:
        """Stop a worker and take in what it has answered: of the calls it holds it has begun the first at most.

        Returns False if it has died. The caller lets it go on.
        """
        os.kill(child.process.pid, signal.SIGSTOP)
        flags = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        end = time.monotonic() + FREEZE_WAIT
        while os.waitid(os.P_PID, child.process.pid, flags) is None and time.monotonic() < end:
            time.sleep(0)
        self._event(child, True, False)
        return child in self._children

    def hand_out(self) -> None:
        """Give waiting calls to workers that have room, and start workers while calls wait for one."""
        while self._waiting:
            ship = self._ships[self._waiting[0].function]
            child = min(
                (it for it in self._children if it.ready and it.ship == ship and len(it.handed) < it.quota),
                key=lambda child: len(child.handed),
                default=None,
            )
            if child is None:
                break
            self._feed(child)
        if not self._waiting:
            return
        folder = self._shipped(ship) if ship else ""
        if folder is None:
            if ship in self._unshipped:
                self._fail_unshipped(ship)
                self.hand_out()
            return  # else this is called again when it is there
        for child in [it for it in self._children if it.ship != ship and it.ready and not it.handed]:
            self._remove(child)
        starting = sum(not child.ready for child in self._children)
        idle = sum(not child.handed for child in self._children if child.ready)
        while len(self._waiting) > starting + idle and len(self._children) < self._most:
            self._start(ship, folder)
            starting += 1

    def _feed(self, child: Child) -> None:
        share = -(-len(self._waiting) // max(1, len(self._children)))
        number = max(1, min(child.quota - len(child.handed), share))
        self._moved = time.monotonic()
        parts: List[wire.Buffer] = []
        if not child.handed:
            child.since = self._moved
        while self._waiting and number > 0 and self._ships[self._waiting[0].function] == child.ship:
            call = self._waiting.popleft()
            number -= 1
            if call.function not in child.known:
                child.known.add(call.function)
                head = {"op": "function", "function": call.function}
                self._send(child, wire.message(head, self._functions[call.function]))
            child.handed.append(call)
            parts += payload.pack_call(call.call, call.function, call.payload)
        self._send(child, wire.packed(wire.CALLS, parts))

    def _start(self, ship: str, folder: str) -> None:
        self._last = ship, folder
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._started += 1
        slot = min(set(range(len(self._children) + 1)).difference(child.slot for child in self._children))
        log = os.path.join(self._logs, "%s-%d" % (self._prefix, self._started))
        with open(log + ".out", "wb") as out, open(log + ".err", "wb") as err:
            process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(self._environment, **{modules.SHIP: folder}, **self._own(slot)),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()
        child = Child(process, ours, log + ".err", ship, slot, self._started)
        child.quota = 1 if self._most else 0
        self._children.append(child)
        self._register(ours, lambda readable, writable: self._event(child, readable, writable), False)
        if self._initializer:
            self._send(child, wire.message({"op": "initialize"}, self._initializer))

    # ---- a worker's connection

    def _send(self, child: Child, buffers: Sequence[wire.Buffer]) -> None:
        child.out.extend(memoryview(buffer) for buffer in buffers)
        self._flush(child)

    def _flush(self, child: Child) -> None:
        try:
            while child.out:
                sent = child.connection.send(child.out[0])
                if sent < len(child.out[0]):
                    child.out[0] = child.out[0][sent:]
                else:
                    child.out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            child.out.clear()  # it is dying: reading will see the end
        self._register(
            child.connection, lambda readable, writable: self._event(child, readable, writable), bool(child.out)
        )

    def _event(self, child: Child, readable: bool, writable: bool) -> None:
        if child not in self._children:
            return  # an event from before it died
        if writable:
            self._flush(child)
        if not readable:
            return
        try:
            size = child.connection.recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._died(child)
            return
        now = time.monotonic()
        answers: List[wire.Buffer] = []
        numbers: List[int] = []
        for frame in child.reader.feed(self._scratch[:size]):
            if frame.kind == wire.RESULTS:
                number = payload.first_call(frame.body)  # a worker sends one result at a time
                if child.handed and child.handed[0].call == number:  # else it was cancelled meanwhile
                    answers.append(frame.body)
                    numbers.append(number)
                    self._done(child.handed.popleft())
            elif frame.head["op"] == ("initialized" if self._initializer else "ready"):
                child.ready = frame.head.get("status", payload.OK) == payload.OK
                child.since = now
                self._stillborn = 0
                if not child.ready:
                    self._tell({"op": "uninitialized", "status": frame.head["status"]}, frame.body)
        if numbers:
            each = (now - child.since) / len(numbers)
            child.done += len(numbers)
            child.quota = self._quota(child, each)
            child.since = now
            self._results(numbers, answers)
            if self._most_calls is not None and child.done >= self._most_calls and not child.handed:
                self._remove(child)
        self.hand_out()

    def _quota(self, child: Child, each: float) -> int:
        """Return how many calls a worker may hold whose last ones took `each` seconds."""
        if not self._most:
            return 0
        quota = max(1, min(MOST_AHEAD, 2 * child.quota, int(AHEAD / each) if each > 0 else MOST_AHEAD))
        return quota if self._most_calls is None else min(quota, self._most_calls - child.done)

    def _died(self, child: Child) -> None:
        """Fail the call that was running, take back the others, and let replacements start."""
        code = self._remove(child)
        if not child.ready:
            self._stillborn += 1
        elif child.handed:
            call = child.handed.popleft()
            if call.call != child.killed_for:
                self._tell({"op": "crashed", "calls": [call.call], **self._words(child, code)})
            self._done(call)
        for call in reversed(child.handed):
            if call.call in self._unwanted:
                self._done(call)
            else:
                self._waiting.appendleft(call)
        if self._stillborn >= _GIVE_UP and (self._waiting or self._give_back):
            numbers = [call.call for call in self._waiting]
            self._tell({"op": "crashed", "calls": numbers, "start": True, **self._words(child, code)})
            for call in self._waiting:
                self._done(call)
            self._waiting.clear()
            self._stillborn = 0
        self.hand_out()

    def _words(self, child: Child, code: int) -> Dict[str, Any]:
        tail = logs.tail(child.log, _TAIL)[1].decode("utf-8", "replace")
        return {"exit_code": code if code >= 0 else None, "signal": -code if code < 0 else None, "stderr": tail}

    def _remove(self, child: Child) -> int:
        self._unregister(child.connection)
        child.connection.close()
        self._children.remove(child)
        if child.handed or not child.ready:
            # Its end of the connection is closed: it is dying, or has given its descriptor away and must.
            try:
                child.process.wait(0.5)
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
        else:
            child.process.kill()
        return child.process.wait()

    def _done(self, call: payload.Call) -> None:
        left = self._uses[call.function] - 1
        if left:
            self._uses[call.function] = left
        else:
            del self._uses[call.function]
            self._forget_unused(call.function)

    def _forget_unused(self, number: int) -> None:
        if number not in self._dropped or number in self._uses:
            return
        self._dropped.discard(number)
        self._functions.pop(number, None)
        self._ships.pop(number, None)
        for child in self._children:
            if number in child.known:
                child.known.discard(number)
                self._send(child, wire.message({"op": "drop", "function": number}))


def _catches(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal. From proc(5), SigCgt."""
    try:
        with open("/proc/%d/status" % process) as file:
            caught = next(line.split()[1] for line in file if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught, 16) >> (number - 1) & 1)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
