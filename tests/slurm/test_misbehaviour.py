"""The cluster misbehaves: calls give the right answer in the end, or say truly why there is none.

All of it is set in motion side by side, before the first test, and the controller is restarted in the midst of it.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from slurmfutures import JobCancelled, JobFailed, JobState, ResultLost, SlurmExecutor, SlurmFuture
from slurmfutures._remote.agent import GRACE_COHERENT
from slurmfutures._remote.slurm import Slurm
from tests import calls
from tests.cluster import Cluster, ClusterError
from tests.cluster.config import ACCOUNT
from tests.cluster.install import program
from tests.fix_gate import Gate
from tests.slurm import work
from tests.slurm.conftest import OpenSlurm
from tests.slurm.queue import Queue, died, submitted, together
from tests.slurm.shadow import Called, Shadow
from tests.waiting import until

pytestmark = [pytest.mark.slurm, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(240)]

LONG = 150.0  # seconds

FUSE = os.path.exists("/dev/fuse")
needs_fuse = pytest.mark.skipif(not FUSE, reason="no FUSE to make a file system with faults")

OPERATOR = "daemon"  # any user of this machine but root

# Write down how the command ended.
EXIT_CODES = '"$real" "$@"; code=$?; echo "$code ${*@Q}" >>"$here/codes"; exit $code'

# Other ways for an sbatch to be of no help after it has submitted.
UNHELPFUL = {
    "is killed": '"$real" "$@" >/dev/null; kill -KILL $$',
    "says the id and is killed": '"$real" "$@"; kill -KILL $$',
    "says the id and fails": '"$real" "$@"; exit 1',
    "hangs": '"$real" "$@" >"$here/id"; until [ -e "$here/go" ]; do sleep 0.1; done; cat "$here/id"; exit 0',
    "says nothing": '"$real" "$@" >/dev/null; exit 0',
    "says too much": 'echo; echo "4 jobs"; echo x >&2; "$real" "$@"; code=$?; echo "Have 2 nice days"; exit $code',
}
TIMED_OUT = """\
"$real" "$@" >/dev/null
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1
"""
SUBMITTING = '[[ "$*" == *--parsable* ]] || exec "$real" "$@"\n'

NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"

# At first sacct has the record of an older job with the same id, and not yet that of ours.
AN_OLDER_JOB = """\
[[ "$*" == *--jobs=* ]] || exec "$real" "$@"
[[ "$*" == *--format=JobID,State,ExitCode,Submit,Start,End,NodeList,Reason* ]] || exit 1
[ -e "$here/told" ] && exec "$real" "$@"
job=$(sed 's/.*--jobs=\\([0-9]*\\).*/\\1/' <<<"$*")
echo "$job|CANCELLED by 12345|0:0|2019-05-06T07:08:09|2019-05-06T07:08:09|2019-05-06T07:08:09|None assigned|None"
touch "$here/told"
exit 0
"""

# The job works in a folder that is another one than work_dir: what it writes comes to us in ways of its own.
ELSEWHERE = """\
[[ "$*" == *--parsable* ]] || exec "$real" "$@"
words=("$@")
[ -e "$COPY" ] && cp -r "$WORK_DIR/." "$THERE"
sed "s#$WORK_DIR#$THERE#g" "${words[-3]}" >"$here/script"
words[-3]=$here/script
exec "$real" "${words[@]}"
"""


def _elsewhere(open_slurm: OpenSlurm, work_dir: Path, there: Path, shadow: Shadow, *, copy: bool) -> SlurmExecutor:
    shadow.put("sbatch", ELSEWHERE)
    shadow.put("sacct")
    places = {"WORK_DIR": str(work_dir), "THERE": str(there), "COPY": "/" if copy else ""}
    return open_slurm({**shadow.env, **places}, work_dir=work_dir)


def _submissions(shadow: Shadow) -> list[Called]:
    return [called for called in shadow.called("sbatch") if "--parsable" in called.words]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class Submissions:
    """Calls whose sbatch submits them and is of no help then."""

    def __init__(self, open_slurm: OpenSlurm, folder: Path) -> None:
        self.runs = folder / "runs"
        self.shadows: dict[str, Shadow] = {}
        self.futures: dict[str, SlurmFuture[str]] = {}
        for how, body in UNHELPFUL.items():
            self.shadows[how] = shadow = Shadow(folder / how)
            shadow.put("sbatch", SUBMITTING + body)
            self.futures[how] = open_slurm(shadow.env).submit(work.write_job, str(self.runs))

        # Nothing but the claim of the job can tell.
        self.shadows["unseen"] = shadow = Shadow(folder / "unseen")
        shadow.put("sbatch", SUBMITTING + TIMED_OUT)
        shadow.put("squeue", "exit 0")
        shadow.put("sacct", NO_ACCOUNTING)
        self.futures["unseen"] = open_slurm(shadow.env).submit(work.write_job, str(self.runs))


class Restart:
    """The controller is stopped while a call runs and others are being submitted, and started again."""

    def __init__(self, open_slurm: OpenSlurm, folder: Path, queue: Queue) -> None:
        self.runs = folder / "runs"
        self.sbatch = Shadow(folder / "sbatch")
        self.sbatch.put("sbatch", EXIT_CODES)
        gate, self.gate = Gate(folder / "gate"), Gate(folder / "second gate")
        executor = open_slurm(self.sbatch.env)
        running = executor.submit(calls.pass_gate, gate.folder, 3)
        self.runs_on = executor.with_options(comment="on").submit(calls.pass_gate, self.gate.folder, 4)
        gate.wait()
        self.gate.wait()
        queue.cluster.stop_controller()
        try:
            self.submitted = [
                executor.with_options(comment=str(number)).submit(work.write_job, str(self.runs)) for number in range(3)
            ]
            gate.open()
            self.result_meanwhile = running.result(30)
            until(lambda: any(line[0] != "0" and "--parsable" in line for line in _lines(self.sbatch.folder / "codes")))
        finally:
            queue.cluster.start_controller()


class Disk:
    """A work_dir with little room."""

    def __init__(self, open_slurm: OpenSlurm, folder: Path, stack: ExitStack) -> None:
        self.small, self.full = _mount(folder / "small", stack), _mount(folder / "full", stack)
        small, full = open_slurm(work_dir=self.small, nodelist="n1"), open_slurm(work_dir=self.full, nodelist="n1")
        self.large = small.submit(work.noise_at, 0, 0, 4 << 20)
        self.chunk = small.map(work.noise_at, [4] * 5, range(5), [4 << 20] * 5, chunksize=5)
        self.executor = full
        self.nothing_goes = full.submit(work.fill_and_return, str(self.full / "filled"), 7)


def _mount(path: Path, stack: ExitStack) -> Path:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", path], check=True)
    stack.callback(_unmount, path)
    return path


def _unmount(path: Path, check: bool = True) -> None:
    subprocess.run(["umount", "--lazy", path], stderr=subprocess.DEVNULL, check=check)


class Late:
    """Results that come into sight late."""

    def __init__(self, open_slurm: OpenSlurm, folder: Path, stack: ExitStack) -> None:
        folder.mkdir()
        self.empty_first = Elsewhere(open_slurm, folder / "empty", 6)
        self.empty_first.shown.touch()
        if not FUSE:
            return
        self.out_of_sight = Elsewhere(open_slurm, folder / "away", 7)
        _break(self.out_of_sight.shown.parent, stack)

        seen, written = folder / "seen", folder / "written"
        seen.mkdir()
        written.mkdir()
        _show_late(written, seen, stack)
        executor = _elsewhere(open_slurm, seen, written, Shadow(folder / "late"), copy=False)
        self.late = executor.submit(calls.square, 8)
        self.late_death = executor.with_options(nodelist="n1").submit(calls.leave, 5)


class Elsewhere:
    """A call whose result is `written` where we do not see it; it is to be `shown`."""

    def __init__(self, open_slurm: OpenSlurm, folder: Path, number: int) -> None:
        work_dir, there = folder / "work", folder / "there"
        work_dir.mkdir(parents=True)
        there.mkdir()
        self._shadow = Shadow(folder / "shadow")
        executor = _elsewhere(open_slurm, work_dir, there, self._shadow, copy=True)
        self.future = executor.submit(calls.square, number)
        (self.written,) = until(lambda: [*(there / "batches").glob("*/0/r/0.r")])
        self.shown = work_dir / self.written.relative_to(there)

    def wait_beyond_the_grace(self) -> None:
        """Return when the call would have failed if its result was not there."""

        def asked() -> list[float]:
            job = f"--jobs={self.future.job_id}"
            return [called.at for called in self._shadow.called("sacct") if job in called.words]

        until(lambda: asked() and asked()[-1] - asked()[0] >= GRACE_COHERENT)


def _break(folder: Path, stack: ExitStack) -> None:
    """Put a file system there whose server has gone."""
    server = _file_server(folder.parent / "server")
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    with subprocess.Popen(
        [program("sshfs"), "-f", "-o", f"ssh_command={server}", f"here:{elsewhere}", folder]
    ) as process:
        until(lambda: os.path.ismount(folder))
        stack.callback(_unmount, folder, check=False)
        process.kill()


def _file_server(path: Path) -> Path:
    path.write_text("#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n")
    path.chmod(0o755)
    return path


def _show_late(folder: Path, shown: Path, stack: ExitStack) -> None:
    """Show a folder at another place, its files there half a minute after they were written."""
    server = _file_server(shown.with_name("server"))
    times = ",".join(f"dcache{kind}_timeout=30" for kind in ("", "_dir", "_stat", "_link"))
    options = f"ssh_command={server},dir_cache=yes,{times},attr_timeout=0,entry_timeout=0"
    subprocess.run([program("sshfs"), "-o", options, f"here:{folder}", shown], check=True)
    stack.callback(_unmount, shown)


class Moves:
    """Jobs that are put back into the queue, held, let go and ended by others."""

    def __init__(self, open_slurm: OpenSlurm, executor: SlurmExecutor, folder: Path, queue: Queue) -> None:
        folder.mkdir()
        here = executor.with_options(nodelist="n2")
        self.gate, self.closed = Gate(folder / "gate"), Gate(folder / "closed")

        self.task_runs = folder / "task"
        self.tasks = together(here, work.run_twice, [(str(self.task_runs), n, 1, self.gate.folder) for n in (0, 1)])
        self.chunk_runs = folder / "chunk"
        arguments = [str(self.chunk_runs)] * 3, range(3), [2] * 3, [""] * 3
        self.chunk = here.with_options(job_name="chunk").map(work.run_twice, *arguments, chunksize=3)
        self.held_runs = folder / "held"
        self.held = here.with_options(comment="held").submit(work.wait_for_the_second_run, str(self.held_runs))
        self.by_operator = here.with_options(comment="by operator").submit(calls.pass_gate, self.closed.folder)

        self.done_runs = folder / "done"
        self.done_work_dir = folder / "work"
        executor = open_slurm(work_dir=self.done_work_dir, nodelist="n2")
        self.released = executor.submit(work.write_job, str(self.done_runs)).result(60).split()[0]
        self.kept = executor.submit(work.write_job, str(self.done_runs))
        self.kept.result(60)
        for job_id in (self.released, submitted(self.kept)):
            queue.run("scontrol", "requeue", job_id)

        self.gate.wait()
        self.closed.wait()
        until(lambda: [len(_lines(runs)) for runs in (self.task_runs, self.chunk_runs, self.held_runs)] == [2, 3, 1])
        (chunk,) = (job.id for job in queue.active() if job.name.startswith("chunk"))
        self.first_of_chunk = [next(self.chunk), next(self.chunk)]
        queue.run("scontrol", "requeue", submitted(self.tasks[1]), chunk)
        queue.run("scontrol", "requeuehold", submitted(self.held))
        with suppress(ClusterError):  # it is one already
            queue.run("sacctmgr", "--immediate", "add", "user", OPERATOR, f"Account={ACCOUNT}", "AdminLevel=Operator")
        subprocess.run(["scancel", submitted(self.by_operator)], user=OPERATOR, check=True)


class Troubles:
    """All of that at once."""

    def __init__(self, open_slurm: OpenSlurm, folder: Path, queue: Queue, stack: ExitStack) -> None:
        executor = open_slurm()
        self.late = Late(open_slurm, folder / "late", stack)
        self.submissions = Submissions(open_slurm, folder / "submissions")
        self.disk = Disk(open_slurm, folder / "disk", stack)
        self.moves = Moves(open_slurm, executor, folder / "moves", queue)
        self.restart = Restart(open_slurm, folder / "restart", queue)
        queue.run("scontrol", "release", submitted(self.moves.held))


@pytest.fixture(scope="module")
def mounts() -> Iterator[ExitStack]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system: run the tests as root")
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module", autouse=True)
def troubles(
    mounts: ExitStack, open_for_all: OpenSlurm, queue: Queue, tmp_path_factory: pytest.TempPathFactory
) -> Troubles:
    return Troubles(open_for_all, tmp_path_factory.mktemp("troubles"), queue, mounts)


# ---- what was set in motion at first


def test_calls_outlive_a_restart_of_the_controller(troubles: Troubles) -> None:
    assert troubles.restart.result_meanwhile == 3
    assert not troubles.restart.runs_on.done()
    troubles.restart.gate.open()
    assert troubles.restart.runs_on.result(LONG) == 4


def test_a_submission_of_which_sbatch_does_not_tell_runs_once(troubles: Troubles) -> None:
    these = troubles.submissions
    until(lambda: len(_lines(these.runs)) == len(these.futures))
    (these.shadows["hangs"].folder / "go").touch()
    results = {how: future.result(LONG) for how, future in these.futures.items()}
    assert results == {how: f"{future.job_id} 0" for how, future in these.futures.items()}
    assert sorted(_lines(these.runs)) == sorted(results.values())
    assert {how: len(_submissions(shadow)) for how, shadow in these.shadows.items()} == dict.fromkeys(these.futures, 1)


def test_of_an_array_one_task_can_be_put_back(troubles: Troubles) -> None:
    moves = troubles.moves
    array = submitted(moves.tasks[1]).partition("_")[0]
    assert moves.tasks[1].result(LONG) == f"{array} 1"
    assert not moves.tasks[0].done()
    moves.gate.open()
    assert moves.tasks[0].result(LONG) == f"{array} 0"
    assert sorted(_lines(moves.task_runs)) == ["0 0", "1 0", "1 1"]


def test_a_task_that_is_put_back_does_not_repeat_what_it_has_published(troubles: Troubles) -> None:
    moves = troubles.moves
    last = next(moves.chunk)
    job_id = last.split()[0]
    assert [*moves.first_of_chunk, last] == [f"{job_id} 0", f"{job_id} 0", f"{job_id} 1"]
    assert _lines(moves.chunk_runs) == ["0 0", "1 0", "2 0", "2 1"]


def test_a_job_that_is_put_back_held_and_released_gives_its_result(troubles: Troubles) -> None:
    moves = troubles.moves
    assert moves.held.result(LONG) == f"{moves.held.job_id} 1"
    assert _lines(moves.held_runs) == [f"{moves.held.job_id} 0", f"{moves.held.job_id} 1"]


def test_a_job_that_is_put_back_when_its_result_is_there_does_nothing(troubles: Troubles, queue: Queue) -> None:
    moves = troubles.moves
    until(lambda: not {moves.released, moves.kept.job_id} & {job.id for job in queue.active()})
    assert moves.kept.result() == f"{moves.kept.job_id} 0"
    assert _lines(moves.done_runs) == [f"{moves.released} 0", f"{moves.kept.job_id} 0"]
    (folder,) = (moves.done_work_dir / "batches").iterdir()
    assert "nothing to do" in (folder / "0" / "l" / "0.err").read_text()
    assert sorted(path.name for path in (folder / "0" / "r").iterdir()) == ["0.c", "0.r"]


def test_an_operator_who_cancels_a_job_is_named(troubles: Troubles) -> None:
    error = died(troubles.moves.by_operator, JobCancelled, LONG)
    assert (error.state, error.cancelled_by, error.node) == (JobState.CANCELLED, OPERATOR, "n2")


def test_a_result_for_which_there_is_no_room_fails_its_call_alone(troubles: Troubles) -> None:
    error = troubles.disk.large.exception(LONG)
    assert type(error) is ResultLost
    assert "could not be written on node" in str(error)
    assert "No space left on device" in str(error)
    assert [len(next(troubles.disk.chunk)) for _ in range(4)] == [8] * 4
    with pytest.raises(ResultLost, match="No space left on device"):
        next(troubles.disk.chunk)


def test_a_task_that_can_write_nothing_at_all_says_so_and_the_next_ones_go_on(troubles: Troubles) -> None:
    disk = troubles.disk
    error = died(disk.nothing_goes, JobFailed, LONG)
    assert (error.state, error.node) == (JobState.FAILED, "n1")
    assert "its results could not be written" in str(error)
    assert "there is no room" in str(error)
    (disk.full / "filled").unlink()
    assert disk.executor.submit(calls.square, 3).result(60) == 9


def test_a_result_that_shows_empty_at_first_is_waited_for(troubles: Troubles) -> None:
    it = troubles.late.empty_first
    it.wait_beyond_the_grace()
    assert not it.future.done()
    it.shown.write_bytes(it.written.read_bytes())
    assert it.future.result(60) == 36


@needs_fuse
def test_while_a_file_system_does_not_answer_no_result_is_missed(troubles: Troubles) -> None:
    it = troubles.late.out_of_sight
    it.wait_beyond_the_grace()
    with pytest.raises(OSError, match="not connected"):
        os.listdir(it.shown.parent)
    assert not it.future.done()
    _unmount(it.shown.parent)
    it.shown.write_bytes(it.written.read_bytes())
    assert it.future.result(60) == 49


@needs_fuse
def test_what_a_file_system_shows_late_is_waited_for(troubles: Troubles) -> None:
    late = troubles.late
    assert late.late.result(LONG) == 64
    error = died(late.late_death, JobFailed, LONG)
    assert (error.state, error.exit_code, error.node) == (JobState.FAILED, 5, "n1")


def test_calls_that_were_submitted_while_the_controller_was_away_run_once(troubles: Troubles) -> None:
    restart = troubles.restart
    jobs = [future.result(LONG) for future in restart.submitted]
    assert jobs == [f"{future.job_id} 0" for future in restart.submitted]
    assert sorted(_lines(restart.runs)) == sorted(jobs)


# ---- the accounting records


@pytest.fixture
def without_accounting(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """Variables by which Slurm's commands find the cluster, but no accounting."""
    path = tmp_path / "slurm.conf"
    lines = cluster.layout.slurm_conf.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("AccountingStorage")]
    path.write_text("\n".join([*kept, "AccountingStorageType=accounting_storage/none", ""]))
    return {"SLURM_CONF": str(path)}


def test_without_accounting_the_controller_says_why(
    open_slurm: OpenSlurm, without_accounting: dict[str, str], shadow: Shadow, queue: Queue, gate: Gate
) -> None:
    shadow.put("sacct", '"$real" "$@" 2>"$here/said"; code=$?; cat "$here/said" >&2; exit $code')
    executor = open_slurm({**shadow.env, **without_accounting}, nodelist="n1")
    alive = executor.submit(calls.pass_gate, gate.folder, 5)
    cancelled = executor.submit(calls.pass_gate, gate.folder)
    gate.wait(2)
    queue.run("scancel", submitted(cancelled))
    error = died(executor.submit(calls.leave_saying, 3, "no more disk"), JobFailed)
    assert (error.state, error.exit_code, error.node) == (JobState.FAILED, 3, "n1")
    assert "no more disk" in str(error)
    error = died(cancelled, JobCancelled)
    assert (error.state, error.started, error.node) == (JobState.CANCELLED, True, "n1")
    assert "accounting storage is disabled" in (shadow.folder / "said").read_text()
    assert len(shadow.called("sacct")) == 1
    gate.open()
    assert alive.result(60) == 5


def test_the_record_of_an_older_job_with_the_same_id_is_not_taken(open_slurm: OpenSlurm, shadow: Shadow) -> None:
    shadow.put("sacct", AN_OLDER_JOB)
    error = died(open_slurm(shadow.env, nodelist="n1").submit(calls.leave, 3), JobFailed)
    assert (error.state, error.exit_code, error.node) == (JobState.FAILED, 3, "n1")
    assert (shadow.folder / "told").exists()


def test_the_controller_is_asked_for_what_is_in_no_record(open_slurm: OpenSlurm, shadow: Shadow) -> None:
    shadow.put("sacct", "exit 0")
    error = died(open_slurm(shadow.env, nodelist="n1").submit(calls.leave, 3), JobFailed)
    assert (error.state, error.exit_code, error.node) == (JobState.FAILED, 3, "n1")


def test_a_record_by_which_a_job_runs_counts_where_the_controller_knows_that_job(
    open_slurm: OpenSlurm, queue: Queue, gate: Gate
) -> None:
    future = open_slurm().submit(calls.pass_gate, gate.folder)
    gate.wait()
    job_id = submitted(future)
    known = until(lambda: (Slurm().why({job_id: 0.0}, {job_id}) or {}).get((job_id, None)))
    assert known is not None
    assert known.state is JobState.RUNNING
    gate.open()
    future.result(60)
