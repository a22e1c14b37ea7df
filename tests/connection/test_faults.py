"""What breaks on the way to a login node, or on it: agents, sessions, daemons, disks; silence, and half a transfer."""

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from slurmfutures import SlurmExecutor, SlurmFuturesWarning, SubmitError
from tests import calls
from tests.cluster import Cluster
from tests.connection.lines import agent_of, until_connected_again, until_lost
from tests.far.relay import Relay
from tests.far.sshd import Farm, Sshd, cluster_environment, far_options
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]

Open = Callable[..., SlurmExecutor]


@pytest.fixture(params=["paramiko", "openssh"])
def open_far(request: pytest.FixtureRequest, opener: Opener, farm: Farm, relay: Relay) -> Open:
    """Open executors on a Slurm behind the relay."""
    host = f"{farm.login.user}@127.0.0.1:{relay.port}"
    return functools.partial(opener.root, "slurm", **{**far_options(farm, request.param), "host": host})


# ---- killed, stopped, restarted


def test_the_agent_is_killed(open_far: Open, gate: Gate) -> None:
    executor = open_far()
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    agent = agent_of(executor)
    os.kill(agent, signal.SIGKILL)
    until_connected_again(executor, agent)
    gate.open()
    assert future.result(DEADLINE) == "done"


def test_the_agent_says_nothing_any_more(open_far: Open, gate: Gate) -> None:
    executor = open_far(heartbeat=1.0)
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    agent = agent_of(executor)
    os.kill(agent, signal.SIGSTOP)
    try:
        until_connected_again(executor, agent)
        gate.open()
        assert future.result(DEADLINE) == "done"
        until(lambda: not lives(agent))
    finally:
        if lives(agent):
            os.kill(agent, signal.SIGCONT)


@pytest.fixture
def daemon(tmp_path: Path, farm: Farm, cluster: Cluster) -> Iterator[Sshd]:
    """A login node of one's own."""
    env = cluster_environment(cluster.env)
    with closing(Sshd(tmp_path / "sshd", farm.key.with_suffix(".pub"), env=env)) as daemon:
        farm.know(daemon.known_host())
        yield daemon


def test_the_daemon_s_session_is_killed(open_far: Open, daemon: Sshd, gate: Gate) -> None:
    executor = open_far(host=daemon.address)
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    agent = agent_of(executor)
    daemon.kill_sessions()
    until_connected_again(executor, agent)
    gate.open()
    assert future.result(DEADLINE) == "done"


def test_the_daemon_is_restarted(open_far: Open, daemon: Sshd, gate: Gate) -> None:
    executor = open_far(host=daemon.address)
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    sessions = daemon.sessions()
    daemon.stop()
    for session in sessions:
        os.kill(session, signal.SIGKILL)
    until_lost([executor])
    gate.open()
    late = executor.submit(calls.square, 3)
    daemon.start()
    assert future.result(DEADLINE) == "done"
    assert late.result(DEADLINE) == 9


@pytest.mark.filterwarnings("always::slurmfutures.SlurmFuturesWarning")
def test_a_host_key_that_is_not_known_any_more_is_waited_for(
    open_far: Open, farm: Farm, relay: Relay, gate: Gate, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(farm.login.known_host(relay.port))
    config = farm.write_config(tmp_path / "config", f"UserKnownHostsFile {known}", keys=[farm.key])
    executor = open_far(ssh_config=config)
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    known.write_text("")
    relay.cut()
    until(lambda: "is not in" in "".join(str(warning.message) for warning in recwarn))
    assert not future.done()
    gate.open()
    known.write_text(farm.login.known_host(relay.port))
    assert future.result(DEADLINE) == "done"


# ---- silence


def test_silence_is_noticed(open_far: Open, relay: Relay, gate: Gate) -> None:
    executor = open_far(heartbeat=1.0, connect_timeout=1.0)
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    relay.set(stall=True)
    until_lost([executor])
    late = executor.submit(calls.square, 3)
    gate.open()
    relay.set(stall=False)
    assert future.result(DEADLINE) == "done"
    assert late.result(DEADLINE) == 9


def test_a_quiet_connection_is_kept(open_far: Open, relay: Relay) -> None:
    executor = open_far(heartbeat=0.5)
    agent = agent_of(executor)
    for _ in range(6):  # each is a sixth of a second
        before = relay.sent()
        until(lambda before=before: relay.sent().up > before.up and relay.sent().down > before.down)  # type: ignore[misc]
    assert agent_of(executor) == agent
    assert relay.sent().connections == 1


# ---- no room


def test_little_room_in_work_dir_is_told_before_anything_is_submitted(open_far: Open, small_disk: Path) -> None:
    with pytest.warns(SlurmFuturesWarning, match=r"small.* has [0-3]\.\d MB of room left: make room, or name another"):
        open_far(work_dir=small_disk / "small")


def test_a_full_work_dir_fails_what_needs_room_and_nothing_else(open_far: Open, small_disk: Path) -> None:
    executor = open_far(work_dir=small_disk / "work")
    error = executor.submit(len, bytes(8 << 20)).exception(DEADLINE)
    assert isinstance(error, SubmitError)
    assert "No space left on device" in str(error)
    assert executor.submit(calls.square, 3).result(DEADLINE) == 9


def test_a_work_dir_that_is_full_while_it_connects_again_is_waited_for(
    open_far: Open, small_disk: Path, relay: Relay, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "slurmfutures")
    executor = open_far(work_dir=small_disk / "work")
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    ballast = small_disk / "ballast"
    done = subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"], capture_output=True, check=False)
    assert done.returncode != 0
    relay.cut()
    until(lambda: "cannot be used: No space left on device" in caplog.text)
    ballast.unlink()
    gate.open()
    assert future.result(DEADLINE) == "done"


# ---- large ones, on a slow line

RATE = 1e6  # bytes a second
SLOW_SIZE = 3 << 20
MOST_BEFORE = 1 << 20  # bytes of something large that may go ahead of something small


@pytest.fixture
def open_slow(open_far: Open, farm: Farm) -> Iterator[tuple[Relay, SlurmExecutor]]:
    """An executor behind a slow line."""
    with closing(Relay(farm.login.port, RATE)) as slow:
        farm.know(farm.login.known_host(slow.port))
        executor = open_far(host=f"{farm.login.user}@127.0.0.1:{slow.port}")
        executor.login.submit(calls.square, 2).result(DEADLINE)
        yield slow, executor
        executor.shutdown()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_small_call_passes_what_is_large(open_slow: tuple[Relay, SlurmExecutor], way: str) -> None:
    relay, executor = open_slow

    def sent() -> int:
        return int(getattr(relay.sent(), way))

    begin, noise = sent(), calls.noise(SLOW_SIZE)
    future = executor.submit(calls.digest, noise) if way == "up" else executor.submit(calls.noise, SLOW_SIZE)
    until(lambda: sent() > begin + SLOW_SIZE // 4)
    before = sent()
    assert executor.login.submit(calls.square, 3).result(DEADLINE) == 9
    assert sent() < before + MOST_BEFORE
    assert future.result(DEADLINE) == (calls.digest(noise) if way == "up" else noise)


# ---- large ones, cut in the middle

SIZE = 30 << 20


def test_a_large_argument_is_cut_in_the_middle(open_far: Open, relay: Relay) -> None:
    executor = open_far()
    data = os.urandom(SIZE)
    relay.cut_after(up=relay.sent().up + SIZE // 2)
    future = executor.submit(calls.digest, data)
    assert future.result(DEADLINE) == calls.digest(data)
    assert relay.sent().connections == 2


def test_a_large_result_is_cut_in_the_middle(open_far: Open, relay: Relay) -> None:
    executor = open_far()
    relay.cut_after(down=relay.sent().down + SIZE // 2)
    found = executor.submit(calls.noise, SIZE).result(DEADLINE)
    assert (len(found), relay.sent().connections) == (SIZE, 2)
    assert found == calls.noise(SIZE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree that compresses badly."""
    source = tmp_path / "source"
    for number in range(60):
        path = source / f"{number % 7}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SIZE // 60))
    (source / "link").symlink_to("3/3")
    return source


@pytest.mark.parametrize("direction", ["put", "get"])
def test_a_tree_that_is_cut_in_the_middle_goes_on_from_the_last_whole_file(
    open_far: Open, relay: Relay, source: Path, tmp_path: Path, direction: str
) -> None:
    executor = open_far()
    now, way = relay.sent(), "up" if direction == "put" else "down"
    relay.cut_after(**{way: getattr(now, way) + SIZE // 2})
    told: list[tuple[int, int]] = []
    copy = executor.put if direction == "put" else executor.get
    copy(source, tmp_path / "target", progress=lambda done, total: told.append((done, total)))
    subprocess.run(["diff", "--recursive", "--no-dereference", source, tmp_path / "target"], check=True)
    after = relay.sent()
    assert after.connections == now.connections + 1
    assert getattr(after, way) < 0.8 * SIZE, "it began anew"
    assert told[-1] == (told[-1][1], told[-1][1])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".part")) == []
