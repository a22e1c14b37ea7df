"""What an array task publishes."""

import threading
from pathlib import Path

from slurmfutures._remote import job, payload
from tests.waiting import DEADLINE, until


def test_a_result_waits_for_room_that_is_short_for_a_moment(small_disk: Path) -> None:
    results, filler = small_disk / "r", small_disk / "filler"
    results.mkdir()
    with filler.open("wb", 0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    publisher = job._Publisher(str(results), 7, 0)
    publisher.add(3, payload.OK, b"result")
    finishing = threading.Thread(target=publisher.finish)
    finishing.start()
    until(lambda: publisher._number > 1)  # the first time was in vain
    filler.unlink()
    finishing.join(DEADLINE)
    body = payload.unpack_results((results / f"7.0.{publisher._number}.p").read_bytes())
    assert body is not None
    assert [(record.call, bytes(record.payload)) for record in payload.records(body)] == [(3, b"result")]
    assert (results / "7.r").exists()
