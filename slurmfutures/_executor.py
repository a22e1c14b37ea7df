"""`SlurmExecutor` and its views: what users hold in their hands."""

import itertools
import os
import subprocess
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from numbers import Real
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, NamedTuple

from . import _files, _runs
from ._batcher import Claim, Spec
from ._checkpoint import Checkpoint, CheckpointKey, Found
from ._config import ClusterConfig, Source, from_environment
from ._connection import HEARTBEAT, Channel, Connection, default_python
from ._errors import PythonMismatch
from ._future import SlurmFuture
from ._hosts import Host
from ._jobinfo import JobInfo
from ._journal import files_of
from ._link import Reply
from ._options import render_options, split_labels
from ._own_arrays import submit_array
from ._own_scripts import Rendered, job_name_of, own_spec, script_text
from ._paths import ClusterPath, StrPath, place_of, text_of
from ._pickling import pickle_initializer
from ._pilots import PilotsExecutor, pool_number, settings_of
from ._printable import printable
from ._remote import wire
from ._ship import Item, Ship, Shipment
from ._ssh import Entrance
from ._transports.asking import ask_on_terminal
from ._transports.base import Ask
from ._views import View

# What is ours among the keywords, for suggestions beside sbatch's options.
_KEYWORDS = """host jump transport ssh_config ask accept_new_host_keys connect_timeout heartbeat reconnect_timeout
    scheduler work_dir python setup max_workers retries login_workers checkpoint checkpoint_key
    initializer initargs ship""".split()


class _Cluster(NamedTuple):
    """The executor, as its paths see it."""

    root: "SlurmExecutor"

    @property
    def folder(self) -> str:
        return self.root._connection.folder

    def request(self, head: Mapping[str, Any], body: Sequence[wire.Buffer], *, again: bool) -> "Future[Reply]":
        self.root._check_open()
        return self.root._connection.poller.request(head, body, again=again)[1]

    def wait(self, reply: "Future[Reply]") -> Reply:
        return self.root._connection.poller.reply_to(reply)


class _Jobs(View):
    """A view whose calls are jobs, and remembered where there is a checkpoint."""

    _root: "SlurmExecutor"
    _spec: Spec
    _sbatch: Mapping[str, Any]

    def _send(
        self,
        spec: Spec,
        name: str,
        function: bytes,
        tasks: Sequence[Sequence[bytes]],
        keys: Sequence[Sequence[bytes]] | None,
    ) -> list[SlurmFuture[Any]]:
        """Hand tasks of this view over, as `Poller.submit` takes them."""
        return self._connection.poller.submit(spec, name, function, tasks, keys)

    def _add(
        self,
        function: bytes,
        name: str,
        tasks: Sequence[Sequence[bytes]],
        keys: Sequence[Sequence[bytes]] | None,
        shipment: Shipment | None,
    ) -> list[SlurmFuture[Any]]:
        return self._send(self._spec._replace(shipment=shipment), job_name_of(name), function, tasks, keys)

    @property
    def _checkpoint(self) -> Checkpoint | None:
        return self._connection.poller.checkpoint

    def _claim(
        self,
        found: Found,
        function: bytes,
        name: str,
        arguments: bytes,
        checkpoint: Checkpoint,
        shipment: Shipment | None,
    ) -> SlurmFuture[Any] | None:
        return self._take_up(
            found, Claim(self._spec._replace(shipment=shipment), job_name_of(name), function, arguments), checkpoint
        )

    def _take_up(self, found: Found, claim: Claim, checkpoint: Checkpoint) -> SlurmFuture[Any] | None:
        """Return the future of what an earlier driver has sent, None where it has come to nothing."""
        assert found.place is not None
        future: SlurmFuture[Any] | None = self._connection.poller.claim(found.key, found.place, claim)
        return future or checkpoint.recall(found.key)  # its result may have come just now

    def submit_script(
        self,
        script: StrPath | Rendered,
        *,
        cwd: StrPath | None = None,
        name: str | None = None,
        check: bool = True,
        retries: int = 0,
    ) -> SlurmFuture[JobInfo]:
        """Submit a batch script as a job of its own; the future's result is a `JobInfo`. Any thread.

        `script` is its text, a file on this machine or on the cluster, or what has a `render()` that returns the text
        (`Script`). Its own `#SBATCH` lines count; what they leave open is as this executor's options say. It begins in
        the folder `cwd`, made if missing, or else where calls begin, with the environment of the agent; its output is
        where Slurm puts it, and what the future's `stdout()` and `stderr()` return. `name` is the job's.

        It has succeeded when its interpreter has ended by itself with exit code 0, whatever Slurm says. A job that
        fails is submitted again up to `retries` times, whatever it failed of, and where it was lost through no fault of
        its own as the executor's `retries` say; then the future raises its JobError, whose `info` is the JobInfo, or,
        where `check` is false, returns the JobInfo. With a checkpoint a script is known by its text and its `cwd`: one
        that has succeeded is not submitted again at the next start, one that is queued or running is waited for.

        By `#SBATCH --array=1-10:3%2` it is one job array with these indices, and the future's result tells of all of
        it, its `tasks` of each. It has succeeded when all tasks have; those that fail abandon no other, and are run
        again alone; `cancel()` ends them all; `stdout()` is what they have printed, one after the other. With a
        checkpoint only tasks that have not succeeded are submitted again. It is never split: an array that is larger
        than Slurm allows is a SubmitError.

        Raises ValueError for a script that sbatch would not take, and for options of it that would leave its job
        unwatched; OSError for a file that cannot be read; RuntimeError after `shutdown`.
        """
        self._check_open()
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"retries must be an integer of 0 or more, not {retries!r}")
        text = script.read_text() if isinstance(script, ClusterPath) else script_text(script)
        spec = own_spec(
            text,
            self._sbatch,
            known=_KEYWORDS,
            name=name,
            cwd=None if cwd is None else place_of(cwd),
            check=check,
            retries=retries,
        )
        return self._submit_array(spec, text) if spec.script and spec.script.array else self._submit_script(spec, text)

    def _submit_script(self, spec: Spec, text: str) -> SlurmFuture[JobInfo]:
        assert spec.name is not None
        assert spec.script is not None
        checkpoint, data = self._checkpoint, text.encode()
        found = checkpoint.find_script(text, spec.script.cwd) if checkpoint is not None else None
        if checkpoint is not None and found is not None:
            if found.future is not None:
                return found.future
            future = self._take_up(found, Claim(spec, spec.name, data, b""), checkpoint) if found.place else None
            if future is not None:
                return future
        keys = None if found is None else [[found.key]]
        return self._send(spec, spec.name, data, [[b""]], keys)[0]

    def _submit_array(self, spec: Spec, text: str) -> SlurmFuture[JobInfo]:
        return submit_array(spec, text, self._checkpoint, self._take_up, self._send)

    def pilots(
        self,
        workers: int | None = None,
        *,
        workers_per_job: int = 1,
        max_jobs: int | None = None,
        idle_timeout: float = 120.0,
        call_time: float | None = None,
        max_calls_per_worker: int | None = None,
        retries: int | None = None,
        start_timeout: float | None = None,
        address: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **sbatch: Any,
    ) -> PilotsExecutor:
        """Return an Executor whose calls run in worker processes that stay, in jobs: for many short calls.

        :param workers: how many workers there may be at once; None is as many as fill `max_workers` jobs, or this
            machine's number of cores.
        :param workers_per_job: how many of them share a job; the GPUs of a job are divided among its workers.
        :param max_jobs: how many jobs there may be at once; None is as many as the workers need.
        :param idle_timeout: seconds without a call after which a job leaves, also after the driver has gone; until then
            it is one of those that `max_workers` allows.
        :param call_time: seconds that a call may take: a job with less time left is given none, and is replaced. None
            is as long as the longest of the past calls, forgotten by and by.
        :param max_calls_per_worker: after so many calls a worker is replaced.
        :param retries: how often a call is run again whose worker or job ended in it, whatever the reason; one that
            has ended three workers by itself is not run again. None is this executor's `retries`.
        :param start_timeout: seconds in which the first worker must have come while calls wait; None is no limit.
        :param address: a name or address of the login node at which compute nodes reach it; None finds it out. Where
            there is none, calls and results travel through files in `work_dir`.
        :param initializer: called with `initargs` by each worker before its first call; None is this executor's.
        :param sbatch: options of the jobs, over those of this executor; None takes one away.

        With a checkpoint the next start finds the pilots of the n-th call of this method again, and what they have.
        Raises TypeError for an option that sbatch does not have, ValueError for what cannot be.
        """
        self._check_open()
        root = self._root
        root._check_open()
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        options = {**self._sbatch, **sbatch}
        initial = root._initializer if initializer is None else pickle_initializer(initializer, initargs)
        self._connection.check_code(initial, "the initializer")
        spec = _make_spec(options, initial)
        settings = settings_of(
            workers=workers,
            max_workers=self._connection.max_workers,
            workers_per_job=workers_per_job,
            max_jobs=max_jobs,
            idle_timeout=idle_timeout,
            call_time=call_time,
            max_calls_per_worker=max_calls_per_worker,
            start_timeout=start_timeout,
            address=address,
            retries=self._connection.retries if retries is None else retries,
            options=spec.options,
            name=spec.name or "pilots",
            comment=spec.comment,
            initializer=initial,
        )
        remembered = self._checkpoint is not None
        number = pool_number(os.urandom, next(root._pools), initial, remembered=remembered)
        return PilotsExecutor(root, self._connection, self._connection.poller.open_pool(number, settings))


class SlurmExecutor(_Jobs):
    """A `concurrent.futures.Executor` whose calls are Slurm jobs.

    :param host: the login node, "user@host:port" or an alias of ~/.ssh/config, or a `Host`; "" is this machine; None is
        what the environment variable SLURMFUTURES_HOST says, else this machine, as it is for scheduler="local".
    :param jump: the host to go through, or several, outermost first; None is what the ssh configuration says.
    :param transport: "paramiko", or "openssh" for the system's `ssh` (ControlMaster, Kerberos, FIDO keys).
    :param ssh_config: a file in place of ~/.ssh/config.
    :param ask: called as `ask("user@host", prompt, echo)` for passphrases, passwords and one-time codes, returns the
        answer; None asks on the terminal, or in the notebook. The prompt is the host's words, with control characters
        written as escapes and each line but the first indented. After a lost connection it is called in another thread,
        in one attempt to connect and no more.
    :param accept_new_host_keys: whether a host that is not in known_hosts is added there; a changed key never is.
    :param connect_timeout: seconds for each host on the way, without the time in which you are asked. None is what the
        ssh configuration says, or 30, and 60 for a login, which may wait until you confirm it on a phone.
    :param heartbeat: seconds of silence after which a connection counts as lost.
    :param reconnect_timeout: seconds in which a lost connection must be made again; None is no end.
    :param scheduler: "slurm", or "local" for the embedded default that runs the jobs as processes of this machine.
    :param work_dir: a folder of yours that the login node and the compute nodes share, made if missing, mode 0700; None
        is what the environment variable SLURMFUTURES_WORK_DIR says, or ~/.slurmfutures.
    :param python: the interpreter that runs the calls, a word of shell; None is the one that runs this, or `python3`
        on another host.
    :param setup: lines of bash for before the interpreter, in jobs and on the login node ("module load gcc").
    :param max_workers: how many array tasks may run at once; None leaves that to the scheduler, or, for "local", is
        the number of cores.
    :param retries: how often a call is run again, on another node where there is one, whose job was lost through no
        fault of its own: its node failed or could not see `work_dir`, it was preempted, or it left no result. What
        the function raised, an exit code, a limit or a cancellation is final.
    :param login_workers: how many calls of `login` may run at once.
    :param checkpoint: a file on this machine, made if missing, in which calls and their results are kept. The same
        script started again goes on: what has a result has it at once, what is queued or running is waited for, what
        raised or died runs again. A call is known by its function's name and code, its arguments, and which repeat of
        the same call it is. Calls of `login` are not kept.
    :param checkpoint_key: called as `checkpoint_key(function, args, kwargs)`, returns what a call is to be known by
        instead: text, numbers, or whatever else compares by what it holds. None: it is not kept.
    :param initializer: called with `initargs` once in each job's process, before its first call. What it assigns to
        globals of a script or notebook is seen by the calls of that script's functions.
    :param ship: your own code on the cluster: modules, packages and folders, or one of them; each a module, the name of
        one that can be imported here, or a path (with a "/", or a `Path`). A .py file and a folder with `__init__.py`
        are found there by their names, a folder without is searched as one of `sys.path`; all go before what is
        installed there. Caches, hidden files, virtual environments and the checkpoint stay here. It is sent once, and
        anew with the next call after an edit; calls submitted before keep what they were submitted with. With a
        checkpoint, a call of shipped code is known by that of all modules that its function's module imports.
    :param sbatch: any long option of sbatch, "-" written "_": `time="01:00:00"`, `mem="4G"`, `cpus_per_task=2`.

    Raises SchedulerNotFound where there is no Slurm, AgentError where the cluster half cannot start, SlurmFuturesError
    for a `work_dir` that cannot be used, TypeError for an option that sbatch does not have, ValueError for what cannot
    be shipped, also of a call after an edit; HostUnreachable,
    AuthenticationError and HostKeyError for what they say; CheckpointLocked, CheckpointCorrupt, and SlurmFuturesError
    for a checkpoint that cannot be used or whose calls are under way elsewhere. Later, and of login-node calls and
    commands that were under way when a connection was lost, ConnectionLost; jobs and their futures outlive that.

    All methods may be called from any thread. It does not promise that calls begin in the order in which they were
    submitted.
    """

    def __init__(
        self,
        host: str | Host | None = None,
        *,
        jump: str | Host | Sequence[str | Host] | None = None,
        transport: str = "paramiko",
        ssh_config: str | os.PathLike[str] | None = None,
        ask: Ask | None = None,
        accept_new_host_keys: bool = False,
        connect_timeout: float | None = None,
        heartbeat: float = HEARTBEAT,
        reconnect_timeout: float | None = None,
        scheduler: str = "slurm",
        work_dir: str | os.PathLike[str] | None = None,
        python: str | None = None,
        setup: str = "",
        max_workers: int | None = None,
        retries: int = 0,
        login_workers: int = 2,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_key: CheckpointKey | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        ship: Item | Iterable[Item] = (),
        **sbatch: Any,
    ) -> None:
        if scheduler not in ("slurm", "local"):
            raise ValueError(f"scheduler={scheduler!r} is not known: it is 'slurm' or 'local'")
        host, work_dir = from_environment(host, work_dir, scheduler)
        for name, number in (("max_workers", max_workers), ("login_workers", login_workers)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ValueError(f"{name} must be an integer of 1 or more, not {number!r}")
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"retries must be an integer of 0 or more, not {retries!r}")
        for name, seconds in (
            ("connect_timeout", connect_timeout),
            ("heartbeat", heartbeat),
            ("reconnect_timeout", reconnect_timeout),
        ):
            if seconds is not None and (not isinstance(seconds, Real) or not seconds > 0):
                raise ValueError(f"{name} must be a number of seconds greater than 0, not {seconds!r}")
        if host is None and jump:
            raise TypeError(f"jump={jump!r} needs a host to jump to")
        if checkpoint_key is not None and checkpoint is None:
            raise TypeError("checkpoint_key needs a checkpoint: name a file by checkpoint=")
        if checkpoint_key is not None and not callable(checkpoint_key):
            raise TypeError(f"checkpoint_key must be a callable, not {checkpoint_key!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a callable, not {initializer!r}")
        shipped = Ship(ship, without=files_of(checkpoint) if checkpoint is not None else ())
        self._sbatch = sbatch
        self._initializer = pickle_initializer(initializer, initargs) if initializer is not None else b""
        self._spec = _make_spec(sbatch, self._initializer)
        entrance = None
        if host is not None:
            entrance = Entrance(
                host,
                jump=jump,
                transport=transport,
                ssh_config=ssh_config,
                ask=ask or ask_on_terminal,
                accept_new_host_keys=accept_new_host_keys,
                connect_timeout=connect_timeout,
            )
        python = python or default_python(host)
        journal = None
        if checkpoint is not None:
            jumps = [jump] if isinstance(jump, str | Host) else list(jump or ())
            place = {
                "host": None if host is None else Host.parse(host).address,
                "jump": [Host.parse(one).address for one in jumps],
                "transport": transport,
                "ssh_config": None if ssh_config is None else os.path.abspath(ssh_config),
                "scheduler": scheduler,
                "work_dir": os.path.abspath(os.path.expanduser(work_dir)) if host is None else os.fspath(work_dir),
                "python": python,
                "setup": setup,
            }
            journal = Checkpoint(checkpoint, checkpoint_key, place)
        super().__init__(
            Connection(
                entrance,
                scheduler=scheduler,
                work_dir=os.fspath(work_dir),
                python=python,
                setup=setup,
                max_workers=max_workers,
                retries=retries,
                login_workers=login_workers,
                heartbeat=None if host is None else heartbeat,
                reconnect_timeout=reconnect_timeout,
                checkpoint=journal,
                ship=shipped,
            )
        )
        try:
            self._connection.check_code(self._initializer, "the initializer")
            self._connection.shipment()  # on its way before the first call
        except (PythonMismatch, ValueError):
            self._connection.poller.stop()
            raise
        self._root = self
        self._pools = itertools.count(1)  # of pilots
        self._host = None if host is None else Host.parse(host).address
        # Not joined: what is pending is still done. The poller holds no reference to the executor.
        weakref.finalize(self, self._connection.poller.stop).atexit = False

    @classmethod
    def from_config(cls, config: ClusterConfig | Source, name: str | None = None, **overrides: Any) -> "SlurmExecutor":
        """Return an executor as a config has it: a mapping, the path of a TOML or YAML file, or a `ClusterConfig`.

        `name` is that of one of several clusters in it, see `ClusterConfig.load`. `overrides` are parameters that win
        over it, and those that are code (`ask`, `initializer`, `checkpoint_key`).

        Raises ValueError before any connection for what is wrong in the config, and all that `SlurmExecutor` raises.
        """
        if not isinstance(config, ClusterConfig):
            config = ClusterConfig.load(config, name)
        elif name is not None:
            raise TypeError(f"name={name!r} is for a config of several clusters, and a ClusterConfig is one")
        return cls(**{**config.options(), **overrides})

    def _pending(self) -> list[SlurmFuture[Any]]:
        return self._connection.poller.pending()

    @property
    def login(self) -> "LoginExecutor":
        """An Executor whose calls run on the login node, in processes that stay."""
        return LoginExecutor(self)

    def with_options(self, **changes: Any) -> "SlurmView":
        """Return an Executor with other sbatch options on the same connection; None takes an option away."""
        return SlurmView(self, {**self._sbatch, **changes})

    @property
    def host(self) -> str | None:
        """The login node, as it was named; None where it is this machine."""
        return self._host

    @property
    def work_dir(self) -> ClusterPath:
        """The folder that all files of this executor are in, on the cluster."""
        return self.path(self._connection.greeting["work_dir"])

    def path(self, *segments: StrPath) -> ClusterPath:
        """Return a path on the cluster, with the methods of `pathlib.Path`: `ex.path("/scratch/me") / "x"`.

        A relative one is relative to the folder in which jobs start; a leading ~ or ~user is that home there.
        """
        pure = PurePosixPath(*map(text_of, segments))
        path = ClusterPath(_Cluster(self), pure)
        if pure.parts[:1] == ("~",):
            return ClusterPath(_Cluster(self), PurePosixPath(self._connection.greeting["home"], *pure.parts[1:]))
        return path.expanduser()

    def run(
        self,
        cmd: str | Sequence[StrPath],
        *,
        cwd: StrPath | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,  # noqa: A002 - subprocess.run's name for it
        timeout: float | None = None,
        check: bool = True,
    ) -> "subprocess.CompletedProcess[Any]":
        """Run a command on the login node and return its outcome, as `subprocess.run` does.

        A string is a line of bash, a sequence the words of a command. `env` is added to the environment there.
        Output is text, or bytes where `input` is bytes. After `timeout` seconds the whole process group is killed and
        subprocess.TimeoutExpired raised; a non-zero exit raises subprocess.CalledProcessError unless `check` is false.
        """
        self._check_open()
        command = cmd if isinstance(cmd, str) else [text_of(word) for word in cmd]
        words = {"command": command, "cwd": cwd and place_of(cwd), "env": env and dict(env), "timeout": timeout}
        return _runs.run(self._connection.poller, command, words, b"", input, check=check)

    def run_python(
        self,
        source: StrPath,
        args: Sequence[StrPath] = (),
        *,
        cwd: StrPath | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,  # noqa: A002 - subprocess.run's name for it
        timeout: float | None = None,
        check: bool = True,
    ) -> "subprocess.CompletedProcess[Any]":
        """Run a Python script on the login node, by the executor's `python`; `args` are its `sys.argv[1:]`.

        `source` is the text of a script, or a file of this machine: a path, or one line that ends in ".py". A
        `ClusterPath` is a script that is there. What is sent has a folder of its own, and may be as long as it likes.
        It can import what is shipped. All else is as with `run`.

        Raises FileNotFoundError for a script that is not here; one that is not there is the interpreter's error.
        """
        self._check_open()
        script: dict[str, Any] = {
            "args": [text_of(word) for word in args],
            "shipped": self._connection.shipped_path(),
        }
        text = b""
        if isinstance(source, ClusterPath):
            name = script["path"] = place_of(source)
        elif isinstance(source, str) and ("\n" in source or not source.endswith(".py")):
            name, text = "script.py", source.encode()
        else:
            path = Path(source).expanduser()
            name, text = path.name, path.read_bytes()
        script["name"] = name
        command = [self._connection.python, name, *script["args"]]
        words = {"script": script, "cwd": cwd and place_of(cwd), "env": env and dict(env), "timeout": timeout}
        return _runs.run(self._connection.poller, command, words, text, input, check=check)

    def put(
        self,
        local: str | os.PathLike[str],
        remote: StrPath,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> str:
        """Copy a file, or a folder with all that is in it, to the login node; return its path there.

        `remote` is the name that it gets, unless that is a folder and `local` is a file, or it ends in "/": then it
        gets into that folder. A folder onto a folder is merged: files are replaced, others stay. Permissions, times and
        links are kept, but no bit by which a program runs as its owner or group. A file shows under its name when all
        of it is there, and so does a folder that is new. After a lost connection it goes on behind the last whole file.
        `progress(done, total)`, in bytes, is called in this thread.

        Raises OSError for what cannot be read here or written there, and for a link of another account that either path
        names; ConnectionLost where there will be no connection any more; SlurmFuturesError for what would be written
        through a link in the target.
        """
        self._check_open()
        return _files.put(Channel(self._connection.poller), local, place_of(remote), progress)

    def get(
        self,
        remote: StrPath,
        local: str | os.PathLike[str],
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> Path:
        """Copy a file or a folder from the login node; return its path here.

        All else is as with `put`. Where the copy gets into a folder, its name is the last part of `remote`: a path
        without one, such as "~" or "..", raises SlurmFuturesError.
        """
        self._check_open()
        channel = Channel(self._connection.poller)
        return _files.get(channel, place_of(remote), _files.name_of(text_of(remote)), local, progress)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls and end the connection when those under way are done; `login`'s count too.

        With `wait` this returns when all is done and cleared away. With `cancel_futures` calls that have not begun
        are cancelled.
        """
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        poller = self._connection.poller
        poller.stop()
        if wait:
            poller.join()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all calls. Where an exception leaves the block, cancel them, or leave them to the next start.

        The latter is done where there is a checkpoint. A second Ctrl-C ends the waiting for either.
        """
        poller = self._connection.poller
        try:
            if kind is not None:
                self._closed = True
                poller.give_up()
            self.shutdown()
        except KeyboardInterrupt:
            poller.abandon()
            raise

    def __repr__(self) -> str:
        greeting = self._connection.greeting
        state = "closed" if self._closed else f"{len(self._pending())} calls pending"
        return printable(f"<{type(self).__name__} {greeting['scheduler']} on {greeting['host']}: {state}>")


class SlurmView(_Jobs):
    """The same executor with other sbatch options: made by `SlurmExecutor.with_options`."""

    def __init__(self, root: SlurmExecutor, sbatch: Mapping[str, Any]) -> None:
        super().__init__(root._connection)
        self._root = root  # keeps the connection's owner alive
        self._sbatch = dict(sbatch)
        self._spec = _make_spec(sbatch, root._initializer)
        self._own: weakref.WeakSet[SlurmFuture[Any]] = weakref.WeakSet()

    def _send(
        self,
        spec: Spec,
        name: str,
        function: bytes,
        tasks: Sequence[Sequence[bytes]],
        keys: Sequence[Sequence[bytes]] | None,
    ) -> list[SlurmFuture[Any]]:
        self._root._check_open()
        futures = super()._send(spec, name, function, tasks, keys)
        self._own.update(futures)
        return futures

    def _submit_array(self, spec: Spec, text: str) -> SlurmFuture[JobInfo]:
        future = super()._submit_array(spec, text)
        self._own.add(future)
        return future

    def _take_up(self, found: Found, claim: Claim, checkpoint: Checkpoint) -> SlurmFuture[Any] | None:
        self._root._check_open()
        future = super()._take_up(found, claim, checkpoint)
        if future is not None:
            self._own.add(future)
        return future

    def _pending(self) -> list[SlurmFuture[Any]]:
        return [future for future in list(self._own) if not future.done()]

    def with_options(self, **changes: Any) -> "SlurmView":
        """Return an Executor with yet other options; None takes an option away."""
        return SlurmView(self._root, {**self._sbatch, **changes})


class LoginExecutor(View):
    """Calls on the login node, in warm worker processes: `SlurmExecutor.login`.

    A call that crashes its worker fails alone; cancelling a running call ends its worker. `map`'s chunksize has no
    effect here: short calls travel together anyway.
    """

    def __init__(self, root: SlurmExecutor) -> None:
        super().__init__(root._connection)
        self._root = root

    def _add(
        self,
        function: bytes,
        name: str,
        tasks: Sequence[Sequence[bytes]],
        keys: Sequence[Sequence[bytes]] | None,
        shipment: Shipment | None,
    ) -> list[SlurmFuture[Any]]:
        self._root._check_open()
        arguments = [argument for task in tasks for argument in task]
        return self._connection.poller.login.submit(function, arguments, shipment.digest if shipment else "")

    def _pending(self) -> list[SlurmFuture[Any]]:
        return self._connection.poller.login.pending()


def _make_spec(sbatch: Mapping[str, Any], initializer: bytes) -> Spec:
    name, comment, options = split_labels(sbatch)
    return Spec(
        options=render_options(options, known=_KEYWORDS),
        name=job_name_of(name) if name else None,
        comment=comment,
        initializer=initializer,
    )
