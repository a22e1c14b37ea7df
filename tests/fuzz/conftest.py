"""Parsers that want more memory than the machine has are stopped before the machine is."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

_MOST = 2 << 30  # bytes beside those that the tests have already


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MOST, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
