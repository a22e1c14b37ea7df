"""`slurmfutures status`, `logs`, `cancel` and `clean` of pilots, and of a checkpoint whose calls are in them."""

import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import SlurmExecutor, _cli
from tests import calls
from tests.cluster import Cluster
from tests.drivers import Driver
from tests.fix_executors import HERE, Opener
from tests.fix_gate import Gate
from tests.slurm.queue import Queue
from tests.test_commands import Done, promised
from tests.waiting import until

# One pilot: a call is done, one has taken its worker along, one runs, and one waits behind it or runs too.
DRIVE = """
folder, workers = arguments
from tests.waiting import until
pilots = SlurmExecutor(**options).pilots(workers=workers, workers_per_job=workers)
assert pilots.submit(calls.speak, "to stdout", "to stderr").result() is None
assert pilots.submit(calls.leave_saying, 3, "last words").exception() is not None
running = pilots.submit(calls.pass_gate_and_return, folder, 7)
waiting = pilots.submit(calls.pass_gate, folder + "-second", 8)
until(lambda: running.running() and (workers == 1 or waiting.running()))
tell(running.job_id)
tell("ready")
import time
time.sleep(600)
"""


class Left:
    """A driver with a pilot, and with a checkpoint or none, that can be killed."""

    def __init__(
        self, opener: Opener, scheduler: str, gate: Gate, folder: Path, workers: int = 1, *, checkpoint: bool = True
    ) -> None:
        self.path = folder / "c"
        self.work_dir = folder / "a b'c"
        self.opener, self.scheduler, self.gate = opener, scheduler, gate
        self.second = Gate(Path(gate.folder + "-second"))
        options = opener.options(scheduler, work_dir=self.work_dir, checkpoint=self.path if checkpoint else None)
        self.driver = Driver(folder / "driver.py", DRIVE, options, gate.folder, workers)
        self.driver.wait_for("ready")
        self.job = self.driver.said()[0]
        gate.wait()

    def run(self, name: str, *words: object) -> Done:
        return command(name, "--scheduler", self.scheduler, "--work-dir", self.work_dir, *words)

    def batch(self) -> Any:
        """Return what status tells of the only batch."""
        (batch,) = self.run("status", "--json").json()["batches"]
        return batch

    def checkpoint(self, *words: str) -> Any:
        return command("status", self.path, "--json", *words).json()

    def make_old(self) -> None:
        for path in [self.work_dir, *self.work_dir.rglob("*")]:
            at = time.time() - 9 * 86400
            os.utime(path, (at, at), follow_symlinks=False)

    def again(self) -> SlurmExecutor:
        return self.opener.root(self.scheduler, work_dir=self.work_dir, checkpoint=self.path)


@pytest.fixture(params=[{}])
def left(request: pytest.FixtureRequest, opener: Opener, scheduler: str, gate: Gate, tmp_path: Path) -> Iterator[Left]:
    left = Left(opener, scheduler, gate, tmp_path, **request.param)
    yield left
    left.second.open()
    left.driver.stop()
    left.run("cancel", "--all")


def command(*words: object) -> Done:
    """Run `slurmfutures`, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    argv = list(map(str, words))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _cli.main(argv)
    return Done(argv, code, *(text.buffer.getvalue().decode() for text in (out, err)))


def left_things(done: Done) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return kinds and names of what clean has removed, and kinds and reasons of what it has kept."""
    words = done.json()
    return [(it["kind"], it["name"]) for it in words["removed"]], [(it["kind"], it["why"]) for it in words["kept"]]


@HERE
def test_pilots_of_a_connected_driver_are_told_of_and_left_alone(left: Left, scheduler: str) -> None:
    batch = left.batch()
    assert set(batch) == promised("Each batch:")
    assert (batch["tasks"], batch["calls"], batch["workers"], batch["live"]) == (1, 0, 1, True)
    assert {state: number for state, number in batch["states"].items() if number} == {"running": 1}
    assert batch["jobs"] == [left.job]
    (row,) = (line for line in left.run("status").stdout.splitlines() if line.startswith(batch["batch"]))
    assert row.split()[:3] == [batch["batch"], batch["pool"], "pilots"]
    assert "1 pilot " in row
    # Its checkpoint.
    found = left.checkpoint("--live")
    assert found["calls"] == {"finished": 1, "under_way": 2, "failed": 1}
    assert found["batches"] == []
    assert [(it["pool"], it["under_way"]) for it in found["pools"]] == [(batch["pool"], 2)]
    assert [it["batch"] for it in found["live"]["batches"]] == [batch["batch"]]
    (failure,) = found["failures"]
    assert (failure["call"], failure["pool"], failure["job"]) == (None, batch["pool"], left.job)
    (row,) = (line for line in command("status", left.path).stdout.splitlines() if line.startswith(batch["pool"]))
    assert row.split()[-1] == "2"
    # Its logs.
    assert left.run("logs", left.job).stdout == "==> worker 0-1 <==\nto stdout\n==> worker 0-2 <==\n"
    text = left.run("logs", f"{batch['batch']}:0", "--stderr").stdout
    assert text.endswith("==> worker 0-1 <==\nto stderr\nlast words\n==> worker 0-2 <==\n")
    told = command("logs", failure["job"], "--json", "--checkpoint", left.path).json()
    assert told["workers"][0] == {"worker": "0-1", "stdout": "to stdout\n", "stderr": "to stderr\nlast words\n"}
    # What is a connected driver's is its own business.
    assert "its driver is connected" in left.run("cancel", batch["batch"]).failed()
    left.make_old()
    kept = [("batch", "its driver is connected"), ("pilots", "its driver is connected")]
    assert left_things(left.run("clean", "--json")) == ([], kept)


@pytest.mark.slurm
@pytest.mark.parametrize("scheduler", ["slurm"], indirect=True)
@pytest.mark.parametrize("left", [{"workers": 2}], indirect=True)
def test_what_pilots_of_a_killed_driver_have_finished_is_fetched_and_what_is_cancelled_runs_again(
    left: Left, cluster: Cluster
) -> None:
    left.driver.kill()
    until(lambda: left.batch()["live"] is False)
    batch = left.batch()
    left.make_old()
    kept = [("batch", "it has jobs in the queue"), ("pilots", "its jobs stay")]
    assert left_things(left.run("clean", "--json")) == ([], kept)
    left.second.wait()
    left.gate.open()
    until((Path(left.gate.folder) / "returned").exists)
    assert command("cancel", left.path, "--json").json() == {
        "checkpoint": str(left.path),
        "calls": 1,
        "cancelled": [{"batch": batch["batch"], "tasks": 1}],
        "refused": [],
        "left": [],
    }
    assert left.job not in {job.id for job in Queue(cluster).active()}
    assert left.checkpoint()["calls"] == {"finished": 1, "under_way": 1, "failed": 2}
    (row,) = (line for line in left.run("status").stdout.splitlines() if line.startswith(batch["batch"] + ":0"))
    assert row.split()[1:3] == [left.job, "CANCELLED"]
    left.second.open()
    with left.again() as executor:
        pilots = executor.pilots(workers=1)
        first = pilots.submit(calls.pass_gate_and_return, left.gate.folder, 7)
        second = pilots.submit(calls.pass_gate, left.second.folder, 8)
        assert (first.result(), second.result()) == (7, 8)
    assert (len(left.gate.entered()), len(left.second.entered())) == (1, 2)
    assert not list((left.work_dir / "pilots").iterdir())
    assert left.run("status").stdout.startswith("no batches")


@pytest.mark.slurm
@pytest.mark.parametrize("scheduler", ["slurm"], indirect=True)
def test_a_call_that_a_pilot_runs_for_a_killed_driver_is_the_next_one_s(left: Left) -> None:
    left.driver.kill()
    executor = left.again()
    pilots = executor.pilots(workers=1)
    future = pilots.submit(calls.pass_gate_and_return, left.gate.folder, 7)
    until(future.running)
    assert future.job_id == left.job
    left.gate.open()
    assert future.result() == 7
    assert future.job_id == left.job
    assert len(left.gate.entered()) == 1
    left.second.open()


@pytest.mark.slurm
@pytest.mark.parametrize("scheduler", ["slurm"], indirect=True)
@pytest.mark.parametrize("left", [{"checkpoint": False}], indirect=True)
def test_pilots_of_a_driver_that_is_gone_for_good_are_cancelled_and_cleared_away(left: Left, cluster: Cluster) -> None:
    left.driver.kill()
    until(lambda: left.batch()["live"] is False)
    batch = left.batch()["batch"]
    assert left.run("cancel", batch).stdout == f"batch {batch}: 1 task cancelled\n"
    assert left.job not in {job.id for job in Queue(cluster).active()}
    left.make_old()
    removed, kept = left_things(left.run("clean", "--json"))
    assert kept == []
    assert [kind for kind, _ in removed[:3]] == ["batch", "pilots", "session"]


@pytest.mark.parametrize("scheduler", ["local"], indirect=True)
def test_what_a_driver_and_its_pilots_have_left_is_cleared_away_when_it_is_old(left: Left, scheduler: str) -> None:
    left.driver.kill()
    until(lambda: left.batch()["live"] is False)  # its pilots end with it
    (session,) = {path.name for path in (left.work_dir / "pilots").iterdir()}
    assert command("cancel", left.path).stdout == f"2 calls of {left.path} cancelled\n"
    assert command("cancel", left.path).stdout == "nothing to cancel\n"
    batch = left.batch()
    assert (batch["states"]["ended"], batch["states"]["running"]) == (1, 0)
    assert left_things(left.run("clean", "--json"))[1] == [
        ("batch", "it was used lately"),
        ("pilots", "its jobs stay"),
    ]
    left.make_old()
    removed, kept = left_things(left.run("clean", "--json"))
    assert kept == []
    assert removed[:3] == [("batch", batch["batch"]), ("pilots", session), ("session", session)]
    assert not list((left.work_dir / "pilots").iterdir())
