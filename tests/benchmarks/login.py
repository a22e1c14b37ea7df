"""Calls on the login node."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, wait

from .bench import Bench, take_turns, timed
from .calls import no_op
from .rows import Row

CALLS = 10_000
WORKERS = 2


def one_at_a_time(bench: Bench) -> Iterator[Row]:
    """From `submit` to the result known, one call after the other, with workers that run already."""
    with bench.executor() as executor:
        _warm(executor.login)
        samples = [1000 * timed(executor.login.submit(no_op).result) for _ in range(bench.rounds(1000, 200))]
    yield Row("one call on the login node", "ms", samples, goal=0.6)


def many(bench: Bench) -> Iterator[Row]:
    """All of `map` with chunksize 1 on two workers, against a process pool of two; both run already."""
    with bench.executor(login_workers=WORKERS) as executor, ProcessPoolExecutor(WORKERS) as pool:
        login = executor.login
        _warm(login)
        _warm(pool)

        def through(executor: Executor) -> float:
            return 1000 / CALLS * timed(lambda: list(executor.map(no_op, range(CALLS))))

        pooled, ours = take_turns(bench.rounds(9, 3), lambda: through(pool), lambda: through(login))
    measure = f"{CALLS:,} calls on the login node through map, each"
    yield Row(f"{measure}, against ProcessPoolExecutor({WORKERS})", "ms", ours, pooled, goal=0.25)
    yield Row(measure, "ms", ours, goal=0.05)


def _warm(executor: Executor) -> None:
    """Have all workers started, and the function in all of them."""
    wait([executor.submit(os.getpid) for _ in range(100)])
    wait([executor.submit(no_op) for _ in range(100)])
