"""Checkpoints that another account wrote, or could have written to."""

import os
import pickle
import shutil
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from slurmfutures import CheckpointLocked, SlurmExecutor, SlurmFuturesError, _journal, _records
from slurmfutures._journal import Journal, Scan
from slurmfutures._records import KEY_SIZE
from tests.strangers.accounts import Stranger
from tests.test_commands import command

BATCH = "0123456789ab"
OPEN: list[Callable[[Path], object]] = [Journal, lambda path: Scan(str(path)), _journal.repair]


class Touch:
    """An object whose pickle makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (self.path,)


def plant(path: Path, mark: Path) -> None:
    """Write a checkpoint that makes `mark` where it is used: by its line of setup, or by a result."""
    journal = Journal(path)
    place: dict[str, object] = {"host": None, "jump": [], "transport": "paramiko", "ssh_config": None, "python": None}
    place.update(scheduler="local", work_dir=str(path.parent), setup=f"mkdir '{mark}'")
    words = {"batch": BATCH, "name": "f", "options": [], "time": 0, "spool": "x", "scheduler": "local", "where": "x"}
    key = bytes(KEY_SIZE - 1) + b"1"
    journal.append(
        [
            (_records.OPENED, [_records.dumps({"place": place, "time": 0, "where": "x"})]),
            (_records.BATCH, [_records.pack_batch(words, [0], [key])]),
            (_records.RESULT, [bytes(KEY_SIZE - 1) + b"2", pickle.dumps(Touch(mark))]),
        ]
    )
    journal.close()
    Path(f"{path}.lock").unlink()
    path.chmod(0o644)


def damage(path: Path) -> None:
    """Write three results to a checkpoint, and damage the second."""
    journal = Journal(path)
    results = [[bytes(KEY_SIZE - 1) + bytes([number]), b"x" * 9] for number in range(3)]
    places = journal.append([(_records.RESULT, result) for result in results])
    journal.close()
    data = bytearray(path.read_bytes())
    data[places[1] + KEY_SIZE] ^= 1
    path.write_bytes(data)


@pytest.fixture
def mark(common: Path) -> Path:
    """What is there once a stranger's code has run."""
    return common / "ran"


@pytest.fixture
def planted(common: Path, mark: Path) -> Path:
    path = common / "c.ckpt"
    plant(path, mark)
    return path


@pytest.mark.parametrize("opened", OPEN)
def test_that_of_another_account_is_refused_and_left_as_it_is(
    planted: Path, stranger: Stranger, opened: Callable[[Path], object]
) -> None:
    stranger.own(planted)
    before = planted.read_bytes()
    with pytest.raises(SlurmFuturesError) as caught:
        opened(planted)
    assert str(planted) in str(caught.value)
    assert f"a file of {stranger.name} (uid {stranger.uid}), mode 0644 and not yours" in str(caught.value)
    assert "name another place" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert planted.read_bytes() == before
    assert [path.name for path in planted.parent.iterdir()] == [planted.name]


@pytest.mark.parametrize("opened", OPEN)
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620])
def test_one_that_others_can_write_to_is_refused(planted: Path, opened: Callable[[Path], object], mode: int) -> None:
    planted.chmod(mode)
    with pytest.raises(SlurmFuturesError, match=f"mode {mode:04o}, so others can write to it: .*chmod go-w"):
        opened(planted)
    planted.chmod(mode & ~0o022)
    Scan(str(planted))


@pytest.mark.parametrize("opened", OPEN)
def test_what_is_no_file_is_refused_at_once(common: Path, stranger: Stranger, opened: Callable[[Path], object]) -> None:
    fifo, theirs, folder = common / "fifo", common / "theirs", common / "folder"
    os.mkfifo(fifo)
    os.mkfifo(theirs)
    stranger.own(theirs)
    folder.mkdir()
    for path in (fifo, theirs, folder, Path("/dev/zero")):
        with pytest.raises(SlurmFuturesError, match=f"{path} .*(of root|of {stranger.name})|{path} .*directory"):
            opened(path)


def test_of_a_link_what_it_leads_to_decides(planted: Path, common: Path, stranger: Stranger) -> None:
    link, other = common / "link", common / "other"
    link.symlink_to(planted)
    Scan(os.path.realpath(link))
    Journal(link).close()
    shutil.copy(planted, other)
    stranger.own(other)
    link.unlink()
    link.symlink_to(other)
    for opened in OPEN:
        with pytest.raises(SlurmFuturesError, match="not yours"):
            opened(Path(os.path.realpath(link)))


def test_one_that_is_swapped_after_it_was_opened_is_not_read(planted: Path, stranger: Stranger) -> None:
    journal = Journal(planted)
    theirs = planted.with_name("theirs")
    theirs.write_bytes(planted.read_bytes())
    stranger.own(theirs)
    theirs.rename(planted)
    (place,) = journal.append([(_records.RESULT, [bytes(KEY_SIZE), b"mine"])])
    assert journal.read(place + KEY_SIZE, 4) == b"mine"
    journal._compact()
    assert planted.stat().st_uid == os.getuid()
    journal.close()


COMMANDS = [
    ("status", "{}"),
    ("status", "{}", "--json"),
    ("status", "{}", "--live"),
    ("logs", "--checkpoint", "{}", "7"),
    ("cancel", "{}"),
    ("cancel", "{}", "--forget"),
    ("repair", "{}"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_runs_what_it_says(planted: Path, mark: Path, stranger: Stranger, words: tuple[str, ...]) -> None:
    stranger.own(planted)
    done = command(*(word.format(planted) for word in words))
    line = done.failed()
    assert f"the checkpoint {planted} is not used, because code in it would run as you: it is a file of" in line
    assert f"{stranger.name} (uid {stranger.uid}), mode 0644 and not yours" in line
    assert not mark.exists()
    assert [path.name for path in planted.parent.iterdir()] == [planted.name]


def test_an_executor_takes_no_result_from_it(common: Path, stranger: Stranger) -> None:
    path, work_dir = common / "c", common / "work"
    with SlurmExecutor(scheduler="local", work_dir=str(work_dir), checkpoint=path) as executor:
        assert executor.submit(pow, 2, 3).result() == 8
    (key,) = Scan(str(path)).contents.finished
    journal = Journal(path)
    journal.append([(_records.RESULT, [key, pickle.dumps(42)])])
    journal.close()
    stranger.own(path)
    with pytest.raises(SlurmFuturesError, match=f"{path} is not used, .* and not yours"):
        SlurmExecutor(scheduler="local", work_dir=str(work_dir), checkpoint=path)


def test_a_copy_is_one_s_own(planted: Path, common: Path, stranger: Stranger) -> None:
    stranger.own(planted)
    shutil.copy(planted, common / "copy")
    assert command("status", common / "copy", "--json").json()["calls"]["finished"] == 1


# ---- the files beside it


def test_a_lock_that_another_account_has_put_there_is_refused(common: Path, stranger: Stranger) -> None:
    lock = common / "c.lock"
    lock.write_text("")
    lock.chmod(0o666)
    stranger.own(lock)
    with pytest.raises(SlurmFuturesError, match=f"{lock} cannot be locked: .* and not yours"):
        Journal(common / "c")
    assert not (common / "c").exists()


@pytest.mark.parametrize("end", [".lock", ".new", ".damaged"])
def test_no_link_beside_it_is_followed(common: Path, stranger: Stranger, end: str) -> None:
    path, precious, beside = common / "c", common / "precious", common / f"c{end}"
    precious.write_text("years of work")

    def use(opened: Callable[[Path], object]) -> None:
        beside.unlink(missing_ok=True)
        beside.symlink_to(precious)
        os.chown(beside, stranger.uid, stranger.gid, follow_symlinks=False)
        refused = pytest.raises(SlurmFuturesError, match=f"{beside} cannot be locked: it is a link of {stranger.name}")
        with refused if end == ".lock" else nullcontext():
            opened(path)
        assert precious.read_text() == "years of work"
        assert not path.is_symlink()

    use(lambda path: Journal(path).close())
    beside.unlink(missing_ok=True)
    damage(path)
    use(_journal.repair)
    use(lambda path: Journal(path).close())


@pytest.mark.parametrize("whose", ["the user's", "a stranger's"])
@pytest.mark.parametrize("kind", ["FIFO", "folder"])
def test_a_lock_that_is_no_file_is_refused_at_once(common: Path, stranger: Stranger, kind: str, whose: str) -> None:
    lock = common / "c.lock"
    os.mkfifo(lock) if kind == "FIFO" else lock.mkdir()
    if whose == "a stranger's":
        stranger.own(lock)
    with pytest.raises(SlurmFuturesError, match=f"{lock} cannot be locked: it is a {kind} of"):
        Journal(common / "c")
    assert not (common / "c").exists()


def test_a_lock_that_cannot_be_written_to_is_refused(common: Path, stranger: Stranger) -> None:
    lock = common / "c.lock"
    lock.touch(mode=0o400)
    stranger.own(common, lock)
    os.seteuid(stranger.uid)
    try:
        with pytest.raises(SlurmFuturesError, match=f"{lock} cannot be locked: Permission denied"):
            Journal(common / "c")
    finally:
        os.seteuid(0)


def test_a_lock_that_is_another_name_of_a_file_leaves_its_content(common: Path) -> None:
    precious, lock = common / "precious", common / "c.lock"
    precious.write_text("years of work")
    os.link(precious, lock)
    with pytest.raises(SlurmFuturesError, match=f"{lock} cannot be locked: .* has other names, and is not empty"):
        Journal(common / "c")
    assert precious.read_text() == "years of work"


def test_a_lock_that_a_backup_has_linked_is_used(common: Path) -> None:
    Journal(common / "c").close()
    os.link(common / "c.lock", common / "c.lock.yesterday")
    journal = Journal(common / "c")
    with pytest.raises(CheckpointLocked):
        Journal(common / "c")
    journal.close()


def test_all_that_is_made_is_closed_to_others(common: Path) -> None:
    path = common / "c"
    before = os.umask(0)
    try:
        journal = Journal(path)
        journal._compact()
        journal.close()
        damage(path)
        _journal.repair(path)
    finally:
        os.umask(before)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in common.iterdir()}
    assert modes == dict.fromkeys(("c", "c.lock", "c.damaged"), 0o600)
