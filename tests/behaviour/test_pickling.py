"""What travels, and what becomes of what does not: an error of that one call."""

import dataclasses
import enum
import importlib
import json
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from slurmfutures import PayloadError, RemoteImportError, RemoteTraceback
from tests import calls
from tests.fix_executors import AnyExecutor, Opener
from tests.processes import run_script
from tests.waiting import DEADLINE

LOCK = threading.Lock()


def still_works(executor: AnyExecutor) -> bool:
    return executor.submit(calls.square, 3).result(DEADLINE) == 9


# ---- the way there


def test_a_function_that_cannot_be_pickled_fails_its_own_future(executor: AnyExecutor) -> None:
    def locked(lock: Any = LOCK) -> None:
        """Cannot be pickled for its default."""

    future = executor.submit(locked)
    with pytest.raises(PayloadError, match="the function 'locked' cannot be pickled"):
        future.result(DEADLINE)
    assert future.job_id is None
    assert future.stdout() == ""
    assert still_works(executor)


def test_an_argument_that_cannot_be_pickled_fails_its_own_future(executor: AnyExecutor) -> None:
    for future in (executor.submit(calls.identity, LOCK), executor.submit(calls.told, lock=LOCK)):
        with pytest.raises(PayloadError, match="the arguments of a call cannot be pickled"):
            future.result(DEADLINE)
    assert still_works(executor)


@pytest.mark.parametrize("error", [ValueError("no"), calls.Stop("no"), SystemExit("no")], ids=repr)
def test_an_argument_that_cannot_be_unpickled_fails_its_own_future(executor: AnyExecutor, error: BaseException) -> None:
    bad = executor.submit(calls.identity, calls.Awkward(unpickled=error))
    said = rf"could not be unpickled on (the login )?node .*: {type(error).__name__}: no"
    with pytest.raises(PayloadError, match=said) as caught:
        bad.result(DEADLINE)
    assert "in raise_or_return" in str(caught.value.__cause__)
    assert still_works(executor)


@pytest.fixture
def ghost() -> Any:
    """A function of a module that is nowhere but in this process."""
    module = types.ModuleType("ghost_of_tests")
    exec("def f(x=1): return x", vars(module))
    sys.modules["ghost_of_tests"] = module
    yield module.f
    del sys.modules["ghost_of_tests"]


def test_a_module_that_is_missing_there_is_named(executor: AnyExecutor, ghost: Callable[..., Any]) -> None:
    for future in (executor.submit(ghost), executor.submit(calls.told, ghost)):
        with pytest.raises(RemoteImportError, match="No module named 'ghost_of_tests'") as caught:
            future.result(DEADLINE)
        assert isinstance(caught.value, ImportError)
        assert caught.value.module == "ghost_of_tests"
        assert "register_pickle_by_value(ghost_of_tests)" in str(caught.value)
        assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert still_works(executor)


def test_a_name_that_is_missing_there_is_named(
    executor: AnyExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "changed_meanwhile.py"
    source.write_text("def old(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("changed_meanwhile")
    source.write_text("def new(): pass\n")
    with pytest.raises(RemoteImportError):
        executor.submit(module.old).result(DEADLINE)


# ---- the way back


@pytest.mark.parametrize(
    "function",
    [calls.lock, calls.numbers, lambda: calls.awkward(pickled=ValueError("no"))],
    ids=["lock", "generator", "its own doing"],
)
def test_a_result_that_cannot_be_pickled_fails_its_own_future(
    executor: AnyExecutor, function: Callable[[], Any]
) -> None:
    with pytest.raises(PayloadError, match="the result of the call cannot be pickled") as caught:
        executor.submit(function).result(DEADLINE)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert still_works(executor)


@pytest.mark.parametrize("how", ["pickled", "unpickled"])
@pytest.mark.parametrize(
    "error",
    [ValueError("no"), calls.Stop("no"), SystemExit("no"), calls.Mute()],
    ids=lambda error: type(error).__name__,
)
def test_a_result_that_raises_on_its_way_fails_its_own_future(
    executor: AnyExecutor, how: str, error: BaseException
) -> None:
    bad = executor.submit(calls.awkward, **{how: error})
    with pytest.raises(PayloadError, match=f"the result of the call cannot be {how}"):
        bad.result(DEADLINE)
    assert still_works(executor)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (calls.raise_needing_two, "NeedsTwo: one and two, and that exception cannot be unpickled here"),
        (calls.raise_with_a_lock, "ValueError: it holds a lock, and that exception cannot be pickled"),
        (
            lambda: calls.raise_new(calls.UnpicklableError, "text"),
            "UnpicklableError: text, and that .* cannot be pickled",
        ),
    ],
    ids=["unpickling fails", "pickling fails", "pickling raises no Exception"],
)
def test_an_exception_that_cannot_travel_is_told_of(
    executor: AnyExecutor, function: Callable[[], Any], said: str
) -> None:
    with pytest.raises(PayloadError, match=said) as caught:
        executor.submit(function).result(DEADLINE)
    assert "Traceback" in str(caught.value.__cause__)
    assert still_works(executor)


def test_an_exception_that_takes_no_attributes_arrives_with_its_cause(executor: AnyExecutor) -> None:
    error = executor.submit(calls.raise_frozen, 7).exception(DEADLINE)
    assert isinstance(error, calls.Frozen)
    assert error.args == (7,)
    assert "in raise_frozen" in str(error.__cause__)
    assert still_works(executor)


def test_an_exception_without_a_text_arrives(executor: AnyExecutor) -> None:
    error = executor.submit(calls.raise_new, calls.Mute).exception(DEADLINE)
    assert isinstance(error, calls.Mute)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert still_works(executor)


# ---- there and back


def test_classes_that_exist_only_here_are_the_same_after_the_round_trip(executor: AnyExecutor) -> None:
    @dataclasses.dataclass
    class Point:
        x: int

    class Shade(enum.Enum):
        DARK = 1

    class LocalError(Exception):
        pass

    def moved(point: Point) -> Point:
        return Point(point.x + 1)

    def failing() -> NoReturn:
        raise LocalError("here")

    point = executor.submit(moved, Point(1)).result(DEADLINE)
    assert type(point) is Point
    assert point == Point(2)
    assert executor.submit(calls.identity, Shade.DARK).result(DEADLINE) is Shade.DARK
    assert executor.submit(calls.identity, Point).result(DEADLINE) is Point
    with pytest.raises(LocalError, match="here"):
        executor.submit(failing).result(DEADLINE)


def test_a_function_can_be_the_result(executor: AnyExecutor) -> None:
    offset = 10
    function: Callable[[int], int] = executor.submit(lambda: lambda number: number + offset).result(DEADLINE)
    assert function(1) == 11


def test_large_arguments_and_results(executor: AnyExecutor) -> None:
    data = bytes(range(256)) * (1 << 14)
    assert executor.submit(calls.identity, data).result(DEADLINE) == data


def test_arrays(executor: AnyExecutor) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(12.0).reshape(3, 4)[:, ::2]
    back = executor.submit(calls.identity, array).result(DEADLINE)
    assert back.dtype == array.dtype
    assert (back == array).all()
    assert executor.submit(numpy.sum, array).result(DEADLINE) == array.sum()


MAIN = """
import json, sys
from slurmfutures import SlurmExecutor
from tests.bindings import bound

OFFSET = 100

class Number:
    def __init__(self, value):
        self.value = value

class Refused(Exception):
    pass

def shifted(number):
    return helper(number.value)

def helper(value):
    if value < 0:
        raise Refused(value)
    return Number(value + OFFSET)

if __name__ == "__main__":
    binding, options = sys.argv[1:]
    with SlurmExecutor(**json.loads(options)) as root:
        executor = bound(root, binding)
        result = executor.submit(shifted, Number(1)).result()
        assert type(result) is Number, type(result)
        assert type(executor.submit(shifted, Number(-1)).exception()) is Refused
        print(result.value)
"""


def test_functions_and_classes_of_the_main_script(binding: str, opener: Opener, tmp_path: Path) -> None:
    done = run_script(tmp_path / "driver.py", MAIN, binding, json.dumps(opener.options(binding)))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "101\n")
