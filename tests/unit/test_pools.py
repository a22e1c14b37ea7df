"""What a pool makes of what its jobs come to: no Slurm, no pilots, and the clock goes as fast as is wanted."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from slurmfutures._remote import payload, pool, pool_files, pools, wire
from slurmfutures._remote.door import Guest

POOL = 5
FUNCTION = 9
ENDED = {
    "attempt": 0,
    "cancelled_by": "",
    "earlier": False,
    "exit_code": 143,
    "job_id": "77",
    "node": "n1",
    "reason": "",
    "signal": 15,
    "started": True,
    "state": "CANCELLED",
    "stderr": "",
    "unseen": False,
}


def frames(sent: Sequence[Sequence[wire.Buffer]]) -> list[wire.Frame]:
    return list(wire.Reader().feed(b"".join(bytes(buffer) for buffers in sent for buffer in buffers)))


class Batches:
    """Stands for the batches of the agent: writes down what it is asked for."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.cancelled: list[tuple[str, list[int]]] = []
        self.replies: list[Callable[[], None]] = []  # to cancellations
        self.said = b""  # what a job has written to its stderr
        self.reasons: dict[int, str] = {}  # why tasks wait
        self.attached: list[str] = []
        self.looks = 0  # at what became of a pilot whose connection is lost

    def attach(self, batch: str, tasks: Sequence[Sequence[int]], epoch: float | None) -> dict[str, Any]:
        self.attached.append(batch)
        return {}

    def submit(self, spec: dict[str, Any], calls: bytes, reply: Callable[..., None]) -> None:
        self.submitted.append(spec)

    def cancel(self, batch: str, tasks: Sequence[int], reply: Callable[..., None]) -> None:
        self.cancelled.append((batch, list(tasks)))
        self.replies.append(lambda: reply({}))

    def reason(self, batch: str, task: int) -> str:
        return self.reasons.get(task, "")

    def log_tail(self, batch: str, task: int, stream: str, limit: int) -> bytes:
        return self.said[-limit:]

    def look_soon(self, batch: str) -> None:
        self.looks += 1

    def release(self, batch: str, remove: bool, logs: bool, reply: Callable[..., None]) -> None:
        pass


class Pilot:
    """Stands for a pilot and the connection to it."""

    via = "tcp"
    is_false = False

    def __init__(self, name: Any) -> None:
        self.words = {"pilot": name}
        self.sent: list[Sequence[wire.Buffer]] = []
        self.open = True

    def attach(self, frames: Callable[[wire.Frame], None], gone: Callable[[str], None]) -> None:
        self._frames, self._gone = frames, gone

    def send(self, buffers: Sequence[wire.Buffer]) -> None:
        self.sent.append(buffers)

    def close(self) -> None:
        self.open = False

    def lose(self) -> None:
        self.open = False
        self._gone("it is gone")

    def says(self, op: str, **words: Any) -> None:
        self._frames(wire.Frame(wire.MESSAGE, {"op": op, **words}, b""))

    def answers(self, *records: tuple[int, int, bytes]) -> None:
        self._frames(wire.Frame(wire.RESULTS, None, packed(*records)))

    def has(self) -> list[int]:
        """Return the calls that it was sent."""
        bodies = [frame.body for frame in frames(self.sent) if frame.kind == wire.CALLS]
        return [call.call & 0xFFFF for body in bodies for call in payload.calls(body)]

    def was_told(self, op: str) -> list[list[int]]:
        """Return the calls of all messages of a kind."""
        heads = [frame.head for frame in frames(self.sent) if frame.kind == wire.MESSAGE]
        return [[call & 0xFFFF for call in head["calls"]] for head in heads if head["op"] == op]


def number(call: int) -> int:
    return (POOL << pools.POOL_BITS) + call


def packed(*records: tuple[int, int, bytes]) -> bytes:
    """Return records of (call, status, data)."""
    parts = [payload.pack_record(number(call), status, data) for call, status, data in records]
    return b"".join(bytes(buffer) for part in parts for buffer in part)


class Bench:
    """A pool, its surroundings and its client."""

    def __init__(self, folder: Path, **words: Any) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.batches = Batches()
        self.events: list[dict[str, Any]] = []
        self.transmitted: list[Sequence[wire.Buffer]] = []
        around = pools.Surroundings(
            work_dir=str(folder),
            session="0123456789ab",
            scheduler=cast("Any", None),
            batches=cast("Any", self.batches),
            send=lambda head, body=b"": self.events.append(head),
            transmit=self.transmitted.append,
            shipped=lambda ship: "",
            register=lambda *_: None,
            unregister=lambda *_: None,
            post=lambda action: None,
        )
        usual: dict[str, Any] = {"pool": POOL, "again": False, "address": None, "epoch": None}
        usual.update(spec={"options": []}, workers=1)
        usual.update(per_job=1, idle=120.0, most_calls=None, call_time=None, start_timeout=None)
        words = {"max_jobs": words.get("workers", 1), **usual, **words}
        self.pool = pool.Pool(around, words, b"")
        self.pool.function(FUNCTION, b"", "")
        self._clock = 0.0

    def calls(self, *calls: int) -> None:
        """Send calls and let the pool ask for jobs."""
        self.pool.calls(b"".join(b"".join(payload.pack_call(number(call), FUNCTION, b"")) for call in calls))
        self.turn()

    def turn(self, seconds: float = 1.0) -> None:
        """Let so much time go by."""
        self._clock += seconds
        self.pool.tick(time.monotonic() + self._clock)

    @property
    def batch(self) -> str:
        """The batch that was submitted last, or taken up from an earlier agent."""
        return str([*self.batches.attached, *(spec["batch"] for spec in self.batches.submitted)][-1])

    def connects(self, task: int = 0, run: int = 0) -> Pilot:
        """Have a job of the last batch connect and say nothing yet."""
        pilot = Pilot(pool_files.pilot_name(self.batch, task, run))
        self.pool._admit(cast("Guest", pilot))
        return pilot

    def comes(self, task: int = 0, run: int = 0, left: float | None = None, workers: int = 1, **words: Any) -> Pilot:
        """Have a job of the last batch become a pilot."""
        pilot = self.connects(task, run)
        words = {name: list(map(number, words[name])) for name in ("held", "kept") if name in words}
        here: dict[str, Any] = {"node": "n1", "host": "h", "held": [], "kept": [], "left": left, "workers": workers}
        pilot.says("here", job_id=f"77_{task}", **{**here, **words})
        return pilot

    def event(self, op: str, **words: Any) -> None:
        self.pool.event({"op": op, "batch": self.batch, **words})

    def ended(self, *tasks: int, **words: Any) -> None:
        self.event("ended", ended=[{**ENDED, "task": task, "job_id": f"77_{task}", **words} for task in tasks])

    def leaves(self, name: str, *records: tuple[int, int, bytes]) -> None:
        """Have a pilot leave a file with its last words."""
        files = pool_files.PoolFiles(self.pool._files.path)
        files.leave(name, [packed(*records)])

    def results(self) -> dict[int, Any]:
        """Return what the client was told of calls: data, or how they ended with their job."""
        bodies = [frame.body for frame in frames(self.transmitted) if frame.kind == wire.RESULTS]
        records = [record for body in bodies for record in payload.records(body)]
        return {
            record.call & 0xFFFF: json.loads(bytes(record.payload))
            if record.status == payload.CRASHED
            else bytes(record.payload)
            for record in records
        }

    def acknowledge(self, *calls: int) -> None:
        self.pool.acknowledge(b"".join(number(call).to_bytes(8, "big") for call in calls))

    def sent_again(self, *keep: int) -> None:
        self.pool.sent_again([(number(call), number(call) + 1) for call in keep])

    def told(self, op: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["op"] == op]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def bench(*, after: Bench | None = None, **words: Any) -> Bench:
        """Return another one, or, in the same folder, that of the agent which comes `after` one that was killed."""
        folder = tmp_path / str(len(benches)) if after is None else after.folder
        benches.append(Bench(folder, again=after is not None, **words))
        if after is not None:
            benches[-1].pool._restore()
        return benches[-1]

    yield bench
    for one in benches:
        one.pool.stop(for_good=True)


OpenBench = Callable[..., Bench]
CUT = b""  # of a call that ended with its job


# ---- the last words of a pilot


def test_what_was_done_is_told_beside_what_was_cut_off(bench: OpenBench) -> None:
    one = bench()
    one.calls(1, 2, 3)
    pilot = one.comes(workers=3)
    assert pilot.has() == [1, 2, 3]
    pilot.lose()
    one.leaves(pilot.words["pilot"], (1, payload.OK, b"one"), (2, payload.CRASHED, CUT), (3, payload.OK, b"three"))
    one.ended(0)
    assert one.results()[1] == b"one"
    assert one.results()[3] == b"three"
    assert (one.results()[2]["state"], one.results()[2]["job_id"]) == ("CANCELLED", "77_0")


def test_what_a_pilot_with_last_words_does_not_name_was_never_begun(bench: OpenBench) -> None:
    one = bench()
    one.calls(1, 2)
    pilot = one.comes(workers=2)
    pilot.lose()
    one.leaves(pilot.words["pilot"], (1, payload.CRASHED, CUT))
    one.ended(0)
    assert set(one.results()) == {1}
    one.turn()
    assert one.comes().has() == [2]


def test_all_that_a_pilot_without_last_words_had_may_have_run(bench: OpenBench) -> None:
    one = bench()
    one.calls(1, 2)
    one.comes(workers=2).lose()
    one.ended(0, state="NODE_FAIL")
    assert {call: words["state"] for call, words in one.results().items()} == {1: "NODE_FAIL", 2: "NODE_FAIL"}


# ---- jobs that are put back into the queue


@pytest.mark.parametrize(
    ("said", "leaving", "state"),
    [
        (
            b"slurmstepd: error: *** JOB 77 ON n1 CANCELLED AT 2025-11-28T09:30:00 DUE TO PREEMPTION ***\n",
            True,
            "PREEMPTED",
        ),
        (
            b"slurmstepd: error: *** JOB 77 ON n1 CANCELLED AT 2025-11-28T09:30:00 DUE TO JOB REQUEUE ***\n",
            True,
            "REQUEUED",
        ),
        (b"", True, "REQUEUED"),
        (b"", False, "NODE_FAIL"),
    ],
)
@pytest.mark.parametrize("by_the_queue", [True, False])
def test_calls_of_a_job_that_is_put_back_end_for_its_reason(
    bench: OpenBench, said: bytes, leaving: bool, state: str, by_the_queue: bool
) -> None:
    one = bench()
    one.calls(1)
    pilot = one.comes()
    one.batches.said = said
    if leaving:
        pilot.says("leaving")
    if by_the_queue:
        pilot.lose()
        one.event("states", states=[["PENDING", [(0, 1)]]])
    again = one.comes(run=1)
    assert one.results()[1]["state"] == state
    assert not pilot.open
    one.calls(2)
    assert again.has() == [2]


def test_one_job_more_than_may_be_is_taken_out_of_the_queue(bench: OpenBench) -> None:
    one = bench(workers=1)
    one.calls(1, 2)
    first = one.comes()
    first.says("leaving")
    one.turn()
    batch = one.batches.submitted[0]["batch"]
    first.lose()
    one.pool.event({"op": "states", "batch": batch, "states": [["PENDING", [(0, 1)]]]})
    one.turn()
    assert one.batches.cancelled == [(batch, [0])]
    assert one.batch != batch
    assert one.comes().has() == [2]


# ---- a job near its end


def test_a_job_without_time_for_a_call_takes_none_and_is_replaced(bench: OpenBench) -> None:
    one = bench(call_time=30.0, workers=1)
    one.calls(1)
    first = one.comes(left=60.0)
    first.answers((1, payload.OK, b""))
    one.event("ends", ends=[[0, time.time() + 20.0]])  # the queue knows better
    one.calls(2)
    assert first.has() == [1]
    assert len(one.batches.submitted) == 2
    assert one.comes(left=60.0).has() == [2]


def test_a_call_that_fits_into_no_job_is_given_to_a_new_one(bench: OpenBench) -> None:
    one = bench(call_time=90.0)
    one.calls(1)
    assert one.comes(left=60.0).has() == [1]


def test_a_new_job_that_was_idle_for_too_long_is_replaced(bench: OpenBench) -> None:
    one = bench(call_time=30.0, workers=2)
    one.calls(1, 2)
    first = one.comes(0, left=60.0)
    other = one.comes(1, left=60.0)
    first.answers((1, payload.OK, b""))
    other.answers((2, payload.OK, b""))
    one.turn(40.0)
    assert [frame.head["op"] for frame in frames(first.sent) if frame.kind == wire.MESSAGE][-1] == "leave"
    assert one.told("pool_note")[-1]["message"].endswith("is near its time limit and takes no more calls")


# ---- jobs that are of no use


def test_jobs_are_given_up_when_none_is_left_that_may_fare_better(bench: OpenBench) -> None:
    one = bench(workers=4)
    one.calls(1, 2, 3, 4)
    one.ended(0, 1, 2, state="FAILED")
    assert not one.told("pool_broken")
    one.ended(3, state="FAILED", exit_code=9)
    (broken,) = one.told("pool_broken")
    assert broken["message"] == "4 jobs have ended one after the other before they could run a call"
    assert broken["record"]["exit_code"] == 9


def test_one_that_has_had_a_worker_is_of_use(bench: OpenBench) -> None:
    one = bench(workers=4)
    one.calls(1, 2, 3, 4)
    one.ended(0, 1, 2, state="FAILED")
    one.comes(3).lose()
    one.ended(3, state="FAILED")
    assert not one.told("pool_broken")


def test_one_that_came_and_whose_workers_did_not_is_of_no_use(bench: OpenBench) -> None:
    one = bench()
    one.calls(1)
    for _ in range(3):
        pilot = one.comes(workers=0)
        pilot.says("leaving")
        one.turn()
        assert pilot.has() == []
        one.ended(0, state="FAILED", exit_code=86)
        one.turn(10.0)
    assert len(one.batches.submitted) == 3
    assert len(one.told("pool_broken")) == 1


def test_the_next_job_goes_where_none_has_died_while_there_is_such_a_node(bench: OpenBench) -> None:
    one = bench(spec={"options": ["--exclude=n7"]})
    one.calls(1)
    one.ended(0, state="FAILED", node="n1")
    one.turn(10.0)
    assert one.batches.submitted[-1]["options"] == ["--exclude=n7", "--exclude=n7,n1"]
    one.event("refused", tasks=[(0, 1)], message="no such nodes")
    one.turn(10.0)
    assert one.batches.submitted[-1]["options"] == ["--exclude=n7"]
    one.event("refused", tasks=[(0, 1)], message="no")
    assert len(one.told("pool_broken")) == 1


def test_calls_that_are_with_a_pilot_outlive_the_hope_for_others(bench: OpenBench) -> None:
    one = bench()
    one.calls(1, 2)
    pilot = one.comes()
    assert pilot.has() == [1]
    pilot.says("leaving")
    one.turn()
    one.event("refused", tasks=[(0, 1)], message="no")
    (broken,) = one.told("pool_broken")
    assert broken["spared"] == [number(1)]
    one.calls(3)  # on its way when that was told
    pilot.answers((1, payload.OK, b"one"))
    assert one.results() == {1: b"one"}
    assert pilot.has() == [1]
    assert not one.batches.cancelled


def test_a_call_that_is_given_back_when_there_is_no_hope_fails(bench: OpenBench) -> None:
    one = bench()
    one.calls(1, 2)
    pilot = one.comes()
    pilot.says("leaving")
    one.turn()
    one.event("refused", tasks=[(0, 1)], message="no")
    pilot.says("back", calls=[number(1)])
    assert one.told("pool_broken")[-1]["spared"] == []


# ---- jobs that wait


HELD = "job 77 waits in the queue: JobHeldUser"
FULL = "job 77 waits in the queue: Resources"


def test_calls_fail_where_all_jobs_wait_for_what_will_not_come(bench: OpenBench) -> None:
    one = bench(workers=2)
    one.calls(1, 2)
    one.batches.reasons = {0: HELD, 1: FULL}
    one.turn(10.0)
    assert not one.told("pool_broken")
    one.batches.reasons[1] = "job 77 waits in the queue: launch failed requeued held"
    one.turn(10.0)
    (broken,) = one.told("pool_broken")
    assert broken["message"] == f"no worker will come: {HELD}"
    assert one.batches.cancelled


def test_where_one_is_at_work_the_others_may_wait_for_ever(bench: OpenBench) -> None:
    one = bench(workers=2)
    one.calls(1, 2)
    one.comes(0)
    one.batches.reasons = {1: HELD}
    one.turn(10.0)
    assert not one.told("pool_broken")


def test_a_job_that_is_left_in_the_queue_is_not_waited_for_in_silence(bench: OpenBench) -> None:
    one = bench(workers=2)
    one.calls(1, 2)
    first = one.comes(0)
    first.answers((1, payload.OK, b""))
    first.says("leaving")
    one.event("results", done=[0])
    one.batches.reasons = {1: HELD}
    one.turn(10.0)
    assert len(one.told("pool_broken")) == 1


def test_a_job_that_is_cancelled_and_comes_after_all_gets_no_call(bench: OpenBench) -> None:
    one = bench(workers=2)
    one.calls(1, 2)
    first = one.comes(0)
    first.answers((1, payload.OK, b""))
    one.pool.cancel([number(2)])
    one.turn(200.0)
    assert one.batches.cancelled == [(one.batch, [1])]
    late = one.comes(1)
    one.calls(3, 4)
    assert late.has() == []
    for reply in one.batches.replies:
        reply()


# ---- connections, agents and drivers that are lost


def test_a_pilot_that_is_away_for_hours_is_looked_for_less_and_less(bench: OpenBench) -> None:
    one = bench()
    one.calls(1)
    one.comes().lose()
    looks = []
    for _ in range(3):
        before = one.batches.looks
        for _ in range(3600):
            one.turn()
        looks.append(one.batches.looks - before)
    assert looks[0] <= 250
    assert looks[1] <= 40
    assert looks[2] <= 25
    assert one.comes().has() == [1]


@pytest.mark.parametrize(
    "name", [None, 7, "", "b", "b.0", "b.-1.0", "b.0.0.0", "b.x.0", "b.\u0660.0", "../b.0.0", "b.0." + 99 * "9"]
)
def test_who_has_the_key_and_no_name_is_told_to_leave(bench: OpenBench, name: object) -> None:
    one = bench()
    one.calls(1)
    pilot = Pilot(name)
    one.pool._admit(cast("Guest", pilot))
    assert [frame.head["op"] for frame in frames(pilot.sent)] == ["leave"]
    assert one.comes().has() == [1]


def test_a_pilot_that_comes_again_is_given_calls_only_when_it_has_told_what_it_has(bench: OpenBench) -> None:
    one = bench(workers=2, per_job=2)
    one.calls(1)
    one.comes(workers=2).lose()
    again = one.connects()
    one.calls(2)
    assert again.has() == []  # it may have composed what it tells before this came, which then counts as not received
    again.says("here", job_id="77_0", node="n1", host="h", held=[number(1)], kept=[], left=None, workers=2)
    assert again.has() == [2]


def test_what_has_not_arrived_is_handed_out_again(bench: OpenBench) -> None:
    one = bench()
    one.calls(1)
    one.comes().lose()
    assert one.comes().has() == [1]


@pytest.fixture
def killed(bench: OpenBench) -> Bench:
    """An agent of two pilots with a call each, and one that waits."""
    one = bench(workers=2, max_jobs=2)
    one.calls(1, 2, 3)
    assert [one.comes(task).has() for task in range(2)] == [[1], [2]]
    return one


def test_the_next_agent_waits_for_pilots_to_tell_what_they_have(bench: OpenBench, killed: Bench) -> None:
    one = bench(after=killed, workers=2)
    one.calls(1, 2, 3)
    one.sent_again()
    first = one.comes(0, held=[1])
    assert first.has() == []  # but for what was never handed out, there is no room
    first.answers((1, payload.OK, b"a"))
    assert first.has() == [3]
    second = one.comes(1)
    assert sorted(first.has() + second.has()) == [2, 3]
    assert one.results() == {1: b"a"}


def test_a_call_that_was_never_handed_out_waits_for_nobody(bench: OpenBench, killed: Bench) -> None:
    one = bench(after=killed, workers=2)
    one.calls(1, 2, 3)
    one.sent_again()
    assert one.comes(0).has() == [3]


def test_unless_the_machine_was_started_meanwhile(bench: OpenBench, killed: Bench) -> None:
    path = Path(killed.pool._files.path) / "handed"
    path.write_bytes(path.read_bytes()[:8] + b"another boot")
    one = bench(after=killed, workers=2)
    one.calls(1, 2, 3)
    one.sent_again()
    assert one.comes(0).has() == []
    assert one.pool.handed > number(1 << 20)


def test_what_a_pilot_had_that_has_told_nobody_ends_with_it(bench: OpenBench, killed: Bench) -> None:
    one = bench(after=killed, workers=2)
    one.calls(1, 2, 3)
    one.sent_again()
    one.ended(1)
    assert one.results() == {}
    assert one.comes(0, held=[1]).has() == []
    assert {call: words["job_id"] for call, words in one.results().items()} == {2: "77_1"}


def test_it_runs_again_where_that_was_before_the_driver_began(bench: OpenBench, killed: Bench) -> None:
    one = bench(after=killed, workers=2)
    one.calls(1, 2)
    one.sent_again()
    one.ended(1, earlier=True)
    one.comes(0, kept=[1]).answers((1, payload.OK, b"a"))
    assert one.results() == {1: b"a"}
    assert one.pool.state()["running"] == 1


def test_the_end_of_a_job_is_told_once_whoever_asks(bench: OpenBench, killed: Bench) -> None:
    killed.ended(1)
    assert list(killed.results()) == [2]
    killed.acknowledge(2)
    one = bench(after=killed, workers=2)
    one.calls(1)
    one.sent_again()
    one.ended(1)
    assert one.comes(0).has() == [1]
    assert one.results() == {}


def test_but_again_where_the_client_may_not_have_heard_it(bench: OpenBench, killed: Bench) -> None:
    killed.ended(1)
    one = bench(after=killed, workers=2)
    one.calls(1, 2)
    one.sent_again()
    one.comes(0, held=[1])
    one.ended(1)
    assert list(one.results()) == [2]


def test_nor_is_what_it_has_left_taken_in_twice(bench: OpenBench, killed: Bench) -> None:
    killed.leaves(f"{killed.batch}.1.0", (2, payload.OK, b"b"))
    killed.ended(1)
    killed.acknowledge(2)
    one = bench(after=killed, workers=2)
    one.sent_again()
    one.ended(1)
    assert one.results() == {}


def test_what_was_cut_off_before_the_driver_began_is_not_taken_from_who_runs_it_now(
    bench: OpenBench, killed: Bench
) -> None:
    killed.leaves(f"{killed.batch}.1.0", (2, payload.CRASHED, CUT))
    for one in (bench(after=killed, workers=2), bench(after=killed, workers=2)):
        one.calls(2)
        one.sent_again(1)
        one.ended(1, earlier=True)
    first = one.comes(0, held=[1, 2])
    assert first.has() == []
    first.answers((1, payload.OK, b"a"), (2, payload.OK, b"b"))
    assert one.results() == {1: b"a", 2: b"b"}


def test_what_the_client_does_not_send_again_is_ended(bench: OpenBench, killed: Bench) -> None:
    one = bench(after=killed, workers=2)
    first = one.comes(0, held=[1])
    one.sent_again()
    second = one.comes(1, held=[2])
    assert first.was_told("cancel") == [[1]]
    assert second.was_told("cancel") == [[2]]


def test_unless_the_next_driver_may_ask_for_it(bench: OpenBench, killed: Bench) -> None:
    one = bench(after=killed, workers=2)
    one.sent_again(1, 2)
    first, second = one.comes(0, held=[1]), one.comes(1, held=[2])
    assert first.was_told("cancel") == []
    one.calls(1)
    assert first.has() == []
    one.pool.cancel([number(2)])
    assert second.was_told("cancel") == [[2]]
    second.lose()
    assert one.comes(1, held=[2]).was_told("cancel") == [[2]]


def test_without_a_ledger_pilots_are_given_nothing(bench: OpenBench) -> None:
    one = bench()
    one.calls(1)
    ledger = Path(one.pool._files.path) / "ledger"
    ledger.rename(ledger.with_name("away"))
    ledger.mkdir()
    pilot = one.comes()
    assert pilot.has() == []
    assert "ledger" in one.told("pool_note")[-1]["message"]
    ledger.rmdir()
    one.turn()
    assert pilot.has() == [1]
