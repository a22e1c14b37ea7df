"""Files in a work_dir that are not what they should be: strays, other accounts' files, and damaged ids.

All names that lead elsewhere stay below a test's own folder.
"""

import json
import os
import pickle
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import SlurmExecutor, SlurmFuturesError
from slurmfutures._remote import clean, entries, ids, payload, publish, spool, succession, survey, trust
from slurmfutures._remote.batch import Batch
from tests import calls
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.strangers.accounts import Stranger
from tests.test_commands import Done, command
from tests.waiting import DEADLINE, until

BATCH, THEIRS = "0123456789ab", "0123456789cd"
SESSION = "0123456789ef"
ELSEWHERE = "../../elsewhere"  # from work_dir/batches, and from work_dir/sessions


class Scheduler:
    """A queue without jobs."""

    keeps_jobs = True

    def queue(self) -> list[Any]:
        return []

    def why(self, job_ids: Sequence[str]) -> dict[Any, Any]:
        return {}


class Make:
    """An object whose pickle makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (self.path,)


class Place:
    """A work_dir with one batch, a session and a pool, and beside it what must stay as it is."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "work"
        self.path.mkdir(mode=0o700)
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        (self.elsewhere / "precious").write_text("years of work")
        for name in ("sessions", f"pilots/{SESSION}/00000a/last"):
            (self.path / name).mkdir(0o700, parents=True)
        self.part = self.batch(BATCH)
        (self.path / "sessions" / SESSION).write_text(json.dumps({"host": "h", "pid": 7, "mark": "m", "code": "c"}))

    def batch(self, name: str) -> Path:
        """Make a batch of two tasks, of which one is done; return the folder of its part."""
        batch = spool.Batch(str(self.path), name)
        spec = {"batch": name, "name": "f", "tasks": 2, "skip": [], "options": [], "session": SESSION}
        head = payload.pack_batch(b"", [b"f"], [(0, b"")] * 2, [0, 1])
        batch.create({**spec, "scheduler": "slurm"}, "#!/bin/bash\n", b"".join(head))
        batch.record({"part": 0, "tasks": [[0, 2]], "name": f"f.sf-{name}.0", "throttle": None, "time": 0})
        batch.record({"part": 0, "job": "7"})
        part = batch.part(0)
        part.create()
        publish.publish(part.results, "0.r", [b"result"])
        return Path(part.path)

    def survey(self) -> Any:
        return survey.survey(str(self.path), Scheduler(), "0" * 12)  # type: ignore[arg-type]

    def clean(self) -> Any:
        return clean.Clean(str(self.path), Scheduler(), "0" * 12, "a" * 20, 0, dry=False).run()  # type: ignore[arg-type]

    def is_untouched(self) -> bool:
        """Whether what is beside it is as it was."""
        return (self.elsewhere / "precious").read_text() == "years of work"


@pytest.fixture
def place(common: Path) -> Place:
    return Place(common)


def plant(folder: Path, place: Place, stranger: Stranger) -> list[Path]:
    """Put strays of all kinds into a folder, and return them."""
    strays = [folder / name for name in ("note.txt", "x y\nz", "b" * 200, ".hidden", BATCH[:-1] + "G", "007")]
    for path in strays:
        path.write_text("{")
    for name in ("aaaaaaaaaaa1", "aaaaaaaaaaa1.lock", "aaaaa1"):  # as ours are called
        (folder / name).write_text("{")
        strays.append(folder / name)
        for kind, make in (("2", os.mkfifo), ("3", os.mkdir)):
            path = folder / name.replace("1", kind)
            make(path)
            strays.append(path)
        path = folder / name.replace("1", "4")
        path.symlink_to(place.elsewhere)
        strays.append(path)
    theirs = []
    for path in strays[6:]:
        copy = path.with_name("c" + path.name[1:])
        if path.is_symlink():
            copy.symlink_to(place.elsewhere)
        elif path.is_dir():
            copy.mkdir()
            (copy / "batch.json").write_text("{}")
        elif path.is_fifo():
            os.mkfifo(copy)
        else:
            copy.write_text("{}")
        theirs.append(copy)
    stranger.own(*theirs)
    return strays + theirs


FOLDERS = ("batches", "sessions", "pilots", f"pilots/{SESSION}", f"batches/{BATCH}", f"batches/{BATCH}/0/r")


@pytest.fixture
def strays(place: Place, stranger: Stranger) -> list[Path]:
    """Strays in all folders of a work_dir."""
    return [path for folder in FOLDERS for path in plant(place.path / folder, place, stranger)]


def run(place: Place, *words: object) -> Done:
    return command(*words, "--scheduler", "local", "--work-dir", place.path)


# ---- strays end nothing


@pytest.mark.parametrize(
    "words", [("status",), ("status", "--json"), ("logs", "7_0"), ("cancel", "--all")], ids=" ".join
)
def test_strays_do_not_end_a_command(place: Place, strays: list[Path], words: tuple[str, ...]) -> None:
    done = run(place, *words)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert all(os.path.lexists(path) for path in strays)
    assert place.is_untouched()
    if words == ("status", "--json"):
        seen = done.json()
        assert [batch["batch"] for batch in seen["batches"]] == [BATCH]
        assert seen["unreadable"] == ["aaaaaaaaaaa3"]  # a folder of the user's, named as a batch


def test_clean_leaves_strays_and_strangers_files(place: Place, strays: list[Path], stranger: Stranger) -> None:
    before = {path for path in strays if path.parent.name in ("batches", "sessions", "pilots")}
    done = run(place, "clean", "--older-than", "0d")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    gone = {path for path in before if not os.path.lexists(path)}
    # Only what is the user's, and has the name and the kind of ours.
    assert {str(path.relative_to(place.path)) for path in gone} <= {
        "batches/aaaaaaaaaaa3",
        "pilots/aaaaaaaaaaa3",
        *(f"sessions/aaaaaaaaaaa{kind}{end}" for kind in "1234" for end in ("", ".lock")),
    }
    assert place.is_untouched()


def test_an_executor_works_beside_strays(place: Place, strays: list[Path], opener: Opener) -> None:
    with opener.root("local", work_dir=place.path) as executor:
        assert executor.submit(calls.square, 3).result(DEADLINE) == 9
        assert executor.login.submit(calls.square, 4).result(DEADLINE) == 16
        with executor.pilots(1) as pilots:
            assert pilots.submit(calls.square, 5).result(DEADLINE) == 25
    assert all(os.path.lexists(path) for path in strays)
    assert place.is_untouched()


@pytest.mark.parametrize("folder", ["batches", "sessions", "pilots"])
@pytest.mark.parametrize("kind", ["file", "FIFO", "link", "a stranger's"])
def test_a_folder_of_ours_that_is_none_ends_neither_survey_nor_clean(
    place: Place, stranger: Stranger, folder: str, kind: str
) -> None:
    path = place.path / folder
    path.rename(place.elsewhere / folder)
    if kind == "file":
        path.write_text("")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(place.elsewhere / folder)
    else:
        (place.elsewhere / folder).rename(path)
        stranger.own(path)
    assert len(place.survey()["batches"]) == (folder != "batches")
    place.clean()
    assert os.path.lexists(path)
    if kind == "link":
        assert (place.elsewhere / folder).is_dir()
        assert any((place.elsewhere / folder).iterdir())


# ---- batches of other accounts


def test_a_batch_of_another_account_is_neither_shown_nor_removed(place: Place, stranger: Stranger) -> None:
    place.batch(THEIRS)
    folder = place.path / "batches" / THEIRS
    stranger.own(folder)
    seen = place.survey()
    assert [batch["batch"] for batch in seen["batches"]] == [BATCH]
    assert seen["unreadable"] == []
    assert survey.find(str(place.path), f"{THEIRS}:0") == {}
    place.clean()
    assert (folder / "batch.json").exists()


@pytest.mark.parametrize("name", ["batch.json", "parts.jsonl"])
@pytest.mark.parametrize("kind", ["a stranger's", "open to others", "FIFO", "a stranger's FIFO", "link"])
def test_a_batch_whose_files_others_could_have_written_is_unreadable(
    place: Place, stranger: Stranger, name: str, kind: str
) -> None:
    path = place.path / "batches" / BATCH / name
    if kind == "open to others":
        path.chmod(0o666)
    elif kind == "link":
        path.rename(place.elsewhere / name)
        path.symlink_to(place.elsewhere / name)
    elif "FIFO" in kind:
        path.unlink()
        os.mkfifo(path)
    if "stranger" in kind:
        stranger.own(path)
    seen = place.survey()
    assert (seen["batches"], seen["unreadable"]) == ([], [BATCH])
    with pytest.raises(trust.Untrusted):
        survey.read(str(place.path), BATCH)


@pytest.mark.parametrize("name", ["calls", "script.sh"])
@pytest.mark.parametrize("kind", ["a stranger's", "open to others", "FIFO", "link"])
def test_calls_and_script_that_others_could_have_written_are_not_submitted(
    place: Place, stranger: Stranger, name: str, kind: str
) -> None:
    path = place.path / "batches" / BATCH / name
    if kind == "a stranger's":
        stranger.own(path)
    elif kind == "open to others":
        path.chmod(0o662)
    else:
        path.rename(place.elsewhere / name)
        os.mkfifo(path) if kind == "FIFO" else path.symlink_to(place.elsewhere / name)
    batch = spool.Batch(str(place.path), BATCH)
    with pytest.raises(trust.Untrusted):
        batch.check()
    if name == "calls":
        with pytest.raises(trust.Untrusted):
            payload.BatchFile(batch.calls)


# ---- results of other accounts


KINDS = ("a stranger's", "open to others", "FIFO", "a stranger's FIFO", "link", "a stranger's link")


def put(path: Path, kind: str, data: bytes, common: Path, stranger: Stranger) -> None:
    """Put data where a result is expected, in a way that it must not be read."""
    if "FIFO" in kind:
        os.mkfifo(path)
    elif "link" in kind:
        (common / "result").write_bytes(data)
        path.symlink_to(common / "result")
    else:
        path.write_bytes(data)
        path.chmod(0o666 if kind == "open to others" else 0o644)
    if "stranger" in kind:
        stranger.own(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["0.r", "0.0.0.p"])
def test_no_result_is_taken_from_another_account(
    common: Path,
    stranger: Stranger,
    opener: Opener,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    name: str,
) -> None:
    ran, work_dir = common / "ran", common / "work"
    record = payload.pack_record(0, payload.OK, pickle.dumps(Make(ran)))
    data = b"".join(payload.pack_results(record))
    with opener.root("local", work_dir=work_dir) as executor:
        future = executor.submit(calls.pass_gate, gate.folder)
        gate.wait()
        (results,) = work_dir.glob("batches/*/0/r")
        put(results / name, kind, data, common, stranger)
        until(lambda: f"{name} is not used: it is a" in caplog.text)
        assert not future.done()
        gate.open()
        assert future.result(DEADLINE) is None  # the job's own
    assert not ran.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_published_files_of_other_accounts_are_refused_at_once(
    place: Place, common: Path, stranger: Stranger, kind: str
) -> None:
    results = Path(place.part, "r")
    put(results / "1.r", kind, b"forged", common, stranger)
    put(results / "1.c", kind, b"7 0 n\n", common, stranger)
    part = spool.Part(str(place.part))
    with pytest.raises(trust.Untrusted):
        part.read("1.r")
    with pytest.raises(trust.Untrusted):
        part.source("1.r", lambda good: None)
    assert part.owner(1) == ("7" if kind == "open to others" else "")  # bash writes it, by the job's umask


def test_a_folder_for_results_that_others_can_write_to_is_refused(place: Place, stranger: Stranger) -> None:
    part = spool.Part(str(place.part))
    os.chmod(part.results, 0o777)
    with pytest.raises(trust.Untrusted, match="others can write to it"):
        part.published()
    os.chmod(part.results, 0o700)
    stranger.own(Path(part.results))
    with pytest.raises(trust.Untrusted, match="not yours"):
        part.published()


# ---- ids that lead elsewhere


CLAIMS = (
    *("7", "7 0 n1", "7\n", "", " 7", "0", "-1", "+7", "7_1", "7;8", "7x"),
    *(ELSEWHERE, "٣", "\0", "7" * 11, "7" * 9999),
)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: repr(claim[:20]))
def test_a_torn_claim_names_no_job(place: Place, claim: str) -> None:
    Path(place.part, "r/1.c").write_text(claim)
    part = spool.Part(str(place.part))
    assert part.owner(1) == ("7" if claim in ("7", "7 0 n1", "7\n") else "")
    assert part.owners() == (["7"] if part.owner(1) else [])


LINES: list[dict[str, Any]] = [
    {"part": 0, "job": ELSEWHERE},
    {"part": 0, "job": "7,8"},
    {"part": 0, "job": "-1"},
    {"part": 0, "job": 7},
    {"part": ELSEWHERE, "job": "7"},
    {"part": -1, "job": "7"},
    {"part": ELSEWHERE, "tasks": [[0, 1]], "name": f"f.sf-{BATCH}.{ELSEWHERE}", "throttle": None, "time": 0},
    {"part": 1, "tasks": [[0, 1 << 40]], "name": f"f.sf-{BATCH}.1", "throttle": None, "time": 0},
    {"part": 1, "tasks": [[0, 1]], "name": "somebody-s-job", "throttle": None, "time": 0},
    {"retries": [{"task": 0, "attempt": 1, "exclude": [7], "done": []}]},
]


@pytest.mark.parametrize("line", LINES, ids=json.dumps)
def test_a_damaged_line_makes_a_batch_unreadable_and_does_nothing_elsewhere(place: Place, line: dict[str, Any]) -> None:
    spool.Batch(str(place.path), BATCH).record(line)
    assert place.survey()["unreadable"] == [BATCH]
    with pytest.raises(ValueError):
        Batch.found(spool.Batch(str(place.path), BATCH), {0, 1})
    place.clean()
    assert place.is_untouched()


@pytest.mark.parametrize(
    "more",
    [
        {"batch": ELSEWHERE},
        {"batch": THEIRS},
        {"tasks": 1 << 40},
        {"tasks": -1},
        {"skip": [7]},
        {"options": "--mem=1"},
        {"pilot": {"folder": ELSEWHERE, "workers": 1}},
        {"pilot": {"folder": f"/{SESSION}/../00000a/", "workers": 1}},
    ],
    ids=json.dumps,
)
def test_a_damaged_batch_does_nothing_elsewhere(place: Place, more: dict[str, Any]) -> None:
    path = place.path / "batches" / BATCH / "batch.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    assert place.survey()["unreadable"] == [BATCH]
    place.clean()
    assert place.is_untouched()


@pytest.mark.parametrize("session", [ELSEWHERE, "", "x", [], None, {"a": 1}, 7], ids=repr)
def test_the_session_of_a_batch_is_an_id_or_none(place: Place, session: Any) -> None:
    batch = spool.Batch(str(place.path), BATCH)
    assert batch.owner({"session": session}) == ""
    batch.adopt(ELSEWHERE)
    assert batch.owner({"session": SESSION}) == ""
    batch.adopt(SESSION)
    assert batch.owner({"session": session}) == SESSION
    place.clean()
    assert place.is_untouched()


@pytest.mark.parametrize(
    "words",
    [
        {"host": "h", "pid": ELSEWHERE, "mark": "m"},
        {"host": "h", "pid": -1, "mark": "m"},
        {"host": "h", "pid": 0, "mark": "m"},
        {"host": "h", "pid": 7, "mark": ""},
        {"host": ["h"], "pid": 7, "mark": "m"},
        {"host": "h", "pid": 7, "mark": "m", "code": 7},
        {"pid": 7},
        [1],
        "text",
    ],
    ids=json.dumps,
)
def test_a_damaged_session_says_nothing(place: Place, words: Any) -> None:
    path = place.path / "sessions" / SESSION
    path.write_text(json.dumps(words))
    assert succession.agent_of(str(place.path), SESSION) == {}
    path.write_text(json.dumps(words)[:-1])
    assert succession.agent_of(str(place.path), SESSION) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["", ".lock"])
def test_session_files_of_other_accounts_say_nothing(
    place: Place, common: Path, stranger: Stranger, kind: str, end: str
) -> None:
    path = place.path / "sessions" / f"{SESSION}{end}"
    path.unlink(missing_ok=True)
    words = json.dumps({"host": "h", "pid": 7, "mark": "m", "code": "c"})
    put(path, kind, words.encode(), common, stranger)
    if kind != "open to others":  # sessions/ lets nobody in
        assert end or succession.agent_of(str(place.path), SESSION) == {}
        assert not end or succession.is_live(str(place.path), SESSION) is None
    place.clean()
    assert place.is_untouched()


@pytest.mark.parametrize("session", [ELSEWHERE, "", ".", "..", SESSION[:-1], SESSION.upper(), SESSION + "\n"])
def test_only_the_form_of_an_id_names_a_session(place: Place, session: str) -> None:
    with pytest.raises(ValueError, match="is not the id of a session"):
        succession.Succession(str(place.path), session, "mark")
    for ask in (succession.agent_of, succession.is_live, succession.last_seen):
        with pytest.raises(ValueError):
            ask(str(place.path), session)


# ---- requests


@pytest.fixture
def asked(place: Place, opener: Opener) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Send a request to an agent and return the reply's words."""
    poller = opener.root("local", work_dir=place.path)._connection.poller

    def ask(words: Mapping[str, Any]) -> Mapping[str, Any]:
        head, _ = poller.reply_to(poller.request(words)[1], DEADLINE)
        return head

    return ask


REQUESTS: list[dict[str, Any]] = [
    {"op": "release", "batch": ELSEWHERE, "remove": True, "logs": True},
    {"op": "attach", "batch": ELSEWHERE, "wanted": [[0, 1]]},
    {"op": "retry", "batch": ELSEWHERE, "retries": [{"task": 0, "attempt": 1, "exclude": [], "done": []}]},
    {"op": "cancel", "batch": ELSEWHERE, "tasks": [0]},
    {"op": "log", "batch": ELSEWHERE, "task": 0, "stream": "out"},
    {"op": "log", "batch": BATCH, "task": 0, "stream": "../" + ELSEWHERE},
    {"op": "log", "batch": BATCH, "task": 0, "stream": "out", "worker": "../" + ELSEWHERE},
    {"op": "finished", "session": ELSEWHERE},
    {"op": "ship", "ship": ELSEWHERE, "zip": False},
    {"op": "ship", "ship": ELSEWHERE, "zip": True},
]


@pytest.mark.parametrize("words", REQUESTS, ids=lambda words: " ".join(map(str, words.values())))
def test_a_request_with_another_name_is_refused(
    place: Place, asked: Callable[[Mapping[str, Any]], Mapping[str, Any]], words: dict[str, Any]
) -> None:
    reply = asked(words)
    assert reply["error"] == "value", reply
    assert re.search("is not the id of a|is not a hash|there is no log", reply["message"])
    assert place.is_untouched()
    assert sorted(path.name for path in place.elsewhere.iterdir()) == ["precious"]
    assert asked({"op": "find", "call": f"{BATCH}:0"}).get("error") is None  # the agent lives


def test_a_batch_is_removed_only_by_its_id(place: Place) -> None:
    for name in (ELSEWHERE, "", ".", "..", BATCH + "/", BATCH.upper() + "\n", f"../batches/{BATCH}", BATCH[:-1]):
        with pytest.raises(ValueError, match="is not the id of a batch"):
            spool.Batch(str(place.path), name)
    spool.Batch(str(place.path), BATCH).remove()
    assert os.listdir(place.path / "batches") == []
    assert place.is_untouched()


def test_removing_a_batch_follows_no_link(place: Place) -> None:
    (place.path / "batches" / BATCH / "0/r/more").symlink_to(place.elsewhere)
    (place.path / "batches" / THEIRS).symlink_to(place.elsewhere)
    spool.Batch(str(place.path), BATCH).remove()
    spool.Batch(str(place.path), THEIRS).remove()
    place.clean()
    assert place.is_untouched()


@pytest.mark.parametrize("text", ["", "x", ELSEWHERE, "0123456789AB", "0" * 99, "0" * 4096], ids=lambda text: text[:20])
def test_a_damaged_name_of_a_work_dir_is_refused_with_the_remedy(place: Place, text: str) -> None:
    (place.path / "id").write_text(text)
    with pytest.raises(ValueError, match=f"{place.path}/id is damaged: remove it"):
        spool.read_id(str(place.path))
    with pytest.raises(SlurmFuturesError, match="id is damaged: remove it"):
        SlurmExecutor(scheduler="local", work_dir=str(place.path))


def test_what_is_made_is_closed_to_others(place: Place) -> None:
    before = os.umask(0)
    try:
        batch = spool.Batch(str(place.path), THEIRS)
        batch.create({"batch": THEIRS, "tasks": 1, "skip": []}, "", b"calls")
        batch.record({})
        batch.part(0).create()
        batch.adopt(SESSION)
    finally:
        os.umask(before)
    assert ids.is_batch(batch.id)
    assert list(entries.lines(Path(batch.parts).read_bytes())) == [{}]
    for path in (Path(batch.path), *Path(batch.path).rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
