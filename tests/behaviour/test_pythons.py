"""The cluster's half under every Python that may be there; missing ones are skipped."""

import builtins
import functools
import math
import os
import platform
import sys
from pathlib import Path
from shlex import quote

import pytest

from slurmfutures import JobFailed, PilotsExecutor, PythonMismatch, RemoteTraceback, SlurmExecutor
from tests import calls
from tests.fix_executors import Opener
from tests.pythons import find
from tests.waiting import DEADLINE, until

HERE = sys.version_info[:2]


@pytest.fixture(scope="module", params=["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def python(request: pytest.FixtureRequest) -> str:
    return find(request.param)


@pytest.fixture(scope="module")
def executor(module_opener: Opener, python: str) -> SlurmExecutor:
    return module_opener.root("local", python=quote(python))


@pytest.fixture(scope="module")
def pilots(executor: SlurmExecutor) -> PilotsExecutor:
    return executor.pilots(1)


@pytest.fixture
def other(executor: SlurmExecutor) -> SlurmExecutor:
    """An executor whose Python is not ours."""
    if tuple(executor._connection.greeting["python"][:2]) == HERE:
        pytest.skip("this is our own version")
    return executor


def test_calls_run_under_it_wherever_they_do(executor: SlurmExecutor, pilots: PilotsExecutor, python: str) -> None:
    for view in (executor, executor.login, pilots):
        assert view.submit(math.sqrt, 2.25).result(DEADLINE) == 1.5
        version = view.submit(platform.python_version).result(DEADLINE)
        assert list(map(int, version.split("."))) == executor._connection.greeting["python"]
        assert view.submit(os.getpid).result(DEADLINE) != os.getpid()
        assert list(view.map(math.gcd, range(6), [6] * 6, chunksize=2)) == [6, 1, 2, 3, 2, 1]
    assert os.path.realpath(executor._connection.greeting["executable"]) == os.path.realpath(python)


def test_functions_of_importable_modules_run_under_it(executor: SlurmExecutor, pilots: PilotsExecutor) -> None:
    for view in (executor, executor.login, pilots):
        assert view.submit(calls.told, 1, two=[2]).result(DEADLINE) == ((1,), {"two": [2]})


def test_exceptions_come_back_from_it(executor: SlurmExecutor, pilots: PilotsExecutor) -> None:
    for view in (executor, executor.login, pilots):
        with pytest.raises(ValueError, match="invalid literal for int") as caught:
            view.submit(int, "x").result(DEADLINE)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert isinstance(view.submit(sys.exit, 3).exception(DEADLINE), SystemExit)


def test_output_comes_back_from_it(executor: SlurmExecutor) -> None:
    future = executor.submit(print, "hellö")
    future.result(DEADLINE)
    assert future.stdout() == "hellö\n"


def test_jobs_under_it_die_with_a_reason(executor: SlurmExecutor, pilots: PilotsExecutor) -> None:
    for view in (executor, executor.login, pilots):
        error = view.submit(os._exit, 3).exception(DEADLINE)
        assert isinstance(error, JobFailed)
        assert error.exit_code == 3


def test_what_cannot_be_pickled_under_it_is_told(executor: SlurmExecutor, pilots: PilotsExecutor) -> None:
    for view in (executor, executor.login, pilots):
        with pytest.raises(Exception, match="the result of the call cannot be pickled"):
            view.submit(calls.lock).result(DEADLINE)


def test_calls_under_it_can_be_cancelled(executor: SlurmExecutor, pilots: PilotsExecutor, tmp_path: Path) -> None:
    for view in (executor, executor.login, pilots):
        future = view.submit(calls.wait_for, str(tmp_path / "never"))
        until(future.running)
        assert future.cancel()
    for view in (executor.login, pilots):
        assert view.submit(math.sqrt, 4).result(DEADLINE) == 2


def test_commands_run_beside_it(executor: SlurmExecutor) -> None:
    assert executor.run(["echo", "a b"]).stdout == "a b\n"


def test_initializers_run_under_it(module_opener: Opener, python: str, tmp_path: Path) -> None:
    executor = module_opener.root("local", python=quote(python), initializer=os.chdir, initargs=(str(tmp_path),))
    for view in (executor, executor.pilots(1)):
        assert view.submit(os.getcwd).result(DEADLINE) == str(tmp_path)


def test_a_function_that_travels_as_bytecode_is_refused_before_anything_is_submitted(
    opener: Opener, python: str, tmp_path: Path, other: SlurmExecutor
) -> None:
    offset = 1
    executor = opener.root("local", python=quote(python), work_dir=tmp_path / "work")
    for view in (executor, executor.login, executor.pilots(1)):
        futures = [
            view.submit(lambda: offset),
            view.submit(functools.partial(lambda x: x, 2)),
            view.submit(builtins.map, lambda x: x, [1]),
            view.submit(functools.partial(builtins.map, lambda x: x), [1]),
        ]
        for future in futures:
            with pytest.raises(
                PythonMismatch, match=r"travels as bytecode of Python \d\.\d+, which Python \d\.\d+"
            ) as caught:
                future.result(0)
            assert "python=" in str(caught.value)
        with pytest.raises(PythonMismatch):
            list(view.map(lambda x: x, [1, 2]))
        with pytest.raises(PythonMismatch):
            list(view.map(builtins.map, [lambda x: x], [[1]]))
    assert not list((tmp_path / "work").glob("batches/*"))
    with pytest.raises(PythonMismatch, match="the initializer"):
        executor.pilots(initializer=lambda: None)
    with pytest.raises(PythonMismatch, match="the initializer"):
        opener.root("local", python=quote(python), initializer=lambda: None)


def test_a_class_that_travels_as_bytecode_is_refused(other: SlurmExecutor) -> None:
    class Local:
        pass

    with pytest.raises(PythonMismatch):
        other.submit(calls.identity, Local()).result(DEADLINE)
    with pytest.raises(PythonMismatch):
        other.submit(Local).result(DEADLINE)


@pytest.mark.parametrize("version", ["3.6", "3.7"])
def test_a_python_that_is_too_old_is_named(version: str, tmp_path: Path) -> None:
    python = find(version)
    with pytest.raises(PythonMismatch, match=rf"is Python {version}, which is too old: name one of 3\.8"):
        SlurmExecutor(scheduler="local", python=quote(python), work_dir=tmp_path)
