"""The forms of ids and numbers. Text from a file, a name, a record or the wire is checked here before it becomes a part
of a path, a word of a command, or an int.
"""

import re
from typing import Any, Optional

MOST_DIGITS = 10  # Slurm's ids and indices have 32 bits
#: A pattern of a decimal number: ASCII digits, no sign, no leading zero.
NUMBER = "(?:0|[1-9][0-9]{0,%d})" % (MOST_DIGITS - 1)
_HEX = re.compile("[0-9a-f]{12}")
_POOL = re.compile("[0-9a-f]{6}")
_DIGEST = re.compile("[0-9a-f]{20}")
_NUMBER = re.compile(NUMBER)
_WORKER = re.compile("[0-9]{1,%d}-[0-9]{1,%d}" % (MOST_DIGITS, MOST_DIGITS))


def is_batch(value: Any) -> bool:
    """Whether a value is the id of a batch: twelve hexadecimal digits."""
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def is_session(value: Any) -> bool:
    """Whether a value is the id of a session, which is that of its checkpoint where there is one."""
    return is_batch(value)


def is_pool(value: Any) -> bool:
    """Whether a value is the name of a pool's folder."""
    return isinstance(value, str) and _POOL.fullmatch(value) is not None


def is_job(value: Any) -> bool:
    """Whether a value is the id of a job: a decimal number above 0."""
    return isinstance(value, str) and bool(number(value))


def is_worker(value: Any) -> bool:
    """Whether a value is the name of a pilot's worker."""
    return isinstance(value, str) and _WORKER.fullmatch(value) is not None


def number(text: str) -> Optional[int]:
    """Return the number that a text is, None where it is none."""
    return int(text) if _NUMBER.fullmatch(text) else None


def batch(value: Any) -> str:
    """Return the id of a batch. Raises ValueError for anything else."""
    if not is_batch(value):
        raise ValueError("%.80r is not the id of a batch, which is 12 hexadecimal digits" % (value,))
    return str(value)


def session(value: Any) -> str:
    """Return the id of a session. Raises ValueError for anything else."""
    if not is_session(value):
        raise ValueError("%.80r is not the id of a session, which is 12 hexadecimal digits" % (value,))
    return str(value)


def digest(value: Any) -> str:
    """Return the hash that names source or shipped code. Raises ValueError for anything else."""
    if not (isinstance(value, str) and _DIGEST.fullmatch(value)):
        raise ValueError("%.80r is not a hash, which is 20 hexadecimal digits" % (value,))
    return value


def count(value: Any, most: int) -> int:
    """Return an int from 0 to `most`. Raises ValueError for anything else."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("%.80r is not a number from 0 to %d" % (value, most))
    return value
