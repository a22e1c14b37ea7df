"""Files to the login node and back."""

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from slurmfutures import SlurmExecutor, SlurmFuturesError
from tests import calls
from tests.fix_gate import Gate
from tests.waiting import DEADLINE, until


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with some files."""
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    for number in range(300):
        (folder / f"deep/{number}").write_bytes(os.urandom(number))
    (folder / "large").write_bytes(os.urandom(20 << 20))
    (folder / "link").symlink_to("deep/7")
    return folder


def same(first: Path, second: Path) -> bool:
    return subprocess.run(["diff", "-r", "--no-dereference", first, second], check=False).returncode == 0


def test_a_tree_there_and_back(jobs: SlurmExecutor, source: Path, tmp_path: Path) -> None:
    there = jobs.put(source, tmp_path / "there")
    assert there == str(tmp_path / "there")
    assert same(source, tmp_path / "there")
    assert jobs.get(there, tmp_path / "back") == tmp_path / "back"
    assert same(source, tmp_path / "back")
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {"source", "there", "back"}
    assert not [name for name in left if name.endswith(".part")]


def test_a_file_into_a_folder(jobs: SlurmExecutor, source: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert jobs.put(source / "large", tmp_path / "folder") == str(tmp_path / "folder/large")
    assert jobs.get(tmp_path / "folder/large", f"{tmp_path}/new/") == tmp_path / "new/large"
    assert (tmp_path / "new/large").read_bytes() == (source / "large").read_bytes()


def test_a_folder_gets_into_what_ends_in_a_slash_each_time(jobs: SlurmExecutor, source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert jobs.put(source, f"{tmp_path}/into/") == str(tmp_path / "into/source")
        assert [path.name for path in (tmp_path / "into").iterdir()] == ["source"]
    assert same(source, tmp_path / "into/source")


def test_progress_is_told_in_the_caller_s_thread(jobs: SlurmExecutor, source: Path, tmp_path: Path) -> None:
    total = sum(path.lstat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    told: list[tuple[int, int]] = []
    threads = set()

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        threads.add(threading.current_thread())

    for copy in (jobs.put, jobs.get):
        told.clear()
        copy(source, tmp_path / copy.__name__, progress=progress)
        assert told == sorted(told)
        assert (told[0], told[-1]) == ((0, total), (total, total))
        assert len(told) > 5
    assert threads == {threading.current_thread()}


def test_home_is_the_login_node_s(jobs: SlurmExecutor, source: Path, tmp_path: Path) -> None:
    home = jobs.run("echo ~").stdout.strip()
    name = f"slurmfutures-test-{os.getpid()}"
    try:
        assert jobs.put(source / "deep", f"~/{name}") == f"{home}/{name}"
        jobs.get(f"~/{name}", tmp_path / "back")
        assert same(source / "deep", tmp_path / "back")
    finally:
        jobs.run(f"rm -rf ~/{name}")


def test_what_is_missing_is_named(jobs: SlurmExecutor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        jobs.put(tmp_path / "missing", tmp_path / "there")
    assert caught.value.filename == str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as caught:
        jobs.get(tmp_path / "missing", tmp_path / "here")
    assert caught.value.filename == str(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        jobs.put(tmp_path / "file", tmp_path / "file/below")
    with pytest.raises(FileExistsError):
        jobs.get(tmp_path / "file", tmp_path / "file/below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_in_the_target_is_not_gone_through(jobs: SlurmExecutor, source: Path, tmp_path: Path) -> None:
    for copy in (jobs.put, jobs.get):
        target = tmp_path / copy.__name__
        target.mkdir()
        (target / "deep").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(SlurmFuturesError, match="nothing is written through it"):
            copy(source, target)
        assert not (tmp_path / "elsewhere").exists()


def test_calls_run_while_files_are_on_their_way(jobs: SlurmExecutor, source: Path, tmp_path: Path) -> None:
    results: list[int] = []

    def progress(done: int, total: int) -> None:
        results.append(jobs.login.submit(calls.square, 3).result(DEADLINE))

    jobs.put(source, tmp_path / "there", progress=progress)
    assert set(results) == {9}


def test_what_is_interrupted_leaves_nothing(jobs: SlurmExecutor, source: Path, tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    for copy in (jobs.put, jobs.get):
        with pytest.raises(KeyboardInterrupt):
            copy(source, tmp_path / "target", progress=progress)
        # Handed over in order: what was interrupted is over when this is.
        jobs.put(source / "link", tmp_path / "after")
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".part")) == ["after", "source"]


def test_files_may_be_copied_in_a_callback(jobs: SlurmExecutor, source: Path, tmp_path: Path, gate: Gate) -> None:
    copied: list[Path] = []
    future = jobs.login.submit(calls.pass_gate, gate.folder)
    errors: list[BaseException] = []

    def copy(_: object) -> None:
        try:
            copied.append(jobs.get(source / "deep/7", tmp_path / "seven"))
        except BaseException as error:
            errors.append(error)

    future.add_done_callback(copy)
    gate.open()
    until(lambda: copied or errors)
    assert (len(copied), errors) == (1, [])


def test_a_full_disk_over_there_is_told_and_left_as_it_was(jobs: SlurmExecutor, source: Path, small_disk: Path) -> None:
    with pytest.raises(OSError) as caught:
        jobs.put(source, small_disk / "there")
    assert caught.value.errno == errno.ENOSPC
    assert list(small_disk.iterdir()) == []
