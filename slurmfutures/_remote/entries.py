"""What a batch's files say of it: batch.json, and the lines of parts.jsonl.

The files are the user's own, but disks fail and people edit. What is not as it was written is damage: ValueError.
"""

import math
import os
from typing import Any, Dict, Iterator

from . import arrays, ids, jsons

MOST_BYTES = 64 << 20  # of a file that is read as a whole
MOST_TASKS = 1 << 24  # of a batch
MOST_NUMBER = 1 << 31  # of parts, attempts and calls


def document(data: bytes) -> Dict[str, Any]:
    """Return a JSON object. Raises ValueError for anything else."""
    words = jsons.loads(data)
    if not isinstance(words, dict):
        raise ValueError("it is not a JSON object")
    return words


def lines(data: bytes) -> Iterator[Dict[str, Any]]:
    """Yield the entries of a file to which they are only added. A torn line is left out."""
    for line in data.split(b"\n"):
        if line.strip():
            try:
                words = document(line)
            except ValueError:
                continue
            yield words


def check_spec(words: Dict[str, Any], batch: str) -> None:
    """Raise ValueError where words are not how the batch with this id is to be submitted."""
    if words.get("batch") != batch:
        raise ValueError("it is of another batch, %.80r" % (words.get("batch"),))
    tasks = ids.count(words.get("tasks"), MOST_TASKS)
    skip = words.get("skip")
    _require(isinstance(skip, list), "skip", skip)
    for task in skip or ():
        ids.count(task, max(tasks - 1, 0))
    for name in ("name", "comment", "chdir", "session", "scheduler"):
        _require(isinstance(words.get(name) or "", str), name, words.get(name))
    _require(_are_words(words.get("options", [])), "options", words.get("options"))
    if words.get("pilot") is not None:
        _check_pilot(words["pilot"])
    if words.get("script") is not None:
        _check_script(words["script"], tasks)


def _check_pilot(words: Any) -> None:
    _require(isinstance(words, dict) and isinstance(words.get("folder"), str), "pilot", words)
    path, pool = os.path.split(words["folder"])
    _require(ids.is_pool(pool) and ids.is_session(os.path.basename(path)), "folder", words["folder"])
    ids.count(words.get("workers"), MOST_NUMBER)


def _check_script(words: Any, tasks: int) -> None:
    _require(isinstance(words, dict), "script", words)
    for name in ("array", "indices"):
        _require(isinstance(words.get(name) or "", str), name, words.get(name))
    if words.get("array"):
        arrays.parse(words["array"])
        _require(len(arrays.parse(words.get("indices") or "").indices) == tasks, "indices", words.get("indices"))


def check_entry(words: Dict[str, Any], batch: str, tasks: int) -> None:
    """Raise ValueError where words are no line of parts.jsonl of a batch of so many tasks."""
    if "retries" in words:
        _require(isinstance(words["retries"], list), "retries", words["retries"])
        for retry in words["retries"]:
            _check_retry(retry, tasks)
        return
    number = ids.count(words.get("part"), MOST_NUMBER)
    if "job" in words:
        _require(ids.is_job(words["job"]), "job", words["job"])
    elif "void" not in words:
        _check_intent(words, number, batch, tasks)


def _check_intent(words: Dict[str, Any], number: int, batch: str, tasks: int) -> None:
    _check_ranges(words.get("tasks"), tasks)
    _require(bool(words["tasks"]), "tasks", words["tasks"])
    # By this name the job is looked up, and a submission that still runs.
    name = words.get("name")
    _require(isinstance(name, str) and name.endswith(".sf-%s.%d" % (batch, number)), "name", name)
    at = words.get("time")
    _require(isinstance(at, (int, float)) and math.isfinite(at), "time", at)
    if words.get("throttle") is not None:
        _require(ids.count(words["throttle"], MOST_NUMBER) > 0, "throttle", words["throttle"])
    ids.count(words.get("attempt", 0), MOST_NUMBER)
    _require(_are_words(words.get("exclude", [])), "exclude", words.get("exclude"))


def _check_retry(words: Any, tasks: int) -> None:
    _require(isinstance(words, dict), "retries", words)
    ids.count(words.get("task"), tasks - 1)
    ids.count(words.get("attempt"), MOST_NUMBER)
    _require(_are_words(words.get("exclude")), "exclude", words.get("exclude"))
    _check_ranges(words.get("done"), MOST_NUMBER)


def _check_ranges(value: Any, most: int) -> None:
    """Raise ValueError for what is no list of ranges of numbers up to `most`, of no more than that together."""
    _require(isinstance(value, list), "ranges", value)
    total = 0
    for ends in value:
        _require(isinstance(ends, list) and len(ends) == 2, "ranges", ends)
        first, end = (ids.count(number, most) for number in ends)
        _require(first < end, "ranges", ends)
        total += end - first
    _require(total <= most, "ranges", value)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _require(good: bool, name: str, value: Any) -> None:
    if not good:
        raise ValueError("%s cannot be %.80r" % (name, value))
