"""What Slurm's commands print."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st

from slurmfutures._remote import commands, states, times
from tests.fuzz.harness import Parser

T = TypeVar("T")

_QUEUE = [
    b"7\x1f0-3,5%2\x1fPENDING\x1f2026-01-01T00:00:00\x1fPriority\x1fsim.sf-ab.0\x1fsf:ab.0\x1e\n",
    b"motd\n8\x1fN/A\x1fRUNNING\x1fN/A\x1fNone\x1ff\x1f(null)\x1e\n9\x1f7\x1fCOMPLETED\x1fUnknown\x1fNone\x1fa\x1fb\x1e\n",
    b"8\x1f1-9:2,...\x1fPENDING\x1fN/A\x1f(a reason\nof two lines)\x1ff\x1f(null)\x1e\n",
]
_RECORDS = [
    (
        b"7_1|COMPLETED|0:0|2026-01-01T00:00:00|2026-01-01T00:00:00|2026-01-01T00:00:00|n1|None\n"
        b"7_[2-9]|PENDING|0:0|2026-01-01T00:00:00|Unknown|Unknown|None assigned|Priority\n"
    ),
    b"8|CANCELLED by 1000|0:15|2026-01-01T00:00:00|2026-01-01T00:00:00|2026-01-01T00:00:00|None assigned\n",
    b"8+1|OUT_OF_ME+|0:125|x|y|z|n[1-4]|\n",
]
_SHOWN = [
    (
        b"JobId=7 ArrayJobId=5 ArrayTaskId=2-4 JobName=f UserId=me(1) JobState=FAILED Reason=NonZeroExitCode "
        b"Dependency=(null) Requeue=1 ExitCode=1:0 RunTime=00:00:01 StartTime=2026-01-01T00:00:00 "
        b"EndTime=2026-01-01T00:00:00 Deadline=N/A Partition=cpu NodeList=n1 BatchHost=n1\n"
    ),
    (
        b"JobId=7 JobName=f JobState=RUNNING Reason=None Dependency=(null) ExitCode=0:0 RunTime=1 "
        b"StartTime=2026-01-01T00:00:00 EndTime=Unknown Deadline=N/A ReqNodeList=(null) NodeList=n[1-2]\n"
    ),
]
_CONFIG = [
    (
        b"MaxArraySize            = 1001\nMaxJobCount             = 10000\n"
        b"SchedulerParameters     = bf_continue,max_array_tasks=500\n"
    ),
    b"",
]
_SAID = [
    b"Submitted batch job 7\n",
    b"7;cluster\n",
    b"sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n",
    b"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: ...\n",
    b"sbatch: error: Batch job submission failed: Invalid partition name specified\n",
]
_MANY = 64 << 20  # bytes of memory for MOST_LISTED array tasks
_RANGES = [b"1,3,5-7", b"4-90%8", b"0-8:2", b"[1-3]", b"1,2,..."]
_CUT = b"1\x1fa\x1fb\x1fc\x1fd\x1f"
_WIDE = b"0-3999999"
_STEPPED = b"0-3999999:2"


def text(parse: Callable[[str], T]) -> Callable[[bytes, Path], T]:
    """Return a parser of text as one of what a command printed."""
    return lambda data, folder: parse(data.decode("utf-8", "replace"))


def _records(said: str) -> object:
    found = commands.parse_records(said, {"7": 1e9})
    assert all(job.isascii() and job.isdigit() and len(job) < 20 for job, _ in found)
    return found


def _queue(said: str) -> object:
    rows = commands.parse_queue(said)
    assert all(row.job_id.isascii() and row.job_id.isdigit() and len(row.job_id) < 20 for row in rows)
    return rows


def _classify(said: str) -> object:
    code = (None, 0, 1, -9, 137)[len(said) % 5]
    commands.classify(code, said, said)
    commands.cancel_worked(code, said)
    commands.throttle_worked(code, said)
    found = commands.parse_job_id(said)
    assert found is None or (found.isascii() and found.isdigit() and len(found) < 20)
    return found


@st.composite
def _lines(draw: st.DrawFn, separator: str, end: str, fields: int) -> bytes:
    """Return lines of fields that look right one by one."""
    words = st.sampled_from(
        "7 7_1 7_[0-9] 7_[0-3999999] 7_[0-3999999:2] 8+0 N/A None Unknown PENDING RUNNING COMPLETED CANCELLED F 0:0 "
        "0:15 9:9:9 2026-01-01T00:00:00 0001-01-01T00:00:00 9999-12-31T23:59:60 n[1-4] 1-3 "
        "1-3:2 1-0 1-3:0 \u00b2 \u0663 5-... "
        "4294967294 99999999999999999999 CANCELLED\u2028by Dependency (null)".split()
    )
    rows = draw(st.lists(st.lists(words, min_size=fields - 1, max_size=fields + 1), max_size=5))
    return "".join(separator.join(row) + end for row in rows).encode()


PARSERS = (
    Parser(
        "_remote.commands:parse_queue",
        text(_queue),
        _QUEUE,
        (ValueError,),
        _lines("\x1f", "\x1e\n", 7),
        repeated=[
            b"1\x1fa\x1fb\x1fc\x1fd\x1f\n",
            b"1\x1fa\x1fb\x1fc\x1fd\x1f",
            b"1\x1f",
            b"1\x1f" + _STEPPED + _QUEUE[0][9:],
        ],
        tokens=[b"\x1f", b"\x1e\n", _WIDE, _STEPPED],
        memory=_MANY,
    ),
    Parser(
        "_remote.commands:parse_records",
        text(_records),
        _RECORDS,
        (),
        _lines("|", "\n", 8),
        repeated=[b"7_[0-99999]" + _RECORDS[1][1:], b"7_[" + _WIDE + b"]" + _RECORDS[1][1:]],
        tokens=[b"|", b"_[", _WIDE, _STEPPED, b"7_[0-99999]"],
        memory=_MANY,
    ),
    Parser(
        "_remote.commands:parse_shown",
        text(commands.parse_shown),
        _SHOWN,
        (),
        repeated=[
            b" JobState=F Reason=N Dependency=",
            b" ExitCode=0:0 ",
            b" JobState=F Reason=N Dependency=x ExitCode=0:0 x StartTime=a EndTime=b x",
            b"JobId=1 \n",
            b"JobId=7 ArrayJobId=5 ArrayTaskId=1 ",
        ],
        tokens=[_WIDE, _STEPPED, b" NodeList=", b" ArrayTaskId=", b" JobState="],
        memory=_MANY,
    ),
    Parser(
        "_remote.commands:parse_limits",
        text(commands.parse_limits),
        _CONFIG,
        repeated=[b"SchedulerParameters =", b"max_array_tasks", b"SchedulerParameters = max_array_tasks=\n"],
        tokens=[b"MaxArraySize = ", b"max_array_tasks="],
    ),
    Parser(
        "_remote.commands:classify",
        text(_classify),
        _SAID,
        repeated=[b"sbatch: error: ", b" ", b"\t\n", b"Submitted batch job ", b"x" * 50, b"MaxSubmitJob", b"a_Max"],
        tokens=[b"Submitted batch job ", b"Resource temporarily unavailable"],
    ),
    Parser(
        "_remote.commands:parse_ranges",
        text(commands.parse_ranges),
        _RANGES,
        (ValueError,),
        repeated=[b"1,", b"1-2,", _STEPPED + b",", b"1-", b"1:"],
        tokens=[_WIDE, _STEPPED, b"%", b"..."],
        memory=_MANY,
    ),
    Parser(
        "_remote.commands:job_keys",
        text(lambda said: list(commands.job_keys(said))),
        [b"123", b"123_4", b"123_[5-9]"],
        (ValueError,),
        tokens=[b"7_[" + _WIDE + b"]", b"7_[" + _STEPPED + b"]"],
        memory=_MANY,
    ),
    Parser(
        "_remote.states:parse_state", text(states.parse_state), [b"PENDING", b"CANCELLED by 7", b"OUT_OF_ME+", b"CD"]
    ),
    Parser(
        "_remote.times:parse_time",
        text(times.parse_time),
        [b"1-02:03:04", b"10", b"1:2", b"INFINITE"],
        (ValueError,),
        tokens=[b"0", b":", b"-"],
    ),
)
