"""Calls through pilots: workers that stay, in jobs."""

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slurmfutures import PilotsExecutor, SlurmExecutor

from .bench import Bench, take_turns, timed
from .calls import by_value, no_op, pid_after, same
from .memory import memory_of
from .peers import PEERS, PeerFailed, running
from .rows import Row
from .slurm import BareJob, drain
from .ssh import laptops_at

CALLS = 10_000
WORKERS = 4
ROUND_TRIP = 0.02  # s
LARGE = 1 << 20  # bytes
MIXED = 1000
MIXED_WORKERS = 8
MILLION = 1_000_000
BUFFER = 4000  # calls under way ahead of what was taken
PATIENCE = 120.0  # s for all workers to be there


@contextmanager
def pilots_of(executor: SlurmExecutor, workers: int = WORKERS) -> Iterator[PilotsExecutor]:
    """Give pilots that all run already, and stay."""
    with executor.pilots(workers=workers, idle_timeout=PATIENCE * 10, cpus_per_task=1) as pilots:
        _warm(pilots, workers)
        yield pilots


def _warm(executor: Executor, workers: int) -> None:
    """Have the function in all workers."""
    seen: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while len(seen) < workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(seen)} of {workers} workers within {PATIENCE:g} s")
        done, _ = wait([executor.submit(pid_after, 0.05) for _ in range(2 * workers)])
        seen.update(future.result() for future in done)
    wait([executor.submit(no_op) for _ in range(100)])


def _ms_a_call(executor: Executor, calls: int = CALLS) -> float:
    return 1000 / calls * timed(lambda: list(executor.map(no_op, range(calls))))


# ---- short calls


def many(bench: Bench) -> Iterator[Row]:
    """All of `map` with chunksize 1, against a process pool; both run already."""
    with bench.executor() as executor, pilots_of(executor) as pilots, ProcessPoolExecutor(WORKERS) as pool:
        _warm(pool, WORKERS)
        ours, pooled = take_turns(bench.rounds(9, 3), lambda: _ms_a_call(pilots), lambda: _ms_a_call(pool))
    measure = f"{CALLS:,} calls through {WORKERS} pilots, each"
    yield Row(f"{measure}, against ProcessPoolExecutor({WORKERS})", "ms", ours, pooled, goal=0.25)
    yield Row(measure, "ms", ours, goal=0.05)


def peers(bench: Bench) -> Iterator[Row]:
    """The same against others with as many workers on the same Slurm; where one does not work, the row says so.

    Ours are measured before and after each, not in turns: some take a good part of a core while they have no calls.
    """
    with bench.executor() as executor, pilots_of(executor) as pilots:
        for peer in PEERS:
            what = f"{peer.distributions[0]} ({peer.words})"
            ours = [_ms_a_call(pilots) for _ in range(bench.rounds(7, 3))]
            theirs = []
            goal = None
            try:
                with running(peer, WORKERS, bench.folder) as process:
                    calls = peer.calls // bench.rounds(1, 5)
                    theirs = [1000 / calls * process.seconds(calls) for _ in range(bench.rounds(3))]
                    what = f"{process.versions} ({peer.words})"
                    goal = 1 / peer.times
            except PeerFailed as error:
                what += f", which failed: {str(error).replace('|', '/')[:100]}"
            ours += [_ms_a_call(pilots) for _ in range(bench.rounds(7, 3))]
            yield Row(f"calls through {WORKERS} pilots, each, against {what}", "ms", ours, theirs, goal)


def over_ssh(bench: Bench) -> Iterator[Row]:
    """All of `map` with chunksize 1, and one call after the other against a byte to `cat`."""
    with laptops_at(bench, ROUND_TRIP) as laptops:
        for where, _, laptop in laptops:
            with laptop.executor() as executor, laptop.echo() as echo, pilots_of(executor) as pilots:
                samples = [_ms_a_call(pilots) for _ in range(bench.rounds(7, 2))]
                ones, echoed = take_turns(
                    bench.rounds(50, 10),
                    lambda: 1000 * timed(pilots.submit(no_op).result),
                    lambda: 1000 * timed(echo),
                )
            yield Row(f"{CALLS:,} calls through {WORKERS} pilots {where}, each", "ms", samples, goal=0.1)
            yield Row(f"one call through pilots {where}, against a byte there and back", "ms", ones, echoed, goal=1.1)


def one_at_a_time(bench: Bench) -> Iterator[Row]:
    """From `submit` to the result known, one call after the other."""
    with bench.executor() as executor, pilots_of(executor) as pilots:
        samples = [1000 * timed(pilots.submit(no_op).result) for _ in range(bench.rounds(1000, 200))]
    yield Row("one call through pilots", "ms", samples, goal=0.6)


def cold(bench: Bench) -> Iterator[Row]:
    """From `submit` to the result known where no job runs yet, against a bare sbatch whose script writes a file."""
    bare = BareJob(bench.folder)
    value = by_value()
    with bench.executor() as executor:

        def first(function: Any) -> float:
            with executor.pilots(workers=1, cpus_per_task=1) as pilots:
                return timed(pilots.submit(function, None).result)

        samples = take_turns(
            bench.rounds(20, 3), bare.run, lambda: first(value), lambda: first(no_op), between=lambda: drain()
        )
    yield Row("the first call through pilots, by value, against bare sbatch", "s", samples[1], samples[0], goal=1.3)
    yield Row("the first call through pilots, by name", "s", samples[2], samples[0], goal=1.3)


# ---- large and long calls


def large(bench: Bench) -> Iterator[Row]:
    """Calls that get a MB and give it back, all different; 150 a second are wanted."""
    source = random.Random(1)
    data = [source.randbytes(LARGE) for _ in range(16)]
    calls = bench.rounds(600, 150)

    def all_of_them(pilots: PilotsExecutor) -> None:
        for _ in pilots.map(same, itertools.islice(itertools.cycle(data), calls)):
            pass

    with bench.executor() as executor, pilots_of(executor) as pilots:
        samples = [1000 / calls * timed(lambda: all_of_them(pilots)) for _ in range(bench.rounds(5, 2))]
    yield Row(f"{calls} calls through pilots with 1 MB there and back, each", "ms", samples, goal=1000 / 150)


def mixed(bench: Bench) -> Iterator[Row]:
    """Calls that sleep between 1 ms and 1 s, half of them less than 32 ms, against a process pool."""
    source = random.Random(1)
    durations = [10 ** source.uniform(-3, 0) for _ in range(MIXED)][: bench.rounds(MIXED, MIXED // 3)]
    with (
        bench.executor() as executor,
        pilots_of(executor, MIXED_WORKERS) as pilots,
        ProcessPoolExecutor(MIXED_WORKERS) as pool,
    ):
        _warm(pool, MIXED_WORKERS)
        ours, pooled = take_turns(
            bench.rounds(3),
            lambda: timed(lambda: list(pilots.map(time.sleep, durations))),
            lambda: timed(lambda: list(pool.map(time.sleep, durations))),
        )
    measure = f"{len(durations):,} calls of 1 ms to 1 s through {MIXED_WORKERS} pilots"
    yield Row(f"{measure}, against ProcessPoolExecutor({MIXED_WORKERS})", "s", ours, pooled, goal=1.05)


# ---- very many


def million(bench: Bench) -> Iterator[Row]:
    """Very many calls in a fresh process, and what it and its agent take; against fewer with the same buffersize."""
    calls = MILLION // bench.rounds(1, 10)
    command = [sys.executable, "-m", __name__, str(bench.folder / "work_dir"), str(calls)]
    found = json.loads(subprocess.check_output(command, cwd=Path(__file__).parents[2]))
    measure = f"{calls:,} calls through pilots, buffersize {BUFFER:,}"
    yield Row(f"{measure}, each, against {CALLS:,}", "ms", [found["many"]], found["few"], goal=1.2)
    for process, goal in {"client": 500, "agent": 100}.items():
        early, late = found["early"][process], found["late"][process]
        bench.say(f"{process}: {early['VmRSS']:.1f} MB after a fifth, {late['VmRSS']:.1f} MB in the end")
        yield Row(f"{process}'s memory with {measure}", "MB", [late["VmHWM"]], goal=goal)
        yield Row(
            f"{process}'s memory in the end, by that after a fifth", "", [late["VmRSS"] / early["VmRSS"]], goal=1.1
        )


def main(work_dir: str, words: str) -> None:
    """The fresh process: print ms a call, and the memory of both."""
    calls = int(words)
    with SlurmExecutor(scheduler="slurm", work_dir=work_dir) as executor, pilots_of(executor) as pilots:
        agent = executor.login.submit(os.getppid).result()  # its workers are its children
        found: dict[str, Any] = {}

        def through(calls: int) -> float:
            begin = time.perf_counter()
            for number, _ in enumerate(pilots.map(no_op, range(calls), buffersize=BUFFER), 1):
                if number == calls // 5:
                    found["early"] = {"client": memory_of("self"), "agent": memory_of(agent)}
            return 1000 / calls * (time.perf_counter() - begin)

        found["few"] = [through(CALLS) for _ in range(5)]
        found["many"] = through(calls)
        found["late"] = {"client": memory_of("self"), "agent": memory_of(agent)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
