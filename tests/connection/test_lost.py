"""The connection is lost while there are jobs: they go on, nothing is lost, and nothing is done twice."""

import threading
from pathlib import Path

import pytest

from slurmfutures import ConnectionLost, JobState, ResultLost, SlurmExecutor
from tests import calls
from tests.cluster import Cluster
from tests.connection.lines import Line, agent_of, until_connected_again
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.queue import together
from tests.slurm.shadow import Shadow
from tests.waiting import DEADLINE, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(150)]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# ---- jobs


def test_results_that_came_meanwhile_arrive_after(executor: SlurmExecutor, line: Line, gate: Gate) -> None:
    futures = [executor.submit(calls.pass_gate, gate.folder, number) for number in range(3)]
    gate.wait(3)
    line.down()
    gate.open()
    late = executor.submit(calls.square, 7)
    line.up()
    assert [future.result(DEADLINE) for future in futures] == [0, 1, 2]
    assert late.result(DEADLINE) == 49


def test_calls_run_once_however_often_it_breaks(executor: SlurmExecutor, line: Line, tmp_path: Path) -> None:
    path = tmp_path / "written"
    futures = []
    for number in range(40):
        futures.append(executor.submit(calls.append_and_square, str(path), number))
        if number % 10 == 9:
            agent = agent_of(executor)
            line.cut()
            until_connected_again(executor, agent)
    assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(40)]
    assert sorted(map(int, lines(path))) == list(range(40))


def test_what_was_submitted_meanwhile_is_one_batch(executor: SlurmExecutor, line: Line) -> None:
    line.down()
    futures = together(executor, calls.square, [(number,) for number in range(50)])
    assert not any(future.done() for future in futures)
    line.up()
    assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(50)]
    assert len({(future.job_id or "").partition("_")[0] for future in futures}) == 1


def test_a_future_knows_its_job_after_it(executor: SlurmExecutor, line: Line, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    agent, job = agent_of(executor), future.job_id
    line.cut()
    assert future.job_id == job
    assert future.state is JobState.RUNNING
    until_connected_again(executor, agent)
    gate.open()
    assert future.result(DEADLINE) == "done"
    assert future.job_id == job
    assert future.stdout() == ""


def test_what_is_cancelled_meanwhile_is_cancelled_after(
    executor: SlurmExecutor, line: Line, gate: Gate, cluster: Cluster
) -> None:
    futures = [executor.submit(calls.pass_gate, gate.folder) for _ in range(2)]
    gate.wait(2)
    jobs = [future.job_id or "" for future in futures]
    line.down()
    assert all(future.cancel() for future in futures)
    never = executor.submit(calls.square, 1)
    assert never.cancel()
    line.up()
    executor.shutdown()
    active = cluster.run("squeue", "--noheader", "--array", "--format=%i|%T").splitlines()
    assert not [row for row in active if row.split("|")[0] in jobs and not row.endswith("COMPLETING")]


def test_shutdown_waits_for_what_has_still_to_come(executor: SlurmExecutor, line: Line, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    line.down()
    closing = threading.Thread(target=executor.shutdown)
    closing.start()
    gate.open()
    line.up()
    closing.join(DEADLINE)
    assert future.result(0) == "done"


def test_shutdown_with_nothing_pending_does_not_wait_for_the_connection(executor: SlurmExecutor, line: Line) -> None:
    assert executor.submit(calls.square, 3).result(DEADLINE) == 9
    line.down()
    executor.shutdown()


def test_a_batch_whose_files_are_gone_is_told(line: Line, gate: Gate, tmp_path: Path) -> None:
    executor = line.open(work_dir=tmp_path / "work")
    future = executor.submit(calls.pass_gate, gate.folder)
    gate.wait()
    line.down()
    (batch,) = (tmp_path / "work/batches").iterdir()
    batch.rename(batch.with_name("away"))
    line.up()
    with pytest.raises(ResultLost, match="cannot be used"):
        future.result(DEADLINE)
    gate.open()


def test_a_job_that_died_meanwhile_is_told(executor: SlurmExecutor, line: Line, gate: Gate) -> None:
    future = executor.submit(calls.pass_gate_and_exit, gate.folder, 3)
    gate.wait()
    line.down()
    gate.open()
    line.up()
    error = future.exception(DEADLINE)
    assert getattr(error, "exit_code", None) == 3


# ---- submissions that were under way


def test_a_submission_that_hangs_is_not_repeated(line: Line, shadow: Shadow, tmp_path: Path) -> None:
    hang = '[[ "$*" == *--version* ]] && exec "$real" "$@"; "$real" "$@"; touch "$here/submitted"; exec sleep 300'
    shadow.put("sbatch", hang)
    executor = line.open(env=shadow.env)
    future = executor.submit(work.write_job, str(tmp_path / "jobs"))
    until((shadow.folder / "submitted").exists)
    line.cut()
    (job,) = future.result(DEADLINE).split()[:1]
    assert job == future.job_id
    executor.shutdown()
    assert len(lines(tmp_path / "jobs")) == 1


def test_a_submission_that_never_happened_is_made(line: Line, shadow: Shadow, tmp_path: Path) -> None:
    shadow.put("sbatch", '[[ "$*" == *--version* ]] && exec "$real" "$@"; touch "$here/called"; exec sleep 300')
    executor = line.open(env=shadow.env)
    future = executor.submit(work.write_job, str(tmp_path / "jobs"))
    until((shadow.folder / "called").exists)
    line.cut()
    assert future.result(2 * DEADLINE)
    assert len(lines(tmp_path / "jobs")) == 1


def test_a_retry_that_was_asked_for_is_made_by_the_next_agent(line: Line, shadow: Shadow, tmp_path: Path) -> None:
    full = 'echo "sbatch: error: AssocMaxSubmitJobLimit" >&2; touch "$here/called"; exit 1'
    shadow.put("sbatch", f'[[ "$*" == *--exclude=* ]] && {{ {full}; }}')
    executor = line.open(env=shadow.env, retries=1)
    future = executor.submit(calls.leave_at_first, str(tmp_path / "runs"), 1, "made")
    until((shadow.folder / "called").exists)
    line.down()
    shadow.put("sbatch")
    line.up()
    assert future.result(2 * DEADLINE) == "made"
    first, second = lines(tmp_path / "runs")
    assert first != second


@pytest.mark.parametrize("line", ["here"], indirect=True)
def test_a_retry_whose_submission_hangs_is_made_once(line: Line, shadow: Shadow, tmp_path: Path) -> None:
    hang = 'touch "$here/called"; exec sleep 300'
    shadow.put("sbatch", f'[[ "$*" == *--exclude=* ]] && {{ {hang}; }}')
    executor = line.open(env=shadow.env, retries=1)
    future = executor.submit(calls.leave_at_first, str(tmp_path / "runs"), 1, "made")
    until((shadow.folder / "called").exists)
    line.down()
    shadow.put("sbatch")
    line.up()
    assert future.result(2 * DEADLINE) == "made"
    assert len(lines(tmp_path / "runs")) == 2


# ---- the login node


def test_what_was_running_on_the_login_node_fails_and_may_have_run(
    executor: SlurmExecutor, line: Line, gate: Gate, tmp_path: Path
) -> None:
    future = executor.login.submit(calls.pass_gate, gate.folder)
    gate.wait()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            executor.run(f"touch '{tmp_path}/there'; sleep 60")
        except ConnectionLost as error:
            errors.append(error)

    running = threading.Thread(target=run)
    running.start()
    until((tmp_path / "there").exists)
    line.cut()
    running.join(DEADLINE)
    for error in (future.exception(DEADLINE), *errors):
        assert isinstance(error, ConnectionLost)
        assert "may have run" in str(error)
        assert "\n" not in str(error)
    assert len(errors) == 1


def test_the_login_node_works_again_with_functions_that_it_knew(executor: SlurmExecutor, line: Line) -> None:
    assert executor.login.submit(calls.square, 2).result(DEADLINE) == 4
    line.down()
    futures = [executor.login.submit(calls.square, number) for number in range(5)]
    done: list[str] = []
    running = threading.Thread(target=lambda: done.append(executor.run("echo here").stdout))
    running.start()
    line.up()
    assert [future.result(DEADLINE) for future in futures] == [0, 1, 4, 9, 16]
    running.join(DEADLINE)
    assert done == ["here\n"]


# ---- no end, or one


def test_after_the_time_that_was_given_all_that_is_pending_fails(line: Line, gate: Gate) -> None:
    executor = line.open(reconnect_timeout=0.5)
    future = executor.submit(calls.pass_gate, gate.folder)
    gate.wait()
    line.down()
    with pytest.raises(ConnectionLost, match="jobs go on"):
        future.result(DEADLINE)
    with pytest.raises(ConnectionLost):
        executor.submit(calls.square, 1)
    gate.open()
    line.up()


def test_it_is_said_in_the_log(executor: SlurmExecutor, line: Line, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "slurmfutures")
    agent = agent_of(executor)
    line.cut()
    until_connected_again(executor, agent)
    until(lambda: "again" in caplog.text)
    assert "is lost" in caplog.text
