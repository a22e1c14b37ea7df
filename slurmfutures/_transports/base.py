"""What a transport gives: a duplex stream of bytes to one process."""

from collections.abc import Callable
from typing import Protocol

from .._logs import get_logger

logger = get_logger("transports")

LAST_WORDS = 4000  # bytes of stderr that are kept

# Called with user@host, what is asked, and whether the answer may be seen while it is typed; returns the answer.
# Host and question are printable.
Ask = Callable[[str, str, bool], str]


class NobodyToAsk(Exception):
    """Raised by an `Ask` where nobody is there to answer."""


class GaveUp(Exception):
    """Whoever wanted a stream does not want it any more."""


class Stream(Protocol):
    """A process's stdin and stdout.

    `read` and `write` never block; both raise BlockingIOError where nothing can be done now. The poller's thread reads;
    any one thread at a time writes, under the link's lock.
    """

    def readable(self) -> int:
        """Return the descriptor that turns readable when there is something to read."""

    def writable(self) -> int:
        """Return the descriptor that turns writable when `write` can go on."""

    def read(self, limit: int) -> bytes:
        """Return up to `limit` bytes, nothing once the process has closed its end or the connection is gone."""

    def write(self, data: memoryview) -> int:
        """Send some of `data` and return how much. Raises OSError when the process is gone."""

    def close(self, timeout: float) -> None:
        """Close both directions and give the process `timeout` seconds to end before it is ended.

        After an end of the connection nothing is known of the process over there; here nothing of the stream is left.
        """

    def last_words(self) -> str:
        """Return the end of what the process wrote to its stderr."""

    def why_ended(self) -> str:
        """Return in a few words how the process ended or what broke the connection; nothing where that is not known."""
