"""Bash that runs text of the user's. The text goes by the environment: every account can read an argument list."""

from typing import Dict

_VARIABLE = "SLURMFUTURES_START"
EVAL = ("/bin/bash", "-c", 'eval "$%s"' % _VARIABLE)
"""The words that run a text; what is appended to them are its `$0` and `$@`."""


def variable(text: str) -> Dict[str, str]:
    """Return the environment variable with a text for `EVAL`, which is not there any more when that text runs."""
    return {_VARIABLE: "unset %s\n%s" % (_VARIABLE, text)}
