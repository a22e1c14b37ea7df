"""A sweep whose driver, agent or link is killed at random moments: all its results are right, and each call ran once.

`SLURMFUTURES_KILLS` is the number of kills of each; `tox -e chaos` has a hundred. The calls wait for the kills: call n
of 300 does not end before its share of them is done, so that there is always something under way; those whose share is
done when they begin are short. Where pilots and their workers are killed too, a call fails by that or, where it may,
runs again.
"""

import contextlib
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import JobError, SlurmExecutor, _poller, _reconnect
from tests import calls
from tests.cluster import Cluster
from tests.drivers import Driver
from tests.far.relay import Relay
from tests.far.sshd import Farm, far_options
from tests.fix_executors import Opener
from tests.processes import lives
from tests.waiting import until

KILLS = int(os.environ.get("SLURMFUTURES_KILLS", "5"))
CALLS, CHUNK, WORKERS = 300, 5, 4
LONGEST = 1.2  # seconds between two kills: a driver has its first results after about one

pytestmark = [pytest.mark.slurm, pytest.mark.ssh, pytest.mark.slow, pytest.mark.timeout(90 + 4 * KILLS)]
KINDS = pytest.mark.parametrize("kind", ["jobs", "pilots"])

SWEEP = """
kind, folder, count, chunk, kills, retries, workers = arguments
with SlurmExecutor(**options) as executor:
    tell("here")
    view = executor if kind == "jobs" else executor.pilots(workers=workers, retries=retries)
    shares = [kills * (number + 1) // count for number in range(count)]
    half = count // 2
    futures = [view.submit(calls.append_after, folder, number, shares[number]) for number in range(half)]
    rest = view.map(calls.append_after, [folder] * half, range(half, count), shares[half:], chunksize=chunk)
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
        self.scratch = folder.parent / "scratch"
        self._cluster = cluster
        self.moments = random.Random(KILLS)

    def killed(self, number: int) -> None:
        (self.folder / "kills" / str(number)).touch()

    def wait(self) -> None:
        """Let a random time pass, in which anything may be under way."""
        time.sleep(self.moment())

    def moment(self) -> float:
        return self.moments.uniform(0, self.moments.choice([0.1, LONGEST]))

    def runs(self) -> dict[int, list[str]]:
        """Return the jobs in which each call has begun."""
        runs: dict[int, list[str]] = defaultdict(list)
        path = self.folder / "ran"
        for line in path.read_text().splitlines() if path.exists() else ():
            number, _, job = line.partition(" ")
            runs[int(number)].append(job)
        return runs

    def check(self) -> None:
        """Each call has run once, and nothing of ours is left."""
        assert {number: jobs for number, jobs in self.runs().items() if len(jobs) != 1} == {}
        assert len(self.runs()) == CALLS
        self.check_that_nothing_is_left()

    def check_that_nothing_is_left(self) -> None:
        here = str(self.folder.parent)
        until(lambda: here not in self._cluster.run("squeue", "-h", "-o", "%i %T %Z %k %o"))
        assert list((self.scratch / "batches").iterdir()) == []
        assert list((self.scratch / "pilots").glob("*/*")) == []

    # ---- what can be killed

    def kill_agent(self) -> None:
        agent = max(until(lambda: list(self._processes(b"-S", str(self.scratch).encode()))))
        os.kill(agent, signal.SIGKILL)
        until(lambda: not lives(agent))

    def kill_pilot(self) -> None:
        """Kill some pilot that has run calls; nothing where there is none at the moment."""
        self._kill_one(b"/start.py\0pilot\0")

    def kill_worker(self) -> None:
        """Kill some worker of such a pilot."""
        self._kill_one(b"/start.py\0worker\0")

    def _kill_one(self, program: bytes) -> None:
        # Pilots and workers of which three in a row have been of no use are no accident to who looks after them.
        used = {job.split()[0] for jobs in self.runs().values() for job in jobs}
        processes = self._processes(program, str(self.scratch).encode())
        found = sorted(process for process in processes if job_of(process) in used)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.moments.choice(found), signal.SIGKILL)

    @staticmethod
    def _processes(*words: bytes) -> Iterator[int]:
        """Yield the processes in whose command lines or environment there are these words, agents for `-S`."""
        for entry in os.listdir("/proc"):
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
                known = line + Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            parts = line.split(b"\0")
            if entry.isdigit() and all(word in (parts if word == b"-S" else known) for word in words):
                yield int(entry)


def job_of(process: int) -> str:
    """Return the id of the job that a process belongs to, "" where it is gone or in none."""
    try:
        words = Path(f"/proc/{process}/environ").read_text().split("\0")
    except OSError:
        return ""
    return next((word.partition("=")[2] for word in words if word.startswith("SLURM_JOB_ID=")), "")


@pytest.fixture
def bench(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(_poller, "MOST_WAIT", 0.5)  # what keeps breaking is waited for, up to a minute
    monkeypatch.setattr(_reconnect, "LONGEST_WAIT", 0.5)
    return Bench(tmp_path / "bench", cluster)


class Drivers:
    """Starts the same driver again and again."""

    def __init__(self, bench: Bench, opener: Opener, request: pytest.FixtureRequest) -> None:
        self._bench = bench
        self._request = request
        self._folder = bench.folder.parent
        self._options = opener.options("slurm", work_dir=bench.scratch, checkpoint=self._folder / "c", max_workers=24)

    def start(self, kind: str, retries: int = 0) -> Driver:
        words = kind, self._bench.folder, CALLS, CHUNK, KILLS, retries, WORKERS
        driver = Driver(self._folder / "driver.py", SWEEP, self._options, *words)
        self._request.addfinalizer(driver.stop)
        return driver


@pytest.fixture
def drivers(bench: Bench, opener: Opener, request: pytest.FixtureRequest) -> Drivers:
    return Drivers(bench, opener, request)


def end(driver: Driver) -> None:
    driver.wait_for("right")
    assert driver.end() == 0


@KINDS
def test_the_driver_is_killed(bench: Bench, drivers: Drivers, kind: str) -> None:
    for number in range(KILLS):
        driver = drivers.start(kind)
        bench.wait()
        assert driver.process.poll() is None, driver.complaints()
        driver.kill()
        bench.killed(number)
    end(drivers.start(kind))
    bench.check()


def run_killing(bench: Bench, executor: SlurmExecutor, kind: str, kill: Callable[[], None]) -> None:
    folder, half = str(bench.folder), CALLS // 2
    shares = [KILLS * (number + 1) // CALLS for number in range(CALLS)]
    with executor:
        view = executor if kind == "jobs" else executor.pilots(workers=WORKERS)
        futures = [view.submit(calls.append_after, folder, number, shares[number]) for number in range(half)]
        rest = view.map(calls.append_after, [folder] * half, range(half, CALLS), shares[half:], chunksize=CHUNK)
        for number in range(KILLS):
            bench.wait()
            kill()
            bench.killed(number)
        results = [future.result(60) for future in futures] + list(rest)
        assert results == [number**2 for number in range(CALLS)]
        for future in futures:
            assert kind == "pilots" or future.job_id is not None
        del futures, rest
    bench.check()


@KINDS
def test_the_agent_is_killed(bench: Bench, opener: Opener, kind: str) -> None:
    run_killing(bench, opener.root("slurm", work_dir=bench.scratch, max_workers=24), kind, bench.kill_agent)


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        ("paramiko", "jobs"),
        ("openssh", "jobs"),
        ("paramiko", "pilots"),
        pytest.param("openssh", "pilots", marks=pytest.mark.thorough),
    ],
)
def test_the_link_is_cut(bench: Bench, opener: Opener, farm: Farm, relay: Relay, transport: str, kind: str) -> None:
    options: dict[str, Any] = {
        **far_options(farm, transport),
        "host": f"{farm.login.user}@127.0.0.1:{relay.port}",
        "work_dir": bench.scratch,
        "max_workers": 24,
    }
    run_killing(bench, opener.root("slurm", **options), kind, relay.cut)


# ---- pilots and workers too


@pytest.mark.parametrize("retries", [0, 10 * KILLS])
def test_pilots_workers_and_agents_are_killed_under_load(bench: Bench, opener: Opener, retries: int) -> None:
    """Without retries a call that does not succeed fails by what was killed, and none runs twice."""
    number = 0
    with opener.root("slurm", work_dir=bench.scratch) as executor:
        pilots = executor.pilots(workers=WORKERS, workers_per_job=2, retries=retries)
        futures: list[Future[int]] = []
        for _ in range(KILLS):
            end = time.monotonic() + bench.moment()
            while time.monotonic() < end or not futures:
                length = random.choice([0.0] * 50 + [0.2])
                futures.append(pilots.submit(calls.append_and_sleep, str(bench.folder), number, length))
                number += 1
                if number % 500 == 0:
                    wait(futures[-1000:-500], 60)
            bench.moments.choice([bench.kill_worker, bench.kill_pilot, bench.kill_agent])()
        errors = [future.exception(60) for future in futures]
        runs = bench.runs()
        assert [error for error in errors if not isinstance(error, JobError | None)] == []
        assert all(future.result() == number**2 for number, future in enumerate(futures) if errors[number] is None)
        assert [number for number, error in enumerate(errors) if error is None and not runs[number]] == []
        if retries:
            assert not any(errors)
        else:
            assert [number for number, jobs in runs.items() if len(jobs) > 1] == []
        del futures, errors
    bench.check_that_nothing_is_left()


def test_whatever_is_killed_calls_that_may_run_again_succeed(bench: Bench, drivers: Drivers) -> None:
    driver = drivers.start("pilots", retries=KILLS)
    for number in range(KILLS):
        bench.wait()
        kill = bench.moments.choice([bench.kill_worker, bench.kill_pilot, bench.kill_agent, driver.kill])
        if kill == bench.kill_agent:
            driver.wait_for("here")  # its first agent must not fail
        assert driver.process.poll() is None, driver.complaints()
        kill()
        if kill == driver.kill:
            driver = drivers.start("pilots", retries=KILLS)
        bench.killed(number)
    end(driver)
    assert len(bench.runs()) == CALLS
    bench.check_that_nothing_is_left()
