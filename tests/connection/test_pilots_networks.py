"""Pilots that the agent cannot be reached from, and such as lose the network while calls run."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

import pytest

from slurmfutures import PilotsExecutor, SlurmExecutor, _poller
from tests import calls
from tests.cluster import Cluster
from tests.connection.lines import agent_of, until_connected_again
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(150),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make networks: run the tests as root"),
]

Open = Callable[..., SlurmExecutor]
MEGABYTES = 6
_numbers = itertools.count()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def python_in(folder: Path, words: str) -> str:
    """Return an interpreter that jobs, and nobody else, start by these words."""
    path = folder / "python"
    program = quote(sys.executable)
    path.write_text(f'#!/bin/bash\n[[ $SLURM_JOB_ID ]] && exec {words} {program} "$@"\nexec {program} "$@"\n')
    path.chmod(0o755)
    return quote(str(path))


def ways(pilots: PilotsExecutor) -> set[str]:
    return {worker.via for worker in until(lambda: pilots.workers) or []}


# ---- no network at all


@pytest.fixture
def walled(opener: Opener, cluster: Cluster, tmp_path: Path) -> SlurmExecutor:
    """An executor whose jobs have no network."""
    return opener.root("slurm", work_dir=tmp_path / "work", python=python_in(tmp_path, "unshare --net"))


def test_where_there_is_no_network_all_goes_by_files(
    walled: SlurmExecutor, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", "slurmfutures.pilots")
    with walled.pilots(workers=2) as pilots:
        data = calls.noise(MEGABYTES << 20)
        assert pilots.submit(calls.digest, data).result(DEADLINE) == calls.digest(data)
        assert pilots.submit(calls.noise, MEGABYTES << 20).result(DEADLINE) == data
        assert list(pilots.map(calls.square, range(1000))) == [number**2 for number in range(1000)]
        with pytest.raises(ValueError, match="7"):
            pilots.submit(calls.fail_at, 7, 7).result(DEADLINE)
        assert ways(pilots) == {"files"}
    assert "has no way by TCP, and goes by files" in caplog.text
    assert list((tmp_path / "work/pilots").glob("*/*")) == []


def test_by_files_a_running_call_is_ended(walled: SlurmExecutor, gate: Gate) -> None:
    with walled.pilots(workers=1) as pilots:
        future = pilots.submit(calls.pass_gate_with_a_child, gate.folder)
        (child,) = gate.wait()
        assert future.cancel()
        until(lambda: not lives(int(child)), DEADLINE / 3)
        assert pilots.submit(calls.square, 3).result(DEADLINE) == 9


def test_by_files_the_next_agent_is_found(
    walled: SlurmExecutor, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_poller, "MOST_WAIT", 0.5)  # what keeps breaking is waited for, up to a minute
    path = tmp_path / "written"
    with walled.pilots(workers=2) as pilots:
        running = pilots.submit(calls.pass_gate, gate.folder, "done")
        gate.wait()
        futures = [pilots.submit(calls.append_and_square, str(path), number) for number in range(200)]
        for done in (50, 100):
            until(lambda done=done: len(lines(path)) >= done)  # type: ignore[misc]
            agent = agent_of(walled)
            os.kill(agent, signal.SIGKILL)
            until_connected_again(walled, agent)
        gate.open()
        assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(200)]
        assert running.result(DEADLINE) == "done"
        assert ways(pilots) == {"files"}
    assert sorted(map(int, lines(path))) == list(range(200))
    assert len(gate.entered()) == 1


# ---- a network that comes and goes


class Network:
    """A network of jobs with one way out, to this machine."""

    def __init__(self) -> None:
        number = os.getpid() % 50_000 * 4 + next(_numbers) % 4
        self.name = f"sf{number}"
        net = f"10.{200 + number // 65536}.{number // 256 % 256}"
        self.address, self._other = f"{net}.{number % 64 * 4 + 1}", f"{net}.{number % 64 * 4 + 2}"
        self._run("ip netns add", self.name)
        self._run("ip link add", self.name, "type veth peer name eth0 netns", self.name)
        self._run("ip addr add", self.address + "/30", "dev", self.name)
        self._run("ip -n", self.name, "addr add", self._other + "/30", "dev eth0")
        self._run("ip -n", self.name, "link set eth0 up")
        self.up()

    def up(self) -> None:
        self._run("ip link set", self.name, "up")

    def down(self) -> None:
        self._run("ip link set", self.name, "down")

    def reset(self, *, agent: bool = True) -> None:
        """Break the connections of the pilots, and of the agent unless it is not to know."""
        self._run("ip netns exec", self.name, "ss -K dst", self.address)
        if agent:
            self._run("ss -K dst", self._other)

    def close(self) -> None:
        self._run("ip link del", self.name)
        self._run("ip netns del", self.name)

    @staticmethod
    def _run(*words: str) -> None:
        subprocess.run(" ".join(words).split(), check=True, capture_output=True)


@pytest.fixture
def network(cluster: Cluster) -> Iterator[Network]:
    if shutil.which("ip") is None or shutil.which("ss") is None:
        pytest.skip("there is no iproute2 here")
    network = Network()
    yield network
    network.close()


@pytest.fixture
def wired(opener: Opener, network: Network, tmp_path: Path) -> SlurmExecutor:
    """An executor whose jobs have this network and no other one."""
    python = python_in(tmp_path, f"ip netns exec {network.name}")
    return opener.root("slurm", work_dir=tmp_path / "work", python=python)


@pytest.mark.parametrize("seconds", [2.0, pytest.param(30.0, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("breaks", ["nowhere", "at the pilots", "everywhere"])
def test_the_network_is_lost_and_comes_back(
    wired: SlurmExecutor, network: Network, gate: Gate, tmp_path: Path, breaks: str, seconds: float
) -> None:
    path = tmp_path / "written"
    with wired.pilots(workers=2, address=network.address) as pilots:
        futures = [pilots.submit(calls.append_and_square, str(path), number) for number in range(100)]
        running = [pilots.submit(calls.pass_gate, gate.folder, number) for number in range(2)]
        gate.wait(2)
        assert ways(pilots) == {"tcp"}
        network.down()
        if breaks != "nowhere":
            network.reset(agent=breaks == "everywhere")
        gate.open()
        futures += [pilots.submit(calls.append_and_square, str(path), number) for number in range(100, 200)]
        time.sleep(seconds)  # what is tested
        network.up()
        assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(200)]
        assert [future.result(DEADLINE) for future in running] == [0, 1]
    assert sorted(map(int, lines(path))) == list(range(200))
    assert len(gate.entered()) == 2
