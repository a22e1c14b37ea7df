"""A gate at which calls wait for their test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import until


class Gate:
    """Calls of `calls.pass_gate(gate.folder)` say that they have begun and wait until the test opens the gate."""

    def __init__(self, path: Path) -> None:
        self._entered = path / "entered"
        self._open = path / "open"
        self._entered.mkdir(parents=True)
        self.folder = str(path)

    def entered(self) -> list[str]:
        """Return what the calls that have begun said, in no order."""
        return [path.read_text() for path in self._entered.iterdir() if not path.name.startswith(".")]

    def wait(self, calls: int = 1) -> list[str]:
        """Wait until so many calls have begun."""
        return until(lambda: len(said := self.entered()) >= calls and said) or []

    def open(self) -> None:
        self._open.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()
