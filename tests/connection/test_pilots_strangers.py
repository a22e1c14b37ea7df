"""Whoever connects to an agent that has pilots, and is none, changes nothing and is logged; calls go on meanwhile."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from slurmfutures import PilotsExecutor
from slurmfutures._remote import meeting, seal
from tests import calls
from tests.cluster import Cluster
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.taps import Tap
from tests.waiting import DEADLINE, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]


class Tapped:
    """Pilots that are overheard on their way to the agent."""

    def __init__(self, pilots: PilotsExecutor, work_dir: Path) -> None:
        self.pilots = pilots
        (folder,) = until(lambda: list((work_dir / "pilots").glob("*/*")))
        there = until(lambda: meeting.read_agent_file(str(folder)))
        assert there is not None
        self.place = "127.0.0.1", there.places[0][1]
        self.tap = Tap(self.place)
        meeting.write_agent_file(str(folder), [["127.0.0.1", self.tap.port]], [], there.mark)

    def call(self) -> socket.socket:
        return socket.create_connection(self.place)


@pytest.fixture
def tapped(opener: Opener, cluster: Cluster, tmp_path: Path) -> Iterator[Tapped]:
    executor = opener.root("slurm", work_dir=tmp_path / "work")
    with executor.pilots(workers=2, workers_per_job=2) as pilots:
        tapped = Tapped(pilots, tmp_path / "work")
        yield tapped
        tapped.tap.close()


def test_strangers_get_nowhere_and_calls_go_on(tapped: Tapped, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    pilots = tapped.pilots
    running = pilots.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    until(lambda: len(pilots.workers) == 2)
    before = {worker.pid for worker in pilots.workers}
    recorded = bytes(tapped.tap.up)
    hello = seal.MAGIC + bytes(32)
    with closing(tapped.call()) as half, closing(tapped.call()) as silent:
        half.sendall(hello)
        for noise in (
            calls.noise(1 << 16),
            b"GET / HTTP/1.1\r\n\r\n",
            recorded,
            hello + b"\xff" * 4,
            hello + bytes(64),
        ):
            with closing(tapped.call()) as stranger:
                stranger.sendall(noise)
                stranger.settimeout(DEADLINE)
                assert is_closed(stranger)
            assert list(pilots.map(calls.square, range(100))) == [number**2 for number in range(100)]
        gate.open()
        assert running.result(DEADLINE) == "done"
        assert {worker.pid for worker in pilots.workers} == before
        assert silent.recv(100).startswith(seal.MAGIC)
    until(lambda: caplog.text.count("turned away 127.0.0.1 port") >= 5)
    assert "does not have the key" in caplog.text
    assert "began with b'GET / HTTP/1.1" in caplog.text
    assert len(gate.entered()) == 1


def is_closed(stranger: socket.socket) -> bool:
    """Read what the agent says first, and nothing else, to the end."""
    said = b""
    try:
        while data := stranger.recv(1000):
            said += data
    except ConnectionResetError:
        pass
    return len(said) <= len(seal.MAGIC) + 32


def test_what_is_changed_on_the_way_costs_the_connection_and_no_call(
    tapped: Tapped, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pilots, path = tapped.pilots, tmp_path / "written"
    assert pilots.submit(calls.square, 3).result(DEADLINE) == 9
    changed: list[bool] = []

    def change(up: bool, data: bytes) -> bytes:
        wanted = len(changed) < 2 and up == (len(changed) % 2 == 0)
        if wanted and len(data) > 100 and not data.startswith(seal.MAGIC):
            changed.append(up)
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    tapped.tap.change = change
    count = 0
    while len(changed) < 2:
        futures = [pilots.submit(calls.append_and_square, str(path), number) for number in range(count, count + 50)]
        assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(count, count + 50)]
        count += 50
    assert sorted(map(int, path.read_text().splitlines())) == list(range(count))
    assert "forged, changed, or not in its order" in caplog.text


# ---- what is dropped

LONG = 120.0  # seconds in which a silent connection is noticed by both sides, one after the other, and made again


class Dropping:
    """Drops what goes one way through a tap: the next record, or all on the present connection."""

    def __init__(self, tap: Tap, *, up: bool, all_of_it: bool) -> None:
        self._up = up
        self._all = all_of_it
        self._ended = False
        self.dropped = 0
        tap.change = self._change

    def _change(self, up: bool, data: bytes) -> bytes:
        if data.startswith(seal.MAGIC):
            self._ended = self._ended or bool(self.dropped)  # that is another connection
        elif up == self._up and not self._ended and (self._all or not self.dropped):
            self.dropped += 1
            return b""
        return data


@pytest.mark.slow
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("all_of_it", [True, False], ids=["all", "one"])
def test_what_is_dropped_costs_the_connection_and_no_call(
    tapped: Tapped, gate: Gate, tmp_path: Path, caplog: pytest.LogCaptureFixture, up: bool, all_of_it: bool
) -> None:
    caplog.set_level("INFO", "slurmfutures.pilots")
    pilots, path = tapped.pilots, tmp_path / "written"
    running = pilots.submit(calls.pass_gate_and_append, gate.folder, str(path), 0)
    gate.wait()
    until(lambda: len(pilots.workers) == 2)
    dropping = Dropping(tapped.tap, up=up, all_of_it=all_of_it)
    if up:  # what the pilot says next is the result
        gate.open()
        late = []
    else:  # what the agent says next is the call
        late = [pilots.submit(calls.append_and_square, str(path), 3)]
    until(lambda: dropping.dropped)
    assert [future.result(LONG) for future in late] == [9][: len(late)]
    gate.open()
    assert running.result(LONG) == 0
    assert sorted(path.read_text().split()) == ["0", "3"][: 1 + len(late)]
    noticed = "nothing was heard for" if all_of_it else "forged, changed, or not in its order"
    assert (noticed if up else "the other side closed the connection") in caplog.text  # the pilot has noticed it then
