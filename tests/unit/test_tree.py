"""Trees as streams: all of it arrives, nothing is written elsewhere, and what broke off goes on."""

import hashlib
import os
import random
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import tree

WEIRD = [b"a b", b"new\nline", b"'q\"", b"\xff\xfe", b"-rf", b"...", "ü".encode()]


def plant(root: Path) -> None:
    """Make a tree with all that there is."""
    root.mkdir()
    for number, name in enumerate(WEIRD):
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(bytes(number))
    (root / "empty").mkdir()
    (root / "deep/deeper").mkdir(parents=True)
    (root / "deep/deeper/large").write_bytes(random.Random(1).randbytes(3 * tree.CHUNK + 7))
    (root / "deep/run").write_text("#!/bin/sh\n")
    (root / "deep/run").chmod(0o755)
    (root / "deep.txt").write_text("sorts between")
    (root / "dangling").symlink_to("../nowhere")
    (root / "loop").symlink_to(".")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "locked").mkdir()
    (root / "locked/inside").write_text("read-only all around")
    (root / "locked/inside").chmod(0o444)
    os.utime(root / "deep/run", ns=(10**18, 10**18 + 123))
    os.utime(root / "empty", ns=(10**18, 10**18 + 7))
    (root / "locked").chmod(0o555)


def seen(root: Path) -> dict[str, Any]:
    """Return all that is to be kept of a tree."""
    found: dict[str, Any] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        about = path.lstat()
        content: Any = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        mode = 0 if path.is_symlink() else stat.S_IMODE(about.st_mode)
        found[str(path.relative_to(root))] = (stat.S_IFMT(about.st_mode), mode, about.st_mtime_ns, content)
    return found


def unpack(chunks: Iterable[bytes], target: Path, name: str = "name", *, folder: bool = True) -> Path:
    unpacker = tree.Unpacker(str(target), "t1", name, folder=folder)
    try:
        for chunk in chunks:
            unpacker.feed(chunk)
        unpacker.finish()
    except BaseException:
        unpacker.discard()
        raise
    return Path(unpacker.target)


def open_files() -> set[str]:
    """Return the names of this process's descriptors."""
    return set(os.listdir("/proc/self/fd"))


def cut(data: bytes, seed: int) -> list[bytes]:
    chosen = random.Random(seed)
    pieces = []
    while data:
        size = chosen.choice([1, 13, 1000, 300_000])
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@pytest.mark.parametrize("seed", range(5))
def test_everything_is_kept(tmp_path: Path, seed: int) -> None:
    plant(tmp_path / "source")
    target = unpack(cut(b"".join(tree.pack(str(tmp_path / "source"))), seed), tmp_path / "target")
    assert seen(target) == seen(tmp_path / "source")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_a_tree_is_measured(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a").write_bytes(bytes(10))
    (tmp_path / "source/b").symlink_to("a")
    found = tree.measure(str(tmp_path / "source"))
    assert (found.folder, found.entries, found.size) == (True, 3, 10)


def test_a_file_gets_the_name_or_into_the_folder_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    chunks = list(tree.pack(str(tmp_path / "file")))
    assert unpack(chunks, tmp_path / "new/name", "file", folder=False) == tmp_path / "new/name"
    assert unpack(chunks, tmp_path / "new", "file", folder=False) == tmp_path / "new/file"
    assert unpack(chunks, f"{tmp_path}/other/", "file", folder=False) == tmp_path / "other/file"  # type: ignore[arg-type]
    assert {path.read_text() for path in (tmp_path / "new").iterdir()} == {"content"}


def test_a_file_replaces_one_and_never_shows_half(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(2 * tree.CHUNK))
    (tmp_path / "target").write_text("before")
    unpacker = tree.Unpacker(str(tmp_path / "target"), "t1", "file", folder=False)
    for chunk in tree.pack(str(tmp_path / "file")):
        unpacker.feed(chunk)
        assert (tmp_path / "target").read_text() == "before"
    unpacker.finish()
    assert (tmp_path / "target").stat().st_size == 2 * tree.CHUNK


def test_a_folder_onto_a_folder_is_merged(tmp_path: Path) -> None:
    plant(tmp_path / "source")
    (tmp_path / "target/deep").mkdir(parents=True)
    (tmp_path / "target/deep/run").write_text("older")
    (tmp_path / "target/deep/other").write_text("stays")
    target = unpack(tree.pack(str(tmp_path / "source")), tmp_path / "target")
    assert (target / "deep/other").read_text() == "stays"
    (target / "deep/other").unlink()
    here, there = seen(target), seen(tmp_path / "source")
    for each in (here, there):
        del each["deep"]  # its time is that of the removal just now
    assert here == there


@pytest.mark.parametrize("what", ["link", "file"])
def test_nothing_is_written_through_what_is_no_folder(tmp_path: Path, what: str) -> None:
    plant(tmp_path / "source")
    (tmp_path / "target").mkdir()
    (tmp_path / "elsewhere").mkdir()
    if what == "link":
        (tmp_path / "target/deep").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "target/deep").touch()
    with pytest.raises(tree.TreeError, match="nothing is written through it"):
        unpack(tree.pack(str(tmp_path / "source")), tmp_path / "target")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def record(kind: bytes, path: bytes, content: bytes = b"", mode: int = 0o644) -> bytes:
    packed = tree._RECORD.pack(kind, mode, 0, len(path), len(content)) + path + content
    if kind == b"f":
        packed += hashlib.blake2b(content, digest_size=tree.DIGEST).digest()
    return packed


ROOT, END = record(b"d", b""), record(b"e", b"")


@pytest.mark.parametrize(
    "hostile",
    [
        record(b"f", b"../escaped"),
        record(b"f", b"/tmp/escaped"),
        record(b"f", b"a/../../escaped"),
        record(b"f", b"./a"),
        record(b"f", b"a//b"),
        record(b"f", b"nul\0l"),
        record(b"f", b"no/such/folder"),
        record(b"d", b".."),
        record(b"l", b"..", b"/etc"),
        record(b"l", b"a", b"/tmp") + record(b"f", b"a/escaped"),
        record(b"l", b"a", b"/tmp") + record(b"d", b"a"),
        record(b"d", b"a") + record(b"f", b"a"),
        record(b"l", b"a", b"/tmp") + record(b"f", b"a"),
        record(b"f", b"a") + record(b"l", b"a", b"/tmp"),
        record(b"f", b"a") + record(b"f", b"a"),
        record(b"l", b"a", b"/tmp") + record(b"l", b"a", b"/etc"),
        record(b"f", b"b") + record(b"f", b"a"),
        record(b"d", b"a") + record(b"f", b"b") + record(b"f", b"a/c"),
        record(b"d", b"a") + record(b"d", b"b") + record(b"d", b"a"),
        record(b"d", b"") + record(b"f", b"a"),
        record(b"l", b"", b"/tmp"),
        record(b"f", b""),
        record(b"l", b"a", b""),
        record(b"l", b"a", b"nul\0l"),
        tree._RECORD.pack(b"l", 0, 0, 1, 1 << 40) + b"a",
        b"".join(record(b"d", b"/".join([b"a"] * depth)) for depth in range(1, 500)),
        END + record(b"f", b"a"),
        END,
        record(b"x", b"a"),
        record(b"f", b"a", b"content")[:-1] + b"\0",
    ],
)
def test_a_hostile_stream_writes_nothing(tmp_path: Path, hostile: bytes) -> None:
    before = open_files()
    with pytest.raises(tree.TreeError):
        unpack([ROOT + hostile + END], tmp_path / "deep/target")
    assert not open_files().difference(before)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["deep"]


def test_a_stream_that_ends_too_soon_gets_no_name(tmp_path: Path) -> None:
    data = ROOT + record(b"f", b"a", b"content") + record(b"l", b"b", b"a") + END
    for end in range(len(data)):
        with pytest.raises(tree.TreeError, match="too soon"):
            unpack([data[:end]], tmp_path / "target")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(20))
def test_what_broke_off_goes_on_behind_the_last_whole_file(tmp_path: Path, seed: int) -> None:
    plant(tmp_path / "source")
    data = b"".join(tree.pack(str(tmp_path / "source")))
    chosen = random.Random(seed)
    sent = 0
    for end in sorted(chosen.randrange(len(data)) for _ in range(3)):
        unpacker = tree.Unpacker(str(tmp_path / "target"), "t1", "source", folder=True)
        stream = b"".join(tree.pack(str(tmp_path / "source"), unpacker.after))
        unpacker.feed(stream[: max(0, end - unpacker.size)])
        unpacker.close()
        sent = unpacker.size
    target = unpack_rest(tmp_path)
    assert seen(target) == seen(tmp_path / "source")
    assert sent < len(data)


def unpack_rest(folder: Path) -> Path:
    unpacker = tree.Unpacker(str(folder / "target"), "t1", "source", folder=True)
    rest = b"".join(tree.pack(str(folder / "source"), unpacker.after))
    assert len(rest) < 4 * tree.CHUNK
    unpacker.feed(rest)
    unpacker.finish()
    return Path(unpacker.target)


def test_whole_files_are_not_sent_again(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(100):
        (tmp_path / f"source/{number:03}").write_bytes(bytes(1000))
    data = b"".join(tree.pack(str(tmp_path / "source")))
    unpacker = tree.Unpacker(str(tmp_path / "target"), "t1", "source", folder=True)
    unpacker.feed(data[: len(data) // 2])
    unpacker.close()
    again = tree.Unpacker(str(tmp_path / "target"), "t1", "source", folder=True)
    rest = b"".join(tree.pack(str(tmp_path / "source"), again.after))
    assert len(data) // 2 < len(rest) < len(data) // 2 + 2500
    assert len(data) // 2 - 5000 < again.size < len(data) // 2
    again.feed(rest)
    again.finish()
    assert seen(tmp_path / "target") == seen(tmp_path / "source")


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="neither a file, a folder nor a link") as caught:
        tree.measure(str(tmp_path))
    assert caught.value.filename == str(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match="missing"):
        tree.measure(str(tmp_path / "missing"))


def test_a_file_that_becomes_shorter_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * tree.CHUNK))
    stream = tree.pack(str(tmp_path / "file"))
    next(stream)
    (tmp_path / "file").write_bytes(b"short")
    with pytest.raises(OSError, match="became shorter") as caught:
        list(stream)
    assert caught.value.filename == str(tmp_path / "file")
