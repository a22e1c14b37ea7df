"""What a fuzzed parser is, and the bounds that it has to keep."""

import gc
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

SECONDS = 1.0  # of processor time for one input
MEMORY = 4 << 20  # bytes that any parser may take; paramiko makes up to one MB that a message lacks
MEMORY_PER_BYTE = 250  # of the input: the most is taken by JSON of many empty lists and mappings
LARGE = 1 << 16  # bytes of an input that shows how time and memory grow
_LONG = 1 << 14  # bytes of an input that takes time by its length


@dataclass(frozen=True)
class Parser:
    """Something that reads bytes from elsewhere.

    `parse` is given an input and a folder to put it into, and must return or raise one of `errors`. The inputs are
    mutations of `seeds`, which are valid, and what `more` makes. `repeated` are seeds that may stand one behind the
    other, to make a large input.
    """

    name: str  # the module below slurmfutures, a colon, and what is called there
    parse: Callable[[bytes, Path], object]
    seeds: Sequence[bytes]
    errors: tuple[type[Exception], ...] = ()
    more: st.SearchStrategy[bytes] | None = None
    repeated: Sequence[bytes] = ()
    tokens: Sequence[bytes] = ()  # what the format gives a meaning to
    large: Sequence[bytes] = ()  # inputs that are large as they are
    memory: int = MEMORY  # bytes that it may take whatever the input
    writes: bool = False  # it writes where an input says: then no input names a place outside the test's folder

    def __str__(self) -> str:
        return self.name


def check(parser: Parser, data: bytes, folder: Path) -> object:
    """Parse an input within the bounds; return the value, or the error if it is one of the parser's own."""
    if len(data) > _LONG:
        spent = _spent(parser, data, folder)[1]  # alone, as keeping account of memory takes time too
    tracemalloc.start()
    try:
        outcome, slowly = _spent(parser, data, folder)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if len(data) <= _LONG:
        spent = slowly
    # An error that says which byte cannot be decoded says nothing about the format.
    assert not isinstance(outcome, UnicodeError), f"{parser} let {outcome!r} through"
    assert spent < SECONDS, f"{parser} took {spent:.1f} s for {len(data)} bytes"
    most = parser.memory + MEMORY_PER_BYTE * len(data)
    assert peak <= most, f"{parser} took {peak} bytes of memory for {len(data)} bytes"
    return outcome


def _spent(parser: Parser, data: bytes, folder: Path) -> tuple[object, float]:
    """Return what came of an input, and the seconds of processor time that it took.

    Without the garbage collector, which goes through all that the tests before this one have left.
    """
    outcome: object
    gc.disable()
    began = time.thread_time()
    try:
        outcome = parser.parse(data, folder)
    except parser.errors as error:
        outcome = error
    finally:
        spent = time.thread_time() - began
        gc.enable()
    return outcome, spent
