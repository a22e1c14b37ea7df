"""A thousand calls, one array task each."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .bench import Bench, take_turns
from .calls import by_value
from .rows import Row
from .slurm import BareArray, Requests, drain

CALLS = 1000
QUICK_CALLS = 200


def thousand_calls(bench: Bench) -> Iterator[Row]:
    """From the first call's submission to the last result known; by `map`, and by as many single `submit`s.

    The baseline is a bare array of as many tasks that run the same interpreter, each with one output file, from before
    sbatch to the last task's marker. It imports cloudpickle, as calls by value have to; calls of math.sqrt, which need
    not, are held against `-c pass`.

    slurmctld's own statistics are read before and after each of ours. Not in them is the start of the executor, which
    reads the cluster's limits once a day: two requests.
    """
    calls = bench.rounds(CALLS, QUICK_CALLS)
    ways = {
        "map": _Ours(bench, by_value(), [None] * calls, _by_map),
        "submit": _Ours(bench, by_value(), [None] * calls, _by_submit),
        "plain": _Ours(bench, math.sqrt, [2.0] * calls, _by_map),
    }
    honest, passing, mapped, submitted, plain = take_turns(
        bench.rounds(3),
        BareArray(bench.folder, calls, "import cloudpickle").run,
        BareArray(bench.folder, calls, "pass").run,
        *(way.run for way in ways.values()),
        between=drain,
    )
    yield Row(f"map of {calls:,} no-ops, by value, against -c 'import cloudpickle'", "s", mapped, honest, goal=1.2)
    yield Row("the same through single submits", "s", submitted, honest, goal=1.2)
    yield Row(f"map of {calls:,} × math.sqrt, against -c pass", "s", plain, passing)
    yield Row(f"map of {calls:,} no-ops, by value, against -c pass", "s", mapped, passing)
    for name, way in list(ways.items())[:2]:
        yield Row(f"submissions for {calls:,} calls ({name})", "", way.submissions, goal=2)
        yield Row(f"queries for {calls:,} calls ({name})", "per 10 s", way.queries, goal=1)


class _Ours:
    """One way of making the calls, and what slurmctld was asked each time."""

    def __init__(
        self,
        bench: Bench,
        function: Callable[..., object],
        values: list[Any],
        way: Callable[..., Iterable[object]],
    ) -> None:
        self._bench = bench
        self._function = function
        self._values = values
        self._way = way
        self.submissions: list[float] = []
        self.queries: list[float] = []

    def run(self) -> float:
        with self._bench.executor() as executor:
            requests = Requests()
            begin = time.perf_counter()
            for _ in self._way(executor, self._function, self._values):
                pass
            seconds = time.perf_counter() - begin
            submissions, queries = requests.since()
        self.submissions.append(submissions)
        self.queries.append(10 * sum(queries.values()) / seconds)
        asked = ", ".join(f"{kind} {count}" for kind, count in sorted(queries.items()))
        self._bench.say(f"{seconds:.2f} s, {submissions} submissions, queries: {asked or 'none'}")
        return seconds


def _by_map(executor: Any, function: Callable[..., object], values: list[Any]) -> Iterable[object]:
    results: Iterable[object] = executor.map(function, values)
    return results


def _by_submit(executor: Any, function: Callable[..., object], values: list[Any]) -> Iterable[object]:
    futures = [executor.submit(function, value) for value in values]
    return (future.result() for future in futures)
