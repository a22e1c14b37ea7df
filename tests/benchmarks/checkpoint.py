"""What it costs to remember calls, and to find very many of them again."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from slurmfutures import SlurmExecutor

from .bench import Bench, take_turns, timed
from .calls import no_op
from .memory import memory_of
from .rows import Row

MANY = 100_000
CALLS = 1000
SECONDS, MEGABYTES = 10.0, 500.0


def found_again(bench: Bench) -> Iterator[Row]:
    """A fresh process opens a checkpoint of 100,000 finished calls and has all results, by submit and by map."""
    work_dir, path = bench.folder / "work_dir", bench.folder / "checkpoint"
    with SlurmExecutor(scheduler="local", work_dir=work_dir, checkpoint=path) as executor:
        for _ in executor.map(abs, range(MANY), chunksize=1000):
            pass
    bench.say(f"{path.stat().st_size / 1e6:.1f} MB of checkpoint")
    root = Path(__file__).parents[2]
    for way in ("submit", "map"):
        seconds, megabytes = [], []
        for _ in range(bench.rounds(5)):
            command = [sys.executable, "-m", __name__, str(work_dir), str(path), way]
            found: dict[str, float] = json.loads(subprocess.check_output(command, cwd=root))
            seconds.append(found["seconds"])
            megabytes.append(found["VmHWM"])
        measure = f"a checkpoint of {MANY:,} finished calls opened, and all of them resolved by {way}"
        yield Row(measure, "s", seconds, goal=SECONDS)
        yield Row(f"{measure}: memory", "MB", megabytes, goal=MEGABYTES)


def remembered(bench: Bench) -> Iterator[Row]:
    """A map of 1,000 no-ops on the embedded default with a new checkpoint, against one without."""
    number = 0

    def run(executor: SlurmExecutor) -> float:
        with executor:
            return timed(lambda: list(executor.map(no_op, range(CALLS))))

    def with_checkpoint() -> float:
        nonlocal number
        number += 1
        return run(bench.executor("local", checkpoint=bench.folder / f"checkpoint-{number}"))

    ours, without = take_turns(bench.rounds(5), with_checkpoint, lambda: run(bench.executor("local")))
    yield Row(f"map of {CALLS:,} no-ops, embedded default, with a checkpoint", "s", ours, without, goal=1.15)


def main(work_dir: str, path: str, way: str) -> None:
    """The fresh process: print how long it took, and the memory at its peak."""
    begin = time.perf_counter()
    with SlurmExecutor(scheduler="local", work_dir=work_dir, checkpoint=path) as executor:
        if way == "map":
            results = list(executor.map(abs, range(MANY)))
        else:
            futures = [executor.submit(abs, number) for number in range(MANY)]
            results = [future.result() for future in futures]
        seconds = time.perf_counter() - begin
        assert results == list(range(MANY))
    print(json.dumps({"seconds": seconds, **memory_of("self")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
