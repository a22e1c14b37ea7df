"""A batch under way whose folder has become a stranger's: its results are not taken, and its calls not run again."""

from pathlib import Path

import pytest

from slurmfutures import ResultLost
from tests import calls
from tests.drivers import Driver
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.strangers.accounts import Stranger
from tests.waiting import DEADLINE, until


@pytest.mark.parametrize("asks", ["at once", "late"])
def test_its_calls_fail_by_what_is_wrong_whenever_they_are_asked_for(
    asks: str, common: Path, gate: Gate, opener: Opener, stranger: Stranger
) -> None:
    text = """
with SlurmExecutor(**options) as executor:
    executor.submit(calls.pass_gate, *arguments).result()
"""
    options = {"scheduler": "local", "work_dir": common / "work", "checkpoint": common / "checkpoint"}
    driver = Driver(common / "driver.py", text, options, str(gate.folder), 42)
    gate.wait()
    driver.kill()
    (batch,) = (common / "work/batches").iterdir()
    stranger.own(batch)
    executor = opener.root("local", work_dir=common / "work", checkpoint=common / "checkpoint")
    if asks == "late":
        until(lambda: executor._connection.poller._unusable)
    words = rf"batch {batch.name} cannot be used: .*it is a folder of {stranger.name}"
    found = executor.submit(calls.pass_gate, str(gate.folder), 42)
    with pytest.raises(ResultLost, match=words):
        found.result(DEADLINE)
    assert len(gate.entered()) == 1
