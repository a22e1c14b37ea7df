"""Where things lie in `work_dir`, and how they are put there.

    code/<hash>/                 the shipped source, cloudpickle beside it
    batches/<batch>/calls        the batch: functions once, arguments of each call (`payload.pack_batch`)
    batches/<batch>/batch.json   how it is to be submitted
    batches/<batch>/script.sh    what the scheduler runs
    batches/<batch>/own          the user's own script, where that is what it is about
    batches/<batch>/session      whose it is, where that is not the driver any more that made it
    batches/<batch>/parts.jsonl  what was submitted: an intent before each submission, the job id after it
    batches/<batch>/<part>/r/    what the array tasks of a part publish, by array index
    batches/<batch>/<part>/l/    their stdout and stderr, by array index
    batches/<batch>/<part>/w/    the same of the workers of pilots
    pilots/<session>/<pool>/     what pilots and agents of a pool have to do with each other, see `pool_files`
    sessions/<session>           which agent serves a driver, see `succession`
    id                           a name that was made up for this work_dir

In r/ the task with array index 7 leaves `7.c` (its claim, made with O_EXCL), `7.0.1.p` (first results of run 0),
`7.r` (its last results: the task is done) and, where it ended without those, `7.0.x` (how run 0 ended). Of a user's own
script that reached its end `7.r` says how, in the same words.
"""

import contextlib
import json
import os
import re
import shutil
import time
import zlib
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Union

from . import entries, ids, payload, trust
from .incoming import Incoming
from .publish import FINAL, PARTIAL, publish
from .wire import Buffer

_ID_SIZE = 100  # bytes
_REMOVALS = 25  # tries
CLAIM = "c"
END = "x"
_PUBLISHED = re.compile(
    r"(%(n)s)(?:\.(%(n)s)(\.%(n)s)?)?\.([%(kinds)s])" % {"n": ids.NUMBER, "kinds": CLAIM + FINAL + END + PARTIAL}
)
_WORKER_LOG = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,10})\.out")
_SHORT = {CLAIM: (True, True), FINAL: (True, True), END: (False, True), PARTIAL: (False, False)}  # without run, number
_MOST_WORDS = 4096  # bytes of a claim, or of how a task has ended


def identify(work_dir: str) -> str:
    """Return the name of a work_dir, by which a client knows it again, whatever path it has. Raises OSError."""
    path = os.path.join(work_dir, "id")
    try:
        os.utime(path)  # what is old may be cleared away by the site
    except FileNotFoundError:
        temporary = "%s.%s.%d" % (path, os.uname().nodename, os.getpid())
        with open(trust.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(os.urandom(6).hex().encode())
        try:
            os.link(temporary, path)  # the first one's counts
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.rename(temporary, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return read_id(work_dir)


def read_id(work_dir: str) -> str:
    """Return the name of a work_dir, "" where it has none. Raises OSError, and ValueError where it is damaged."""
    path = os.path.join(work_dir, "id")
    try:
        found = trust.read(path, _ID_SIZE, closed=False).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    if not ids.is_batch(found):
        raise ValueError("%s is damaged: remove it" % path)
    return found


def make_folder(path: str) -> None:
    """Make a folder that nobody else can write to, or check the one that is there. Raises Untrusted, OSError.

    Those that it is in may be older, and open to a group: work_dir itself lets nobody in.
    """
    parent = os.path.dirname(path)
    os.makedirs(parent, 0o700, exist_ok=True)
    trust.check_folder(parent, closed=False)
    trust.make_folder(path)


class Name(NamedTuple):
    """A published file's name, taken apart."""

    text: str
    task: int  # array index
    run: int  # how often the scheduler had requeued the job before
    kind: str


def parse_name(text: str) -> Optional[Name]:
    """Take a name in r/ apart; None for what is not a published file, or not yet."""
    match = _PUBLISHED.fullmatch(text)
    if match is None:
        return None
    task, run, number, kind = match.groups()
    if (run is None, number is None) != _SHORT[kind]:
        return None
    return Name(text, int(task), int(run or 0), kind)


def worker_name(run: int, number: int) -> str:
    """Return the name of a pilot's worker: the run of its job, and its number there."""
    return "%d-%d" % (run, number)


def end_name(task: int, run: int) -> str:
    return "%d.%d.%s" % (task, run, END)


class Batch:
    """A batch's folder."""

    def __init__(self, work_dir: str, batch: str) -> None:
        """Raises ValueError for what is not the id of a batch."""
        self.id = ids.batch(batch)
        self.path = os.path.join(work_dir, "batches", batch)
        self.calls = os.path.join(self.path, "calls")
        self.script = os.path.join(self.path, "script.sh")
        self.own = os.path.join(self.path, "own")
        self.parts = os.path.join(self.path, "parts.jsonl")

    def create(self, spec: Any, script: str, calls: Union[Buffer, Incoming]) -> None:
        """Write the batch; batch.json comes last and says that the rest is whole. Raises OSError, leaving nothing.

        A user's own script travels as the batch's function.
        """
        make_folder(self.path)
        try:
            if isinstance(calls, Incoming):
                calls.move_to(os.path.join(self.path, "calls"))
            else:
                publish(self.path, "calls", [calls])
            if spec.get("script") is not None:
                file = payload.BatchFile(self.calls)
                publish(self.path, "own", [file.function(0)])
                file.close()
            publish(self.path, "script.sh", [script.encode("utf-8", "surrogateescape")])
            publish(self.path, "batch.json", [json.dumps(spec).encode()])
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def spec(self) -> Any:
        """Return how the batch is to be submitted, None where it is not (wholly) here.

        Raises Untrusted where another account could have written it, OSError, ValueError where it is damaged.
        """
        try:
            trust.check_folder(self.path)
            words = entries.document(_whole(os.path.join(self.path, "batch.json")))
        except FileNotFoundError:
            return None
        entries.check_spec(words, self.id)
        return words

    def check(self) -> None:
        """Raise Untrusted where another account could have changed what the batch's jobs run."""
        trust.check_folder(self.path)
        for path in (self.script, self.calls, self.own):
            with contextlib.suppress(FileNotFoundError):
                os.close(trust.open_file(path))

    def owner(self, spec: Any) -> str:
        """Return the session whose batch it is, "" where its files do not say."""
        try:
            session: Any = trust.read(os.path.join(self.path, "session"), _MOST_WORDS).decode("ascii", "replace")
        except OSError:
            session = spec.get("session")
        return session if ids.is_session(session) else ""

    def adopt(self, session: str) -> None:
        """Make it the batch of another session."""
        publish(self.path, "session", [session.encode()])

    def record(self, entry: Any) -> None:
        """Append an entry to parts.jsonl, on disk when this returns."""
        handle = trust.open_file(self.parts, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(handle, b"\n" + json.dumps(entry).encode() + b"\n")  # not behind a torn line
            os.fsync(handle)
        finally:
            os.close(handle)

    def entries(self) -> Iterator[Any]:
        """Yield the entries of parts.jsonl; a torn line is left out. Raises OSError, ValueError."""
        with contextlib.suppress(FileNotFoundError):
            yield from entries.lines(_whole(self.parts))

    def remove(self) -> None:
        """Clear the batch away. May take seconds: a job that was just cancelled may still be writing its end."""
        for _ in range(_REMOVALS):
            shutil.rmtree(self.path, ignore_errors=True)
            if not os.path.exists(self.path):
                return
            time.sleep(0.2)

    def part(self, number: int) -> "Part":
        return Part(os.path.join(self.path, str(number)))


class Part:
    """The folder of one submission of a batch."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.results = os.path.join(path, "r")
        self.logs = os.path.join(path, "l")
        self.workers = os.path.join(path, "w")
        self._checked = False  # that nobody else can put files into r/

    def create(self) -> None:
        make_folder(self.path)
        for folder in (self.results, self.logs):
            trust.make_folder(folder)

    def published(self) -> List[str]:
        """Return the names in r/: one listing. Raises Untrusted where others can put files there, OSError."""
        if not self._checked:
            trust.check_folder(self.results)
            self._checked = True
        return os.listdir(self.results)

    def read(self, name: str, most: int = 1 << 62, *, closed: bool = True) -> Optional[bytes]:
        """Return what a published file holds, None if that is more than `most` bytes.

        What bash has written is as open as the job's umask made it: then `closed` is False. Raises Untrusted, OSError.
        """
        with trust.open_reader(os.path.join(self.results, name), closed) as file:
            return file.read() if os.fstat(file.fileno()).st_size <= most else None

    def is_earlier(self, name: str, epoch: Optional[float]) -> bool:
        """Whether a published file was written before `epoch`, by the file system's clock."""
        if epoch is None:
            return False
        try:
            return os.lstat(os.path.join(self.results, name)).st_mtime <= epoch
        except OSError:
            return False

    def owner(self, task: int) -> str:
        """Return the id of the job, or of the array, that has claimed a task; "" where that is not known."""
        try:
            data = trust.read(os.path.join(self.results, "%d.%s" % (task, CLAIM)), _MOST_WORDS, closed=False)
        except OSError:
            return ""
        job = data.decode("ascii", "replace").partition(" ")[0].strip()
        return job if ids.is_job(job) else ""

    def owners(self) -> List[str]:
        """Return the id of a job that has claimed a task, if there is one."""
        try:
            claims = [name for name in map(parse_name, self.published()) if name is not None and name.kind == CLAIM]
        except OSError:
            return []
        return [owner for owner in (self.owner(claim.task) for claim in claims[:10]) if owner][:1]

    def source(self, name: str, then: Callable[[bool], None]) -> "ResultSource":
        """Return a large result file as the body of a frame; `then` is told whether it was whole."""
        return ResultSource(os.path.join(self.results, name), then)

    def log(self, task: int, stream: str, worker: str = "") -> str:
        """Return the path of a task's "out" or "err", or that of one of its workers, if it is a pilot."""
        if stream not in ("out", "err") or (worker and not ids.is_worker(worker)):
            raise ValueError("there is no log %.80r of a worker %.80r" % (stream, worker))
        if worker:
            return os.path.join(self.workers, "%d-%s.%s" % (task, worker, stream))
        return os.path.join(self.logs, "%d.%s" % (task, stream))

    def workers_of(self, task: int) -> List[str]:
        """Return the names of a pilot's workers, oldest first; nothing where it is none."""
        try:
            names = os.listdir(self.workers)
        except OSError:
            return []
        found = [match for match in map(_WORKER_LOG.fullmatch, names) if match is not None and int(match[1]) == task]
        return [worker_name(*place) for place in sorted((int(match[2]), int(match[3])) for match in found)]


class ResultSource:
    """The records of a result file, read piece by piece. Raises OSError or ValueError where it is not whole (yet)."""

    def __init__(self, path: str, then: Callable[[bool], None]) -> None:
        self._then = then
        self._file = trust.open_reader(path)
        head = payload.result_head(self._file.read(payload.RESULT_HEAD))
        if head is None or payload.RESULT_HEAD + head[0] != os.fstat(self._file.fileno()).st_size:
            self._file.close()
            raise ValueError("%s is not whole" % path)
        self._length, self._checksum = head
        self._left = self._length
        self._sum = 0

    def __len__(self) -> int:
        return self._length

    def read(self, limit: int) -> bytes:
        data = self._file.read(min(limit, self._left))
        self._left -= len(data)
        self._sum = zlib.crc32(data, self._sum)
        if not data or (not self._left and self._sum != self._checksum):
            raise ValueError("%s is not what was written" % self._file.name)
        return data

    def over(self, *, good: bool) -> None:
        self._file.close()
        self._then(good)


def _whole(path: str) -> bytes:
    """Return what a file of words holds. Raises Untrusted, OSError, ValueError where that is more than it can be."""
    data = trust.read(path, entries.MOST_BYTES + 1)
    if len(data) > entries.MOST_BYTES:
        raise ValueError("%s has more than %d bytes" % (path, entries.MOST_BYTES))
    return data
