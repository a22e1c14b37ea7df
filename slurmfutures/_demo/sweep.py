"""The sweep: which calls it has, their way through an Executor, and their results by temperature."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import NamedTuple

import cloudpickle

from . import ising
from .analysis import Estimate, Observable, binder_cumulant, crossing, heat_capacity, jackknife, peak
from .ising import Averages


class Call(NamedTuple):
    """The simulations of one lattice at one temperature: one of them takes less time than a job needs to start."""

    temperature: float
    size: int
    sweeps: int
    seeds: list[int]


@dataclass(frozen=True)
class Plan:
    """A grid of temperatures, for a lattice and for one of half its size, with some seeds at each point."""

    temperatures: Sequence[float]
    size: int
    sweeps: int
    seeds: int

    @property
    def sizes(self) -> tuple[int, int]:
        return self.size // 2, self.size

    def calls(self) -> list[Call]:
        """Return all calls, no seed twice; the long ones first, so that none of them is left for the end."""
        points = product(reversed(self.sizes), self.temperatures)
        return [
            Call(temperature, size, self.sweeps, list(range(number * self.seeds, (number + 1) * self.seeds)))
            for number, (size, temperature) in enumerate(points)
        ]


PLAN = Plan(
    temperatures=(1.5, 1.8, 2, 2.1, 2.2, 2.22, 2.24, 2.26, 2.28, 2.3, 2.32, 2.34, 2.36, 2.4, 2.5, 2.7, 3),
    size=32,
    sweeps=2000,
    seeds=5,
)
QUICK = Plan(temperatures=(1.5, 1.8, 2, 2.1, 2.2, 2.25, 2.3, 2.35, 2.4, 2.5, 2.7, 3), size=16, sweeps=1500, seeds=5)


@dataclass(frozen=True)
class Outcome:
    """The results of a sweep, with how long they took in seconds and where they were computed."""

    plan: Plan
    averages: Mapping[tuple[int, float], Sequence[Averages]]
    wall: float
    cpu: float
    nodes: Sequence[str]
    jobs: Sequence[str]

    def observe(self, observable: Observable, temperature: float, size: int) -> Estimate:
        """Return the estimate of an observable from all seeds."""
        return jackknife(lambda seeds: self._observe(observable, temperature, size, seeds), self.plan.seeds)

    def heat_capacity_peak(self, size: int) -> Estimate:
        """Return the temperature at which the heat capacity is largest."""

        def estimate(seeds: Sequence[int]) -> float:
            return peak(self.plan.temperatures, self._curve(heat_capacity, size, seeds))

        return jackknife(estimate, self.plan.seeds)

    def binder_crossing(self) -> Estimate:
        """Return the temperature at which the cumulants of the two sizes are the same."""

        def estimate(seeds: Sequence[int]) -> float:
            small, large = (self._curve(binder_cumulant, size, seeds) for size in self.plan.sizes)
            return crossing(self.plan.temperatures, [b - a for a, b in zip(small, large, strict=True)])

        return jackknife(estimate, self.plan.seeds)

    def _curve(self, observable: Observable, size: int, seeds: Sequence[int]) -> list[float]:
        return [self._observe(observable, temperature, size, seeds) for temperature in self.plan.temperatures]

    def _observe(self, observable: Observable, temperature: float, size: int, seeds: Sequence[int]) -> float:
        averages = self.averages[size, temperature]
        return observable(_mean([averages[seed] for seed in seeds]), temperature, size)


def run(executor: Executor, plan: Plan, on_done: Callable[[int], object] = lambda done: None) -> Outcome:
    """Run the sweep; `on_done` is called with the number of calls that are done, after each.

    Raises what a call raised; all others are cancelled then, as they are on KeyboardInterrupt.
    """
    cloudpickle.register_pickle_by_value(ising)
    started = time.monotonic()
    futures: dict[Future[list[Averages]], Call] = {}
    try:
        for call in plan.calls():
            futures[executor.submit(ising.simulate_seeds, *call)] = call
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            on_done(done)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    averages = {(call.size, call.temperature): future.result() for future, call in futures.items()}
    simulations = [one for seeds in averages.values() for one in seeds]
    return Outcome(
        plan=plan,
        averages=averages,
        wall=time.monotonic() - started,
        cpu=sum(one["cpu"] for one in simulations),
        nodes=sorted({one["node"] for one in simulations}),
        jobs=_jobs(futures),
    )


def _jobs(futures: Iterable[Future[list[Averages]]]) -> list[str]:
    """Return the ids of the jobs, a job array's once; none where the futures of an executor have no jobs."""
    ids = (getattr(future, "job_id", None) for future in futures)
    return list(dict.fromkeys(job_id.split("_")[0] for job_id in ids if job_id))


def _mean(averages: Sequence[Averages]) -> Averages:
    """Return the mean of each average."""
    return {
        "energy": fmean(one["energy"] for one in averages),
        "energy_squared": fmean(one["energy_squared"] for one in averages),
        "magnetisation": fmean(one["magnetisation"] for one in averages),
        "magnetisation_squared": fmean(one["magnetisation_squared"] for one in averages),
        "magnetisation_fourth": fmean(one["magnetisation_fourth"] for one in averages),
        "cpu": fmean(one["cpu"] for one in averages),
        "node": "",
    }
