"""Where does a magnet lose its magnetisation? A sweep over temperatures of the two-dimensional Ising model.

    python examples/ising.py                    the embedded default: processes of this machine
    python examples/ising.py slurm              job arrays
    python examples/ising.py slurm cpu          the same in the partition "cpu"

The function below needs nothing but the standard library, and is shipped with each batch: there is nothing to install
on the cluster.
"""

import math
import sys
from random import Random
from statistics import fmean

from slurmfutures import SlurmExecutor

SIZE = 24
TEMPERATURES = [1.5, 1.8, 2.0, 2.1, 2.2, 2.25, 2.3, 2.35, 2.4, 2.5, 2.7, 3.0]
SEEDS = [1, 2, 3, 4]
SWEEPS = 1000
EXACT = 2 / math.log(1 + math.sqrt(2))  # Onsager, for the infinite lattice


def simulate(temperature: float, seed: int) -> tuple[float, float]:
    """Return magnetisation and heat capacity per spin, in units of J = k = 1, by Wolff's cluster algorithm."""
    random = Random(seed).random
    sites = SIZE * SIZE
    bond = 1 - math.exp(-2 / temperature)
    # Helical boundaries: the right neighbour of a row's last site is the first one of the next row.
    neighbours = [[(site + step) % sites for step in (1, SIZE, -1, -SIZE)] for site in range(sites)]
    spins = [1] * sites

    def flip_cluster() -> int:
        site = int(random() * sites)
        spin = spins[site]
        spins[site] = -spin
        size, edge = 1, [site]
        while edge:
            for site in neighbours[edge.pop()]:
                if spins[site] == spin and random() < bond:
                    spins[site] = -spin
                    size += 1
                    edge.append(site)
        return size

    def sweep(clusters: int) -> tuple[float, float]:
        for _ in range(clusters):
            flip_cluster()
        energy = -sum(spins[site] * (spins[near[0]] + spins[near[1]]) for site, near in enumerate(neighbours))
        return abs(sum(spins)), energy

    clusters = round(1 + sites / fmean(flip_cluster() for _ in range(500)))
    measured = [sweep(clusters) for _ in range(SWEEPS)]
    magnetisations, energies = zip(*measured[SWEEPS // 10 :], strict=True)  # the first ones remember how it began
    mean_energy = fmean(energies)
    variance = fmean((energy - mean_energy) ** 2 for energy in energies)
    return fmean(magnetisations) / sites, variance / temperature**2 / sites


def main(scheduler: str = "local", partition: str | None = None) -> None:
    points = [(temperature, seed) for temperature in TEMPERATURES for seed in SEEDS]
    with SlurmExecutor(scheduler=scheduler, partition=partition, time="00:10:00") as executor:
        # One task of the job array for each temperature, with one call for each of the seeds.
        results = list(executor.map(simulate, *zip(*points, strict=True), chunksize=len(SEEDS)))
    print(f"{SIZE} x {SIZE} spins\n    T    |m|  heat capacity")
    capacities = {}
    for number, temperature in enumerate(TEMPERATURES):
        of_all_seeds = results[number * len(SEEDS) : (number + 1) * len(SEEDS)]
        magnetisation, capacity = map(fmean, zip(*of_all_seeds, strict=True))
        capacities[temperature] = capacity
        print(f"{temperature:5.2f}  {magnetisation:5.3f}  {capacity:5.2f} {'*' * round(20 * capacity)}")
    print(f"largest heat capacity at T = {max(capacities, key=capacities.__getitem__)}; exact: {EXACT:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
