"""Which shape do thirteen atoms take? A search in which each step depends on the results so far, as they come.

    python examples/pilots.py                    the embedded default: processes of this machine
    python examples/pilots.py slurm              workers that stay, in jobs
    python examples/pilots.py slurm cpu          the same in the partition "cpu"

The atoms attract each other as those of noble gases do (Lennard-Jones; energies and lengths are in its units). Basin
hopping: shake the present shape, let the atoms roll downhill, go on from there if that is better, and sometimes if it
is not. A call takes some hundredths of a second: as jobs of their own they would spend their time in the queue.
"""

import math
import sys
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from itertools import islice
from random import Random

from slurmfutures import SlurmExecutor

Shape = list[list[float]]  # three coordinates of each atom

ATOMS = 13
CALLS = 150
WORKERS = 4
UNDER_WAY = 2 * WORKERS  # so that a worker has its next call when it is done with one
SHAKE = 0.4
TEMPERATURE = 0.8
KNOWN = -44.326801  # the icosahedron with an atom in its middle


def relax(shape: Shape) -> tuple[float, Shape]:
    """Let atoms roll downhill; return their energy and their places at the bottom (FIRE, Bitzek et al. 2006)."""
    places = [list(place) for place in shape]
    speeds = [[0.0, 0.0, 0.0] for _ in places]
    step, mixing, downhill = 0.02, 0.1, 0
    for _ in range(2000):
        energy, forces = pull(places)
        force = norm(forces)
        if force < 1e-4:
            break
        power = sum(a * b for f, v in zip(forces, speeds, strict=True) for a, b in zip(f, v, strict=True))
        if power < 0:
            speeds, step, mixing, downhill = [[0.0, 0.0, 0.0] for _ in places], step / 2, 0.1, 0
        elif (downhill := downhill + 1) > 5:
            step, mixing = min(1.1 * step, 0.1), 0.99 * mixing
        turn = mixing * norm(speeds) / force
        for place, v, f in zip(places, speeds, forces, strict=True):
            for axis in range(3):
                v[axis] = (1 - mixing) * v[axis] + (turn + step) * f[axis]
                place[axis] += max(-0.1, min(0.1, step * v[axis]))
    return energy, places


def pull(places: Shape) -> tuple[float, Shape]:
    """Return the energy of atoms, and the forces on them."""
    energy, forces = 0.0, [[0.0, 0.0, 0.0] for _ in places]
    for number, (x, y, z) in enumerate(places):
        for other in range(number):
            dx, dy, dz = x - places[other][0], y - places[other][1], z - places[other][2]
            square = 1 / (dx * dx + dy * dy + dz * dz)
            sixth = square**3
            energy += 4 * sixth * (sixth - 1)
            strength = 24 * sixth * (2 * sixth - 1) * square
            for axis, way in enumerate((dx, dy, dz)):
                forces[number][axis] += strength * way
                forces[other][axis] -= strength * way
    return energy, forces


def norm(vectors: Shape) -> float:
    return math.sqrt(sum(part * part for vector in vectors for part in vector))


def hop(shape: Shape, seed: int) -> tuple[float, Shape]:
    """Shake a shape and relax it."""
    random = Random(seed)
    return relax([[part + random.uniform(-SHAKE, SHAKE) for part in place] for place in shape])


def search(executor: Executor, seeds: Iterable[int]) -> tuple[float, Shape]:
    """Hop once for each seed; return the lowest energy that was found, and its shape."""
    random = Random(0)
    here = best = math.inf, [[random.uniform(-1.5, 1.5) for _ in range(3)] for _ in range(ATOMS)]
    seeds, done = iter(seeds), 0
    pending = {executor.submit(hop, here[1], seed) for seed in islice(seeds, UNDER_WAY)}
    while pending:
        over, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in over:
            found, done = future.result(), done + 1
            if found[0] < here[0] or random.random() < math.exp((here[0] - found[0]) / TEMPERATURE):
                here = found  # from where the next ones start
            if found[0] < best[0] - 1e-6:
                best = found
                print(f"{done:4d} calls: {best[0]:.4f}")
            pending |= {executor.submit(hop, here[1], seed) for seed in islice(seeds, 1)}
    return best


def main(scheduler: str = "local", partition: str | None = None) -> None:
    with (
        SlurmExecutor(scheduler=scheduler, partition=partition, time="00:10:00") as executor,
        executor.pilots(WORKERS) as pilots,  # a ProcessPoolExecutor(WORKERS) would do as well
    ):
        energy, shape = search(pilots, range(CALLS))
    print(f"lowest energy of {ATOMS} atoms: {energy:.6f}; known: {KNOWN}")
    middle = [sum(axis) / ATOMS for axis in zip(*shape, strict=True)]
    distances = sorted(math.dist(middle, place) for place in shape)
    print("from the middle:", *(f"{distance:.2f}" for distance in distances))


if __name__ == "__main__":
    main(*sys.argv[1:])
