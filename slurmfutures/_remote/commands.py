"""Slurm's commands as text: what to run, and what an answer means. Pure.

Only options and fields are used that have been the same since Slurm 20.11. An answer that cannot be understood is told
apart from one that says no: `Unclear`, None or ValueError, never a guess.
"""

import pwd
import re
import time
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from .scheduler import (
    NOT_FOUND_OUT,
    UNKNOWN,
    Ending,
    Held,
    Limits,
    Outcome,
    Refused,
    Request,
    Row,
    Submitted,
    Unclear,
)
from .states import TERMINAL, JobState, parse_state

Ranges = Tuple[Tuple[int, int], ...]
Records = Dict[Tuple[str, Optional[int]], Ending]
Targets = Iterable[Tuple[str, Optional[Sequence[int]]]]

#: Array tasks that one answer may name one by one.
MOST_LISTED = 100000

#: No array has an index as high as this: the end of a list of tasks that was cut off.
NO_INDEX = 4000001

_ARGV_BYTES = 100000  # of arguments in one command; Linux allows 128 kB for one word and more for all

# Seconds by which slurmctld's time of a submission may be before ours: clocks differ, and are put back in autumn.
_CLOCKS = 2 * 3600.0

# Neither can be typed into a job name or comment by accident; a printable separator can.
_FIELD = "\x1f"
_RECORD = "\x1e"


# ---- what to run


def client_environment(environ: Mapping[str, str]) -> Dict[str, str]:
    """Return `environ` without what would change Slurm's commands, or a job submitted from inside a job.

    SBATCH_PARTITION would overrule the script, SQUEUE_STATES hide jobs, SLURM_CPU_BIND slow down what a job starts.
    Kept are the two that say where the cluster is and who one is there.
    """
    ours = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_")
    kept = ("SLURM_CONF", "SLURM_JWT")
    return {name: value for name, value in environ.items() if name in kept or not name.startswith(ours)}


def query_environment(environ: Mapping[str, str]) -> Dict[str, str]:
    """Return the environment of all commands but sbatch, whose environment becomes the job's."""
    # With the default of 64 bytes squeue cuts long lists of array indices.
    return dict(client_environment(environ), LC_ALL="C", SLURM_BITSTR_LEN="0")


def submit_argv(request: Request) -> List[str]:
    """Return the sbatch command of a request. The user's options come first, so that ours win."""
    argv = ["sbatch", *excluding(request.options, request.exclude), "--parsable"]
    argv += ["--job-name=" + request.name, "--comment=" + request.comment, "--chdir=" + request.chdir]
    patterns = request.patterns
    if patterns is None:
        patterns = _pattern(request.stdout, request.size), _pattern(request.stderr, request.size)
    argv += [option + pattern for option, pattern in zip(("--output=", "--error="), patterns) if pattern]
    if request.array is not None or request.size > 1:
        argv.append(array_option(request.array, request.size, request.throttle))
    return [*argv, request.script, *request.arguments]


def excluding(options: Sequence[str], nodes: Sequence[str]) -> List[str]:
    """Return the options with more nodes excluded. A file of nodes, which cannot be joined with a list, is left as is.

    Of several `--exclude` sbatch takes the last.
    """
    mark = "--exclude="
    given = [option[len(mark) :] for option in options if option.startswith(mark)][-1:]
    if not nodes or (given and "/" in given[0]):
        return list(options)
    return [*options, mark + ",".join([*given, *(node for node in nodes if node not in given)])]


def array_option(indices: Optional[str], size: int, throttle: Optional[int]) -> str:
    """Return "--array=0-99%8": those indices, or 0 to size - 1; `throttle` of the tasks at once."""
    bound = "" if throttle is None or throttle >= size else f"%{throttle}"
    return f"--array={indices or f'0-{size - 1}'}{bound}"


def _pattern(path: str, size: int) -> str:
    """Return `path` as sbatch's file name pattern, in which "%a" in the file's own name is all that is replaced."""
    folder, slash, name = path.rpartition("/")
    # A plain job has no index; Slurm would write 4294967294 for it.
    index = "%a" if size > 1 else "0"
    return folder.replace("%", "%%") + slash + index.join(part.replace("%", "%%") for part in name.split("%a"))


def queue_argv() -> List[str]:
    """Return the one query that lists this user's jobs: the only filter that slurmctld itself applies is the user."""
    fields = _FIELD.join(("%F", "%K", "%T", "%e", "%r", "%j", "%k"))
    return ["squeue", "--me", "--noheader", "--states=all", "--format=" + fields + _RECORD]


def records_argv(job_ids: Sequence[str], user: int, with_reason: bool) -> List[str]:
    """Return the sacct command for what is recorded of jobs.

    Without --duplicates sacct gives the newest of several records with one id; a requeued job has one for every run.
    """
    fields = "JobID,State,ExitCode,Submit,Start,End,NodeList" + (",Reason" if with_reason else "")
    # Without --user a job id that was used before, by somebody else, would answer too.
    who = f"--user={user}"
    return ["sacct", "-X", "-P", "-n", who, "--format=" + fields, "--jobs=" + ",".join(job_ids)]


def named_argv(name: str, user: int, days: int) -> List[str]:
    """Return the sacct command that lists this user's jobs called `name`, of the last `days` days, or all of them."""
    # Without --user root would be shown everybody's.
    argv = ["sacct", "-X", "-P", "-n", f"--user={user}", f"--starttime=now-{days}days", "--format=JobID,JobName"]
    # sacct takes a list of names: one with a comma, or in quotes, cannot be asked for.
    if re.fullmatch(r"[\w.:@%+=-]+", name, re.ASCII):
        argv.append("--name=" + name)
    return argv


def cancel_argvs(targets: Targets, limit: int = _ARGV_BYTES) -> List[List[str]]:
    """Return as few scancel commands as will do, each with at most `limit` bytes of arguments."""
    commands: List[List[str]] = []
    room = 0
    for word in _cancel_words(targets, limit):
        if len(word) >= room:
            commands.append(["scancel"])
            room = limit
        commands[-1].append(word)
        room -= len(word) + 1
    return commands


def _cancel_words(targets: Targets, limit: int) -> Iterator[str]:
    whole = set()
    tasks: Dict[str, List[int]] = {}
    for job_id, indices in targets:
        if indices is None:
            whole.add(job_id)
        else:
            tasks.setdefault(job_id, []).extend(indices)
    for job_id in sorted(whole, key=numeric_order):
        yield job_id
    for job_id in sorted(set(tasks) - whole, key=numeric_order):
        for expression in index_expressions(tasks[job_id], limit - len(job_id) - len("_[] ")):
            yield f"{job_id}_[{expression}]"


def numeric_order(job_id: str) -> Tuple[int, str]:
    """Return a key that sorts job ids as numbers."""
    return len(job_id), job_id


def index_expressions(indices: Iterable[int], limit: int) -> Iterator[str]:
    """Yield `indices` as "1-3,7" in pieces of at most `limit` bytes; nothing for no indices."""
    piece: List[str] = []
    length = 0
    for first, last in compress(indices):
        word = str(first) if first == last else f"{first}-{last}"
        if piece and length + len(word) > limit:
            yield ",".join(piece)
            piece, length = [], 0
        piece.append(word)
        length += len(word) + 1
    if piece:
        yield ",".join(piece)


def compress(indices: Iterable[int]) -> Ranges:
    """Return ranges, both ends included, in order, of the indices."""
    ranges: List[Tuple[int, int]] = []
    for index in sorted(set(indices)):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return tuple(ranges)


# ---- what an answer means

_JOB_ID = re.compile(
    r"^[ \t]*(?:Submitted batch job )?([1-9][0-9]{0,9})(?:;\S+| on cluster \S+)?[ \t]*\r?$", re.MULTILINE
)


def _any_of(*phrases: str) -> "re.Pattern[str]":
    return re.compile("|".join(phrases), re.IGNORECASE)


# A communication failure, where slurmctld may have accepted the job before the answer got lost, or another passing
# fault of the machine: nothing that says no to this job. From slurm_errno.c, and errno(3) for what it passes on.
_UNCLEAR = _any_of(
    "unable to contact slurm controller",
    "(socket|connection|operation) timed out",
    "zero bytes were transmitted",
    "unexpected message received",
    "unexpected missing socket",
    "connection (aborted|failure|forced|refused|rejected|reset)",
    "(message (send|receive)|communication (connection|shutdown)) failure",
    "insane message length",
    "incompatible versions of client and server",
    "protocol authentication error",
    "munge",
    "standby mode",
    "shutting down",
    "configuration (file|source)",
    "failed to (initialize|load)",
    "broken pipe",
    "host is down",
    "interrupted system call",
    "name resolution",
    "network is unreachable",
    "no route to host",
    "transport endpoint",
    "cannot allocate memory",
    "resource temporarily unavailable",
    "too many open files",
)

# slurmctld is full, this user may have no more jobs in it, or this user asks too often. All of that passes.
_HELD = _any_of(
    r"(?P<limit>\w*(Max|Grp)SubmitJobs?\w*)",
    "temporarily unable to accept job",
    "job queue full",
    "job creation temporarily disabled",
    "MaxJobCount limit",
    "unable to create job record",
    "rate limit exceeded",
    "requested nodes are busy",
)

# What sbatch says at last after it found the queue full, and waited, and found it full again.
_AGAIN = "Resource temporarily unavailable"

#: What sacct says where it will never answer, or not to this user.
NO_ACCOUNTING = _any_of(
    "accounting storage is disabled",
    "not running a supported accounting_storage plugin",
    "permission denied",
    "access denied",
)

#: What is said of a job that is over, or that slurmctld has forgotten.
OVER = _any_of("invalid job id", "already completing or completed", "already (completed|finished)")


def parse_job_id(stdout: str) -> Optional[str]:
    """Return the job id that sbatch printed, "123" or "123;cluster", whatever a site prints around it."""
    found = _JOB_ID.findall(stdout)
    return found[-1] if found else None


def classify(returncode: Optional[int], stdout: str, stderr: str) -> Outcome:
    """Return what became of a submission; `returncode` is None where sbatch was stopped at its time limit.

    A refusal says no in so many words. A limit on submitted jobs is named by slurmctld since before 20.11, so the
    sentence "Job violates accounting/QOS policy" without such a name is about the size of the job, or comes from a
    plugin of the site: waiting would not help. Everything that does not say no clearly is Unclear.
    """
    message = words(stderr) or words(stdout)
    if returncode == 0:
        job_id = parse_job_id(stdout)
        return Submitted(job_id) if job_id else Unclear("sbatch printed no job id: " + (message or "nothing at all"))
    if returncode is None:
        return Unclear(_join("sbatch did not end in time", message))
    if returncode < 0 or 128 < returncode <= 192:  # the latter from a shell around sbatch; sbatch itself has 1 and 255
        return Unclear(_join(f"sbatch was ended by signal {abs(returncode) % 128}", message))
    if parse_job_id(stdout):
        return Unclear(_join("sbatch printed a job id and failed", message))
    full = _HELD.search(message)
    if full and (full["limit"] or not _UNCLEAR.search(_HELD.sub("", message.replace(_AGAIN, "")))):
        return Held(message)
    if _UNCLEAR.search(message) or not message:
        return Unclear(message or f"sbatch failed without a word, exit code {returncode}")
    return Refused(message)


def _join(what: str, message: str) -> str:
    return f"{what}: {message}" if message else what


def words(text: str, limit: int = 2000) -> str:
    """Return what a command said, in one line of at most `limit` characters, without the marks before each line."""
    lines = (re.sub(r"^\s*s(batch|queue|acct|control|cancel): (error: |fatal: )?", "", x) for x in text.splitlines())
    return "; ".join(filter(None, (line.strip() for line in lines)))[-limit:]


def parse_ranges(text: str, most: int = MOST_LISTED) -> Ranges:
    """Return the ranges of array indices in "1,3,5-7", "4-90%8" or "0-8:2"; ValueError for anything else.

    A list that Slurm cut off with "..." goes on to NO_INDEX: what is not shown counts as listed, not as gone. For the
    same reason ranges with a step, of more than `most` indices in all, are read as if they had none.
    """
    parts, cut = _parts(text)
    exact = sum(len(part) for part in parts if part.step > 1) <= most
    ranges: List[Tuple[int, int]] = []
    for part in parts:
        if part.step > 1 and exact:
            ranges.extend((index, index) for index in part)
        else:
            ranges.append((part.start, part.stop - 1))
    if cut:
        ranges.append((ranges[-1][1] + 1 if ranges else 0, NO_INDEX))
    if not ranges:
        raise ValueError(f"no array indices: {text[:100]!r}")
    return tuple(ranges)


_RANGE = re.compile("([0-9]{1,10})(?:-([0-9]{1,10})(?::([0-9]{1,10}))?)?")


def _parts(text: str) -> Tuple[List[range], bool]:
    """Return what a list of array indices names, and whether Slurm cut it off; ValueError where it is none."""
    text, _, _ = text.strip("[] ").partition("%")
    cut = text.endswith("...")
    words = text.rstrip(".").split(",")
    if cut:
        words.pop()  # the last may have lost digits
    parts = []
    for word in filter(None, words):
        match = _RANGE.fullmatch(word)
        if match is None:
            raise ValueError(f"not a list of array indices: {text[:100]!r}")
        first = int(match[1])
        parts.append(range(first, int(match[2] or first) + 1, int(match[3] or 1) or 1))
    return parts, cut


# The beginning of a record, behind whatever a site prints before it. What is left of it are name and comment.
_ROW = re.compile(r"^([0-9]{1,10})\x1f([^\x1f\n]*)\x1f([^\x1f\n]*)\x1f([^\x1f\n]*)\x1f([^\x1f]*)\x1f", re.MULTILINE)


def parse_queue(stdout: str) -> List[Row]:
    """Return the rows of squeue's answer; ValueError where a record of it cannot be read."""
    rows = []
    left = MOST_LISTED
    for record in re.split(r"\x1e(?:\n|\Z)", stdout)[:-1]:
        row = _ROW.search(record)
        if row is None:
            raise ValueError("squeue printed a record that cannot be read")
        job_id, tasks, state, end, reason = row.groups()
        name, separator, comment = record[row.end() :].partition(_FIELD)
        if not separator or _FIELD in comment:
            name = comment = ""  # not one of ours, and no telling where the one ends
        indices = None if tasks == "N/A" else parse_ranges(tasks, left)
        left -= 0 if indices is None else max(len(indices) - tasks.count(",") - 1, 0)
        rows.append(
            Row(
                job_id,
                indices,
                parse_state(state),
                _given(reason),
                name,
                _given(comment),
                _seconds(end),
            )
        )
    return rows


def _given(text: str) -> str:
    """Return "" for the words with which Slurm says that there is nothing."""
    return "" if text in ("(null)", "None", "N/A", "Unknown", "None assigned") else text


def parse_records(stdout: str, since: Mapping[str, float]) -> Records:
    """Return what sacct printed, the newest record of each job; lines that are no record are passed over.

    `since` has when jobs were submitted, by our clock: what was submitted long before is another job with the same id.
    Of arrays with more than MOST_LISTED tasks in one record, or in all, it could not be found out.
    """
    newest: Dict[Tuple[str, Optional[int]], Tuple[str, Ending]] = {}
    left = MOST_LISTED
    for line in stdout.splitlines():
        fields = line.split("|")
        if len(fields) < 7:
            continue
        submitted = _given(fields[3])
        ending = _ending(fields[1], fields[2], fields[4], fields[5], fields[6], fields[7] if len(fields) > 7 else "")
        if ending.started:
            ending = ending._replace(reason="")  # to sacct it is why the job waited, not how it ended
        when = _seconds(submitted)
        keys = job_keys(fields[0], left)
        left -= len(keys) - 1 if keys else 0
        for key in keys:
            if when is not None and when < since.get(key[0], 0.0) - _CLOCKS:
                continue
            if key[1] == UNKNOWN:
                newest[key] = (submitted, NOT_FOUND_OUT)
            elif key not in newest or newest[key][0] <= submitted:
                newest[key] = (submitted, ending)
    return {key: ending for key, (_, ending) in newest.items()}


def _seconds(text: str) -> Optional[float]:
    """Return a time of Slurm's as seconds since the epoch, None where it is none."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None


def job_keys(job: str, most: int = MOST_LISTED) -> List[Tuple[str, Optional[int]]]:
    """Return the jobs that "123", "123_4" or "123_[5-9]" stands for; none for a part of a heterogeneous job.

    More than `most` are UNKNOWN.
    """
    match = re.fullmatch(r"([0-9]{1,10})(?:_([0-9]{1,10})|_\[(.*)\])?", job)
    if match is None:
        return []
    if match[2]:
        return [(match[1], int(match[2]))]
    if not match[3]:
        return [(match[1], None)]
    try:
        parts, _ = _parts(match[3])
    except ValueError:
        return []
    if sum(map(len, parts)) > most:
        return [(match[1], UNKNOWN)]
    return [(match[1], index) for part in parts for index in part]


def _ending(state: str, code: str, start: str, end: str, nodes: str, reason: str) -> Ending:
    known = parse_state(state)
    exit_code: Optional[int] = None
    number: Optional[int] = None
    match = re.fullmatch("([0-9]{1,10}):([0-9]{1,10})", code)
    if match and known in TERMINAL:
        exit_code, number = int(match[1]), int(match[2]) or None
        if number and not exit_code:
            exit_code = None
    by = state.split(" by ", 1)[1].strip() if known is JobState.CANCELLED and " by " in state else ""
    if known is JobState.CANCELLED and not reason.startswith("Dependency"):
        reason = ""  # why it had to wait, before somebody cancelled it
    # A job cancelled before it ran has a start time too, that of its end. It has no node.
    node = _given(nodes)
    return Ending(known, exit_code, number, node, _given(reason), bool(node), _user(by), _given(start), _given(end))


def _user(name: str) -> str:
    """Return the name of a user id, or what was given."""
    try:
        return pwd.getpwuid(int(name)).pw_name
    except (ValueError, KeyError, OverflowError):
        return name


# A job's name and comment may hold anything, these too; the fields that are read stand on either side of them. Each is
# looked for behind the one before.
_SHOWN_JOB = re.compile(r"JobId=([0-9]{1,10}) (?:ArrayJobId=([0-9]{1,10}) ArrayTaskId=(\S+) )?")
_SHOWN_FIELDS = (
    re.compile(r" JobState=(\S+) Reason="),
    re.compile(r" Dependency="),
    re.compile(r" ExitCode=(\S+) "),
    re.compile(r" StartTime=(\S+) EndTime=(\S+) "),
    re.compile(r" NodeList=(\S*)"),
)


def parse_shown(stdout: str) -> Records:
    """Return what `scontrol --oneliner show job` printed."""
    found: Records = {}
    left = MOST_LISTED
    for line in stdout.split("\n"):
        job = _SHOWN_JOB.match(line)
        fields = _shown_fields(line, job.end() - 1) if job is not None else None
        if job is None or fields is None:
            continue
        ending = _ending(*fields)
        keys = job_keys(job[1] if job[3] is None else f"{job[2]}_[{job[3]}]", left)
        left -= len(keys) - 1 if keys else 0
        found.update((key, ending if key[1] != UNKNOWN else NOT_FOUND_OUT) for key in keys)
    return found


def _shown_fields(line: str, at: int) -> Optional[Tuple[str, str, str, str, str, str]]:
    """Return state, exit code, start, end, nodes and reason; None where one of them is missing."""
    found = []
    for field in _SHOWN_FIELDS:
        match = field.search(line, at)
        if match is None:
            return None
        found.append(match)
        at = match.end() - 1
    state, dependency, code, times, nodes = found
    return state[1], code[1], times[1], times[2], nodes[1], line[state.end() : dependency.start()]


def parse_limits(stdout: str) -> Limits:
    """Return the limits in the answer of `scontrol show config`, Slurm's own defaults for what it does not say."""

    def number(pattern: str, default: int) -> int:
        match = re.search(pattern, stdout, re.MULTILINE)
        return int(match[1]) if match else default

    size = number(r"^MaxArraySize\s*=\s*([0-9]{1,10})", 1001)
    tasks = number(r"^SchedulerParameters\s*=.*\bmax_array_tasks=([0-9]{1,10})", size)
    return Limits(max(min(size, tasks) - 1, 0), number(r"^MaxJobCount\s*=\s*([0-9]{1,10})", 10000))


def cancel_worked(returncode: Optional[int], stderr: str) -> bool:
    """Tell whether nothing is left to cancel: that a job is over already is no failure."""
    if returncode == 0:
        return True
    said = [line for line in stderr.splitlines() if line.strip()]
    return returncode is not None and bool(said) and all(OVER.search(line) for line in said)


def throttle_worked(returncode: Optional[int], said: str) -> bool:
    """Tell whether the bound was set: where some tasks are over already, scontrol fails and has set it for the rest."""
    return returncode == 0 or (returncode is not None and re.search(r": No error$", said, re.MULTILINE) is not None)
