"""Paths on the cluster: what pathlib does to a folder, they do to its twin."""

import contextlib
import copy
import gc
import io
import os
import pickle
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from slurmfutures import AgentError, ClusterPath, SlurmExecutor
from tests import calls
from tests.fix_executors import Opener, OpenJobs
from tests.fix_gate import Gate
from tests.processes import lives
from tests.waiting import DEADLINE, until

AnyPath = Any  # a ClusterPath, or a Path: what is done to one is done to the other


def fill(folder: Path) -> Path:
    """Make a folder that has one of everything."""
    (folder / "deep/er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "file").write_bytes(b"one\r\ntwo\n")
    (folder / "file").chmod(0o640)
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    (folder / "latin").write_bytes("ä".encode("latin-1"))
    for name in ("deep/a.txt", "deep/b.dat", "deep/er/a.txt", ".hidden", "[x]"):
        (folder / name).write_text(name)
    (folder / "to-file").symlink_to("file")
    (folder / "to-deep").symlink_to("deep")
    (folder / "to-nothing").symlink_to("new")
    (folder / "to-itself").symlink_to("to-itself")
    return folder


def seen(folder: Path) -> dict[str, object]:
    """Return all that is in a folder: modes, contents, where links lead to."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        content = plain(path.readlink(), folder) if path.is_symlink() else path.is_file() and path.read_bytes()
        found[str(path.relative_to(folder))] = (oct(about.st_mode), content)
    return found


def plain(value: object, folder: Path) -> object:
    """Return what a result says of any twin."""
    if isinstance(value, (ClusterPath, PurePosixPath)):
        return str(value).replace(str(folder), "@")
    if isinstance(value, os.stat_result):
        return value.st_mode, value.st_nlink, value.st_uid, value.st_gid
    if isinstance(value, (list, tuple)):
        return [plain(one, folder) for one in value]
    return value


def outcome(action: Callable[[AnyPath], object], path: AnyPath, folder: Path) -> object:
    """Return what an action gives, or how it fails."""
    try:
        return plain(action(path), folder)
    except OSError as error:
        names = [name and str(name).replace(str(folder), "@") for name in (error.filename, error.filename2)]
        return type(error), error.errno, error.strerror, names
    except Exception as error:
        return type(error)


def written(path: AnyPath, mode: str, data: Any, **options: Any) -> object:
    with path.open(mode, **options) as file:
        return file.write(data)


def opened(path: AnyPath, mode: str = "r", **options: Any) -> list[Any]:
    with path.open(mode, **options) as file:
        return [file.name, file.readable(), *file]


def listed(paths: Iterator[AnyPath]) -> list[AnyPath]:
    return sorted(paths, key=str)


LOOKS: list[Callable[[AnyPath], object]] = [
    *(
        lambda p, name=name, ask=ask: getattr(p / name, ask)()
        for name in ("file", "deep", "missing", "file/below", "to-file", "to-deep", "to-nothing", "to-itself", "n\0l")
        for ask in ("exists", "is_file", "is_dir", "is_symlink", "stat", "lstat", "readlink", "read_bytes")
    ),
    lambda p: (p / "to-file").stat(follow_symlinks=False),
    lambda p: (p / ("n" * 300)).stat(),
    lambda p: listed(p.iterdir()),
    lambda p: listed((p / "to-deep").iterdir()),
    lambda p: listed((p / "empty").iterdir()),
    lambda p: listed((p / "file").iterdir()),
    lambda p: listed((p / "missing").iterdir()),
    *(
        lambda p, pattern=pattern: listed(p.glob(pattern))
        for pattern in ("*", "*.txt", "**/*.txt", "**", "**/er", "deep/*", "[[]x]", "d??p", "../*", "none", "", "/abs")
    ),
    *(lambda p, pattern=pattern: listed(p.rglob(pattern)) for pattern in ("*", "*.txt", "er/*", "none")),
    lambda p: listed((p / "missing").glob("*")),
    lambda p: (p / "file").read_text(),
    lambda p: (p / "latin").read_text("latin-1"),
    lambda p: (p / "latin").read_text("utf-8"),
    lambda p: (p / "latin").read_text("utf-8", "replace"),
    lambda p: (p / "file").read_text("no such encoding"),
    lambda p: opened(p / "file"),
    lambda p: opened(p / "file", "rb"),
    lambda p: opened(p / "file", newline=""),
    lambda p: opened(p / "latin", encoding="latin-1"),
    lambda p: opened(p / "missing"),
    lambda p: opened(p / "deep"),
    lambda p: opened(p / "file", "rb", encoding="utf-8"),
    lambda p: opened(p / "file", "nonsense"),
    lambda p: (p / "to-deep/../file").resolve(),
    lambda p: (p / "to-deep/a.txt").resolve(strict=True),
    lambda p: (p / "missing/too").resolve(),
    lambda p: (p / "missing").resolve(strict=True),
]

CHANGES: list[Callable[[AnyPath], object]] = [
    *(
        lambda p, name=name: (p / name).write_bytes(b"new content")
        for name in ("new", "file", "script", "to-file", "to-nothing", "to-itself", "to-deep", "deep", "empty/new")
    ),
    lambda p: (p / "missing/new").write_bytes(b""),
    lambda p: (p / "file/new").write_bytes(b""),
    lambda p: (p / "n\0l").write_bytes(b""),
    lambda p: (p / ("n" * 300)).write_bytes(b""),
    lambda p: (p / ("ä" * 127)).write_bytes(b"a name as long as may be"),
    lambda p: (p / "new").write_bytes("text"),
    lambda p: (p / "new").write_bytes(memoryview(b"abcdef")[::1]),
    lambda p: (p / "new").write_text("größer\n"),
    lambda p: (p / "new").write_text("größer", encoding="utf-16"),
    lambda p: (p / "new").write_text("größer", encoding="ascii", errors="ignore"),
    lambda p: (p / "new").write_text("one\ntwo\n", newline="\r\n"),
    lambda p: (p / "new").write_text(b"bytes"),
    *(
        lambda p, mode=mode, name=name: written(p / name, mode, "text\n")
        for mode in ("w", "a", "x", "wt")
        for name in ("new", "file", "to-nothing", "deep", "missing/new", "file/new")
    ),
    lambda p: written(p / "new", "wb", b"bytes"),
    lambda p: written(p / "file", "ab", b"bytes"),
    lambda p: written(p / "new", "w", "ä", encoding="latin-1"),
    lambda p: written(p / "new", "w", "a\nb", newline="\r\n"),
    lambda p: (p / "new").mkdir(),
    lambda p: (p / "new").mkdir(0o700),
    lambda p: (p / "deep").mkdir(),
    lambda p: (p / "deep").mkdir(exist_ok=True),
    lambda p: (p / "file").mkdir(exist_ok=True),
    lambda p: (p / "new/er/est").mkdir(),
    lambda p: (p / "new/er/est").mkdir(parents=True),
    lambda p: (p / "deep/er").mkdir(parents=True),
    lambda p: (p / "file/new").mkdir(parents=True),
    *(lambda p, name=name: (p / name).rmdir() for name in ("empty", "deep", "file", "missing", "to-deep")),
    *(
        lambda p, name=name: (p / name).unlink()
        for name in ("file", "to-file", "to-nothing", "missing", "empty", "file/below")
    ),
    lambda p: (p / "missing").unlink(missing_ok=True),
    lambda p: (p / "file").unlink(missing_ok=True),
    *(
        lambda p, how=how, source=source, target=target: getattr(p / source, how)(p / target)
        for how in ("rename", "replace")
        for source, target in (
            ("file", "new"),
            ("file", "script"),
            ("file", "deep"),
            ("deep", "new"),
            ("deep", "empty"),
            ("empty", "deep"),
            ("missing", "new"),
            ("file", "missing/new"),
        )
    ),
    lambda p: (p / "file").rename(str(p / "new")),
    lambda p: (p / "new").symlink_to("file"),
    lambda p: (p / "new").symlink_to(p / "file"),
    lambda p: (p / "file").symlink_to("script"),
    lambda p: (p / "missing/new").symlink_to("file"),
    lambda p: (p / "new").touch(),
    lambda p: (p / "new").touch(0o600),
    lambda p: (p / "file").touch(),
    lambda p: (p / "file").touch(exist_ok=False),
    lambda p: (p / "missing/new").touch(),
    lambda p: (p / "file").chmod(0o604),
    lambda p: (p / "to-file").chmod(0o604),
    lambda p: (p / "missing").chmod(0o604),
]

# What leaves a beginning of a file where pathlib does it, and nothing here.
FAILURES: list[Callable[[AnyPath], object]] = [
    lambda p: (p / "file").write_text("größer", encoding="ascii"),
    lambda p: written(p / "file", "wb", "text"),
    lambda p: written(p / "file", "w", "größer", encoding="ascii"),
    lambda p: written(p / "new", "w", "", encoding="no such encoding"),
]


@pytest.fixture
def folder(weird_tmp_path: Path) -> Path:
    return fill(weird_tmp_path)


# ---- as pathlib does it


def test_what_is_looked_at_is_what_pathlib_sees(jobs: SlurmExecutor, folder: Path) -> None:
    before = seen(folder)
    for number, look in enumerate(LOOKS):
        assert outcome(look, jobs.path(folder), folder) == outcome(look, folder, folder), number
    assert seen(folder) == before


def test_what_is_changed_is_what_pathlib_changes(jobs: SlurmExecutor, tmp_path: Path) -> None:
    for number, change in enumerate(CHANGES):
        ours, theirs = fill(tmp_path / f"ours-{number}"), fill(tmp_path / f"theirs-{number}")
        assert outcome(change, jobs.path(ours), ours) == outcome(change, theirs, theirs), number
        assert seen(ours) == seen(theirs), number
        shutil.rmtree(ours)
        shutil.rmtree(theirs)


def test_what_fails_changes_nothing(jobs: SlurmExecutor, folder: Path, tmp_path: Path) -> None:
    theirs = fill(tmp_path / "theirs")
    before = seen(folder)
    for number, fail in enumerate(FAILURES):
        assert outcome(fail, jobs.path(folder), folder) == outcome(fail, theirs, theirs), number
    assert seen(folder) == before


PURE: list[Callable[[AnyPath], object]] = [
    lambda p: p / "x" / PurePosixPath("y/z"),
    lambda p: p / "/abs",
    lambda p: "first" / p,
    lambda p: p / p,
    lambda p: p.joinpath("x", "y"),
    lambda p: [p.parent, p.parents[0], len(p.parents), list(p.parents)],
    lambda p: [p.name, p.stem, p.suffix, p.suffixes, list(p.parts), p.root, p.anchor, p.as_posix(), p.is_absolute()],
    lambda p: p.with_name("other"),
    lambda p: p.with_name(""),
    lambda p: p.with_stem("other"),
    lambda p: p.with_suffix(".gz"),
    lambda p: p.with_suffix("gz"),
    lambda p: p.relative_to(p.parent),
    lambda p: p.relative_to("/elsewhere"),
    lambda p: [p.is_relative_to(p.parent), p.is_relative_to("/elsewhere")],
    lambda p: [p.match("*.gz"), p.match("b/*")],
    lambda p: sorted([p / "b", p / "a", p])[0],
    lambda p: [p < p / "a", p <= p, p > p, p >= p / "a", p == p / ".", p != p, p == str(p), hash(p) == hash(p / ".")],
    lambda p: p < 3,
    lambda p: p / 3,
    lambda p: 3 / p,
]


@pytest.mark.parametrize("text", ["/a/b/c.tar.gz", "a/b/c.tar.gz", "//a/../b", "/", "."])
def test_a_path_by_itself_is_what_pathlib_makes_of_it(jobs: SlurmExecutor, text: str) -> None:
    for number, say in enumerate(PURE):
        assert outcome(say, jobs.path(text), Path("@")) == outcome(say, PurePosixPath(text), Path("@")), number
    assert repr(jobs.path(text)) == f"ClusterPath({text!r})"
    assert str(jobs.path(text)) == str(PurePosixPath(text))


def test_paths_of_different_executors_differ(local: SlurmExecutor, jobs: SlurmExecutor) -> None:
    assert local.path("/x") != jobs.path("/x")
    assert len({local.path("/x"), jobs.path("/x"), jobs.path("/x")}) == 2


# ---- where it is


def test_a_relative_path_is_where_jobs_start(jobs: SlurmExecutor, tmp_path: Path) -> None:
    folder = jobs.login.submit(os.getcwd).result(DEADLINE)
    assert str(jobs.path().absolute()) == folder
    assert str(jobs.path("a").absolute() / "..") == f"{folder}/a/.."
    assert str(jobs.path().resolve()) == os.path.realpath(folder)
    below = jobs.path(os.path.relpath(tmp_path, folder))
    assert not below.is_absolute()
    (below / "file").write_text("text")
    assert (tmp_path / "file").read_text() == "text"
    assert list(below.iterdir()) == list(below.glob("*")) == [below / "file"]
    with pytest.raises(FileNotFoundError) as caught:
        (below / "missing").read_text()
    assert caught.value.filename == str(below / "missing")


def test_home_is_the_cluster_s(jobs: SlurmExecutor) -> None:
    home, name = jobs.run("echo ~").stdout.strip(), jobs.run("id -un").stdout.strip()
    assert str(jobs.path("~")) == home
    assert str(jobs.path("~", "x")) == f"{home}/x"
    assert str(jobs.path(f"~{name}/x")) == f"{home}/x"
    assert str(jobs.path("a/~/b").relative_to("a")) == "~/b"
    assert str(jobs.path("a/~/b").relative_to("a").expanduser()) == f"{home}/b"
    assert str(jobs.path("/a").expanduser()) == "/a"
    with pytest.raises(RuntimeError, match="~nobody-of-this-name"):
        jobs.path("~nobody-of-this-name/x")


NAMES = ["new\nline", " ", "-n", "~", "quote'\"", "\udcff\udcfe", "ä", "$HOME", "*", "%s", "\\", "\x7f"]


def test_weird_names_come_and_go_as_they_are(jobs: SlurmExecutor, tmp_path: Path) -> None:
    folder = jobs.path(tmp_path)
    for name in NAMES:
        (folder / name).write_text(name, errors="surrogateescape")
        assert (tmp_path / name).read_text(errors="surrogateescape") == name
        (folder / f"{name}.moved").symlink_to(name)
        assert str((folder / f"{name}.moved").readlink()) == name
    assert {path.name for path in folder.iterdir()} == set(os.listdir(tmp_path))
    assert {path.name for path in folder.glob("*")} == set(os.listdir(tmp_path))


# ---- no path of this machine


def test_the_built_in_open_refuses_it(jobs: SlurmExecutor, tmp_path: Path) -> None:
    path = jobs.path(tmp_path / "file")
    refusing: list[Callable[..., object]] = [open, os.fspath, os.stat, Path]
    for wrong in refusing:
        with pytest.raises(TypeError):
            wrong(path)
    assert copy.copy(path) == copy.deepcopy([path])[0] == path


def test_where_an_executor_takes_paths_it_takes_these(jobs: SlurmExecutor, folder: Path, tmp_path: Path) -> None:
    there = jobs.path(folder)
    assert jobs.run("pwd", cwd=there).stdout == f"{folder}\n"
    assert jobs.run(["cat", there / "deep/a.txt"]).stdout == "deep/a.txt"
    assert jobs.put(tmp_path / folder / "file", there / "put") == str(folder / "put")
    assert jobs.get(there / "put", tmp_path / "got").read_bytes() == (folder / "file").read_bytes()


def paths_in(*values: Any, **more: Any) -> list[str]:
    values = (values[0], values[1][0], values[2]["key"], more["named"])
    return [str(path) for path in values if isinstance(path, Path)]


def test_as_an_argument_it_is_a_path(jobs: SlurmExecutor, tmp_path: Path) -> None:
    path = jobs.path(tmp_path / "file")
    path.write_text("content")
    for executor in (jobs, jobs.login):
        found = executor.submit(paths_in, path, [path], {"key": path}, named=path)
        assert found.result(DEADLINE) == [str(path)] * 4
        assert executor.submit(lambda path: path.read_text(), path).result(DEADLINE) == "content"
        assert list(executor.map(Path.exists, [path, path.parent / "missing"])) == [True, False]
    relative = jobs.path(os.path.relpath(tmp_path, str(jobs.path().absolute())), "file")
    assert jobs.login.submit(lambda path: path.read_text(), relative).result(DEADLINE) == "content"
    assert jobs.login.submit(calls.identity, [path]).result(DEADLINE) == [tmp_path / "file"]


def test_it_is_pickled_by_a_name_that_every_python_knows(local: SlurmExecutor) -> None:
    data = pickle.dumps([local.path("/a/b"), local.path("c")])
    assert b"_local" not in data
    assert pickle.loads(data) == [Path("/a/b"), Path("c").absolute()]


def test_a_call_with_it_is_found_again(open_jobs: OpenJobs, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    names: list[str] = []
    for _ in range(2):
        with open_jobs(checkpoint=tmp_path / "sweep.ckpt") as executor:
            names += executor.map(calls.mark, [executor.path(marks), executor.path(tmp_path / "marks/../marks")])
    assert names[:2] == names[2:]
    assert sorted(os.listdir(marks)) == sorted(names[:2])


# ---- contents


LARGE = 12 << 20  # bytes


def test_large_contents_there_and_back(jobs: SlurmExecutor, tmp_path: Path) -> None:
    data = os.urandom(LARGE + 17)
    path = jobs.path(tmp_path / "large")
    assert path.write_bytes(data) == len(data)
    assert (tmp_path / "large").read_bytes() == data
    assert path.read_bytes() == data
    with path.open("rb") as file:
        assert file.read(10) == data[:10]
        assert file.seek(-1000, io.SEEK_END) == len(data) - 1000
        assert file.read() == data[-1000:]
        assert file.read() == b""
        file.seek(LARGE // 2)
        assert file.read(1 << 20) == data[LARGE // 2 : LARGE // 2 + (1 << 20)]
        assert file.tell() == LARGE // 2 + (1 << 20)
        assert file.read() == data[LARGE // 2 + (1 << 20) :]
        file.seek(0)
        assert b"".join(iter(lambda: file.read(70_000), b"")) == data
    with path.open("ab") as file:
        file.write(data[:LARGE])
    assert (tmp_path / "large").stat().st_size == 2 * LARGE + 17
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


def test_a_size_of_whole_ranges_is_read_to_its_end(jobs: SlurmExecutor, tmp_path: Path) -> None:
    for size in (0, 4 << 20, 8 << 20):
        (tmp_path / "file").write_bytes(bytes(size))
        assert jobs.path(tmp_path / "file").read_bytes() == bytes(size)


def test_what_tells_no_size_is_read_to_its_end(jobs: SlurmExecutor) -> None:
    assert jobs.path("/proc/self/cmdline").read_bytes()
    with jobs.path("/proc/self/status").open() as file:
        assert "Threads" in file.read()


def test_an_open_file_is_a_file_for_whoever_takes_one(jobs: SlurmExecutor, tmp_path: Path) -> None:
    path = jobs.path(tmp_path / "archive.zip")
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("name", b"content" * 100_000)
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("name") == b"content" * 100_000


def test_a_growing_file_can_be_followed(jobs: SlurmExecutor, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log, jobs.path(tmp_path / "log").open() as file:
        assert file.read() == ""
        log.write("one\n")
        log.flush()
        until(lambda: file.readline() == "one\n")
        log.write("two\n")
        log.flush()
        until(lambda: file.readline() == "two\n")


def test_another_file_of_the_name_is_not_mistaken_for_the_rest(jobs: SlurmExecutor, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    with jobs.path(tmp_path / "file").open("rb") as file:
        assert file.read(5) == bytes(5)
        (tmp_path / "other").write_bytes(bytes(1 << 20))
        (tmp_path / "other").rename(tmp_path / "file")
        with pytest.raises(OSError, match="replaced") as caught:
            file.read()
    assert caught.value.filename == str(tmp_path / "file")


def test_devices_are_written_to_and_not_replaced(jobs: SlurmExecutor) -> None:
    assert jobs.path("/dev/null").write_bytes(b"x") == 1
    with jobs.path("/dev/null").open("a") as file:
        file.write("x")
    assert jobs.path("/dev/null").stat().st_rdev == os.stat("/dev/null").st_rdev
    assert stat.S_ISCHR(jobs.path("/dev/null").stat().st_mode)


def test_only_whole_files_are_written(jobs: SlurmExecutor, tmp_path: Path) -> None:
    for mode in ("r+", "w+b", "a+", "rw", ""):
        with pytest.raises(ValueError, match="mode="):
            jobs.path(tmp_path / "file").open(mode)
    assert os.listdir(tmp_path) == []


# ---- at once or not at all


@pytest.mark.parametrize("mode", ["w", "wb", "a", "x"])
def test_what_is_left_by_an_exception_changes_nothing(jobs: SlurmExecutor, tmp_path: Path, mode: str) -> None:
    name = "new" if mode == "x" else "file"
    (tmp_path / "file").write_text("old")
    file = jobs.path(tmp_path / name).open(mode)
    with contextlib.suppress(KeyError), file:
        file.write(b"new" if mode == "wb" else "new")
        raise KeyError
    assert file.closed
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_nothing_shows_before_the_file_is_closed(jobs: SlurmExecutor, tmp_path: Path) -> None:
    with jobs.path(tmp_path / "file").open("w") as file:
        file.write("content")
        file.flush()
        assert os.listdir(tmp_path) == []
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_what_nobody_closes_is_not_written(jobs: SlurmExecutor, tmp_path: Path, mode: str) -> None:
    file = jobs.path(tmp_path / "file").open(mode)
    file.write(b"x" if mode == "wb" else "x")
    with pytest.warns(ResourceWarning, match="was not closed, and so not written"):
        del file
    assert os.listdir(tmp_path) == []


def test_of_many_who_make_a_file_one_does(jobs: SlurmExecutor, tmp_path: Path) -> None:
    path = jobs.path(tmp_path / "file")

    def make(number: int) -> int | None:
        try:
            with path.open("x") as file:
                file.write(str(number))
            return number
        except FileExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [number for number in pool.map(make, range(16)) if number is not None]
    assert [str(number) for number in made] == [(tmp_path / "file").read_text()]
    assert os.listdir(tmp_path) == ["file"]


def test_who_reads_while_others_write_sees_one_of_the_contents(jobs: SlurmExecutor, tmp_path: Path) -> None:
    path = jobs.path(tmp_path / "file")
    contents = [bytes([number]) * 300_000 for number in range(4)]
    path.write_bytes(contents[0])
    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(path.write_bytes, contents[number % 4]) for number in range(20)]
        while not all(future.done() for future in writing):
            assert (tmp_path / "file").read_bytes() in contents
    assert {future.result() for future in writing} == {300_000}


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_an_agent_that_dies_half_way_leaves_the_old_content(local: SlurmExecutor, tmp_path: Path, signal: str) -> None:
    (tmp_path / "file").write_text("old")
    agent = local._connection.greeting["pid"]
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(local.path(tmp_path / "file").write_bytes, bytes(128 << 20))
        until(lambda: list(tmp_path.glob(".file.*.part")))
        os.kill(agent, {"KILL": 9, "TERM": 15}[signal])
        with pytest.raises(AgentError):
            writing.result(DEADLINE)
    assert (tmp_path / "file").read_text() == "old"
    if signal == "TERM":  # there is somebody to clear away
        until(lambda: os.listdir(tmp_path) == ["file"])


def test_a_full_disk_leaves_the_old_content(jobs: SlurmExecutor, small_disk: Path) -> None:
    path = jobs.path(small_disk / "file")
    path.write_bytes(b"old")
    for size in (5 << 20, 20 << 20):
        with pytest.raises(OSError, match="No space left") as caught:
            path.write_bytes(bytes(size))
        assert caught.value.filename == str(path)
        with pytest.raises(OSError, match="No space left"), path.open("ab") as file:
            file.write(bytes(size))
        assert os.listdir(small_disk) == ["file"]
        assert path.read_bytes() == b"old"


# ---- whoever asks, and whatever else there is to do


def test_a_file_system_that_hangs_holds_up_nobody_else(jobs: SlurmExecutor, tmp_path: Path) -> None:
    """A pipe is one: to open it waits for whoever has the other end."""
    pipes = [tmp_path / f"pipe-{number}" for number in range(5)]
    for pipe in pipes:
        os.mkfifo(pipe)
    with ThreadPoolExecutor(len(pipes)) as pool:
        reading = [pool.submit(jobs.path(pipe).read_text) for pipe in pipes]
        path = jobs.path(tmp_path / "file")
        for number in range(20):
            path.write_text(str(number))
            assert path.read_text() == str(number)
            assert jobs.login.submit(calls.square, number).result(DEADLINE) == number**2
        assert not any(future.done() for future in reading)
        for pipe in pipes:
            pipe.write_text(pipe.name)
        assert [future.result(DEADLINE) for future in reading] == [pipe.name for pipe in pipes]


def test_paths_can_be_used_in_a_callback(jobs: SlurmExecutor, tmp_path: Path, gate: Gate) -> None:
    texts: list[object] = []
    path = jobs.path(tmp_path / "file")

    def note(_: object) -> None:
        try:
            path.write_bytes(bytes(5 << 20))
            texts.append(len(path.read_bytes()))
            texts.append(threading.current_thread().name)
        except BaseException as error:
            texts.append(error)

    future = jobs.login.submit(calls.pass_gate, gate.folder)
    future.add_done_callback(note)
    gate.open()
    until(lambda: len(texts) == 2)
    assert texts == [5 << 20, "slurmfutures-poller"]


def test_after_shutdown_there_is_an_error(opener: Opener, tmp_path: Path) -> None:
    executor = opener.root("local")
    path = executor.path(tmp_path / "file")
    file = path.open("w")
    executor.shutdown()
    for action in (path.exists, path.read_bytes, path.mkdir, file.close):
        with pytest.raises(RuntimeError, match="after shutdown"):
            action()
    assert str(path / "x") == f"{tmp_path}/file/x"
    assert os.listdir(tmp_path) == []


def test_a_path_keeps_its_executor(opener: Opener, tmp_path: Path) -> None:
    path = opener.forgotten("local").path(tmp_path / "file")
    agent = path._cluster.root._connection.greeting["pid"]  # type: ignore[attr-defined]
    gc.collect()
    path.write_text("text")
    assert (tmp_path / "file").read_text() == "text"
    del path
    gc.collect()
    until(lambda: not lives(agent))


def test_an_executor_says_where_it_is(shared_jobs: SlurmExecutor, scheduler: str) -> None:
    assert shared_jobs.host is None if scheduler in ("local", "slurm") else "@127.0.0.1:" in str(shared_jobs.host)
    assert isinstance(shared_jobs.work_dir, ClusterPath)
    assert (shared_jobs.work_dir / "batches").is_absolute()
    assert (shared_jobs.work_dir / "id").is_file()
