"""Calls and their results as bytes, and what happens to a call in between.

Shared by the job of an array task and by the workers, and read by the client. Everything imported at the top is
cheap, and `typing` is not: an array task lives for milliseconds.
"""

from __future__ import annotations

import sys
import zlib
from _pickle import dumps as _dumps
from _pickle import loads as _loads
from posix import fstat
from struct import Struct, pack, unpack
from struct import error as StructError

from . import trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

    Buffer = Union[bytes, bytearray, memoryview]

PROTOCOL = 5

# What became of a call.
OK = 0  # payload: the pickled result
RAISED = 1  # payload: what the function raised, see `pack_error`
UNPICKLABLE = 2  # payload: why the result could not be pickled, see `pack_error`
UNLOADABLE = 3  # payload: why the function or its arguments could not be loaded here, see `pack_error`
UNINITIALIZED = 4  # payload: what the initializer raised, see `pack_error`
UNPUBLISHED = 5  # payload: why the result could not be written, see `pack_error`
REACHED = 6  # payload: JSON of how a user's own script has reached its end
CRASHED = 7  # payload: JSON of how the worker ended that ran it, or nothing: it ended with its job


class Damaged(ValueError):
    """Bytes that are not what they should be: cut short, changed, or of another kind."""


_RECORD = Struct(">QBQ")  # call number, status, length of the payload
_CALL = Struct(">QQQ")  # call number, function number, length of the payload
_NUMBER = Struct(">Q")  # what a record and a call begin with
_LENGTHS = Struct(">II")
_SMALL = 1 << 16  # bytes of a payload that is copied rather than kept in a buffer of its own


class Record:
    """What became of a call: its number, one of the above, and what that says."""

    __slots__ = ("call", "payload", "status")

    def __init__(self, call: int, status: int, payload: Buffer) -> None:
        self.call = call
        self.status = status
        self.payload = payload


class Call:
    """A call to be made: its number, its function's, and its pickled arguments."""

    __slots__ = ("call", "function", "payload")

    def __init__(self, call: int, function: int, payload: Buffer) -> None:
        self.call = call
        self.function = function
        self.payload = payload


def pack_record(call: int, status: int, payload: Buffer) -> List[Buffer]:
    """Return a record as buffers: what is large is not copied."""
    return _behind(_RECORD.pack(call, status, len(payload)), payload)


def _behind(head: bytes, payload: Buffer) -> List[Buffer]:
    return [head + payload] if len(payload) <= _SMALL else [head, payload]


def _slice(view: Buffer, at: int, end: int) -> Buffer:
    """Return a part of `view`, copied unless it is large: then it keeps all of it alive."""
    part = view[at:end]
    return bytes(part) if end - at <= _SMALL else part


def records(data: Buffer) -> Iterator[Record]:
    """Yield the records in `data`. Raises Damaged at the first that is not whole."""
    view = data if len(data) <= _SMALL and isinstance(data, bytes) else memoryview(data)
    at, size, unpack, head = 0, len(view), _RECORD.unpack_from, _RECORD.size
    while at < size:
        try:
            call, status, length = unpack(view, at)
        except StructError:
            raise Damaged("a record is cut short") from None
        at += head
        end = at + length
        if end > size:
            raise Damaged("a record is cut short")
        yield Record(call, status, _slice(view, at, end))
        at = end


def heads(data: Buffer) -> Iterator[Tuple[int, int, int]]:
    """Yield call number, status and length of the payload of the records in `data`. Raises Damaged as `records`."""
    at, size, unpack, head = 0, len(data), _RECORD.unpack_from, _RECORD.size
    while at < size:
        try:
            found = unpack(data, at)
        except StructError:
            raise Damaged("a record is cut short") from None
        at += head + found[2]
        if at > size:
            raise Damaged("a record is cut short")
        yield found


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Return the numbers of calls as bytes."""
    return pack(">%dQ" % len(numbers), *numbers)


def numbers(data: Buffer) -> Sequence[int]:
    """Return the numbers of calls that were packed. Raises Damaged."""
    if len(data) % _NUMBER.size:
        raise Damaged("%d bytes are no numbers of calls" % len(data))
    return unpack(">%dQ" % (len(data) // _NUMBER.size), data)


def first_call(data: Buffer) -> int:
    """Return the number of the first call in `data`, which holds records or calls. Raises Damaged where it has none."""
    if len(data) < _NUMBER.size:
        raise Damaged("%d bytes are neither a record nor a call" % len(data))
    number: int = _NUMBER.unpack_from(data)[0]
    return number


def pack_call(call: int, function: int, payload: Buffer) -> List[Buffer]:
    """Return a call as buffers."""
    return _behind(_CALL.pack(call, function, len(payload)), payload)


def calls(data: Buffer) -> Iterator[Call]:
    """Yield the calls in `data`. Raises Damaged at the first that is not whole."""
    view = data if len(data) <= _SMALL and isinstance(data, bytes) else memoryview(data)
    at, size, unpack, head = 0, len(view), _CALL.unpack_from, _CALL.size
    while at < size:
        try:
            call, function, length = unpack(view, at)
        except StructError:
            raise Damaged("a call is cut short") from None
        at += head
        end = at + length
        if end > size:
            raise Damaged("a call is cut short")
        yield Call(call, function, _slice(view, at, end))
        at = end


# ---- running a call


def perform(function: Callable[..., Any], arguments: Buffer) -> Tuple[int, bytes]:
    """Run one call and return its status and payload. Whatever the function raises is caught: it is its answer."""
    try:
        args, kwargs = _loads(arguments)
    except BaseException as error:  # the user's own __setstate__ may raise anything
        return UNLOADABLE, pack_error(error)
    try:
        result = function(*args, **kwargs)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too, as in ProcessPoolExecutor
        return RAISED, pack_error(error)
    try:
        return OK, pickle_value(result)
    except BaseException as error:  # the user's own __reduce__ may raise anything
        return UNPICKLABLE, pack_error(error)


def initialize(data: Buffer) -> Tuple[int, bytes, Dict[str, Any]]:
    """Call a pickled initializer; return how that went, and what it made global.

    Each pickle has globals of its own for the functions in it. At home, where those of a script share theirs, a call
    sees what the initializer has assigned.
    """
    if not data:
        return OK, b"", {}
    try:
        initializer, arguments = _loads(data)
    except BaseException as error:
        return UNLOADABLE, pack_error(error), {}
    names = _own_globals(initializer)
    before = dict(names)
    try:
        initializer(*arguments)
    except BaseException as error:
        return UNINITIALIZED, pack_error(error), {}
    given = {name: value for name, value in names.items() if name not in before or before[name] is not value}
    if given:
        given["__name__"] = names.get("__name__")
    return OK, b"", given


def load_function(data: Buffer, given: Dict[str, Any]) -> Tuple[Optional[Callable[..., Any]], bytes]:
    """Unpickle a function that sees what the initializer made global; or return None and the packed error of that."""
    try:
        function = _loads(data)
        if given:
            _own_globals(function, given.get("__name__")).update(given)
        return function, b""
    except BaseException as error:  # importing a module runs the user's code
        return None, pack_error(error)


def _own_globals(function: Any, module: Any = None) -> Dict[str, Any]:
    """Return the globals of a function that travelled by value, of this module if one is named; else nothing."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    names: Dict[str, Any] = getattr(function, "__globals__", {})
    name: Any = names.get("__name__")
    if module not in (None, name) or names is getattr(sys.modules.get(name), "__dict__", None):
        return {}
    return names


def pickle_value(value: Any) -> bytes:
    """Pickle by the standard pickler, and by cloudpickle what that refuses."""
    try:
        return _dumps(value, PROTOCOL)
    except Exception:
        import cloudpickle

        data: bytes = cloudpickle.dumps(value, PROTOCOL)
        return data


def pack_error(error: BaseException) -> bytes:
    """Pack an exception: JSON of what can be told of it in words, then the pickled exception if it can be pickled."""
    import json
    import platform
    import traceback

    try:
        text = "".join(traceback.format_exception(type(error), error, _own_frames_off(error)))
    except BaseException as second:  # an exception whose __str__ raises
        text = "%s (its text could not be made: %s)" % (type(error).__name__, type(second).__name__)
    try:
        said = str(error)
    except BaseException:
        said = ""
    words = {
        "type": type(error).__name__,
        "said": said,
        "traceback": text,
        "node": platform.node(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        "executable": sys.executable,
        "module": getattr(error, "name", None) if isinstance(error, ImportError) else None,
        "missing": isinstance(error, (ImportError, AttributeError)),
    }
    head = json.dumps(words).encode("utf-8", "replace")
    try:
        body = pickle_value(error)
    except BaseException:  # its own __reduce__ may raise anything
        body = b""
    return _LENGTHS.pack(len(head), len(body)) + head + body


_TEXTS = ("type", "said", "traceback", "node", "python", "executable")
_ERROR_WORDS: Tuple[Tuple[str, Any], ...] = (
    *((name, str) for name in _TEXTS),
    ("module", (str, type(None))),
    ("missing", bool),
)


def unpack_error(data: Buffer) -> Tuple[Any, bytes]:
    """Return what `pack_error` packed: the words, and the pickled exception or nothing. Raises Damaged."""
    from . import jsons

    data = bytes(data)
    if len(data) < _LENGTHS.size:
        raise Damaged("an error is cut short")
    head_length, body_length = _LENGTHS.unpack_from(data)
    start = _LENGTHS.size
    end = start + head_length
    if len(data) != end + body_length:
        raise Damaged("an error is cut short")
    try:
        head = jsons.loads(data[start:end])
    except jsons.NotJson as error:
        raise Damaged("the words of an error are %s" % error) from None
    if not (isinstance(head, dict) and all(isinstance(head.get(name, 0), kind) for name, kind in _ERROR_WORDS)):
        raise Damaged("the words of an error are not complete")
    return head, data[end:]


def _own_frames_off(error: BaseException) -> Any:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


# ---- the file with a batch's calls

_CALLS_MAGIC = b"SFCALLS1"
_CALLS_HEAD = Struct(">8sIII")  # magic, functions, calls, tasks
_SPAN = Struct(">QQ")  # offset, length
_ENTRY = Struct(">IQQ")  # function, offset, length
_FIRST = Struct(">I")


def pack_batch(
    initializer: bytes, functions: Sequence[bytes], entries: Sequence[Tuple[int, bytes]], firsts: Sequence[int]
) -> List[bytes]:
    """Return, as buffers, the file that holds a batch: each function once, each call's arguments, the tasks.

    `initializer` is a pickled (function, arguments) or nothing; `entries` are (function number, pickled arguments) of
    each call; `firsts` is the first call of each task.
    """
    blobs = [initializer, *functions]
    start = _CALLS_HEAD.size + _SPAN.size * len(blobs) + _ENTRY.size * len(entries) + _FIRST.size * (len(firsts) + 1)
    head = [_CALLS_HEAD.pack(_CALLS_MAGIC, len(blobs), len(entries), len(firsts))]
    body: List[bytes] = []
    for blob in blobs:
        head.append(_SPAN.pack(start, len(blob)))
        body.append(blob)
        start += len(blob)
    for function, arguments in entries:
        head.append(_ENTRY.pack(function, start, len(arguments)))
        body.append(arguments)
        start += len(arguments)
    head += [_FIRST.pack(first) for first in firsts]
    head.append(_FIRST.pack(len(entries)))
    return head + body


class BatchFile:
    """Reads one task's share of a batch file, and no more of it than that. All of it raises Damaged, and OSError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = trust.open_reader(path)
        try:
            self._size = fstat(self._file.fileno()).st_size
            magic, self._blobs, self._calls, self._tasks = _CALLS_HEAD.unpack(self._at(0, _CALLS_HEAD.size))
            if magic != _CALLS_MAGIC:
                raise Damaged("%s is not a batch of this version" % path)
            self._at(self._first(self._tasks), _FIRST.size)  # the last of what is read before the calls' own bytes
        except ValueError:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _at(self, offset: int, length: int) -> bytes:
        if offset + length > self._size:
            raise Damaged("%s is cut short" % self._path)
        self._file.seek(offset)
        data = self._file.read(length)
        while len(data) < length:
            more = self._file.read(length - len(data))
            if not more:
                raise Damaged("%s is cut short" % self._path)
            data += more
        return data

    def _first(self, task: int) -> int:
        """Return where the number of a task's first call is."""
        place: int = _CALLS_HEAD.size + _SPAN.size * self._blobs + _ENTRY.size * self._calls + _FIRST.size * task
        return place

    def _within(self, number: int, end: int, what: str) -> None:
        if not 0 <= number < end:
            raise Damaged("%s has no %s %d" % (self._path, what, number))

    def size(self) -> Tuple[int, int]:
        """Return how many tasks and how many calls there are."""
        return self._tasks, self._calls

    def initializer(self) -> bytes:
        return self._blob(0)

    def function(self, number: int) -> bytes:
        return self._blob(number + 1)

    def _blob(self, number: int) -> bytes:
        self._within(number, self._blobs, "function")
        return self._at(*_SPAN.unpack(self._at(_CALLS_HEAD.size + _SPAN.size * number, _SPAN.size)))

    def task(self, number: int) -> range:
        """Return the numbers of a task's calls."""
        self._within(number, self._tasks, "task")
        first, end = _LENGTHS.unpack(self._at(self._first(number), _LENGTHS.size))
        if not first <= end <= self._calls:
            raise Damaged("%s has no calls %d to %d" % (self._path, first, end))
        return range(first, end)

    def call(self, number: int) -> Tuple[int, bytes]:
        """Return a call's function number and pickled arguments."""
        self._within(number, self._calls, "call")
        table = _CALLS_HEAD.size + _SPAN.size * self._blobs
        function, offset, length = _ENTRY.unpack(self._at(table + _ENTRY.size * number, _ENTRY.size))
        return function, self._at(offset, length)


# ---- the file with results

_RESULT_HEAD = Struct(">8sQI")  # magic, length, crc32
_RESULT_MAGIC = b"SFRESLT1"


RESULT_HEAD = _RESULT_HEAD.size


def pack_results(packed: Sequence[Buffer]) -> List[Buffer]:
    """Return the content of a result file: records behind their length and checksum."""
    length = checksum = 0
    for part in packed:
        length += len(part)
        checksum = zlib.crc32(part, checksum)
    return [_RESULT_HEAD.pack(_RESULT_MAGIC, length, checksum), *packed]


def result_head(data: Buffer) -> Optional[Tuple[int, int]]:
    """Return the length and the checksum of the records in a result file, None where there is none."""
    if len(data) < RESULT_HEAD:
        return None
    magic, length, checksum = _RESULT_HEAD.unpack_from(data)
    return (length, checksum) if magic == _RESULT_MAGIC else None


def unpack_results(data: Buffer) -> Optional[memoryview]:
    """Return the records in a result file, or None where it is not all there (yet)."""
    body = memoryview(data)[RESULT_HEAD:]
    if result_head(data) != (len(body), zlib.crc32(body)):
        return None
    return body
