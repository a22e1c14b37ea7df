"""One peer with resident workers, in an environment of its own: `python -m tests.benchmarks.peer WAY WORKERS`.

It says on a line of JSON which versions it has as soon as all workers run, and then, for each number on its standard
input, how many seconds so many no-ops take. Of this project it imports nothing but the no-op.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, wait
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import Any

from .calls import no_op

PATIENCE = 90.0  # s for all workers to be there
WALLTIME = "00:20:00"

Run = Callable[[int], object]


@contextmanager
def executorlib_in_allocation(workers: int) -> Iterator[Run]:
    """Its workers are steps of a job that is there already, as if `salloc` ran this program."""
    from executorlib import SlurmJobExecutor

    name = os.environ["SBATCH_JOB_NAME"]
    words = ["salloc", "--no-shell", f"--ntasks={workers}", f"--time={WALLTIME}", f"--job-name={name}"]
    said = subprocess.run(words, stderr=subprocess.PIPE, check=False, text=True).stderr
    granted = re.search(r"Granted job allocation (\d+)", said)
    if granted is None:
        raise RuntimeError(said.strip())
    os.environ["SLURM_JOB_ID"] = granted[1]
    with SlurmJobExecutor(max_workers=workers, block_allocation=True) as executor:
        _await(executor.submit, workers)
        yield lambda calls: _through(executor, calls)


@contextmanager
def executorlib_by_jobs(workers: int) -> Iterator[Run]:
    """Its workers are jobs. Without a partition it has none, not even the default."""
    from executorlib import SlurmClusterExecutor

    resources = {"partition": _default_partition()}
    with SlurmClusterExecutor(max_workers=workers, block_allocation=True, resource_dict=resources) as executor:
        _await(executor.submit, workers)
        yield lambda calls: _through(executor, calls)


@contextmanager
def parsl_htex(workers: int) -> Iterator[Run]:
    """A job a worker; what it would like to have of a node is less than its default, a whole one."""
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.launchers import SimpleLauncher
    from parsl.providers import SlurmProvider

    provider = SlurmProvider(
        exclusive=False,
        cores_per_node=1,
        init_blocks=workers,
        min_blocks=workers,
        max_blocks=workers,
        walltime=WALLTIME,
        launcher=SimpleLauncher(),
    )
    htex = HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=1, encrypted=False, provider=provider)
    with ParslPoolExecutor(Config(executors=[htex], strategy="none")) as executor:
        _await(executor.submit, workers)
        yield lambda calls: _through(executor, calls)


@contextmanager
def _dask(workers: int) -> Iterator[Any]:
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    places = {"log_directory": "logs", "local_directory": "scratch"}
    with (
        SLURMCluster(cores=1, processes=1, memory="500MB", walltime=WALLTIME, interface="lo", **places) as cluster,
        Client(cluster) as client,
    ):
        cluster.scale(jobs=workers)
        client.wait_for_workers(workers, timeout=PATIENCE)
        yield client


@contextmanager
def dask_by_map(workers: int) -> Iterator[Run]:
    """As its users do it; `pure` would have a call with the same argument run only once."""
    with _dask(workers) as client:
        yield lambda calls: client.gather(client.map(no_op, range(calls), pure=False))


@contextmanager
def dask_as_executor(workers: int) -> Iterator[Run]:
    with _dask(workers) as client:
        executor = client.get_executor(pure=False)
        yield lambda calls: _through(executor, calls)


WAYS: dict[str, Callable[[int], AbstractContextManager[Run]]] = {
    "executorlib-allocation": executorlib_in_allocation,
    "executorlib-jobs": executorlib_by_jobs,
    "parsl": parsl_htex,
    "dask-map": dask_by_map,
    "dask-executor": dask_as_executor,
}


def _through(executor: Executor, calls: int) -> None:
    for _ in executor.map(no_op, range(calls)):
        pass


def _await(submit: Callable[..., Any], workers: int) -> None:
    """Return when each worker has run something."""
    seen: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while len(seen) < workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(seen)} of {workers} workers within {PATIENCE:g} s")
        done, _ = wait([submit(os.getpid) for _ in range(20)])
        seen.update(future.result() for future in done)


def _default_partition() -> str:
    names = subprocess.check_output(["sinfo", "--noheader", "--format=%P"], text=True).split()
    return next(name.rstrip("*") for name in names if name.endswith("*"))


def main(way: str, workers: str, *distributions: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed is not an answer
    with WAYS[way](int(workers)) as run:
        run(100)
        print(json.dumps([f"{name} {version(name)}" for name in distributions]), file=answers)
        for line in sys.stdin:
            begin = time.perf_counter()
            run(int(line))
            print(time.perf_counter() - begin, file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
