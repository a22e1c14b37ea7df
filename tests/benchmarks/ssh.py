"""From a laptop: through a relay that adds a round trip to a real sshd."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slurmfutures import SlurmExecutor
from slurmfutures._hosts import find_route

from ..ssh.farm import Farm
from ..ssh.relay import Relay
from .bench import Bench

ROUND_TRIPS = (0.0, 0.02, 0.1)  # seconds
MANY = 10_000
SWEEP = 1_000
LARGE = 200 << 20  # bytes
FILES = 10_000
FILE_SIZE = 1024  # bytes


@contextmanager
def _far(bench: Bench, round_trip: float) -> Iterator[tuple[Relay, "Far"]]:
    """A login node behind a relay."""
    with Farm(bench.folder / f"farm-{round_trip:g}") as farm, Relay(farm.login.port) as relay:
        relay.set_delay(round_trip / 2)
        yield relay, Far(bench, farm, relay)


class Far:
    """The login node behind a relay: how ours and the system's ssh get there."""

    def __init__(self, bench: Bench, farm: Farm, relay: Relay) -> None:
        self._bench = bench
        self._address = f"{farm.user}@127.0.0.1:{relay.port}"
        self.config = farm.config_for(relay.port)
        self.ssh = ["ssh", "-F", str(self.config), "-p", str(relay.port), f"{farm.user}@127.0.0.1"]

    def executor(self, **options: Any) -> SlurmExecutor:
        root = Path(__file__).parents[2]
        setup = f"export PYTHONPATH={shlex.quote(str(root))}"
        options = {"python": shlex.quote(sys.executable), "setup": setup, "ssh_config": self.config, **options}
        return self._bench.executor(host=self._address, **options)

    @contextmanager
    def echo(self) -> Iterator[Callable[[], None]]:
        """Give a function that makes one round trip on a channel of its own: a byte to `cat` and back."""
        from slurmfutures._transports import paramiko

        route = find_route(self._address, None, self.config)
        stream = paramiko.Opener(route).open("exec cat", ask=_nobody, timeout=30.0, heartbeat=30.0)
        os.set_blocking(stream.readable(), True)

        def once() -> None:
            stream.write(memoryview(b"x"))
            while True:
                try:
                    stream.read(1)
                    return
                except BlockingIOError:
                    _until_readable(stream.readable())

        try:
            yield once
        finally:
            stream.close(5.0)
