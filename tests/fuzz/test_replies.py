"""Any reply of the agent gives a value or a documented error, in the thread that waits for it."""

import io
import json
import math
import os
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from slurmfutures import AgentError, ConnectionLost, SlurmExecutor, SlurmFuturesError, _output, _paths, _pilots
from slurmfutures._commands import place, status, table
from slurmfutures._files import _MOST_FRAMES, _Inbox, _Lost
from slurmfutures._link import Reply, Words
from slurmfutures._paths import ClusterPath
from slurmfutures._printable import printable
from slurmfutures._remote import tree, wire
from slurmfutures._remote.transfers import WINDOW
from slurmfutures._ship import Ship
from slurmfutures._shipping import Shipping
from tests.fuzz.inputs import changed, mutated
from tests.fuzz.modules import import_all

import_all()
EXAMPLES = int(os.environ.get("SLURMFUTURES_FUZZ", "200")) // 4  # of each operation, of which there are many
_RANGE = 1000  # bytes; hypothesis keeps each input
MOST_REPLIES = 12  # then the connection is lost
DOCUMENTED = (SlurmFuturesError, OSError, subprocess.SubprocessError)

_OS: Any = {"error": "os", "errno": 2, "strerror": "No such \x1b[2J", "message": "x"}
_ERRORS: list[Any] = [
    {**_OS, "names": ["/f/a", None]},
    {**_OS, "filename": "/f/a\x1b"},
    {**_OS, "filename": None, "errno": None},
    {"error": "value", "message": "\x1b[2J"},
    {"error": "not-implemented", "message": "no"},
    {"error": "failed", "message": "no"},
]
_ABOUT: Any = os.stat(__file__).__reduce__()[1]
_STAT: Any = {"stat": list(_ABOUT[0]), "more": _ABOUT[1]}
_READ: Any = {"same": [1, 2], "size": 5, "end": True}
_LOG: Any = {"size": 5, "offset": 0, "same": [1, 2], "part": 0}
_POOL: Any = {
    "workers": [["n1", "7_1", 7, 1e9, 3, "tcp"], ["n1", "7_1", 8, None, 3, "tcp"]],
    "waiting": 1,
    "running": 2,
}
_BATCH: Any = {
    "batch": "0123456789ab", "name": "f", "options": [], "scheduler": "slurm", "made": 1e9, "active": 1e9, "tasks": 3,
    "calls": 3, "pool": None, "workers": None, "jobs": ["7"], "session": "0123456789ab", "live": False, "asked": True,
    "states": {"done": [[0, 1]], "running": [], "pending": [], "ended": [[1, 2]], "unsubmitted": [[2, 3]]},
    "failed": [
        {"task": 1, "job": "7_1", "state": "FAILED", "exit_code": 1, "signal": None, "node": "n1", "reason": ""}
    ],
}  # fmt: skip
_PLACE: Any = {"host": "login", "work_dir": "/w", "now": 1e9, "queue": True}
_SURVEY: Any = {**_PLACE, "batches": [_BATCH], "unreadable": ["x"]}
_ONE: Any = {"kind": "batch", "name": "x", "used": 1e9}
_CLEANED: Any = {**_PLACE, "dry": False, "removed": [{**_ONE, "bytes": 7}], "kept": [{**_ONE, "why": "x"}], "freed": 7}


class Far:
    """What stands in for the poller and the agent: each request has a reply that is drawn, or the first one."""

    def __init__(self, data: st.DataObject | None, heads: Sequence[Any], bodies: Sequence[bytes]) -> None:
        self.link = SimpleNamespace(send=self._sent)
        self.last: Mapping[str, Any] = {}  # the head of the last reply
        self._data = data
        self._heads = [*heads, *heads, *_ERRORS]
        self._bodies = bodies
        self._replies = 0
        self._listener: Callable[[Mapping[str, Any] | None, wire.Body], None] | None = None

    def _words(self, valid: Sequence[Any]) -> dict[str, Any]:
        if self._data is None:
            return dict(valid[0])
        words = self._data.draw(st.sampled_from(valid))
        for _ in range(self._data.draw(st.integers(0, 3))):
            words = self._data.draw(changed(words))
        return words if isinstance(words, dict) else {}

    def _body(self) -> bytes:
        if self._data is None:
            return self._bodies[0]
        some = st.sampled_from(self._bodies)
        return self._data.draw(st.one_of(some, some, mutated(self._bodies), st.binary(max_size=40)))

    def _is_lost(self) -> bool:
        self._replies += 1
        return self._replies > MOST_REPLIES

    def request(
        self, head: Mapping[str, Any], body: Sequence[wire.Buffer] = (), *, again: bool = False
    ) -> "tuple[int, Future[Reply]]":
        json.dumps(head)  # what a reply had may be sent back
        reply: Future[Reply] = Future()
        if self._is_lost():
            reply.set_exception(ConnectionLost("host"))
        else:
            self.last = self._words(self._heads)
            found = self._body()
            if head["op"] == "log" and (self._data is None or self._data.draw(st.booleans())):
                found = found[: head["size"]]
            reply.set_result(Reply(self.last, memoryview(found)))
            if head["op"] == "get":
                self._frames([{"op": "get-data"}], len(self._bodies))
                self._frames([{"op": "get-end"}], 1)
        return 1, reply

    def reply_to(self, reply: "Future[Reply]", timeout: float | None = None) -> Reply:
        return reply.result(0)

    def asked_for_logs(self) -> _output.Agent:
        return _output.Agent(lambda words: self.request({"op": "log", **words})[1], self.reply_to)

    def check(self) -> None:
        pass

    def pump_until(self, condition: Callable[[], bool]) -> bool:
        return False

    # ---- of transfers

    def listen(self, transfer: str, listener: Callable[[Mapping[str, Any] | None, wire.Body], None]) -> None:
        self._listener = listener

    def unlisten(self, transfer: str) -> None:
        self._listener = None

    def wait_until_connected(self) -> None:
        if self._is_lost():
            raise ConnectionLost("host")

    def _sent(self, buffers: Sequence[wire.Buffer], key: object = None, *, bulk: bool = False) -> None:
        """Acknowledge data."""
        if b'"put-data"' in bytes(buffers[0]):
            self._frames([{"op": "put-ack", "bytes": sum(map(len, buffers[1:]))}], 1)

    def _frames(self, heads: Sequence[Any], number: int) -> None:
        """Have frames of a transfer come in, and the connection lost where one is none."""
        assert self._listener is not None
        for at in range(number):
            head = {"op": "x", **self._words([*heads, *heads, *heads, {**_OS, "op": "put-failed"}])}
            if not isinstance(head["op"], str):
                continue
            body = self._bodies[at % len(self._bodies)]
            if self._data is not None and self._data.draw(st.integers(0, 3)) == 0:
                body = self._body()
            try:
                self._listener(head, body if head["op"] == "get-data" else b"")
            except AgentError:
                self._listener(None, b"")
                return
        if self._data is not None:
            self._listener(None, b"")  # otherwise the operation would wait for more without end

    @property
    def executor(self) -> SlurmExecutor:
        """An executor whose agent this is."""
        executor = SlurmExecutor.__new__(SlurmExecutor)
        greeting = {"work_dir": "/w", "home": "/h", "host": "login"}
        connection = SimpleNamespace(poller=self, greeting=greeting, folder="/f", python="python3", shipped_path=list)
        executor._connection = connection  # type: ignore[assignment]
        executor._closed = False
        return executor


class Operation(NamedTuple):
    """Something that waits for a reply in its own thread; `heads` and `bodies` are valid replies."""

    name: str
    do: Callable[[Far, Path], object]
    heads: Sequence[Any] = ({},)
    bodies: Sequence[bytes] = (b"",)


def on_path(do: Callable[[ClusterPath], object]) -> Callable[[Far, Path], object]:
    return lambda far, folder: do(far.executor.path("/f/a"))


def _file(path: ClusterPath) -> object:
    with path.open("rb") as file:
        file.read(3)
        file.seek(2)
        file.seek(1, io.SEEK_END)
        return file.read(), file.tell()


def _read_far(path: ClusterPath) -> object:
    with mock.patch.object(_paths, "RANGE", _RANGE):
        return path.read_bytes()


def _names(found: Any) -> object:
    paths = list(found)
    assert all(str(path).startswith("/f/a") and "/../" not in str(path) for path in paths)
    return paths


def _kinds(path: ClusterPath) -> object:
    about = path.stat()
    stat.filemode(about.st_mode)
    return path.is_dir(), path.is_file(), path.is_symlink(), path.exists(), about.st_mtime + about.st_mtime_ns


def _run(far: Far, folder: Path) -> object:
    done = far.executor.run("true", timeout=1)
    assert isinstance(done.returncode, int)
    return done


def _logs(far: Far, folder: Path) -> object:
    found = [_output.Log({"task": number}) for number in range(2)]
    return [_output.read(far.asked_for_logs(), found, limit) for limit in (4, None)]


def _log(far: Far, folder: Path) -> object:
    return list(_output.ranges(far.asked_for_logs(), {"task": 0}))


def _put(far: Far, folder: Path) -> object:
    (folder / "file").write_bytes(b"x" * 300)
    return far.executor.put(folder / "file", "/f/a")


def _get(far: Far, folder: Path) -> object:
    path = far.executor.get("/f/a", folder / "copy")
    assert path == folder / "copy"
    return path


def _pilots_of(far: Far) -> _pilots.PilotsExecutor:
    pilots = _pilots.PilotsExecutor.__new__(_pilots.PilotsExecutor)
    pilots._connection = SimpleNamespace(poller=far)  # type: ignore[assignment]
    pool: Any = SimpleNamespace(is_over=lambda: False, state_of_agent=lambda: far.request({"op": "pool"})[1], done=0)
    pilots._pool = pool
    return pilots


def _agent(far: Far) -> place.Agent:
    connection: Any = SimpleNamespace(poller=far, greeting={"work_dir": "/w", "host": "login"})
    return place.Agent(connection, place.Place())


def _status(far: Far, folder: Path) -> object:
    found = _agent(far).survey()
    json.dumps(status.document(found), indent=2, allow_nan=False)
    status._show(found, "there")
    return found


def _clean(far: Far, folder: Path) -> object:
    found = _agent(far).clean(1.0, dry=False)
    json.dumps(found, indent=2, allow_nan=False)
    return found


def _ship(far: Far, folder: Path) -> object:
    (folder / "one.py").write_text("x = 1\n")
    shipment = Ship([str(folder / "one.py")]).current()
    assert shipment is not None
    link: Any = SimpleNamespace(request=lambda head, body, again: far.request(head, body, again=again))
    there = Shipping(link).send(shipment)
    assert there.done()
    return there.result()


def _tree(folder: Path) -> bytes:
    return b"".join(tree.pack(str(folder)))


_FILE = _tree(Path(__file__))
_ENCODED = [json.dumps(_SURVEY).encode(), json.dumps(_CLEANED).encode(), b"{}"]
OPERATIONS = (
    Operation("stat", on_path(_kinds), [_STAT]),
    Operation("iterdir", on_path(lambda path: _names(path.iterdir())), [{"count": 2}, {"count": 0}], [b"a\0b", b""]),
    Operation("glob", on_path(lambda path: _names(path.glob("*"))), [{"count": 2}], [b"a\0b/c", b"../x", b"\xff\0/"]),
    Operation("read", on_path(lambda path: path.read_bytes()), [_READ, {**_READ, "end": False}], [b"12345", b""]),
    Operation("read far", on_path(_read_far), [_READ, {**_READ, "end": False}], [bytes(_RANGE)]),
    Operation("open", on_path(_file), [_READ, {**_READ, "size": 1 << 61}], [b"12345", b"x" * 1000]),
    Operation("write", on_path(lambda path: path.write_text("x"))),
    Operation("append", on_path(lambda path: path.open("ab").close())),
    Operation("mkdir", on_path(lambda path: path.mkdir())),
    Operation("rename", on_path(lambda path: path.rename("/f/b"))),
    Operation("readlink", on_path(lambda path: os.fsencode(str(path.readlink()))), [{"path": "b"}]),
    Operation("resolve", on_path(lambda path: path.resolve().is_absolute() or 1 / 0), [{"path": "/f/b"}]),
    Operation("expand", lambda far, folder: far.executor.path("~x"), [{"path": "/home/x"}, {"path": "~x"}]),
    Operation("run", _run, [{"code": 0, "split": 2, "timeout": False}], [b"outerr", b""]),
    Operation(
        "run_python",
        lambda far, folder: far.executor.run_python("1\n", input=b""),
        [{"code": 0, "split": 2, "timeout": False}, {"code": -9, "split": 2, "timeout": True}],
        [b"outerr", b""],
    ),
    Operation("logs", _logs, [_LOG, {**_LOG, "size": 5 << 20}, {**_LOG, "refused": "\x1b"}], [b"1234", b""]),
    Operation("log", _log, [_LOG, {**_LOG, "size": 1 << 60}], [b"12345", b""]),
    Operation("put", _put, [{"path": "/f/a", "after": None, "size": 0}, {"path": "/f/a", "after": "x", "size": 7}]),
    Operation("get", _get, [{"folder": False, "size": len(_FILE), "entries": 1}], [_FILE]),
    Operation("workers", lambda far, folder: [_pilots_of(far).workers, _pilots_of(far).counts], [_POOL]),
    Operation("ship", _ship, [{"there": True}, {"there": False}]),
    Operation("status", _status, [{}], _ENCODED),
    Operation("clean", _clean, [{}], _ENCODED[1:]),
    Operation("find", lambda far, folder: _agent(far).find("7"), [{}], [b'{"batch":"x","task":1,"part":0}', b"{}"]),
    Operation("finished", lambda far, folder: _agent(far).finished("x"), [{}], [b"[1, 2]", b"[]", b"{}"]),
)


def _is_documented(error: Exception, last: Mapping[str, Any]) -> bool:
    if isinstance(error, (ValueError, NotImplementedError)):  # also a script that cannot be run
        return isinstance(last.get("error"), str) and str(error) == printable(last["message"])
    return isinstance(error, DOCUMENTED) or (isinstance(error, RuntimeError) and "does not know the home" in str(error))


each_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.name for operation in OPERATIONS])


@each_operation
def test_a_valid_reply_gives_a_value(operation: Operation, tmp_path: Path) -> None:
    operation.do(Far(None, operation.heads, operation.bodies), tmp_path)


@each_operation
@pytest.mark.filterwarnings("ignore::slurmfutures.SlurmFuturesWarning", "ignore:Generating overly large repr")
@settings(
    derandomize="SLURMFUTURES_FUZZ" not in os.environ,
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    deadline=None,
)
@given(data=st.data())
def test_any_reply_gives_a_value_or_a_documented_error(
    operation: Operation, tmp_path: Path, data: st.DataObject
) -> None:
    far = Far(data, operation.heads, operation.bodies)
    try:
        operation.do(far, tmp_path)
    except Exception as error:
        problem = error
    else:
        return
    assert _is_documented(problem, far.last), f"{operation.name} let {problem!r} through"
    assert printable(str(problem)) == str(problem)
    if isinstance(problem, AgentError):
        assert "cannot be understood: " in str(problem)
        assert len(str(problem)) < 500


@pytest.mark.parametrize(
    "junk", [None, [1], {}, True, 1, -1, 10**400, 0.5, math.nan, math.inf, "x", "\ud800", "x\0", ""]
)
def test_a_word_is_what_it_is_asked_for_as(junk: Any) -> None:
    words = Words({"word": junk}, "stat")
    whole = type(junk) is int and 0 <= junk < 1 << 64
    fits: Mapping[Callable[[str], object], bool] = {
        words.text: isinstance(junk, str),
        words.text_or_none: junk is None or isinstance(junk, str),
        words.path: junk == "x",
        words.number: whole,
        words.number_or_none: junk is None or whole,
        words.seconds: type(junk) in (int, float) and abs(junk) < 10,
        words.flag: junk is True,
        words.flag_or_none: junk in (None, True) and type(junk) is not int,
        words.items: isinstance(junk, list),
        words.inner: isinstance(junk, dict),
    }
    for read, fit in fits.items():
        if fit:
            read("word")
            continue
        with pytest.raises(AgentError, match=r"cannot be understood: 'word' is .* in the reply to 'stat'$"):
            read("word")


def test_an_error_names_the_word_its_value_and_the_request() -> None:
    words = Words({"size": -3, "path": "\x1b[2J" + "x" * 1000}, "stat")
    with pytest.raises(AgentError, match=r"cannot be understood: 'size' is -3 in the reply to 'stat'$"):
        words.number("size")
    with pytest.raises(AgentError, match=r"cannot be understood: 'path' is '\\x1b\[2Jx+\.\.\.x+' in the reply") as long:
        words.number("path")
    assert len(str(long.value)) < 200
    with pytest.raises(AgentError, match=r"cannot be understood: 'end' is missing in the reply to 'stat'$"):
        words.flag("end")
    assert Words({"size": True}, "stat").flag("size")
    with pytest.raises(AgentError, match="'size' is True"):
        Words({"size": True}, "stat").number("size")


DATA: Any = {"op": "get-data", "transfer": "x"}


@pytest.mark.parametrize(
    ("head", "size", "fit"),
    [(DATA, 1, _MOST_FRAMES), (DATA, 1 << 20, WINDOW >> 20), ({"op": "put-ack", "bytes": 1}, 0, _MOST_FRAMES)],
)
def test_a_transfer_holds_no_more_than_may_be_on_its_way(head: Any, size: int, fit: int) -> None:
    inbox = _Inbox()
    for _ in range(3):  # what is taken makes room
        for _ in range(fit):
            inbox.receive(head, bytes(size))
        for _ in range(fit):
            inbox.take()
    for _ in range(fit):
        inbox.receive(head, bytes(size))
    for _ in range(3):
        with pytest.raises(AgentError, match="more frames than may be on their way in a frame of 'transfer'"):
            inbox.receive(head, bytes(size))
    for _ in range(fit):
        inbox.take()
    with pytest.raises(AgentError):
        inbox.take()
    assert not inbox


def test_a_frame_of_a_transfer_holds_none_of_its_other_words() -> None:
    inbox = _Inbox()
    inbox.receive({**DATA, "more": "x" * 1000}, b"x")
    assert list(inbox.take().words) == ["bytes"]
    for head in ({**DATA, "bytes": []}, {**DATA, "op": "x"}):
        with pytest.raises(AgentError):
            _Inbox().receive(head, b"x")


def test_nothing_follows_the_end_of_a_transfer() -> None:
    inbox = _Inbox()
    inbox.receive({**DATA, "op": "get-end"}, b"")
    with pytest.raises(AgentError):
        inbox.receive(DATA, b"x")
    assert inbox.take().op == "get-end"
    inbox.receive(None, b"")
    with pytest.raises(_Lost):
        inbox.take()


def test_a_document_has_no_numbers_that_json_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": -float("inf"), "d": None}, "e": "NaN"}
    table.show_json(odd)
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": [None, [None, 1.5]], "b": {"c": None, "d": None}, "e": "NaN"}
