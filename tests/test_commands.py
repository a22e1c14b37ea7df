"""`slurmfutures status`, `logs`, `cancel` and `clean`, on what a killed driver has left and beside one that lives."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

import tests
from slurmfutures import AgentError, _cli
from slurmfutures._remote import succession, wire
from tests import calls
from tests.cluster import Cluster
from tests.connection.lines import agent_of
from tests.far.sshd import Farm
from tests.fix_executors import Opener
from tests.fix_gate import Gate
from tests.slurm.queue import Queue
from tests.slurm.shadow import Shadow
from tests.waiting import until

ROOT = Path(tests.__file__).parents[1]
COMMAND = "import sys; from slurmfutures._cli import main; sys.exit(main())"
WITHOUT_RICH = "import sys; sys.modules['rich'] = None\n" + COMMAND
ON_BOTH = pytest.mark.parametrize("left", ["local", pytest.param("slurm", marks=pytest.mark.slurm)], indirect=True)
ON_SLURM = [pytest.mark.slurm, pytest.mark.parametrize("left", ["slurm"], indirect=True)]

# A batch whose calls are done, dead and running, and one that waits; it tells their jobs and waits to be killed.
DRIVER = """\
import json, signal, sys
from tests import calls
from tests.waiting import until
from slurmfutures import SlurmExecutor

scheduler, work_dir, gate = sys.argv[1:]
executor = SlurmExecutor(scheduler=scheduler, work_dir=work_dir, max_workers=1 if scheduler == "local" else None)
with executor._connection.poller._lock:  # one batch, however slow this machine is
    done = executor.submit(calls.speak, "to stdout", "to stderr")
    dead = executor.submit(calls.leave_saying, 3, "last words")
    running = executor.submit(calls.pass_gate, gate)
assert done.result() is None and dead.exception() is not None
until(running.running)
options = {"job_name": "n" * 60} if scheduler == "local" else {"hold": True}
waiting = executor.with_options(**options).submit(calls.square, 2)
until(lambda: waiting.job_id)
print(json.dumps([future.job_id for future in (done, dead, running, waiting)]), flush=True)
signal.pause()
"""


class Done(subprocess.CompletedProcess[str]):
    """How a command ended."""

    def json(self) -> Any:
        assert self.returncode == 0, self.stderr
        return json.loads(self.stdout)

    def failed(self) -> str:
        """Return the line that a command failed with."""
        assert (self.returncode, self.stdout) == (1, ""), self
        (line,) = self.stderr.splitlines()
        return line


def command(*words: object, env: Mapping[str, str] | None = None, program: str = COMMAND) -> Done:
    """Run `slurmfutures`."""
    argv = [sys.executable, "-c", program, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=80, check=False)
    return Done(done.args, done.returncode, done.stdout, done.stderr)


class Left:
    """What a driver that was killed has left in a work_dir."""

    def __init__(self, scheduler: str, folder: Path) -> None:
        self.scheduler = scheduler
        self.work_dir = folder / "a b'c"
        self.gate = Gate(folder / "gate")
        script = folder / "driver.py"
        script.write_text(DRIVER)
        argv = [sys.executable, str(script), scheduler, str(self.work_dir), self.gate.folder]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as driver:
            assert driver.stdout is not None
            self.done, self.dead, self.running, self.waiting = json.loads(driver.stdout.readline())
            driver.send_signal(signal.SIGKILL)
        (batch,) = {batch["session"] for batch in self.specs().values()}
        until(lambda: succession.is_live(str(self.work_dir), batch) is False)
        self.mixed, self.held = (
            next(name for name, spec in self.specs().items() if spec["tasks"] == tasks) for tasks in (3, 1)
        )

    def specs(self) -> dict[str, Any]:
        return {path.parent.name: json.loads(path.read_text()) for path in self.work_dir.glob("batches/*/batch.json")}

    def run(self, name: str, *words: object, **more: Any) -> Done:
        return command(name, "--scheduler", self.scheduler, "--work-dir", self.work_dir, *words, **more)

    def status(self, *words: object, **more: Any) -> dict[str, Any]:
        """Return the batches by their names."""
        document = self.run("status", "--json", *words, **more).json()
        return {batch["batch"]: batch for batch in document["batches"]}

    def make_old(self) -> None:
        """Have all that is there changed last nine days ago."""
        for path in [self.work_dir, *self.work_dir.rglob("*")]:
            at = time.time() - 9 * 86400
            os.utime(path, (at, at), follow_symlinks=False)


@pytest.fixture(scope="module")
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    if request.param == "slurm":
        request.getfixturevalue("cluster")
    left = Left(request.param, tmp_path_factory.mktemp("left"))
    yield left
    left.gate.open()
    left.run("cancel", "--all")


@pytest.fixture
def own_left(cluster: Cluster, tmp_path: Path) -> Iterator[Left]:
    """What a killed driver has left on Slurm, for one test."""
    left = Left("slurm", tmp_path / "left")
    yield left
    left.gate.open()
    left.run("cancel", "--all")


@pytest.fixture
def shadow(tmp_path: Path) -> Shadow:
    return Shadow(tmp_path / "shadow")


def promised(heading: str) -> set[str]:
    """Return the keys of a table in the documentation."""
    text = (ROOT / "docs" / "command-line.md").read_text().partition(heading)[2].partition("\n\n")[2]
    table = text.partition("\n\n")[0]
    return {key for line in table.splitlines() for key in re.findall(r"`(\w+)`", line.split("|")[1])}


# ---- status


@ON_BOTH
def test_status_tells_what_became_of_each_call_of_a_killed_driver(left: Left) -> None:
    states = {"done": 1, "running": 1, "pending": 0, "ended": 1, "unsubmitted": 0}
    waiting = "pending"
    if left.scheduler == "local":  # whose jobs end with their driver
        states.update(running=0, ended=2)
        waiting = "unsubmitted"
    batches = left.status()
    mixed, held = batches[left.mixed], batches[left.held]
    assert mixed["states"] == states
    assert mixed["ranges"]["done"] == [[0, 1]]
    assert {state: number for state, number in held["states"].items() if number} == {waiting: 1}
    assert (mixed["tasks"], mixed["calls"], mixed["name"], mixed["live"]) == (3, 3, "speak", False)
    assert held["jobs"] == [left.waiting]
    assert mixed["jobs"] == [left.done.partition("_")[0]]
    death = mixed["failed"][0]
    assert (death["call"], death["job"], death["task"]) == (f"{left.mixed}:1", left.dead, 1)
    assert (death["exit_code"], death["signal"], death["node"] != "") == (3, None, True)


@pytest.mark.slurm
@pytest.mark.parametrize("left", ["slurm"], indirect=True)
def test_status_has_slurms_word_for_how_a_job_ended(left: Left) -> None:
    until(lambda: left.status()[left.mixed]["failed"][0]["state"] == "FAILED")


@ON_BOTH
def test_the_keys_are_those_of_the_documentation(left: Left) -> None:
    document = left.run("status", "--json").json()
    assert set(document) == promised("`--json` gives one document")
    for batch in document["batches"]:
        assert set(batch) == promised("Each batch:")
    (failed,) = re.findall(r"\| `failed` \|(.*)\|", (ROOT / "docs" / "command-line.md").read_text())
    assert set(document["batches"][0]["failed"][0]) <= set(re.findall(r"`(\w+)`", failed))


@ON_BOTH
def test_status_is_a_line_for_each_batch_and_for_each_failure_and_cuts_none(left: Left) -> None:
    lines = left.run("status", env={"COLUMNS": "40"}).stdout.splitlines()
    (mixed,) = (line for line in lines if line.startswith(left.mixed + " "))
    assert "1 done" in mixed
    assert mixed.split()[-1] == "gone"
    (held,) = (line for line in lines if line.startswith(left.held + " "))
    assert ("n" * 60 if left.scheduler == "local" else "square") in held.split()
    (death,) = (line for line in lines if line.startswith(f"{left.mixed}:1 "))
    assert death.split()[1] == left.dead
    assert death.rstrip().endswith("exit code 3")


@ON_BOTH
def test_json_needs_no_rich_and_tables_say_what_they_need(left: Left) -> None:
    assert left.run("status", "--json", program=WITHOUT_RICH).json()["batches"]
    assert left.run("status", program=WITHOUT_RICH).failed().endswith("pip install 'slurmfutures[cli]'")


@pytest.mark.slurm
@pytest.mark.ssh
@pytest.mark.parametrize("left", ["slurm"], indirect=True)
@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_from_far_it_is_the_same(left: Left, farm: Farm, transport: str) -> None:
    words = ["--host", farm.login.address, "--transport", transport, "--ssh-config", farm.config]
    words += ["--python", quote(sys.executable)]
    here, there = left.status(), left.status(*words)
    assert {name: batch["ranges"] for name, batch in here.items()} == {
        name: batch["ranges"] for name, batch in there.items()
    }
    assert left.run("logs", left.done, *words).stdout == "to stdout\n"
    line = command("status", *words, "--work-dir", left.work_dir / "none").failed()
    assert line.startswith(f"slurmfutures: there is no folder {left.work_dir}/none on {farm.login.address}")


def test_where_there_are_no_batches_status_says_so(tmp_path: Path) -> None:
    words = ["status", "--scheduler", "local", "--work-dir", tmp_path]
    assert command(*words).stdout == f"no batches in {tmp_path} on {os.uname().nodename}\n"
    assert command(*words, "--json").json()["batches"] == []


def test_the_environment_says_where_to_look_as_for_the_executor(tmp_path: Path) -> None:
    work_dir = tmp_path / "sf"
    work_dir.mkdir()
    env = {"SLURMFUTURES_WORK_DIR": str(work_dir), "SLURMFUTURES_HOST": "me@127.0.0.1:1"}
    local = ["status", "--json", "--scheduler", "local"]
    assert command(*local, env=env).json()["work_dir"] == str(work_dir)
    assert command(*local, "--work-dir", tmp_path, env=env).json()["work_dir"] == str(tmp_path)
    assert "port 1 of 127.0.0.1" in command("status", "--json", env=env).failed()
    here = command("status", "--json", "--host", "", "--work-dir", tmp_path / "none", env=env).failed()
    assert "there is no folder" in here
    assert "on this machine" in here


def test_looking_makes_no_work_dir(weird_tmp_path: Path) -> None:
    place = weird_tmp_path / "none"
    for words in (["status"], ["status", "--json"], ["logs", "1"], ["cancel", "--all"], ["clean"]):
        line = command(*words, "--scheduler", "local", "--work-dir", place).failed()
        assert line == f"slurmfutures: there is no folder {place} on this machine: name another by --work-dir"
    assert not place.exists()


def test_a_home_folder_is_found_as_the_executor_finds_it(tmp_path: Path) -> None:
    (tmp_path / "my work").mkdir()
    words = ["status", "--scheduler", "local", "--json", "--work-dir"]
    found = command(*words, "~/my work", env={"HOME": str(tmp_path)}).json()
    assert found["work_dir"] == str(tmp_path / "my work")
    assert command(*words, "~/none", env={"HOME": str(tmp_path)}).failed()


@pytest.mark.slurm
@pytest.mark.parametrize("left", ["slurm"], indirect=True)
def test_a_queue_that_does_not_answer_is_told_and_nothing_has_ended_for_it(left: Left, shadow: Shadow) -> None:
    shadow.put("squeue", "exit 1")
    document = left.run("status", "--json", env=shadow.env).json()
    assert document["queue"] is False
    (held,) = (batch for batch in document["batches"] if batch["batch"] == left.held)
    assert held["states"]["pending"] == 1
    assert "the queue could not be asked" in left.run("status", env=shadow.env).stdout


@pytest.mark.slurm
@pytest.mark.parametrize("left", ["slurm"], indirect=True)
def test_the_queue_is_asked_once_for_all_batches(left: Left, shadow: Shadow) -> None:
    shadow.put("squeue")
    shadow.put("sacct")
    assert len(left.status(env=shadow.env)) == 2
    assert len(shadow.called("squeue")) == 1
    assert len(shadow.called("sacct")) <= 1


# ---- logs


@ON_BOTH
def test_a_log_is_found_by_job_and_by_task(left: Left) -> None:
    assert left.run("logs", left.done).stdout == "to stdout\n"
    assert left.run("logs", f"{left.mixed}:0").stdout == "to stdout\n"
    assert left.run("logs", left.done, "--stderr").stdout == "to stderr\n"
    assert "last words" in left.run("logs", "--stderr", left.dead).stdout
    assert left.run("logs", left.waiting).stdout == ""
    told = left.run("logs", left.done, "--json").json()
    assert told == {"batch": left.mixed, "task": 0, "stdout": "to stdout\n", "stderr": "to stderr\n"}


@ON_BOTH
def test_a_call_that_is_not_there_is_told_with_the_place(left: Left) -> None:
    for call in ("999999", f"{left.mixed}:3", "none:0"):
        line = left.run("logs", call).failed()
        assert line == f"slurmfutures: there is no call {call} in {left.work_dir} on {os.uname().nodename}"
    array = left.done.partition("_")[0]
    assert left.run("logs", array).failed().endswith(f"array of 3 tasks: name one, as {array}_0")


# ---- cancel and clean


@pytest.mark.slurm
def test_cancel_ends_the_jobs_and_leaves_what_is_done(own_left: Left, cluster: Cluster) -> None:
    queue = Queue(cluster)
    jobs = {own_left.running, own_left.waiting}
    assert {job.id for job in queue.active()} >= jobs
    line = own_left.run("cancel", own_left.held, "none").failed()
    assert "there is no batch none" in line
    done = own_left.run("cancel", own_left.mixed, "--json").json()
    assert done == {"cancelled": [{"batch": own_left.mixed, "tasks": 1}], "refused": [], "left": []}
    assert {job.id for job in queue.active()} & jobs == {own_left.waiting}
    assert own_left.run("cancel", "--all").stdout == f"batch {own_left.held}: 1 task cancelled\n"
    assert not {job.id for job in queue.active()} & jobs
    batches = own_left.status()
    assert batches[own_left.mixed]["states"]["done"] == 1
    assert batches[own_left.mixed]["states"]["ended"] == 2
    assert batches[own_left.held]["states"]["ended"] == 1
    assert own_left.run("cancel", "--all").stdout == "nothing to cancel\n"


@pytest.mark.slurm
def test_clean_removes_old_batches_but_none_with_jobs_in_the_queue(own_left: Left) -> None:
    def clean() -> tuple[set[str], dict[str, str]]:
        done = own_left.run("clean", "--json").json()
        removed = {one["name"] for one in done["removed"] if one["kind"] == "batch"}
        return removed, {one["name"]: one["why"] for one in done["kept"]}

    both = {own_left.mixed, own_left.held}
    own_left.make_old()
    assert clean() == (set(), dict.fromkeys(both, "it has jobs in the queue"))
    assert own_left.run("cancel", "--all").returncode == 0
    # The cancelled call that ran has written how it ended.
    assert clean() == ({own_left.held}, {own_left.mixed: "it was used lately"})
    own_left.make_old()
    assert clean() == ({own_left.mixed}, {})
    assert not own_left.specs()


@pytest.mark.slurm
def test_clean_keeps_what_is_not_over_where_the_queue_cannot_be_asked(own_left: Left, shadow: Shadow) -> None:
    own_left.run("cancel", "--all")
    own_left.make_old()
    shadow.put("squeue", "exit 1")
    done = own_left.run("clean", "--json", env=shadow.env).json()
    assert done["queue"] is False
    assert [one["name"] for one in done["removed"] if one["kind"] == "batch"] == [own_left.mixed]
    assert [(one["name"], one["why"]) for one in done["kept"]] == [(own_left.held, "the queue cannot be asked")]
    assert {path.name for path in own_left.work_dir.glob("batches/*")} == {own_left.held}


def test_clean_removes_what_a_killed_driver_has_left_and_no_more(tmp_path: Path) -> None:
    left = Left("local", tmp_path / "left")
    left.make_old()
    (left.work_dir / "mine.txt").write_text("")
    plan = left.run("clean", "--dry-run")
    assert "would be removed" in plan.stdout
    assert set(left.specs()) == {left.mixed, left.held}
    assert left.run("clean", "--older-than", "2w").stdout.splitlines()[-1].startswith("0 things")
    assert set(left.specs()) == {left.mixed, left.held}
    done = left.run("clean").stdout
    assert all(name in done for name in (left.mixed, left.held))
    assert {path.name for path in left.work_dir.iterdir()} == {
        *("batches", "code", "id", "local_job_id", "login", "mine.txt", "sessions", "unpack.lock")
    }
    for folder in ("batches", "login", "sessions"):
        assert not list((left.work_dir / folder).iterdir())
    assert left.run("status").stdout.startswith("no batches")


def test_an_embedded_job_that_outlives_its_agent_runs_and_is_not_cleared_away(
    opener: Opener, gate: Gate, tmp_path: Path
) -> None:
    executor = opener.root("local", work_dir=tmp_path / "work")
    future = executor.submit(calls.pass_gate, gate.folder)
    gate.wait()
    os.kill(agent_of(executor), signal.SIGKILL)
    assert isinstance(future.exception(), AgentError)
    for path in (tmp_path / "work").rglob("*"):
        os.utime(path, (1, 1))
    place = ["--scheduler", "local", "--work-dir", tmp_path / "work"]
    (batch,) = command("status", *place, "--json").json()["batches"]
    assert (batch["live"], batch["states"]["running"]) == (False, 1)
    assert [one["name"] for one in command("clean", *place, "--json").json()["kept"]] == [batch["batch"]]
    gate.open()
    until(lambda: command("status", *place, "--json").json()["batches"][0]["states"]["done"] == 1)


@pytest.mark.parametrize("scheduler", ["local", pytest.param("slurm", marks=pytest.mark.slurm)])
def test_what_a_connected_driver_has_is_neither_cancelled_nor_cleared_away(
    scheduler: str, opener: Opener, gate: Gate, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if scheduler == "slurm":
        request.getfixturevalue("cluster")
    work_dir = tmp_path / "work"
    future = opener.root(scheduler, work_dir=work_dir).submit(calls.pass_gate, gate.folder, 7)
    gate.wait()
    for path in work_dir.rglob("*"):
        os.utime(path, (1, 1))
    place = ["--scheduler", scheduler, "--work-dir", work_dir]
    (batch,) = command("status", *place, "--json").json()["batches"]
    assert (batch["live"], batch["states"]["running"]) == (True, 1)
    assert "connected" in command("status", *place).stdout
    line = command("cancel", batch["batch"], *place).failed()
    assert line.startswith(f"slurmfutures: batch {batch['batch']}: its driver is connected: cancel there")
    done = command("cancel", "--all", "--json", *place).json()
    assert [one["batch"] for one in done["refused"]] == [batch["batch"]]
    assert done["cancelled"] == []
    done = command("clean", "--older-than", "0s", "--json", *place).json()
    assert done["removed"] == []
    assert [(one["name"], one["why"]) for one in done["kept"]] == [(batch["batch"], "its driver is connected")]
    assert command("logs", f"{batch['batch']}:0", *place).returncode == 0
    gate.open()
    assert future.result(60) == 7


@pytest.mark.slurm
def test_a_driver_that_goes_on_with_a_batch_of_another_one_has_it(own_left: Left, opener: Opener) -> None:
    heir = opener.root("slurm", work_dir=own_left.work_dir)
    poller = heir._connection.poller
    request = {"op": "attach", "batch": own_left.held, "wanted": [(0, 1)]}
    assert "error" not in poller.reply_to(poller.request(request)[1]).head
    assert {name: batch["live"] for name, batch in own_left.status().items()} == {
        own_left.held: True,
        own_left.mixed: False,
    }
    assert "its driver is connected" in own_left.run("cancel", own_left.held).failed()


@pytest.mark.slurm
def test_who_cancels_is_sent_none_of_the_results(
    own_left: Left, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = opener.root("slurm", work_dir=own_left.work_dir)._connection.poller
    seen: list[str] = []
    take = poller._take

    def listen(frame: wire.Frame) -> None:
        seen.append(frame.head["op"])
        take(frame)

    monkeypatch.setattr(poller, "_take", listen)
    poller.reply_to(poller.request({"op": "cancel", "batch": own_left.mixed, "tasks": [2]})[1])
    assert "results" not in seen


# ---- words


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--jump", "me@gate"],
        ["status", "--scheduler", "pbs"],
        ["logs"],
        ["cancel"],
        ["cancel", "--all", "abc"],
        ["clean", "--older-than", "7"],
        ["clean", "--older-than", "-1d"],
    ],
)
def test_words_that_cannot_be_meant_are_usage_errors(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        _cli.main(words)
    assert raised.value.code == 2
    assert capsys.readouterr().err.startswith("usage: slurmfutures")
