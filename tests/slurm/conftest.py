"""What the tests on a real Slurm share."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import SlurmExecutor
from tests.cluster import Cluster
from tests.fix_executors import Opener
from tests.slurm.queue import Queue
from tests.slurm.shadow import Shadow

OpenSlurm = Callable[..., SlurmExecutor]


@pytest.fixture(scope="module", autouse=True)
def clean_cluster(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[None]:
    """A module that is alone begins and ends with an empty queue and all nodes at work."""
    alone = request.node.get_closest_marker("alone") is not None
    if alone:
        clean(cluster)
    yield
    if alone:
        clean(cluster)


def clean(cluster: Cluster) -> None:
    if cluster.is_healthy():
        cluster.drain_queue()
    else:
        cluster.reset()


@pytest.fixture
def faulty(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, for a test that breaks it."""
    yield cluster
    if not cluster.is_healthy():
        cluster.reset()


@pytest.fixture(scope="session")
def queue(cluster: Cluster) -> Queue:
    return Queue(cluster)


def _open_on(opener: Opener) -> OpenSlurm:
    def open_slurm(env: Mapping[str, str] | None = None, **options: Any) -> SlurmExecutor:
        """Open an executor whose agent has `env` in its environment."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            return opener.root("slurm", **options)

    return open_slurm


@pytest.fixture
def open_slurm(opener: Opener) -> OpenSlurm:
    """Open executors for one test."""
    return _open_on(opener)


@pytest.fixture(scope="module")
def open_for_all(module_opener: Opener) -> OpenSlurm:
    """Open executors for all tests of a module."""
    return _open_on(module_opener)


@pytest.fixture
def shadow(tmp_path: Path) -> Shadow:
    """Scripts before Slurm's commands, for one test."""
    return Shadow(tmp_path / "shadow")
