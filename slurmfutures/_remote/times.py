"""Slurm's way to write how long something may take."""

import re
from typing import Optional

_FORMAT = re.compile(
    r"""(?P<days>\d{1,12})-(?P<hours>\d{1,12})(?::(?P<minutes>\d{1,12})(?::(?P<seconds>\d{1,12}))?)?
      | (?:(?P<h>\d{1,12}):)?(?P<m>\d{1,12}):(?P<s>\d{1,12})
      | (?P<only_minutes>\d{1,12})""",
    re.VERBOSE | re.ASCII,
)
_UNLIMITED = ("-1", "INFINITE", "UNLIMITED")


def parse_time(text: str) -> Optional[int]:
    """Return the seconds that `text` stands for, None for no limit.

    Read are "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", "days-hours:minutes",
    "days-hours:minutes:seconds", and for no limit "0", "-1", "INFINITE" and "UNLIMITED". Anything else is a ValueError.
    """
    text = text.strip()
    if text.upper() in _UNLIMITED:
        return None
    match = _FORMAT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a time in Slurm's format: {text!r}")
    part = {name: int(digits or 0) for name, digits in match.groupdict().items()}
    hours = part["days"] * 24 + part["hours"] + part["h"]
    minutes = hours * 60 + part["minutes"] + part["m"] + part["only_minutes"]
    return minutes * 60 + part["seconds"] + part["s"] or None
