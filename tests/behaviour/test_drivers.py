"""Drivers that end before their calls: killed, interrupted, left."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import SlurmExecutor, SlurmFuturesError
from tests import calls
from tests.drivers import Driver
from tests.fix_executors import HERE, Opener
from tests.fix_gate import Gate
from tests.slurm.shadow import Shadow
from tests.waiting import until

Drive = Callable[..., Driver]

SWEEP = """
folder, count = arguments
with SlurmExecutor(**options) as executor:
    futures = [executor.submit(calls.pass_gate, folder, number) for number in range(count)]
    tell("submitted")
    for future in futures:
        future.result()
"""
WITHOUT_WITH = """
folder, count = arguments
executor = SlurmExecutor(**options)
futures = [executor.submit(calls.pass_gate, folder, number) for number in range(count)]
tell("submitted")
for future in futures:
    future.result()
"""
BOTH = pytest.mark.parametrize("text", [SWEEP, WITHOUT_WITH], ids=["with", "without with"])


@pytest.fixture
def drive(opener: Opener, scheduler: str, tmp_path: Path, request: pytest.FixtureRequest) -> Drive:
    """Start a driver on this scheduler, with its work_dir in the test's folder."""

    def drive(text: str, *arguments: object, **options: Any) -> Driver:
        options = {"work_dir": tmp_path / "scratch", **options}
        driver = Driver(tmp_path / "driver.py", text, opener.options(scheduler, **options), *arguments)
        request.addfinalizer(driver.stop)
        return driver

    return drive


def again(opener: Opener, scheduler: str, tmp_path: Path, **options: Any) -> SlurmExecutor:
    return opener.root(scheduler, work_dir=tmp_path / "scratch", checkpoint=tmp_path / "c", **options)


def gone_on(executor: SlurmExecutor, gate: Gate, count: int) -> list[Any]:
    return [future.result() for future in [executor.submit(calls.pass_gate, gate.folder, n) for n in range(count)]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_calls_of_a_killed_driver_go_on_and_the_next_one_finds_them(
    drive: Drive, opener: Opener, scheduler: str, gate: Gate, tmp_path: Path, number: int
) -> None:
    driver = drive(SWEEP, gate.folder, 4, checkpoint=tmp_path / "c", max_workers=2)
    driver.wait_for("submitted")
    gate.wait(2)
    driver.kill(number)
    with again(opener, scheduler, tmp_path, max_workers=2) as executor:
        gate.open()
        assert gone_on(executor, gate, 4) == [0, 1, 2, 3]
    begun = sorted(map(int, gate.entered()))
    if scheduler == "slurm":
        assert begun == [0, 1, 2, 3]
    else:  # whose running jobs end with their driver
        assert [begun.count(value) for value in (2, 3)] == [1, 1]


def test_results_wait_in_work_dir_for_the_next_driver(
    drive: Drive, opener: Opener, scheduler: str, gate: Gate, tmp_path: Path
) -> None:
    if scheduler != "slurm":
        pytest.skip("jobs of the embedded scheduler end with their driver")
    driver = drive(SWEEP, gate.folder, 2, checkpoint=tmp_path / "c")
    driver.wait_for("submitted")
    gate.wait(2)
    driver.kill()
    gate.open()
    until(lambda: len(list((tmp_path / "scratch" / "batches").glob("*/*/r/*.r"))) == 2)
    with again(opener, scheduler, tmp_path) as executor:
        assert gone_on(executor, gate, 2) == [0, 1]
    assert sorted(gate.entered()) == ["0", "1"]
    assert list((tmp_path / "scratch" / "batches").iterdir()) == []


def test_calls_of_a_batch_that_is_gone_from_work_dir_begin_anew(
    drive: Drive, opener: Opener, scheduler: str, gate: Gate, tmp_path: Path
) -> None:
    driver = drive(SWEEP, gate.folder, 2, checkpoint=tmp_path / "c", max_workers=1)
    driver.wait_for("submitted")
    gate.wait(1)
    driver.kill()
    batches = tmp_path / "scratch" / "batches"
    until(lambda: not list((tmp_path / "scratch" / "login").iterdir()))  # the agent has ended
    for batch in batches.iterdir():
        batch.rename(tmp_path / batch.name)
    gate.open()
    with again(opener, scheduler, tmp_path) as executor:
        assert gone_on(executor, gate, 2) == [0, 1]
    assert len(gate.entered()) >= 3


def test_calls_under_way_elsewhere_are_told_of_before_anything_is_submitted(
    drive: Drive, opener: Opener, scheduler: str, gate: Gate, tmp_path: Path
) -> None:
    driver = drive(SWEEP, gate.folder, 1, checkpoint=tmp_path / "c")
    driver.wait_for("submitted")
    gate.wait(1)
    driver.kill()
    with pytest.raises(SlurmFuturesError) as caught:
        opener.root(scheduler, work_dir=tmp_path / "elsewhere", checkpoint=tmp_path / "c")
    assert str(tmp_path / "scratch") in str(caught.value)
    assert "slurmfutures cancel" in str(caught.value)
    assert list((tmp_path / "elsewhere").glob("batches/*")) == []
    gate.open()
    with again(opener, scheduler, tmp_path) as executor:
        assert gone_on(executor, gate, 1) == [0]


@BOTH
def test_ctrl_c_cancels_what_is_queued_and_running(
    drive: Drive, scheduler: str, gate: Gate, tmp_path: Path, text: str
) -> None:
    driver = drive(text, gate.folder, 3, max_workers=1)
    driver.wait_for("submitted")
    gate.wait(1)
    driver.kill(signal.SIGINT)
    assert driver.process.returncode == -signal.SIGINT
    assert driver.complaints().splitlines()[-1] == "KeyboardInterrupt"
    gate.open()
    until(lambda: list((tmp_path / "scratch" / "batches").iterdir()) == [])
    assert len(gate.entered()) == 1


@BOTH
def test_ctrl_c_leaves_what_a_checkpoint_remembers_to_the_next_start(
    drive: Drive, opener: Opener, scheduler: str, gate: Gate, tmp_path: Path, text: str
) -> None:
    driver = drive(text, gate.folder, 3, checkpoint=tmp_path / "c", max_workers=1)
    driver.wait_for("submitted")
    gate.wait(1)
    driver.kill(signal.SIGINT)
    assert driver.process.returncode == -signal.SIGINT
    gate.open()
    with again(opener, scheduler, tmp_path) as executor:
        assert gone_on(executor, gate, 3) == [0, 1, 2]
    if scheduler == "slurm":
        assert sorted(gate.entered()) == ["0", "1", "2"]


HANG = """\
touch "$here/cancelling"
exec sleep 600
"""


@BOTH
@HERE
def test_a_second_ctrl_c_gets_out_whatever_still_has_to_be_done(
    drive: Drive, scheduler: str, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    if scheduler != "slurm":
        pytest.skip("nothing hangs in the embedded scheduler")
    shadow = Shadow(tmp_path / "shadow")
    shadow.put("scancel", HANG)
    with monkeypatch.context() as patch:
        for name, value in shadow.env.items():
            patch.setenv(name, value)
        driver = drive(text, gate.folder, 1)
    driver.wait_for("submitted")
    gate.wait(1)
    driver.process.send_signal(signal.SIGINT)
    until(lambda: (shadow.folder / "cancelling").exists())
    assert driver.process.poll() is None
    driver.kill(signal.SIGINT)
    assert driver.process.returncode != 0
    gate.open()
