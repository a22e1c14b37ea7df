"""The connection is lost while files are looked at or written: what is harmless is done again, the rest is told."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slurmfutures import ConnectionLost, SlurmExecutor
from tests.connection.lines import Line, agent_of, until_connected_again
from tests.processes import lives
from tests.waiting import DEADLINE, until

pytestmark = pytest.mark.slurm


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A file that hangs: to open it waits for whoever has the other end."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_what_is_read_is_read_again(executor: SlurmExecutor, line: Line, pipe: Path) -> None:
    agent = agent_of(executor)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(executor.path(pipe).read_text)
        handle = os.open(pipe, os.O_WRONLY)  # returns when somebody reads
        line.cut()
        until_connected_again(executor, agent)
        until(lambda: not lives(agent))
        until(lambda: takes(handle, b"content"))  # the next agent reads
        os.close(handle)
        assert reading.result(DEADLINE) == "content"


def takes(handle: int, data: bytes) -> bool:
    """Write to a pipe, if somebody reads from it."""
    try:
        return os.write(handle, data) == len(data)
    except BrokenPipeError:
        return False


def test_what_may_have_been_done_is_told_and_not_done_again(executor: SlurmExecutor, line: Line, pipe: Path) -> None:
    file = executor.path(pipe).open("a")
    file.write("content" * 100_000)  # more than a pipe takes
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(file.close)
        handle = os.open(pipe, os.O_RDONLY)  # returns when somebody writes
        line.cut()
        with pytest.raises(ConnectionLost):
            writing.result(DEADLINE)
        os.close(handle)


def test_a_large_file_is_whole_or_old_however_often_it_breaks(
    executor: SlurmExecutor, line: Line, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("old")
    content = os.urandom(1 << 20) * 24
    agent = agent_of(executor)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(executor.path(tmp_path / "file").write_bytes, content)
        until(lambda: list(tmp_path.glob(".file.*.part")) or writing.done())
        line.cut()
        assert (tmp_path / "file").stat().st_size in (3, len(content))
        assert writing.result(DEADLINE) == len(content)
    until_connected_again(executor, agent)
    assert executor.path(tmp_path / "file").read_bytes() == content


def test_while_there_is_no_connection_everything_waits(executor: SlurmExecutor, line: Line, tmp_path: Path) -> None:
    line.down()
    with ThreadPoolExecutor(3) as pool:
        made = pool.submit(executor.path(tmp_path / "folder").mkdir)
        written = pool.submit(executor.path(tmp_path / "file").write_text, "text")
        looked = pool.submit(executor.path(tmp_path).is_dir)
        line.up()
        assert (made.result(DEADLINE), written.result(DEADLINE), looked.result(DEADLINE)) == (None, 4, True)
    assert (tmp_path / "folder").is_dir()
    assert (tmp_path / "file").read_text() == "text"
