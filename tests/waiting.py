"""Waiting for what will come, with a deadline, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 60.0  # seconds in which anything must have happened; the time limit of a test is longer


def until(condition: Callable[[], T], seconds: float = DEADLINE) -> T:
    """Return the first true value of `condition()`; AssertionError where none comes."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"nothing true within {seconds} s, at last {value!r}"
        time.sleep(0.005)
    return value
