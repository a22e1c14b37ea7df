"""One call on an idle cluster."""

import math
from collections.abc import Iterator

from .bench import Bench, take_turns, timed
from .calls import by_value, no_op
from .rows import Row
from .slurm import BareJob, drain


def one_call(bench: Bench) -> Iterator[Row]:
    """From `submit` to the result known, against a bare sbatch whose script writes a file, to that file being seen.

    The queue is empty before each. Three calls: of a function that travels by value, which costs the job an import of
    cloudpickle; of one from a module of ours; and of one that every interpreter has.
    """
    bare = BareJob(bench.folder)
    value = by_value()
    with bench.executor() as executor:
        samples = take_turns(
            bench.rounds(20, 3),
            bare.run,
            lambda: timed(executor.submit(value, None).result),
            lambda: timed(executor.submit(no_op).result),
            lambda: timed(executor.submit(math.sqrt, 2.0).result),
            between=drain,
        )
    yield Row("one call, by value, against bare sbatch", "s", samples[1], samples[0], goal=1.2)
    yield Row("one call, by name (a module)", "s", samples[2], samples[0])
    yield Row("one call, by name (math.sqrt)", "s", samples[3], samples[0])
