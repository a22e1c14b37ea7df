"""How long and how large things are, in words."""

import math

import pytest

from slurmfutures._commands.table import age


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (7200, "2 h"), (3 * 86400.0, "3 d"), (-5, "0 s"), (math.inf, "?"), (math.nan, "?")],
)
def test_age(seconds: float, words: str) -> None:
    assert age(seconds) == words
