"""Command line: measure everything, or some of it, and print one table."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

if not __package__:  # run as "python tests/benchmarks"
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    __package__ = "tests.benchmarks"

from . import arrays, checkpoint, embedded, latency, login, memory, pilots, single, slurm, ssh
from .bench import Bench
from .rows import Row, table

BENCHMARKS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "one-call": single.one_call,
    "thousand-calls": arrays.thousand_calls,
    "login-one": login.one_at_a_time,
    "login-many": login.many,
    "latency": latency.from_published_to_done,
    "memory": memory.hundred_thousand_pending,
    "embedded": embedded.many,
    "checkpoint-found": checkpoint.found_again,
    "checkpoint-cost": checkpoint.remembered,
    "pilots-many": pilots.many,
    "pilots-peers": pilots.peers,
    "pilots-ssh": pilots.over_ssh,
    "pilots-one": pilots.one_at_a_time,
    "pilots-cold": pilots.cold,
    "pilots-large": pilots.large,
    "pilots-mixed": pilots.mixed,
    "pilots-million": pilots.million,
    "ssh-one": ssh.one_call,
    "ssh-many": ssh.pipelined,
    "ssh-start": ssh.start,
    "ssh-sweep": ssh.sweep,
    "ssh-argument": ssh.large_argument,
    "ssh-login-large": ssh.login_large,
    "ssh-paths": ssh.paths,
    "ssh-files": ssh.files,
    "ssh-passing": ssh.passing,
    "ssh-scripts": ssh.scripts,
    "ssh-reconnect": ssh.reconnect,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="few samples: to see that all of it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    where = f"{slurm.ready()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    names = [name for name in BENCHMARKS if name in (arguments.only or BENCHMARKS)]
    rows: dict[str, list[Row]] = {}
    for name in names:
        _say(f"{name} ...")
        begin = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="slurmfutures-bench-", ignore_cleanup_errors=True) as folder:
                rows[name] = list(BENCHMARKS[name](Bench(Path(folder), arguments.quick)))
        except Exception:  # the others are measured all the same
            traceback.print_exc()
        _say(f"{name}: {time.monotonic() - begin:.0f} s")
        if arguments.json:  # each time: what was measured is not lost with what fails
            words = {"where": where, "rows": {name: [row.as_dict() for row in found] for name, found in rows.items()}}
            arguments.json.write_text(json.dumps(words, indent=1) + "\n")
    print(table([row for found in rows.values() for row in found]))
    print(f"\n{where}; load {os.getloadavg()[2]:.1f} in the last 15 minutes")
    return 0 if len(rows) == len(names) else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
