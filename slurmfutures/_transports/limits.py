"""What one host may take of a login: time, questions and text. A hung or a hostile server gets no more."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .base import Ask, GaveUp

CONNECT_TIMEOUT = 30.0  # seconds for one host, where nothing else is said
LOGIN_TIMEOUT = 60.0  # seconds for the login itself: a server may wait until a person confirms on a phone
MOST_ROUNDS = 20  # of answers in one login: no server needs more factors, or more steps to change a password
MOST_QUESTIONS = 32  # to a person in one login
MOST_QUESTION = 1 << 14  # characters of one of them
_MOST_WORDS = 1000  # characters of a server's words in an error


class TooMuch(Exception):
    """A host asks for more than a login needs; the text says of what."""


class TooSlow(Exception):
    """A host has used up its time."""


class Clock:
    """The time that one host may take. It stands still while a person is asked."""

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        """Once `stop` is set, nobody wants to wait any more."""
        self._stop = stop
        self._standing = 0  # how many wait for a person
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """Give the host this much time from now on."""
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds

    def left(self) -> float:
        return self._deadline - time.monotonic()

    def is_over(self) -> bool:
        return not self._standing and self.left() < 0

    def is_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def check(self) -> None:
        """Raise GaveUp where nobody waits any more, TooSlow where the time is used up."""
        if self.is_stopped():
            raise GaveUp
        if self.is_over():
            raise TooSlow

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Do not count the time inside."""
        begun = time.monotonic()
        self._standing += 1
        try:
            yield
        finally:
            if self._standing == 1:
                self._deadline += time.monotonic() - begun
            self._standing -= 1


def limited(ask: Ask, clock: Clock) -> Ask:
    """Return a function that passes one host's questions on, not too many of them, while its clock stands still."""
    asked = 0

    def limited_ask(host: str, prompt: str, echo: bool) -> str:
        nonlocal asked
        asked += 1
        if asked > MOST_QUESTIONS:
            raise TooMuch(f"it asked more than {MOST_QUESTIONS} questions")
        if len(prompt) > MOST_QUESTION:
            raise TooMuch(f"it asked a question of {len(prompt)} characters, and {MOST_QUESTION} are the most")
        with clock.standing():
            return ask(host, prompt, echo)

    return limited_ask


def words(text: bytes | str) -> str:
    """Return what a server says, as text of a length that fits into an error."""
    most = 4 * _MOST_WORDS + 1  # bytes, or characters with the blanks before and behind; the rest is not looked at
    said = text[:most].decode("utf-8", "replace") if isinstance(text, bytes) else text[:most]
    said = said.strip()
    return said if len(said) <= _MOST_WORDS else f"{said[:_MOST_WORDS]}..."
