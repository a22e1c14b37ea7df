"""A work_dir that somebody else has made, or could write to, runs nothing of theirs."""

import functools
import os
import re
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tests
from slurmfutures import SlurmExecutor, SlurmFuturesError, SlurmFuturesWarning
from slurmfutures._bootstrap import archive
from tests import calls
from tests.connection.lines import agent_of, until_connected_again
from tests.fix_executors import Opener
from tests.strangers.accounts import Stranger
from tests.waiting import DEADLINE

DIGEST = archive()[0]
COMMANDS = (["status"], ["status", "--json"], ["logs", "1"], ["cancel", "--all"], ["clean", "--older-than", "0d"])

COMMAND = "import sys; from slurmfutures._cli import main; sys.exit(main())"

Open = Callable[..., SlurmExecutor]


@pytest.fixture(
    params=[
        "local",
        pytest.param("paramiko", marks=pytest.mark.ssh),
        pytest.param("openssh", marks=pytest.mark.ssh),
        pytest.param("slurm", marks=pytest.mark.slurm),
    ]
)
def opened(request: pytest.FixtureRequest, opener: Opener) -> Open:
    """Make an executor of one kind."""
    if request.param == "slurm":
        request.getfixturevalue("cluster")
    return functools.partial(opener.root, request.param)


@pytest.fixture
def proof(common: Path) -> Path:
    """A file that is there once a stranger's code has run."""
    return common / "proof"


@pytest.fixture
def warm(common: Path, opener: Opener) -> Path:
    """A work_dir with our source in it, which was closed to others all the time."""
    path = common / "work"
    with opener.root("local", work_dir=path):
        return path


def run(*words: object, work_dir: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command where the batches are."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, words), "--scheduler", "local", "--work-dir", str(work_dir)],
        env=dict(os.environ, PYTHONPATH=str(Path(tests.__file__).parents[1])),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def spoil(folder: Path, proof: Path) -> None:
    """Have all modules in a folder leave a proof when they are imported."""
    for path in folder.rglob("*.py"):
        path.write_text(f"open({str(proof)!r}, 'w')\n" + path.read_text())
    for path in folder.rglob("__pycache__"):
        shutil.rmtree(path)


def plant(warm: Path, proof: Path) -> None:
    """Put source into a folder that looks like ours, and is not."""
    package = warm / "code" / DIGEST / "slurmfutures_remote"
    package.mkdir(parents=True, exist_ok=True)
    for name in ("__init__.py", "agent.py", "source.py", "trust.py", "../start.py"):
        (package / name).write_text(f"open({str(proof)!r}, 'w')\n")
    (warm / "id").write_text("0123456789ab")


def modes(folder: Path) -> dict[str, tuple[str, int]]:
    """Return kind and mode of all that is below a folder, itself included."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        about = path.lstat()
        found[str(path)] = (stat.filemode(about.st_mode), about.st_mtime_ns)
    return found


# ---- whose it is


def test_one_of_a_stranger_is_refused_and_not_touched(
    opened: Open, common: Path, proof: Path, stranger: Stranger
) -> None:
    warm = common / "theirs"
    plant(warm, proof)
    stranger.own(warm)
    before = modes(warm)
    whose = rf"it is a folder of {stranger.name} \(uid {stranger.uid}\), mode 0755, and belongs to another user; name"
    with pytest.raises(SlurmFuturesError, match=whose):
        opened(work_dir=warm)
    assert modes(warm) == before
    assert not proof.exists()


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_commands_do_not_run_what_a_stranger_has_left(
    words: list[str], common: Path, proof: Path, stranger: Stranger
) -> None:
    plant(common / "theirs", proof)
    stranger.own(common / "theirs")
    done = run(*words, work_dir=common / "theirs")
    assert done.returncode == 1
    assert "belongs to another user" in done.stderr
    assert not proof.exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o777, 0o1777, 0o2775])
def test_one_that_others_can_write_to_is_refused(opener: Opener, warm: Path, mode: int) -> None:
    warm.chmod(mode)
    with pytest.raises(
        SlurmFuturesError, match=r"so others can write to it: check what is in it, then run `chmod go-w`"
    ):
        opener.root("local", work_dir=warm)
    assert stat.S_IMODE(warm.stat().st_mode) == mode
    assert "others can write to it" in run("status", work_dir=warm).stderr
    warm.chmod(0o700)
    assert opener.root("local", work_dir=warm).submit(calls.square, 3).result(DEADLINE) == 9


@pytest.mark.parametrize(
    "name", ["code", "ship", "batches", "sessions", "pilots", "login", "id", "limits.json", "else"]
)
def test_what_a_stranger_put_there_while_it_was_open_is_refused(
    opener: Opener, warm: Path, stranger: Stranger, name: str
) -> None:
    path = warm / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if name in ("id", "limits.json", "else"):
        path.write_text("x")
    else:
        path.mkdir()
    stranger.own(path)
    with pytest.raises(SlurmFuturesError, match=rf"/{name}: it is a \w+ of {stranger.name}.* and not yours: remove it"):
        opener.root("local", work_dir=warm)


@pytest.mark.parametrize("name", ["code", "batches", "sessions", "login"])
def test_a_link_in_place_of_a_folder_of_ours_is_refused(opener: Opener, warm: Path, common: Path, name: str) -> None:
    (warm / name).mkdir(exist_ok=True)
    (warm / name).rename(common / name)
    (warm / name).symlink_to(common / name)
    with pytest.raises(SlurmFuturesError, match=rf"/{name}: it is a link of .* in place of ours: remove it"):
        opener.root("local", work_dir=warm)


def test_a_way_that_leads_over_a_stranger_s_link_is_refused(
    opener: Opener, warm: Path, common: Path, stranger: Stranger
) -> None:
    (common / "way").symlink_to(common)
    assert opener.root("local", work_dir=common / "way/work").submit(calls.square, 3).result(DEADLINE) == 9
    stranger.own(common / "way")
    with pytest.raises(SlurmFuturesError, match=rf"/way: it is a link of {stranger.name}.*: name the folder itself"):
        opener.root("local", work_dir=common / "way/work")


def test_one_below_a_folder_in_which_others_can_rename_is_warned_of(opener: Opener, warm: Path, common: Path) -> None:
    common.chmod(0o1777)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opener.root("local", work_dir=warm)
    common.chmod(0o775)
    words = rf"because {common} \(a folder of .*, mode 0775\) is theirs or open to them: have it closed"
    with pytest.warns(SlurmFuturesWarning, match=words):
        opener.root("local", work_dir=warm)


# ---- the source


@pytest.fixture(params=["changed", "more", "less", "emptied", "bytecode", "a stranger's", "open", "a link"])
def spoiled(
    request: pytest.FixtureRequest, warm: Path, common: Path, proof: Path, stranger: Stranger
) -> Iterator[Path]:
    """A work_dir whose source is not what it was."""
    code = warm / "code" / DIGEST
    agent = code / "slurmfutures_remote/agent.py"
    if request.param == "changed":
        spoil(code, proof)
    elif request.param == "more":
        (code / "json.py").write_text(f"open({str(proof)!r}, 'w')\n")
    elif request.param == "less":
        agent.unlink()
    elif request.param == "emptied":  # as a purge of old files leaves it
        for path in code.rglob("*"):
            if path.is_file():
                path.unlink()
    elif request.param == "bytecode":
        stranger.own(next(agent.parent.glob("__pycache__/agent.*.pyc")))
    elif request.param == "a stranger's":
        stranger.own(agent)
    elif request.param == "open":
        agent.chmod(0o666)
    else:
        agent.rename(common / "agent.py")
        agent.symlink_to(common / "agent.py")
    yield warm
    assert not proof.exists()


def test_a_source_that_is_not_what_its_name_says_is_replaced(opener: Opener, spoiled: Path) -> None:
    executor = opener.root("local", work_dir=spoiled)
    assert executor.submit(calls.square, 3).result(DEADLINE) == 9
    assert executor.login.submit(calls.square, 4).result(DEADLINE) == 16
    assert sorted(path.name for path in (spoiled / "code").iterdir()) == [DIGEST]


def test_looking_does_not_run_a_source_that_is_not_what_its_name_says(spoiled: Path) -> None:
    before = modes(spoiled)
    done = run("status", work_dir=spoiled)
    assert (done.returncode, done.stderr) == (0, "")
    assert modes(spoiled) == before


def test_a_source_is_replaced_wherever_it_is(opened: Open, warm: Path, proof: Path) -> None:
    spoil(warm / "code" / DIGEST, proof)
    assert opened(work_dir=warm).submit(calls.square, 3).result(DEADLINE) == 9
    assert not proof.exists()


@pytest.mark.slurm
def test_the_source_is_looked_at_again_when_the_agent_is_lost(
    opener: Opener, cluster: object, warm: Path, proof: Path
) -> None:
    executor = opener.root("slurm", work_dir=warm)
    first = agent_of(executor)
    spoil(warm / "code" / DIGEST, proof)
    os.kill(first, 9)
    until_connected_again(executor, first)
    assert executor.submit(calls.square, 3).result(DEADLINE) == 9
    assert not proof.exists()


@pytest.mark.parametrize("how", ["changed", "a stranger's", "more"])
def test_a_shipped_version_that_is_not_what_its_name_says_is_sent_again(
    opened: Open, warm: Path, common: Path, stranger: Stranger, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (common / "local").mkdir()
    (common / "local/shipped_answer.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(str(common / "local"))
    import shipped_answer  # type: ignore[import-not-found]

    with opened(work_dir=warm, ship=str(common / "local/shipped_answer.py")) as executor:
        assert executor.submit(shipped_answer.answer).result(DEADLINE) == 42
    (version,) = (warm / "ship").iterdir()
    if how == "more":
        (version / "json.py").write_text("raise SystemExit(9)\n")
    else:
        (version / "shipped_answer.py").write_text("def answer():\n    return 666\n")
        shutil.rmtree(version / "__pycache__", ignore_errors=True)
    if how == "a stranger's":
        stranger.own(version)
    executor = opened(work_dir=warm, ship=str(common / "local/shipped_answer.py"))
    assert executor.submit(shipped_answer.answer).result(DEADLINE) == 42
    assert executor.login.submit(shipped_answer.answer).result(DEADLINE) == 42
    del sys.modules["shipped_answer"]


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_whatever_the_umask_is_all_of_it_is_closed_to_others(opener: Opener, common: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        executor = opener.root("local", work_dir=common / "deep/work")
        assert executor.submit(calls.square, 3).result(DEADLINE) == 9
        assert executor.login.submit(os.umask, mask).result(DEADLINE) == mask  # users' files are made as they want them
    finally:
        os.umask(before)
    for path in (common / "deep", common / "deep/work", *(common / "deep/work/code").rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


# ---- what is there already


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("what", ["nothing", "files", "batches"])
def test_looking_makes_and_changes_nothing(words: list[str], what: str, common: Path, opener: Opener) -> None:
    place = common / "place"
    if what == "batches":
        with opener.root("local", work_dir=place) as executor:
            executor.submit(calls.square, 3).result(DEADLINE)
        shutil.rmtree(place / "code" / DIGEST)  # as after an upgrade
        opener.close()
    else:
        place.mkdir()
    if what == "files":
        (place / "thesis.tex").write_text("x")
    place.chmod(0o755)
    before = modes(place)
    done = run(*words, work_dir=place)
    assert "Traceback" not in done.stderr
    after = modes(place)
    if words[0] == "clean":  # which removes what it finds
        assert after.keys() <= before.keys()
        assert after[str(place)] == before[str(place)]
    else:
        assert after == before


def test_a_folder_with_other_things_in_it_is_refused(opened: Open, common: Path) -> None:
    (common / "home").mkdir(mode=0o755)
    (common / "home/thesis.tex").write_text("x")
    before = modes(common)
    words = "holds files that are not slurmfutures' (thesis.tex); name an empty or a new folder by work_dir="
    with pytest.raises(SlurmFuturesError, match=re.escape(words)):
        opened(work_dir=common / "home")
    assert modes(common) == before


def test_one_that_has_lost_its_name_to_a_purge_is_still_ours(opener: Opener, warm: Path) -> None:
    (warm / "id").unlink()
    assert opener.root("local", work_dir=warm).submit(calls.square, 3).result(DEADLINE) == 9
    (warm / "mine.txt").write_text("x")  # beside what is ours
    assert opener.root("local", work_dir=warm).submit(calls.square, 3).result(DEADLINE) == 9
