"""Copies and files where another account, or the other side, means no good."""

import contextlib
import hashlib
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from slurmfutures import SlurmExecutor, SlurmFuturesError, _files
from slurmfutures._link import Reply
from slurmfutures._paths import ClusterPath
from slurmfutures._remote import files, places, runs, tree, trust, wire
from tests.fix_executors import Opener
from tests.strangers.accounts import Stranger
from tests.waiting import DEADLINE

SECRET = b"nobody's business"
_RACES = 150  # copies
_NAMES = ("a", "b", *map(str, range(30)))  # of files that a race may be about


@pytest.fixture
def shared(common: Path) -> Path:
    """A folder that every account may write to."""
    folder = common / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def secrets(common: Path) -> Path:
    """A folder of the user's that nobody else can enter."""
    folder = common / "secrets"
    (folder / "inner").mkdir(parents=True)
    folder.chmod(0o700)
    for name in _NAMES:
        (folder / name).write_bytes(SECRET)
        (folder / "inner" / name).write_bytes(SECRET)
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all that is below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def swap(path: Path, target: Path) -> None:
    """Put a link in the place of something."""
    path.rename(path.with_name(path.name + ".aside"))
    path.symlink_to(target)


# ---- an agent that chooses names


class HostileAgent:
    """Answers `get` with what it likes."""

    def __init__(self, words: Mapping[str, Any], stream: bytes) -> None:
        self._words = words
        self._stream = stream
        self._listener: _files.Listener | None = None

    def request(self, head: Mapping[str, Any]) -> "Future[Reply]":
        reply: Future[Reply] = Future()
        reply.set_result(Reply(self._words, b""))
        assert self._listener is not None
        self._listener({"op": "get-data"}, self._stream)
        self._listener({"op": "get-end"}, b"")
        return reply

    def wait(self, reply: "Future[Reply]") -> Reply:
        return reply.result(DEADLINE)

    def wait_for(self, condition: Callable[[], bool]) -> None: ...

    def send(self, head: Mapping[str, Any], body: wire.Buffer = b"") -> None: ...

    def listen(self, transfer: str, listener: _files.Listener) -> None:
        self._listener = listener

    def unlisten(self, transfer: str) -> None: ...

    def wait_until_connected(self) -> None: ...


def fetch(agent: HostileAgent, remote: str, local: "str | Path") -> Path:
    return _files.get(agent, remote, _files.name_of(remote), local, None)


@pytest.mark.parametrize("name", ["../../escaped", ".bashrc", "/escaped", "", ".", "..", "a/b", "nul\0l"])
def test_a_copy_has_the_name_that_was_asked_for(tmp_path: Path, name: str) -> None:
    name = f"{tmp_path}{name}" if name.startswith("/") else name  # nowhere but here, should it be used
    (tmp_path / "file").write_text("content")
    (tmp_path / "deep/into").mkdir(parents=True)
    agent = HostileAgent({"name": name, "folder": False, "size": 7}, b"".join(tree.pack(str(tmp_path / "file"))))
    assert fetch(agent, "results/today.csv", tmp_path / "deep/into") == tmp_path / "deep/into/today.csv"
    assert contents(tmp_path / "deep") == {"into": None, "into/today.csv": b"content"}


@pytest.mark.parametrize("remote", ["", ".", "..", "/", "a/..", "~", "~/", "~/x/..", "~user", "./"])
def test_a_source_without_a_name_needs_one(tmp_path: Path, remote: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("content")
    agent = HostileAgent({"name": "chosen", "folder": True, "size": 7}, b"".join(tree.pack(str(tmp_path / "source"))))
    with pytest.raises(SlurmFuturesError, match="give the name that it is to have in"):
        fetch(agent, remote, f"{tmp_path}/into/")
    assert not (tmp_path / "into").exists()
    assert fetch(agent, remote, tmp_path / "into/name") == tmp_path / "into/name"
    assert contents(tmp_path / "into") == {"name": None, "name/file": b"content"}


def test_a_name_is_that_of_the_path() -> None:
    names = {"a/b/": "b", "~/c": "c", "/d/./": "d", "~e/f": "f", "g/~h": "~h", "i\\j": "i\\j", "...": "..."}
    assert {path: _files.name_of(path) for path in names} == names


def test_a_root_that_is_not_what_was_announced_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "folder").mkdir()
    link = tree._RECORD.pack(b"l", 0, 0, 0, 4) + b"else" + tree._RECORD.pack(b"e", 0, 0, 0, 0)
    streams = {name: b"".join(tree.pack(str(tmp_path / name))) for name in ("file", "folder")}
    for folder, stream in ((True, streams["file"]), (False, streams["folder"]), (False, link), (True, link)):
        with pytest.raises(SlurmFuturesError, match="not what was announced"):
            fetch(HostileAgent({"folder": folder, "size": 7}, stream), "x", tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


class _Listing:
    """A cluster whose agent lists names that it likes."""

    folder = "/home/user"

    def __init__(self, names: bytes) -> None:
        self._names = names

    def request(self, head: Mapping[str, Any], body: Any, *, again: bool) -> "Future[Reply]":
        reply: Future[Reply] = Future()
        reply.set_result(Reply({"count": self._names.count(b"\0") + 1}, self._names))
        return reply

    def wait(self, reply: "Future[Reply]") -> Reply:
        return reply.result(DEADLINE)


@pytest.mark.parametrize("name", [b"..", b".", b"", b"/elsewhere", b"a/b", b"good\0../bad"])
def test_a_listing_names_what_is_in_the_folder(name: bytes) -> None:
    folder = ClusterPath(_Listing(name), PurePosixPath("/there"))
    with pytest.raises(SlurmFuturesError, match="as the name of a file in /there"):
        folder.iterdir()
    if name not in (b"", b"a/b"):
        with pytest.raises(SlurmFuturesError, match="as the name of a file in /there"):
            folder.glob("*")


# ---- folders that others write to


def read_stream(stream: Iterator[bytes]) -> bytes:
    """Return a stream, up to an error."""
    found = b""
    with contextlib.suppress(OSError):
        for chunk in stream:
            found += chunk
    return found


@pytest.mark.parametrize("what", ["file", "folder", "fifo"])
def test_what_is_swapped_while_a_tree_is_read_is_not_followed(
    shared: Path, secrets: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    name = "sub" if what == "folder" else "b"
    if what == "folder":
        (shared / "sub").mkdir()
    else:
        (shared / "b").write_text("open to all")
    listed, opened = os.scandir, os.open

    def change(path: Any) -> None:
        if isinstance(path, int) or os.path.basename(path) != name or (shared / f"{name}.aside").exists():
            return
        swap(shared / name, secrets if what == "folder" else secrets / "b")
        if what == "fifo":
            (shared / "b").unlink()
            os.mkfifo(shared / "b")

    def open_later(path: Any, *args: Any, **more: Any) -> int:
        change(path)
        return opened(path, *args, **more)

    def list_later(path: Any) -> Any:
        change(path)
        return listed(path)

    monkeypatch.setattr(os, "open", open_later)
    monkeypatch.setattr(os, "scandir", list_later)
    with pytest.raises(OSError, match="was replaced while it was copied") as caught:
        assert SECRET not in b"".join(tree.pack(str(shared)))
    assert caught.value.filename == str(shared / name)


def test_what_is_swapped_while_a_tree_is_merged_is_not_gone_through(
    shared: Path, secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source/inner").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "source/inner" / name).write_text("new")
    (shared / "inner").mkdir()
    before = contents(secrets)
    replace = os.replace

    def swap_first(*args: Any, **more: Any) -> None:
        if not (shared / "inner").is_symlink():
            swap(shared / "inner", secrets / "inner")
        replace(*args, **more)

    unpacker = tree.Unpacker(str(shared), "t1", "source", folder=True)
    unpacker.feed(b"".join(tree.pack(str(tmp_path / "source"))))
    monkeypatch.setattr(os, "replace", swap_first)
    with contextlib.suppress(OSError, tree.TreeError):
        unpacker.finish()
    assert (shared / "inner").is_symlink()
    assert contents(secrets) == before


@pytest.mark.parametrize("again", [False, True])
def test_what_arrives_is_not_written_through_a_link_in_place_of_its_folder(
    shared: Path, secrets: Path, tmp_path: Path, again: bool
) -> None:
    (secrets / "root").mkdir()
    (tmp_path / "source").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "source" / name).write_bytes(bytes(tree.CHUNK))
    before = contents(secrets)
    chunks = list(tree.pack(str(tmp_path / "source")))
    unpacker = tree.Unpacker(str(shared / "target"), "t1", "source", folder=True)
    unpacker.feed(chunks[0])
    (part,) = shared.iterdir()
    assert stat.S_IMODE(part.stat().st_mode) == 0o700
    swap(part, secrets)
    with contextlib.suppress(OSError, tree.TreeError):
        if again:
            unpacker.close()
            unpacker = tree.Unpacker(str(shared / "target"), "t1", "source", folder=True)
            chunks = list(tree.pack(str(tmp_path / "source"), unpacker.after))
        else:
            del chunks[0]
        for chunk in chunks:
            unpacker.feed(chunk)
        unpacker.finish()
    unpacker.discard()
    assert contents(secrets) == before


def test_what_another_account_has_put_in_the_way_is_refused(shared: Path, stranger: Stranger) -> None:
    (shared / ".target.t1.part").mkdir()
    stranger.own(shared / ".target.t1.part")
    with pytest.raises(trust.Untrusted, match=f"a folder of {stranger.name}.* and not yours"):
        tree.Unpacker(str(shared / "target"), "t1", "source", folder=True)


@pytest.fixture
def executor(opener: Opener) -> SlurmExecutor:
    return opener.root("local")


def test_a_link_of_another_account_is_not_followed_at_the_top(
    shared: Path, secrets: Path, tmp_path: Path, executor: SlurmExecutor, stranger: Stranger
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/x").write_text("new")
    (shared / "link").symlink_to(secrets)
    (shared / "file").symlink_to(secrets / "a")
    os.utime(secrets / "a", (1, 1))
    (secrets / "a").chmod(0o600)
    stranger.own(shared / "link", shared / "file")
    before = contents(secrets)
    whose = f"a link of {stranger.name}.* and not yours: name the place that it leads to"
    tries: list[Callable[[], object]] = [
        lambda: executor.put(tmp_path / "tree", shared / "link"),
        lambda: executor.put(tmp_path / "tree/x", shared / "link"),
        lambda: executor.put(tmp_path / "tree", f"{shared}/link/"),
        lambda: executor.put(tmp_path / "tree/x", shared / "link/a"),
        lambda: executor.put(shared / "link", tmp_path / "there"),
        lambda: executor.put(shared / "link/a", tmp_path / "there"),
        lambda: executor.get(tmp_path / "tree", shared / "link"),
        lambda: executor.get(tmp_path / "tree/x", f"{shared}/link/"),
        lambda: executor.get(shared / "link", tmp_path / "here"),
        lambda: executor.get(shared / "file", tmp_path / "here"),
        lambda: executor.path(shared / "file").write_text("new"),
        lambda: executor.path(shared / "link/a").write_text("new"),
        lambda: executor.path(shared / "file").open("w").close(),
        lambda: executor.path(shared / "file").open("a").close(),
        lambda: executor.path(shared / "file").chmod(0o666),
        lambda: executor.path(shared / "file").touch(),
    ]
    for number, attempt in enumerate(tries):
        with pytest.raises(PermissionError, match=whose):
            attempt()
        assert contents(secrets) == before, number
    assert ((secrets / "a").stat().st_mtime, stat.S_IMODE((secrets / "a").stat().st_mode)) == (1, 0o600)
    assert not (tmp_path / "there").exists()
    assert not (tmp_path / "here").exists()


def test_the_user_s_own_links_are_followed_at_the_top(tmp_path: Path, executor: SlurmExecutor) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "real/file").write_text("1")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to-file").symlink_to("link/file")
    (tmp_path / "up").symlink_to("real/sub/..")
    assert executor.put(tmp_path / "link", tmp_path / "there") == str(tmp_path / "there")
    assert executor.get(tmp_path / "to-file", tmp_path / "here") == tmp_path / "here"
    assert (contents(tmp_path / "there"), (tmp_path / "here").read_text()) == ({"file": b"1", "sub": None}, "1")
    (tmp_path / "here").write_text("2")
    for target in ("link", "up"):
        executor.put(tmp_path / "here", tmp_path / target)
        executor.put(tmp_path / "there", tmp_path / target)
    assert contents(tmp_path / "real") == {"file": b"1", "here": b"2", "sub": None}
    executor.path(tmp_path / "to-file").write_text("3")
    executor.path(tmp_path / "up/file2").write_text("4")
    with executor.path(tmp_path / "to-file").open("a") as file:
        file.write("+")
    executor.path(tmp_path / "to-file").chmod(0o640)
    assert stat.S_IMODE((tmp_path / "real/file").stat().st_mode) == 0o640
    assert (tmp_path / "to-file").is_symlink()
    assert contents(tmp_path / "real") == {"file": b"3+", "file2": b"4", "here": b"2", "sub": None}


def test_a_link_is_resolved_as_the_system_does(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "deep").symlink_to("a/b")
    (tmp_path / "beside").symlink_to("deep/../c")
    (tmp_path / "new").symlink_to("a/new")
    for name, place in (("beside", "a/c"), ("new", "a/new"), ("deep", "a/b"), ("deep/x", "a/b/x"), ("none", "none")):
        assert places.resolve(str(tmp_path / name)) == str(tmp_path / place)
    assert places.resolve(f"{tmp_path}/deep/..") == str(tmp_path / "a")
    assert places.resolve("/") == "/"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        places.resolve(str(tmp_path / "loop"))


_SWAPPER = """
import ctypes, os, sys
rename = ctypes.CDLL(None, use_errno=True).renameat2
names = [os.fsencode(name) for name in sys.argv[1:]]
here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
assert rename(here, names[0], here, names[1], exchange) == 0
print("up", flush=True)
while True:
    rename(here, names[0], here, names[1], exchange)
"""


@pytest.fixture
def swapper(stranger: Stranger) -> Iterator[Callable[[Path, Path], None]]:
    """Has the other account swap a name and a link to and fro, until the test is over."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(Exception):
            stranger.run([python, "-c", ""])
            break
    else:
        pytest.skip("the other account cannot run Python")
    with contextlib.ExitStack() as stack:

        def start(real: Path, link: Path) -> None:
            process = stack.enter_context(stranger.start([python, "-c", _SWAPPER, str(real), str(link)], stdout=-1))
            stack.callback(process.kill)
            assert process.stdout is not None
            if process.stdout.readline() != b"up\n":
                pytest.skip("names cannot be exchanged on this file system")

        yield start


def test_no_race_gets_a_secret_into_a_copy(
    shared: Path, secrets: Path, swapper: Callable[[Path, Path], None], stranger: Stranger
) -> None:
    for name in ("file", "sub"):
        (shared / f"{name}.link").symlink_to(secrets if name == "sub" else secrets / "a")
    (shared / "sub").mkdir()
    for name in _NAMES:
        (shared / "sub" / name).write_text("open")
    (shared / "file").write_text("open")
    stranger.own(shared)
    shared.chmod(0o777)
    swapper(shared / "sub", shared / "sub.link")
    swapper(shared / "file", shared / "file.link")
    for _ in range(_RACES):
        assert SECRET not in read_stream(tree.pack(str(shared)))


def test_no_race_writes_elsewhere(
    shared: Path, secrets: Path, tmp_path: Path, swapper: Callable[[Path, Path], None], stranger: Stranger
) -> None:
    (tmp_path / "source/inner").mkdir(parents=True)
    for name in _NAMES:
        (tmp_path / "source/inner" / name).write_text("new")
    stream = b"".join(tree.pack(str(tmp_path / "source")))
    (shared / "inner").mkdir()
    (shared / "link").symlink_to(secrets / "inner")
    stranger.own(shared)
    shared.chmod(0o777)
    before = contents(secrets)
    swapper(shared / "inner", shared / "link")
    for number in range(_RACES):
        with contextlib.suppress(OSError, tree.TreeError):
            unpacker = tree.Unpacker(str(shared), f"t{number}", "source", folder=True)
            try:
                unpacker.feed(stream)
                unpacker.finish()
            finally:
                unpacker.discard()
    assert contents(secrets) == before


# ---- modes


def test_no_copy_runs_as_somebody(tmp_path: Path, executor: SlurmExecutor) -> None:
    (tmp_path / "source/sub").mkdir(parents=True)
    for name, mode in (("program", 0o6755), ("sub", 0o1777), ("", 0o2750)):
        (tmp_path / "source" / name).touch()
        (tmp_path / "source" / name).chmod(mode)
    executor.put(tmp_path / "source", tmp_path / "there")
    executor.get(tmp_path / "source", tmp_path / "here")
    for copy in ("there", "here"):
        modes = [stat.S_IMODE((tmp_path / copy / name).stat().st_mode) for name in ("program", "sub", "")]
        assert modes == [0o755, 0o777, 0o750]


@pytest.mark.parametrize("kind", [b"f", b"d"])
def test_a_mode_from_elsewhere_is_permissions_alone(tmp_path: Path, kind: bytes) -> None:
    end = tree._RECORD.pack(b"e", 0, 0, 0, 0)
    content = hashlib.blake2b(digest_size=tree.DIGEST).digest() if kind == b"f" else b""
    stream = tree._RECORD.pack(kind, 0o107755, 0, 0, 0) + content + end
    fetch(HostileAgent({"folder": kind == b"d", "size": 0}, stream), "x", tmp_path / "x")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o755


def test_what_a_shared_folder_hands_down_stays(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project").chmod(0o2775)
    (tmp_path / "source/sub").mkdir(parents=True)
    for target in ("project/new", "project"):
        unpacker = tree.Unpacker(str(tmp_path / target), "t1", "source", folder=True)
        unpacker.feed(b"".join(tree.pack(str(tmp_path / "source"))))
        unpacker.finish()
    for name in ("project", "project/new", "project/new/sub", "project/sub"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o7000 == 0o2000, name


def staged(folder: Path) -> Path:
    (part,) = [path for path in folder.iterdir() if path.name.endswith(".part")]
    return part


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_what_is_written_is_never_more_open_than_what_it_replaces(tmp_path: Path, mode: int) -> None:
    (tmp_path / "file").write_text("before")
    (tmp_path / "file").chmod(mode)
    writer = files.Writer(str(tmp_path / "file"), exclusive=False)
    writer.write(SECRET)
    assert stat.S_IMODE(staged(tmp_path).stat().st_mode) == 0o600
    writer.finish()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert contents(tmp_path) == {"file": SECRET}


@pytest.mark.parametrize(("mode", "kept"), [(0o4755, 0o755), (0o2755, 0o755), (0o6777, 0o777), (0o1644, 0o644)])
def test_what_is_written_runs_as_nobody_else(tmp_path: Path, executor: SlurmExecutor, mode: int, kept: int) -> None:
    path = tmp_path / "file"
    for write in (
        lambda: executor.path(path).write_text("new"),
        lambda: executor.path(path).write_bytes(bytes(5 << 20)),
        lambda: executor.path(path).open("w").close(),
    ):
        path.write_text("before")
        path.chmod(mode)
        write()
        assert stat.S_IMODE(path.stat().st_mode) == kept


def test_a_group_that_cannot_be_kept_is_given_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("before")
    os.chown(tmp_path / "file", -1, os.getgid() + 1)
    (tmp_path / "file").chmod(0o664)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    writer = files.Writer(str(tmp_path / "file"), exclusive=False)
    writer.write(b"new")
    writer.finish()
    about = (tmp_path / "file").stat()
    assert (about.st_gid, stat.S_IMODE(about.st_mode)) == (os.getgid(), 0o644)


def access_list(*named: tuple[int, int]) -> bytes:
    """Return a POSIX access list: owner rw, these users, the group nothing, a mask of rw, others nothing."""
    entries = [(1, 6, 0xFFFFFFFF), *((2, mode, user) for user, mode in named), (4, 0, 0xFFFFFFFF)]
    entries += [(0x10, 6, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_an_access_list_is_kept_and_none_is_handed_down(tmp_path: Path) -> None:
    with_list, without = tmp_path / "with", tmp_path / "without"
    with_list.write_text("before")
    without.write_text("before")
    without.chmod(0o660)
    name = "system.posix_acl_access"
    try:
        os.setxattr(with_list, name, access_list((12345, 4)))
        os.setxattr(tmp_path, "system.posix_acl_default", access_list((54321, 6)))
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")
    for path in (with_list, without):
        writer = files.Writer(str(path), exclusive=False)
        writer.write(b"new")
        writer.finish()
    assert os.getxattr(with_list, name) == access_list((12345, 4))
    assert name not in os.listxattr(without)
    assert stat.S_IMODE(without.stat().st_mode) == 0o660


def test_a_list_that_cannot_be_kept_leaves_the_group_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    try:
        os.setxattr(path, "system.posix_acl_access", access_list((12345, 4)))
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setxattr", refuse)
    writer = files.Writer(str(path), exclusive=False)
    writer.write(b"new")
    writer.finish()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_is_written_in_the_folder_that_it_began_in(shared: Path, secrets: Path) -> None:
    (shared / "sub").mkdir()
    before = contents(secrets)
    writer = files.Writer(str(shared / "sub/a"), exclusive=False)
    writer.write(b"new")
    swap(shared / "sub", secrets)
    writer.finish()
    assert contents(secrets) == before
    assert contents(shared / "sub.aside") == {"a": b"new"}


# ---- scripts


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/x", "nul\0l"])
def test_a_script_is_written_in_its_own_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "login").mkdir()
    started = runs.Runs(lambda action: action(), "false", str(tmp_path / "login"))
    head = {"script": {"name": name, "args": []}, "split": 1}
    with pytest.raises(ValueError, match="is not the name of a script"):
        started.message(1, head, b"x", lambda *_: None)
    assert contents(tmp_path) == {"login": None}
