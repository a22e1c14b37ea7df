"""Writing to a FIFO in a shared folder, which another account exchanges for a link meanwhile."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import files
from tests.strangers.accounts import Stranger

OLD = b"a file of the user's"


def write(path: str) -> None:
    writer = files.Writer(path, exclusive=False)
    writer.write(b"new")
    writer.finish()


def append(path: str) -> None:
    files._append({"path": path}, b"new")


WAYS = pytest.mark.parametrize("way", [write, append])


@pytest.fixture
def own(common: Path) -> Path:
    """A file of the user's that nobody else can reach."""
    folder = common / "own"
    folder.mkdir(0o700)
    file = folder / "file"
    file.write_bytes(OLD)
    return file


@pytest.fixture
def fifo(common: Path, stranger: Stranger) -> Path:
    """A FIFO of another account, in a folder of its own."""
    folder = common / "shared"
    folder.mkdir()
    path = folder / "x"
    os.mkfifo(path, 0o666)
    stranger.own(folder)
    return path


@WAYS
def test_a_link_that_takes_the_place_of_a_fifo_is_not_written_through(
    own: Path, fifo: Path, stranger: Stranger, way: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.open

    def late(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if path == str(fifo) and flags & os.O_WRONLY and not fifo.is_symlink():
            fifo.unlink()
            fifo.symlink_to(own)
            stranger.own(fifo)
        return original(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(OSError) as caught:
        way(str(fifo))
    assert caught.value.errno == errno.ESTALE
    assert own.read_bytes() == OLD


@WAYS
def test_a_link_of_another_account_to_a_fifo_is_not_followed(
    own: Path, fifo: Path, stranger: Stranger, way: Callable[[str], None]
) -> None:
    pipe = own.with_name("pipe")
    os.mkfifo(pipe)
    fifo.unlink()
    fifo.symlink_to(pipe)
    stranger.own(fifo)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(PermissionError):
            way(str(fifo))
    finally:
        os.close(reader)


@WAYS
def test_a_fifo_is_written_to(fifo: Path, way: Callable[[str], None]) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        way(str(fifo))
        assert os.read(reader, 100) == b"new"
    finally:
        os.close(reader)
