"""What the files of a work_dir and the queue tell of batches, and what may be cleared away."""

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import clean, payload, pool_files, publish, spool, succession, survey
from slurmfutures._remote.pool_files import PoolFiles
from slurmfutures._remote.scheduler import Ending, Row
from slurmfutures._remote.states import JobState
from slurmfutures._remote.succession import Succession

OWN = "0" * 12
B, C = "b" * 12, "c" * 12  # batches
EARLIER, LATER = "0123456789a1", "0123456789a2"
BROKEN, ODD, TORN, WHOLE = "0123456789b1", "0123456789b2", "0123456789b3", "0123456789b4"
GONE, HEIR, OTHER = "0123456789c1", "0123456789c2", "0123456789c3"  # sessions
SESSION = "0123456789ab"
OLD = 1000.0  # seconds
R = JobState.RUNNING
P = JobState.PENDING


class Scheduler:
    """A queue that is what a test says, or does not answer."""

    def __init__(self, rows: Sequence[Row] | None = (), *, keeps_jobs: bool = True) -> None:
        self.keeps_jobs = keeps_jobs
        self.rows = rows
        self.records: dict[tuple[str, int | None], Ending] = {}
        self.asked = 0

    def queue(self) -> Any:
        self.asked += 1
        return None if self.rows is None else list(self.rows)

    def why(self, job_ids: Sequence[str]) -> Any:
        return {key: ending for key, ending in self.records.items() if key[0] in job_ids}


class WorkDir:
    """A work_dir with batches that are put together by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = time.time()

    def batch(
        self, name: str = B, tasks: int = 4, *, session: str = GONE, scheduler: str = "slurm", array: str = ""
    ) -> spool.Batch:
        spec = {"batch": name, "name": "square", "tasks": tasks, "skip": [], "options": ["--mem=4G"]}
        if array:
            spec["script"] = {"array": array, "indices": array}
        batch = spool.Batch(str(self.path), name)
        calls = payload.pack_batch(b"", [b"f"], [(0, b"")] * (2 * tasks), range(0, 2 * tasks, 2))
        code = f"{self.path}/code/{'c' * 20}"
        batch.create({**spec, "session": session, "scheduler": scheduler}, f"{code}'", b"".join(calls))
        return batch

    def pilots(self, name: str = B, tasks: int = 4, *, pool: int = 0xABC, session: str = SESSION) -> spool.Batch:
        """Make a batch of pilots, of a pool that has a ledger and something that a pilot has left."""
        files = self.pool(pool, session)
        files.record({"batch": name, "tasks": tasks})
        files.leave(f"{name}.0.0", [])
        spec = {"batch": name, "name": "pilots", "tasks": tasks, "skip": [], "options": [], "scheduler": "slurm"}
        batch = spool.Batch(str(self.path), name)
        calls = b"".join(payload.pack_batch(b"", [], [], [0] * tasks))
        batch.create({**spec, "session": session, "pilot": {"folder": files.path, "workers": 2}}, "", calls)
        return batch

    def pool(self, pool: int = 0xABC, session: str = SESSION) -> PoolFiles:
        files = PoolFiles(pool_files.folder(str(self.path), session, pool))
        files.create()
        files.close()
        return files

    def part(
        self, batch: spool.Batch, first: int = 0, end: int = 4, *, job: str | None = "7", number: int = 0
    ) -> spool.Part:
        words = {"part": number, "tasks": [[first, end]], "name": f"square.sf-{batch.id}.{number}", "throttle": None}
        batch.record({**words, "time": self.now - 100})
        if job is not None:
            batch.record({"part": number, "job": job})
        part = batch.part(number)
        part.create()
        return part

    def look(self, scheduler: Scheduler) -> Any:
        return survey.survey(str(self.path), scheduler, OWN)  # type: ignore[arg-type]

    def states(self, scheduler: Scheduler) -> dict[str, list[int]]:
        (batch,) = self.look(scheduler)["batches"]
        return {
            state: [task for first, end in ranges for task in range(first, end)]
            for state, ranges in batch["states"].items()
            if ranges
        }

    def make_old(self, *but: str) -> None:
        for path in [self.path, *self.path.rglob("*")]:
            if not any(word in str(path) for word in but):
                os.utime(path, (self.now - OLD, self.now - OLD))

    def clean(self, scheduler: Scheduler, age: float = OLD / 2, *, dry: bool = False) -> Any:
        code = "a" * 20
        return clean.Clean(str(self.path), scheduler, OWN, code, age, dry=dry).run()  # type: ignore[arg-type]


@pytest.fixture
def work(weird_tmp_path: Path) -> WorkDir:
    return WorkDir(weird_tmp_path)


def row(state: JobState | None, *tasks: tuple[int, int], job: str = "7", name: str = "square.sf-bbbbbbbbbbbb.0") -> Row:
    return Row(job, tasks or None, state, "Resources" if state is P else "", name, "")


def names(removed: Sequence[Any]) -> list[str]:
    return [one["name"] for one in removed]


# ---- states


def test_files_and_queue_together_tell_the_state_of_each_task(work: WorkDir) -> None:
    batch = work.batch(tasks=6)
    part = work.part(batch, 0, 5)
    publish.publish(part.results, "0.r", [b""])
    publish.publish(part.results, "1.c", [b"7 0 n1\n"])
    publish.publish(part.results, "2.0.x", [b"7 0 9 n2\n"])
    queue = Scheduler([row(R, (0, 1)), row(P, (3, 3))])
    assert work.states(queue) == {"done": [0], "running": [1], "pending": [3], "ended": [2, 4], "unsubmitted": [5]}
    (told,) = work.look(queue)["batches"]
    died, lost = told["failed"]
    assert (died["job"], died["exit_code"], died["node"], died["state"]) == ("7_2", 9, "n2", None)
    assert (lost["job"], lost["exit_code"], lost["reason"]) == ("7_4", None, survey._GONE)
    assert (told["tasks"], told["calls"], told["options"], told["jobs"]) == (6, 12, ["--mem=4G"], ["7"])


def test_records_say_how_a_task_ended(work: WorkDir) -> None:
    work.part(work.batch())
    queue = Scheduler([row(JobState.TIMEOUT, (1, 1)), row(R, (2, 3))])
    queue.records["7", 0] = Ending(JobState.OUT_OF_MEMORY, 0, 125, "n3", "", True, "", "", "")
    queue.records["7", 1] = Ending(R, None, None, "n3", "", True, "", "", "")  # it is behind the queue
    first, second = work.look(queue)["batches"][0]["failed"]
    assert (first["state"], first["node"], first["signal"]) == ("OUT_OF_MEMORY", "n3", None)
    assert second["state"] == "TIMEOUT"


def test_a_task_that_is_put_back_into_the_queue_has_not_ended(work: WorkDir) -> None:
    part = work.part(work.batch())
    for task in range(4):
        publish.publish(part.results, f"{task}.0.x", [b"7 0 143 n1\n"])
    queue = Scheduler(
        [row(P, (0, 0)), row(JobState.REQUEUE_HOLD, (1, 1)), row(R, (2, 2)), row(JobState.COMPLETING, (3, 3))]
    )
    assert work.states(queue) == {"pending": [0, 1], "running": [2], "ended": [3]}


def test_of_a_task_that_was_submitted_again_the_last_time_counts(work: WorkDir) -> None:
    batch = work.batch(tasks=2)
    first = work.part(batch, 0, 2)
    publish.publish(first.results, "0.r", [b""])
    work.part(batch, 0, 2, job="8", number=1)
    assert work.states(Scheduler([row(P, (0, 1), job="8", name="square.sf-bbbbbbbbbbbb.1")])) == {
        "done": [0],
        "pending": [1],
    }


def test_a_submission_of_unknown_outcome_is_found_by_its_name(work: WorkDir) -> None:
    work.part(work.batch(), job=None)
    assert work.states(Scheduler([row(P, (0, 3), job="99")])) == {"pending": [0, 1, 2, 3]}
    assert work.states(Scheduler()) == {"unsubmitted": [0, 1, 2, 3]}


def test_a_queue_that_does_not_answer_makes_nothing_end(work: WorkDir) -> None:
    part = work.part(work.batch())
    publish.publish(part.results, "1.c", [b"7 0 n1\n"])
    publish.publish(part.results, "2.0.x", [b"7 0 9 n2\n"])
    queue = Scheduler(None)
    assert work.states(queue) == {"running": [1], "pending": [0, 3], "ended": [2]}
    assert work.look(queue)["queue"] is False


def test_embedded_jobs_are_over_when_their_driver_has_gone(work: WorkDir) -> None:
    part = work.part(work.batch(session=GONE, scheduler="local"))
    publish.publish(part.results, "0.r", [b""])
    publish.publish(part.results, "1.c", [b"7 0 n1\n"])
    driver = Succession(str(work.path), GONE, "mark")
    assert driver.claim()
    slurm, local = Scheduler([row(R, (0, 3), name="another")]), Scheduler(keeps_jobs=False)
    for scheduler in (slurm, local):
        assert work.states(scheduler) == {"done": [0], "running": [1], "pending": [2, 3]}
    driver.leave(for_good=False)
    for scheduler in (slurm, local):
        assert work.states(scheduler) == {"done": [0], "ended": [1], "unsubmitted": [2, 3]}
    assert slurm.asked == local.asked == 0


def test_what_is_no_batch_is_told_and_harms_nothing(work: WorkDir) -> None:
    work.batch(WHOLE)
    (work.path / "batches" / TORN).mkdir()
    broken = work.batch(BROKEN)
    Path(broken.path, "batch.json").write_text("{")
    odd = work.batch(ODD)
    odd.record({"part": 0, "other": 1})
    found = work.look(Scheduler())
    assert [batch["batch"] for batch in found["batches"]] == [WHOLE]
    assert found["unreadable"] == [BROKEN, ODD, TORN]


def test_where_nothing_is_nothing_is_asked(work: WorkDir) -> None:
    queue = Scheduler()
    assert work.look(queue)["batches"] == []
    assert queue.asked == 0


# ---- finding a call


def test_a_call_is_found_by_job_and_by_task(work: WorkDir) -> None:
    batch = work.batch(B, tasks=6)
    work.part(batch, 0, 2)
    work.part(batch, 4, 5, job="8", number=1)

    def find(call: str) -> dict[str, Any]:
        return survey.find(str(work.path), call)

    assert find("7_1") == {"batch": B, "task": 1, "part": 0}
    assert find("8") == find("8_0") == {"batch": B, "task": 4, "part": 1}
    assert find(f"{B}:5") == {"batch": B, "task": 5, "part": None}
    assert find("7") == {"size": 2, "first": 0}
    for unknown in (
        "7_2",
        "7_x",
        "9",
        "",
        ":",
        f"{B}:6",
        f"{B}:-1",
        f"{B}:",
        f"{C}:0",
        f"../batches/{B}:0",
        "_0",
        f"{B}:²",
        f"{B}:٣",
        f"{B}:{'9' * 5000}",
    ):
        assert find(unknown) == {}, unknown


def test_tasks_of_a_user_s_own_array_have_its_indices(work: WorkDir) -> None:
    batch = work.batch(tasks=5, array="3,10-40:10")
    part = work.part(batch, 0, 5)
    publish.publish(part.results, "3.r", [b""])
    publish.publish(part.results, "10.c", [b"7 0 n1\n"])
    publish.publish(part.results, "4.c", [b"7 0 n1\n"])
    queue = Scheduler([row(R, (10, 10)), row(P, (30, 4000001))])
    assert work.states(queue) == {"done": [0], "running": [1], "ended": [2], "pending": [3, 4]}
    (seen,) = work.look(queue)["batches"]
    assert [dead["job"] for dead in seen["failed"]] == ["7_20"]
    assert survey.find(str(work.path), "7_20") == {"batch": B, "task": 2, "part": 0}
    assert survey.find(str(work.path), "7_4") == {}
    assert survey.find(str(work.path), "7") == {"size": 5, "first": 3}


# ---- pilots


def test_a_batch_of_pilots_says_which_pool_they_are_of(work: WorkDir) -> None:
    part = work.part(work.pilots(tasks=3), 0, 3)
    publish.publish(part.results, "0.r", [b""])
    queue = Scheduler([row(R, (1, 1)), row(P, (2, 2))])
    (told,) = work.look(queue)["batches"]
    assert (told["pool"], told["workers"], told["tasks"], told["calls"]) == ("000abc", 2, 3, 0)
    assert work.states(queue) == {"done": [0], "running": [1], "pending": [2]}


def test_a_pilot_is_found_with_its_workers_in_their_order(work: WorkDir) -> None:
    batch = work.pilots(tasks=2)
    part = work.part(batch, 0, 2)
    assert survey.find(str(work.path), "7_0") == {"batch": B, "task": 0, "part": 0, "workers": []}
    os.mkdir(part.workers)
    for name in ("0-0-2", "0-0-10", "0-1-1", "1-0-1", "10-0-3", "x"):
        Path(part.workers, f"{name}.out").write_text(name)
        Path(part.workers, f"{name}.err").write_text("")
    assert survey.find(str(work.path), "7_0")["workers"] == ["0-2", "0-10", "1-1"]
    assert survey.find(str(work.path), f"{B}:1") == {"batch": B, "task": 1, "part": None, "workers": ["0-1"]}
    assert Path(part.log(0, "out", "0-10")).read_text() == "0-0-10"


def test_calls_whose_results_pilots_have_left_are_told(work: WorkDir) -> None:
    def record(call: int, status: int, data: bytes = b"") -> list[Any]:
        return payload.pack_record(call, status, data)

    first, second = work.pool(1), work.pool(2)
    first.leave(
        f"{B}.0.0", [*record(7, payload.OK, b"x"), *record(8, payload.CRASHED), *record(9, payload.RAISED, b"y")]
    )
    second.leave(f"{C}.0.1", record(3, payload.OK, b"z"))
    Path(second.path, "last", f"{C}.1.0").write_bytes(b"torn")
    assert pool_files.finished(str(work.path), SESSION) == [3, 7, 9]
    assert pool_files.finished(str(work.path), OTHER) == []


def test_what_a_pilot_has_left_goes_when_nobody_needs_it_and_a_session_with_its_last_pool(work: WorkDir) -> None:
    one, other = work.pool(1), work.pool(2)
    for pilot in (f"{B}.0.0", f"{B}.1.2", f"{C}.0.0"):
        one.leave(pilot, [])
    one.clear(B)
    assert one.pilots() == [f"{C}.0.0"]
    one.remove()
    assert os.path.isdir(other.path)
    other.remove()
    assert os.listdir(work.path / "pilots") == []


@pytest.mark.parametrize("rows", [[row(P, (0, 3))], [row(R, job="99")]])
def test_pools_with_a_job_in_the_queue_stay_and_go_with_their_batches(work: WorkDir, rows: list[Row]) -> None:
    work.part(work.pilots())
    driver = Succession(str(work.path), SESSION, "mark")
    driver.claim()
    driver.leave(for_good=False)
    work.make_old()
    done = work.clean(Scheduler(rows))
    assert done["removed"] == []
    assert [(it["kind"], it["why"]) for it in done["kept"]] == [
        ("batch", "it has jobs in the queue"),
        ("pilots", "its jobs stay"),
    ]
    assert [it["why"] for it in work.clean(Scheduler(None))["kept"]] == ["the queue cannot be asked", "its jobs stay"]
    done = work.clean(Scheduler())
    assert [(it["kind"], it["name"]) for it in done["removed"]] == [
        ("batch", B),
        ("pilots", SESSION),
        ("session", SESSION),
    ]
    assert not (work.path / "pilots" / SESSION).exists()


def test_a_pool_that_was_used_lately_keeps_its_batches(work: WorkDir) -> None:
    work.part(work.pilots())
    work.make_old("last")
    assert [it["why"] for it in work.clean(Scheduler())["kept"]] == ["it was used lately", "its jobs stay"]


def test_pools_of_a_connected_driver_and_of_unreadable_batches_stay(work: WorkDir) -> None:
    driver = Succession(str(work.path), SESSION, "mark")
    driver.claim()
    batch = work.pilots()
    work.make_old()
    assert [it["why"] for it in work.clean(Scheduler())["kept"]] == ["its driver is connected"] * 2
    driver.leave(for_good=False)
    Path(batch.path, "batch.json").write_text("{")  # changed just now
    work.make_old("batch.json")
    assert [(it["kind"], it["why"]) for it in work.clean(Scheduler())["kept"]] == [
        ("batch", "it is not whole, but was used lately"),
        ("pilots", "its jobs stay"),
    ]


def test_pools_whose_batches_are_gone_are_removed_when_old(work: WorkDir) -> None:
    work.pool()
    (work.path / "pilots" / "mine").mkdir()
    assert [it["why"] for it in work.clean(Scheduler())["kept"]] == ["it was used lately"]
    work.make_old()
    assert names(work.clean(Scheduler())["removed"]) == [SESSION]
    assert [path.name for path in (work.path / "pilots").iterdir()] == ["mine"]


# ---- whether a driver is there


def test_a_session_is_live_while_its_agent_holds_the_lock(tmp_path: Path) -> None:
    assert succession.is_live(str(tmp_path), GONE) is False
    driver = Succession(str(tmp_path), GONE, "mark", "/code/abc")
    driver.claim()
    assert succession.is_live(str(tmp_path), GONE) is True
    assert succession.agent_of(str(tmp_path), GONE)["code"] == "/code/abc"
    driver.leave(for_good=False)
    assert succession.is_live(str(tmp_path), GONE) is False


def test_asking_whether_a_session_is_live_leaves_its_lock_free(tmp_path: Path) -> None:
    Succession(str(tmp_path), GONE, "mark").claim()
    path = tmp_path / "sessions" / f"{GONE}.lock"
    assert succession.is_live(str(tmp_path), GONE) is True
    path.unlink()
    path.touch()
    assert succession.is_live(str(tmp_path), GONE) is False
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_agent_that_leaves_notes_when_its_driver_was_last_seen(tmp_path: Path) -> None:
    driver = Succession(str(tmp_path), GONE, "mark")
    driver.claim()
    os.utime(tmp_path / "sessions" / GONE, (1, 1))
    driver.leave(for_good=False)
    assert succession.last_seen(str(tmp_path), GONE) > time.time() - 100
    assert succession.last_seen(str(tmp_path), OTHER) == 0


# ---- clearing away


def test_an_old_batch_goes_and_a_young_one_stays(work: WorkDir) -> None:
    work.part(work.batch(EARLIER))
    work.make_old()
    work.part(work.batch(LATER))
    done = work.clean(Scheduler(), dry=True)
    assert names(done["removed"]) == [EARLIER]
    assert (work.path / "batches" / EARLIER).exists()
    size = sum(path.stat().st_size for path in (work.path / "batches" / EARLIER).rglob("*") if path.is_file())
    done = work.clean(Scheduler())
    assert names(done["removed"]) == [EARLIER]
    assert done["freed"] == size
    assert [(one["name"], one["why"]) for one in done["kept"]] == [(LATER, "it was used lately")]
    assert [path.name for path in (work.path / "batches").iterdir()] == [LATER]


def test_a_batch_whose_results_came_lately_is_not_old(work: WorkDir) -> None:
    part = work.part(work.batch())
    work.make_old()
    publish.publish(part.results, "0.r", [b""])
    assert work.clean(Scheduler())["removed"] == []


@pytest.mark.parametrize(
    "rows", [[row(P, (0, 3))], [row(None, (0, 0))], [row(R, job="99")], [row(P, (0, 3), name="renamed")]]
)
def test_a_batch_with_a_job_in_the_queue_stays(work: WorkDir, rows: list[Row]) -> None:
    work.part(work.batch())
    work.make_old()
    done = work.clean(Scheduler(rows))
    assert [one["why"] for one in done["kept"]] == ["it has jobs in the queue"]
    assert names(work.clean(Scheduler([row(JobState.FAILED, (0, 3))]))["removed"]) == [B]


def test_without_the_queue_only_goes_what_is_wholly_over(work: WorkDir) -> None:
    part = work.part(work.batch())
    for name in ("0.r", "1.r", "2.r"):
        publish.publish(part.results, name, [b""])
    work.make_old()
    for scheduler, why in (
        (Scheduler(None), "the queue cannot be asked"),
        (Scheduler(keeps_jobs=False), "its jobs are another scheduler's"),
    ):
        assert [one["why"] for one in work.clean(scheduler)["kept"]] == [why]
    publish.publish(part.results, "3.0.x", [b"7 0 9 n2\n"])
    work.make_old()
    assert names(work.clean(Scheduler(None))["removed"]) == [B]


def test_what_a_connected_driver_has_stays_however_old(work: WorkDir) -> None:
    code = work.path / "code" / ("d" * 20)
    code.mkdir(parents=True)
    work.part(work.batch(session=GONE))
    (work.path / "batches" / TORN).mkdir()
    driver = Succession(str(work.path), GONE, "mark", str(code))
    driver.claim()
    login = work.path / "login" / f"{os.uname().nodename}.{os.getppid()}"
    login.mkdir(parents=True)
    (work.path / "sessions" / GONE).write_text(
        (work.path / "sessions" / GONE).read_text().replace(f'"pid": {os.getpid()}', f'"pid": {os.getppid()}')
    )
    work.make_old()
    done = work.clean(Scheduler(), 0)
    assert done["removed"] == []
    assert [one["why"] for one in done["kept"]] == [
        "its driver is connected",
        "it is not whole, and a driver is connected",
    ]
    driver.leave(for_good=False)
    done = work.clean(Scheduler())
    assert names(done["removed"]) == [TORN, code.name, login.name]
    assert [one["why"] for one in done["kept"]] == ["it was used lately"]  # its driver may come back
    work.make_old()
    assert names(work.clean(Scheduler())["removed"]) == [B, GONE]


def test_a_batch_that_another_driver_has_taken_over_is_its(work: WorkDir) -> None:
    batch = work.batch()
    driver = Succession(str(work.path), HEIR, "mark")
    driver.claim()
    assert work.look(Scheduler())["batches"][0]["live"] is False
    batch.adopt(HEIR)
    (told,) = work.look(Scheduler())["batches"]
    assert (told["session"], told["live"]) == (HEIR, True)
    work.make_old()
    assert [one["why"] for one in work.clean(Scheduler())["kept"]] == ["its driver is connected"]


def test_source_and_sessions_that_a_batch_needs_stay_with_it(work: WorkDir) -> None:
    for letter in "acde":
        (work.path / "code" / (letter * 20)).mkdir(parents=True)
    (work.path / "code" / f"{'f' * 20}.123").mkdir()
    for session in (GONE, OTHER):
        driver = Succession(str(work.path), session, "mark")
        driver.claim()
        driver.leave(for_good=False)
    work.make_old("eeee")
    work.part(work.batch())
    done = work.clean(Scheduler())
    assert names(done["removed"]) == [OTHER, "d" * 20, f"{'f' * 20}.123"]
    assert {path.name for path in (work.path / "sessions").iterdir()} == {GONE, f"{GONE}.lock"}
    assert {path.name[0] for path in (work.path / "code").iterdir()} == set("ace")


def test_what_is_not_ours_stays(work: WorkDir) -> None:
    strangers = ["notes.txt", "limits.json", "local_job_id", "batches/file", "code/mine", "data/batches/b/batch.json"]
    for name in strangers:
        path = work.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (work.path / "batches" / "link").symlink_to(work.path / "data")
    work.make_old()
    assert work.clean(Scheduler(), 0)["removed"] == []
    assert all((work.path / name).exists() for name in strangers)
