"""A batch script that is a job array: one future for all of its tasks."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import Any

from ._batcher import Batch, Claim, Spec
from ._checkpoint import Checkpoint, Found
from ._errors import JobError
from ._future import SlurmFuture
from ._jobinfo import JobInfo, info_of_array
from ._remote import arrays
from ._remote.states import JobState


def submit_array(
    spec: Spec,
    text: str,
    checkpoint: Checkpoint | None,
    take_up: Callable[[Found, Claim, Checkpoint], SlurmFuture[Any] | None],
    send: Callable[[Spec, str, bytes, Sequence[Sequence[bytes]], Sequence[Sequence[bytes]] | None], list[Any]],
) -> "ArrayFuture":
    """Submit a script that is a job array: of its tasks those that the checkpoint does not have, done or under way.

    `take_up` and `send` are the executor's.
    """
    assert spec.name is not None
    assert spec.script is not None
    data = text.encode()
    indices = sorted(arrays.parse(spec.script.array).indices)
    arguments = [b"%d" % index for index in indices]
    futures: list[SlurmFuture[JobInfo] | None] = [None] * len(indices)
    found = checkpoint.find_array(text, spec.script.cwd, indices) if checkpoint is not None else []
    if checkpoint is not None:
        for task, one in enumerate(found):
            futures[task] = one.future
            if one.future is None and one.place is not None:
                futures[task] = take_up(one, Claim(spec, spec.name, data, arguments[task]), checkpoint)
    new = [task for task, future in enumerate(futures) if future is None]
    if new:
        keys = None if checkpoint is None else [[found[task].key] for task in new]
        added = iter(send(spec, spec.name, data, [[arguments[task]] for task in new], keys))
        futures = [next(added) if future is None else future for future in futures]
    return ArrayFuture([future for future in futures if future is not None])


class ArrayFuture(SlurmFuture[JobInfo]):
    """The future of an array; over when all of its tasks are."""

    def __init__(self, tasks: Sequence[SlurmFuture[JobInfo]]) -> None:
        """`tasks` are their futures, in the order of their array indices."""
        super().__init__(_Tasks(tasks), 0)
        countdown = _Countdown(self, tasks)
        for task in tasks:
            task.add_done_callback(countdown)

    def running(self) -> bool:
        """Whether one task at least has begun, and not all are over."""
        return not self.done() and self._place[0].state(0) == JobState.RUNNING


class _Tasks:
    """Owner of an array's future."""

    def __init__(self, tasks: Sequence[SlurmFuture[JobInfo]]) -> None:
        self._tasks = tasks

    def job_id(self, call: int) -> str | None:
        found = next((task.job_id for task in self._tasks if task.job_id is not None), None)
        return found and found.partition("_")[0]

    def state(self, call: int) -> JobState:
        begun = False
        state = JobState.PENDING
        for task in self._tasks:
            if task.done():
                begun = True
                continue
            state = task.state
            if state == JobState.RUNNING:
                return state
        return JobState.RUNNING if begun else state

    def log(self, call: int, stream: str, limit: int | None) -> str:
        places = (task._place for task in self._tasks)
        # A task without a batch has its result from the checkpoint.
        calls = [(owner, number) for owner, number in places if isinstance(owner, Batch)]
        return calls[0][0].control.log(calls, stream, limit) if calls else ""

    def cancel(self, call: int) -> None:
        for task in self._tasks:
            task.cancel()

    def hurry(self) -> None:
        for task in self._tasks:
            task._place[0].hurry()


class _Countdown:
    """Called at the end of each task; at the last one it resolves the whole, and forgets what it holds."""

    def __init__(self, whole: ArrayFuture, tasks: Sequence[SlurmFuture[JobInfo]]) -> None:
        self._lock = threading.Lock()  # guards _left
        self._left = len(tasks)
        self._whole: ArrayFuture | None = whole
        self._tasks = tasks

    def __call__(self, _: Any) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        whole, tasks = self._whole, self._tasks
        self._whole, self._tasks = None, ()
        assert whole is not None
        if any(task.cancelled() for task in tasks):
            whole.cancel()
            return
        with suppress(InvalidStateError):  # it was cancelled
            _resolve(whole, tasks)


def _resolve(whole: ArrayFuture, tasks: Sequence[SlurmFuture[JobInfo]]) -> None:
    """Resolve the whole by what became of its tasks, which are over."""
    infos: list[JobInfo] = []
    failed: list[JobError] = []
    for task in tasks:
        error = task.exception()
        if error is None:
            infos.append(task.result())
        elif isinstance(error, JobError) and error.info is not None:
            failed.append(error)
            infos.append(error.info)
        else:  # it was not submitted, or nobody knows how it ended
            whole.set_exception(error)
            return
    info = info_of_array(infos)
    if failed:
        failed[0].info = info
        failed[0].failed_tasks = len(failed), len(tasks)
        whole.set_exception(failed[0])
    else:
        whole.set_result(info)
