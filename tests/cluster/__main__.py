"""Command line: up, down, reset, status, env."""

import argparse
import shlex
import sys
from pathlib import Path

if not __package__:  # run as "python tests/cluster": the relative import below needs to know the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __package__ = Path(__file__).resolve().parent.name

from . import Cluster, ClusterError, down, find, up

COMMANDS = {
    "up": "install and start what is missing, return when four nodes take jobs",
    "down": "stop all daemons and kill all jobs",
    "reset": "as up, then cancel all jobs and wait for idle nodes",
    "status": "show daemons and nodes; exit code 1 unless all run",
    "env": "print shell commands that point Slurm commands at the cluster",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/cluster", description="A real Slurm on this machine for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    command = parser.parse_args().command
    try:
        if command == "down":
            down()
        elif command in ("up", "reset"):
            cluster = up(say)
            if command == "reset":
                cluster.reset()
        else:
            return show(command, find())
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


def say(step: str) -> None:
    print(step, flush=True)


def show(command: str, cluster: Cluster | None) -> int:
    if cluster is None:
        print("cluster: not running; start it with: python tests/cluster up", file=sys.stderr)
        return 1
    if command == "env":
        for name, value in cluster.env.items():
            print(f"export {name}={shlex.quote(value)}")
        return 0
    for daemon in cluster.daemons.values():
        state = "stopped" if daemon.pid() is None else "paused" if daemon.is_paused() else "running"
        print(f"{daemon.name} {state}")
    for node, state in cluster.node_states().items():
        print(f"{node} {state}")
    return 0 if cluster.is_healthy() else 1


if __name__ == "__main__":
    sys.exit(main())
