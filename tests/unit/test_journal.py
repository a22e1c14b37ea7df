"""The checkpoint's file: what was written is read, whatever its end has come to, and damage is told."""

import os
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmfutures import CheckpointCorrupt, CheckpointLocked, SlurmFuturesError, SlurmFuturesWarning
from slurmfutures import _journal as journal
from slurmfutures import _records as records
from slurmfutures._journal import Journal, Scan
from slurmfutures._records import KEY_SIZE, NO_KEY, Contents

HEADER = 256
PLACE = {"spool": "0123456789ab", "scheduler": "local", "where": "here"}


def key(number: int) -> bytes:
    return number.to_bytes(KEY_SIZE, "big")


def told(contents: Contents) -> Any:
    """What a journal says, to be compared."""
    batches = {}
    for name, it in contents.batches.items():
        if not it.closed:
            keys = [key if call in it.open else NO_KEY for call, key in enumerate(it.keys)]
            words = {word: said for word, said in it.words.items() if word != "failed"}
            batches[name] = words, list(it.firsts), keys, list(it.parts), it.failed
    failures = {key: (it.batch, it.call, dict(it.words)) for key, it in contents.failures.items()}
    lengths = {key: length for key, (_, length) in contents.finished.items()}
    return batches, lengths, dict(contents.flying), failures


Action = tuple[str, int, int]
actions = st.lists(
    st.tuples(st.sampled_from("batch part finish fail close".split()), st.integers(0, 5), st.integers(0, 9))
)


class Writer:
    """Writes records as a driver might, and remembers what the journal said after each."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.states: list[tuple[int, Any]] = []
        self.made = 0
        self.note()

    def note(self) -> None:
        self.states.append((self.journal._end, told(self.journal.contents)))

    def do(self, action: Action) -> None:
        kind, which, number = action
        contents = self.journal.contents
        alive = sorted(name for name, it in contents.batches.items() if not it.closed)
        record = None
        if kind == "batch":
            words = {"batch": f"{self.made:012}", "name": "f", "options": [], "time": 1.0, **PLACE}
            taken = set(contents.flying) | set(contents.finished)
            keys = [key(n) if key(n) not in taken else NO_KEY for n in range(1 + 3 * which, 1 + 3 * which + number % 4)]
            record = records.BATCH, records.pack_batch(words, range(len(keys)), keys)
            self.made += 1
        elif alive and kind == "part":
            record = records.PART, records.dumps({"batch": alive[which % len(alive)], "job": str(number), "tasks": []})
        elif alive and kind == "close":
            record = records.CLOSED, alive[which % len(alive)].encode()
        elif contents.flying and kind in ("finish", "fail"):
            one = sorted(contents.flying)[which % len(contents.flying)]
            if kind == "finish":
                record = records.RESULT, one + bytes([number]) * number * 7
            else:
                record = records.FAILED, records.pack_failure(one, *contents.flying[one], {"said": "no"})
        if record is not None:
            (place,) = self.journal.append([(record[0], [record[1]])])
            contents.take(record[0], record[1], place)
            self.note()


@contextmanager
def written(folder: Path, todo: list[Action]) -> Iterator[tuple[bytes, Writer]]:
    path = folder / "c"
    for old in folder.iterdir():
        old.unlink()
    writer = Writer(path)
    for action in todo:
        writer.do(action)
    writer.journal.close()
    yield path.read_bytes(), writer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal")


fast = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(todo=actions, data=st.data())
def test_any_beginning_of_it_opens_to_a_state_that_really_was(folder: Path, todo: list[Action], data: Any) -> None:
    with written(folder, todo) as (content, writer):
        path = folder / "c"
        size = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:size])
        whole = [(end, state) for end, state in writer.states if end <= size]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", SlurmFuturesWarning)
            again = Journal(path)
        expected = whole[-1] if whole else (HEADER, writer.states[0][1])
        assert told(again.contents) == expected[1]
        assert path.stat().st_size == expected[0]
        assert bool(said) == (size > expected[0])
        again.close()


@fast
@given(todo=actions, data=st.data())
def test_damage_before_the_last_record_is_told_with_its_place_and_what_can_be_saved(
    folder: Path, todo: list[Action], data: Any
) -> None:
    with written(folder, todo) as (content, writer):
        ends = [end for end, _ in writer.states]
        if len(ends) < 3:
            return
        at = data.draw(st.integers(HEADER, ends[-2] - 1))
        path = folder / "c"
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        with pytest.raises(CheckpointCorrupt) as caught:
            Journal(path)
        begin = max(end for end in ends if end <= at)
        assert caught.value.offset == begin
        assert caught.value.path == str(path)
        assert f"slurmfutures repair {path}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_whole_of_a_damaged_one_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "c"
    file = Journal(path)
    places = file.append((records.RESULT, [key(number), b"value %d" % number]) for number in range(9))
    file.close()
    content = bytearray(path.read_bytes())
    content[places[4] + KEY_SIZE] ^= 1
    path.write_bytes(content)
    scan, kept = journal.repair(path)
    assert Path(kept).read_bytes() == content
    assert len(scan.contents.finished) == 8
    again = Journal(path)
    values = {number: again.contents.finished.get(key(number)) for number in range(9)}
    assert [number for number, place in values.items() if place is None] == [4]
    assert all(again.read(*place) == b"value %d" % number for number, place in values.items() if place is not None)
    again.close()


def test_one_that_is_whole_is_not_repaired(tmp_path: Path) -> None:
    Journal(tmp_path / "c").close()
    before = (tmp_path / "c").read_bytes()
    assert journal.repair(tmp_path / "c")[1] == ""
    assert (tmp_path / "c").read_bytes() == before


@fast
@given(todo=actions)
def test_written_anew_it_says_the_same(folder: Path, todo: list[Action]) -> None:
    with written(folder, todo) as _:
        file = Journal(folder / "c")
        before = told(file.contents)
        file._compact()
        assert told(file.contents) == before
        size = file._end
        file.close()
        again = Journal(folder / "c")
        assert told(again.contents) == before
        assert (folder / "c").stat().st_size == size
        again.close()


def test_a_long_one_is_written_anew_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "c"
    file = Journal(path)
    words = {"batch": "0" * 12, "said": "x" * 1000, "name": "f", "options": [], "time": 1.0, **PLACE}
    for _ in range(3):
        file.append([(records.BATCH, [records.pack_batch(words, [0], [key(1)])])])
        file.append([(records.FAILED, [records.pack_failure(key(1), "0" * 12, 0, {"said": "x" * 700_000})])])
        file.append([(records.CLOSED, [b"0" * 12])])
    file.append([(records.RESULT, [key(2), b"kept"])])
    file.close()
    before = path.stat().st_size
    again = Journal(path)
    assert path.stat().st_size < before / 2
    assert again.read(*again.contents.finished[key(2)]) == b"kept"
    assert again.contents.failures[key(1)].words["said"] == "x" * 700_000
    (place,) = again.append([(records.RESULT, [key(3), b"later"])])
    again.close()
    assert path.read_bytes()[place + KEY_SIZE :] == b"later"


def test_what_was_left_by_one_that_was_ended_while_it_was_written_anew_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "c"
    file = Journal(path)
    file.append([(records.RESULT, [key(2), b"kept"])])
    file.close()
    (tmp_path / "c.new").write_bytes(path.read_bytes()[:300])
    again = Journal(path)
    assert again.read(*again.contents.finished[key(2)]) == b"kept"
    assert not (tmp_path / "c.new").exists()
    again.close()


def test_a_file_that_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    for content in (b"x", b"results of a year\n" * 100):
        path = tmp_path / "mine"
        path.write_bytes(content)
        with pytest.raises(CheckpointCorrupt, match="is no checkpoint"):
            Journal(path)
        assert path.read_bytes() == content


def test_one_of_a_newer_version_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c"
    Journal(path).close()
    content = bytearray(path.read_bytes())
    content[9] += 1
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match="of format 2, and this slurmfutures reads up to 1"):
        Journal(path)


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "c"
    code = (
        "import sys; from slurmfutures._journal import Journal\n"
        "journal = Journal(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(CheckpointLocked) as caught:
            Journal(path)
        assert f"process {holder.pid} on {os.uname().nodename}" in str(caught.value)
        holder.stdin.close()
    Journal(path).close()


def test_a_process_that_was_killed_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "c"
    code = (
        "import os, sys; from slurmfutures._journal import Journal; it = Journal(sys.argv[1]); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    Journal(path).close()


def test_a_folder_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(SlurmFuturesError, match=re.escape(f"there is no folder {tmp_path}/nowhere")):
        Journal(tmp_path / "nowhere" / "c")
    assert not (tmp_path / "nowhere").exists()


def test_what_does_not_fit_is_not_written_at_all(tmp_path: Path) -> None:
    path = tmp_path / "c"
    code = """
import resource, signal, sys
from slurmfutures import _journal as journal
from slurmfutures import _records as records
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = journal.Journal(sys.argv[1])
file.append([(records.RESULT, [b"1" * 20, b"fits"])])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    file.append([(records.RESULT, [b"2" * 20, b"x" * 2000])])
except OSError as error:
    print(error.errno)
file.append([(records.RESULT, [b"3" * 20, b"fits too"])])
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "27"
    assert set(Scan(str(path)).contents.finished) == {b"1" * 20, b"3" * 20}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_link_to_it_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "c"
    link.symlink_to(tmp_path / "real" / "c")
    file = Journal(link)
    file.append([(records.RESULT, [key(1), b"x"])])
    file.close()
    file = Journal(link)
    file._compact()
    file.close()
    assert link.is_symlink()
    assert len(Scan(str(tmp_path / "real" / "c")).contents.finished) == 1


@pytest.mark.parametrize("name", [b"../../../etc", b"0123456789AB", b"0123456789a\0", b"\xff" * 12])
def test_a_header_without_a_valid_id_is_damage(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "c"
    made = Journal(path)
    made.close()
    path.write_bytes(path.read_bytes().replace(made.id.encode(), name))
    with pytest.raises(CheckpointCorrupt, match="has no valid id"):
        Journal(path)
    with pytest.raises(CheckpointCorrupt, match="has no valid id"):
        Scan(str(path))


WORDS: dict[str, Any] = {"batch": "0123456789ab", "name": "f", "time": 0, "spool": "x", "scheduler": "local"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        *(
            (records.BATCH, records.pack_batch({**WORDS, **more}, [0], [key(1)]))
            for more in (
                {"batch": "../../x"},
                {"batch": None},
                {"batch": ["x"]},
                {"pool": -1, "first": 0},
                {"pool": 1 << 24, "first": 0},
                {"pool": "x", "first": 0},
                {"pool": 1, "first": "x"},
                {"pool": 1},
            )
        ),
        (records.FAILED, records.pack_failure(key(1), "../../x/yz__", 0, {})),
        (records.OPENED, b"[]"),
        (records.OPENED, b"7"),
        (records.OPENED, b"[" * 100_000),
        (records.PART, b"null"),
        (records.PART, b'{"batch": []}'),
    ],
)
def test_a_whole_record_with_other_words_is_damage(tmp_path: Path, kind: int, body: bytes) -> None:
    path = tmp_path / "c"
    made = Journal(path)
    made.close()
    path.write_bytes(path.read_bytes() + b"".join(journal._packed(made._sync, kind, [body])))
    with pytest.raises(CheckpointCorrupt, match="a record makes no sense"):
        Journal(path)
    more = records.RESULT, [key(2), b"value"]
    for behind in (b"", b"".join(journal._packed(made._sync, *more))):  # as the last record, and before another one
        path.write_bytes(path.read_bytes() + behind)
        scan, kept = journal.repair(path)
        assert (scan.lost > 0, kept) == (True, f"{path}.damaged")
        assert set(scan.contents.finished) == ({key(2)} if behind else set())
        Journal(path).close()
        path.write_bytes(Path(kept).read_bytes())
