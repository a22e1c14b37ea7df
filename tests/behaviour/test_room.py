"""Results for which there is no room in work_dir."""

import os
from pathlib import Path

import pytest

from slurmfutures import ResultLost
from tests.fix_executors import HERE, Opener


@HERE
def test_each_result_without_room_is_told_of_by_itself(opener: Opener, scheduler: str, small_disk: Path) -> None:
    executor = opener.root(scheduler, work_dir=small_disk)
    results = executor.map(os.urandom, [8, 5 << 20, 6 << 20], chunksize=3)
    assert len(next(results)) == 8
    with pytest.raises(ResultLost, match=f"No space left on device .{(5 << 20) + 9} bytes"):
        next(results)
