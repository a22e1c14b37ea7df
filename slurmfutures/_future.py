"""`SlurmFuture`: a `concurrent.futures.Future` that knows its job."""

import asyncio
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol, TypeVar

from ._errors import JobError
from ._logs import get_logger
from ._remote.logs import LIMIT
from ._remote.states import JobState

T = TypeVar("T")

logger = get_logger("future")

_PENDING = "PENDING"
_RUNNING = "RUNNING"
_FINISHED = "FINISHED"
_CANCELLED = "CANCELLED"
_CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"


class Owner(Protocol):
    """What a future's call belongs to: a batch, or the login node's calls. Any thread."""

    def job_id(self, call: int) -> str | None: ...

    def state(self, call: int) -> JobState: ...

    def log(self, call: int, stream: str, limit: int | None) -> str: ...

    def cancel(self, call: int) -> None: ...

    def hurry(self) -> None: ...


class _Nobody:
    """Owner of calls that have no job: they got nowhere, or had their results before. Their futures are resolved."""

    def job_id(self, call: int) -> str | None:
        return None

    def state(self, call: int) -> JobState:
        raise AssertionError("the call is over")

    def log(self, call: int, stream: str, limit: int | None) -> str:
        return ""

    def cancel(self, call: int) -> None:
        pass

    def hurry(self) -> None:
        pass


NOBODY = _Nobody()


class _Condition(threading.Condition):
    """One that is made in half the time, of half as many objects: those are what each collection of garbage looks at.

    The standard library's has its lock's methods as attributes, this one has methods that call them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waiters: deque[Any] = deque()

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        return self._lock.acquire(*args, **kwargs)

    def release(self) -> None:
        self._lock.release()

    def _release_save(self) -> Any:
        return self._lock._release_save()  # type: ignore[attr-defined]

    def _acquire_restore(self, state: Any) -> None:
        self._lock._acquire_restore(state)  # type: ignore[attr-defined]

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]


# Whether a future is what it was in Python 3.2 and since: then its parts are set here, one by one.
_KNOWN = vars(Future()).keys() == {"_condition", "_state", "_result", "_exception", "_waiters", "_done_callbacks"}


class SlurmFuture(Future[T]):
    """The outcome of one call.

    Beside what `concurrent.futures.Future` offers it can be awaited, tells about its job, and cancels running calls.
    All methods may be called from any thread.
    """

    def __init__(self, owner: Owner, call: int) -> None:
        if _KNOWN:
            self._condition = _Condition()
            self._state = _PENDING
            self._result = None
            self._exception = None
            self._waiters: list[Any] = []
            self._done_callbacks: list[Any] = []
        else:
            super().__init__()
        self._place = owner, call  # one attribute: it may be given to another batch while somebody reads it

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self).__await__()

    @property
    def job_id(self) -> str | None:
        """Slurm's id of the call's job, "123" or "123_7" for an array task; None before it is submitted.

        Of a call in a pilot it is known once the call has taken 50 ms, and where its worker or job has ended in it.
        """
        owner, call = self._place
        return owner.job_id(call)

    @property
    def state(self) -> JobState:
        """The state of the call's job as far as it is known; of a call that is over, how it ended."""
        with self._condition:
            state, error = self._state, self._exception
        if state in (_CANCELLED, _CANCELLED_AND_NOTIFIED):
            return JobState.CANCELLED
        if state in (_PENDING, _RUNNING):
            owner, call = self._place
            return owner.state(call)
        if error is None:
            return JobState.COMPLETED
        if isinstance(error, JobError) and error.state is not None:
            return JobState(error.state)
        return JobState.FAILED

    def stdout(self, limit: int | None = LIMIT) -> str:
        """Return what the call's job has printed so far. The calls of one array task share their job's output.

        Of more than `limit` bytes it is the end, after a line that says how much is left out; None is all of it. On the
        login node the file must be the user's: another one of the same name is not read, with a warning.

        Of a call in a pilot it is what its worker has printed, in earlier calls too, while the pilot is there; "" for
        one whose `job_id` is not known.
        """
        owner, call = self._place
        return owner.log(call, "out", limit)

    def stderr(self, limit: int | None = LIMIT) -> str:
        """Return what the call's job has written to its stderr so far, as `stdout` does."""
        owner, call = self._place
        return owner.log(call, "err", limit)

    def cancel(self) -> bool:
        """Cancel the call, running or not; False only if it is over.

        Other than in the standard library a running call can be cancelled: its job is ended. Where calls share an
        array task (`map` with a chunksize), the task ends when all of its calls are cancelled.
        """
        with self._condition:
            if self._state in (_CANCELLED, _CANCELLED_AND_NOTIFIED):
                return True
            if self._state not in (_PENDING, _RUNNING):
                return False
            # Both steps of the standard library at once: nobody is left to notify the waiters later.
            self._state = _CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        try:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        finally:  # a callback may raise SystemExit
            owner, call = self._place
            owner.cancel(call)
        return True

    def result(self, timeout: float | None = None) -> T:
        """Return the call's value, or raise what it raised; `timeout` is in seconds."""
        if self._state == _FINISHED and self._exception is None:  # nothing of it changes any more
            return self._result  # type: ignore[return-value]
        if not self.done():
            self._place[0].hurry()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; `timeout` is in seconds."""
        if not self.done():
            self._place[0].hurry()
        return super().exception(timeout)


def begin(future: SlurmFuture[Any]) -> None:
    """Mark a future as running, unless it is that already, or over."""
    with future._condition:
        if future._state == _PENDING:
            future.set_running_or_notify_cancel()


def settle(future: SlurmFuture[Any], value: Any, error: BaseException | None) -> None:
    """Resolve a future, unless it was cancelled meanwhile; whatever its callbacks raise stays here."""
    try:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass
    except BaseException:  # a callback's SystemExit must not end the thread that all futures depend on
        logger.exception("a callback of %r has failed", future)
