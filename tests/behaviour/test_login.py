"""The login node: warm workers that may crash, and commands."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import JobFailed, JobState, SlurmExecutor
from tests import calls
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until


@pytest.fixture(scope="module")
def root(module_opener: Opener) -> SlurmExecutor:
    return module_opener.root("local")


# ---- workers


def test_calls_run_in_processes_that_stay(root: SlurmExecutor) -> None:
    processes = {root.login.submit(os.getpid).result(DEADLINE) for _ in range(10)}
    assert len(processes) <= 2
    assert root._connection.greeting["pid"] not in processes


def test_as_many_calls_run_at_once_as_login_workers(opener: Opener, gate: Gate) -> None:
    executor = opener.root("local", login_workers=3).login
    futures = [executor.submit(calls.pass_gate, gate.folder, number) for number in range(4)]
    gate.wait(3)
    gate.open()
    assert [future.result(DEADLINE) for future in futures] == [0, 1, 2, 3]


def test_no_more_calls_run_at_once_than_login_workers(opener: Opener, tmp_path: Path) -> None:
    executor = opener.root("local", login_workers=1).login
    pids = set(executor.map(lambda _: os.getpid(), range(20)))
    assert len(pids) == 1


def test_a_short_call_does_not_wait_behind_a_long_one(opener: Opener, gate: Gate) -> None:
    """Also where it was handed to the same worker, because calls had been short so far."""
    executor = opener.root("local", login_workers=2).login
    list(executor.map(calls.square, range(200)))
    for _ in range(3):
        long = executor.submit(calls.pass_gate, gate.folder)
        assert list(executor.map(calls.square, range(50))) == [number**2 for number in range(50)]
        assert not long.done()
        long.cancel()


def test_calls_behind_a_long_one_are_made_once_each(opener: Opener, gate: Gate, tmp_path: Path) -> None:
    executor = opener.root("local", login_workers=2).login
    marks = tmp_path / "marks"
    marks.mkdir()
    list(executor.map(calls.square, range(200)))
    long = executor.submit(calls.pass_gate, gate.folder)
    futures = [executor.submit(calls.mark, str(marks)) for _ in range(300)]
    names = [future.result(DEADLINE) for future in futures]
    gate.open()
    long.result(DEADLINE)
    assert sorted(path.name for path in marks.iterdir()) == sorted(names)


def test_calls_on_the_login_node_are_no_jobs(root: SlurmExecutor, gate: Gate) -> None:
    future = root.login.submit(calls.pass_gate, gate.folder)
    assert future.state in (JobState.PENDING, JobState.RUNNING)
    until(future.running)
    assert future.state == JobState.RUNNING
    assert future.job_id is None
    gate.open()
    future.result(DEADLINE)
    assert str(future.state.value) == "COMPLETED"
    assert future.job_id is None


def test_a_function_changes_with_its_module_variables(root: SlurmExecutor) -> None:
    """Functions are kept by what they are, not by their names."""
    results = []
    for factor in (1, 2, 3):

        def times(number: int, factor: int = factor) -> int:
            return number * factor

        results.append(root.login.submit(times, 10).result(DEADLINE))
    assert results == [10, 20, 30]


def test_more_functions_than_are_kept(root: SlurmExecutor) -> None:
    def make(number: int) -> Callable[[], int]:
        return lambda: number

    functions = [make(number) for number in range(300)]
    for _ in range(2):
        futures = [root.login.submit(function) for function in functions]
        assert [future.result(DEADLINE) for future in futures] == list(range(300))


def test_many_short_calls_of_different_sizes(root: SlurmExecutor) -> None:
    sizes = [0, 1, 10_000, 3, 1_000_000, 5] * 10
    assert list(root.login.map(len, (bytes(size) for size in sizes))) == sizes
    assert [len(data) for data in root.login.map(bytes, sizes)] == sizes


# ---- crashes


@pytest.mark.parametrize(
    ("function", "arguments", "code", "signal_", "said"),
    [
        (calls.leave, (3,), 3, None, "failed with exit code 3"),
        (calls.leave, (0,), 0, None, "without a result"),
        (calls.kill_self, (signal.SIGKILL,), None, signal.SIGKILL, "was killed by SIGKILL"),
        (calls.kill_self, (signal.SIGTERM,), None, signal.SIGTERM, "was killed by SIGTERM"),
        (calls.crash, (), None, signal.SIGSEGV, "was killed by SIGSEGV"),
    ],
    ids=["exit 3", "exit 0", "SIGKILL", "SIGTERM", "SIGSEGV"],
)
def test_a_crash_fails_its_call_alone(
    root: SlurmExecutor,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    code: int | None,
    signal_: int | None,
    said: str,
) -> None:
    before = [root.login.submit(calls.square, number) for number in range(30)]
    bad = root.login.submit(function, *arguments)
    after = [root.login.submit(calls.square, number) for number in range(30)]
    with pytest.raises(JobFailed, match=said) as caught:
        bad.result(DEADLINE)
    assert (caught.value.exit_code, caught.value.signal) == (code, signal_)
    assert caught.value.job_id is None
    assert "on the login node" in str(caught.value)
    assert bad.state == JobState.FAILED
    for futures in (before, after):
        assert [future.result(DEADLINE) for future in futures] == [number**2 for number in range(30)]


def test_a_crash_tells_the_worker_s_last_words(root: SlurmExecutor) -> None:
    error = root.login.submit(calls.leave_saying, 4, "last words").exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert error.stderr_tail.endswith("last words\n")


def test_many_crashes_fail_their_calls_alone(root: SlurmExecutor) -> None:
    futures = [root.login.submit(calls.leave if n % 5 == 0 else calls.square, n) for n in range(25)]
    errors = [future.exception(DEADLINE) for future in futures]
    assert [isinstance(error, JobFailed) for error in errors] == [n % 5 == 0 for n in range(25)]


@pytest.mark.parametrize("code", [0, 3])
def test_leaving_by_sys_exit_is_an_exception_like_any_other(opener: Opener, code: int) -> None:
    def leave() -> None:
        import sys

        sys.exit(code)

    executor = opener.root("local", login_workers=1).login
    worker = executor.submit(os.getpid).result(DEADLINE)
    error = executor.submit(leave).exception(DEADLINE)
    assert isinstance(error, SystemExit)
    assert error.code == code
    assert executor.submit(os.getpid).result(DEADLINE) == worker


def test_a_worker_that_dies_while_its_child_holds_the_connection_is_noticed(root: SlurmExecutor, gate: Gate) -> None:
    bad = root.login.submit(calls.fork_and_leave, 5, gate.folder)
    error = bad.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert error.exit_code == 5
    assert root.login.submit(calls.square, 2).result(DEADLINE) == 4


def test_a_child_that_holds_the_connection_of_a_cancelled_call_is_no_harm(opener: Opener, gate: Gate) -> None:
    executor = opener.root("local", login_workers=1).login
    unwanted = executor.submit(calls.fork_and_pass_gate, gate.folder)
    gate.wait(2)
    unwanted.cancel()
    assert executor.submit(calls.square, 2).result(DEADLINE) == 4


def test_a_worker_that_closes_everything_fails_its_call_alone(root: SlurmExecutor) -> None:
    def close_all() -> None:
        import os
        import time

        os.closerange(3, 100)
        time.sleep(60)

    error = root.login.submit(close_all).exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert root.login.submit(calls.square, 2).result(DEADLINE) == 4


def test_a_worker_that_cannot_start_fails_the_calls_with_its_words(opener: Opener) -> None:
    executor = opener.root("local", setup='[ -z "$SLURMFUTURES_PATH" ] || { echo no way >&2; exit 9; }')
    futures = [executor.login.submit(calls.square, number) for number in range(3)]
    for future in futures:
        with pytest.raises(JobFailed, match="the worker on the login node could not start") as caught:
            future.result(DEADLINE)
        assert caught.value.exit_code == 9
        assert "no way" in str(caught.value)


# ---- cancelling


def test_cancelling_a_running_call_ends_its_worker_and_nothing_else(opener: Opener, gate: Gate) -> None:
    executor = opener.root("local", login_workers=2).login
    unwanted = executor.submit(calls.pass_gate_with_a_child, gate.folder)
    (child,) = map(int, gate.wait())
    kept = [executor.submit(calls.square, number) for number in range(20)]
    unwanted.cancel()
    assert [future.result(DEADLINE) for future in kept] == [number**2 for number in range(20)]
    until(lambda: not lives(child))


def test_cancelling_a_waiting_call_ends_no_worker(opener: Opener, gate: Gate) -> None:
    root = opener.root("local", login_workers=1)
    executor = root.login
    worker = executor.submit(os.getpid).result(DEADLINE)
    running = executor.submit(calls.pass_gate, gate.folder)
    gate.wait()
    waiting = [executor.submit(calls.square, number) for number in range(10)]
    for future in waiting[::2]:
        future.cancel()
    root.run(["true"])  # the agent comes to it after the cancellations
    gate.open()
    assert running.result(DEADLINE) is None
    assert [future.result(DEADLINE) for future in waiting[1::2]] == [1, 9, 25, 49, 81]
    assert executor.submit(os.getpid).result(DEADLINE) == worker


def test_thousands_of_waiting_calls_can_be_cancelled(opener: Opener, gate: Gate) -> None:
    executor = opener.root("local", login_workers=1).login
    executor.submit(calls.pass_gate, gate.folder)
    gate.wait()
    futures = [executor.submit(calls.square, number) for number in range(5000)]
    for future in futures:
        future.cancel()
    gate.open()
    assert executor.submit(calls.square, 2).result(DEADLINE) == 4


# ---- commands


def test_a_line_of_bash_gives_its_output_as_text(root: SlurmExecutor) -> None:
    done = root.run("echo out $((1 + 1)) | tr a-z A-Z; echo err >&2; [[ a == a ]]")
    assert isinstance(done, subprocess.CompletedProcess)
    assert (done.returncode, done.stdout, done.stderr) == (0, "OUT 2\n", "err\n")


def test_words_of_a_command_are_not_read_by_a_shell(root: SlurmExecutor) -> None:
    assert root.run(["printf", "%s|", "a b", "$HOME", "'", Path("c;d")]).stdout == "a b|$HOME|'|c;d|"


def test_input_is_text_or_bytes_and_so_is_output(root: SlurmExecutor) -> None:
    assert root.run("cat", input="täxt\n").stdout == "täxt\n"
    assert root.run("cat", input=b"\xff\x00").stdout == b"\xff\x00"
    assert root.run("cat", input="").stdout == ""
    assert root.run("cat").stdout == ""


def test_output_that_is_not_utf_8_is_replaced(root: SlurmExecutor) -> None:
    assert root.run(r"printf '\xffa'; printf '\xfe' >&2").stdout == "\ufffda"


def test_cwd_and_env(root: SlurmExecutor, weird_tmp_path: Path) -> None:
    done = root.run('pwd; echo "$ONE $HOME"', cwd=weird_tmp_path, env={"ONE": "a 'b' \"c\""})
    assert done.stdout == f"{weird_tmp_path}\na 'b' \"c\" {os.environ['HOME']}\n"


def test_a_failing_command_raises_unless_it_is_not_checked(root: SlurmExecutor) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        root.run("echo out; echo err >&2; exit 7")
    error = caught.value
    assert (error.returncode, error.stdout, error.stderr) == (7, "out\n", "err\n")
    assert root.run("exit 7", check=False).returncode == 7
    assert root.run("kill -9 $$", check=False).returncode == -9


def test_a_missing_command_or_folder_is_an_error_like_subprocess_has_it(root: SlurmExecutor) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        root.run(["no-such-command", "x"])
    assert str(caught.value) == "[Errno 2] No such file or directory: 'no-such-command'"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        root.run("true", cwd="/no such folder")
    with pytest.raises(PermissionError):
        root.run(["/etc/passwd"])
    assert root.run("no-such-command", check=False).returncode == 127


@pytest.mark.parametrize(
    "wrong",
    [
        {"cmd": "a\0b"},
        {"cmd": []},
        {"cmd": "true", "env": {"A=B": "C"}},
        {"cmd": "true", "env": {"A": 1}},
        {"cmd": "true", "cwd": "a\0b"},
    ],
    ids=str,
)
def test_what_no_process_can_be_given_is_refused(root: SlurmExecutor, wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        root.run(**wrong)
    assert root.run("echo on").stdout == "on\n"


def test_a_command_that_takes_too_long_is_ended_with_all_its_processes(root: SlurmExecutor, tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        root.run(f"echo before; (sleep 60 & echo $! > '{tmp_path}/pid'; wait) & wait", timeout=0.3)
    assert caught.value.timeout == 0.3
    assert str(caught.value.stdout) == "before\n"
    child = int((tmp_path / "pid").read_text())
    until(lambda: not lives(child))


def test_commands_run_beside_each_other_and_beside_calls(root: SlurmExecutor, gate: Gate) -> None:
    threads = [
        threading.Thread(
            target=root.run,
            args=(f"touch '{gate.folder}/{n}'; while [ ! -e '{gate.folder}/open' ]; do sleep 0.01; done",),
        )
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    until(lambda: all(os.path.exists(f"{gate.folder}/{n}") for n in range(3)))
    assert root.login.submit(calls.square, 2).result(DEADLINE) == 4
    gate.open()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_large_input_and_output(root: SlurmExecutor) -> None:
    data = os.urandom(1 << 20) * 50
    done = root.run("cat; head -c 1000000 /dev/zero >&2", input=data)
    assert done.stdout == data
    assert len(done.stderr) == 1_000_000


def test_a_command_can_be_run_in_a_callback(root: SlurmExecutor) -> None:
    seen: list[str] = []
    future = root.login.submit(calls.square, 2)
    future.add_done_callback(lambda done: seen.append(root.run(f"echo {done.result()}").stdout))
    until(lambda: seen)
    assert seen == ["4\n"]


def test_an_interrupted_run_ends_the_command(root: SlurmExecutor, tmp_path: Path) -> None:
    """As Ctrl-C does: the command is not left behind."""

    def interrupt() -> None:
        until((tmp_path / "pid").exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        root.run(f"echo $$ > '{tmp_path}/.pid'; mv '{tmp_path}/.pid' '{tmp_path}/pid'; sleep 60")
    thread.join()
    child = int((tmp_path / "pid").read_text())
    until(lambda: not lives(child))
