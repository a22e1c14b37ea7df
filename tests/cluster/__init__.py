"""A real Slurm on this machine for tests: munge, MariaDB, slurmdbd, slurmctld and four slurmd.

`up()` gives a `Cluster`, whose `env` is to be added to the environment of Slurm commands; from a shell,
`python tests/cluster up` and `eval "$(python tests/cluster env)"`. All files lie in `$SLURMFUTURES_CLUSTER_DIR`, by
default below the directory for temporary files. Of the machine itself only packages are changed.

`config` holds every text and number, `daemons` how each daemon is started and found again, `cluster` what can be done
with the whole.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .cluster import Cluster, quiet
from .errors import ClusterError
from .install import require_root

__all__ = ["Cluster", "ClusterError", "down", "find", "up"]


def up(say: Callable[[str], None] = quiet) -> Cluster:
    """The cluster, after installing and starting what is missing; `say` gets a line for each step.

    Raises ClusterError. See `Cluster.start` for when it begins without jobs and records.
    """
    require_root()
    cluster = Cluster(_directory())
    with cluster.lock():
        if not (cluster.is_started() and cluster.is_configured() and cluster.is_healthy()):
            cluster.start(say)
    return cluster


def find() -> Cluster | None:
    """The cluster if it is up, with or without faults, or None; takes no lock and asks no daemon. For root."""
    cluster = Cluster(_directory())
    return cluster if cluster.is_started() else None


def down() -> None:
    """Stop all daemons and kill all jobs, if there are any."""
    cluster = Cluster(_directory())
    if cluster.directory.exists():
        with cluster.lock():
            cluster.stop()


def _directory() -> Path:
    named = os.environ.get("SLURMFUTURES_CLUSTER_DIR")
    return Path(named or f"{tempfile.gettempdir()}/slurmfutures-cluster-{os.getuid()}").absolute()
