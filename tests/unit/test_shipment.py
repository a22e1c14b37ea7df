"""What is shipped: which files, under which names, which version, and what is told of what cannot be."""

import importlib.machinery
import io
import json
import math
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from slurmfutures import _ship
from slurmfutures._journal import files_of
from slurmfutures._ship import Ship, Shipment
from tests.waiting import until

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


def plant(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")


def shipped(*items: Any) -> Shipment:
    found = Ship(items).current()
    assert found is not None
    return found


def names(*items: Any) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(shipped(*items).data)) as archive:
        return set(archive.namelist())


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which modules can be imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_nothing_is_shipped_by_nothing() -> None:
    assert Ship(()).current() is None


def test_each_kind_of_item_gets_its_names(code: Path) -> None:
    plant(code, "sf_one.py", "sf_pack/__init__.py", "sf_pack/sub/deep.py", "sf_pack/data.txt", f"sf_fast{SUFFIX}")
    plant(code, "sf_space/part/__init__.py", "sf_space/other.py", "loose/a.py", "loose/b/c.py")
    package = {"sf_pack/__init__.py", "sf_pack/sub/deep.py", "sf_pack/data.txt"}
    assert names("sf_one") == names("./sf_one.py") == names(code / "sf_one.py") == {"sf_one.py"}
    assert names("sf_pack") == names("sf_pack.sub.deep") == names(Path("sf_pack")) == names("sf_pack/") == package
    assert names(__import__("sf_pack"), "sf_one") == {*package, "sf_one.py"}
    assert names("sf_pack/__init__.py") == package
    assert names("sf_fast") == names(f"./sf_fast{SUFFIX}") == {f"sf_fast{SUFFIX}"}
    assert names("sf_space") == {"sf_space/part/__init__.py", "sf_space/other.py"}
    assert names("sf_space.part") == {"sf_space/part/__init__.py"}
    assert names("sf_space.other") == {"sf_space/other.py"}
    assert names("./loose") == {"a.py", "b/c.py"}
    assert Ship("sf_one").current() == Ship(Path("sf_one.py")).current()


def test_a_module_in_several_folders_comes_from_all_of_them(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(code, "sf_space/here.py", "second/sf_space/there.py")
    monkeypatch.syspath_prepend(code / "second")
    assert names("sf_space") == {"sf_space/here.py", "sf_space/there.py"}


def test_what_nobody_wants_there_stays_here(tmp_path: Path) -> None:
    left = ["__pycache__/a.pyc", "b.pyc", ".git/config", ".hidden.py", "sub/.hg/x.py", "CVS/x", "venv/pyvenv.cfg"]
    plant(tmp_path, "a.py", f"sub/fast{SUFFIX}", "venv/lib/x.py", *left)
    (tmp_path / "sub/circle").symlink_to("..")
    (tmp_path / "nowhere.py").symlink_to("gone")
    (tmp_path / "linked.py").symlink_to("a.py")
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path) == {"a.py", f"sub/fast{SUFFIX}", "linked.py"}


def test_a_checkpoint_that_lies_in_it_makes_no_version(tmp_path: Path) -> None:
    plant(tmp_path, "a.py", "sweep.py")
    ship = Ship(tmp_path, without=files_of(tmp_path / "sweep"))
    first = ship.current()
    plant(tmp_path, "sweep", "sweep.lock", "sweep.new")
    assert ship.current() == first == shipped(tmp_path / "a.py", tmp_path / "sweep.py")


def test_a_version_is_its_content(tmp_path: Path) -> None:
    plant(tmp_path, "a.py", "run")
    ship = Ship(tmp_path)
    first = ship.current()
    assert first is not None
    (tmp_path / "a.py").touch()
    assert ship.current() is first
    (tmp_path / "a.py").write_text("# A.py\n")  # as long, and maybe at the same time
    second = ship.current()
    assert second != first
    (tmp_path / "a.py").write_text("# a.py\n")
    assert ship.current() == first
    (tmp_path / "run").chmod(0o755)
    assert ship.current() != first
    (tmp_path / "run").chmod(0o644)
    plant(tmp_path, "more.py")
    assert ship.current() not in (first, second)
    (tmp_path / "more.py").unlink()
    assert ship.current() == first


def test_looking_takes_a_share_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "a.py")
    ship = Ship(tmp_path)
    looks, clock = [], [1e6]

    def look() -> None:
        looks.append(clock[0])
        clock[0] += 0.1

    monkeypatch.setattr(ship, "_look", look)
    monkeypatch.setattr("slurmfutures._ship.time.monotonic", lambda: clock[0])
    for _ in range(100):
        ship.current()
    assert len(looks) == 3
    clock[0] += 10
    ship.current()
    assert len(looks) == 4


def test_the_code_behind_a_function_is_that_of_the_modules_that_are_imported(tmp_path: Path) -> None:
    plant(tmp_path, "p/__init__.py", "p/lonely.py", "p/deep/__init__.py", f"p/fast{SUFFIX}")
    (tmp_path / "p/a.py").write_text("from .deep import *\nfrom . import fast\ndef f(): return 1\n")
    (tmp_path / "p/deep/b.py").write_text("def g():\n    import p.c\n    return 2\n")
    (tmp_path / "p/deep/__init__.py").write_text("from ..deep.b import g\nimport json\n")
    (tmp_path / "p/c.py").write_text("from p import a\n")
    (tmp_path / "p/broken.py").write_text("def\n")
    ship = Ship(tmp_path)

    def behind(*words: str) -> bytes:
        found = ship.current()
        assert found is not None
        return found.code_behind(pickle.dumps(words))

    def after(before: bytes, *words: str) -> bytes:
        """Where looking takes long, an edit shows a little later."""
        until(lambda: behind(*words) != before)
        return behind(*words)

    assert behind("json", "q", "f") == behind() == b""
    seen, lonely, broken = behind("p.a", "f"), behind("p.lonely"), behind("p.broken")
    assert len({seen, lonely, broken}) == 3
    (tmp_path / "p/a.py").write_text("# moved\nfrom .deep import *\nfrom . import fast\n\ndef f(): return 1\n")
    (tmp_path / "p/lonely.py").write_text("X = 1\n")
    assert behind("p.a", "f") == seen
    assert after(lonely, "p.lonely") != lonely
    for name in ("p/deep/b.py", "p/c.py", "p/__init__.py", f"p/fast{SUFFIX}", "p/deep/__init__.py"):
        with (tmp_path / name).open("a") as file:
            file.write("\nX = 1\n")
        before, seen = seen, after(seen, "p.a", "f")
        assert before != seen, name
    (tmp_path / "p/broken.py").write_text("def f\n")
    assert after(broken, "p.broken") != broken


def refused(*items: Any) -> str:
    with pytest.raises(ValueError) as caught:
        Ship(items)
    return str(caught.value)


def test_what_cannot_be_found_or_shipped_is_named(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(code, "sf_one.py", "notes.txt", "my-script.py", "my-pack/__init__.py", "second/sf_one.py")
    plant(code, "sf_pack/__init__.py")
    (code / "sf_raises").mkdir()
    (code / "sf_raises/__init__.py").write_text("raise RuntimeError('not today')\n")
    assert refused("sf_none") == "ship='sf_none': there is no module of this name that can be imported here"
    assert refused("sf_one.py") == (
        "ship='sf_one.py': there is no module of this name that can be imported here; for a path write './sf_one.py'"
    )
    assert refused("sf_pack.none") == "ship='sf_pack.none': there is no module of this name that can be imported here"
    assert refused("sf_raises.none") == (
        "ship='sf_raises.none': sf_raises.none cannot be imported here: RuntimeError: not today"
    )
    assert refused("./sf_none") == f"ship='./sf_none': there is no {code}/sf_none"
    assert refused("./notes.txt") == (
        "ship='./notes.txt' is no module: that is a .py file, or a folder; other files go by put()"
    )
    assert refused("./my-script.py") == ("ship='./my-script.py' cannot be imported: 'my-script' is no name of a module")
    assert refused("./my-pack") == "ship='./my-pack' cannot be imported: 'my-pack' is no name of a module"
    assert "it has no file of its own with source (built-in)" in refused("sys")
    assert "it has no file of its own with source (none)" in refused(ModuleType("made"))
    assert "functions of the main script travel by themselves" in refused(sys.modules["__main__"])
    assert refused("sf_one", "./second/sf_one.py") == (
        f"ship='./second/sf_one.py' and ship='sf_one' both have sf_one.py: {code}/second/sf_one.py and {code}/sf_one.py"
    )
    assert names("sf_one", "./sf_one.py") == {"sf_one.py"}
    for wrong in (3, b"sf_one", math.sqrt, Path):
        with pytest.raises(TypeError, match="ship cannot hold"):
            Ship([wrong])  # type: ignore[list-item]
    monkeypatch.setattr(_ship, "MOST_BYTES", 5 << 20)
    (code / "sf_pack/weights.bin").write_bytes(bytes(6_000_000))
    assert refused(json, "sf_pack") == (
        "ship='sf_pack' has 6 MB in 2 files, and at most 5 MB in 50000 files are shipped: "
        "ship the package alone, and send data by put()"
    )


def test_what_is_gone_is_named_by_the_next_call(tmp_path: Path) -> None:
    plant(tmp_path, "a.py")
    ship = Ship(tmp_path / "a.py")
    (tmp_path / "a.py").unlink()
    with pytest.raises(ValueError, match=r"a\.py cannot be read: No such file or directory"):
        ship.current()
