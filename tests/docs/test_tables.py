"""Tables of the pages name all that there is."""

import re

import slurmfutures
from slurmfutures._options import OURS
from tests.docs.test_pages import ROOT


def test_the_table_of_errors_has_them_all() -> None:
    table = (ROOT / "docs/reference/errors.md").read_text()
    kinds = [getattr(slurmfutures, name) for name in slurmfutures.__all__]
    errors = {
        kind.__name__ for kind in kinds if isinstance(kind, type) and issubclass(kind, slurmfutures.SlurmFuturesError)
    }
    bases = {"SlurmFuturesError", "JobError"}
    assert set(re.findall(r"^\| \[`(\w+)`\]\(", table, re.MULTILINE)) == errors - bases


def test_the_table_of_options_that_are_not_free_has_them_all() -> None:
    page = (ROOT / "docs/reference/options.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \| ", page.partition("## Those that are not free")[2], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(OURS)
