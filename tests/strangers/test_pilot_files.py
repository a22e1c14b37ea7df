"""What pools of pilots keep in work_dir is used only where no other account can have written it."""

import json
import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import box, home, meeting, payload, pool_files, trust
from slurmfutures._remote.stream import Lost
from tests.loops import Loop
from tests.strangers.accounts import Stranger

LEVELS = ["pilots", "pilots/s", "pilots/s/000001"]


@pytest.fixture
def pool(common: Path) -> Path:
    return common / "pilots/s/000001"


def use(pool: Path) -> pool_files.PoolFiles:
    """Do what an agent does with a pool's folder before it lets pilots in."""
    files = pool_files.PoolFiles(str(pool))
    files.create()
    with closing(files):
        meeting.make_key(str(pool))
        list(files.entries())
    return files


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}


def test_a_new_pool_is_closed_to_others_whatever_the_umask(common: Path, pool: Path) -> None:
    before = os.umask(0)
    try:
        files = use(pool)
        files.record({"batch": "b", "tasks": 1})
        meeting.write_agent_file(str(pool), [], [], "m")
        box.make(str(pool / "box"), "m.1", lambda: None)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((common / level).stat().st_mode) for level in LEVELS] == [0o700] * 3
    files_, folders = dict.fromkeys(["key", "ledger", "handed", "agent"], 0o600), dict.fromkeys(["last", "box"], 0o700)
    assert modes(pool) == {pool.name: 0o700, **files_, **folders}


@pytest.mark.parametrize("level", [*LEVELS, "pilots/s/000001/last"])
def test_a_folder_of_a_stranger_is_refused(common: Path, pool: Path, stranger: Stranger, level: str) -> None:
    use(pool)
    os.chown(common / level, stranger.uid, stranger.gid)
    with pytest.raises(trust.Untrusted, match=f"a folder of {stranger.name}"):
        use(pool)
    files = pool_files.PoolFiles(str(pool))
    with pytest.raises(trust.Untrusted, match=f"a folder of {stranger.name}"):
        files.leave("b.0.0", [])


@pytest.mark.parametrize("level", [*LEVELS, "pilots/s/000001/last"])
def test_a_link_in_the_place_of_a_folder_is_refused(common: Path, pool: Path, level: str) -> None:
    use(pool)
    (common / level).rename(common / "moved")
    (common / level).symlink_to(common / "moved")
    with pytest.raises(trust.Untrusted, match="in place of a folder"):
        use(pool)


def test_a_folder_that_an_earlier_version_left_open_is_closed(common: Path, pool: Path) -> None:
    use(pool)
    for level in LEVELS:
        (common / level).chmod(0o775)
    use(pool)
    assert [stat.S_IMODE((common / level).stat().st_mode) for level in LEVELS] == [0o700] * 3


@pytest.mark.parametrize("level", LEVELS)
def test_but_not_where_something_of_a_stranger_is_in_it(
    common: Path, pool: Path, stranger: Stranger, level: str
) -> None:
    use(pool)
    (common / level).chmod(0o777)
    (common / level / "planted").touch()
    stranger.own(common / level / "planted")
    with pytest.raises(trust.Untrusted, match=r"others can write to it.*chmod go-w"):
        use(pool)


def touch(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.touch(0o600)


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)


def link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


FILES: dict[str, Callable[[Path], object]] = {
    "key": lambda pool: meeting.read_key(str(pool)),
    "agent": lambda pool: meeting.read_agent_file(str(pool)),
    "handed": use,
    "ledger": lambda pool: list(pool_files.PoolFiles(str(pool)).entries()),
}


@pytest.fixture
def filled(pool: Path) -> Path:
    use(pool).record({"batch": "b", "tasks": 1})
    meeting.write_agent_file(str(pool), [["127.0.0.1", 1]], [], "m")
    return pool


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("plant", [fifo, link])
def test_what_is_no_file_is_refused_and_not_waited_for(
    filled: Path, name: str, plant: Callable[[Path], object]
) -> None:
    plant(filled / name)
    with pytest.raises(trust.Untrusted, match="in place of a file"):
        FILES[name](filled)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_stranger_is_refused(filled: Path, stranger: Stranger, name: str) -> None:
    stranger.own(filled / name)
    with pytest.raises(trust.Untrusted, match=f"a file of {stranger.name}"):
        FILES[name](filled)


def test_last_words_of_a_stranger_are_not_read(filled: Path, stranger: Stranger, common: Path) -> None:
    files = pool_files.PoolFiles(str(filled))
    record = b"".join(map(bytes, payload.pack_record(7, payload.OK, b"x")))
    for pilot in ("b.0.0", "b.1.0"):
        files.leave(pilot, [record])
    stranger.own(filled / "last" / "b.1.0")
    (filled / "last" / "b.2.0").symlink_to(filled / "last" / "b.0.0")
    os.mkfifo(filled / "last" / "b.3.0")
    assert files.left("b.0.0") is not None
    assert [files.left(f"b.{task}.0") for task in (1, 2, 3)] == [None, None, None]
    assert files.pilots() == ["b.0.0", "b.2.0", "b.3.0"]
    assert pool_files.finished(str(common), "s") == [7]


@pytest.mark.parametrize(
    "line",
    [
        b"7",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        b'{"batch":7,"tasks":1}',
        b'{"batch":"b"}',
        b'{"batch":"b","tasks":true}',
        b'{"batch":"b","tasks":1,"over":"b"}',
        b'{"came":"b","task":"0","run":0}',
        b'{"over":["b"]}',
    ],
)
def test_a_damaged_line_of_a_ledger_is_left_out(pool: Path, line: bytes) -> None:
    files = use(pool)
    files.record({"batch": "b", "tasks": 2})
    with (pool / "ledger").open("ab") as file:
        file.write(line + b"\n")
    files.record({"over": "a"})
    assert list(files.entries()) == [{"batch": "b", "tasks": 2}, {"over": "a"}]
    assert files.batches() == {"b"}


@pytest.mark.parametrize(
    "words",
    [
        {"places": [["h", 1 << 70]], "names": [], "mark": "m"},
        {"places": [["h", -1]], "names": [], "mark": "m"},
        {"places": [["h", 1e999]], "names": [], "mark": "m"},
        {"places": [], "names": [], "mark": "../m"},
        {"places": [], "names": [], "mark": "\ud800"},
        {"places": [], "names": 7, "mark": "m"},
        [],
    ],
)
def test_a_damaged_file_of_an_agent_is_none(pool: Path, words: Any) -> None:
    use(pool)
    for text in (json.dumps(words).encode(), b"[" * 60_000, b" " * 100_000, b"\xff"):
        (pool / "agent").write_bytes(text)
        assert meeting.read_agent_file(str(pool)) is None


@pytest.mark.parametrize("data", [b"", b"1234567", b"\xff" * 8, b"\xff" * 100])
def test_a_damaged_number_of_calls_is_as_high_as_it_may_be(pool: Path, data: bytes) -> None:
    use(pool)
    (pool / "handed").write_bytes(data)
    assert use(pool).handed == ((1 << 64) - 1 if len(data) >= 8 else 0)


@pytest.mark.parametrize("what", ["pilots", "pilots/s", "pilots/s/000001", "pilots/s/000001/agent"])
def test_a_pilot_goes_to_no_agent_of_a_stranger_and_says_why(
    common: Path, filled: Path, stranger: Stranger, what: str
) -> None:
    os.chown(common / what, stranger.uid, stranger.gid)
    log: list[str] = []
    with closing(Loop()) as loop:
        one = home.Home(
            folder=str(filled),
            words={},
            register=loop.register,
            unregister=loop.unregister,
            post=loop.post,
            arrived=lambda guest: log.append("arrived"),
            log=log.append,
        )
        one.start()
        loop.until(lambda: log)
        one.close()
    assert log[0].startswith("no way to the agent: ")
    assert f"of {stranger.name} (uid {stranger.uid})" in log[0]


# ---- streams through files


@pytest.fixture
def boxes(common: Path) -> Path:
    (common / "box").mkdir(0o700)
    return common / "box"


@pytest.mark.parametrize("which", ["box", "box/b", "box/b/up", "box/b/down"])
def test_a_box_of_a_stranger_is_not_claimed(boxes: Path, stranger: Stranger, which: str) -> None:
    box.make(str(boxes), "b", lambda: None)
    os.chown(boxes.parent / which, stranger.uid, stranger.gid)
    assert box.claim(str(boxes), "b", lambda: None) is None


def test_no_box_is_made_where_others_can_write(boxes: Path) -> None:
    boxes.chmod(0o777)
    with pytest.raises(trust.Untrusted, match="others can write to it"):
        box.make(str(boxes), "b", lambda: None)


def planted_by_a_stranger(path: Path, stranger: Stranger) -> None:
    path.write_bytes(b"abc")
    stranger.own(path)


def planted_link(path: Path, stranger: Stranger) -> None:
    path.with_name("secret").write_bytes(b"abc")
    path.symlink_to(path.with_name("secret"))


def planted_fifo(path: Path, stranger: Stranger) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("plant", [planted_by_a_stranger, planted_link, planted_fifo])
def test_a_file_that_was_planted_in_a_box_ends_the_connection(
    boxes: Path, stranger: Stranger, plant: Callable[[Path, Stranger], None]
) -> None:
    box.make(str(boxes), "b", lambda: None)
    agent = box.claim(str(boxes), "b", lambda: None)
    assert agent is not None
    plant(boxes / "b" / "up" / "0-3", stranger)
    said: list[str] = []

    def read() -> None:
        try:
            assert agent.receive() == b""
        except Lost as lost:
            said.append(str(lost))
            agent.close()

    agent.follow(read)
    agent.poll(1000.0)
    assert "0-3" in said[0]


@pytest.mark.parametrize(
    "name", ["0--5", "-1-3", "00-3", "0-03", "\u0660-3", "0-3 ", "1" * 30 + "-3", "0-" + "9" * 5000]
)
def test_what_is_not_named_by_us_is_no_file_of_a_box(boxes: Path, name: str) -> None:
    assert box._parse(name) is None
