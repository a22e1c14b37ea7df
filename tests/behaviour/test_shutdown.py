"""The end of an executor: wanted, forgotten, or with the interpreter."""

import gc
import json
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, NoReturn

import pytest

from slurmfutures import SlurmExecutor
from tests import calls
from tests.fix_executors import AnyExecutor, Open, Opener, OpenJobs
from tests.fix_gate import Gate
from tests.processes import lives, run_script
from tests.waiting import DEADLINE, until

AFTER = "cannot schedule new futures after shutdown"


def test_leaving_the_with_block_waits_for_all_calls(open_executor: Open) -> None:
    with open_executor() as executor:
        futures = [executor.submit(calls.square, number) for number in range(5)]
    assert [future.done() for future in futures] == [True] * 5
    assert futures[4].result() == 16


def test_leaving_the_with_block_by_an_exception_cancels_what_is_pending(open_executor: Open, gate: Gate) -> None:
    def use() -> NoReturn:
        with open_executor() as executor:
            futures.append(executor.submit(calls.pass_gate, gate.folder))
            gate.wait()
            futures.append(executor.submit(calls.pass_gate, gate.folder))
            raise KeyError

    futures: list[Future[int]] = []
    with pytest.raises(KeyError):
        use()
    assert [future.cancelled() for future in futures] == [True, True]
    assert len(gate.entered()) <= 2


def test_nothing_can_be_submitted_after_shutdown(open_executor: Open) -> None:
    executor = open_executor()
    executor.shutdown()
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(calls.square, 1)
    with pytest.raises(RuntimeError, match=AFTER):
        executor.map(calls.square, [1])
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(lambda: calls)


def test_shutdown_can_be_repeated(open_executor: Open) -> None:
    executor = open_executor()
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)
    executor.shutdown()


def test_shutdown_without_waiting_returns_at_once_and_calls_go_on(open_executor: Open, gate: Gate) -> None:
    executor = open_executor()
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    executor.shutdown(wait=False)
    assert not future.done()
    with pytest.raises(RuntimeError, match=AFTER):
        executor.submit(calls.square, 1)
    gate.open()
    assert future.result(DEADLINE) == "done"


def test_shutdown_can_cancel_what_has_not_begun(open_executor: Open, gate: Gate) -> None:
    executor = open_executor(max_workers=1, login_workers=1)
    running = executor.submit(calls.pass_gate, gate.folder, "done")
    until(running.running)
    waiting = [executor.submit(calls.square, number) for number in range(3)]
    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    executor.shutdown()
    assert running.result(0) == "done"
    assert all(future.cancelled() for future in waiting)


def test_a_map_that_is_under_way_when_the_executor_is_shut_down_ends(open_executor: Open) -> None:
    with open_executor() as executor:
        results = executor.map(calls.square, range(5))
    assert list(results) == [0, 1, 4, 9, 16]


def test_a_buffered_map_takes_no_more_calls_after_shutdown(open_executor: Open) -> None:
    with open_executor() as executor:
        results = executor.map(calls.square, range(5), buffersize=2)
    with pytest.raises(RuntimeError, match=AFTER):
        list(results)


def test_a_view_that_is_shut_down_waits_for_its_own_calls_and_leaves_the_executor_open(
    open_jobs: OpenJobs, gate: Gate
) -> None:
    executor = open_jobs(max_workers=2)
    other = executor.submit(calls.pass_gate, gate.folder, 1)
    with executor.with_options(time="00:10:00") as view:
        own = view.submit(calls.square, 3)
    assert own.done()
    assert not other.done()
    with pytest.raises(RuntimeError, match=AFTER):
        view.submit(calls.square, 1)
    gate.open()
    assert executor.submit(calls.square, 2).result(DEADLINE) == 4
    assert other.result(DEADLINE) == 1


@pytest.mark.parametrize(
    "view",
    [
        lambda executor: executor.login.submit(calls.square, 1),
        lambda executor: executor.with_options(time=10).submit(calls.square, 1),
        lambda executor: executor.login.map(calls.square, [1]),
        lambda executor: executor.pilots(),
        lambda executor: executor.run("true"),
    ],
    ids=["login", "with_options", "login map", "pilots", "run"],
)
@pytest.mark.parametrize("wait", [True, False])
def test_nothing_can_be_done_through_a_view_of_a_closed_executor(
    local: SlurmExecutor, view: Callable[[SlurmExecutor], Any], wait: bool
) -> None:
    local.shutdown(wait=wait)
    with pytest.raises(RuntimeError, match=AFTER):
        view(local)


def test_a_view_made_before_is_closed_with_its_executor(local: SlurmExecutor) -> None:
    views: list[AnyExecutor] = [local.login, local.with_options(time=10), local.pilots()]
    local.shutdown()
    for view in views:
        with pytest.raises(RuntimeError, match=AFTER):
            view.submit(calls.square, 1)


def test_shutdown_waits_for_the_calls_of_all_views(local: SlurmExecutor) -> None:
    with local:
        views: list[AnyExecutor] = [local.login, local.with_options(time=10), local.pilots(1)]
        futures = [view.submit(calls.square, number) for number, view in enumerate(views)]
    assert [future.result(0) for future in futures] == [0, 1, 4]


def test_a_callback_may_shut_the_executor_down(local: SlurmExecutor, gate: Gate) -> None:
    future = local.submit(calls.pass_gate, gate.folder)
    future.add_done_callback(lambda _: local.shutdown())
    gate.open()
    future.result(DEADLINE)
    until(lambda: not lives(local._connection.greeting["pid"]))


@pytest.mark.parametrize("binding", ["login", "pilots"], indirect=True)
def test_a_callback_may_shut_a_view_down_while_others_are_pending(open_executor: Open, gate: Gate) -> None:
    executor = open_executor()
    seen: list[bool] = []
    slow = executor.submit(calls.pass_gate, gate.folder, "done")

    def shut_down(_: Future[Any]) -> None:
        gate.open()
        executor.shutdown()
        seen.append(slow.done())

    executor.submit(calls.square, 1).add_done_callback(shut_down)
    assert until(lambda: seen) == [True]
    assert slow.result(0) == "done"


def test_the_agent_ends_with_its_executor(local: SlurmExecutor) -> None:
    agent = local._connection.greeting["pid"]
    assert lives(agent)
    local.shutdown()
    assert not lives(agent)


def test_a_forgotten_executor_ends_when_its_calls_are_done(opener: Any, scheduler: str, gate: Gate) -> None:
    executor = opener.forgotten(scheduler)
    agent = executor._connection.greeting["pid"]
    future = executor.submit(calls.pass_gate, gate.folder, "done")
    gate.wait()
    there = weakref.ref(executor)
    del executor
    gc.collect()
    assert there() is None
    assert lives(agent)
    gate.open()
    assert future.result(DEADLINE) == "done"
    until(lambda: not lives(agent))


def test_a_view_keeps_its_executor(opener: Any) -> None:
    view = opener.forgotten("local").with_options(time=10)
    gc.collect()
    assert view.submit(calls.square, 3).result(DEADLINE) == 9
    view._root.shutdown()


EXIT = """
import json, sys
from slurmfutures import SlurmExecutor
from tests import calls
from tests.bindings import bound

binding, options, folder = sys.argv[1:]
root = SlurmExecutor(**json.loads(options))
executor = bound(root, binding)

class Sum:
    def __init__(self, value):
        self.value = value

def work(number, folder=folder):
    from tests import calls
    calls.mark(folder, str(number))
    return Sum(number)

def tell(future):
    assert type(future.result()) is Sum
    print("done", future.result().value, flush=True)

for number in range(3):
    executor.submit(work, number).add_done_callback(tell)
"""


@pytest.mark.parametrize(
    "ending",
    ["", "raise SystemExit(0)", "del executor, root", "executor.shutdown(wait=False)"],
    ids=["end", "exit", "forgotten", "shut down"],
)
def test_the_interpreter_exits_when_its_calls_are_done(
    binding: str, opener: Opener, tmp_path: Path, ending: str
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    options = json.dumps(opener.options(binding))
    done = run_script(tmp_path / "driver.py", EXIT + ending, binding, options, marks)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["done 0", "done 1", "done 2"]
    assert sorted(path.read_text() for path in marks.iterdir()) == ["0", "1", "2"]


def test_an_uncaught_exception_is_the_driver_s_own(binding: str, opener: Opener, tmp_path: Path) -> None:
    options = json.dumps(opener.options(binding))
    done = run_script(tmp_path / "driver.py", EXIT + "1 / 0", binding, options, tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1].startswith("ZeroDivisionError")
    assert sorted(done.stdout.splitlines()) == ["done 0", "done 1", "done 2"]


LATE = """
import atexit, sys, threading
from slurmfutures import SlurmExecutor

executor = SlurmExecutor(scheduler="local", work_dir=sys.argv[1])

def late():
    try:
        executor.submit(pow, 2, 3)
    except RuntimeError as error:
        print(error)

atexit.register(late)
"""


def test_nothing_can_be_submitted_while_the_interpreter_exits(work_dir: Path, tmp_path: Path) -> None:
    done = run_script(tmp_path / "driver.py", LATE, work_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "cannot schedule new futures after interpreter shutdown\n"


def test_cancelled_calls_do_not_keep_the_interpreter(opener: Opener, tmp_path: Path) -> None:
    text = EXIT + (
        "import os\n"
        "gate = os.path.join(folder, 'gate')\n"
        "os.makedirs(gate + '/entered')\n"
        "stuck = executor.submit(calls.pass_gate, gate)\n"
        "calls.wait_for(gate + '/entered')\n"
        "stuck.cancel()\n"
    )
    done = run_script(tmp_path / "driver.py", text, "local", json.dumps(opener.options("local")), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_cancelled_future_says_so_after_shutdown(local: SlurmExecutor, gate: Gate) -> None:
    future = local.submit(calls.pass_gate, gate.folder)
    future.cancel()
    local.shutdown()
    with pytest.raises(CancelledError):
        future.result()
