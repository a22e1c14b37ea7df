"""What jobs have printed: which files are read, how much of them, and how that becomes a text."""

import os
import random
import tracemalloc
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import ConnectionLost, SlurmFuturesWarning, _output
from slurmfutures._link import Reply
from slurmfutures._remote import logs, trust

REST = "stdout(limit=None) or stderr(limit=None) returns all"


@pytest.mark.parametrize(("limit", "tail"), [(0, b""), (3, b"789"), (10, b"0123456789"), (99, b"0123456789")])
def test_the_tail_of_a_file(tmp_path: Path, limit: int, tail: bytes) -> None:
    (tmp_path / "log").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("log")
    for name in ("log", "link"):
        assert logs.tail(str(tmp_path / name), limit) == (10 - len(tail), tail)


@pytest.mark.parametrize("name", ["none", "", "fifo", "to-fifo", "/dev/zero", "/dev/null", "dangling", "loop"])
def test_the_tail_of_no_file_is_nothing(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    for link, target in (("to-fifo", "fifo"), ("dangling", "pipe:[123]"), ("loop", "loop")):
        (tmp_path / link).symlink_to(target)
    assert logs.tail(str(tmp_path / name), 10) == (0, b"")
    assert logs.held_log(str(tmp_path / name)) is None


def test_what_is_no_file_of_the_user_s_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o640)
    for path, what in ((tmp_path / "fifo", "a FIFO of .*, mode 0640"), (Path("/dev/zero"), "a special file of root")):
        with pytest.raises(trust.Untrusted, match=f"{what}.* on {os.uname().nodename}, not a file of yours"):
            logs.open_log(str(path))
    words, body = logs.read(str(tmp_path / "fifo"), {"offset": 0, "size": 10, "same": None, "tail": 0})
    assert (words["size"], body) == (0, b"")
    assert words["refused"].startswith(f"{tmp_path}/fifo: it is a FIFO")
    words, body = logs.read("/dev/null", {"offset": 0, "size": 10, "same": None, "tail": 0})
    assert (words, body) == ({"size": 0, "offset": 0, "same": None}, b"")


def test_no_more_than_a_range_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(3 * logs.RANGE))
    words, body = logs.read(str(tmp_path / "log"), {"offset": None, "size": 1 << 40, "same": None, "tail": 1 << 40})
    assert (words["size"], words["offset"], len(body)) == (3 * logs.RANGE, 0, logs.RANGE)
    os.replace(tmp_path / "log", tmp_path / "before")
    (tmp_path / "log").write_bytes(bytes(10))
    assert logs.read(str(tmp_path / "log"), {"offset": 0, "size": 10, "same": words["same"], "tail": 0})[1] == b""


class Files:
    """An agent with these logs, by number; what it is asked for is counted."""

    def __init__(self, folder: Path, *contents: bytes) -> None:
        self._folder = folder
        for number, content in enumerate(contents):
            (folder / str(number)).write_bytes(content)
        self.asked: list[Mapping[str, Any]] = []
        self.lost_after = 1 << 60  # requests
        self.found = [_output.Log({"task": number}) for number in range(len(contents))]

    @property
    def agent(self) -> _output.Agent:
        return _output.Agent(self.ask, lambda reply: reply.result(0))

    def ask(self, head: Mapping[str, Any]) -> "Future[Reply]":
        self.asked.append(head)
        reply: Future[Reply] = Future()
        if len(self.asked) > self.lost_after:
            reply.set_exception(ConnectionLost("lost"))
        else:
            words, body = logs.read(str(self._folder / str(head["task"])), head)
            reply.set_result(Reply(dict(words, part=0), memoryview(body)))
        return reply


def noted(count: int, text: str) -> str:
    return f"[slurmfutures: the first {count} bytes are left out: {REST}]\n{text}"


def test_all_of_a_log_or_its_end(tmp_path: Path) -> None:
    data = bytes(random.Random(1).choices(range(32, 127), k=3 * logs.RANGE + 100))
    files = Files(tmp_path, data)
    text = data.decode()
    for limit in (None, len(data), len(data) + 1):
        assert _output.read(files.agent, files.found, limit) == text
    for limit in (0, 1, 100, logs.RANGE - 1, logs.RANGE, logs.RANGE + 1, len(data) - 1):
        assert _output.read(files.agent, files.found, limit) == noted(len(data) - limit, text[len(data) - limit :])
    assert max(head["size"] for head in files.asked) == logs.RANGE
    assert b"".join(_output.ranges(files.agent, {"task": 0})) == data
    with pytest.raises(ValueError, match="limit=-1: it is a number of bytes"):
        _output.read(files.agent, files.found, -1)


def test_a_short_log_is_one_request(tmp_path: Path) -> None:
    files = Files(tmp_path, b"short")
    assert _output.read(files.agent, files.found, logs.LIMIT) == "short"
    assert len(files.asked) == 1


@pytest.mark.parametrize("seed", range(20))
def test_several_logs_have_one_limit(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    data = [b"%d" % number * chosen.choice([0, 1, 100, 300_000, logs.RANGE]) for number in range(7)]
    files = Files(tmp_path, *data)
    files.found[3] = _output.Log({}, lambda: data[3].decode())
    text = b"".join(data).decode()
    assert _output.read(files.agent, files.found, None) == text
    for limit in (0, 3, 1000, len(text) // 2):
        left = max(0, len(text) - limit)
        assert _output.read(files.agent, files.found, limit) == (noted(left, text[left:]) if left else text)
    assert _output.read(files.agent, [], 10) == ""


def test_a_character_is_not_cut_in_two(tmp_path: Path) -> None:
    text = "ä€😀" * 200_000  # ranges end within characters
    files = Files(tmp_path, text.encode(), b"\xe2\x82", b"\x80 odd\xff")
    assert _output.read(files.agent, files.found[:1], None) == text
    for limit in range(1, 12):
        end = _output.read(files.agent, files.found[:1], limit).partition("\n")[2]
        assert end == text.encode()[-limit:].decode(errors="ignore")
    assert _output.read(files.agent, files.found[1:], None) == "\ufffd\ufffd odd\ufffd"


@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("end", [None, "the end"])
def test_what_is_kept_stands_in_for_what_is_lost(tmp_path: Path, after: int, end: str | None) -> None:
    files = Files(tmp_path, bytes(3 * logs.RANGE))
    files.lost_after = after
    found = [_output.Log({"task": 0}, lambda: end if len(files.asked) > after else None)]
    assert _output.read(files.agent, found, None) == (end or "")


def test_a_log_that_gets_shorter_ends(tmp_path: Path) -> None:
    files = Files(tmp_path, bytes(3 * logs.RANGE))

    def ask(head: Mapping[str, Any]) -> "Future[Reply]":
        reply = files.ask(head)
        os.truncate(tmp_path / "0", 10)
        return reply

    assert len(_output.read(_output.Agent(ask, files.agent.wait), files.found, None)) == 10 + logs.RANGE


def test_a_refusal_is_a_warning(tmp_path: Path) -> None:
    files = Files(tmp_path, b"")
    (tmp_path / "0").unlink()
    os.mkfifo(tmp_path / "0")
    with pytest.warns(SlurmFuturesWarning, match=f"{tmp_path}/0: it is a FIFO of .* name another file by --output"):
        assert _output.read(files.agent, files.found, None) == ""


def test_a_text_is_held_once(tmp_path: Path) -> None:
    size = 64 << 20
    files = Files(tmp_path, b"")
    os.truncate(tmp_path / "0", size)
    tracemalloc.start()
    try:
        assert len(_output.read(files.agent, files.found, None)) == size
        assert tracemalloc.get_traced_memory()[1] < 1.2 * size
    finally:
        tracemalloc.stop()
