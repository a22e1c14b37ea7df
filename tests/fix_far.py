"""Login nodes far away, for whoever asks for one."""

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.cluster import Cluster
from tests.far.relay import Relay
from tests.far.sshd import Farm, cluster_environment


@pytest.fixture(scope="session")
def farm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A login node of the tests' Slurm, if there is one, and two jump hosts."""
    if os.geteuid() != 0:
        pytest.skip("only root can start an sshd: run the tests as root")
    cluster: Cluster = request.getfixturevalue("cluster")
    farm = Farm(tmp_path_factory.mktemp("far") / "farm", cluster_environment(cluster.env))
    yield farm
    farm.close()


@pytest.fixture
def relay(farm: Farm) -> Iterator[Relay]:
    """A relay before the login node, whose key is known there too."""
    with closing(Relay(farm.login.port)) as relay:
        farm.know(farm.login.known_host(relay.port))
        yield relay
