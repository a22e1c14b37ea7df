"""How soon a published result is known."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .bench import Bench
from .rows import Row
from .slurm import drain

CALLS = 20
SHORTEST, LONGEST = 0.2, 4.5  # s
YOUNG = 5.0  # s


def from_published_to_done(bench: Bench) -> Iterator[Row]:
    """From a result file's rename to its future's callback, for calls that are done within 5 s of their submission.

    The rename is read off the file's change time afterwards, which is at most one tick of the kernel's clock (4 ms)
    early. Twenty calls at once sleep 0.2 to 4.5 s, so that results come one by one.
    """
    for scheduler in ("slurm", "local"):
        samples: list[float] = []
        for number in range(bench.rounds(5)):
            if scheduler == "slurm":
                drain()
            samples += _round(bench, scheduler, random.Random(number))
        yield Row(f"from published to done, calls under {YOUNG:g} s ({scheduler})", "ms", samples, goal=50)


def _round(bench: Bench, scheduler: str, source: random.Random) -> list[float]:
    durations = [source.uniform(SHORTEST, LONGEST) for _ in range(CALLS)]
    done: dict[int, float] = {}
    with bench.executor(scheduler, max_workers=CALLS) as executor:
        begin = time.time()
        futures = [executor.submit(time.sleep, duration) for duration in durations]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: done.setdefault(number, time.time()))  # type: ignore[misc]
        for future in futures:
            future.result()
        # The folders stay while the futures are referred to; array index is call number where all are one batch.
        published = _published(bench.folder / "work_dir", futures)
    return [1000 * (done[number] - published[number]) for number in done if done[number] - begin < YOUNG]


def _published(work_dir: Path, futures: list[Any]) -> dict[int, float]:
    """Return when each call's result got its name."""
    batches = {future.job_id.partition("_")[0] for future in futures}
    assert len(batches) == 1, f"the calls became several arrays: {batches}"
    newest = max((work_dir / "batches").iterdir(), key=lambda folder: folder.stat().st_mtime)
    files = {int(file.stem): file.stat().st_ctime for file in newest.glob("0/r/*.r")}
    assert len(files) == len(futures), f"{len(files)} results in {newest}"
    return files
