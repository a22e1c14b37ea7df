"""What Slurm's own commands say of our jobs, to compare with."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from slurmfutures import JobError, SlurmExecutor, SlurmFuture
from slurmfutures._executor import SlurmView
from tests.cluster import Cluster, ClusterError
from tests.waiting import until

E = TypeVar("E", bound=BaseException)

Jobs = SlurmExecutor | SlurmView


class Job(NamedTuple):
    """A line of squeue; array tasks that have not started are a line of their own each."""

    id: str  # "12", or "12_3" for an array task
    state: str
    reason: str
    name: str
    partition: str


class Queue:
    """The queue, and what an administrator, or somebody in a shell, does to it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def jobs(self, *options: str) -> list[Job]:
        """Return the jobs that are not over yet."""
        rows = self.cluster.run("squeue", "--noheader", "--array", "--format=%i|%T|%r|%j|%P", *options).splitlines()
        return [Job(*row.split("|")) for row in rows]

    def active(self) -> list[Job]:
        """Return the jobs of which more than the cleaning up is left."""
        return [job for job in self.jobs() if job.state != "COMPLETING"]

    def of(self, future: SlurmFuture[Any]) -> Job | None:
        """Return a call's job, None where it is over."""
        return next((job for job in self.active() if job.id == future.job_id), None)

    def state(self, future: SlurmFuture[Any]) -> str:
        job = self.of(future)
        return job.state if job else ""

    def wait(self, future: SlurmFuture[Any], state: str) -> str:
        """Wait until a call's job is in a state, and return its id."""
        until(lambda: self.state(future) == state)
        assert future.job_id is not None
        return future.job_id

    def run(self, *words: str) -> str:
        """Run a Slurm command and return what it printed."""
        return self.cluster.run(*words)

    def shown(self, job_id: str, field: str) -> str:
        """Return a field of `scontrol show job`, "" where there is no such job any more."""
        try:
            text = self.cluster.run("scontrol", "--oneliner", "show", "job", job_id)
        except ClusterError:
            return ""
        return dict(word.partition("=")[::2] for word in text.split())[field]


def submitted(future: SlurmFuture[Any]) -> str:
    """Wait until a call is submitted and return its job id."""
    return until(lambda: future.job_id) or ""


def together(executor: Jobs, function: Any, arguments: Sequence[tuple[Any, ...]]) -> list[SlurmFuture[Any]]:
    """Submit calls as one array, however slow this machine is just now."""
    with executor._connection.poller._lock:  # the poller closes no batch meanwhile
        return [executor.submit(function, *args) for args in arguments]


def died(future: SlurmFuture[Any], kind: type[JobError], seconds: float = 60.0) -> JobError:
    """Return the error of a call whose job ended without a result; it has to be of this very kind."""
    error = future.exception(seconds)
    assert type(error) is kind, repr(error)
    assert error.job_id is not None
    assert error.job_id == future.job_id
    assert error.state is future.state
    assert f"job {error.job_id} " in str(error)
    assert isinstance(error, JobError)
    return error
