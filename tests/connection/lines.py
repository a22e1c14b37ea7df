"""Connections that a test can break and mend."""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

import pytest

from slurmfutures import ConnectionLost, SlurmExecutor
from tests.far.relay import Relay
from tests.far.sshd import Farm, far_options
from tests.processes import lives
from tests.waiting import until

Open = Callable[..., SlurmExecutor]


class Line(Protocol):
    """The way to an agent."""

    def open(self, env: Mapping[str, str] | None = None, **options: Any) -> SlurmExecutor:
        """Open an executor on Slurm at the other end; its first agent has `env` in its environment."""

    def cut(self) -> None:
        """Break the connection; another one can be made at once."""

    def down(self) -> None:
        """Break the connection, and let none be made until `up`."""

    def up(self) -> None: ...


def agent_of(executor: SlurmExecutor) -> int:
    return int(executor._connection.greeting["pid"])


def until_connected_again(executor: SlurmExecutor, agent: int) -> None:
    """Return when another agent than this one is there."""
    until(lambda: agent_of(executor) != agent)


def until_lost(executors: Sequence[SlurmExecutor]) -> None:
    """Return when all of them know that they have no connection."""
    until(lambda: not any(executor._connection.poller.link.connected for executor in executors))


def gave_up(executor: SlurmExecutor) -> bool:
    """Whether it takes no more calls, as there will be no connection."""
    try:
        executor._connection.poller.check()
    except ConnectionLost:
        return True
    return False


class Here:
    """This machine is the login node: what can break is the agent itself, and what it needs to start."""

    def __init__(self, folder: Path, opened: Open) -> None:
        folder.mkdir()
        self._missing = folder / "missing"
        self._python = folder / "python"
        self._python.write_text(
            f'#!/bin/bash\n[[ -e {quote(str(self._missing))} ]] && exit 1\nexec {quote(sys.executable)} "$@"\n'
        )
        self._python.chmod(0o755)
        self._opened = opened
        self._executors: list[SlurmExecutor] = []

    def open(self, env: Mapping[str, str] | None = None, **options: Any) -> SlurmExecutor:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            executor = self._opened(python=quote(str(self._python)), **options)
        self._executors.append(executor)
        return executor

    def cut(self) -> None:
        for executor in self._executors:
            agent = agent_of(executor)
            os.kill(agent, signal.SIGKILL)
            until(lambda agent=agent: not lives(agent))  # type: ignore[misc]

    def down(self) -> None:
        self._missing.touch()
        self.cut()
        until_lost(self._executors)

    def up(self) -> None:
        self._missing.unlink(missing_ok=True)


class Far:
    """The login node is behind a relay: what can break is the way there."""

    def __init__(self, folder: Path, opened: Open, farm: Farm, relay: Relay, transport: str) -> None:
        folder.mkdir()
        self._env = folder / "env"
        self._env.touch()
        self._opened = opened
        self._relay = relay
        self._options = {
            **far_options(farm, transport),
            "host": f"{farm.login.user}@127.0.0.1:{relay.port}",
            "setup": f". {quote(str(self._env))}",
        }
        self._executors: list[SlurmExecutor] = []

    def open(self, env: Mapping[str, str] | None = None, **options: Any) -> SlurmExecutor:
        self._env.write_text("".join(f"export {name}={quote(value)}\n" for name, value in (env or {}).items()))
        executor = self._opened(**{**self._options, **options})
        self._env.write_text("")
        self._executors.append(executor)
        return executor

    def cut(self) -> None:
        self._relay.cut()

    def down(self) -> None:
        self._relay.set(refuse=True)
        self.cut()
        until_lost(self._executors)

    def up(self) -> None:
        self._relay.set(refuse=False)
