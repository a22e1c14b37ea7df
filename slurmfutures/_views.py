"""What the executors have in common: the standard library's contract on top of a few things that each does its way."""

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, wait
from itertools import islice
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from ._checkpoint import Checkpoint, Found
from ._connection import Connection
from ._errors import PayloadError, PythonMismatch
from ._future import NOBODY, SlurmFuture
from ._pickling import name_of
from ._ship import Shipment

_Call = tuple[tuple[Any, ...], Mapping[str, Any]]  # arguments by position, and by keyword
_NO_KEYWORDS: Mapping[str, Any] = {}
_SLICE = 256  # calls of a map that are added at once
_REFILLS = 16  # parts in which what `buffersize` allows is filled up again

T = TypeVar("T")
P = ParamSpec("P")


class View(Executor):
    """What the executors have in common: the standard library's contract, on top of `_add`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._closed = False

    def _add(
        self,
        function: bytes,
        name: str,
        tasks: Sequence[Sequence[bytes]],
        keys: Sequence[Sequence[bytes]] | None,
        shipment: Shipment | None,
    ) -> list[SlurmFuture[Any]]:
        """Add tasks of already pickled calls, with the calls' keys; return the futures of all calls in order."""
        raise NotImplementedError

    def _claim(
        self,
        found: Found,
        function: bytes,
        name: str,
        arguments: bytes,
        checkpoint: Checkpoint,
        shipment: Shipment | None,
    ) -> SlurmFuture[Any] | None:
        """Return the future of a call that an earlier driver has sent, None where it has come to nothing."""
        raise NotImplementedError

    @property
    def _checkpoint(self) -> Checkpoint | None:
        """What remembers this view's calls."""
        return None

    def _pending(self) -> list[SlurmFuture[Any]]:
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._connection.poller.check()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> SlurmFuture[T]:
        """Schedule `fn(*args, **kwargs)` and return its future. Any thread; does not wait for the scheduler.

        What cannot be pickled is an error of the future: PayloadError, or PythonMismatch. Raises RuntimeError after
        `shutdown`.
        """
        self._check_open()
        try:
            function = self._connection.pickle(fn)
        except (PayloadError, PythonMismatch) as error:
            return _failed(error)
        return self._schedule(fn, function, [[(args, kwargs)]])[0]

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over `fn` of each set of arguments, in their order.

        All calls are scheduled at once; with `buffersize`, only so many tasks are under way ahead of what was
        yielded. `chunksize` calls share one task of a job array, each with a result of its own. `timeout` is in
        seconds from now; when it is over, or when the iterator is dropped, the calls that are left are cancelled. With
        a checkpoint an exception that ends the iteration leaves them to the next start.
        """
        if chunksize < 1:
            raise ValueError(f"chunksize must be >= 1, not {chunksize!r}")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        self._check_open()
        end = None if timeout is None else time.monotonic() + timeout
        calls = ((args, _NO_KEYWORDS) for args in zip(*iterables))  # noqa: B905 - as short as the shortest, as in the standard library
        chunks = _chunks(calls, chunksize)
        function: bytes | BaseException
        try:
            function = self._connection.pickle(fn)
        except (PayloadError, PythonMismatch) as error:
            function = error
        futures: deque[SlurmFuture[Any]] = deque()
        for group in _groups(islice(chunks, buffersize) if buffersize else chunks, _SLICE):
            futures.extend(self._schedule(fn, function, group))

        refill = 1 if buffersize is None else max(1, min(buffersize // _REFILLS, _SLICE))

        def more() -> None:
            view = this()
            if view is not None and (some := list(islice(chunks, refill))):
                view._check_open()
                futures.extend(view._schedule(fn, function, some))

        this = weakref.ref(self)
        keep = self._checkpoint is not None
        return _results(futures, end, refill, chunksize, more if buffersize else None, keep=keep)

    def _schedule(
        self, fn: Callable[..., Any], function: bytes | BaseException, chunks: Sequence[Sequence[_Call]]
    ) -> list[SlurmFuture[Any]]:
        """Schedule calls, each chunk as one task; return the futures of all in order.

        What cannot be pickled fails alone, and what the checkpoint remembers is not sent.
        """
        if isinstance(function, BaseException):
            return [_failed(function) for chunk in chunks for _ in chunk]
        name, checkpoint = name_of(fn), self._checkpoint
        shipment = self._connection.shipment()
        digest = checkpoint.digest_of(fn, function, shipment) if checkpoint is not None else None
        found: list[SlurmFuture[Any] | None] = []
        tasks: list[list[bytes]] = []
        keys: list[list[bytes]] = []
        for chunk in chunks:
            task: list[bytes] = []
            task_keys: list[bytes] = []
            for args, kwargs in chunk:
                future, key, arguments = self._prepare(fn, function, digest, name, args, kwargs, shipment, checkpoint)
                found.append(future)
                if future is None:
                    task.append(arguments)
                    task_keys.append(key)
            if task:
                tasks.append(task)
                keys.append(task_keys)
        if not tasks:
            return [future for future in found if future is not None]
        added = self._add(function, name, tasks, keys if checkpoint is not None else None, shipment)
        if len(added) == len(found):
            return added
        rest = iter(added)
        return [next(rest) if future is None else future for future in found]

    def _prepare(
        self,
        fn: Callable[..., Any],
        function: bytes,
        digest: bytes | None,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        shipment: Shipment | None,
        checkpoint: Checkpoint | None,
    ) -> tuple[SlurmFuture[Any] | None, bytes, bytes]:
        """Return the future of a call that need not be sent; for any other, None, its key and its pickled arguments."""
        found = checkpoint.find(fn, digest, args, kwargs) if checkpoint is not None else None
        if found is not None and found.future is not None:
            return found.future, found.key, b""
        try:
            arguments = self._connection.pickle_arguments(args, kwargs, name)
        except (PayloadError, PythonMismatch) as error:
            if checkpoint is not None and found is not None:
                checkpoint.give_back(found.key)
            return _failed(error), b"", b""
        if checkpoint is None or found is None:
            return None, b"", arguments
        if found.place is None:
            return None, found.key, arguments
        return self._claim(found, function, name, arguments, checkpoint, shipment), found.key, arguments

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for those under way, unless `wait` is false; cancel those not begun, if asked."""
        self._closed = True
        if cancel_futures:
            for future in self._pending():
                if not future.running():
                    future.cancel()
        if wait:
            self._wait()

    def _wait(self) -> None:
        pending = self._pending()
        if not self._connection.poller.pump_until(lambda: all(future.done() for future in pending)):
            wait(pending)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all calls; where an exception leaves the block, cancel them, unless a checkpoint remembers them."""
        if kind is not None and self._checkpoint is None:
            for future in self._pending():
                future.cancel()
        self.shutdown(wait=kind is None or self._checkpoint is None)


def _failed(error: BaseException) -> SlurmFuture[Any]:
    """Return a future of a call that got nowhere."""
    future: SlurmFuture[Any] = SlurmFuture(NOBODY, 0)
    future.set_exception(error)
    return future


def _chunks(calls: Iterator[_Call], size: int) -> Iterator[list[_Call]]:
    while chunk := list(islice(calls, size)):
        yield chunk


def _groups(chunks: Iterator[list[_Call]], size: int) -> Iterator[list[list[_Call]]]:
    while group := list(islice(chunks, size)):
        yield group


def _results(
    futures: deque[SlurmFuture[Any]],
    end: float | None,
    group: int,
    chunksize: int,
    more: Callable[[], None] | None,
    *,
    keep: bool,
) -> Iterator[Any]:
    """Yield results in order; `more` schedules a group of chunks, for each group of which the last one is begun.

    What is left is cancelled, unless an exception ends the iteration and it is to be kept for the next start.
    """
    yielded = 0
    try:
        while futures:
            if more is not None and yielded % (group * chunksize) == (group - 1) * chunksize:
                more()
            yielded += 1
            timeout = None if end is None else end - time.monotonic()
            yield futures.popleft().result(timeout) if keep else _result_or_cancel(futures.popleft(), timeout)
    except GeneratorExit:
        keep = False
        raise
    except TimeoutError:  # ours, or what a call has raised
        keep = keep and (end is None or time.monotonic() < end)
        raise
    finally:
        if not keep:
            for future in futures:
                future.cancel()


def _result_or_cancel(future: SlurmFuture[Any], timeout: float | None) -> Any:
    try:
        return future.result(timeout)
    except BaseException:
        future.cancel()
        raise
