"""What a transport gives: a duplex stream of bytes to one process."""

from typing import Protocol


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
        """Return up to `limit` bytes, nothing once the process has closed its end."""

    def write(self, data: memoryview) -> int:
        """Send some of `data` and return how much. Raises OSError when the process is gone."""

    def close(self, timeout: float) -> None:
        """Close both directions and give the process `timeout` seconds to end before it is ended."""

    def last_words(self) -> str:
        """Return the end of what the process wrote to its stderr."""
