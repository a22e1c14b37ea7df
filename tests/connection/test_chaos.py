"""The connection breaks at any byte: a sweep gives all its results all the same, and each call runs once.

`SLURMFUTURES_CUTS` is the number of places; `tox -e chaos` has many.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from slurmfutures import SlurmExecutor, _poller
from tests import calls
from tests.connection.lines import agent_of, until_connected_again
from tests.far.relay import Relay, Sent
from tests.far.sshd import Farm, far_options
from tests.fix_executors import Opener
from tests.waiting import until

CUTS = int(os.environ.get("SLURMFUTURES_CUTS", "6"))
CALLS, CHUNK = 200, 20

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(60 + 15 * CUTS)]


class Place(NamedTuple):
    """Where to cut, as a share of the bytes that go in one direction."""

    direction: str
    share: float
    at_start: bool  # while the next connection is made, rather than in the middle of the sweep


def places() -> list[Place]:
    """Return places all over, no two the same; those in a sweep and those in a start in turn."""
    chosen = random.Random(CUTS)
    found = []
    for number in range(CUTS):
        share = (number // 4 + chosen.random()) / -(-CUTS // 4)
        found.append(Place("up" if number % 2 else "down", share, at_start=bool(number // 2 % 2)))
    return found


class Bench:
    """An executor behind a relay, and how many bytes go over its connection."""

    def __init__(self, executor: SlurmExecutor, kind: str, relay: Relay, folder: Path) -> None:
        self._view = executor if kind == "jobs" else executor.pilots(workers=4)
        self.relay = relay
        self._folder = folder
        self._number = 0
        agent = agent_of(executor)
        relay.cut()  # the first start may have brought the agent's source along
        until_connected_again(executor, agent)
        self.start = relay.sent()
        self.check(self.sweep())
        end = relay.sent()
        self.sweeps = Sent(end.up - self.start.up, end.down - self.start.down, 0)

    def sweep(self) -> Iterator[int]:
        self._number += 1
        self._path = self._folder / str(self._number)
        arguments = [str(self._path)] * CALLS, range(CALLS)
        return self._view.map(calls.append_and_square, *arguments, chunksize=CHUNK)

    def check(self, results: Iterator[int]) -> None:
        assert list(results) == [number**2 for number in range(CALLS)]
        assert sorted(map(int, self._path.read_text().splitlines())) == list(range(CALLS))

    def cut(self, place: Place) -> int:
        """Have the connection cut there; return at which byte that is."""
        now = self.relay.sent()
        if place.at_start:
            byte = 1 + int(0.95 * place.share * getattr(self.start, place.direction))
        else:
            byte = 1 + getattr(now, place.direction) + int(0.9 * place.share * getattr(self.sweeps, place.direction))
        self.relay.cut_after(**{place.direction: byte})
        return byte


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        ("paramiko", "jobs"),
        ("openssh", "jobs"),
        ("paramiko", "pilots"),
        pytest.param("openssh", "pilots", marks=pytest.mark.thorough),
    ],
)
def test_a_sweep_survives_cuts_at_any_byte(
    transport: str,
    kind: str,
    farm: Farm,
    relay: Relay,
    opener: Opener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_poller, "MOST_WAIT", 0.5)  # what keeps breaking is waited for, up to a minute
    host = f"{farm.login.user}@127.0.0.1:{relay.port}"
    executor = opener.root("slurm", host=host, **far_options(farm, transport))
    bench = Bench(executor, kind, relay, tmp_path)
    tried = set()
    for place in places():
        before = relay.sent().connections
        if place.at_start:
            results = bench.sweep()
            agent = agent_of(executor)
            tried.add((place.direction, True, bench.cut(place)))
            relay.cut()
            until_connected_again(executor, agent)
            assert relay.sent().connections > before + 1
        else:
            now = relay.sent()
            byte = bench.cut(place)
            tried.add((place.direction, False, byte - getattr(now, place.direction)))
            results = bench.sweep()
            until(lambda before=before: relay.sent().connections > before)  # type: ignore[misc]
        bench.check(results)
    assert len(tried) == CUTS
