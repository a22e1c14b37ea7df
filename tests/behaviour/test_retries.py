"""Calls that are lost run again, as often as was allowed, and nothing else does. On the embedded scheduler."""

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import JobFailed, JobState, ResultLost, SlurmExecutor, SlurmFuture
from slurmfutures._remote import payload, publish
from tests import calls
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until


@pytest.fixture
def executor(opener: Opener, tmp_path: Path) -> SlurmExecutor:
    return opener.root("local", retries=2, work_dir=tmp_path / "work")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where calls write down that they run."""
    return tmp_path / "runs"


def runs(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_result_is_made_again(executor: SlurmExecutor, path: Path, times: int) -> None:
    future = executor.submit(calls.leave_at_first, str(path), times, "made")
    assert future.result(DEADLINE) == "made"
    assert runs(path) == times + 1


def test_the_last_error_tells_of_the_ones_before(executor: SlurmExecutor, path: Path) -> None:
    future = executor.submit(calls.leave_at_first, str(path), 9)
    error = future.exception(DEADLINE)
    assert isinstance(error, ResultLost)
    assert runs(path) == 3
    assert [type(earlier) for earlier in error.earlier] == [ResultLost, ResultLost]
    headline, *lines = str(error).splitlines()
    assert headline.startswith(f"job {future.job_id} ")
    assert headline.endswith(" (attempt 3 of 3)")
    assert [line.split()[:3] for line in lines] == [["attempt", "1:", "job"], ["attempt", "2:", "job"]]
    assert len({line.split()[3] for line in (*lines, f"attempt 3: {headline}")}) == 3
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert str(again) == str(error)
        assert [str(earlier) for earlier in again.earlier] == [str(earlier) for earlier in error.earlier]


def test_without_retries_there_is_one_attempt(opener: Opener, path: Path) -> None:
    error = opener.root("local").submit(calls.leave_at_first, str(path), 1).exception(DEADLINE)
    assert isinstance(error, ResultLost)
    assert error.earlier == ()
    assert "attempt" not in str(error)
    assert runs(path) == 1


def test_what_a_function_raises_is_its_answer(executor: SlurmExecutor, path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        executor.submit(calls.write_down_and_fail, str(path), ValueError("no")).result(DEADLINE)
    assert runs(path) == 1


def test_an_exit_code_is_final(executor: SlurmExecutor, path: Path) -> None:
    error = executor.submit(calls.write_down_and_leave, str(path), 3).exception(DEADLINE)
    assert type(error) is JobFailed
    assert error.earlier == ()
    assert runs(path) == 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_what_a_function_raises_at_last_has_the_earlier_attempts_as_a_note(executor: SlurmExecutor, path: Path) -> None:
    error = executor.submit(calls.leave_at_first_and_fail, str(path), ValueError("no")).exception(DEADLINE)
    assert isinstance(error, ValueError)
    (note,) = vars(error)["__notes__"]
    assert note.startswith("attempt 1: job ")
    assert note.endswith("ended well but without a result")


def test_an_exception_that_takes_no_note_comes_as_it_is(executor: SlurmExecutor, path: Path) -> None:
    future = executor.submit(calls.leave_at_first_and_fail, str(path), calls.Frozen(7))
    assert isinstance(future.exception(DEADLINE), calls.Frozen)


def test_calls_of_a_chunk_that_have_their_results_do_not_run_again(
    executor: SlurmExecutor, path: Path, gate: Gate
) -> None:
    results = executor.map(calls.leave_once_at_one, [str(path)] * 4, [gate.folder] * 4, range(4), chunksize=4)
    assert next(results) == 0
    gate.open()
    assert list(results) == [1, 2, 3]
    assert path.read_text().split() == ["0", "1", "1", "2", "3"]


def test_of_an_array_only_what_is_lost_runs_again(executor: SlurmExecutor, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"runs{number}") for number in range(5)]
    times = [0, 1, 0, 2, 1]
    assert list(executor.map(calls.leave_at_first, paths, times, range(5), timeout=DEADLINE)) == [0, 1, 2, 3, 4]
    assert [runs(Path(path)) for path in paths] == [1, 2, 1, 3, 2]


def test_a_future_speaks_of_the_last_attempt(executor: SlurmExecutor, path: Path, gate: Gate) -> None:
    future = executor.submit(calls.leave_at_first_and_pass_gate, str(path), gate.folder)
    first = until(lambda: future.job_id)
    gate.wait()
    until(lambda: future.job_id != first)
    until(lambda: future.state is JobState.RUNNING)
    until(lambda: future.stdout() == "run 2\n")
    gate.open()
    assert future.result(DEADLINE) == 2
    executor.shutdown()
    assert future.stdout() == "run 2\n"


def test_a_call_can_be_cancelled_in_a_later_attempt(executor: SlurmExecutor, path: Path, gate: Gate) -> None:
    future = executor.submit(calls.leave_at_first_and_pass_gate, str(path), gate.folder)
    (process,) = gate.wait()
    assert future.cancel()
    until(lambda: not lives(int(process)), DEADLINE / 3)  # before it gives up by itself
    executor.shutdown()
    assert runs(path) == 2


def test_a_result_that_shows_late_is_taken_and_ends_the_next_attempt(
    executor: SlurmExecutor, path: Path, gate: Gate, tmp_path: Path
) -> None:
    other = Gate(tmp_path / "other")
    with executor._connection.poller._lock:  # one array, which is watched as long as the other task runs
        future: SlurmFuture[Any] = executor.submit(calls.leave_at_first_and_pass_gate, str(path), gate.folder)
        sibling = executor.submit(calls.pass_gate, other.folder, "sibling")
    (process,) = gate.wait()
    (batch,) = (tmp_path / "work/batches").iterdir()
    record = payload.pack_record(0, payload.OK, pickle.dumps("late"))
    publish.publish(str(batch / "0/r"), "0.r", payload.pack_results(record))
    assert future.result(DEADLINE) == "late"
    until(lambda: not lives(int(process)), DEADLINE / 3)  # before it gives up by itself
    other.open()
    assert sibling.result(DEADLINE) == "sibling"


def test_a_retry_that_is_asked_for_twice_is_made_once(executor: SlurmExecutor, path: Path, gate: Gate) -> None:
    future = executor.submit(calls.leave_at_first_and_pass_gate, str(path), gate.folder)
    gate.wait()
    (batch,) = executor._connection.poller._active.values()
    retry = {"task": 0, "attempt": 1, "exclude": [], "done": []}
    words: dict[str, Any] = {"op": "retry", "batch": batch.id, "retries": [retry]}
    assert "error" not in executor._connection.poller.request(words)[1].result(DEADLINE).head
    sibling = executor.submit(calls.square, 3)  # behind it
    assert sibling.result(DEADLINE) == 9
    gate.open()
    assert future.result(DEADLINE) == 2


def test_where_the_batch_s_files_are_gone_the_call_fails_as_it_did(
    executor: SlurmExecutor, tmp_path: Path, gate: Gate
) -> None:
    future = executor.submit(calls.pass_gate_and_exit, gate.folder, 0)
    gate.wait()
    (batch,) = (tmp_path / "work/batches").iterdir()
    batch.rename(batch.with_name("away"))
    gate.open()
    error = future.exception(DEADLINE)
    assert isinstance(error, ResultLost)
    assert "attempt" not in str(error)


@pytest.mark.parametrize("retries", [-1, 1.0, "2", None, True])
def test_retries_are_counted(retries: Any) -> None:
    with pytest.raises(ValueError, match="retries"):
        SlurmExecutor(scheduler="local", retries=retries)
