"""The one thread of an executor: events from the agent become results of futures.

    any thread        adds calls to the batcher, or sends them to the login node; cancels; asks for logs
    poller's thread   closes batches and hands them over, reads what the agent says, resolves futures

Futures are resolved, and so the users' callbacks run, in the poller's thread while it holds no lock. A lost connection
is made again by a thread that lives as long as that takes; the poller takes over what it brings.
"""

import contextlib
import functools
import os
import pickle
import selectors
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from . import _output
from ._batcher import Batch, Batcher, Claim, Control, OwnScript, Spec
from ._bootstrap import Started
from ._checkpoint import Checkpoint
from ._errors import (
    AgentError,
    ConnectionLost,
    InitializerError,
    JobError,
    ResultLost,
    SlurmFuturesError,
    SubmitError,
    give_warning,
    job_error,
    script_error,
)
from ._future import NOBODY, SlurmFuture, begin, settle
from ._jobinfo import job_info
from ._link import Link, LinkDown, Reply, Words, not_understood
from ._login import LoginCalls
from ._logs import get_logger
from ._pickling import LOGIN_NODE, result_of
from ._pool import BITS, Handful, Pool, Settings
from ._reconnect import Reconnect
from ._remote import ids, jsons, payload, wire
from ._remote.states import JobState
from ._retries import Attempts
from ._shipping import Shipping

logger = get_logger("poller")

CLOSE_TIMEOUT = 40.0  # seconds in which the agent may finish cancelling and clearing away
OFFLINE_TIMEOUT = 5.0  # seconds in which a lost connection may come back for that
REPLY_TIMEOUT = 60.0  # seconds
STEADY = 10.0  # seconds after which a connection was a good one: the next one is tried for at once when it breaks
MOST_WAIT = 60.0  # seconds before a connection is tried for anew where the ones before broke soon
LOW_SPACE = 100 << 20  # bytes of room in work_dir below which the user is warned
_AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"

_pollers: "weakref.WeakSet[Poller]" = weakref.WeakSet()
_exiting = False


def _at_exit() -> None:
    """Wait for what is pending when the interpreter exits, as the standard library's executors do.

    Not where Ctrl-C has ended the program: that leaves an executor as it leaves its `with` block.
    """
    global _exiting
    _exiting = True
    interrupted = not hasattr(sys, "ps1") and getattr(sys, "last_type", None) is KeyboardInterrupt
    for poller in list(_pollers):
        if interrupted:
            poller.give_up()
        poller.stop()
    for poller in list(_pollers):
        poller.join()


# Before non-daemon threads are joined, other than atexit's; the standard library's executors register here too.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]


class Poller:
    """Runs from construction until it is told to stop and nothing is pending."""

    def __init__(
        self,
        connect: Callable[[threading.Event | None], Started],
        common: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        where: str,
        *,
        heartbeat: float | None,
        reconnects: bool,
        reconnect_timeout: float | None,
        checkpoint: Checkpoint | None,
        retries: int,
    ) -> None:
        """`connect(stop)` starts an agent at `where`, and again when its connection is lost, if `reconnects`.

        `common(greeting)` is what every batch is submitted with. `heartbeat` and `reconnect_timeout` are in seconds.
        `retries` is how often a task that was lost is run again. The poller closes `checkpoint` at its end, or where it
        cannot begin.
        """
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        self._awake = False
        # Guards these three; reentrant for the sake of finalizers. After the end the descriptors are somebody else's.
        self._pipe_lock = threading.RLock()
        self.link = Link(self.wake, heartbeat)
        self.checkpoint = checkpoint
        try:
            started = connect(None)
            try:
                if checkpoint is not None:
                    self._open(checkpoint, started.greeting, where)
            except BaseException:
                started.stream.close(1.0)
                raise
        except BaseException:
            if checkpoint is not None:
                checkpoint.close()
            os.close(self._wake_out)
            os.close(self._wake_in)
            raise
        self.link.connect(started)
        self._up = threading.Event()  # there is a connection; set and cleared by the poller's thread
        self._up.set()
        self.greeting = started.greeting  # of the agent that is there, or was last
        self.login = LoginCalls(self.link)
        self.shipping = Shipping(self.link)
        self.pools: dict[int, Pool] = {}  # guarded by _lock
        # Pools that are closed, and what will say that their jobs are ended; guarded by _lock.
        self._ending: dict[int, tuple[Pool, Future[Reply]]] = {}
        self._earlier_calls: dict[int, list[Handful]] = {}  # of pools, from earlier drivers
        self.pid = os.getpid()
        self._common = common(started.greeting)
        self._connect = connect
        self._where = where
        self._reconnects = reconnects
        self._reconnect_timeout = reconnect_timeout
        self._attempts = 1 + retries
        self._control = Control(self._cancel, self._log, self._hurry)
        # Guards _batcher, _broken, _stopping, _leaving and _listeners, and what batches say of claims; any thread takes
        # it, briefly. Reentrant, as the collection of an executor may call `stop` in the middle of anything.
        self._lock = threading.RLock()
        self._batcher = Batcher()
        self._broken: BaseException | None = None
        self._stopping = False
        self._leaving = False
        self._listeners: dict[str, Callable[[Mapping[str, Any] | None, wire.Body], None]] = {}  # by transfer
        # Appended to by any thread, also from finalizers, and so without a lock; emptied by the poller's thread.
        self._cancels: deque[tuple[Batch, int]] = deque()
        self._collected: deque[tuple[str, bool]] = deque()
        # The poller's thread only.
        self._active: dict[str, Batch] = {}
        self._unusable: dict[str, ResultLost] = {}  # batches of earlier drivers whose files cannot be used, and why
        self._epoch: float = started.greeting["now"]  # when this driver began, by work_dir's clock
        self._done_with: list[tuple[str, bool]] = []  # batches of earlier drivers, and whether their files may go
        if checkpoint is not None:
            self._restore(checkpoint)
        self._over: weakref.WeakValueDictionary[str, Batch] = weakref.WeakValueDictionary()
        self._frames: deque[wire.Frame] = deque()  # received and not yet looked at
        self._dead: SlurmFuturesError | None = None  # why there will be no connection any more
        self._cancelling = 0  # cancellations that the agent has not confirmed
        self._watched: int | None = None  # the descriptor of the link that the selector knows
        self._reconnect: Reconnect[Started] | None = None
        self._since = time.monotonic()  # when the connection was made
        self._wait = 0.0  # seconds before the next one is tried for
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="slurmfutures-poller", daemon=True)
        _pollers.add(self)
        self._thread.start()
        self._see_work_dir()

    @staticmethod
    def _open(checkpoint: Checkpoint, greeting: Mapping[str, Any], where: str) -> None:
        checkpoint.check_place(greeting, where)
        try:
            checkpoint.opened({"where": where, "work_dir": greeting["work_dir"]})
        except OSError as error:
            raise SlurmFuturesError(
                f"the checkpoint {checkpoint.path} cannot be written: {error.strerror}; make room, or name another file"
            ) from error

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take up the batches that earlier drivers have left."""
        for found in checkpoint.unfinished():
            if "pool" in found.words:
                self._restore_calls(checkpoint, found)
                continue
            if not found.open:
                self._done_with.append((found.id, not found.failed))
                continue
            script = OwnScript(*map(_hashable, found.words["script"])) if "script" in found.words else None
            spec = Spec(tuple(found.words["options"]), found.words["name"], "", b"", script)
            batch = Batch.restore(found.id, spec, self._control, found.firsts, found.keys, set(found.open))
            batch.failed = found.failed
            self._active[batch.id] = batch

    def _restore_calls(self, checkpoint: Checkpoint, found: Any) -> None:
        if not found.open:
            checkpoint.closed(found.id)
            return
        handful = Handful(found.id, found.words["first"], found.keys, None)
        handful.unclaimed = {handful.first + call for call in found.open}
        handful.open = len(found.open)
        self._earlier_calls.setdefault(found.words["pool"], []).append(handful)

    # ---- any thread

    def open_pool(self, number: int, settings: Settings) -> Pool:
        """Have a pool of pilots; with a checkpoint it goes on where the one of this number was in an earlier driver."""
        with self._lock:
            self.check()
            earlier = self._earlier_calls.pop(number, [])
            pool = Pool(
                number,
                settings,
                self._common,
                self.link,
                self.wake,
                self._read_log,
                self.checkpoint,
                earlier,
                self._epoch,
            )
            self.pools[number] = pool
            pool.up = self._up.is_set()
            reply = self._opening(pool, pool.open())
        while self.checkpoint is not None:
            try:
                words = Words(self.reply_to(reply).head, "pool")
                if not words.lacks("handed"):
                    pool.number_after(words.number("handed", most=pool.most_call))
                break
            except ConnectionLost:  # or the next agent is asked: nothing can be numbered without
                self._check_alive()
                reply = self._opening(pool, pool.open())
        return pool

    @staticmethod
    def _opening(pool: Pool, reply: "Future[Reply]") -> "Future[Reply]":
        """Have a pool fail that the agent cannot open."""

        def then(reply: "Future[Reply]") -> None:
            if reply.exception() is None and "error" in reply.result().head:
                message = Words(reply.result().head, "pool").message()
                pool.break_down(SlurmFuturesError(f"pilots cannot be had: {message}"))

        reply.add_done_callback(then)
        return reply

    def close_pool(self, pool: Pool) -> "Future[Reply]":
        """End a pool's jobs; the reply comes when none is left.

        The calls that it has are over, or cancelled; what somebody adds at this very moment fails.
        """
        with self._lock:
            self.pools.pop(pool.id, None)
            known = self._ending.get(pool.id)
            if known is None:
                reply = pool.end()
                known = self._ending[pool.id] = pool, reply
                reply.add_done_callback(lambda _: self._ending.pop(pool.id, None))
        pool.close()
        pool.abandon(RuntimeError(_AFTER_SHUTDOWN))
        return known[1]

    def submit(
        self,
        spec: Spec,
        name: str,
        function: bytes,
        tasks: Sequence[Sequence[bytes]],
        keys: Sequence[Sequence[bytes]] | None = None,
    ) -> list[SlurmFuture[Any]]:
        """Add tasks, each the pickled arguments of one call or more; return the futures of all calls in order.

        `keys` are those of the calls, task by task, where there is a checkpoint.
        """
        futures: list[SlurmFuture[Any]] = []
        with self._lock:
            self.check()
            now = time.monotonic()
            batch = self._batcher.batch_for(spec, self._control, now)
            fresh = not batch.futures
            for number, arguments in enumerate(tasks):
                futures += batch.add(function, name, arguments, now, keys[number] if keys is not None else ())
        if fresh:
            self.wake()
        return futures

    def claim(self, key: bytes, place: tuple[str, int], claim: Claim) -> SlurmFuture[Any] | None:
        """Return the future of a call that an earlier driver has sent, None where it has come to nothing meanwhile."""
        assert self.checkpoint is not None
        with self._lock:
            self.check()
            lost = self._unusable.get(place[0])
            if lost is not None:  # its jobs may run on: none of its calls is sent again by this driver
                failed: SlurmFuture[Any] = SlurmFuture(NOBODY, 0)
                failed.set_exception(lost)
                return failed
            batch, call = self._active.get(place[0]), place[1]
            future = batch.futures[call] if batch is not None and batch.restored else None
            if batch is None or future is None or future.done() or self.checkpoint.flying(key) != place:
                return None
            batch.unclaimed.discard(call)
            if claim.spec.script is not None:
                batch.spec = claim.spec
            if not batch.attached:
                batch.claims[call] = claim
            return future

    def check(self) -> None:
        """Raise what stands in the way of new calls."""
        if self.pid != os.getpid():
            raise RuntimeError("this executor belongs to the parent process: make one of your own after fork()")
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._stopping:
            raise RuntimeError(_AFTER_SHUTDOWN)
        self._check_alive()

    def request(
        self, head: Mapping[str, Any], body: Sequence[wire.Buffer] = (), *, again: bool = False
    ) -> tuple[int, "Future[Reply]"]:
        return self.link.request(head, body, again=again)

    def listen(self, transfer: str, listener: Callable[[Mapping[str, Any] | None, wire.Body], None]) -> None:
        """Have `listener(head, body)` called for each frame of a transfer, by None where the connection is lost."""
        with self._lock:
            self._listeners[transfer] = listener

    def unlisten(self, transfer: str) -> None:
        with self._lock:
            self._listeners.pop(transfer, None)

    def wait_until_connected(self) -> None:
        """Return when there is a connection. Raises what stands in the way of there ever being one."""
        self.pump_until(lambda: self._up.is_set() or self._broken is not None)
        while not self._up.wait(0.5):
            self._check_alive()
        self._check_alive()

    def _check_alive(self) -> None:
        if self._broken is not None:
            raise self._broken

    def pending(self) -> list[SlurmFuture[Any]]:
        """Return the futures of jobs that are not resolved."""
        with self._lock:
            batches = [*self._active.values(), *self._batcher.opened()]
        return [
            future
            for batch in batches
            for call, future in enumerate(list(batch.futures))
            if future is not None and call not in batch.unclaimed
        ]

    def _pools(self) -> list[Pool]:
        with self._lock:
            return list(self.pools.values())

    def _pilots_pending(self) -> list[SlurmFuture[Any]]:
        return [future for pool in self._pools() for future in pool.pending()]

    def stop(self) -> None:
        """End when nothing is pending any more."""
        if self.pid != os.getpid():
            return  # it runs in the parent process, and the lock may have been held during the fork
        with self._lock:
            self._stopping = True
        self.wake()

    def give_up(self) -> None:
        """Where there is a checkpoint, end now: what is pending goes on for the next start. Else cancel it."""
        if self.checkpoint is not None:
            with self._lock:
                self._leaving = True
            self.stop()
            return
        for future in [*self.pending(), *self.login.pending(), *self._pilots_pending()]:
            future.cancel()

    def join(self) -> None:
        """Wait for the end. Who interrupts that is not kept again when the interpreter exits."""
        if threading.current_thread() is not self._thread:
            try:
                self._thread.join()
            except BaseException:
                self.abandon()
                raise

    def abandon(self) -> None:
        """Not be waited for at exit."""
        _pollers.discard(self)

    def wake(self) -> None:
        with self._pipe_lock:
            if not self._awake:
                self._awake = True
                with contextlib.suppress(BlockingIOError):  # it has wake-ups enough
                    os.write(self._wake_in, b"x")

    def _hurry(self, batch: Batch) -> None:
        batch.hurried = True
        self.wake()

    def _cancel(self, batch: Batch, call: int) -> None:
        self._cancels.append((batch, call))
        self.wake()

    def _log(self, calls: Sequence[tuple[Batch, int]], stream: str, limit: int | None) -> str:
        found = [
            _output.Log(
                {"batch": batch.id, "task": batch.task_of(call), "stream": stream},
                functools.partial(batch.kept_log, call, stream),
            )
            for batch, call in calls
        ]
        return _output.read(self.asked_for_logs(), found, limit)

    def _read_log(self, words: Mapping[str, Any], limit: int | None) -> str:
        return _output.read(self.asked_for_logs(), [_output.Log(words)], limit)

    def asked_for_logs(self) -> _output.Agent:
        """Return how the agent is asked for a log."""
        return _output.Agent(
            lambda words: self.link.request({"op": "log", **words}, again=True)[1],
            lambda reply: self.reply_to(reply, REPLY_TIMEOUT),
        )

    def reply_to(self, reply: "Future[Reply]", timeout: float | None = None) -> Reply:
        """Wait for a reply. A callback, which runs in the poller's thread, does the poller's work meanwhile."""
        if self.pump_until(reply.done, timeout):
            timeout = 0
        return reply.result(timeout)

    def pump_until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """In a callback, do the poller's work until `condition()` is true, and return true; elsewhere return false."""
        if threading.current_thread() is not self._thread:
            return False
        end = None if timeout is None else time.monotonic() + timeout
        while not condition() and (end is None or time.monotonic() < end):
            due = self._timeout()
            self._turn(1.0 if due is None else min(1.0, due))
        return True

    # ---- the poller's thread

    def _run(self) -> None:
        error: Exception = RuntimeError(_AFTER_SHUTDOWN)
        try:
            self._selector.register(self._wake_out, selectors.EVENT_READ)
            self._watch_link()
            for batch in list(self._active.values()):
                self._attach(batch)
            while not self._finished():
                self._turn(self._timeout())
            if self._leaving and self._unresolved():
                error = SlurmFuturesError(self._left())
            else:
                self._clear_away()
        except (AgentError, ConnectionLost) as lost:
            error = lost
            logger.error("%s", lost)
        except BaseException as problem:  # a bug here must not leave a future pending
            error = SlurmFuturesError(f"slurmfutures failed inside: {type(problem).__name__}: {problem}")
            error.__cause__ = problem
            logger.exception("the poller has failed")
        finally:
            if self._reconnect is not None:
                found = self._reconnect.give_up()
                if isinstance(found, Started):
                    self.link.connect(found)  # to be closed with it
            self._fail_all(error)
            if self.checkpoint is not None:
                self.checkpoint.close()
            self.link.close(CLOSE_TIMEOUT)
            self._selector.close()
            _pollers.discard(self)
            with self._pipe_lock:
                self._awake = True  # nobody writes to the pipe any more
                os.close(self._wake_out)
                os.close(self._wake_in)

    def _left(self) -> str:
        path = self.checkpoint.path if self.checkpoint is not None else ""
        return f"the executor was left before this call's end: it goes on, and the next start finds it in {path}"

    def _unresolved(self) -> bool:
        """Whether somebody waits for a call of some batch. Holds the lock, or is the poller's thread at its end."""
        jobs = any(batch.unresolved > len(batch.unclaimed) for batch in self._active.values())
        return jobs or bool(self._batcher) or any(len(pool) for pool in self.pools.values())

    def _finished(self) -> bool:
        with self._lock:
            if self._leaving:
                return True
            busy = self._unresolved() or len(self.login) or self._cancels
            # While there is no connection: what was cancelled must still be said to be.
            return self._stopping and not busy and (self.link.connected or not self._cancelling)

    def _timeout(self) -> float | None:
        with self._lock:
            due = self._batcher.next_due()
            acks = [pool.ack_at() for pool in self.pools.values()]
        times = [at for at in (due, self.link.next_beat(), *acks) if at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _turn(self, timeout: float | None) -> None:
        """Wait for something to happen, at most `timeout` seconds, and do all that it takes."""
        if self._dead is not None:  # what was raised first may have ended in a callback
            raise self._dead
        try:
            self._exchange(timeout)
            self.link.beat()
        except LinkDown as down:
            self._lost(down)
        self._take_over()
        while self._frames:
            try:
                self._take(self._frames.popleft())  # a callback may get here again, see `reply_to`
            except (*wire.MISFITS, AgentError) as error:
                self._frames.clear()
                logger.debug("a frame of the agent's that cannot be used", exc_info=True)
                if self._watched is not None:
                    self._lost(not_understood(error))
        self._hand_over_due()
        if self._cancels:
            self._send_cancels()
        self._release_collected()
        if self.pools:
            self._serve_pools()

    def _serve_pools(self) -> None:
        now = time.monotonic()
        for pool in self._pools():
            pool.write_down(self.greeting, self._where)
            pool.flush_cancels()
            at = pool.ack_at()
            if at is not None and now >= at:
                pool.flush_acks()
            if pool.is_over():
                self.close_pool(pool)

    def _exchange(self, timeout: float | None) -> None:
        """Wait, write what waits for it, and read what is there."""
        writing = self.link.writable() if self.link.pending() else None
        if writing is not None and writing == self._watched:
            self._selector.modify(writing, selectors.EVENT_READ | selectors.EVENT_WRITE)
        elif writing is not None:
            self._selector.register(writing, selectors.EVENT_WRITE)
        events = self._selector.select(timeout)
        if writing is not None:
            if writing == self._watched:
                self._selector.modify(writing, selectors.EVENT_READ)
            else:
                self._selector.unregister(writing)
            self.link.flush()
        for key, _ in events:
            if key.fd == self._wake_out:
                os.read(self._wake_out, 4096)
                self._awake = False  # not before: a wake-up in between would be read away with the others
            elif key.fd == self._watched:
                self._frames.extend(self.link.receive())

    def _release_collected(self) -> None:
        if not self._collected and not self._done_with:
            return
        if self.checkpoint is not None and not self.checkpoint.sync():
            return  # what is there on the cluster is all that there is
        gone, self._done_with = self._done_with, []
        while self._collected:
            gone.append(self._collected.popleft())
        for batch_id, remove in gone:
            self._release(batch_id, remove, logs=False)

    def _release(self, batch_id: str, remove: bool, *, logs: bool) -> "Future[Reply]":
        """Have the agent forget a batch. Its results are in the checkpoint by now, on disk."""
        words = {"op": "release", "batch": batch_id, "remove": remove, "logs": logs}
        _, reply = self.link.request(words, again=True)
        if self.checkpoint is not None:
            reply.add_done_callback(lambda reply: self._released(batch_id, reply))
        return reply

    def _released(self, batch_id: str, reply: "Future[Reply]") -> None:
        if self.checkpoint is not None and reply.exception() is None:
            self.checkpoint.closed(batch_id)

    # ---- the connection

    def _watch_link(self) -> None:
        self._watched = self.link.readable()
        self._selector.register(self._watched, selectors.EVENT_READ)

    def _lost(self, down: LinkDown) -> None:
        """The connection is gone: fail what was running on the login node, and have it made again."""
        if not self._reconnects:
            self._dead = AgentError(down.reason, down.last_words)
            raise self._dead
        assert self._watched is not None
        self._selector.unregister(self._watched)
        self._watched = None
        words = f"{down.reason}\n{down.last_words}" if down.last_words else down.reason
        logger.warning("the connection to %s is lost: %s", self._where, words)
        calls: list[SlurmFuture[Any]] = []

        def clear(drop: Callable[[], None]) -> None:
            with contextlib.ExitStack() as stack:
                self._up.clear()
                for pool in self.pools.values():
                    stack.enter_context(pool.lock)
                    pool.lost()
                calls.extend(self.login.lost(drop))

        with self._lock:
            self.link.disconnect(clear)
        error = ConnectionLost(self._where, down.reason, may_have_run=True)
        self.link.fail_sent(error)
        for future in calls:
            settle(future, None, error)
        with self._lock:
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener(None, b"")
        now = time.monotonic()
        steady = now - self._since > STEADY
        self._wait = 0.0 if steady or not self._wait else min(MOST_WAIT, 2 * self._wait)
        self._reconnect = Reconnect(self._connect, self.wake, self._reconnect_timeout, self._wait)
        self._wait = self._wait or 0.5

    def _take_over(self) -> None:
        """Go on with a connection that was made again."""
        found = self._reconnect.take() if self._reconnect is not None else None
        if found is None:
            return
        self._reconnect = None
        if isinstance(found, BaseException):
            self._dead = ConnectionLost(self._where, str(found))
            raise self._dead from found
        logger.info("connected to %s again", self._where)
        self._since = time.monotonic()
        self.greeting = found.greeting
        self._see_work_dir()
        self.link.connect(found)
        self._watch_link()
        self.shipping.connected_again()
        for batch in list(self._active.values()):
            if not batch.stored:
                continue
            if batch.spec.shipment is None:
                self._attach(batch)
            else:
                there = self.shipping.send(batch.spec.shipment)
                there.add_done_callback(functools.partial(self._attach_shipped, batch))
        for pool, reply in list(self._ending.values()):
            if not reply.done():
                pool.connected_again()  # else the next agent knows of nothing to be ended
        self.link.repeat()
        with self._lock:
            self._up.set()
            pools = list(self.pools.values())
        for pool in pools:
            self._opening(pool, pool.connected_again())

    def _attach(self, batch: Batch) -> None:
        words: dict[str, Any] = {"op": "attach", "batch": batch.id, "wanted": batch.wanted()}
        if batch.restored:
            words["epoch"] = self._epoch
        _, reply = self.link.request(words)
        reply.add_done_callback(lambda reply: self._attached(batch, reply))

    def _attach_shipped(self, batch: Batch, there: "Future[None]") -> None:
        """The code that a batch needs is there, as before; where it is not, its calls will say so."""
        if batch.id in self._active:
            self._attach(batch)

    def _attached(self, batch: Batch, reply: "Future[Reply]") -> None:
        """The agent goes on with a batch, or has not found it; a lost connection is the business of the next one."""
        if reply.exception() is not None:
            return
        head = reply.result().head
        if head.get("error") == "gone" and batch.restored:
            self._forsake(batch)
            return
        if "error" in head:
            message = Words(head, "attach").message()
            lost = ResultLost(f"the files of batch {batch.id} cannot be used: {message}")
            batch.failed = True  # its files stay
            if batch.restored:
                with self._lock:
                    self._unusable[batch.id] = lost
                    batch.unsaved = True  # the next start looks again
            for call in range(len(batch.futures)):
                self._resolve(batch, call, None, lost)
            self._submitted(batch)
            self._batch_over(batch)
            return
        with self._lock:
            batch.attached = True
            batch.claims.clear()
        for task, number in head["attempts"]:
            batch.attempts.setdefault(task, self._new_attempts(batch, number))
        for job, tasks in head["parts"]:
            self._note_part(batch, job, tasks)
        if head["submitted"]:
            self._submitted(batch)

    def _forsake(self, batch: Batch) -> None:
        """A batch of an earlier driver is not in work_dir: it never got there, or was purged. Its calls begin anew."""
        logger.warning("batch %s of an earlier driver is gone: its calls are sent again", batch.id)
        with self._lock:
            left = [call for call, future in enumerate(batch.futures) if future is not None]
            lost = ResultLost(f"the files of batch {batch.id} are gone")
            assert self.checkpoint is not None
            self.checkpoint.fail(batch, left, lost)
            now = time.monotonic()
            for call, claim in batch.claims.items():
                future = batch.futures[call]
                if future is not None and not future.cancelled():
                    another = self._batcher.batch_for(claim.spec, self._control, now)
                    another.adopt(claim, future, batch.keys[call], now)
            batch.futures = [None] * len(batch.futures)
            batch.unclaimed.clear()
            batch.claims.clear()
            batch.unresolved = 0
        self._batch_over(batch)

    def _note_part(self, batch: Batch, job: str, tasks: Sequence[Sequence[int]]) -> bool:
        """Some tasks of a batch are a job; False if that was known."""
        if not ids.is_job(job):  # it gets into the checkpoint
            raise ValueError(f"{job!r:.80} is not the id of a job")
        if not batch.submitted(job, batch.tasks_in(tasks)):
            return False
        if self.checkpoint is not None:
            self.checkpoint.part(batch.id, job, tasks)
        return True

    def _see_work_dir(self) -> None:
        """Warn where there is little room left for batches and results, or where others can rename the folder."""
        exposed = self.greeting["exposed"]
        if exposed:
            give_warning(
                f"others can put another folder in the place of work_dir {self.greeting['work_dir']} on "
                f"{self.greeting['host']}, because {exposed} is theirs or open to them: have it closed (chmod go-w, "
                "or +t), or name another folder by work_dir="
            )
        free = self.greeting["free"]
        if free < LOW_SPACE:
            where = f"work_dir {self.greeting['work_dir']} on {self.greeting['host']}"
            text = f"{where} has {free / 1e6:.1f} MB of room left: make room, or name another folder by work_dir="
            logger.warning("%s", text)
            give_warning(text)

    # ---- batches on their way out

    def _hand_over_due(self) -> None:
        with self._lock:
            due = self._batcher.due(time.monotonic(), all_of_them=self._stopping)
            self._active.update((batch.id, batch) for batch in due)
        if due:
            self._send_cancels()
        for batch in due:
            if batch.spec.shipment is None:
                self._hand_over(batch)
            else:
                there = self.shipping.send(batch.spec.shipment)
                there.add_done_callback(functools.partial(self._shipped, batch))

    def _shipped(self, batch: Batch, there: "Future[None]") -> None:
        """The code that a batch needs is on the cluster, or cannot be."""
        if batch.id not in self._active:
            return
        error = there.exception()
        if error is None:
            self._hand_over(batch)
            return
        self._fail(batch, range(len(batch.futures)), SubmitError(str(error), options=batch.spec.options))
        batch.calls, batch.functions, batch.unwanted = [], {}, set()
        batch.stored = True
        self._submitted(batch)
        self._batch_over(batch)

    def _hand_over(self, batch: Batch) -> None:
        if not batch.unresolved:  # all of it was cancelled
            batch.stored = True
            self._submitted(batch)
            self._batch_over(batch)
            return
        if self.checkpoint is not None and not self._write_down(self.checkpoint, batch):
            return
        script = batch.script()
        live = [any(batch.futures[call] is not None for call in batch.calls_of(task)) for task in _tasks(batch)]
        spec = {
            **self._common,
            "batch": batch.id,
            "tasks": len(batch.firsts),
            "skip": [task for task, wanted in enumerate(live) if not wanted],
            "options": batch.spec.options,
            "name": batch.name,
            "comment": batch.spec.comment,
            "ship": batch.spec.shipment.digest if batch.spec.shipment is not None else "",
            "script": None if script is None else script._asdict(),
        }
        words = {"op": "submit", "batch": batch.id, "spec": spec}
        _, reply = self.link.request(words, batch.packed(), again=True)
        reply.add_done_callback(lambda reply: self._stored(batch, reply))

    def _write_down(self, checkpoint: Checkpoint, batch: Batch) -> bool:
        """Have a batch in the checkpoint before it is sent; where it cannot be written its calls fail."""
        try:
            checkpoint.begin(batch, self.greeting, self._where)
        except OSError as error:
            failed = SubmitError(
                f"the checkpoint {checkpoint.path} cannot be written: {error.strerror}; nothing was sent",
                options=batch.spec.options,
            )
            for call in range(len(batch.futures)):
                self._resolve(batch, call, None, failed)
            batch.calls, batch.functions, batch.unwanted = [], {}, set()
            batch.stored = True
            self._submitted(batch)
            self._batch_over(batch)
            return False
        return True

    def _stored(self, batch: Batch, reply: "Future[Reply]") -> None:
        """The agent has the batch on disk, or could not write it."""
        batch.stored = True  # at once: where this reply cannot be understood, the next agent is asked
        error = reply.exception()
        if error is None and "error" in reply.result().head:
            message = Words(reply.result().head, "submit").message()
            error = SubmitError(f"the batch could not be written: {message}", options=batch.spec.options)
        if error is not None:
            self._fail(batch, range(len(batch.futures)), error)
            batch.unwanted = set()
            self._submitted(batch)
        else:
            for job, tasks in reply.result().head.get("parts", ()):
                self._note_part(batch, job, tasks)
            if reply.result().head.get("submitted"):
                self._submitted(batch)
        if batch.unwanted:
            self._send_cancel(batch)
        self._batch_over(batch)

    def _submitted(self, batch: Batch) -> None:
        with self._lock:
            self._batcher.submitted(batch)

    def _send_cancels(self) -> None:
        """Cancel the tasks all of whose calls are; one message for each batch."""
        batches: dict[Batch, list[int]] = {}
        while self._cancels:
            batch, call = self._cancels.popleft()
            if batch.futures[call] is None:
                continue
            batch.futures[call] = None
            batch.unresolved -= 1
            batches.setdefault(batch, []).append(call)
            task = batch.task_of(call)
            if all(batch.futures[other] is None for other in batch.calls_of(task)):
                batch.unwanted.add(task)
        for batch, calls in batches.items():
            if self.checkpoint is not None:
                self.checkpoint.fail(batch, calls, None)
            if batch.unwanted and batch.id in self._active and batch.stored:
                self._send_cancel(batch)
                self._batch_over(batch)

    def _send_cancel(self, batch: Batch) -> None:
        """Have a batch's unwanted tasks cancelled, however long that takes to be said."""
        tasks, batch.unwanted = batch.unwanted, set()
        batch.cancelling |= tasks
        words = {"op": "cancel", "batch": batch.id, "tasks": sorted(tasks)}
        _, reply = self.link.request(words, again=True)
        self._cancelling += 1

        def done(_: "Future[Reply]") -> None:
            self._cancelling -= 1
            batch.cancelling -= tasks

        reply.add_done_callback(done)

    # ---- what the agent says

    def _take(self, frame: wire.Frame) -> None:
        if frame.kind == wire.RESULTS:
            self._take_results(frame.body)
            return
        head = frame.head
        op = head["op"]
        if "transfer" in head:
            with self._lock:
                listener = self._listeners.get(head["transfer"])
            if listener is not None:
                listener(head, frame.body)
        elif "pool" in head:
            if head["pool"] in self.pools:
                self._take_of_pool(self.pools[head["pool"]], head, frame.body)
        elif op == "pong":
            pass  # that something came is all that was wanted
        elif op == "began":
            for call in head["calls"]:
                future = self.login.get(call)
                if future is not None:
                    begin(future)
        elif op == "crashed":
            self._login_crashed(head)
        elif head["batch"] in self._active:  # else it was cancelled, or failed as a whole, meanwhile
            self._take_of(self._active[head["batch"]], head, frame.body)

    def _take_results(self, body: wire.Body) -> None:
        """Results of calls on the login node, or of those of one pool."""
        number = payload.first_call(body) >> BITS
        if number:
            pool = self.pools.get(number)
            if pool is not None:
                pool.results(body)
            return
        for record in payload.records(body):
            self._login_result(record)

    def _take_of_pool(self, pool: Pool, head: Mapping[str, Any], body: wire.Body) -> None:
        op = head["op"]
        if op == "began":
            for future in pool.began(head):
                begin(future)
        elif op == "pool_note":
            pool.noted(head["kind"], head["message"])
        elif op == "pool_uninitialized":
            pool.uninitialized(head, body)
        elif op == "pool_broken":
            pool.broke(head)

    def _take_of(self, batch: Batch, head: Mapping[str, Any], body: wire.Body) -> None:
        op = head["op"]
        if op == "results":
            self._results(batch, head, body)
        elif op == "ended":
            self._ended(batch, head["ended"])
        elif op == "states":
            self._states(batch, head["states"])
        elif op == "part":
            if self._note_part(batch, head["job"], head["tasks"]):
                logger.info("batch %s: %s is job %s", batch.id, batch.name, head["job"])
        elif op == "submitted":
            self._submitted(batch)
        elif op == "refused":
            self._refused(batch, head)
        elif op == "notice":
            self._notice(batch, head)
        self._batch_over(batch)

    def _results(self, batch: Batch, head: Mapping[str, Any], body: wire.Body) -> None:
        if batch.spec.script is not None:
            body = _infos(body)
        if self.checkpoint is not None:
            good = [
                (record.call, record.payload)
                for record in payload.records(body)
                if record.status == payload.OK and batch.futures[record.call] is not None
            ]
            batch.unsaved = not self.checkpoint.finish(batch, good) or batch.unsaved
        earlier = set(head.get("earlier", ()))
        late: set[int] = set()
        lost: dict[int, SlurmFuturesError] = {}  # calls
        for record in payload.records(body):
            if batch.futures[record.call] is None:
                continue
            value, error = result_of(record, None, batch.id)
            if isinstance(error, JobError) and error.job_id is None:
                error.job_id = batch.job_id(record.call)
            task = batch.task_of(record.call)
            if task in batch.attempts:
                error = error and batch.attempts[task].told(error)
                if head.get("attempt", 0) < batch.attempts[task].number:
                    late.add(task)
            if record.status == payload.OK or error is None:
                self._resolve(batch, record.call, value, error)
            elif task in earlier:
                if not self._drop_unclaimed(batch, [record.call], error):
                    batch.stale[task] = error
            elif isinstance(error, ResultLost) and task in head["done"]:
                lost[record.call] = error
            else:
                self._fail(batch, [record.call], error)
            if isinstance(error, InitializerError):
                self._break(error)
        retries = []
        for task in head["done"]:
            missing = [call for call in batch.calls_of(task) if batch.futures[call] is not None]
            if not missing:
                continue
            attempts = self._attempts_of(batch, task, head.get("attempt", 0))
            if task in batch.stale:
                retries.append(self._anew(batch, task, attempts, batch.stale.pop(task)))
                continue
            silent = ResultLost(f"job {batch.job_id(missing[0])} is done but has left no result of this call")
            errors = {call: lost.get(call, silent) for call in missing}
            retries += self._again_or_fail(batch, task, attempts, errors, "")
        self._retry(batch, retries)
        for task in late:  # the results of an attempt that counted as lost: the next one is not needed any more
            if not any(batch.futures[call] for call in batch.calls_of(task)):
                batch.unwanted.add(task)
        if batch.unwanted:
            self._send_cancel(batch)

    def _ended(self, batch: Batch, records: Sequence[Mapping[str, Any]]) -> None:
        """Tasks are over without (all of) their results."""
        retries = []
        for record in records:
            task = record["task"]
            attempts = self._attempts_of(batch, task, record["attempt"])
            calls = [call for call in batch.calls_of(task) if batch.futures[call] is not None]
            if not calls or record["attempt"] != attempts.number:  # told before, by an agent that is gone
                continue
            error = _death(record) if batch.spec.script is None else script_error(record)
            if record.get("earlier") or task in batch.stale:
                batch.stale.pop(task, None)
                if self._drop_unclaimed(batch, calls, error):
                    batch.failed = True
                else:
                    retries.append(self._anew(batch, task, attempts, error))
            else:
                retries += self._again_or_fail(batch, task, attempts, dict.fromkeys(calls, error), record["node"])
        self._retry(batch, retries)

    def _again_or_fail(
        self, batch: Batch, task: int, attempts: Attempts, errors: Mapping[int, SlurmFuturesError], node: str
    ) -> Sequence[Mapping[str, Any]]:
        """Return the request for another attempt, or nothing where there is to be none: then the task has failed.

        `errors` says of each call that is left what became of it.
        """
        error = next(iter(errors.values()))
        if attempts.again(error, node):
            logger.warning("batch %s: %s is run again: %s", batch.id, batch.name, error)
            return [self._request(batch, task, attempts)]
        batch.failed = True
        calls_of: dict[SlurmFuturesError, list[int]] = {}
        for call, own in errors.items():
            calls_of.setdefault(own, []).append(call)
        for own, calls in calls_of.items():
            self._fail(batch, calls, attempts.told(own))
        return []

    def _attempts_of(self, batch: Batch, task: int, number: int) -> Attempts:
        """Return the attempts of a task; `number` is the one that is spoken of."""
        found = batch.attempts.get(task)
        if found is None:  # what an earlier driver has tried is known when it is attached
            found = self._new_attempts(batch, number if batch.restored and not batch.attached else 0)
        return found

    def _new_attempts(self, batch: Batch, before: int) -> Attempts:
        whatever = 1 if batch.spec.script is None else 1 + batch.spec.script.retries
        return Attempts(max(self._attempts, whatever), before, whatever=whatever)

    def _anew(self, batch: Batch, task: int, attempts: Attempts, error: BaseException) -> Mapping[str, Any]:
        """Have a task run again that raised or died before this driver began, and was asked for since."""
        logger.info("batch %s: %s of an earlier driver is run again: %s", batch.id, batch.name, error)
        attempts.anew(error)
        return self._request(batch, task, attempts)

    def _request(self, batch: Batch, task: int, attempts: Attempts) -> Mapping[str, Any]:
        batch.attempts[task] = attempts
        batch.enter([task], JobState.PENDING)
        return attempts.request(task, [call for call in batch.calls_of(task) if batch.futures[call] is None])

    def _retry(self, batch: Batch, retries: Sequence[Mapping[str, Any]]) -> None:
        if retries:
            words = {"op": "retry", "batch": batch.id, "retries": retries}
            _, reply = self.link.request(words, again=True)
            reply.add_done_callback(lambda reply: self._retried(batch, [words["task"] for words in retries], reply))

    def _retried(self, batch: Batch, tasks: Sequence[int], reply: "Future[Reply]") -> None:
        """The agent has written down that tasks are to run again, or could not."""
        if reply.exception() is None and "error" not in reply.result().head:
            return
        for task in tasks:
            self._fail_task(batch, task, batch.attempts[task].last())
        self._batch_over(batch)

    def _fail_task(self, batch: Batch, task: int, error: BaseException) -> None:
        batch.failed = True
        self._fail(batch, batch.calls_of(task), error)

    def _states(self, batch: Batch, states: Sequence[tuple[str, Sequence[tuple[int, int]]]]) -> None:
        for word, ranges in states:
            state = JobState(word)
            for tasks in batch.tasks_in(ranges):
                batch.enter(tasks, state)
                if state != JobState.RUNNING:
                    continue
                for task in tasks:
                    for call in batch.calls_of(task):
                        future = batch.futures[call]
                        if future is not None:
                            begin(future)

    def _refused(self, batch: Batch, head: Mapping[str, Any]) -> None:
        message = Words(head, "submit").text("message")
        for tasks in batch.tasks_in(head["tasks"]):
            for task in tasks:
                if task in batch.attempts:
                    logger.warning("batch %s: %s is not run again: %s", batch.id, batch.name, message)
                    self._fail_task(batch, task, batch.attempts[task].last())
                self._fail(batch, batch.calls_of(task), SubmitError(message, options=batch.spec.options))
        self._submitted(batch)

    def _notice(self, batch: Batch, head: Mapping[str, Any]) -> None:
        text = f"{batch.name}: {head['message']}"
        logger.warning("batch %s %s: %s", batch.id, head["kind"], text)
        if head["kind"] == "stuck":
            give_warning(text)

    # ---- futures

    def _fail(self, batch: Batch, calls: Sequence[int], error: BaseException) -> None:
        """Fail calls for good, in the checkpoint too: there they run again at the next start."""
        if self.checkpoint is not None:
            self.checkpoint.fail(batch, [call for call in calls if batch.futures[call] is not None], error)
        info = error.info if isinstance(error, JobError) else None
        if info is not None and batch.spec.script is not None and not batch.spec.script.check:
            self._resolve(batch, calls[0], info, None)
            return
        for call in calls:
            self._resolve(batch, call, None, error)

    def _drop_unclaimed(self, batch: Batch, calls: Sequence[int], error: BaseException) -> bool:
        """Let go of calls that raised or died before this driver began; False where one of them is asked for by now.

        Who asks for one later has it run as a call of its own.
        """
        assert self.checkpoint is not None
        with self._lock:  # against those who claim them
            if not batch.unclaimed.issuperset(calls):
                return False
            self.checkpoint.fail(batch, calls, error)
            for call in calls:
                batch.futures[call] = None
                batch.unresolved -= 1
                batch.unclaimed.discard(call)
        return True

    def _resolve(self, batch: Batch, call: int, value: Any, error: BaseException | None) -> None:
        with self._lock:  # against those who claim it
            future = batch.futures[call]
            if future is None:
                return
            batch.futures[call] = None
            batch.unresolved -= 1
            batch.unclaimed.discard(call)
        settle(future, value, error)

    def _batch_over(self, batch: Batch) -> None:
        """All futures of a batch are resolved: its files go as soon as nobody can ask for its logs any more."""
        if batch.unresolved or batch.id not in self._active or not batch.stored:
            return
        with self._lock:
            del self._active[batch.id]
            self._batcher.submitted(batch)
        batch.spec = batch.spec._replace(shipment=None)  # futures may keep the batch, and it that
        if batch.unsaved:
            return  # its results are nowhere else
        self._over[batch.id] = batch
        finalizer = weakref.finalize(batch, _collect, self._collected, self.wake, (batch.id, not batch.failed))
        finalizer.atexit = False

    def _login_result(self, record: payload.Record) -> None:
        future = self.login.take(record.call)
        if future is not None:
            settle(future, *result_of(record, None, LOGIN_NODE))

    def _login_crashed(self, head: Mapping[str, Any]) -> None:
        for call in head["calls"]:
            future = self.login.take(call)
            if future is not None:
                reason = "the worker on the login node could not start" if head.get("start") else ""
                record = {**head, "job_id": None, "state": "FAILED", "node": LOGIN_NODE, "reason": reason}
                settle(future, None, job_error(record))

    def _break(self, error: InitializerError) -> None:
        """An initializer failed: no call of this executor can run."""
        with self._lock:
            if self._broken is not None:
                return
            self._broken = error
            batches = [*self._active.values(), *self._batcher.take_all()]
        for batch in batches:
            self._fail(batch, range(len(batch.futures)), error)
            if batch.id in self._active:
                batch.unwanted.update(_tasks(batch))
                if batch.stored:
                    self._send_cancel(batch)
                    self._batch_over(batch)

    # ---- the end

    def _clear_away(self) -> None:
        """Have pilots ended and finished batches removed; what is still referred to keeps its logs in memory."""
        replies = []
        for pool in self._pools():
            pool.flush_acks()
        ending = [self.close_pool(pool) for pool in self._pools()]
        ending += [reply for _, reply in self._ending.values()]
        if self.checkpoint is None or self.checkpoint.sync():
            for batch_id, batch in list(self._over.items()):
                replies.append((batch, self._release(batch_id, not batch.failed, logs=True)))
        deadline = time.monotonic() + (CLOSE_TIMEOUT if self.link.connected else OFFLINE_TIMEOUT)
        while time.monotonic() < deadline and (
            self._cancelling or not all(reply.done() for reply in [*ending, *(reply for _, reply in replies)])
        ):
            self._turn(1.0)
        self._release_collected()
        for batch, reply in replies:
            if reply.done() and reply.exception() is None:
                batch.keep_logs(_logs_of(reply.result()))

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            self._broken = self._broken or error
            batches = [*self._active.values(), *self._batcher.take_all()]
            self._active = {}
            listeners = list(self._listeners.values())
        for batch in batches:
            for call in range(len(batch.futures)):
                self._resolve(batch, call, None, error)
        self.link.end(error if isinstance(error, SlurmFuturesError) else AgentError(str(error), ""))
        for listener in listeners:
            listener(None, b"")
        for future in self.login.close(error):
            settle(future, None, error)
        for pool in self._pools():
            pool.abandon(error)


def _collect(collected: "deque[tuple[str, bool]]", wake: Callable[[], None], what: tuple[str, bool]) -> None:
    collected.append(what)
    wake()


def _hashable(word: Any) -> Any:
    """Return a word as it was before it was JSON."""
    return tuple(word) if isinstance(word, list) else word


def _tasks(batch: Batch) -> range:
    return range(len(batch.firsts))


def _death(record: Mapping[str, Any]) -> SlurmFuturesError:
    """Return the error for a task that ended without all of its results."""
    if record["state"] not in (None, JobState.COMPLETED) or record["exit_code"] or record["signal"]:
        return job_error(record)
    tail = f"\n{record['stderr']}" if record["stderr"] else ""
    if record["state"] is None:
        return ResultLost(
            f"job {record['job_id']} has left the queue without a result, and Slurm has no record of it any more "
            f"(its files: {record['where']}){tail}"
        )
    return ResultLost(
        f"job {record['job_id']} on node {record['node']} ended well but without a result: the function left by "
        f"os._exit(0), or work_dir is not shared with that node (its files: {record['where']}){tail}"
    )


def _logs_of(reply: Reply) -> dict[str, list[str]]:
    """Return what the tasks of a batch have printed, nothing where that cannot be understood."""
    words = Words(reply.head, "release")
    try:
        if words.lacks("logs"):
            return {}
        logs = words.inner("logs")
        return {task: logs.items(task, str, 2) for task in logs}
    except AgentError as error:
        logger.warning("%s", error)
        return {}


def _infos(body: wire.Body) -> bytes:
    """Return the records of scripts that have reached their ends as those of calls: the result is a JobInfo."""
    infos = [(record.call, job_info(jsons.loads(record.payload))) for record in payload.records(body)]
    return b"".join(
        bytes(part) for call, info in infos for part in payload.pack_record(call, payload.OK, pickle.dumps(info))
    )
