"""Memory of the two processes of ours while very many calls are pending."""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .bench import Bench
from .calls import no_op
from .rows import Row
from .slurm import drain

CALLS = 100_000
SETTLE = 20.0  # s in which the agent submits as much as Slurm takes


def hundred_thousand_pending(bench: Bench) -> Iterator[Row]:
    """Memory of a fresh process that has submitted 100,000 calls one by one, and of its agent.

    The jobs are held, so that none begins: as many as Slurm takes are in its queue, the others wait with the agent.
    """
    drain()
    command = [sys.executable, "-m", __name__, str(bench.folder / "work_dir")]
    found: dict[str, dict[str, float]] = json.loads(subprocess.check_output(command, cwd=Path(__file__).parents[2]))
    drain()
    for process, goal in (("client", 300), ("agent", 80)):
        peak, now = found[process]["VmHWM"], found[process]["VmRSS"]
        bench.say(f"{process}: {found[process]}")
        yield Row(f"{process}'s memory with {CALLS:,} pending calls, at its peak", "MB", [peak], goal=goal)
        yield Row(f"{process}'s memory with {CALLS:,} pending calls, then", "MB", [now], goal=goal)


def main(work_dir: str) -> None:
    """The fresh process: print the memory of both."""
    from slurmfutures import SlurmExecutor, SlurmFuturesWarning

    warnings.simplefilter("ignore", SlurmFuturesWarning)  # that held jobs wait
    with SlurmExecutor(work_dir=work_dir, hold=True) as executor:
        agent: int = executor._connection.greeting["pid"]
        before = _memory("self")
        begin = time.perf_counter()
        futures = [executor.submit(no_op, number) for number in range(CALLS)]
        seconds = time.perf_counter() - begin
        while futures[0].job_id is None:
            time.sleep(0.1)
        time.sleep(SETTLE)
        found: dict[str, Any] = {"client": _memory("self"), "agent": _memory(agent)}
        found["client"].update(before=before["VmRSS"], seconds=seconds)
        found["agent"].update(jobs=sum(future.job_id is not None for future in futures))
        executor.shutdown(cancel_futures=True)
    print(json.dumps(found))


def _memory(process: int | str) -> dict[str, float]:
    """Return VmRSS and VmHWM in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith(("VmRSS:", "VmHWM:"))]
    return {name.rstrip(":"): int(size) / 1024 for name, size, _ in words}


if __name__ == "__main__":
    main(sys.argv[1])
