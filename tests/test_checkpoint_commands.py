"""`slurmfutures status`, `logs`, `cancel` and `repair` of a checkpoint, by its file alone and where its calls are."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import SlurmExecutor
from slurmfutures import _journal as journal
from slurmfutures import _records as records
from tests import calls
from tests.drivers import Driver
from tests.fix_executors import HERE, Opener
from tests.fix_gate import Gate
from tests.test_commands import Done, command
from tests.waiting import until

DRIVE = """
folder, = arguments
executor = SlurmExecutor(**options)
executor.submit(calls.square, 3).result()
tell(executor.submit(calls.leave_saying, 3, "last words").exception() and "died")
running = executor.submit(calls.pass_gate, folder)
rest = executor.submit(calls.pass_gate, folder + "-closed")
import time
while not running.running():
    time.sleep(0.01)
tell("ready")
time.sleep(600)
"""


class Left:
    """A checkpoint whose driver is there, and can be killed: one call done, one dead, two under way."""

    def __init__(self, opener: Opener, scheduler: str, gate: Gate, folder: Path) -> None:
        self.path = folder / "c"
        self.opener, self.scheduler, self.gate = opener, scheduler, gate
        self.closed = Gate(Path(gate.folder + "-closed"))
        options = opener.options(scheduler, work_dir=folder / "scratch", checkpoint=self.path, max_workers=2)
        self.driver = Driver(folder / "driver.py", DRIVE, options, gate.folder)
        self.driver.wait_for("ready")
        gate.wait()

    def status(self, *words: str) -> Any:
        return command("status", self.path, "--json", *words).json()

    def again(self) -> SlurmExecutor:
        folder = self.path.parent
        return self.opener.root(self.scheduler, work_dir=folder / "scratch", checkpoint=self.path, max_workers=2)


@pytest.fixture
def left(opener: Opener, scheduler: str, gate: Gate, tmp_path: Path) -> Iterator[Left]:
    left = Left(opener, scheduler, gate, tmp_path)
    yield left
    left.closed.open()
    left.driver.stop()


@HERE
def test_status_tells_of_a_live_one_and_of_one_that_was_killed(left: Left, scheduler: str) -> None:
    found = left.status()
    assert found["calls"] == {"finished": 1, "under_way": 2, "failed": 1}
    assert found["driver"] == f"process {left.driver.process.pid} on {os.uname().nodename}"
    assert found["place"]["work_dir"] == str(left.path.parent / "scratch")
    (failure,) = found["failures"]
    assert (failure["kind"], failure["job"] is not None) == ("JobFailed", True)
    assert "exit code 3" in failure["said"]
    assert sum(batch["under_way"] for batch in found["batches"]) == 2
    assert {batch["name"] for batch in found["batches"]} >= {"pass_gate"}
    left.driver.kill()
    found = left.status()
    assert (found["driver"], found["calls"]["under_way"]) == (None, 2)
    shown = command("status", left.path)
    assert shown.returncode == 0
    assert "1 finished, 2 under way, 1 failed" in shown.stdout
    assert "exit code 3" in shown.stdout
    assert "not open" in shown.stdout


@HERE
def test_status_asks_where_the_calls_are(left: Left, scheduler: str) -> None:
    live = left.status("--live")["live"]
    states = [batch["states"] for batch in live["batches"]]
    assert sum(state["running"] for state in states) >= 1
    assert {batch["batch"] for batch in live["batches"]} == {batch["batch"] for batch in left.status()["batches"]}
    assert all(batch["live"] for batch in live["batches"])


@HERE
def test_logs_are_found_by_the_checkpoint(left: Left, scheduler: str) -> None:
    (failure,) = left.status()["failures"]
    done = command("logs", failure["job"], "--stderr", "--checkpoint", left.path)
    assert (done.returncode, done.stdout) == (0, "last words\n")


@HERE
def test_what_is_cancelled_runs_again_and_what_had_ended_is_kept(left: Left, scheduler: str, gate: Gate) -> None:
    refused = command("cancel", left.path).failed()
    assert f"process {left.driver.process.pid}" in refused
    left.driver.kill()
    if scheduler == "slurm":  # whose running jobs do not end with their driver
        gate.open()
        until(lambda: left.status("--live")["live"]["batches"][-1]["states"]["running"] <= 1)
    done: Done = command("cancel", left.path, "--json")
    kept = 1 if scheduler == "slurm" else 0
    assert done.json()["calls"] == 2 - kept or scheduler == "local"
    assert left.status()["calls"]["under_way"] <= 2
    again = command("cancel", left.path)
    assert (again.returncode, again.stdout) == (0, "nothing to cancel\n") or scheduler == "local"
    gate.open()
    left.closed.open()
    with left.again() as executor:
        assert executor.submit(calls.square, 3).done()
        first = executor.submit(calls.pass_gate, gate.folder)
        second = executor.submit(calls.pass_gate, gate.folder + "-closed")
        assert (first.result(), second.result()) == (None, None)
    if scheduler == "slurm":
        assert len(gate.entered()) == 1


@HERE
def test_calls_in_a_work_dir_that_is_gone_can_be_forgotten(left: Left, scheduler: str, tmp_path: Path) -> None:
    left.driver.kill()
    left.gate.open()
    left.closed.open()
    done = command("cancel", left.path, "--forget")
    assert (done.returncode, done.stdout) == (0, f"2 calls of {left.path} cancelled\n")
    with left.opener.root(scheduler, work_dir=tmp_path / "elsewhere", checkpoint=left.path) as executor:
        assert executor.submit(calls.pass_gate, left.gate.folder).result() is None


def test_a_damaged_one_is_told_of_by_status_and_saved_by_repair(tmp_path: Path) -> None:
    path = tmp_path / "c"
    file = journal.Journal(path)
    places = file.append((records.RESULT, [bytes([number]) * 20, b"value"]) for number in range(5))
    file.close()
    content = bytearray(path.read_bytes())
    content[places[2]] ^= 1
    path.write_bytes(content)
    assert f"slurmfutures repair {path}" in command("status", path).failed()
    done = command("repair", path)
    assert done.returncode == 0
    assert "4 results and 0 calls under way saved" in done.stdout
    assert str(path) + ".damaged" in done.stdout
    assert command("status", path, "--json").json()["calls"]["finished"] == 4
    assert command("repair", path).stdout == f"{path} is not damaged\n"
    assert command("repair", path, "--json").json()["damaged"] is None


@pytest.mark.parametrize("name", ["status", "cancel", "repair"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    assert str(tmp_path / "missing") in command(name, tmp_path / "missing").failed()
    (tmp_path / "mine").write_text("x" * 1000)
    assert "it is no checkpoint" in command(name, tmp_path / "mine").failed()
