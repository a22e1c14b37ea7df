"""A sweep whose driver, agent or link is killed at random moments: all its results are right, and each call ran once.

`SLURMFUTURES_KILLS` is the number of kills of each; `tox -e chaos` has a hundred. The calls wait for the kills: call n
of 300 does not end before its share of them is done, so that there is always something under way.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import SlurmExecutor, _poller, _reconnect
from tests.cluster import Cluster
from tests.drivers import Driver
from tests.far.relay import Relay
from tests.far.sshd import Farm, far_options
from tests.fix_executors import Opener
from tests.processes import lives
from tests.waiting import until

KILLS = int(os.environ.get("SLURMFUTURES_KILLS", "5"))
CALLS, CHUNK = 300, 5
LONGEST = 1.2  # seconds between two kills: a driver has its first results after about one

pytestmark = [pytest.mark.slurm, pytest.mark.ssh, pytest.mark.slow, pytest.mark.timeout(90 + 4 * KILLS)]

SWEEP = """
folder, count, chunk, kills = arguments
with SlurmExecutor(**options) as executor:
    shares = [kills * (number + 1) // count for number in range(count)]
    half = count // 2
    futures = [executor.submit(calls.append_after, folder, number, shares[number]) for number in range(half)]
    rest = executor.map(calls.append_after, [folder] * half, range(half, count), shares[half:], chunksize=chunk)
    results = [future.result() for future in futures] + list(rest)
    assert results == [number * number for number in range(count)], results
tell("right")
"""


class Bench:
    """A folder in which calls write that they ran, and which they ask for how many kills there were."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self.folder.mkdir()
        (self.folder / "kills").mkdir()
        self._cluster = cluster
        self.moments = random.Random(KILLS)

    def killed(self, number: int) -> None:
        (self.folder / "kills" / str(number)).touch()

    def wait(self) -> None:
        """Let a random time pass, in which anything may be under way."""
        time.sleep(self.moments.uniform(0, LONGEST))

    def check(self) -> None:
        """Each call has run once, and nothing of ours is left."""
        runs: dict[int, list[str]] = {number: [] for number in range(CALLS)}
        for line in (self.folder / "ran").read_text().splitlines():
            number, _, job = line.partition(" ")
            runs[int(number)].append(job)
        assert {number: jobs for number, jobs in runs.items() if len(jobs) != 1} == {}
        here = str(self.folder.parent)
        until(lambda: here not in self._cluster.run("squeue", "-h", "-o", "%i %T %Z %k %o"))
        assert list((self.folder.parent / "scratch" / "batches").iterdir()) == []


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(_poller, "MOST_WAIT", 0.5)  # what keeps breaking is waited for, up to a minute
    monkeypatch.setattr(_reconnect, "LONGEST_WAIT", 0.5)
    return Bench(tmp_path / "bench", cluster)


def agents_in(folder: Path) -> Iterator[int]:
    """Yield the agents that work in a folder."""
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if entry.isdigit() and b"-S" in words and str(folder).encode() in words:
            yield int(entry)


def test_the_driver_is_killed(bench: Bench, opener: Opener, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    options = opener.options("slurm", work_dir=tmp_path / "scratch", checkpoint=tmp_path / "c", max_workers=24)

    def start() -> Driver:
        driver = Driver(tmp_path / "driver.py", SWEEP, options, bench.folder, CALLS, CHUNK, KILLS)
        request.addfinalizer(driver.stop)
        return driver

    for number in range(KILLS):
        driver = start()
        bench.wait()
        assert driver.process.poll() is None, driver.complaints()
        driver.kill()
        bench.killed(number)
    driver = start()
    driver.wait_for("right")
    assert driver.end() == 0
    bench.check()


def run_killing(bench: Bench, executor: SlurmExecutor, kill: Callable[[], None]) -> None:
    from tests import calls

    folder, half = str(bench.folder), CALLS // 2
    shares = [KILLS * (number + 1) // CALLS for number in range(CALLS)]
    with executor:
        futures = [executor.submit(calls.append_after, folder, number, shares[number]) for number in range(half)]
        rest = executor.map(calls.append_after, [folder] * half, range(half, CALLS), shares[half:], chunksize=CHUNK)
        for number in range(KILLS):
            bench.wait()
            kill()
            bench.killed(number)
        results = [future.result(60) for future in futures] + list(rest)
        assert results == [number**2 for number in range(CALLS)]
        for future in futures:
            assert future.job_id is not None
        del futures, rest
    bench.check()


def test_the_agent_is_killed(bench: Bench, opener: Opener, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"

    def kill() -> None:
        agent = max(until(lambda: list(agents_in(scratch))))
        os.kill(agent, signal.SIGKILL)
        until(lambda: not lives(agent))

    run_killing(bench, opener.root("slurm", work_dir=scratch, max_workers=24), kill)


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_the_link_is_cut(
    bench: Bench, opener: Opener, tmp_path: Path, farm: Farm, relay: Relay, transport: str
) -> None:
    options: dict[str, Any] = {
        **far_options(farm, transport),
        "host": f"{farm.login.user}@127.0.0.1:{relay.port}",
        "work_dir": tmp_path / "scratch",
        "max_workers": 24,
    }
    run_killing(bench, opener.root("slurm", **options), relay.cut)
