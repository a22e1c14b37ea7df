import datetime as dt
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import commands
from slurmfutures._remote.scheduler import (
    NOT_FOUND_OUT,
    UNKNOWN,
    Ending,
    Held,
    Limits,
    Refused,
    Request,
    Row,
    Scheduler,
    Submitted,
    Unclear,
)
from slurmfutures._remote.slurm import Bucket, Slurm
from slurmfutures._remote.states import JobState

Site = tuple[Callable[[str, str], None], Slurm]

# ---- what is run


def request(**changes: Any) -> Request:
    plain = Request(
        options=("--mem=4G", "--job-name=theirs"),
        script="/work/a batch/script",
        arguments=("0", "-x"),
        size=1,
        throttle=None,
        name="sim.sf-ab.0",
        comment="sf:ab.0",
        chdir="/work/a batch",
        stdout="/work/logs/%a.out",
        stderr="/work/logs/%a.err",
    )
    return plain._replace(**changes)


def test_a_submission_has_the_user_s_options_first_so_that_ours_win() -> None:
    assert commands.submit_argv(request(size=1)) == [
        "sbatch",
        "--mem=4G",
        "--job-name=theirs",
        "--parsable",
        "--job-name=sim.sf-ab.0",
        "--comment=sf:ab.0",
        "--chdir=/work/a batch",
        "--output=/work/logs/0.out",
        "--error=/work/logs/0.err",
        "/work/a batch/script",
        "0",
        "-x",
    ]


@pytest.mark.parametrize(
    ("size", "throttle", "option"),
    [(2, None, "--array=0-1"), (100, 8, "--array=0-99%8"), (100, 100, "--array=0-99"), (100, 1, "--array=0-99%1")],
)
def test_more_than_one_task_is_an_array(size: int, throttle: int | None, option: str) -> None:
    argv = commands.submit_argv(request(size=size, throttle=throttle))
    assert [word for word in argv if word.startswith("--array")] == [option]
    assert "--output=/work/logs/%a.out" in argv


@pytest.mark.parametrize(
    ("array", "size", "throttle", "option"),
    [("1-10:3", 4, 2, "--array=1-10:3%2"), ("0,5,7", 3, 3, "--array=0,5,7"), ("7", 1, None, "--array=7")],
)
def test_a_user_s_own_array_has_its_own_indices(array: str, size: int, throttle: int | None, option: str) -> None:
    argv = commands.submit_argv(request(array=array, size=size, throttle=throttle))
    assert [word for word in argv if word.startswith("--array")] == [option]


def test_a_percent_sign_in_a_path_is_only_itself() -> None:
    argv = commands.submit_argv(request(size=2, stdout="/100%j/50%a/%a.out", stderr="/dev/null"))
    assert "--output=/100%%j/50%%a/%a.out" in argv


def test_slurm_s_variables_are_taken_out_of_the_environment_but_for_where_the_cluster_is() -> None:
    dirty = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JWT": "token",
        "SLURM_JOB_ID": "1",
        "SLURM_CPU_BIND": "cores",
        "SBATCH_PARTITION": "x",
        "SQUEUE_STATES": "PD",
        "SACCT_FORMAT": "JobID",
        "SCANCEL_INTERACTIVE": "1",
        "SINFO_FORMAT": "x",
    }
    clean = {name: dirty[name] for name in ("PATH", "HOME", "SLURM_CONF", "SLURM_JWT")}
    assert commands.client_environment(dirty) == clean
    assert commands.query_environment(dirty) == {**clean, "LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}


def test_sacct_is_asked_for_one_s_own_jobs_only() -> None:
    argv = commands.records_argv(["1", "22"], 1000, with_reason=True)
    assert argv[0] == "sacct"
    assert argv[-1] == "--jobs=1,22"
    assert "--user=1000" in argv
    assert any(word.endswith(",Reason") for word in argv)
    assert not any(word.endswith(",Reason") for word in commands.records_argv(["1"], 1000, with_reason=False))


@pytest.mark.parametrize(("name", "asked"), [("sim.sf-ab.0", True), ("a,b", False), ("it's", False), ("é", False)])
def test_sacct_is_asked_by_name_where_it_can_take_it(name: str, asked: bool) -> None:
    assert ("--name=" + name in commands.named_argv(name, 1000, 14)) is asked


@pytest.mark.parametrize(
    ("indices", "ranges"),
    [([], ()), ([3], ((3, 3),)), ([3, 1, 2, 2, 7], ((1, 3), (7, 7))), (range(1000), ((0, 999),))],
)
def test_indices_are_compressed(indices: Iterable[int], ranges: tuple[tuple[int, int], ...]) -> None:
    assert commands.compress(indices) == ranges


def test_one_cancel_ends_many_jobs() -> None:
    targets = [("12", None), ("9", None), ("100", [3, 1, 2, 7]), ("100", [8]), ("12", [1])]
    assert commands.cancel_argvs(targets) == [["scancel", "9", "12", "100_[1-3,7-8]"]]


def test_nothing_to_cancel_is_no_command() -> None:
    assert commands.cancel_argvs([]) == []
    assert commands.cancel_argvs([("12", [])]) == []


def test_cancels_are_split_so_that_the_arguments_fit() -> None:
    odd = list(range(1, 200000, 2))
    jobs = [str(number) for number in range(1000, 21000)]
    argvs = commands.cancel_argvs([("7", odd), *((job, None) for job in jobs)], limit=5000)
    assert all(sum(len(word) + 1 for word in argv[1:]) <= 5000 for argv in argvs)
    words = [word for argv in argvs for word in argv[1:]]
    assert [word for word in words if "_" not in word] == jobs
    lists = [word[len("7_") :] for word in words if word.startswith("7_")]
    assert [first for text in lists for first, _ in commands.parse_ranges(text)] == odd


def test_a_job_that_is_cancelled_whole_needs_no_indices() -> None:
    assert commands.cancel_argvs([("7", [1, 2]), ("7", None)]) == [["scancel", "7"]]


# ---- what became of a submission

LIMIT = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    ("stdout", "job_id"),
    [
        ("123\n", "123"),
        ("123;mycluster\n", "123"),
        ("123\r\n", "123"),
        ("*** 2 jobs are running, 17 nodes free ***\n\n123\n", "123"),
        ("Welcome\n123\nThank you for flying with us, 5 of 6 stars\n", "123"),
        ("7\n123\n", "123"),
        ("Submitted batch job 123\n", "123"),
        ("Submitted batch job 123 on cluster big\n", "123"),
        ("", None),
        ("job 123\n", None),
        ("123 456\n", None),
        ("1.5\n", None),
        ("-3\n", None),
    ],
)
def test_the_job_id_is_read_whatever_a_site_prints_around_it_and_never_guessed(stdout: str, job_id: str | None) -> None:
    assert commands.parse_job_id(stdout) == job_id


@pytest.mark.parametrize(
    "stderr",
    [
        "",
        "sbatch: You have 3 % of your budget left\n",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping\n",
    ],
)
def test_a_printed_id_is_an_accepted_job(stderr: str) -> None:
    assert commands.classify(0, "123\n", stderr) == Submitted("123")


@pytest.mark.parametrize(
    ("returncode", "stderr", "message"),
    [
        (
            1,
            (
                "sbatch: error: invalid partition specified: nope\n"
                "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
            ),
            "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified",
        ),
        (1, "sbatch: error: Unable to open file x.sh\n", "Unable to open file x.sh"),
        (255, "sbatch: option '--hold' doesn't allow an argument\n", "option '--hold' doesn't allow an argument"),
        (1, "sbatch: error: ask for a project\n", "ask for a project"),
        (
            1,
            f"sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: {LIMIT}\n",
            f"QOSMaxWallDurationPerJobLimit; Batch job submission failed: {LIMIT}",
        ),
        (1, f"sbatch: error: Batch job submission failed: {LIMIT}\n", f"Batch job submission failed: {LIMIT}"),
        (
            1,
            "sbatch: error: Batch job submission failed: Unspecified error\n",
            "Batch job submission failed: Unspecified error",
        ),
        (
            1,
            "sbatch: error: Batch job submission failed: Requested node configuration is not available\n",
            "Batch job submission failed: Requested node configuration is not available",
        ),
    ],
)
def test_a_no_is_a_refusal_in_sbatch_s_own_words(returncode: int, stderr: str, message: str) -> None:
    assert commands.classify(returncode, "", stderr) == Refused(message)


@pytest.mark.parametrize(
    "stderr",
    [
        *(
            f"sbatch: error: {name}\nsbatch: error: Batch job submission failed: {LIMIT}\n"
            for name in (
                "AssocMaxSubmitJobLimit",
                "AssocGrpSubmitJobsLimit",
                "QOSMaxSubmitJobPerUserLimit",
                "QOSGrpSubmitJobsLimit",
                "MaxSubmitJobsPerAccount",
            )
        ),
        (
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
            "sbatch: error: Batch job submission failed: Resource temporarily unavailable\n"
        ),
        (
            "sbatch: error: Slurm job queue full, sleeping and retrying\n"
            "sbatch: error: Batch job submission failed: Unable to create job record, try again\n"
        ),
        "sbatch: error: Batch job submission failed: MaxJobCount limit reached\n",
        "sbatch: error: Batch job submission failed: Rate limit exceeded, please retry later\n",
    ],
)
def test_a_limit_that_passes_holds_the_submission(stderr: str) -> None:
    assert isinstance(commands.classify(1, "", stderr), Held)


@pytest.mark.parametrize(
    ("returncode", "stdout", "stderr"),
    [
        (None, "", ""),
        (None, "123\n", ""),
        (-9, "", ""),
        (137, "", "Killed\n"),
        (0, "", ""),
        (0, "job submitted, good luck\n", ""),
        (1, "123\n", "some wrapper failed\n"),
        (1, "", ""),
        (1, "", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"),
        (1, "", "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n"),
        (1, "", "sbatch: error: Batch job submission failed: Unexpected message received\n"),
        (1, "", "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received\n"),
        (1, "", "sbatch: error: Batch job submission failed: Connection refused\n"),
        (1, "", "sbatch: error: Batch job submission failed: Connection timed out\n"),
        (1, "", "sbatch: error: Batch job submission failed: Slurm backup controller in standby mode\n"),
        (1, "", "sbatch: fatal: Unable to process configuration file\n"),
        (1, "", "sbatch: fatal: Could not establish a configuration source\n"),
        (
            1,
            "",
            (
                "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
                "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
            ),
        ),
    ],
)
def test_all_that_leaves_it_open_whether_the_job_is_there_is_unclear(
    returncode: int | None, stdout: str, stderr: str
) -> None:
    outcome = commands.classify(returncode, stdout, stderr)
    assert isinstance(outcome, Unclear)
    assert outcome.message


# ---- the queue


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("7", ((7, 7),)),
        ("1,3,5-7", ((1, 1), (3, 3), (5, 7))),
        ("4-90%8", ((4, 90),)),
        ("[4-90%8]", ((4, 90),)),
        ("0-8:4", ((0, 0), (4, 4), (8, 8))),
        ("1-999:2%5", tuple((index, index) for index in range(1, 1000, 2))),
        ("1,3-5,12...", ((1, 1), (3, 5), (6, commands.NO_INDEX))),
        ("1...%8", ((0, commands.NO_INDEX),)),
    ],
)
def test_array_indices_are_read(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    assert commands.parse_ranges(text) == ranges


@pytest.mark.parametrize("text", ["", "N/A", "a", "1-", "1--2", "0x10", "%8"])
def test_what_is_no_list_of_indices_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="array indices"):
        commands.parse_ranges(text)


def record(*fields: str) -> str:
    return "\x1f".join(fields) + "\x1e\n"


def test_the_queue_is_read_with_odd_names_and_comments() -> None:
    name = 'we\'ird "näme", x|y %j %a.sf-ab12'
    at = time.mktime((2025, 11, 28, 9, 30, 0, 0, 0, -1))
    stdout = (
        record("10", "2-90%2", "PENDING", "N/A", "JobArrayTaskLimit", name, "c|o 'm sf:ab12")
        + record("10", "0", "RUNNING", "2025-11-28T09:30:00", "None", name, "c|o 'm sf:ab12")
        + record("11", "N/A", "FAILED", "2025-11-28T09:30:01", "NonZeroExitCode", "plain", "(null)")
        + record("12", "N/A", "NEW_WORD", "NONE", "None", "plain", "")
    )
    assert commands.parse_queue(stdout) == [
        Row("10", ((2, 90),), JobState.PENDING, "JobArrayTaskLimit", name, "c|o 'm sf:ab12"),
        Row("10", ((0, 0),), JobState.RUNNING, "", name, "c|o 'm sf:ab12", at),
        Row("11", None, JobState.FAILED, "NonZeroExitCode", "plain", "", at + 1),
        Row("12", None, None, "", "plain", ""),
    ]


@pytest.mark.parametrize("text", ["N/A", "NONE", "Unknown", "", "Tomorr 09:30", "1764322200", "2025-13-01T00:00:00"])
def test_a_time_that_slurm_does_not_know_or_a_site_writes_in_its_own_way_is_none(text: str) -> None:
    (row,) = commands.parse_queue(record("1", "N/A", "RUNNING", text, "None", "n", "c"))
    assert row == Row("1", None, JobState.RUNNING, "", "n", "c", None)


def test_names_that_look_like_our_own_marks_cost_only_themselves() -> None:
    stdout = record("1", "N/A", "RUNNING", "N/A", "None", "a\x1fb", "c")
    stdout += record("2", "N/A", "RUNNING", "N/A", "None", "x\ny", "z\n")
    assert commands.parse_queue(stdout) == [
        Row("1", None, JobState.RUNNING, "", "", ""),
        Row("2", None, JobState.RUNNING, "", "x\ny", "z\n"),
    ]


def test_a_site_s_words_before_the_queue_are_skipped() -> None:
    stdout = "Maintenance on 24 December\n\n" + record("1", "N/A", "RUNNING", "N/A", "None", "n", "c") + "bye\n"
    assert [row.job_id for row in commands.parse_queue(stdout)] == ["1"]


def test_an_empty_queue_is_an_answer() -> None:
    assert commands.parse_queue("") == []


@pytest.mark.parametrize(
    "stdout", [record("1", "N/A", "RUNNING"), record("1", "zz", "RUNNING", "N/A", "None", "n", "c")]
)
def test_a_record_that_cannot_be_read_makes_the_whole_answer_none(stdout: str) -> None:
    with pytest.raises(ValueError, match=r"record|indices"):
        commands.parse_queue(stdout)


# ---- the records


def ending(state: JobState | None, **changes: Any) -> Ending:
    plain = Ending(state, None, None, "", "", started=False, cancelled_by="", start="", end="")
    return plain._replace(**changes)


BEGAN, ENDED = "2026-11-23T13:14:11", "2026-11-23T13:14:16"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            f"9|FAILED|3:0|{BEGAN}|{BEGAN}|{ENDED}|n1|Resources",
            {("9", None): ending(JobState.FAILED, exit_code=3, node="n1", started=True, start=BEGAN, end=ENDED)},
        ),
        (
            f"9|FAILED|0:9|{BEGAN}|{BEGAN}|{ENDED}|n1",
            {("9", None): ending(JobState.FAILED, signal=9, node="n1", started=True, start=BEGAN, end=ENDED)},
        ),
        (
            f"9|OUT_OF_MEMORY|0:125|{BEGAN}|{BEGAN}|{ENDED}|n[1-2]|None",
            {
                ("9", None): ending(
                    JobState.OUT_OF_MEMORY, signal=125, node="n[1-2]", started=True, start=BEGAN, end=ENDED
                )
            },
        ),
        (
            f"8_4|RUNNING|0:0|{BEGAN}|{BEGAN}|Unknown|n1|None",
            {("8", 4): ending(JobState.RUNNING, node="n1", started=True, start=BEGAN)},
        ),
        (
            f"8_[7-9%4]|CANCELLED by 4242424|0:0|{BEGAN}|None|{ENDED}|None assigned|JobArrayTaskLimit",
            {
                ("8", index): ending(JobState.CANCELLED, exit_code=0, cancelled_by="4242424", end=ENDED)
                for index in (7, 8, 9)
            },
        ),
        (
            f"8|CANCELLED by 0|0:0|{BEGAN}|{BEGAN}|{ENDED}|n1|None",
            {
                ("8", None): ending(
                    JobState.CANCELLED,
                    exit_code=0,
                    cancelled_by="root",
                    node="n1",
                    started=True,
                    start=BEGAN,
                    end=ENDED,
                )
            },
        ),
        (
            f"9|CANCELLED|0:0|{BEGAN}|{BEGAN}|{BEGAN}|None assigned|Dependency",
            {("9", None): ending(JobState.CANCELLED, exit_code=0, reason="Dependency", start=BEGAN, end=BEGAN)},
        ),
        (f"9|PENDING|0:0|{BEGAN}|Unknown|Unknown|None assigned|None", {("9", None): ending(JobState.PENDING)}),
        (f"9|A_NEW_ONE|1:0|{BEGAN}|Unknown|Unknown|None assigned|None", {("9", None): ending(None)}),
        ("Welcome to the cluster", {}),
        (f"9+1|FAILED|1:0|{BEGAN}|{BEGAN}|{ENDED}|n1|None", {}),
        (f"9.batch|FAILED|1:0|{BEGAN}|{BEGAN}|{ENDED}|n1|None", {}),
    ],
)
def test_accounting_records_are_read(line: str, expected: dict[tuple[str, int | None], Ending]) -> None:
    assert commands.parse_records(line + "\n", {}) == expected


def test_of_several_records_with_one_id_the_newest_counts() -> None:
    new = f"9|COMPLETED|0:0|{ENDED}|{ENDED}|{ENDED}|n1\n"
    old = f"9|FAILED|1:0|2017-01-01T00:00:00|{BEGAN}|{BEGAN}|n1\n"
    for stdout in (new + old, old + new):
        assert commands.parse_records(stdout, {})["9", None].state is JobState.COMPLETED


def test_the_record_of_an_older_job_with_the_same_id_is_left_out() -> None:
    ours = dt.datetime.fromisoformat(ENDED).timestamp()
    old = f"9|CANCELLED by 0|0:0|2017-01-01T00:00:00|{BEGAN}|{BEGAN}|None assigned\n"
    assert commands.parse_records(old, {"9": ours}) == {}
    assert list(commands.parse_records(old, {"8": ours})) == [("9", None)]
    clocks_differ = f"9|FAILED|1:0|{BEGAN}|{BEGAN}|{ENDED}|n1\n"
    assert commands.parse_records(clocks_differ + old, {"9": ours})["9", None].state is JobState.FAILED
    no_time = f"9|FAILED|1:0|Unknown|{BEGAN}|{ENDED}|n1\n"
    assert list(commands.parse_records(no_time, {"9": ours})) == [("9", None)]


SHOWN = (
    "JobId={id} {array}JobName={name} UserId=me(1000) GroupId=me(1000) MCS_label=N/A Priority=1 Nice=0 Account=a QOS=q "
    "JobState={state} Reason={reason} Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={code} "
    "RunTime=00:00:03 TimeLimit=UNLIMITED TimeMin=N/A SubmitTime=x EligibleTime=x AccrueTime=x "
    "StartTime={start} EndTime={end} Deadline=N/A SuspendTime=None SecsPreSuspend=0 Partition=main "
    "ReqNodeList=(null) ExcNodeList=(null) NodeList={node} NumNodes=1 Command=/x Comment=NodeList=evil JobState=BAD\n"
)


def test_what_scontrol_shows_is_read_where_there_is_no_accounting() -> None:
    plain = {"array": "", "name": "n", "code": "0:0", "start": BEGAN, "end": ENDED, "node": "n1"}
    stdout = (
        SHOWN.format(**{**plain, "id": "9", "state": "FAILED", "reason": "NonZeroExitCode", "code": "3:0"})
        + SHOWN.format(**{**plain, "id": "10", "state": "RUNNING", "reason": "None", "end": "Unknown"})
        + SHOWN.format(
            **{
                **plain,
                "id": "11",
                "array": "ArrayJobId=11 ArrayTaskId=2-3%2 ArrayTaskThrottle=2 ",
                "name": "we ird JobState=X|y",
                "state": "PENDING",
                "reason": "JobArrayTaskLimit",
                "start": "Unknown",
                "end": "Unknown",
                "node": "",
            }
        )
        + SHOWN.format(
            **{**plain, "id": "12", "array": "ArrayJobId=11 ArrayTaskId=1 ", "state": "CANCELLED", "reason": "Priority"}
        )
    )
    waits = ending(JobState.PENDING, reason="JobArrayTaskLimit")
    ran = {"node": "n1", "started": True, "start": BEGAN}
    assert commands.parse_shown(stdout) == {
        ("9", None): ending(JobState.FAILED, exit_code=3, reason="NonZeroExitCode", end=ENDED, **ran),
        ("10", None): ending(JobState.RUNNING, **ran),
        ("11", 2): waits,
        ("11", 3): waits,
        ("11", 1): ending(JobState.CANCELLED, exit_code=0, end=ENDED, **ran),
    }


# ---- limits, cancelling, throttling

CONFIG = """Configuration data as of 2026-11-23T13:00:00
MaxArraySize            = {size}
MaxDBDMsgs              = 20024
MaxJobCount             = {count}
SchedulerParameters     = {parameters}
"""


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        (CONFIG.format(size=1001, count=10000, parameters="(null)"), Limits(1000, 10000)),
        (CONFIG.format(size=4000001, count=500000, parameters="(null)"), Limits(4000000, 500000)),
        (CONFIG.format(size=0, count=10000, parameters="(null)"), Limits(0, 10000)),
        (CONFIG.format(size=1001, count=10000, parameters="bf_max=3,max_array_tasks=200,defer"), Limits(199, 10000)),
        ("", Limits(1000, 10000)),
    ],
)
def test_limits_are_read_or_slurm_s_defaults(config: str, limits: Limits) -> None:
    assert commands.parse_limits(config) == limits


@pytest.mark.parametrize(
    ("returncode", "stderr", "worked"),
    [
        (0, "", True),
        (1, "scancel: error: Kill job error on job id 9: Invalid job id specified\n", True),
        (1, "scancel: error: Kill job error on job id 9: Job/step already completing or completed\n", True),
        (1, "scancel: error: Kill job error on job id 9: Socket timed out on send/recv operation\n", False),
        (1, "scancel: error: Kill job error on job id 9: Invalid job id specified\nscancel: error: timed out\n", False),
        (1, "", False),
        (None, "", False),
    ],
)
def test_cancelling_what_is_over_is_no_failure(returncode: int | None, stderr: str, worked: bool) -> None:
    assert commands.cancel_worked(returncode, stderr) is worked


@pytest.mark.parametrize(
    ("returncode", "said", "worked"),
    [
        (0, "", True),
        (1, "8_0,3-4,6-90: No error\n8_1: Job has already finished\n", True),
        (1, "Job has already finished for job 9\n", False),
        (1, "Invalid job id specified for job 9\n", False),
        (None, "", False),
    ],
)
def test_a_throttle_that_reached_the_tasks_still_there_has_worked(
    returncode: int | None, said: str, worked: bool
) -> None:
    assert commands.throttle_worked(returncode, said) is worked


# ---- running


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    bucket = Bucket(20, 2.0, clock)
    assert [bucket.take() for _ in range(20)] == [0.0] * 20
    assert [bucket.take() for _ in range(3)] == [0.5, 1.0, 1.5]
    clock.now += 1.5
    assert bucket.take() == 0.5
    clock.now += 3600
    assert [bucket.take() for _ in range(21)] == [0.0] * 20 + [0.5]


def test_the_impatient_go_first_and_the_others_pay() -> None:
    clock = Clock()
    bucket = Bucket(1, 0.1, clock)
    assert bucket.take() == 0.0
    assert bucket.take(patience=2.0) == 2.0
    assert bucket.take() == 20.0


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    clock = Clock()
    bucket = Bucket(1, 1.0, clock)
    bucket.take()
    clock.now -= 50
    assert bucket.take() == 1.0


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def real(name: str, folder: Path) -> None:
    found = shutil.which(name)
    assert found
    (folder / name).symlink_to(found)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a function that installs a command, and the scheduler that finds it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cat", "env"):
        real(name, folder)
    environ = {"PATH": str(folder), "SLURM_JOB_ID": "5", "LANG": "C.UTF-8"}
    return lambda name, text: program(folder, name, text), Slurm(environ)


def test_slurm_is_a_scheduler(site: Site) -> None:
    scheduler: Scheduler = site[1]
    assert scheduler is site[1]


def test_a_login_node_without_sbatch_is_told_apart(site: Site) -> None:
    with pytest.raises(FileNotFoundError):
        site[1].version()
    assert isinstance(site[1].submit(request()), Refused)
    assert site[1].queue() is None
    assert site[1].why({"1": 0.0}) == {("1", UNKNOWN): NOT_FOUND_OUT}
    assert site[1].cancel([("1", None)]) is False
    assert site[1].throttle("1", 2) is False
    assert site[1].limits() is None


def test_the_version_is_slurm_s_whoever_packaged_it(site: Site) -> None:
    install, slurm = site
    install("sbatch", "echo slurm-wlm 22.05.8")
    assert slurm.version() == "slurm 22.05.8"


def test_an_sbatch_that_does_not_work_says_why(site: Site) -> None:
    install, slurm = site
    install("sbatch", "echo 'sbatch: fatal: no configuration' >&2; exit 1")
    with pytest.raises(OSError, match="no configuration"):
        slurm.version()


def test_a_job_is_submitted_without_slurm_s_variables_and_ours(site: Site, tmp_path: Path) -> None:
    install, slurm = site
    install("sbatch", f"env >'{tmp_path}/env'; printf '%s\\n' \"$@\" >'{tmp_path}/argv'; echo '12;big'")
    assert slurm.submit(request(name="ünlikely 'name'")) == Submitted("12")
    variables = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert not variables & {"SLURM_JOB_ID", "SLURM_BITSTR_LEN", "LC_ALL"}
    assert "--job-name=ünlikely 'name'" in (tmp_path / "argv").read_text(encoding="utf-8").splitlines()


def test_a_job_is_found_in_the_queue_by_its_whole_name(site: Site) -> None:
    install, slurm = site
    rows = r"7\0371\037RUNNING\037N/A\037None\037a.sf-1\037c\036\n8\037N/A\037RUNNING\037N/A\037None\037a\037c\036\n"
    install("squeue", f"printf '{rows}'")
    assert slurm.find("a.sf-1") == ["7"]


def test_a_job_that_left_the_queue_is_found_in_the_records(site: Site) -> None:
    install, slurm = site
    install("squeue", "")
    install("sacct", "echo '123_4|a.sf-1'; echo '123_5|a.sf-1'; echo '9|a.sf-11'")
    assert slurm.find("a.sf-1") == ["123"]
    assert slurm.find("nonesuch") == []


@pytest.mark.parametrize(
    ("squeue", "sacct", "found"),
    [
        ("exit 1", "", None),
        ("", "exit 1", None),
        ("exit 1", "exit 1", None),
        ("", "echo 'Slurm accounting storage is disabled' >&2; exit 1", []),
        ("exit 1", "echo 'Slurm accounting storage is disabled' >&2; exit 1", None),
        ("exit 1", "echo '5|x'", ["5"]),
    ],
)
def test_not_found_is_said_only_when_all_that_may_know_have_answered(
    site: Site, squeue: str, sacct: str, found: list[str] | None
) -> None:
    install, slurm = site
    install("squeue", squeue)
    install("sacct", sacct)
    assert slurm.find("x") == found


def test_a_failed_or_garbled_query_is_no_answer(site: Site) -> None:
    install, slurm = site
    install("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert slurm.queue() is None
    install("squeue", r"printf '7\037rubbish\036\n'")
    assert slurm.queue() is None


def test_without_accounting_scontrol_is_asked_and_a_forgotten_job_is_unknown(site: Site, tmp_path: Path) -> None:
    install, slurm = site
    shown = SHOWN.format(
        id="9", array="", name="n", state="FAILED", reason="x", code="3:0", start=BEGAN, end=ENDED, node="n1"
    )
    install("sacct", f"echo x >>'{tmp_path}/asked'; echo 'Slurm accounting storage is disabled' >&2; exit 1")
    script = (
        'if [ "$4" != 9 ]; then echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; fi\n'
        f"cat <<X\n{shown}X\n"
    )
    install("scontrol", script)
    for _ in range(2):
        assert list(slurm.why({"9": 0.0, "10": 0.0}) or {}) == [("9", None)]
    assert (tmp_path / "asked").read_text() == "x\n"


def test_with_the_records_out_of_reach_a_forgotten_job_is_no_answer(site: Site) -> None:
    install, slurm = site
    install("sacct", "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1")
    install("scontrol", f'if [ "$4" = 7 ]; then cat <<X\n{RUNNING}X\nelse {FORGOTTEN}; fi')
    found = slurm.why(dict.fromkeys(("7", "9", "10"), 0.0)) or {}
    assert found.pop(("7", None)).state is JobState.RUNNING
    assert found == {("9", UNKNOWN): NOT_FOUND_OUT, ("10", UNKNOWN): NOT_FOUND_OUT}


def test_a_controller_that_does_not_answer_is_not_asked_for_each_job(site: Site, tmp_path: Path) -> None:
    install, slurm = site
    install("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    install("scontrol", f"echo x >>'{tmp_path}/asked'; {AWAY}")
    found = slurm.why(dict.fromkeys(("7", "9", "10"), 0.0)) or {}
    assert set(found) == {("7", UNKNOWN), ("9", UNKNOWN), ("10", UNKNOWN)}
    assert (tmp_path / "asked").read_text() == "x\n"


def test_the_controller_is_asked_for_a_job_of_which_there_is_no_record(site: Site) -> None:
    install, slurm = site
    install("sacct", f"echo '9|FAILED|1:0|{BEGAN}|{BEGAN}|{ENDED}|n1'")
    install("scontrol", f'if [ "$4" = 7 ]; then cat <<X\n{RUNNING}X\nelse {FORGOTTEN}; fi')
    found = slurm.why(dict.fromkeys(("7", "8", "9"), 0.0)) or {}
    assert {key: it.state for key, it in found.items()} == {("7", None): JobState.RUNNING, ("9", None): JobState.FAILED}
    install("scontrol", AWAY)
    found = slurm.why(dict.fromkeys(("7", "9"), 0.0)) or {}
    assert set(found) == {("7", UNKNOWN), ("9", None)}


def test_a_record_by_which_a_doubted_job_runs_needs_slurmctld_s_word(site: Site) -> None:
    install, slurm = site
    lines = (f"{job}|{state}|0:0|{BEGAN}|{BEGAN}|Unknown|n1" for job, state in JOBS_IN_DOUBT.items())
    install("sacct", f"cat <<X\n{chr(10).join(lines)}\nX\n")
    install("scontrol", f'if [ "$4" = 7 ]; then cat <<X\n{RUNNING}X\nelse {FORGOTTEN}; fi')
    jobs = dict.fromkeys(JOBS_IN_DOUBT, 0.0)

    def states(doubted: set[str]) -> dict[str, JobState | None]:
        return {job_id: it.state for (job_id, _), it in (slurm.why(jobs, doubted) or {}).items()}

    assert states(set()) == JOBS_IN_DOUBT
    assert states({"7", "8", "9"}) == {"7": JobState.RUNNING, "9": JobState.FAILED}
    install("scontrol", AWAY)
    assert {key: it.state for key, it in (slurm.why(jobs, {"8"}) or {}).items()} == {
        ("7", None): JobState.RUNNING,
        ("8", UNKNOWN): None,
        ("9", None): JobState.FAILED,
    }


FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
AWAY = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
RUNNING = SHOWN.format(
    id="7", array="", name="n", state="RUNNING", reason="None", code="0:0", start=BEGAN, end="Unknown", node="n1"
)
JOBS_IN_DOUBT = {"7": JobState.RUNNING, "8": JobState.RUNNING, "9": JobState.FAILED}


def test_a_sacct_without_the_reason_is_asked_without_it(site: Site) -> None:
    install, slurm = site
    install(
        "sacct",
        'case "$*" in *Reason*) echo "sacct: error: Invalid field requested: \\"Reason\\"" >&2; exit 1;; esac\n'
        f"echo '9|TIMEOUT|0:0|{BEGAN}|{BEGAN}|{ENDED}|n1'",
    )
    assert (slurm.why({"9": 0.0}) or {})["9", None].state is JobState.TIMEOUT


def test_many_jobs_are_asked_for_in_several_queries(site: Site, tmp_path: Path) -> None:
    install, slurm = site
    install("sacct", f"echo x >>'{tmp_path}/asked'")
    install("scontrol", FORGOTTEN)
    assert slurm.why(dict.fromkeys(map(str, range(450)), 0.0)) == {}
    assert (tmp_path / "asked").read_text() == "x\n" * 3


def test_commands_wait_for_the_bucket_and_a_cancel_not_for_long(tmp_path: Path) -> None:
    waits: list[float] = []
    slurm = Slurm({"PATH": str(tmp_path)}, clock=Clock(), sleep=waits.append)
    for _ in range(20):
        slurm.queue()
    assert waits == []
    for _ in range(10):
        slurm.queue()
    assert waits == [number / 2 for number in range(1, 11)]
    slurm.cancel([("1", None)])
    assert waits[-1] == 2.0


def test_a_command_that_hangs_is_ended_with_all_it_started(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install, slurm = site
    monkeypatch.setattr("slurmfutures._remote.slurm.SUBMIT_SECONDS", 0.2)
    real("sleep", tmp_path / "bin")
    install("sbatch", "echo 'asking slurmctld' >&2; sleep 600 & wait")
    outcome = slurm.submit(request())
    assert outcome == Unclear("sbatch did not end in time: asking slurmctld")


def test_the_cluster_half_starts_fast_and_alone() -> None:
    # Nothing but `enum` and what `enum` and `typing` need: the batch script's own Python reads this too.
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); import enum, typing; "
        "known = set(sys.modules); import states; print(sorted(set(sys.modules) - known))"
    )
    folder = commands.__file__.rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, folder], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['states']"


# ---- nodes to be left out


@pytest.mark.parametrize(
    ("options", "nodes", "excluded"),
    [
        ((), ("n1", "n[2-3]"), "n1,n[2-3]"),
        (("--exclude=n9",), ("n1",), "n9,n1"),
        (("--exclude=n1",), ("n1",), "n1"),
        (("--exclude=n8", "--exclude=n9"), ("n1",), "n9,n1"),
        (("--exclude=n9",), (), "n9"),
        (("--exclude=/a/file/of/nodes",), ("n1",), "/a/file/of/nodes"),
    ],
)
def test_nodes_are_left_out_beside_those_that_the_user_leaves_out(
    options: tuple[str, ...], nodes: tuple[str, ...], excluded: str
) -> None:
    argv = commands.submit_argv(request(options=("--mem=1G", *options), exclude=nodes))
    assert argv[1] == "--mem=1G"
    assert [word for word in argv if word.startswith("--exclude")][-1] == f"--exclude={excluded}"
