"""The sweep: which calls it has, their way through an Executor, and their results by temperature."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import NamedTuple

import cloudpickle

from . import ising
from .analysis import Estimate, Observable, binder_cumulant, crossing, heat_capacity, jackknife, peak
from .ising import Averages


class Call(NamedTuple):
    """One simulation."""

    temperature: float
    size: int
    sweeps: int
    seed: int


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
        """Return all calls, no two with the same seed; the long ones first, so that none is left for the end."""
        points = product(reversed(self.sizes), self.temperatures, range(self.seeds))
        return [Call(temperature, size, self.sweeps, seed) for seed, (size, temperature, _) in enumerate(points)]


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

    Raises what a call raised; the others are cancelled then, as they are on KeyboardInterrupt.
    """
    cloudpickle.register_pickle_by_value(ising)
    started = time.monotonic()
    calls = plan.calls()
    results: list[Averages] = []
    # The seeds of one point make one task: a call takes less time than it takes a job to start.
    for result in executor.map(ising.simulate, *zip(*calls, strict=True), chunksize=plan.seeds):
        results.append(result)
        on_done(len(results))
    wall = time.monotonic() - started
    averages: dict[tuple[int, float], list[Averages]] = {}
    for call, result in zip(calls, results, strict=True):
        averages.setdefault((call.size, call.temperature), []).append(result)
    return Outcome(
        plan=plan,
        averages=averages,
        wall=wall,
        cpu=sum(result["cpu"] for result in results),
        nodes=sorted({result["node"] for result in results}),
    )


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
