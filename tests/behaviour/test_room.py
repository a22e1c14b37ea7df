"""Results for which there is no room in work_dir."""

import os
import subprocess
from pathlib import Path

import pytest

from slurmfutures import ResultLost
from tests.fix_executors import HERE, Opener
from tests.waiting import DEADLINE


@HERE
def test_each_result_without_room_is_told_of_by_itself(opener: Opener, scheduler: str, small_disk: Path) -> None:
    executor = opener.root(scheduler, work_dir=small_disk)
    results = executor.map(os.urandom, [8, 5 << 20, 6 << 20], chunksize=3)
    assert len(next(results)) == 8
    with pytest.raises(ResultLost, match=f"No space left on device .{(5 << 20) + 9} bytes"):
        next(results)


@HERE
def test_a_result_waits_for_room_that_is_short_for_a_moment(opener: Opener, scheduler: str, small_disk: Path) -> None:
    executor = opener.root(scheduler, work_dir=small_disk)
    future = executor.submit(fill_for_a_moment, str(small_disk / "filled"), 7)
    assert future.result(DEADLINE) == 7
    names = {path.name for path in small_disk.glob("batches/*/0/r/*")}
    assert "0.r" in names
    assert any(name.endswith(".p") for name in names), "there was room at once"


def fill_for_a_moment(path: str, value: int) -> int:
    with open(path, "wb", 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    subprocess.Popen(["sh", "-c", 'sleep 0.5; rm "$0"', path])
    return value
