"""`PilotsExecutor`: calls in workers that stay."""

import hashlib
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FuturesTimeout
from numbers import Real
from typing import Any, NamedTuple

from ._checkpoint import Checkpoint, Found
from ._connection import Connection
from ._errors import SlurmFuturesError
from ._future import SlurmFuture
from ._link import Words
from ._logs import get_logger
from ._pool import Pool, Settings
from ._remote.times import parse_time
from ._ship import Shipment
from ._views import View

logger = get_logger("pilots")

REPLY_TIMEOUT = 60.0  # seconds


class PilotWorker(NamedTuple):
    """A worker of a pilot, as `PilotsExecutor.workers` shows it."""

    host: str  #: The name of its machine.
    job_id: str  #: Of the job that it is part of, "123_4".
    pid: int  #: Its process on that machine.
    busy_since: float | None  #: When its present call began, in seconds since the epoch; None if it is idle.
    calls: int  #: How many it has done.
    via: str  #: How its job reaches the agent: "tcp" or "files".


class PilotCounts(NamedTuple):
    """How many calls wait, are with a worker, and are done."""

    waiting: int  #: Calls that no worker has begun.
    running: int  #: Calls that workers are in.
    done: int  #: Calls that have returned or raised since this executor was made.


class PilotsExecutor(View):
    """Calls in worker processes that stay, each in a job with others or of its own: `SlurmExecutor.pilots`.

    Jobs are submitted as calls wait, and leave when they have had nothing to do for a while. Short calls travel many
    at a time; `map`'s chunksize has no effect. A call whose worker dies fails alone, with the JobError that says how,
    or runs again as `retries` say. Cancelling a running call ends its worker, which is replaced. Where no job gets to
    work, calls fail with PilotsBroken; where the initializer fails, with InitializerError.
    """

    def __init__(self, root: Any, connection: Connection, pool: Pool) -> None:
        super().__init__(connection)
        self._root = root  # keeps the connection's owner alive
        self._pool = pool
        weakref.finalize(self, pool.close).atexit = False  # what is pending is still done

    def _add(
        self,
        function: bytes,
        name: str,
        tasks: Sequence[Sequence[bytes]],
        keys: Sequence[Sequence[bytes]] | None,
        shipment: Shipment | None,
    ) -> list[SlurmFuture[Any]]:
        self._root._check_open()
        arguments = [argument for task in tasks for argument in task]
        flat = None if keys is None else [key for task in keys for key in task]
        return self._pool.submit(function, arguments, shipment.digest if shipment else "", flat)

    def _claim(
        self,
        found: Found,
        function: bytes,
        name: str,
        arguments: bytes,
        checkpoint: Checkpoint,
        shipment: Shipment | None,
    ) -> SlurmFuture[Any] | None:
        assert found.place is not None
        digest = shipment.digest if shipment else ""
        future = self._pool.claim(found.place, function, arguments, digest)
        return future or checkpoint.recall(found.key)  # its result may have come just now

    @property
    def _checkpoint(self) -> Checkpoint | None:
        return self._connection.poller.checkpoint

    def _pending(self) -> list[SlurmFuture[Any]]:
        return self._pool.pending()

    @property
    def workers(self) -> list[PilotWorker]:
        """The workers that are there now, as they were within the last second or two. Asks the agent."""
        state = self._state()
        return [] if state.lacks("workers") else [_worker(state, words) for words in state.items("workers", list)]

    @property
    def counts(self) -> PilotCounts:
        """How many calls wait, are with a worker, and are done. Asks the agent."""
        state = self._state()
        return PilotCounts(state.number_or_none("waiting") or 0, state.number_or_none("running") or 0, self._pool.done)

    def _state(self) -> Words:
        """Return what the agent says of the pool, nothing where there is none any more."""
        if self._pool.is_over():
            return Words({}, "pool")
        self._connection.poller.check()
        return Words(self._connection.poller.reply_to(self._pool.state_of_agent(), REPLY_TIMEOUT).head, "pool")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the jobs when those under way are done.

        With `wait` this returns when the calls are done and no job is left in the queue. With `cancel_futures` calls
        that have not begun are cancelled.
        """
        self._pool.close()  # before it is seen which calls are pending
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        if not wait:
            return
        poller = self._connection.poller
        try:
            poller.reply_to(poller.close_pool(self._pool), REPLY_TIMEOUT)
        except SlurmFuturesError:
            pass  # the executor has ended before, or its connection
        except FuturesTimeout:
            logger.warning("%s: after %g s there still are jobs in the queue", self, REPLY_TIMEOUT)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._pool)} calls pending"
        return f"<{type(self).__name__} of {self._pool.settings.workers} workers: {state}>"


def _worker(state: Words, found: Sequence[Any]) -> PilotWorker:
    if len(found) != len(PilotWorker._fields):
        raise state.wrong("workers")
    words = Words(dict(zip(PilotWorker._fields, found, strict=True)), "pool")
    return PilotWorker(
        host=words.text("host"),
        job_id=words.text("job_id"),
        pid=words.number("pid"),
        busy_since=None if words.lacks("busy_since") else words.seconds("busy_since"),
        calls=words.number("calls"),
        via=words.text("via"),
    )


def settings_of(
    *,
    workers: Any,
    max_workers: int | None,
    workers_per_job: Any,
    max_jobs: Any,
    idle_timeout: Any,
    call_time: Any,
    max_calls_per_worker: Any,
    start_timeout: Any,
    address: Any,
    retries: Any,
    options: tuple[str, ...],
    name: str,
    comment: str,
    initializer: bytes,
) -> Settings:
    """Check what `ex.pilots` is told; `max_workers` is the executor's. Raises ValueError."""
    for what, number in (
        ("workers", workers),
        ("workers_per_job", workers_per_job),
        ("max_jobs", max_jobs),
        ("max_calls_per_worker", max_calls_per_worker),
    ):
        if number is None and what != "workers_per_job":
            continue
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{what} must be an integer of 1 or more, not {number!r}")
    if workers is None:
        workers = max_workers * workers_per_job if max_workers else os.cpu_count() or 1
        workers += -workers % workers_per_job
    if workers % workers_per_job:
        less = workers - workers % workers_per_job
        remedy = f"{f'{less} or ' if less else ''}{less + workers_per_job}"
        raise ValueError(f"workers={workers} do not fill jobs of workers_per_job={workers_per_job}: ask for {remedy}")
    if address is not None and not isinstance(address, str):
        raise ValueError(f"address must be the login node's name or address, as a string, not {address!r}")
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise ValueError(f"retries must be an integer of 0 or more, not {retries!r}")
    for what, seconds in (("idle_timeout", idle_timeout), ("call_time", call_time), ("start_timeout", start_timeout)):
        if seconds is None and what != "idle_timeout":
            continue
        if not isinstance(seconds, Real) or isinstance(seconds, bool) or not float(seconds) > 0:
            raise ValueError(f"{what} must be a number of seconds greater than 0, not {seconds!r}")
    for word in options:
        option, _, value = word.partition("=")
        limit = parse_time(value) if option == "--time" else None
        if limit is not None and call_time is not None and float(call_time) >= limit:
            raise ValueError(f"call_time={call_time!r} s does not fit into jobs of time={value!r}: ask for more time=")
    most = workers // workers_per_job
    return Settings(
        workers=workers,
        per_job=workers_per_job,
        max_jobs=most if max_jobs is None else min(max_jobs, most),
        idle=float(idle_timeout),
        call_time=None if call_time is None else float(call_time),
        most_calls=max_calls_per_worker,
        start_timeout=None if start_timeout is None else float(start_timeout),
        address=address,
        retries=retries,
        options=options,
        name=name,
        comment=comment,
        initializer=initializer,
    )


def pool_number(random: Callable[[int], bytes], ordinal: int, initializer: bytes, *, remembered: bool) -> int:
    """Return what to know a pool by: with a checkpoint the same for the next driver, else one that nobody else has."""
    data = hashlib.blake2b(b"%d" % ordinal + initializer, digest_size=3).digest() if remembered else random(3)
    return int.from_bytes(data, "big") or 1
