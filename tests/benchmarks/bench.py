"""What all measurements share: where and how long they run, taking turns."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import slurmfutures


class Bench(NamedTuple):
    """The circumstances of a run."""

    folder: Path  # for all files; the same file system for ours and for the baselines
    quick: bool

    def rounds(self, full: int, quick: int = 1) -> int:
        return quick if self.quick else full

    def executor(self, scheduler: str = "slurm", **options: object) -> slurmfutures.SlurmExecutor:
        work_dir = self.folder / "work_dir"
        return slurmfutures.SlurmExecutor(scheduler=scheduler, work_dir=work_dir, **options)  # type: ignore[arg-type]

    def say(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that `action` takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def take_turns(
    rounds: int, *actions: Callable[[], float], between: Callable[[], None] = lambda: None
) -> list[list[float]]:
    """Run all actions once a round, every other round backwards; return what each of them returned."""
    samples: list[list[float]] = [[] for _ in actions]
    for number in range(rounds):
        order: Sequence[int] = range(len(actions))
        for which in order if number % 2 == 0 else reversed(order):
            between()
            samples[which].append(actions[which]())
    return samples
