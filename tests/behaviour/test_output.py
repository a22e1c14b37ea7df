"""What calls print: where it goes, and what it cannot break."""

from concurrent.futures import Future
from typing import Any

import pytest

from slurmfutures import SlurmExecutor, SlurmFuture
from tests import calls
from tests.fix_executors import AnyExecutor, OpenJobs
from tests.fix_gate import Gate
from tests.waiting import DEADLINE, until


def test_noise_of_all_kinds_breaks_nothing(executor: AnyExecutor) -> None:
    futures = [executor.submit(calls.make_noise) for _ in range(5)]
    assert [future.result(DEADLINE) for future in futures] == ["heard"] * 5


def test_there_is_nothing_to_read_from_stdin(executor: AnyExecutor) -> None:
    assert executor.submit(calls.read_stdin).result(DEADLINE) == ""


def test_a_job_s_output_is_its_future_s(jobs: SlurmExecutor) -> None:
    futures = [jobs.submit(calls.speak, f"out {number}", f"err {number}") for number in range(2)]
    for number, future in enumerate(futures):
        future.result(DEADLINE)
        assert future.stdout() == f"out {number}\n"
        assert future.stderr() == f"err {number}\n"


def test_noise_of_all_kinds_is_in_the_output(jobs: SlurmExecutor) -> None:
    future = jobs.submit(calls.make_noise)
    future.result(DEADLINE)
    lines = until(lambda: len(lines := future.stdout().splitlines()) == 7 and lines) or []
    kinds = ["print", "write", "descriptor 1", "C", "a child", "the original"]
    assert sorted(lines) == sorted([*(f"by {kind}" for kind in kinds), "\ufffd\ufffd not UTF-8 \0"])
    assert future.stderr() == "by descriptor 2\n"


def test_output_of_a_call_that_raised(jobs: SlurmExecutor) -> None:
    def speak_and_fail() -> None:
        print("before")
        raise ValueError

    future = jobs.submit(speak_and_fail)
    assert isinstance(future.exception(DEADLINE), ValueError)
    assert future.stdout() == "before\n"


def test_output_can_be_read_while_the_call_runs(jobs: SlurmExecutor, gate: Gate) -> None:
    def speak_and_wait(folder: str = gate.folder) -> None:
        from tests import calls

        print("so far")
        calls.pass_gate(folder)

    future = jobs.submit(speak_and_wait)
    gate.wait()
    assert until(future.stdout) == "so far\n"
    assert future.stderr() == ""
    assert not future.done()


def test_a_call_that_has_not_begun_has_no_output(open_jobs: OpenJobs, gate: Gate) -> None:
    executor = open_jobs(max_workers=1)
    executor.submit(calls.pass_gate, gate.folder)
    gate.wait()
    waiting = executor.submit(calls.speak, "out", "err")
    assert (waiting.stdout(), waiting.stderr()) == ("", "")
    waiting.cancel()
    assert (waiting.stdout(), waiting.stderr()) == ("", "")


def test_calls_of_one_task_share_its_output(jobs: SlurmExecutor, gate: Gate) -> None:
    def speak(out: str, err: str, folder: str = gate.folder) -> None:
        from tests import calls

        calls.pass_gate(folder)
        calls.speak(out, err)

    results = jobs.map(speak, ["one", "two"], ["eins", "zwei"], chunksize=2)
    futures = jobs._pending()
    gate.open()
    assert list(results) == [None, None]
    assert [future.stdout() for future in futures] == ["one\ntwo\n"] * 2
    assert [future.stderr() for future in futures] == ["eins\nzwei\n"] * 2


def test_output_can_be_read_after_shutdown(open_jobs: OpenJobs) -> None:
    with open_jobs() as executor:
        good = executor.submit(calls.speak, "out", "err")
        bad = executor.submit(calls.leave_saying, 3, "last words")
    assert (good.stdout(), good.stderr()) == ("out\n", "err\n")
    assert (bad.stdout(), bad.stderr()) == ("", "last words\n")


def test_output_can_be_read_in_a_callback(jobs: SlurmExecutor, gate: Gate) -> None:
    seen: list[str] = []

    def look(future: Future[Any]) -> None:
        assert isinstance(future, SlurmFuture)
        seen.append(future.stdout())

    futures = [jobs.submit(calls.speak, f"out {number}", "") for number in range(5)]
    for future in futures:
        future.add_done_callback(look)
    until(lambda: len(seen) == 5)
    assert sorted(seen) == [f"out {number}\n" for number in range(5)]


def test_of_much_output_it_is_the_end_unless_all_is_asked_for(jobs: SlurmExecutor) -> None:
    size = 9 << 20

    def print_much(size: int = size) -> None:
        print("first")
        for number in range(size // 64):
            print(f"{number:063}")
        print("last")

    future = jobs.submit(print_much)
    future.result(DEADLINE)
    text = future.stdout(limit=None)
    assert (text[:6], text[-6:], len(text)) == ("first\n", "\nlast\n", size + 11)
    note, _, end = future.stdout().partition("\n")
    assert (len(end), end) == (4 << 20, text[-(4 << 20) :])
    assert note.startswith(f"[slurmfutures: the first {len(text) - len(end)} bytes are left out: ")
    assert future.stdout(10).endswith("]\n7455\nlast\n")
    assert future.stderr(limit=10) == ""
    with pytest.raises(ValueError, match="limit=-1: it is a number of bytes"):
        future.stdout(-1)


def test_of_much_output_the_end_is_kept_after_shutdown(open_jobs: OpenJobs) -> None:
    with open_jobs() as executor:
        future = executor.submit(calls.speak, "x" * (1 << 20), "")
    note, _, end = future.stdout().partition("\n")
    assert note == f"[slurmfutures: the first {(1 << 20) + 1 - (64 << 10)} bytes are left out: the end is kept]"
    assert end == "x" * ((64 << 10) - 1) + "\n"


def test_calls_on_the_login_node_have_no_output_of_their_own(local: SlurmExecutor) -> None:
    future = local.login.submit(calls.speak, "out", "err")
    future.result(DEADLINE)
    assert (future.stdout(), future.stderr()) == ("", "")


@pytest.mark.parametrize("number", [1, 2])
def test_closing_the_standard_streams_breaks_nothing(executor: AnyExecutor, number: int) -> None:
    def close() -> str:
        import os

        os.close(number)
        return "closed"

    assert executor.submit(close).result(DEADLINE) == "closed"
    assert executor.submit(calls.square, 2).result(DEADLINE) == 4
