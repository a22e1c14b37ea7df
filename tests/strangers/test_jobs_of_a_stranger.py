"""Jobs of another account on the same Slurm."""

from collections.abc import Iterator

import pytest

from slurmfutures._remote.slurm import Slurm
from tests.cluster import Cluster, ClusterError
from tests.cluster.config import ACCOUNT
from tests.strangers.accounts import Stranger
from tests.waiting import until

pytestmark = pytest.mark.slurm
NAME = "f.sf-0123456789ab.0"
SUBMIT = ("sbatch", "--parsable", f"--job-name={NAME}", "--output=/dev/null", "--chdir=/", "--time=1", "--wrap=true")


@pytest.fixture
def submitter(cluster: Cluster, stranger: Stranger) -> Iterator[Stranger]:
    """Another account that may submit jobs."""
    cluster.run("sacctmgr", "--immediate", "add", "user", stranger.name, f"Account={ACCOUNT}")
    yield stranger
    cluster.run("sacctmgr", "--immediate", "delete", "user", stranger.name)


def recorded(cluster: Cluster, job: str) -> bool:
    """Whether the accounting has the end of a job."""
    return "COMPLETED" in cluster.run("sacct", "-X", "-n", "-P", f"--jobs={job}", "--allusers", "--format=State")


def test_by_its_name_only_one_s_own_job_is_found(cluster: Cluster, submitter: Stranger) -> None:
    ids = (f"--uid={submitter.uid}", f"--gid={submitter.gid}")
    theirs = until(lambda: _submitted(cluster, *ids))
    until(lambda: recorded(cluster, theirs))
    slurm = Slurm()
    assert theirs not in (slurm.find(NAME) or [])
    mine = cluster.run(*SUBMIT).strip()
    until(lambda: recorded(cluster, mine))
    until(lambda: all(row.job_id != mine for row in slurm.queue() or ()))
    found = slurm.find(NAME) or []
    assert mine in found
    assert theirs not in found


def _submitted(cluster: Cluster, *words: str) -> str:
    """Return the id of a job; "" while slurmctld has not heard of the account yet."""
    try:
        return cluster.run(*SUBMIT[:1], *words, *SUBMIT[1:]).strip()
    except ClusterError:
        return ""
