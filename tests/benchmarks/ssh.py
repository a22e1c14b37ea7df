"""From a laptop: through a relay that adds a round trip, to a real sshd on this machine."""

import itertools
import json
import os
import random
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from slurmfutures import ConnectionLost, SlurmExecutor
from slurmfutures._hosts import find_route
from slurmfutures._transports import paramiko

from ..far.relay import Relay
from ..far.sshd import Farm, cluster_environment, far_options
from .bench import Bench, take_turns, timed
from .calls import no_op
from .rows import Row
from .slurm import drain

ROUND_TRIPS = (0.0, 0.02, 0.1)  # seconds
PIPELINED = 10_000
SWEEP = 1_000
SCRIPTS = 100
LARGE = 200 << 20  # bytes
FILES = 10_000
FILE_SIZE = 1024  # bytes


class Laptop:
    """What is far from the login node: our executors, and the system's ssh."""

    def __init__(self, bench: Bench, farm: Farm, relay: Relay) -> None:
        self._bench = bench
        self.relay = relay
        self.host = f"{farm.login.user}@127.0.0.1:{relay.port}"
        self.options = {**far_options(farm, "paramiko"), "host": self.host}
        self.ssh = ["ssh", "-F", str(farm.config), "-p", str(relay.port), "127.0.0.1"]
        self._config = str(farm.config)

    def executor(self, **options: Any) -> SlurmExecutor:
        return self._bench.executor(**{**self.options, **options})

    @contextmanager
    def echo(self) -> Iterator[Callable[[], None]]:
        """Give a function that sends a byte to a `cat` over there and waits until it is back."""

        def nobody(host: str, prompt: str, echo: bool) -> str:
            raise AssertionError(prompt)

        route = find_route(self.host, None, self._config)
        stream = paramiko.Opener(route).open(
            "exec cat", b"", ask=nobody, timeout=None, accept_new_host_keys=False, stop=None
        )

        def once() -> None:
            stream.write(memoryview(b"x"))
            while True:
                select.select([stream.readable()], [], [])
                try:
                    assert stream.read(1) == b"x"
                    return
                except BlockingIOError:
                    continue

        try:
            yield once
        finally:
            stream.close(5.0)


@contextmanager
def laptops_at(bench: Bench, *round_trips: float) -> Iterator[Iterator[tuple[str, float, Laptop]]]:
    """Give a laptop for each round trip, with what a measure says of it."""
    with ExitStack() as stack:
        farm = stack.enter_context(closing(Farm(bench.folder / "farm", cluster_environment(_slurm_s_variables()))))

        def each() -> Iterator[tuple[str, float, Laptop]]:
            for round_trip in round_trips:
                with closing(Relay(farm.login.port)) as relay:
                    farm.know(farm.login.known_host(relay.port))
                    relay.set(delay=round_trip / 2)
                    yield f"at {1000 * round_trip:.0f} ms", round_trip, Laptop(bench, farm, relay)

        yield each()


def _slurm_s_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("SLURM_")}


# ---- small things


def one_call(bench: Bench) -> Iterator[Row]:
    """From `submit` to the result known, one call on the login node after the other, against a byte to `cat`."""
    with laptops_at(bench, *ROUND_TRIPS) as laptops:
        for where, round_trip, laptop in laptops:
            with laptop.executor() as executor, laptop.echo() as echo:
                _warm(executor)
                ours, echoed = take_turns(
                    bench.rounds(500 if round_trip == 0 else 50, 10),
                    lambda: 1000 * timed(executor.login.submit(no_op).result),
                    lambda: 1000 * timed(echo),
                )
            measure = f"one call on a login node {where}"
            if round_trip == 0:
                yield Row(measure, "ms", ours, goal=1)
                yield Row(f"{measure}, against a byte there and back", "ms", ours, echoed)
            else:
                yield Row(f"{measure}, against a byte there and back", "ms", ours, echoed, goal=1.2)


def pipelined(bench: Bench) -> Iterator[Row]:
    """All of `map` with chunksize 1, by workers that run already."""
    with laptops_at(bench, 0.1) as laptops:
        for where, _, laptop in laptops:
            with laptop.executor() as executor:
                _warm(executor)
                calls = range(PIPELINED)
                samples = [timed(lambda: list(executor.login.map(no_op, calls))) for _ in range(bench.rounds(7, 2))]  # noqa: B023
            yield Row(f"{PIPELINED:,} calls on a login node {where}", "s", samples, goal=PIPELINED / 8000)


def start(bench: Bench) -> Iterator[Row]:
    """An executor made and ready, against `ssh host true`; the agent's source is there already."""
    with laptops_at(bench, *ROUND_TRIPS) as laptops:
        for where, _, laptop in laptops:

            def ours() -> float:
                begin = time.perf_counter()
                executor = laptop.executor()  # noqa: B023
                seconds = time.perf_counter() - begin
                executor.shutdown()
                return seconds

            command = [*laptop.ssh, "true"]
            ours()
            samples, bare = take_turns(
                bench.rounds(9, 2),
                ours,
                lambda: timed(lambda: subprocess.run(command, check=True)),  # noqa: B023
            )
            yield Row(f"an executor is made {where}, against ssh host true", "s", samples, bare)


def sweep(bench: Bench) -> Iterator[Row]:
    """From the first `submit` of many to Slurm's job id, less what sbatch takes by itself; and all bytes of a sweep."""
    shadow = bench.folder / "shadow"
    shadow.mkdir()
    took = bench.folder / "took"
    real = subprocess.run(["bash", "-c", "type -P sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    (shadow / "sbatch").write_text(
        f'#!/bin/bash\nbegin=$EPOCHREALTIME\n{real} "$@"\ncode=$?\n'
        f'echo "$begin $EPOCHREALTIME" >>{shlex.quote(str(took))}\nexit $code\n'
    )
    (shadow / "sbatch").chmod(0o755)
    setup = f"PATH={shlex.quote(str(shadow))}:$PATH"
    with laptops_at(bench, 0.1) as laptops:
        for where, round_trip, laptop in laptops:
            trips = []
            with laptop.executor(setup=setup, hold=True) as executor:
                for _ in range(bench.rounds(9, 2)):
                    took.write_text("")
                    begin = time.perf_counter()
                    futures = [executor.submit(no_op, number) for number in range(SWEEP)]
                    while futures[0].job_id is None:
                        time.sleep(0.001)
                    seconds = time.perf_counter() - begin
                    first, last = map(float, took.read_text().split()[:2])
                    trips.append((seconds - (last - first)) / round_trip)
                    for future in futures:
                        future.cancel()
                    wait(futures)
                    drain()
            yield Row(f"from submit of {SWEEP:,} to the job id {where}, less sbatch", "round trips", trips, goal=3)
            sizes = []
            with laptop.executor() as executor:
                for _ in range(bench.rounds(3)):
                    before = laptop.relay.sent()
                    list(executor.map(no_op, range(SWEEP)))
                    after = laptop.relay.sent()
                    sizes.append((after.up - before.up + after.down - before.down) / 1024)
            yield Row(f"bytes both ways for a sweep of {SWEEP:,} no-ops", "KB", sizes, goal=300)


# ---- large things


def large_argument(bench: Bench) -> Iterator[Row]:
    """From `submit` to the job id, in a fresh process, against `cat file | ssh host 'cat >file'`; and its memory."""
    payload = bench.folder / "payload"
    payload.write_bytes(random.Random(1).randbytes(LARGE))
    with laptops_at(bench, *ROUND_TRIPS) as laptops:
        for where, _, laptop in laptops:
            memory = []

            def ours() -> float:
                words = {**laptop.options, "work_dir": str(bench.folder / "work_dir"), "hold": True}  # noqa: B023
                command = [sys.executable, "-m", __name__, str(payload), json.dumps(words)]
                found = json.loads(subprocess.check_output(command, cwd=Path(__file__).parents[2]))
                memory.append(found["memory"] / LARGE)  # noqa: B023
                return float(found["seconds"])

            there = shlex.quote(str(bench.folder / "copy"))
            command = f"cat {shlex.quote(str(payload))} | {shlex.join(laptop.ssh)} {shlex.quote(f'cat > {there}')}"
            samples, bare = take_turns(
                bench.rounds(5),
                ours,
                lambda: timed(lambda: subprocess.run(["bash", "-c", command], check=True)),  # noqa: B023
            )
            drain(0.0)
            yield Row(f"a {LARGE >> 20} MB argument {where}, against cat | ssh", "s", samples, bare, goal=1.5)
            yield Row(f"the client's memory meanwhile {where}, by the payload", "", memory, goal=3)


def login_large(bench: Bench) -> Iterator[Row]:
    """Calls, commands and scripts on the login node that give or take much."""
    with laptops_at(bench, 0.0) as laptops:
        for where, _, laptop in laptops:
            with laptop.executor() as executor:
                _warm(executor)
                for size in (8 << 20, 100 << 20):
                    data = random.Random(1).randbytes(size)
                    script = f"print('x' * {size}, end='')"
                    actions: dict[str, Callable[[], object]] = {
                        "result of a call": lambda: executor.login.submit(os.urandom, size).result(),  # noqa: B023
                        "argument of a call": lambda: executor.login.submit(len, data).result(),  # noqa: B023
                        "of output of a script": lambda: executor.run_python(script),  # noqa: B023
                    }
                    for what, action in actions.items():
                        samples = [timed(action) for _ in range(bench.rounds(7, 2))]
                        goal = 0.5 if size == 8 << 20 else None
                        yield Row(f"{size >> 20} MB {what} on a login node {where}", "s", samples, goal=goal)


PATH_SIZE = 100 << 20  # bytes


def paths(bench: Bench) -> Iterator[Row]:
    """What is small against a byte there and back; contents against `cat` over ssh."""
    with laptops_at(bench, 0.0, 0.02) as laptops:
        for where, _, laptop in laptops:
            with laptop.executor() as executor, laptop.echo() as echo:
                small = executor.path(bench.folder / "small")
                actions: dict[str, Callable[[], object]] = {
                    "write_text": lambda: small.write_text("text"),  # noqa: B023
                    "read_text": small.read_text,
                    "exists": small.exists,
                    "glob": lambda: list(small.parent.glob("*")),  # noqa: B023
                }
                for what, action in actions.items():
                    ours, echoed = take_turns(
                        bench.rounds(100, 10),
                        lambda: 1000 * timed(action),  # noqa: B023
                        lambda: 1000 * timed(echo),
                    )
                    yield Row(f"{what} of a path {where}, against a byte there and back", "ms", ours, echoed)
                large = executor.path(bench.folder / "content")
                data = random.Random(1).randbytes(PATH_SIZE)
                source = bench.folder / "source"
                source.write_bytes(data)
                there = shlex.quote(str(large))
                up = f"cat {shlex.quote(str(source))} | {shlex.join(laptop.ssh)} {shlex.quote(f'cat > {there}')}"
                down = f"{shlex.join(laptop.ssh)} {shlex.quote(f'cat {there}')} > /dev/null"
                actions = {"write_bytes": lambda: large.write_bytes(data), "read_bytes": large.read_bytes}  # noqa: B023
                for (what, action), command in zip(actions.items(), (up, down), strict=True):
                    ours, bare = take_turns(
                        bench.rounds(5, 1),
                        lambda: timed(action),  # noqa: B023
                        lambda: timed(lambda: subprocess.run(["bash", "-c", command], check=True)),  # noqa: B023
                    )
                    yield Row(f"{what} of {PATH_SIZE >> 20} MB {where}, against cat by ssh", "s", ours, bare, goal=1.5)


def files(bench: Bench) -> Iterator[Row]:
    """`put` of a folder, against `tar c | ssh host tar x`."""
    source = bench.folder / "source"
    source.mkdir()
    chosen = random.Random(1)
    for number in range(FILES):
        (source / f"file-{number}").write_bytes(chosen.randbytes(FILE_SIZE))
    with laptops_at(bench, *ROUND_TRIPS) as laptops:
        for where, _, laptop in laptops:
            with laptop.executor() as executor:
                numbers = iter(range(10_000))

                def target(number: int) -> Path:
                    return bench.folder / f"target-{number}"

                def ours() -> float:
                    there = target(next(numbers))  # noqa: B023
                    seconds = timed(lambda: executor.put(source, there))
                    subprocess.run(["rm", "-r", there], check=True)
                    return seconds

                def bare() -> float:
                    there = target(next(numbers))  # noqa: B023
                    there.mkdir()
                    words = shlex.quote(f"tar x -C {shlex.quote(str(there))}")
                    line = f"tar c -C {shlex.quote(str(source))} . | {shlex.join(laptop.ssh)} {words}"  # noqa: B023
                    seconds = timed(lambda: subprocess.run(["bash", "-c", line], check=True))
                    subprocess.run(["rm", "-r", there], check=True)
                    return seconds

                samples, others = take_turns(bench.rounds(7, 2), ours, bare)
            yield Row(f"{FILES:,} files of 1 KB by put {where}, against tar | ssh tar", "s", samples, others, goal=1.5)


SLOW = 2e6  # bytes a second
PASSED_BY = 3 * SLOW  # bytes


def passing(bench: Bench) -> Iterator[Row]:
    """One call on the login node on a slow line: alone, while a large argument goes up, while a large result comes."""
    with ExitStack() as stack:
        farm = stack.enter_context(closing(Farm(bench.folder / "farm", cluster_environment(_slurm_s_variables()))))
        relay = stack.enter_context(closing(Relay(farm.login.port, SLOW)))
        farm.know(farm.login.known_host(relay.port))
        executor = stack.enter_context(Laptop(bench, farm, relay).executor())
        _warm(executor)

        def once() -> float:
            return 1000 * timed(executor.login.submit(no_op).result)

        yield Row("one call on a line of 2 MB/s", "ms", [once() for _ in range(50)])
        for what, submit, way in (
            ("a large argument", lambda: executor.submit(len, os.urandom(int(PASSED_BY))), 0),
            ("a large result", lambda: executor.submit(os.urandom, int(PASSED_BY)), 1),
        ):
            before = relay.sent()[way]
            future = submit()
            while relay.sent()[way] < before + PASSED_BY / 10:
                time.sleep(0.01)
            samples = []
            while relay.sent()[way] < before + 0.9 * PASSED_BY:
                samples.append(once())
            future.result()
            yield Row(f"the same behind {what}", "ms", samples)


# ---- scripts


def scripts(bench: Bench) -> Iterator[Row]:
    """A hundred batch scripts, submitted one by one and awaited together.

    Their round trips are what a line of a second each adds to their time, by that second: what waits for an answer
    before it goes on does so one after the other.
    """
    numbers = itertools.count()

    def hundred(executor: SlurmExecutor) -> float:
        def all_of_them() -> None:
            texts = [f"#!/bin/bash\n: {next(numbers)}\n" for _ in range(SCRIPTS)]
            for future in [executor.submit_script(text, cwd=str(bench.folder)) for text in texts]:
                assert future.result().ok

        return timed(all_of_them)

    near, far = [], []
    with laptops_at(bench, 0.0, 0.02, 1.0) as laptops:
        for where, round_trip, laptop in laptops:
            samples = []
            for _ in range(bench.rounds(5, 2)):  # an executor's first submissions go out as fast as sbatch takes them
                with laptop.executor() as executor:
                    samples.append(hundred(executor))
            if round_trip < 0.1:
                yield Row(f"{SCRIPTS} scripts {where}", "s", samples)
                near += samples
            else:
                far += samples
    least = min(near)
    yield Row(f"round trips of {SCRIPTS} scripts", "", [max(0.0, seconds - least) for seconds in far], goal=10)


# ---- broken


def reconnect(bench: Bench) -> Iterator[Row]:
    """From a cut to the next reply."""
    with laptops_at(bench, 0.02) as laptops:
        for where, _, laptop in laptops:
            samples = []
            with laptop.executor() as executor:
                _warm(executor)
                for _ in range(bench.rounds(15, 3)):
                    time.sleep(11.0)  # those that break soon after they were made are made again more slowly
                    begin = time.perf_counter()
                    laptop.relay.cut()
                    while True:
                        try:
                            executor.run("true")
                            break
                        except ConnectionLost:
                            continue
                    samples.append(time.perf_counter() - begin)
            yield Row(f"from a cut to the next reply {where}", "s", samples, goal=2)


def _warm(executor: SlurmExecutor) -> None:
    wait([executor.login.submit(os.getpid) for _ in range(100)])
    wait([executor.login.submit(no_op) for _ in range(100)])


def main(payload: str, options: str) -> None:
    """The fresh process: submit a file's bytes, and print how long that takes and how much memory."""
    data = Path(payload).read_bytes()
    with SlurmExecutor(**json.loads(options)) as executor:
        begin = time.perf_counter()
        future = executor.submit(len, data)
        while future.job_id is None:
            time.sleep(0.002)
        seconds = time.perf_counter() - begin
        future.cancel()
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"seconds": seconds, "memory": peak << 10}))


if __name__ == "__main__":
    main(*sys.argv[1:])
