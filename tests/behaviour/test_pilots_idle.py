from pathlib import Path

import pytest

from slurmfutures import SlurmExecutor
from tests.waiting import until


def test_an_agent_whose_pilots_have_nothing_to_do_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "slurmfutures.pilots")
    with SlurmExecutor(scheduler="local", work_dir=tmp_path) as executor, executor.pilots(1) as pilots:
        until(lambda: "pilots are awaited at" in caplog.text)
        assert pilots.counts == (0, 0, 0)
