"""What all tests share: a place to work in, a real Slurm where a test asks for one, and nothing left behind."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cluster as slurm_cluster
from tests.cluster import Cluster

START = "python tests/cluster up"


def must_have_slurm() -> bool:
    """Whether a missing Slurm is a failure rather than a reason to skip."""
    return bool(os.environ.get("SLURMFUTURES_TEST_SLURM") or os.environ.get("CI"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster whose Slurm the commands of this process, and of its children, talk to."""
    found = slurm_cluster.up() if must_have_slurm() else slurm_cluster.find()
    if found is None:
        pytest.skip(f"no Slurm is running here; this starts one: {START}")
    before = {name: os.environ.get(name) for name in found.env}
    os.environ.update(found.env)
    yield found
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def weird_tmp_path(tmp_path: Path) -> Path:
    """A folder with what shells stumble over in its name."""
    path = tmp_path / "a b'c;\"d $HOME %a (e)"
    path.mkdir()
    return path


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread of the package and no child process outlives the tests."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("slurmfutures")]
    assert not left, f"threads left behind: {left}"
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    named = {child: _command_line(child) for child in children}
    ours = {child: line for child, line in named.items() if "slurmfutures" in line and "cluster" not in line}
    assert not ours, f"processes left behind: {ours}"


def _command_line(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
