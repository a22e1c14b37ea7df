"""The connections that these tests break."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmfutures import SlurmExecutor
from tests.connection.lines import Here, Line
from tests.fix_executors import Opener
from tests.slurm.shadow import Shadow


@pytest.fixture(params=["here"])
def line(request: pytest.FixtureRequest, cluster: object, opener: Opener, tmp_path: Path) -> Iterator[Line]:
    """The way to an agent on a Slurm's login node, of each kind."""
    line = Here(tmp_path / "line", functools.partial(opener.root, "slurm"))
    yield line
    line.up()  # so that executors can be closed


@pytest.fixture
def executor(line: Line) -> SlurmExecutor:
    return line.open()


@pytest.fixture
def shadow(tmp_path: Path) -> Shadow:
    """Scripts before Slurm's commands, for one test."""
    return Shadow(tmp_path / "shadow")
