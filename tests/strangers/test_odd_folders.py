"""Folders of odd owners, modes and names on the way to a work_dir, and what lies in one that was open to others."""

import fcntl
import json
import multiprocessing
import os
import shutil
import stat
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from slurmfutures import SlurmExecutor, SlurmFuturesError, SlurmFuturesWarning
from slurmfutures._bootstrap import archive
from slurmfutures._remote import agent, ships, source, spool, trust
from slurmfutures._remote.local import Local
from slurmfutures._remote.succession import Succession, agent_of, is_live
from tests import calls
from tests.fix_executors import Opener
from tests.pythons import find
from tests.strangers.accounts import Stranger
from tests.strangers.test_work_dirs import run
from tests.waiting import DEADLINE, until

DIGEST, SOURCE = archive()
SESSION = "0123456789ab"
_NOBODY = 0xFFFFFFFF  # in an entry of an ACL that names none


@pytest.fixture
def warm(common: Path, opener: Opener) -> Path:
    path = common / "work"
    with opener.root("local", work_dir=path):
        return path


def works(executor: SlurmExecutor) -> bool:
    return executor.submit(calls.square, 3).result(DEADLINE) == 9


def in_time(action: Callable[[], Any]) -> Any:
    """Return what an action returns; it must not wait for a FIFO."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(action).result(10)
    finally:
        pool.shutdown(wait=False)


# ---- on the way


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_one_below_a_folder_of_a_stranger_is_warned_of(
    opener: Opener, common: Path, stranger: Stranger, mode: int
) -> None:
    (common / "theirs").mkdir()
    stranger.own(common / "theirs")
    (common / "theirs").chmod(mode)
    words = rf"because {common}/theirs \(a folder of {stranger.name} .*, mode {mode:04o}\) is theirs or open to them"
    with pytest.warns(SlurmFuturesWarning, match=words):
        assert works(opener.root("local", work_dir=common / "theirs/work"))


def test_the_folder_of_a_link_on_the_way_counts_too(opener: Opener, common: Path) -> None:
    (common / "open").mkdir()
    (common / "open/way").symlink_to(common)
    (common / "open").chmod(0o777)
    with pytest.warns(SlurmFuturesWarning, match=rf"{common}/open \(a folder of .* is theirs or open to them"):
        opener.root("local", work_dir=common / "open/way/work")


def test_what_others_cannot_enter_is_not_warned_of(opener: Opener, common: Path) -> None:
    (common / "project").mkdir()
    (common / "project").chmod(0o775)
    common.chmod(0o700)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opener.root("local", work_dir=common / "project/work")


def test_a_link_of_a_stranger_behind_one_s_own_is_refused(opener: Opener, common: Path, stranger: Stranger) -> None:
    (common / "real").mkdir()
    (common / "theirs").symlink_to("real")
    (common / "mine").symlink_to("theirs/work")
    assert works(opener.root("local", work_dir=common / "mine"))
    stranger.own(common / "theirs")
    with pytest.raises(SlurmFuturesError, match=rf"/theirs: it is a link of {stranger.name}.*: name the folder itself"):
        opener.root("local", work_dir=common / "mine")


def test_a_link_that_a_stranger_makes_meanwhile_is_refused(
    common: Path, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(path: str) -> None:
        (common / "way").symlink_to(common)
        stranger.own(common / "way")
        os.makedirs(path, 0o700)

    monkeypatch.setattr(source, "_make_folders", make)
    place = source.Place(str(common / "way/work"), DIGEST, False)
    assert f"{common}/way: it is a link of {stranger.name}" in place.error


def test_the_way_is_the_kernel_s(common: Path) -> None:
    (common / "a/b").mkdir(parents=True)
    (common / "a/up").symlink_to("../a/./b/..")
    (common / "round").symlink_to("round")
    for path in ("a/up/b", "a/b/../up", "a//b/", "round", "a/nothing/else"):
        places = [place for place, _ in trust.way(f"{common}/{path}")]
        if (common / path).exists():
            assert {os.path.realpath(place) for place in places} >= {str(common), os.path.realpath(common / path)}
        assert len(places) < 60


def test_one_that_leads_to_a_purged_folder_is_made_anew(opener: Opener, common: Path) -> None:
    (common / "work").symlink_to(common / "scratch/me/work")
    assert works(opener.root("local", work_dir=common / "work"))
    assert stat.S_IMODE((common / "scratch/me/work").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("named", "words"), [("", "no folder is named"), ("~nobody-has-it/work", "nobody's home has the name ~nobody-has")]
)
def test_a_name_that_would_lead_into_the_current_folder_is_refused(
    opener: Opener, common: Path, named: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(common)
    with pytest.raises(SlurmFuturesError, match=rf"{words}.*; name another folder by work_dir="):
        opener.root("local", work_dir=named)
    assert not list(common.iterdir())


@pytest.mark.parametrize("name", ["new\nline", "\udcff", "back\\slash %j", "-rf", "$(touch proof)`touch proof`'\""])
def test_any_name_will_do(opener: Opener, common: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(common)
    assert works(opener.root("local", work_dir=name))
    assert os.listdir(common) == [name]


@pytest.mark.parametrize("version", ["3.8", "3.11"])
def test_a_locale_does_not_lead_elsewhere_than_was_looked(
    version: str, common: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    localedef = shutil.which("localedef")
    if localedef is None:
        pytest.skip("there is no localedef to make a locale with")
    name = "de_DE.ISO-8859-1"
    done = subprocess.run(
        [localedef, "-i", "de_DE", "-f", "ISO-8859-1", common / name], capture_output=True, text=True, check=False
    )
    if not (common / name).exists():
        pytest.skip(f"localedef: {done.stderr}")
    monkeypatch.setenv("LOCPATH", str(common))
    monkeypatch.setenv("LC_ALL", name)
    (common / "folder").mkdir()
    assert works(opener.root("local", work_dir=common / "folder/m\xfcller", python=quote(find(version))))
    assert os.listdir(common / "folder") == ["m\xfcller"]


def test_a_device_is_refused_for_what_it_is(opener: Opener) -> None:
    with pytest.raises(SlurmFuturesError, match=r"it is a special file of root .* in place of a folder"):
        opener.root("local", work_dir="/dev/null")


def test_a_default_acl_opens_nothing(opener: Opener, common: Path) -> None:
    """Where a folder has one, as those of groups often do, new folders are not made by the umask."""
    entries = [(1, 7, _NOBODY), (2, 7, 12345), (4, 7, _NOBODY), (0x10, 7, _NOBODY), (0x20, 5, _NOBODY)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(common, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"this file system has no ACLs: {error}")
    work = common / "deep/work"
    executor = opener.root("local", work_dir=work)
    assert works(executor)
    assert executor.login.submit(calls.square, 3).result(DEADLINE) == 9
    before = (work / "code" / DIGEST).stat().st_ino
    opener.root("local", work_dir=work)
    assert (work / "code" / DIGEST).stat().st_ino == before
    for path in (common / "deep", work, *work.glob("*/"), *work.glob("code/**/")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022, path


# ---- whose it is


@pytest.mark.parametrize("what", ["a folder named id", "a file named id", "code"])
def test_a_folder_that_only_looks_like_ours_is_refused(opener: Opener, common: Path, what: str) -> None:
    place = common / "project"
    place.mkdir(mode=0o755)
    if what == "code":
        (place / "code").mkdir()
        (place / "code/main.c").touch()
    else:
        (place / "thesis.tex").touch()
        (place / "id").mkdir() if "folder" in what else (place / "id").write_text("identities, one a line\n")
    with pytest.raises(SlurmFuturesError, match="it holds files that are not slurmfutures'"):
        opener.root("local", work_dir=place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["id", "limits.json", "local_job_id", "unpack.lock"])
def test_a_folder_in_place_of_a_file_of_ours_is_refused(opener: Opener, warm: Path, name: str) -> None:
    (warm / name).unlink(missing_ok=True)
    (warm / name).mkdir()
    with pytest.raises(SlurmFuturesError, match=rf"/{name}: it is a folder of .* in place of ours: remove it"):
        opener.root("local", work_dir=warm)


# ---- the source


def test_looking_imports_nothing_that_others_could_exchange(warm: Path) -> None:
    assert source.Place(str(warm), DIGEST, True).is_there
    (warm / "code").chmod(0o775)
    assert not source.Place(str(warm), DIGEST, True).is_there  # until it is imported
    assert run("status", work_dir=warm).returncode == 0


def _install(work_dir: str, barrier: Any) -> None:
    barrier.wait()
    place = source.Place(work_dir, DIGEST, False)
    if not place.error and not place.is_there:
        place._store(SOURCE)
    assert not place.error, place.error
    assert source.is_whole(place.code)


def test_starts_at_one_time_mend_a_spoiled_source_together(warm: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(10):
        next((warm / "code" / DIGEST).rglob("agent.py")).unlink()
        barrier = context.Barrier(4)
        processes = [context.Process(target=_install, args=(str(warm), barrier)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(DEADLINE)
        assert [process.exitcode for process in processes] == [0] * 4
        assert os.listdir(warm / "code") == [DIGEST]


def _holds(process: int, path: Path) -> bool:
    return any(
        os.path.realpath(entry) == os.path.realpath(path)
        for entry in Path(f"/proc/{process}/fd").glob("*")
        if os.path.lexists(entry)
    )


def test_a_source_that_was_mended_meanwhile_stays_where_it_is(warm: Path) -> None:
    code, whole = warm / "code" / DIGEST, warm / "code" / f"{DIGEST}.whole"
    shutil.copytree(code, whole)
    shutil.rmtree(code / "slurmfutures_remote")
    context = multiprocessing.get_context("fork")
    with (warm / "unpack.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = context.Process(target=_install, args=(str(warm), context.Barrier(1)))
        other.start()
        until(lambda: _holds(other.pid or 0, warm / "unpack.lock"))  # it has seen that the source is spoiled
        shutil.rmtree(code)
        whole.rename(code)
        number = code.stat().st_ino
    other.join(DEADLINE)
    assert other.exitcode == 0
    assert code.stat().st_ino == number
    assert os.listdir(warm / "code") == [DIGEST]


def test_a_lock_that_is_held_for_ever_stops_nobody(warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_LOCK_TIMEOUT", 0.1)
    shutil.rmtree(warm / "code" / DIGEST)
    with (warm / "unpack.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        source.Place(str(warm), DIGEST, False)._store(SOURCE)
    assert source.is_whole(str(warm / "code" / DIGEST))


def test_what_a_process_of_the_same_number_unpacks_elsewhere_is_not_touched(warm: Path) -> None:
    shutil.rmtree(warm / "code" / DIGEST)
    other = warm / f"code/{DIGEST}.{os.getpid()}"
    other.mkdir()
    source.Place(str(warm), DIGEST, False)._store(SOURCE)
    assert source.is_whole(str(warm / "code" / DIGEST))
    assert other.is_dir()


def test_a_job_s_umask_does_not_spoil_what_was_shipped(
    warm: Path, common: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    (common / "mine").mkdir()
    (common / "mine/shipped_loosely.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(str(common / "mine"))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    import shipped_loosely  # type: ignore[import-not-found]

    before = os.umask(0o002)
    try:
        options = {"work_dir": warm, "ship": str(common / "mine/shipped_loosely.py")}
        with opener.root("local", **options) as executor:
            assert executor.submit(shipped_loosely.answer).result(DEADLINE) == 42
        (version,) = (warm / "ship").iterdir()
        assert list(version.rglob("*.pyc"))
        assert ships.is_whole(str(version))
    finally:
        os.umask(before)
        del sys.modules["shipped_loosely"]


# ---- what others have left in one that was open to them


def test_a_batch_of_a_stranger_is_not_read(warm: Path, stranger: Stranger) -> None:
    planted = warm / "batches/0123456789ab"
    (planted / "0/r").mkdir(parents=True)
    (planted / "batch.json").write_text(json.dumps({"batch": planted.name, "tasks": 1, "skip": []}))
    assert spool.Batch(str(warm), planted.name).spec() is not None
    stranger.own(planted)
    with pytest.raises(trust.Untrusted, match=rf"it is a folder of {stranger.name}"):
        spool.Batch(str(warm), planted.name).spec()


def test_a_fifo_in_a_batch_holds_up_nobody(warm: Path) -> None:
    (warm / "batches/0123456789ab").mkdir(parents=True)
    os.mkfifo(warm / "batches/0123456789ab/batch.json")
    assert run("status", work_dir=warm).returncode == 0


def test_whatever_the_umask_is_batches_and_logs_are_closed(opener: Opener, common: Path) -> None:
    before = os.umask(0)
    try:
        executor = opener.root("local", work_dir=common / "work")
        assert works(executor)
    finally:
        os.umask(before)
    for name in ("batches", "login", "sessions", "code"):
        assert stat.S_IMODE((common / "work" / name).stat().st_mode) == 0o700, name


def test_an_agent_does_not_use_a_folder_that_a_stranger_has_made_for_it(common: Path, stranger: Stranger) -> None:
    folder = common / "login" / f"{os.uname().nodename}.{os.getpid()}"
    folder.mkdir(parents=True)
    stranger.own(folder)
    with pytest.raises(agent.Refusal, match=rf"cannot be used: {folder}: it is a folder of {stranger.name}"):
        agent._make_login(str(common), str(folder))


@pytest.fixture
def bystander() -> "Iterator[subprocess.Popen[bytes]]":
    """A process of the user's."""
    with subprocess.Popen(["sleep", str(DEADLINE)]) as process:
        yield process
        process.kill()


def test_a_session_of_a_stranger_ends_no_process(
    common: Path, stranger: Stranger, bystander: "subprocess.Popen[bytes]"
) -> None:
    (common / "sessions").mkdir(0o700)
    path, lock = common / "sessions" / SESSION, common / "sessions" / f"{SESSION}.lock"
    path.write_text(f'{{"host": "{os.uname().nodename}", "pid": {bystander.pid}, "mark": "sleep"}}')
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        stranger.own(path, lock)
        assert agent_of(str(common), SESSION) == {}
        succession = Succession(str(common), SESSION, "mark")
        assert succession.claim()
        succession.leave(for_good=True)
    assert bystander.poll() is None


@pytest.mark.parametrize("name", [SESSION, f"{SESSION}.lock"])
def test_a_fifo_among_the_sessions_holds_up_nobody(common: Path, name: str) -> None:
    (common / "sessions").mkdir(0o700)
    os.mkfifo(common / "sessions" / name)
    assert in_time(lambda: agent_of(str(common), SESSION)) == {}
    in_time(lambda: is_live(str(common), SESSION))
    assert in_time(Succession(str(common), SESSION, "mark").claim)


def test_a_process_of_a_stranger_is_no_submission(common: Path, stranger: Stranger) -> None:
    """Names of jobs are no secret, and words of a command line are free."""
    (common / "sessions").mkdir(0o700)
    name = "sf-0123456789ab-1"
    before, after = (Succession(str(common), SESSION, mark) for mark in ("before", "after"))
    before.claim()
    before.leave(for_good=False)
    after.claim()
    with stranger.start(["sh", "-c", "sleep 60; true", name]) as process:
        until(lambda: name.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        try:
            assert after.may_be_submitting(name) is False
        finally:
            process.kill()
    with subprocess.Popen(["sh", "-c", "sleep 60; true", name]) as own:
        until(lambda: name.encode() in Path(f"/proc/{own.pid}/cmdline").read_bytes())
        assert after.may_be_submitting(name) is True
        own.kill()


@pytest.mark.slurm
@pytest.mark.parametrize("text", ["[1]", "7", '{"conf": null, "max_jobs": []}', "\0"])
def test_limits_that_are_damaged_are_read_anew(cluster: object, opener: Opener, common: Path, text: str) -> None:
    with opener.root("slurm", work_dir=common / "work"):
        pass
    (common / "work/limits.json").write_text(text.replace("null", json.dumps(os.environ.get("SLURM_CONF", ""))))
    opener.root("slurm", work_dir=common / "work")


def test_job_ids_are_not_counted_in_a_file_of_a_stranger(common: Path, stranger: Stranger) -> None:
    (common / "local_job_id").write_text("7")
    assert Local(str(common), 1)._next_ids(2) == range(8, 10)
    stranger.own(common / "local_job_id")
    with pytest.raises(trust.Untrusted, match=rf"it is a file of {stranger.name}"):
        Local(str(common), 1)._next_ids(1)
