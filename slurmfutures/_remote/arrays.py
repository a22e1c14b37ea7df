"""The indices of a job array in sbatch's words: "0,5,7", "1-10:3%2"."""

import itertools
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

MOST_INDEX = 4000000  # Slurm's highest, whatever a site allows
MOST_TASKS = 100000  # of one array here
_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10})(?::([0-9]{1,10}))?)?")
_LIKE = "an array is given as in '0-9', '1-10:3', '0,5,7' or '0-9%2'"


class Array(NamedTuple):
    """What stands behind `--array`."""

    indices: List[int]  # in the order in which they are named
    throttle: Optional[int]  # tasks that may run at once
    text: str  # the indices, without the throttle

    def environment(self) -> Dict[str, str]:
        """Return what Slurm tells the tasks of the whole array about it."""
        step = re.search(":([0-9]+)", self.text)
        words = {"COUNT": len(self.indices), "MIN": min(self.indices), "MAX": max(self.indices)}
        words["STEP"] = int(step[1]) if step else 1
        return {"SLURM_ARRAY_TASK_" + name: str(value) for name, value in words.items()}


def parse(text: str) -> Array:
    """Read the words. Raises ValueError for what sbatch would not take."""
    ranges, throttle, words = _read(text)
    return Array(list(dict.fromkeys(itertools.chain.from_iterable(ranges))), throttle, words)


def check(text: str) -> None:
    """Raise ValueError for what sbatch would not take."""
    _read(text)


def _read(text: str) -> Tuple[List[range], Optional[int], str]:
    words, percent, bound = text.partition("%")
    if percent and not (re.fullmatch("[0-9]{1,10}", bound) and int(bound)):
        raise ValueError("%.100r: what stands behind '%%' is how many tasks may run at once, 1 or more" % text)
    ranges = []
    total = 0
    for word in words.split(","):
        match = _RANGE.fullmatch(word)
        if match is None:
            raise ValueError("%.100r is no list of array indices: %s" % (text, _LIKE))
        first = int(match[1])
        last, step = int(match[2] or first), int(match[3] or 1)
        if last < first or step < 1:
            raise ValueError("%.100r has no array index in %r: %s" % (text, word, _LIKE))
        if last > MOST_INDEX:
            raise ValueError("%.100r: Slurm's highest array index is %d" % (text, MOST_INDEX))
        ranges.append(range(first, last + 1, step))
        total += len(ranges[-1])
        if total > MOST_TASKS:
            raise ValueError("%.100r has too many tasks: submit them as arrays of at most %d" % (text, MOST_TASKS))
    return ranges, int(bound) if percent else None, words


def write(indices: Sequence[int]) -> str:
    """Return indices as the words that name them in this order."""
    ranges: List[List[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else "%d-%d" % (first, last) for first, last in ranges)
