"""A simple workflow: make inputs, run a command for each in a few jobs, put the outputs together.

    python examples/simple_workflow.py --scheduler local                         processes of this machine
    python examples/simple_workflow.py --partition cpu                           on a login node
    python examples/simple_workflow.py me@login --jump me@gate --partition cpu   from elsewhere

Each input is a random number in a folder of its own, the command squares it, and in the end stands the sum. Nothing is
copied to and fro: the Python functions run on the login node too.

However it is interrupted, the same command goes on where it was: inputs that are there are kept; scripts that were
submitted are found again by the checkpoint on this machine; and a job that runs again skips the steps that succeeded.
"""

import argparse
import asyncio
from random import randint

from slurmfutures import Script, SlurmExecutor, Step

SQUARE = "read -r number <input && echo $((number * number)) >output"


def prepare(folder: str, count: int) -> tuple[str, list[str]]:
    """Make what is not there yet, and return the folder's path and the names of those with an input in it."""
    import os

    folder = os.path.abspath(os.path.expanduser(folder))
    names = [f"task-{number}" for number in range(count)]
    for name in names:
        path = os.path.join(folder, name, "input")
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path + ".new", "w") as file:
                file.write(f"{randint(1, 100)}\n")
            os.replace(path + ".new", path)  # so it is there as a whole or not at all
    return folder, names


def add_up(folder: str, names: list[str]) -> int:
    """Return the sum of the outputs."""
    from pathlib import Path

    return sum(int(Path(folder, name, "output").read_text()) for name in names)


async def work(executor: SlurmExecutor, folder: str, count: int, jobs: int) -> int:
    folder, names = await executor.login.submit(prepare, folder, count)
    print(f"{count} inputs in {folder}", flush=True)
    steps = [Step(SQUARE, cwd=name, checkpoint="squared") for name in names]
    scripts = Script.split(steps, jobs, header="#SBATCH --job-name=squares")
    futures = [executor.submit_script(script, cwd=folder, retries=1) for script in scripts]
    ends = await asyncio.gather(*futures, return_exceptions=True)  # one that fails does not keep the others from it
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    print(f"squared by {len(ends)} jobs", flush=True)
    return await executor.login.submit(add_up, folder, names)


def main() -> None:
    parser = argparse.ArgumentParser(description="Square random numbers in a few jobs, and add up.")
    parser.add_argument("host", nargs="?", help="the login node; left out where Slurm's commands work on this machine")
    parser.add_argument("--jump", help="a host to go through")
    parser.add_argument("--ssh-config", help="a file in place of ~/.ssh/config")
    parser.add_argument("--scheduler", default="slurm", choices=["slurm", "local"])
    parser.add_argument("--partition")
    parser.add_argument("--time", default="00:10:00")
    parser.add_argument("--python", help="the interpreter there")
    parser.add_argument("--work-dir", default="~/.slurmfutures")
    parser.add_argument("--folder", default="~/squares", help="where inputs and outputs are, on the cluster")
    parser.add_argument("--checkpoint", default="squares.ckpt", help="a file on this machine")
    parser.add_argument("--count", type=int, default=10, help="how many numbers")
    parser.add_argument("--jobs", type=int, default=3, help="how many jobs to share them out among")
    given = parser.parse_args()
    with SlurmExecutor(
        given.host,
        jump=given.jump,
        ssh_config=given.ssh_config,
        scheduler=given.scheduler,
        partition=given.partition,
        time=given.time,
        python=given.python,
        work_dir=given.work_dir,
        checkpoint=given.checkpoint,
    ) as executor:
        total = asyncio.run(work(executor, given.folder, given.count, given.jobs))
    print(f"sum: {total}")


if __name__ == "__main__":
    main()
