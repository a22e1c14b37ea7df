"""The Ising model on a square lattice, with J = k = 1 and no field: what one call of the sweep computes.

Standard library only, and nothing of this package: the functions travel by value to where it is not installed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from operator import add, itemgetter, mul
from random import Random
from typing import TypedDict

WARM_UP = 100  # sweeps before the first measurement


class Averages(TypedDict):
    """What one simulation gives; energy and magnetisation are per spin."""

    energy: float
    energy_squared: float
    magnetisation: float  # of its absolute value
    magnetisation_squared: float
    magnetisation_fourth: float
    cpu: float  # seconds
    node: str


def simulate(temperature: float, size: int, sweeps: int, seed: int) -> Averages:
    """Simulate size x size spins with periodic boundaries by Wolff's algorithm; measure after each of the sweeps.

    A sweep is the number of clusters that together have as many spins as the lattice, on average.
    """
    started = time.process_time()
    count = size * size
    random = Random(seed).random
    bond = 1 - math.exp(-2 / temperature)
    neighbours = neighbours_of_sites(size)
    right = itemgetter(*(sites[0] for sites in neighbours))
    below = itemgetter(*(sites[1] for sites in neighbours))
    spins = [1] * count
    flipped = clusters = 0
    while flipped < WARM_UP * count:
        flipped += flip_cluster(spins, neighbours, bond, random)
        clusters += 1
    energies, magnetisations = [], []
    for _ in range(sweeps):
        for _ in range(max(1, round(count * clusters / flipped))):
            flip_cluster(spins, neighbours, bond, random)
        energies.append(-sum(map(mul, spins, map(add, right(spins), below(spins)))) / count)
        magnetisations.append(abs(sum(spins)) / count)
    return {
        "energy": mean_power(energies, 1),
        "energy_squared": mean_power(energies, 2),
        "magnetisation": mean_power(magnetisations, 1),
        "magnetisation_squared": mean_power(magnetisations, 2),
        "magnetisation_fourth": mean_power(magnetisations, 4),
        "cpu": time.process_time() - started,
        "node": os.environ.get("SLURMD_NODENAME") or os.uname().nodename,
    }


def simulate_seeds(temperature: float, size: int, sweeps: int, seeds: list[int]) -> list[Averages]:
    """Simulate with one seed after the other."""
    return [simulate(temperature, size, sweeps, seed) for seed in seeds]


def flip_cluster(
    spins: list[int], neighbours: list[tuple[int, int, int, int]], bond: float, random: Callable[[], float]
) -> int:
    """Flip the cluster of like spins that grows from a random site, each bond with its probability; return its size."""
    site = int(random() * len(spins))
    spin = spins[site]
    spins[site] = -spin
    size = 1
    edge = [site]
    while edge:
        for site in neighbours[edge.pop()]:
            if spins[site] == spin and random() < bond:
                spins[site] = -spin
                size += 1
                edge.append(site)
    return size


def neighbours_of_sites(size: int) -> list[tuple[int, int, int, int]]:
    """Return for each site the ones to the right of, below, to the left of and above it."""
    return [
        (
            row * size + (column + 1) % size,
            (row + 1) % size * size + column,
            row * size + (column - 1) % size,
            (row - 1) % size * size + column,
        )
        for row in range(size)
        for column in range(size)
    ]


def mean_power(values: list[float], power: int) -> float:
    """Return the mean of the values to that power."""
    return math.fsum(value**power for value in values) / len(values)
