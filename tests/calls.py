# ruff: noqa: UP006, UP035, UP045 - any Python from 3.8 on may import this
"""Functions that tests have called somewhere else. Light: every job imports it, whatever runs there."""

import ctypes
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple, Type

PATIENCE = 60.0  # seconds after which a call gives up waiting for its test


class Stop(BaseException):
    """Like SystemExit, but not of the standard library."""


_initialized: List[Any] = []
_numbers = itertools.count()


def told(*args: Any, **kwargs: Any) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    return args, kwargs


def square(number: int) -> int:
    return number * number


def add(first: int, second: int) -> int:
    return first + second


def identity(value: Any) -> Any:
    return value


def fail(error: BaseException) -> NoReturn:
    raise error


def fail_in_a_chain() -> NoReturn:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer") from error


def fail_at(bad: int, number: int) -> int:
    if number == bad:
        raise ValueError(number)
    return number


# ---- meeting the test half-way: files in a folder that both see


def mark(folder: str, text: str = "") -> str:
    """Leave a file of its own in the folder and return its name."""
    name = f"{os.getpid()}-{next(_numbers)}"
    with open(os.path.join(folder, "." + name), "w") as file:
        file.write(text)
    os.rename(os.path.join(folder, "." + name), os.path.join(folder, name))
    return name


def wait_for(path: str) -> None:
    """Return when there is a file of this name."""
    end = time.monotonic() + PATIENCE
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.002)


def wait_for_files(folder: str, number: int) -> None:
    """Return when there are so many files."""
    end = time.monotonic() + PATIENCE
    while len(os.listdir(folder)) < number:
        if time.monotonic() > end:
            raise TimeoutError(folder)
        time.sleep(0.002)


def pass_gate(folder: str, value: Any = None) -> Any:
    """Say that this call runs, wait until the gate is opened, return `value`."""
    mark(os.path.join(folder, "entered"), repr(value))
    wait_for(os.path.join(folder, "open"))
    return value


def pass_gate_in(folder: str, value: Any = None) -> Any:
    """The same, and say in which process."""
    mark(os.path.join(folder, "entered"), f"{value!r} {os.getpid()}")
    wait_for(os.path.join(folder, "open"))
    return value


def pass_gate_and_return(folder: str, value: Any = None) -> Any:
    """Wait at the gate; there is a file "returned" beside it once the worker has sent the result and waits for more."""
    worker = threading.get_ident()

    def watch() -> None:
        while sys._current_frames()[worker].f_code.co_name != "_receive":
            time.sleep(0.002)
        open(os.path.join(folder, "returned"), "w").close()

    pass_gate(folder, value)
    threading.Thread(target=watch, daemon=True).start()
    return value


def pass_gate_and_exit(folder: str, code: int) -> NoReturn:
    """Wait at the gate, and end the process behind it."""
    pass_gate(folder)
    os._exit(code)


def append_and_square(path: str, number: int) -> int:
    """Write down that this call ran: a line for each time."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, b"%d\n" % number)
    finally:
        os.close(handle)
    return number * number


def append_after(folder: str, number: int, kills: int) -> int:
    """Write down that this call runs, and in which job; end when there were so many kills."""
    _append_job(folder, number)
    wait_for_files(os.path.join(folder, "kills"), kills)
    return number * number


def pass_gate_and_append(folder: str, path: str, number: int) -> int:
    """Wait at the gate; write down behind it that this call ran."""
    pass_gate(folder)
    append_and_square(path, number)
    return number


def append_and_sleep(folder: str, number: int, seconds: float) -> int:
    """Write down that this call runs, and in which job; take some time."""
    _append_job(folder, number)
    time.sleep(seconds)
    return number * number


def _append_job(folder: str, number: int) -> None:
    handle = os.open(os.path.join(folder, "ran"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        words = [os.environ.get(name, "-") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NAME")]
        os.write(handle, " ".join([str(number), *words, "\n"]).encode())
    finally:
        os.close(handle)


def overlap(log: str, seconds: float) -> None:
    """Write down when this call begins and when it ends."""
    with open(log, "a") as file:
        file.write("+\n")
        file.flush()
        time.sleep(seconds)
        file.write("-\n")


def whereabouts() -> Tuple[str, int]:
    """Return the id of the job that this call runs in, and its process."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format(**os.environ)
    return job, os.getpid()


def whereabouts_at(folder: str) -> Tuple[str, int]:
    """The same, behind the gate: no two of these calls, as many as there are workers, have the same process."""
    pass_gate(folder)
    return whereabouts()


# ---- noise


def speak(out: str, err: str) -> None:
    print(out)
    print(err, file=sys.stderr)


def make_noise() -> str:
    """Write to the standard streams by every way there is."""
    print("by print")
    sys.stdout.write("by write\n")
    os.write(1, b"by descriptor 1\n")
    os.write(2, b"by descriptor 2\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"by C")
    libc.fflush(None)
    subprocess.run(["echo", "by a child"], check=True)
    os.write(1, b"\xff\xfe not UTF-8 \x00\n")
    sys.__stdout__.write("by the original\n")  # type: ignore[union-attr]
    return "heard"


def hear(folder: str, number: int) -> int:
    """Return the number of the first signal that comes; one that ends the process is not heard."""
    heard: List[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    mark(folder)
    end = time.monotonic() + PATIENCE
    while not heard and time.monotonic() < end:
        time.sleep(0.002)
    signal.signal(number, before)
    return heard[0]


def read_stdin() -> str:
    return sys.stdin.read()


# ---- dying


def leave(code: int) -> NoReturn:
    os._exit(code)


def leave_saying(code: int, last_words: str) -> NoReturn:
    print(last_words, file=sys.stderr, flush=True)
    os._exit(code)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def crash() -> None:
    """Read where nothing may be read."""
    sys.stderr.flush()
    ctypes.string_at(0)


def _run_of(path: str) -> int:
    """Write down that this runs, and on which node; return 1 for the first run, and so on."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, os.environ["SLURMD_NODENAME"].encode() + b"\n")
        with open(path) as file:
            return len(file.readlines())
    finally:
        os.close(handle)


def leave_at_first(path: str, times: int, value: Any = None) -> Any:
    """Leave without a result the first `times` times that this is called."""
    run = _run_of(path)
    print("run", run)
    if run <= times:
        os._exit(0)
    return value


def leave_at_first_and_fail(path: str, error: BaseException) -> NoReturn:
    leave_at_first(path, 1)
    raise error


def leave_at_first_and_pass_gate(path: str, folder: str) -> int:
    """Leave at first, then wait at the gate; return the number of runs."""
    leave_at_first(path, 1)
    mark(os.path.join(folder, "entered"), str(os.getpid()))
    wait_for(os.path.join(folder, "open"))
    with open(path) as file:
        return len(file.readlines())


def leave_once_at_one(path: str, folder: str, number: int) -> int:
    """Write each call down; the one with number 1 waits at the gate, and leaves when it does so for the first time."""
    append_and_square(path, number)
    if number == 1:
        pass_gate(folder)
        leave_at_first(path + ".runs", 1)
    return number


def write_down_and_fail(path: str, error: BaseException) -> NoReturn:
    _run_of(path)
    raise error


def write_down_and_leave(path: str, code: int) -> NoReturn:
    _run_of(path)
    os._exit(code)


def fork_and_leave(code: int, folder: str) -> None:
    """Die while a child lives on, until the gate is opened, that holds all that this process holds."""
    if os.fork() == 0:
        os.setsid()
        pass_gate(folder)
        os._exit(0)
    os._exit(code)


def fork_and_pass_gate(folder: str) -> None:
    """Wait at the gate, and have a child in a session of its own do so too."""
    if os.fork() == 0:
        os.setsid()
        pass_gate(folder)
        os._exit(0)
    pass_gate(folder)


def pass_gate_with_a_child(folder: str) -> None:
    """Start a child that tells its process id, and wait at the gate."""
    child = subprocess.Popen(["sleep", str(PATIENCE)])
    mark(os.path.join(folder, "entered"), str(child.pid))
    wait_for(os.path.join(folder, "open"))
    child.kill()


# ---- initializers


def initialize(folder: str, *values: Any) -> None:
    mark(folder)
    _initialized.append(values)


def initialized() -> List[Any]:
    return _initialized


def fail_to_initialize(text: str) -> None:
    raise OSError(text)


# ---- things that do not travel well


class Awkward:
    """Does what it is told when it is pickled or unpickled."""

    def __init__(self, *, pickled: Optional[BaseException] = None, unpickled: Optional[BaseException] = None) -> None:
        self.pickled = pickled
        self.unpickled = unpickled

    def __reduce__(self) -> Any:
        if self.pickled is not None:
            raise self.pickled
        return raise_or_return, (self.unpickled,)


def raise_or_return(error: Optional[BaseException]) -> str:
    if error is not None:
        raise error
    return "unpickled"


class Marked:
    """Leaves a mark in a folder each time that it is unpickled; it is large."""

    def __init__(self, folder: str, size: int) -> None:
        self.folder = folder
        self.data = noise(size)

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        mark(self.folder)


def awkward(**how: Optional[BaseException]) -> Awkward:
    return Awkward(**how)


class NeedsTwo(Exception):
    """Cannot be unpickled: what is pickled of it is one argument."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def raise_needing_two() -> NoReturn:
    raise NeedsTwo("one", "two")


def raise_with_a_lock() -> NoReturn:
    error = ValueError("it holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


class Frozen(Exception):
    """Takes no attributes, not even a cause."""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(name)


def raise_frozen(code: int) -> NoReturn:
    raise Frozen(code)


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class UnpicklableError(Exception):
    """Raises something that is no Exception when it is pickled."""

    def __reduce__(self) -> Any:
        raise Stop


def raise_new(kind: Type[BaseException], *arguments: Any) -> NoReturn:
    raise kind(*arguments)


def lock() -> Any:
    return threading.Lock()


def numbers() -> Iterator[int]:
    yield from range(3)


# ---- much


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(size: int) -> bytes:
    """Return bytes that are always the same, and that no compression makes less."""
    return hashlib.shake_128(b"noise").digest(size)
