"""The Ising model on a square lattice, J = k = 1, zero field: what one call of the sweep computes.

Standard library only, and nothing of this package: the functions travel by value to where it is not installed.
"""

from __future__ import annotations

import math
import os
import time
from operator import add, mul
from random import Random
from typing import Callable, TypedDict

WARM_UP = 100  # sweeps before the first measurement


class Averages(TypedDict):
    """Averages of one simulation; energy and magnetisation are per spin."""

    energy: float
    energy_squared: float
    magnetisation: float  # of its absolute value
    magnetisation_squared: float
    magnetisation_fourth: float
    cpu: float  # seconds
    node: str


def simulate(temperature: float, size: int, sweeps: int, seed: int) -> Averages:
    """Simulate size x size spins with Wolff's cluster algorithm, measuring once after each of the sweeps.

    A sweep is as many clusters as have as many spins as the lattice, on average. The boundaries are helical.
    """
    started = time.process_time()
    count = size * size
    random = Random(seed).random
    spins = [1] * count
    neighbours = [
        ((site + 1) % count, (site - 1) % count, (site + size) % count, (site - size) % count) for site in range(count)
    ]
    bond = 1 - math.exp(-2 / temperature)
    flipped = clusters = 0
    while flipped < WARM_UP * count:
        flipped += flip_cluster(spins, neighbours, bond, random)
        clusters += 1
    clusters_per_sweep = max(1, round(count * clusters / flipped))
    energies, magnetisations = [], []
    for _ in range(sweeps):
        for _ in range(clusters_per_sweep):
            flip_cluster(spins, neighbours, bond, random)
        energies.append(energy(spins, size) / count)
        magnetisations.append(abs(sum(spins)) / count)
    return {
        "energy": sum(energies) / sweeps,
        "energy_squared": sum(value**2 for value in energies) / sweeps,
        "magnetisation": sum(magnetisations) / sweeps,
        "magnetisation_squared": sum(value**2 for value in magnetisations) / sweeps,
        "magnetisation_fourth": sum(value**4 for value in magnetisations) / sweeps,
        "cpu": time.process_time() - started,
        "node": os.uname().nodename,
    }


def flip_cluster(
    spins: list[int], neighbours: list[tuple[int, int, int, int]], bond: float, random: Callable[[], float]
) -> int:
    """Grow a cluster from a random site, where like neighbours join with probability `bond`, and flip it."""
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


def energy(spins: list[int], size: int) -> int:
    """Return the sum over all bonds of minus the product of the two spins."""
    right = spins[1:] + spins[:1]
    below = spins[size:] + spins[:size]
    return -sum(map(mul, spins, map(add, right, below)))
