"""The worlds of the pages, for whoever runs some."""

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.docs.world import World, cluster_world
from tests.far.sshd import Farm


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A laptop by itself."""
    return World(tmp_path_factory.mktemp("pages") / "world")


@pytest.fixture(scope="session")
def wide_world(cluster: Cluster, farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A laptop, and a cluster with a user of it."""
    with cluster_world(tmp_path_factory.mktemp("pages"), cluster, farm) as world:
        yield world
