"""The embedded default against a process pool."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

from .bench import Bench, take_turns, timed
from .calls import no_op
from .rows import Row

CALLS = 10_000
CHUNK = 100


def many(bench: Bench) -> Iterator[Row]:
    """10,000 no-ops in chunks of 100, from before the executor is made to after its end; both have a process a core."""

    def through(executor: Executor) -> None:
        with executor:
            for _ in executor.map(no_op, range(CALLS), chunksize=CHUNK):
                pass

    started, pooled = take_turns(
        bench.rounds(5),
        lambda: timed(lambda: through(bench.executor("local"))),
        lambda: timed(lambda: through(ProcessPoolExecutor(os.cpu_count()))),
    )
    measure = f"{CALLS:,} no-ops, chunksize {CHUNK}, embedded default"
    yield Row(f"{measure}, against ProcessPoolExecutor, with start and end of both", "s", started, pooled)
