"""What the log says of pilots."""

from pathlib import Path

import pytest

from slurmfutures import SlurmExecutor
from tests.waiting import until

NOWHERE = "203.0.113.1"  # an address that no machine has, from RFC 5737


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "slurmfutures.pilots")
    return caplog


def test_an_agent_whose_pilots_have_nothing_to_do_waits(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    with SlurmExecutor(scheduler="local", work_dir=tmp_path) as executor, executor.pilots(1) as pilots:
        until(lambda: "pilots are awaited at" in log.text)
        assert pilots.counts == (0, 0, 0)


def test_that_pilots_come_by_files_is_said_once(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    with SlurmExecutor(scheduler="local", work_dir=tmp_path) as executor:
        with executor.pilots(2, address=NOWHERE, job_name="far") as pilots:
            assert list(pilots.map(pow, range(100), range(100))) == [number**number for number in range(100)]
            workers = until(lambda: pilots.workers)
        assert {worker.via for worker in workers} == {"files"}
    assert "far: pilots are awaited at nothing but files" in log.text
    assert log.text.count("has no way by TCP, and goes by files") == 1
