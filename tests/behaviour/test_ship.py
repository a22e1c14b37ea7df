"""Users' own code on the cluster: it goes there, ahead of what is there, and anew when it is edited."""

import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

import tests
from slurmfutures import InitializerError, JobFailed, SlurmExecutor, SubmitError
from tests import calls
from tests.fix_executors import HERE, AnyExecutor, Opener, OpenJobs
from tests.fix_gate import Gate
from tests.processes import run_script
from tests.pythons import find
from tests.waiting import DEADLINE, until

PACKAGE = """
import hashlib
import os
from .inner import grown
from tests import calls

def told(number):
    return grown(number), __file__

def digest():
    with open(os.path.join(os.path.dirname(__file__), "data.bin"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

def passed(gate, number):
    calls.pass_gate(gate)
    from .late import grown
    return grown(number)
"""
INNER = "def grown(number):\n    return number + {}\n"


class Tree:
    """A package of the user's own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "shipped_of_tests"
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").write_text(PACKAGE)
        self.edit(1)

    def edit(self, step: int) -> None:
        """Have its functions add another number."""
        for name in ("inner", "late"):
            (self.package / f"{name}.py").write_text(INNER.format(step))

    def load(self) -> ModuleType:
        return importlib.import_module(self.package.name)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    tree = Tree(tmp_path / "code")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tree.folder)
    yield tree
    for name in set(sys.modules) - before:
        del sys.modules[name]


def leave(executor: SlurmExecutor, passed: Callable[..., Any], gate: Gate) -> None:
    """Leave an executor whose checkpoint remembers a call that is under way."""
    executor.submit(passed, gate.folder, 1)
    gate.wait(1)
    executor.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)


def ship_of(executor: SlurmExecutor) -> Path:
    return Path(executor._connection.greeting["work_dir"]) / "ship"


def test_shipped_code_is_found_ahead_of_all_else_wherever_calls_run(open_jobs: OpenJobs, tree: Tree) -> None:
    executor = open_jobs(ship="shipped_of_tests")
    told = tree.load().told
    for view in (executor, executor.login, executor.pilots(1)):
        number, file = view.submit(told, 1).result(DEADLINE)
        assert number == 2
        assert file.startswith(f"{ship_of(executor)}/")
    (folder,) = executor._connection.shipped_path()
    assert file == f"{folder}/shipped_of_tests/__init__.py"
    assert executor.run(["ls", folder]).stdout == "shipped_of_tests\n"
    script = "import shipped_of_tests\nprint(shipped_of_tests.__file__)"
    ours = {"PYTHONPATH": str(Path(tests.__file__).parents[1])}  # which the module imports
    assert executor.run_python(script, env=ours).stdout == f"{folder}/shipped_of_tests/__init__.py\n"


def test_edits_are_sent_with_the_next_call_and_not_to_those_before(open_jobs: OpenJobs, tree: Tree, gate: Gate) -> None:
    executor = open_jobs(ship=tree.package, login_workers=1, max_workers=3)
    module = tree.load()
    stay = [executor.login, executor.pilots(1)]
    before = [view.submit(module.passed, gate.folder, 1) for view in (executor, *stay)]
    gate.wait(3)
    tree.edit(10)
    after, *there = [view.submit(module.told, 1) for view in (executor, *stay)]
    assert after.result(DEADLINE)[0] == 11
    gate.open()
    assert [future.result(DEADLINE) for future in before] == [2, 2, 2]
    assert [future.result(DEADLINE)[0] for future in there] == [11, 11]
    tree.edit(1)
    assert [view.submit(module.told, 1).result(DEADLINE)[0] for view in (executor, *stay)] == [2, 2, 2]


def test_large_data_of_a_package_goes_along(opener: Opener, tree: Tree) -> None:
    data = random.Random(1).randbytes(5 << 20)
    (tree.package / "data.bin").write_bytes(data)
    executor = opener.root("local", ship=tree.package)
    for view in (executor, executor.login, executor.pilots(1)):
        assert view.submit(tree.load().digest).result(DEADLINE) == hashlib.sha256(data).hexdigest()


@HERE
def test_what_is_in_the_queue_keeps_the_version_it_was_submitted_with(
    open_jobs: OpenJobs, scheduler: str, tree: Tree, gate: Gate
) -> None:
    executor = open_jobs(ship=tree.package, max_workers=1)
    module = tree.load()
    if scheduler == "local":
        executor.submit(calls.pass_gate, gate.folder)
        gate.wait(1)
    queued = executor.with_options(hold=scheduler == "slurm").submit(module.told, 1)
    job_id = until(lambda: queued.job_id) or ""
    tree.edit(10)
    gate.open()
    if scheduler == "slurm":
        executor.run(["scontrol", "release", job_id])
    assert queued.result(DEADLINE)[0] == 2


def test_the_same_code_is_sent_once_and_what_was_cleared_away_again(opener: Opener, tree: Tree, tmp_path: Path) -> None:
    module, work_dir = tree.load(), tmp_path / "work"
    for _ in range(3):
        with opener.root("local", ship=[module], work_dir=work_dir) as executor:
            assert executor.submit(module.told, 1).result(DEADLINE)[0] == 2
        (folder,) = (work_dir / "ship").iterdir()
        inode = folder.stat().st_ino
        with opener.root("local", ship=[module], work_dir=work_dir) as executor:
            assert executor.submit(module.told, 2).result(DEADLINE)[0] == 3
        assert folder.stat().st_ino == inode
        (folder / "shipped_of_tests/late.py").unlink()
        with opener.root("local", ship=[module], work_dir=work_dir) as executor:
            executor._connection.shipped_path()
        assert (folder / "shipped_of_tests/late.py").exists()
        shutil.rmtree(folder)


@pytest.mark.ssh
def test_what_was_cleared_away_is_sent_again_after_a_lost_connection(
    opener: Opener, tree: Tree, tmp_path: Path
) -> None:
    executor = opener.root("paramiko", ship=tree.package, work_dir=tmp_path / "work")
    told = tree.load().told
    assert executor.login.submit(told, 1).result(DEADLINE)[0] == 2
    shutil.rmtree(ship_of(executor))
    agent = executor._connection.greeting["pid"]
    os.kill(agent, signal.SIGKILL)
    until(lambda: executor._connection.greeting["pid"] != agent)
    for view in (executor, executor.login, executor.pilots(1)):
        assert view.submit(told, 1).result(DEADLINE)[0] == 2


DRIVER = """
import json, sys
sys.path.insert(0, sys.argv[2])
import shipped_of_tests
from slurmfutures import SlurmExecutor
sys.path.pop(0)

def begin(number):
    import shipped_of_tests
    shipped_of_tests.begun = number

def both(number):
    return shipped_of_tests.told(number)[0], shipped_of_tests.begun

with SlurmExecutor(**json.loads(sys.argv[1]), ship=shipped_of_tests, initializer=begin, initargs=(7,)) as executor:
    print(*executor.submit(both, 1).result(), executor.login.submit(shipped_of_tests.told, 2).result()[0])
    print(*executor.pilots(1).submit(both, 1).result())
"""


def test_a_driver_ships_what_only_it_can_import_and_the_initializer_has_it(
    opener: Opener, scheduler: str, tmp_path: Path
) -> None:
    tree = Tree(tmp_path / "code")
    words = json.dumps(opener.options(scheduler))
    done = run_script(tmp_path / "driver.py", DRIVER, words, tree.folder)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "2 7 3\n2 7\n")


def test_modules_and_folders_are_shipped_to_an_old_python(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alone_of_tests.py").write_text(
        "def f():\n    import among_others_of_tests as m\n    return m.X, m.DATA\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "among_others_of_tests.py").write_text(
        "import os, subprocess\nX = 5\nhere = os.path.dirname(__file__)\n"
        "DATA = subprocess.check_output([os.path.join(here, 'data', 'run')]).decode()\n"
    )
    (folder / "data").mkdir()
    (folder / "data/run").write_text("#!/bin/sh\necho it runs\n")
    (folder / "data/run").chmod(0o755)
    executor = opener.root("local", ship=[tmp_path / "alone_of_tests.py", f"{folder}/"], python=quote(find("3.8")))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("alone_of_tests")
    for view in (executor, executor.login, executor.pilots(1)):
        assert view.submit(module.f).result(DEADLINE) == (5, "it runs\n")


def test_an_edit_of_shipped_code_makes_other_calls_for_a_checkpoint(opener: Opener, tree: Tree, tmp_path: Path) -> None:
    module = tree.load()

    def sweep() -> list[int]:
        with opener.root("local", ship=tree.package, checkpoint=tmp_path / "c") as executor:
            direct = executor.submit(module.told, 1).result(DEADLINE)
            return [direct[0], executor.submit(lambda: module.told(2)).result(DEADLINE)[0], direct[1]]

    first = sweep()
    assert first[:2] == [2, 3]
    (tree.package / "inner.py").write_text("# a remark\n" + INNER.format(1))
    (tree.package / "unused.py").write_text("X = 1\n")
    assert sweep() == first
    tree.edit(10)
    assert sweep()[:2] == [11, 12]


@pytest.mark.parametrize("scheduler", [pytest.param("slurm", marks=pytest.mark.slurm)], indirect=True)
def test_a_batch_of_an_earlier_driver_keeps_its_version(
    open_jobs: OpenJobs, tree: Tree, gate: Gate, tmp_path: Path
) -> None:
    def start() -> SlurmExecutor:
        return open_jobs(ship=tree.package, checkpoint=tmp_path / "c", checkpoint_key=lambda *call: "the call")

    passed = tree.load().passed
    leave(start(), passed, gate)
    tree.edit(10)
    gate.open()
    with start() as executor:
        assert executor.submit(passed, gate.folder, 1).result(DEADLINE) == 2


def test_what_cannot_be_written_there_fails_the_calls(opener: Opener, tree: Tree, tmp_path: Path) -> None:
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    (work_dir / "ship").write_text("in the way")
    executor = opener.root("local", ship=tree.package, work_dir=work_dir)
    told = tree.load().told
    with pytest.raises(SubmitError, match="the code of ship= could not be written to"):
        executor.submit(told, 1).result(DEADLINE)
    stay = [executor.login, executor.pilots(1)]
    for view in stay:
        with pytest.raises(JobFailed, match="the code of ship= could not be written to"):
            view.submit(told, 1).result(DEADLINE)
    (work_dir / "ship").unlink()
    for view in (*reversed(stay), executor):
        assert view.submit(told, 1).result(DEADLINE)[0] == 2


def test_cleaning_keeps_what_is_used_and_removes_what_is_not(
    opener: Opener, tree: Tree, gate: Gate, tmp_path: Path
) -> None:
    work_dir = tmp_path / "work"
    cleaner = opener.root("local", work_dir=work_dir)

    def clean() -> list[str]:
        os.utime(folder, (0, 0))
        poller = cleaner._connection.poller
        reply = poller.reply_to(poller.request({"op": "clean", "age": 3600, "dry": False})[1])
        return [one["name"] for one in json.loads(bytes(reply.body))["removed"] if one["kind"] == "ship"]

    executor = opener.root("local", work_dir=work_dir, checkpoint=tmp_path / "c", ship=tree.package)
    (folder,) = executor._connection.shipped_path()
    assert clean() == []  # the driver is here
    leave(executor, tree.load().passed, gate)
    (batch,) = (work_dir / "batches").iterdir()
    assert clean() == []  # a batch is there, and was used lately
    shutil.rmtree(batch)
    assert clean() == [os.path.basename(folder)]


# ---- what is missing there


@pytest.fixture
def unshipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that was found here after the executors were made, and not there."""
    (tmp_path / "unshipped_of_tests.py").write_text("def f(*_):\n    return 1\n\ndef f2():\n    return f\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("unshipped_of_tests")
    del sys.modules["unshipped_of_tests"]


def import_it() -> None:
    import unshipped_of_tests  # type: ignore[import-not-found] # noqa: F401


@pytest.fixture
def views(jobs: SlurmExecutor) -> Iterator[list[tuple[AnyExecutor, str]]]:
    """Executors of all kinds, and where their calls run."""
    with jobs.pilots(1) as pilots:
        yield [(jobs, "on node"), (jobs.login, "on the login node"), (pilots, "on node")]


def test_a_module_that_is_missing_in_a_call_is_told_of_beside_its_own_error(
    views: list[tuple[AnyExecutor, str]], unshipped: ModuleType
) -> None:
    for view, where in views:
        with pytest.raises(ModuleNotFoundError) as caught:
            view.submit(import_it).result(DEADLINE)
        assert type(caught.value) is ModuleNotFoundError
        notes = getattr(caught.value, "__notes__", None) or str(caught.value.__cause__).splitlines()
        (note,) = [line for line in notes if "ship=" in line]
        assert note.startswith("unshipped_of_tests can be imported here, but ")
        assert f"not {where}" in note
        assert "ship='unshipped_of_tests' or cloudpickle.register_pickle_by_value(unshipped_of_tests)" in note


def test_a_module_that_is_missing_for_the_initializer_is_told_of(
    opener: Opener, request: pytest.FixtureRequest
) -> None:
    executor = opener.root("local", initializer=import_it)
    request.getfixturevalue("unshipped")
    for view in (executor.pilots(1), executor):
        with pytest.raises(InitializerError, match=r"ship='unshipped_of_tests' or cloudpickle\.register_pickle_by_v"):
            view.submit(calls.square, 2).result(DEADLINE)


def test_a_module_that_is_missing_for_a_call_is_named_with_what_to_do(
    views: list[tuple[AnyExecutor, str]], unshipped: ModuleType
) -> None:
    for view, where in views:
        with pytest.raises(ImportError) as caught:
            view.submit(unshipped.f).result(DEADLINE)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"No module named 'unshipped_of_tests' {where} ")
        assert os.path.realpath(sys.executable) in line or sys.executable in line
        assert "ship='unshipped_of_tests' or cloudpickle.register_pickle_by_value(unshipped_of_tests)" in line


def test_what_is_sent_by_value_needs_no_shipping(jobs: SlurmExecutor, unshipped: ModuleType) -> None:
    cloudpickle.register_pickle_by_value(unshipped)
    try:
        assert jobs.submit(unshipped.f).result(DEADLINE) == 1
    finally:
        cloudpickle.unregister_pickle_by_value(unshipped)
