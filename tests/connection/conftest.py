"""The connections that these tests break."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmfutures import SlurmExecutor
from tests.connection.lines import Far, Here, Line
from tests.fix_executors import Opener
from tests.slurm.shadow import Shadow


@pytest.fixture(params=["here", "paramiko", "openssh"])
def line(request: pytest.FixtureRequest, cluster: object, opener: Opener, tmp_path: Path) -> Iterator[Line]:
    """The way to an agent on a Slurm's login node, of each kind."""
    opened = functools.partial(opener.root, "slurm")
    line: Line
    if request.param == "here":
        line = Here(tmp_path / "line", opened)
    else:
        farm, relay = request.getfixturevalue("farm"), request.getfixturevalue("relay")
        line = Far(tmp_path / "line", opened, farm, relay, request.param)
    yield line
    line.up()
    opener.close()  # as long as there is a way to it


@pytest.fixture
def executor(line: Line) -> SlurmExecutor:
    return line.open()


@pytest.fixture
def shadow(tmp_path: Path) -> Shadow:
    """Scripts before Slurm's commands, for one test."""
    return Shadow(tmp_path / "shadow")
