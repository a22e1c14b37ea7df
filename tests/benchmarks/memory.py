"""Memory of the two processes of ours while very many calls are pending."""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slurmfutures import SlurmExecutor, SlurmFuturesWarning

from .bench import Bench
from .rows import Row
from .slurm import drain

CALLS = 100_000
SETTLE = 20.0  # s in which the agent submits as much as Slurm takes, and looks at the queue
GOALS = {"client": 300, "agent": 80}  # MB


def hundred_thousand_pending(bench: Bench) -> Iterator[Row]:
    """Memory of a fresh process that has submitted 100,000 calls one by one, and of its agent, each at its peak.

    On Slurm the jobs are held: as many as it takes are in its queue, the others wait. The embedded default has all of
    them in its own, behind a call that sleeps.
    """
    for scheduler in ("slurm", "local"):
        drain()
        command = [sys.executable, "-m", __name__, str(bench.folder / "work_dir"), scheduler]
        root = Path(__file__).parents[2]
        found: dict[str, dict[str, float]] = json.loads(subprocess.check_output(command, cwd=root))
        for process, goal in GOALS.items():
            words = ", ".join(f"{name} {value:.1f}" for name, value in found[process].items())
            bench.say(f"{scheduler}, {process}: {words}")
            measure = f"{process}'s memory with {CALLS:,} pending calls ({scheduler})"
            yield Row(measure, "MB", [found[process]["VmHWM"]], goal=goal)
    drain()


def main(work_dir: str, scheduler: str) -> None:
    """The fresh process: print the memory of both."""
    warnings.simplefilter("ignore", SlurmFuturesWarning)  # that held jobs wait
    options: dict[str, Any] = {"hold": True} if scheduler == "slurm" else {"max_workers": 1}
    with SlurmExecutor(scheduler=scheduler, work_dir=work_dir, **options) as executor:
        agent = executor.login.submit(os.getppid).result()  # its workers are its children
        before = memory_of("self")
        begin = time.perf_counter()
        futures = [executor.submit(time.sleep, 600) for _ in range(CALLS)]
        seconds = time.perf_counter() - begin
        time.sleep(SETTLE)
        found = {"client": memory_of("self"), "agent": memory_of(agent)}
        found["client"].update({"before": before["VmRSS"], "seconds to submit": seconds})
        found["agent"].update({"jobs in the queue": sum(future.job_id is not None for future in futures)})
        for future in futures:
            future.cancel()
    print(json.dumps(found))


def memory_of(process: int | str) -> dict[str, float]:
    """Return VmRSS and VmHWM in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith(("VmRSS:", "VmHWM:"))]
    return {name.rstrip(":"): int(size) / 1024 for name, size, _ in words}


if __name__ == "__main__":
    main(*sys.argv[1:])
