"""A module in a folder that others can write to is not imported for being in the current folder."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from slurmfutures._remote import modules
from tests import calls
from tests.fix_executors import Opener
from tests.pythons import find
from tests.waiting import DEADLINE

NAMES = (
    "json",
    "zlib",
    "signal",
    "linecache",
    "pickle",
    "slurmfutures_remote",
    "cloudpickle",
    "queue",
    "sitecustomize",
)
EVERYWHERE: dict[str, Callable[[Any], Any]] = {
    "jobs": lambda executor: executor,
    "pilots": lambda executor: executor.pilots(workers=1),
    "login": lambda executor: executor.login,
}


@pytest.fixture
def planted(common: Path) -> Path:
    """A folder with modules of the names of others, which leave a proof beside it when they are imported."""
    folder = common / "current"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(common / 'proof')!r}, 'a').write(__name__)\nraise SystemExit(9)\n"
        )
    return folder


@pytest.mark.parametrize("named", ["", os.pathsep, f"/nowhere{os.pathsep}", "."])
@pytest.mark.parametrize("where", EVERYWHERE)
def test_nothing_is_imported_from_the_current_folder(
    where: str, named: str, planted: Path, common: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = list(map(os.path.abspath, sys.path))
    monkeypatch.setattr(sys, "path", [path for path in ours if path != str(planted)])
    setup = f"cd {planted}; export PYTHONPATH={named!r}" if named else f"cd {planted}; unset PYTHONPATH"
    executor = EVERYWHERE[where](opener.root("local", setup=setup))
    assert executor.submit(calls.square, 3).result(DEADLINE) == 9
    assert not (common / "proof").exists()


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13", "3.14"])
def test_no_python_imports_from_the_current_folder(version: str, planted: Path, common: Path, opener: Opener) -> None:
    executor = opener.root("local", setup=f"cd {planted}; unset PYTHONPATH", python=quote(find(version)))
    for view in (executor, executor.login, executor.pilots(workers=1)):
        assert view.submit(pow, 3, 2).result(DEADLINE) == 9
    assert not (common / "proof").exists()


def test_the_driver_s_module_is_found_before_one_that_is_installed(
    common: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (common / name).mkdir()
        (common / name / "found_twice.py").write_text(f"def where():\n    return {name!r}\n")
    (common / "first/statistics.py").write_text("raise SystemExit(9)\n")
    monkeypatch.syspath_prepend(str(common / "first"))
    import found_twice  # type: ignore[import-not-found]

    executor = opener.root("local", setup=f"export PYTHONPATH={common}/second:$PYTHONPATH")
    try:
        for where in EVERYWHERE.values():
            assert where(executor).submit(found_twice.where).result(DEADLINE) == "first"
            assert where(executor).submit(statistics.mean, [1, 3]).result(DEADLINE) == 2
    finally:
        del sys.modules["found_twice"]


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("/a:/b", "/a:/b"),
        (":/a", "/a"),
        ("/a:", "/a"),
        ("/a:::/b", "/a:/b"),
        (".", ""),
        (".:.:/a:.:.", "/a"),
        ("/a:./b", "/a:./b"),
    ],
)
def test_empty_words_are_taken_out_of_pythonpath(given: str, cleaned: str) -> None:
    text = f'PYTHONPATH={given}\n{modules.NOT_HERE}printf "%s" "$PYTHONPATH"'
    done = subprocess.run(["/bin/bash", "-euc", text], capture_output=True, text=True, check=True)
    assert done.stdout == cleaned
