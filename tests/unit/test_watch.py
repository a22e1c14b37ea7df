"""What a listing, a queue row and a record mean, and when to look again: the clock is passed in."""

import pytest

from slurmfutures._remote import spool, watch
from slurmfutures._remote.commands import Records
from slurmfutures._remote.scheduler import NOT_FOUND_OUT, UNKNOWN, Ending, Row
from slurmfutures._remote.states import JobState

GRACE = 10.0


def new_watch(size: int = 3) -> watch.Watch:
    return watch.Watch(range(size), "7", array=True, now=0.0, grace=GRACE)


def row(state: JobState | None, *ranges: tuple[int, int], reason: str = "") -> Row:
    return Row("7", ranges, state, reason, "name", "comment")


def ending(state: JobState | None, *, started: bool = True) -> Ending:
    return Ending(state, 1, 0, "n1", "", started, "", "", "")


def name(text: str) -> spool.Name:
    parsed = spool.parse_name(text)
    assert parsed is not None
    return parsed


def see_end(it: watch.Watch, task: int, now: float, run: int = 0) -> None:
    it.listed([f"{task}.{run}.x"], now)
    it.ended(name(f"{task}.{run}.x"), watch.End(run, 1, "n1"))


@pytest.mark.parametrize(("age", "interval"), [(0.0, 0.01), (0.5, 0.01), (5.0, 0.1), (100.0, 2.0), (10_000.0, 10.0)])
def test_listings_come_at_two_percent_of_the_age_within_bounds(age: float, interval: float) -> None:
    it = new_watch()
    it.listed([], age)
    assert it.interval() == pytest.approx(interval)
    assert it.look_at() == pytest.approx(age + interval)


def test_a_listing_gives_each_published_file_once_and_results_before_ends() -> None:
    it = new_watch()
    new = it.listed(["1.0.x", "1.0.1.p", "0.r", "0.c", ".0.r.55", "junk", "2.5"], 1.0)
    assert [found.text for found in new] == ["0.r", "1.0.1.p", "0.c", "1.0.x"]
    it.taken(name("0.r"))
    assert "0.r" not in [found.text for found in it.listed(["0.r", "1.0.1.p"], 2.0)]


def test_what_could_not_be_read_is_offered_again() -> None:
    it = new_watch()
    assert it.listed(["0.r"], 1.0) == it.listed(["0.r"], 2.0)


def test_an_end_needs_a_record_and_one_more_listing() -> None:
    it = new_watch()
    see_end(it, 1, 1.0)
    dead: Records = {("7", 1): ending(JobState.FAILED)}
    assert it.suspects() == {1}
    assert it.judge({}, 1.1) == []
    assert it.judge(dead, 1.2) == []
    it.listed(["1.0.x"], 1.3)
    verdict = it.judge(dead, 1.4)
    assert [(found.task, found.end) for found in verdict] == [(1, watch.End(0, 1, "n1"))]


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.COMPLETING, None])
def test_a_record_that_is_behind_or_unknown_decides_nothing(state: JobState | None) -> None:
    it = new_watch()
    see_end(it, 1, 1.0)
    it.listed(["1.0.x"], 2.0)
    assert it.judge({("7", 1): ending(state)}, 3.0) == []
    assert it.suspects() == {1}


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.RUNNING])
def test_the_end_of_a_run_that_was_requeued_is_forgotten(state: JobState) -> None:
    it = new_watch()
    see_end(it, 1, 10.0)
    it.listed(["1.0.x"], 11.0)
    record: Records = {("7", 1): ending(state)}
    assert it.judge(record, 12.0) == []
    assert not it.wants_queue()  # as yet it is more likely that the record is behind
    it.judge(record, 10.1 + watch.LAG)
    assert it.wants_queue()
    it.queued([row(state, (0, 2))], asked=10.2 + watch.LAG, now=30.0)
    assert it.suspects() == set()
    assert not it.wants_queue()


def test_a_running_task_in_a_queue_that_is_behind_keeps_its_end() -> None:
    it = new_watch()
    see_end(it, 1, 10.0)
    it.queued([row(JobState.PENDING, (0, 0)), row(JobState.RUNNING, (1, 2))], asked=11.0, now=11.1)
    assert it.suspects() == {1}


def test_an_array_task_that_is_in_no_record_while_others_are_was_cancelled_before_it_started() -> None:
    it = new_watch()
    it.queued([row(JobState.RUNNING, (1, 1))], asked=20.0, now=20.0)
    it.queued([], asked=30.0, now=30.0)
    it.listed([], 41.0)
    verdicts = it.judge({("7", 2): ending(JobState.COMPLETED)}, 41.0)
    told = {found.task: found.ending and (found.ending.state, found.ending.started) for found in verdicts}
    assert told == {0: (JobState.CANCELLED, False), 1: None, 2: (JobState.COMPLETED, True)}


@pytest.mark.parametrize("state", [JobState.PREEMPTED, JobState.NODE_FAIL])
def test_an_end_that_may_be_followed_by_a_requeue_waits_for_the_queue(state: JobState) -> None:
    it = new_watch()
    see_end(it, 1, 5.0)
    it.listed(["1.0.x"], 6.0)
    assert it.judge({("7", 1): ending(state)}, 7.0) == []
    assert it.wants_queue()
    it.queued([row(JobState.PENDING, (0, 0)), row(JobState.RUNNING, (2, 2))], asked=8.0, now=8.1)
    assert [found.task for found in it.judge({("7", 1): ending(state)}, 9.0)] == [1]


def test_absence_from_the_queue_counts_after_the_grace_and_a_listing() -> None:
    it = new_watch(1)
    it.queued([], asked=20.0, now=20.0)
    gone: Records = {("7", 0): ending(JobState.COMPLETED)}
    it.listed([], 25.0)
    assert it.judge(gone, 25.0) == []
    assert it.judge(gone, 31.0) == []  # no listing since the grace was over
    it.listed([], 31.0)
    assert [found.task for found in it.judge(gone, 31.0)] == [0]


def test_a_job_that_never_started_needs_no_grace() -> None:
    it = new_watch(1)
    it.queued([], asked=20.0, now=20.0)
    assert [found.task for found in it.judge({("7", 0): ending(JobState.CANCELLED, started=False)}, 20.1)] == [0]


def test_absence_right_after_the_submission_means_nothing() -> None:
    it = new_watch(1)
    it.queued([], asked=1.0, now=1.1)
    assert it.suspects() == set()


def test_a_job_that_is_back_in_the_queue_is_no_suspect() -> None:
    it = new_watch(1)
    it.queued([], asked=20.0, now=20.0)
    assert it.suspects() == {0}
    it.queued([row(JobState.RUNNING, (0, 0))], asked=40.0, now=40.0)
    assert it.suspects() == set()


@pytest.mark.parametrize("state", [None, JobState.SUSPENDED, JobState.COMPLETING, JobState.REQUEUE_HOLD])
def test_any_state_but_an_end_is_alive(state: JobState | None) -> None:
    it = new_watch(1)
    it.queued([row(state, (0, 0))], asked=50.0, now=50.0)
    assert it.suspects() == set()


def test_ended_rows_still_listed_are_no_longer_in_the_queue() -> None:
    it = new_watch(2)
    it.queued([row(JobState.FAILED, (0, 0)), row(JobState.PENDING, (1, 1))], asked=50.0, now=50.0)
    assert it.suspects() == {0}


def test_a_record_by_which_a_task_runs_that_is_long_out_of_the_queue_is_doubted_again_and_again() -> None:
    it = new_watch(1)
    it.queued([], asked=20.0, now=20.0)
    it.listed([], 100.0)
    assert not it.doubts(100.0)
    now = 20.0 + watch.DOUBT_AFTER
    for _ in range(3):
        assert it.doubts(now)
        it.listed([], now)
        assert it.judge({("7", 0): ending(JobState.RUNNING)}, now) == []
        assert not it.doubts(now + 1.0)
        now += watch.DOUBT_AFTER
    it.listed([], now)
    assert [found.ending for found in it.judge({}, now)] == [None]


def test_what_could_not_be_found_out_of_a_job_decides_nothing() -> None:
    it = new_watch(2)
    it.queued([], asked=20.0, now=20.0)
    now = 20.0 + watch.DOUBT_AFTER
    it.listed([], now)
    unknown: Records = {("7", UNKNOWN): NOT_FOUND_OUT, ("7", 1): ending(JobState.FAILED)}
    assert [found.task for found in it.judge(unknown, now)] == [1]
    assert it.doubts(now)


# ---- files that cannot be read, folders that cannot be listed


@pytest.mark.parametrize("text", ["0.r", "0.0.1.p", "0.0.x"])
def test_a_task_with_a_file_in_sight_that_is_not_read_yet_is_not_judged(text: str) -> None:
    it = new_watch(1)
    it.queued([], asked=20.0, now=20.0)
    gone: Records = {("7", 0): ending(JobState.COMPLETED)}
    for now in (40.0, 4000.0):
        it.listed([text], now)
        assert it.judge(gone, now) == []
    it.taken(name(text))
    assert [found.task for found in it.judge(gone, 4000.0)] == [0]


def test_a_file_that_stays_unreadable_is_given_up_after_a_while() -> None:
    it = new_watch(1)
    it.queued([], asked=20.0, now=20.0)
    gone: Records = {("7", 0): ending(JobState.COMPLETED)}
    for now in (30.0, 29.0 + watch.UNREADABLE_FOR):
        it.listed(["0.r"], now)
        it.unreadable(name("0.r"), now)
        assert it.judge(gone, now) == []
    it.listed(["0.r"], 30.0 + watch.UNREADABLE_FOR)
    assert [found.task for found in it.judge(gone, 30.0 + watch.UNREADABLE_FOR)] == [0]


def test_a_listing_that_failed_is_no_look_but_the_next_one_is_not_due_at_once() -> None:
    it = new_watch(1)
    see_end(it, 0, 1.0)
    it.not_listed(20.0)
    assert it.look_at() == pytest.approx(20.4)
    dead: Records = {("7", 0): ending(JobState.FAILED)}
    assert it.judge(dead, 20.0) == []
    it.queued([], asked=30.0, now=30.0)
    it.not_listed(50.0)
    assert it.judge({("7", 0): ending(JobState.COMPLETED)}, 50.0) == []
    it.listed(["0.0.x"], 51.0)
    assert [found.task for found in it.judge(dead, 51.0)] == [0]


def test_states_are_news_once() -> None:
    it = new_watch(2)
    rows = [row(JobState.RUNNING, (0, 1))]
    assert it.queued(rows, asked=20.0, now=20.0) == [(0, JobState.RUNNING), (1, JobState.RUNNING)]
    assert it.queued(rows, asked=40.0, now=40.0) == []


def test_resolved_tasks_are_done_with() -> None:
    it = new_watch(2)
    see_end(it, 0, 1.0)
    it.resolve(0)
    it.queued([], asked=20.0, now=20.0)
    assert it.suspects() == {1}
    assert it.open == {1}


@pytest.mark.parametrize(
    ("state", "reason", "stuck"),
    [
        (JobState.PENDING, "BadConstraints", True),
        (JobState.PENDING, "JobHeldUser", True),
        (JobState.PENDING, "(PartitionTimeLimit)", True),
        (JobState.PENDING, "ReqNodeNotAvail, UnavailableNodes:n1", True),
        (JobState.PENDING, "job requeued in held state", True),
        (JobState.PENDING, "launch failed requeued held", True),
        (JobState.PENDING, "Resources", False),
        (JobState.PENDING, "Priority", False),
        (JobState.PENDING, "", False),
        (JobState.RUNNING, "BadConstraints", False),
    ],
)
def test_reasons_that_may_last_for_ever_are_told(state: JobState, reason: str, stuck: bool) -> None:
    assert watch.is_stuck(row(state, (0, 0), reason=reason)) is stuck


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"7",
        b"7 0",
        b"7 0 x",
        b"7 0 -1",
        b"7 0 1.5",
        b"7 0 " + b"9" * 5000,
        b"7 0 1 n x 2",
        b"7 0 1 n nan 2",
        b"\xff",
    ],
)
def test_a_damaged_end_is_none(data: bytes) -> None:
    assert watch.parse_end(data, 0) is None


def test_an_end_is_read_as_far_as_it_is_written() -> None:
    assert watch.parse_end(b"7 0 9", 2) == watch.End(2, 9, "", None, None, "")
    assert watch.parse_end(b"7 0 9 n1 1.5 2 n[1-2]\n", 0) == watch.End(0, 9, "n1", 1.5, 2.0, "n[1-2]")
