"""What is there before a page's first block: names that it takes for granted, files, what is typed."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.world import World
from tests.waiting import until


def _nothing(world: World, folder: Path) -> Mapping[str, str]:
    return {}


@dataclass
class Setup:
    """`code` runs before the page's; `typed` is the stdin; `leaves` says that a driver leaves jobs for it.

    `prepare` makes what is to be there, given the folder that the page runs in; it returns what the page's words for
    things with changing names are here.
    """

    code: str = ""
    prepare: Callable[[World, Path], Mapping[str, str]] = _nothing
    typed: str = ""
    leaves: bool = False


_SIMULATE = """\
def simulate(x):
    return x * x

def reduce_all(values):
    return sum(values)

grid = [0.5 * number for number in range(12)]

text = "#!/bin/bash\\necho hello\\n"
"""

# A job that dies, whose files stay.
_DIE = """\
import os
from slurmfutures import SlurmExecutor

with SlurmExecutor(partition="main", time="00:05:00", mem="100M") as ex:
    print(ex.submit(os._exit, 3).exception().job_id)
"""

# What a driver leaves that is killed while a call runs and another one waits.
_LEAVE = """\
import json, os, signal, sys, time
from slurmfutures import SlurmExecutor

def simulate(what):
    if what == "leave":
        print("there is no mesh for this one", file=sys.stderr, flush=True)
        os._exit(3)
    if what == "stay":
        time.sleep(300)

def reduce():
    pass

def until(condition):
    while not condition():
        time.sleep(0.01)

ex = SlurmExecutor(partition="main", time="00:05:00", mem="100M", checkpoint="left.ckpt")
with ex._connection.poller._lock:  # one batch, however busy the machine is
    calls = [ex.submit(simulate, what) for what in ("end", "leave", "stay")]
waits = ex.with_options(hold=True).submit(reduce)
assert calls[0].result() is None and calls[1].exception() is not None
until(lambda: waits.job_id and calls[2].running())
print(json.dumps([calls[1].job_id, waits.job_id]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _said(script: str, world: World, folder: Path) -> str:
    """Return what a driver of its own prints."""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=folder, env=world.env(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.stdout.strip()


def leave(world: World, folder: Path) -> Mapping[str, str]:
    """Have a driver leave jobs in the default work_dir, and `left.ckpt`."""
    died, waits = json.loads(_said(_LEAVE, world, folder))

    def left() -> dict[str, dict[str, Any]]:
        batches = json.loads(world.run("slurmfutures status --json", folder))["batches"]
        return {batch["name"]: batch for batch in batches if batch["live"] is False}

    found = until(lambda: {*(batches := left())} == {"simulate", "reduce"} and batches)
    assert found
    return {
        "4f0c1d2be893": found["simulate"]["batch"],
        "91ab33c07d5e": found["reduce"]["batch"],
        "node3": found["simulate"]["failed"][0]["node"],
        "81234": died.partition("_")[0],
        "81235": waits.partition("_")[0],
    }


def clear(world: World, folder: Path) -> None:
    """Cancel what a driver has left."""
    world.run("slurmfutures cancel --all", folder)


def _readme(world: World, folder: Path) -> Mapping[str, str]:
    (folder / "input").mkdir()
    (folder / "input" / "mesh.txt").write_text("1 2 3\n")
    (folder / "prepare.py").write_text("print('prepared')\n")
    for name in ("out", "output", "x", "nets"):
        (world.scratch / name).mkdir()
    for number in range(100):
        (world.scratch / "water" / f"task-{number}").mkdir(parents=True)
    for name in ("train.py", "test.py"):
        (world.scratch / "nets" / name).touch()
    return {"81234_17": _said(_DIE, world, folder)}


def _from_ai2_kit(world: World, folder: Path) -> Mapping[str, str]:
    (folder / "data").mkdir()
    (folder / "data" / "mesh.txt").write_text("1 2 3\n")
    (folder / "helpers.py").write_text("def help_out():\n    return 7\n")
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "__init__.py").touch()
    return {}


def _command_line(world: World, folder: Path) -> Mapping[str, str]:
    (world.scratch / "sf").mkdir()
    (folder / "sf").mkdir()
    world.run("ssh login mkdir -p .slurmfutures", folder)
    names = leave(world, folder)
    (folder / "left.ckpt").rename(folder / "sweep.ckpt")
    return names


def _sharing(world: World, folder: Path) -> Mapping[str, str]:
    (world.scratch / "ising").mkdir()
    return {"/proj/ising": str(world.scratch / "ising")}


SETUPS = {
    "README.md": Setup(_SIMULATE, _readme),
    "docs/index.md": Setup(_SIMULATE),
    "docs/command-line.md": Setup(prepare=_command_line, leaves=True),
    "docs/from-ai2-kit.md": Setup(prepare=_from_ai2_kit),
    "docs/how-to/codes.md": Setup(typed="123456\n"),
    "docs/how-to/sharing.md": Setup(prepare=_sharing),
}
