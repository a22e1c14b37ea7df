"""The agent: one process on the login node, one loop, at the other end of the client's pipe.

    loop      frames from and to the client; the hub's workers; the watch over batches. Never blocks on a command.
    lanes     three threads that run the scheduler's commands (`batches.Lane`)
    shipping  a thread that unpacks users' own code, where there is any
    runs      a thread for each command that `run` started
    files     threads for what is done to files

Threads hand what they have to the loop through its `post`; nothing else is shared with them. The agent ends when its
stdin does, when the driver has been silent for too long, or when the next agent of the same driver tells it to.
"""

import functools
import itertools
import json
import os
import shutil
import signal
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

from . import (
    batches,
    clean,
    entries,
    files,
    hub,
    ids,
    modules,
    outbox,
    pool_files,
    pools,
    publish,
    runs,
    shell,
    ships,
    source,
    spool,
    survey,
    transfers,
    trust,
    wire,
)
from .incoming import Incoming
from .lane import Lane
from .local import Local
from .loop import Loop
from .scheduler import Limits, Scheduler
from .slurm import Slurm
from .succession import Succession

NICE = 10
HANDOVER_SECONDS = 2.0  # the same when another agent takes over
LAST_SECONDS = 30.0  # in which a submission, a cancellation or a removal may still be done when the client is gone
DEFAULT_LIMITS = Limits(max_array_index=1000, max_jobs=10_000)  # Slurm's own defaults
_CHUNK = 1 << 18
_ROOM = 4096  # bytes that must fit into work_dir
_LIMITS_SIZE = 10_000  # bytes
_LIMITS_FRESH = 24 * 3600.0  # seconds for which a site's limits are not read again
# File systems on which a name shows as soon as it is there, for whoever looks; all others get the long grace.
_COHERENT = frozenset("ext2 ext3 ext4 xfs btrfs zfs tmpfs overlay lustre gpfs beegfs".split())
GRACE_COHERENT = 10.0  # seconds
GRACE_CACHED = 75.0  # seconds; NFS keeps a directory for up to 60 (acdirmax)


class Refusal(Exception):
    """Something that the client asked for cannot be; `code` tells it which of its errors that is."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.words = dict(more, error=code, message=message)


class Agent:
    """Everything here runs in the loop's thread, but what it gives to threads."""

    def __init__(self, hello: Mapping[str, Any], code: str) -> None:
        """`code` is where our source is, or would be, in the work_dir that the loader has looked at."""
        self._code = code
        self._loop = Loop()
        self._reader = wire.Reader(self._place)
        self._scratch = memoryview(bytearray(_CHUNK))
        self._sync = bytes.fromhex(hello["sync"])
        self._envelope: int = hello["envelope"]  # bytes
        self._outbox = outbox.Outbox()
        self._unsent: wire.Buffer = b""  # what is left of an envelope
        self._silence: Optional[float] = hello["silence"]
        self._heard = time.monotonic()
        self._numbers = itertools.count()
        self._writing = False
        self._open = True
        self._for_good = False  # the driver said so
        self._leaving = False  # somebody else is there for the driver
        self._looks: bool = hello["looks"]  # then nothing is made in work_dir
        self._work_dir = os.path.dirname(os.path.dirname(code))
        self._began = time.time()
        if self._looks:
            self._spool = spool.read_id(self._work_dir)
        else:
            self._began = _write_there(self._work_dir)
            self._spool = spool.identify(self._work_dir)
            _touch(code)
        self._session: str = hello["session"]
        self._succession = Succession(self._work_dir, self._session, hello["mark"], code)
        self._surveying: Optional[Lane] = None  # there since somebody first asked
        self._shipping: Optional[Lane] = None  # the same
        self._shipped: List[str] = []  # versions of the driver's own code that are there, the latest last
        # What concerns batches, or changes files, while the agent before this one has still to go; None once it has.
        self._held: Optional[List[Callable[[], None]]] = None
        self._login = os.path.join(self._work_dir, "login", "%s.%d" % (os.uname().nodename, os.getpid()))
        if not self._looks:
            _make_login(self._work_dir, self._login)
        self._scheduler = self._find_scheduler(hello["scheduler"], hello["max_workers"])
        self._hub = hub.Hub(
            most=hello["login_workers"],
            command=[*shell.EVAL, os.path.join(code, "start.py")],
            environment=_worker_environment(hello),
            logs=self._login,
            shipped=self._ship_folder,
            register=self._loop.register,
            unregister=self._loop.unregister,
            results=lambda _, records: self._transmit(wire.packed(wire.RESULTS, records)),
            tell=self._send,
        )
        self._transfers = transfers.Transfers(self._loop.post, self._send_bulk)
        self._files = files.Files(self._loop.post)
        self._runs = runs.Runs(self._loop.post, hello["python"], self._login)
        self._batches = batches.Batches(
            place=batches.Place(self._work_dir, code),
            scheduler=self._scheduler,
            limits=self._read_limits(),
            pace=self._pace(),
            max_workers=None if isinstance(self._scheduler, Local) else hello["max_workers"],
            post=self._loop.post,
            send=self._of_batch,
            stream=self._transmit,
            waiting=lambda: self._outbox,
            succession=self._succession,
        )
        self._pools = pools.Pools(
            pools.Surroundings(
                work_dir=self._work_dir,
                session=self._session,
                scheduler=self._scheduler,
                batches=self._batches,
                send=self._send,
                transmit=self._transmit,
                shipped=self._ship_folder,
                register=self._loop.register,
                unregister=self._loop.unregister,
                post=self._loop.post,
            )
        )

    def greeting(self) -> Dict[str, Any]:
        """Return what the client wants to know before it begins."""
        space = os.statvfs(self._work_dir)
        return {
            "op": "hello",
            "protocol": wire.PROTOCOL,
            "python": list(sys.version_info[:3]),
            "executable": sys.executable,
            "scheduler": self._scheduler.version(),
            "work_dir": self._work_dir,
            "spool": self._spool,
            "now": self._began,
            "exposed": source.exposed(self._work_dir),
            "free": space.f_bavail * space.f_frsize,
            "host": os.uname().nodename,
            "cwd": os.getcwd(),
            "home": os.path.expanduser("~"),
            "pid": os.getpid(),
        }

    def _find_scheduler(self, name: str, slots: Optional[int]) -> Scheduler:
        if name == "local":
            return Local(self._work_dir, slots or os.cpu_count() or 1)
        if "\\" in self._work_dir:
            why = "work_dir %s on %s cannot be used: Slurm drops the backslash from the names of output files; %s"
            raise Refusal("work-dir", why % (self._work_dir, os.uname().nodename, source.REMEDY))
        found = Slurm()
        try:
            found.version()
        except FileNotFoundError as error:
            raise Refusal("no-scheduler", "sbatch was not found on %s" % os.uname().nodename) from error
        except OSError as error:
            raise Refusal("no-scheduler", "Slurm does not work on %s (%s)" % (os.uname().nodename, error)) from error
        os.nice(NICE)  # a login node is shared
        return found

    def _read_limits(self) -> Limits:
        """Return the scheduler's limits, as read within a day: each reading costs a request."""
        if isinstance(self._scheduler, Local):
            return self._scheduler.limits() or DEFAULT_LIMITS
        if self._looks:  # and submits nothing
            return DEFAULT_LIMITS
        path = os.path.join(self._work_dir, "limits.json")
        key = os.environ.get("SLURM_CONF", "")
        try:
            if time.time() - os.stat(path).st_mtime < _LIMITS_FRESH:
                cached = entries.document(trust.read(path, _LIMITS_SIZE, closed=False))
                if cached.get("conf") == key:
                    return Limits(*(ids.count(cached.get(name), entries.MOST_NUMBER) for name in Limits._fields))
        except (OSError, ValueError):
            pass
        limits = self._scheduler.limits()
        if limits is None:
            return DEFAULT_LIMITS
        try:
            publish.publish(self._work_dir, "limits.json", [json.dumps(dict(limits._asdict(), conf=key)).encode()])
        except OSError:
            pass  # no room: they are read again next time
        return limits

    def _pace(self) -> batches.Pace:
        if isinstance(self._scheduler, Local):
            return batches.Pace(queue_first=1.0, queue_ceiling=5.0, grace=0.5)
        coherent = _file_system(self._work_dir) in _COHERENT
        return batches.Pace(
            queue_first=batches.CLUSTER_QUEUE_FIRST,
            queue_ceiling=batches.CLUSTER_QUEUE_CEILING,
            grace=GRACE_COHERENT if coherent else GRACE_CACHED,
        )

    def _ship_folder(self, ship: str) -> Optional[str]:
        """Return where a version of the driver's own code is, None while it is not there."""
        return ships.folder_of(self._work_dir, ship) if ship in self._shipped else None

    # ---- the loop

    def serve(self, incoming: int, outgoing: int) -> None:
        """Serve the client on these descriptors until it closes them."""
        self._incoming, self._outgoing = incoming, outgoing
        os.set_blocking(incoming, False)
        os.set_blocking(outgoing, False)
        self._loop.register(incoming, lambda readable, writable: self._receive(), False)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._loop.post(self._leave))
        self._send(self.greeting())
        self._succeed()
        deadline = None
        while self._open or not self._batches.settled():
            now = time.monotonic()
            if self._silence is not None and now > self._heard + self._silence:
                self._hang_up()
            if not self._open:
                deadline = deadline or now + (HANDOVER_SECONDS if self._leaving else LAST_SECONDS)
                if now > deadline:
                    return
            # Pools before batches: they submit and cancel there.
            times = [
                at for at in (self._hub.tick(now), self._pools.tick(now), self._batches.tick(now)) if at is not None
            ]
            if deadline is not None:
                times.append(deadline)
            elif self._silence is not None:
                times.append(self._heard + self._silence)
            self._loop.turn(min(times) if times else None)

    def close(self) -> None:
        """End what lives with the agent: workers, commands, embedded jobs. Slurm's jobs go on."""
        self._hub.close()
        self._transfers.close()
        self._files.close()
        self._runs.close()
        self._scheduler.close()
        shutil.rmtree(self._login, ignore_errors=True)
        self._succession.leave(for_good=self._for_good)

    def _succeed(self) -> None:
        """Take over from the agent before this one, if there is one."""
        if self._looks or self._succession.claim():
            return
        self._held = []
        Lane("succeed", self._loop.post).do(self._succession.wait, lambda _: self._begin())

    def _begin(self) -> None:
        held, self._held = self._held or [], None
        for action in held:
            action()

    # ---- the pipe

    def _send(self, head: Mapping[str, Any], body: wire.Buffer = b"") -> None:
        self._transmit(wire.message(head, body))

    def _send_bulk(self, head: Mapping[str, Any], body: wire.Buffer = b"") -> None:
        """Send a frame of a transfer: in their order, behind everything else."""
        if self._open:
            self._outbox.add(wire.message(head, body), head["transfer"], bulk=True)
            self._flush()

    def _transmit(self, buffers: Sequence[outbox.Content]) -> None:
        if self._open:
            self._outbox.add(buffers)
            self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent or self._outbox:
                if not self._unsent:
                    self._unsent = memoryview(wire.enveloped(self._sync, self._outbox.take(self._envelope)))
                self._unsent = self._unsent[os.write(self._outgoing, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
            return
        wanted = bool(self._unsent or self._outbox)
        if wanted != self._writing:
            self._writing = wanted
            if self._writing:
                self._loop.register(self._outgoing, lambda readable, writable: self._flush(), True, reading=False)
            else:
                self._loop.unregister(self._outgoing)

    def _hang_up(self) -> None:
        """The client is gone: nothing is read or written any more."""
        if self._open:
            self._open = False
            self._loop.unregister(self._incoming)
            if self._writing:
                self._loop.unregister(self._outgoing)
                self._writing = False
            self._outbox.clear()
            self._unsent = b""
            self._batches.stop()
            self._pools.stop()

    def _leave(self) -> None:
        """Make way for the next agent, which finds out by itself what became of a submission that is cut off."""
        self._leaving = True
        self._hang_up()

    def _receive(self) -> None:
        try:
            size = os.readv(self._incoming, [self._scratch])
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._hang_up()
            return
        self._heard = time.monotonic()
        for frame in self._reader.feed(self._scratch[:size]):
            if frame.kind == wire.CALLS:
                self._calls(frame.body)
            elif frame.kind == wire.GOT:
                self._outbox.acknowledged(frame.head)
                self._flush()
            else:
                self._message(frame.head, frame.body)
        pieces = self._reader.take_pieces()
        if pieces:
            self._transmit(wire.got(pieces))

    def _calls(self, data: wire.Body) -> None:
        if not pools.is_pools(data):
            self._hub.calls(data)
        elif self._held is not None:
            self._held.append(functools.partial(self._pools.calls, data))
        else:
            self._pools.calls(data)

    def _place(self, head: Any, size: int) -> Optional[wire.Sink]:
        if head is None or head["op"] not in ("submit", "path", "ship"):
            return None
        if head["op"] == "ship":
            return self._incoming_ship()
        return self._batches.incoming(self._login) if head["op"] == "submit" else self._files.incoming(head)

    def _message(self, head: Mapping[str, Any], body: wire.Body) -> None:
        op = head["op"]
        if "pool" in head:
            self._of_pool(head, body)
        elif op == "function":
            self._hub.function(head["function"], body, head["ship"])
        elif op == "drop":
            self._hub.drop(head["function"])
        elif op == "cancel_calls":
            self._hub.cancel(head["calls"])
        elif op == "bye":
            self._for_good = True
            self._hang_up()
        elif op == "ping":
            self._send({"op": "pong"})
        elif op == "kill":
            self._runs.kill(head["run"])
        elif "transfer" in head and "id" not in head:
            self._transfers.message(head, body, None)
        elif self._held is not None and ("batch" in head or "transfer" in head or head.get("changes")):
            self._held.append(functools.partial(self._request, op, head, body))
        else:
            self._request(op, head, body)

    def _of_pool(self, head: Mapping[str, Any], body: wire.Body) -> None:
        if self._held is not None:
            self._held.append(functools.partial(self._of_pool, head, body))
        elif "id" in head:
            self._request("pool", head, body)
        else:
            self._pools.message(head, body, None)

    def _of_batch(self, head: Mapping[str, Any], body: wire.Buffer = b"") -> None:
        """Tell what has become of a batch whoever asked for it: a pool, or the client."""
        pool = self._pools.owner(head["batch"])
        if pool is None:
            self._send(head, body)
        else:
            self._loop.post(functools.partial(pool.event, head))  # not in the middle of what tells of it

    # ---- requests, each answered once

    def _request(self, op: str, head: Mapping[str, Any], body: wire.Body) -> None:
        number = head["id"]

        def reply(words: Mapping[str, Any], data: wire.Buffer = b"") -> None:
            self._send(dict(words, op="reply", id=number), data)

        try:
            if op == "pool":
                self._pools.message(head, body, reply)
            elif op == "submit":
                self._batches.submit(head["spec"], head.get("body", body), reply)
            elif op == "ship":
                self._ship(head, head.get("body", body), reply)
            elif op == "attach":
                reply(self._batches.attach(head["batch"], head["wanted"], head.get("epoch")))
            elif op == "retry":
                self._batches.retry(head["batch"], head["retries"], reply)
            elif op == "cancel":
                self._batches.cancel(head["batch"], head["tasks"], reply)
            elif op == "release":
                self._batches.release(head["batch"], head["remove"], head["logs"], reply)
            elif op == "log":
                self._files.do(self._batches.log(head), reply)
            elif op == "survey":
                self._survey(lambda: survey.survey(self._work_dir, self._scheduler, self._session), reply)
            elif op == "find":
                self._survey(lambda: survey.find(self._work_dir, head["call"]), reply)
            elif op == "finished":
                session = ids.session(head["session"])
                self._survey(lambda: pool_files.finished(self._work_dir, session), reply)
            elif op == "clean":
                self._clean(head["age"], head["dry"], reply)
            elif op == "run":
                self._runs.message(number, head, body, reply)
            elif op == "path":
                self._files.message(head, body, reply)
            elif "transfer" in head:
                self._transfers.message(head, body, reply)
            else:
                reply({"error": "unknown", "message": "the agent does not know the request %r" % op})
        except (OSError, ValueError, TypeError, IndexError) as error:  # also words that no process can be given
            reply(runs.told(error))

    def _ship(self, head: Mapping[str, Any], body: Union[wire.Body, Incoming], reply: Callable[..., None]) -> None:
        """Unpack a version of the driver's own code, or, by a request without it, see whether it is there."""
        name = head["ship"]
        folder = ships.folder_of(self._work_dir, name)
        self._hub.shipping(name)
        self._pools.shipping(name)

        def work() -> bool:
            if not head["zip"]:
                return ships.is_whole(folder)
            trust.make_folder(os.path.dirname(folder))
            archive = source.new_name(folder)
            if isinstance(body, Incoming):
                body.move_to(archive)
            else:
                with open(trust.open_file(archive, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                    file.write(body)
            ships.store(folder, archive)
            return True

        def then(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                why = "the code of ship= could not be written to %s: %s" % (folder, outcome)
                reply({"error": "os", "message": why})
                self._hub.unshipped(name, why)
                self._pools.shipping_changed(name, why)
                return
            if outcome and name not in self._shipped:
                self._shipped.append(name)
                self._succession.note_ships(self._shipped)
            reply({"there": outcome})
            self._hub.hand_out()
            self._pools.shipping_changed()

        self._shipping = self._shipping or Lane("ship", self._loop.post)
        self._shipping.do(work, then)

    def _incoming_ship(self) -> Incoming:
        self._shipping = self._shipping or Lane("ship", self._loop.post)
        return Incoming(os.path.join(self._login, "ship-%d" % next(self._numbers)), self._shipping)

    def _survey(self, work: Callable[[], Any], reply: Callable[..., None]) -> None:
        """Reply what `work()` returns, as JSON: it reads much, and may ask the scheduler."""

        def then(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                reply({"error": "os", "message": "%s: %s" % (type(outcome).__name__, outcome)})
            else:
                reply({}, json.dumps(outcome).encode())

        if self._surveying is None:
            self._surveying = Lane("survey", self._loop.post)
        self._surveying.do(work, then)

    def _clean(self, age: float, dry: bool, reply: Callable[..., None]) -> None:
        work = clean.Clean(self._work_dir, self._scheduler, self._session, os.path.basename(self._code), age, dry=dry)
        self._survey(work.run, reply)


def _write_there(work_dir: str) -> float:
    """Return what the clock of the file system says. Raises Refusal where `work_dir` cannot be written to."""
    path = os.path.join(work_dir, ".writable.%d" % os.getpid())
    try:
        with open(trust.open_file(path, os.O_WRONLY | os.O_CREAT), "wb", 0) as file:
            try:
                file.write(b"x" * _ROOM)
                return os.fstat(file.fileno()).st_mtime
            finally:
                os.unlink(path)
    except OSError as error:
        raise Refusal("work-dir", source.refusal(work_dir, work_dir, error)) from error


def _make_login(work_dir: str, folder: str) -> None:
    """Make the folder of this agent's own. Raises Refusal."""
    try:
        trust.make_folder(os.path.dirname(folder))
        _clear_dead(os.path.dirname(folder))
        trust.make_folder(folder)
    except OSError as error:
        raise Refusal("work-dir", source.refusal(work_dir, work_dir, error)) from error


def _clear_dead(folder: str) -> None:
    """Remove what agents of this machine have left that were killed."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        host, _, process = name.rpartition(".")
        if host == os.uname().nodename and not os.path.exists("/proc/%s" % process):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def _touch(code: str) -> None:
    """Note that the source is used, for who clears away what is not."""
    try:
        os.utime(code)
    except OSError:
        pass


def _file_system(path: str) -> str:
    """Return the type of the file system that `path` is on, "" where that cannot be found out."""
    best, kind = "", ""
    path = os.path.realpath(path)
    try:
        with open("/proc/self/mounts") as file:
            for line in file:
                _, where, type_, *_ = line.split()
                where = where.encode().decode("unicode_escape")
                inside = path == where or path.startswith(where.rstrip("/") + "/")
                if inside and len(where) >= len(best):
                    best, kind = where, type_
    except (OSError, ValueError):
        return ""
    return kind


def _worker_environment(hello: Mapping[str, Any]) -> Dict[str, str]:
    """Return what starts a worker on this machine by `shell.EVAL`; its first argument is the program to start."""
    start = '%s\n%sexec %s -u "$0" worker "$@"' % (hello["setup"], modules.NOT_HERE, hello["python"])
    return dict(os.environ, **shell.variable(start), **modules.environment(hello["path"]))


def main(hello: Mapping[str, Any], incoming: int, outgoing: int, code: str) -> None:
    """Entry for the bootstrap: serve the client on these two descriptors, or tell it why not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the client's business
    try:
        agent = Agent(hello, code)
    except (Refusal, trust.Untrusted, ValueError) as error:
        refusal = error if isinstance(error, Refusal) else Refusal("work-dir", "the agent cannot start: %s" % error)
        for buffer in wire.message(dict(refusal.words, op="refusal")):
            os.write(outgoing, wire.enveloped(bytes.fromhex(hello["sync"]), buffer))
        return
    try:
        agent.serve(incoming, outgoing)
    finally:
        agent.close()
