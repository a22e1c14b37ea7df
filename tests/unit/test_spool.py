"""Names and files in work_dir."""

import os
from pathlib import Path

import pytest

from slurmfutures._remote import payload, publish, spool


@pytest.mark.parametrize(
    ("text", "task", "run", "kind"),
    [
        ("7.c", 7, 0, spool.CLAIM),
        ("7.r", 7, 0, publish.FINAL),
        ("123456.2.x", 123456, 2, spool.END),
        ("0.1.15.p", 0, 1, publish.PARTIAL),
    ],
)
def test_names_are_taken_apart(text: str, task: int, run: int, kind: str) -> None:
    assert spool.parse_name(text) == (text, task, run, kind)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "7",
            "7.z",
            "x.r",
            "7.1.r",
            "7.x",
            "7.1.2.3.p",
            "7.1.p",
            ".7.r.123",
            ".7.x.99",
            "7.r~",
            "7..x",
            "r.7",
        ),
        *("-7.r", "+7.r", "07.r", " 7.r", "7.r\n", "٣.r", "7_0.r", "7.-1.x", "7.01.x", "../7.r", "7.0.r/..", "7..x"),
        *("9" * 11 + ".r", "9" * 5000 + ".r", "7." + "9" * 11 + ".x"),
    ],
)
def test_other_names_are_not_ours(text: str) -> None:
    assert spool.parse_name(text) is None


def test_names_given_to_results_are_read_back() -> None:
    assert spool.parse_name(publish.final_name(3)) == ("3.r", 3, 0, publish.FINAL)
    assert spool.parse_name(publish.partial_name(3, 1, 9)) == ("3.1.9.p", 3, 1, publish.PARTIAL)


def test_what_is_published_is_whole_private_and_alone(weird_tmp_path: Path) -> None:
    publish.publish(str(weird_tmp_path), "7.r", [b"fir", b"st"])
    publish.publish(str(weird_tmp_path), "7.r", [bytearray(b"second")])
    assert [path.name for path in weird_tmp_path.iterdir()] == ["7.r"]
    assert (weird_tmp_path / "7.r").read_bytes() == b"second"
    assert (weird_tmp_path / "7.r").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_published_leaves_what_was_there(tmp_path: Path) -> None:
    publish.publish(str(tmp_path), "7.r", [b"fir", b"st"])
    (tmp_path / f".7.r.{os.getpid()}").mkdir()
    with pytest.raises(OSError):
        publish.publish(str(tmp_path), "7.r", [b"second"])
    assert (tmp_path / "7.r").read_bytes() == b"first"


def test_a_batch_is_written_whole_and_goes_whole(weird_tmp_path: Path) -> None:
    batch = spool.Batch(str(weird_tmp_path), "0123456789ab")
    batch.create({"batch": "0123456789ab"}, "#!/bin/bash\n", b"calls")
    folder = weird_tmp_path / "batches/0123456789ab"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "batch.json": b'{"batch": "0123456789ab"}',
        "calls": b"calls",
        "script.sh": b"#!/bin/bash\n",
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    part = batch.part(2)
    part.create()
    publish.publish(part.results, "7.r", [b"result"])
    assert part.published() == ["7.r"]
    assert part.read("7.r") == part.read("7.r", 6) == b"result"
    assert part.read("7.r", 5) is None
    assert Path(part.log(7, "err")) == folder / "2/l/7.err"
    batch.remove()
    assert not folder.exists()
    batch.remove()


def test_entries_are_read_back_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    batch = spool.Batch(str(tmp_path), "0123456789ab")
    assert list(batch.entries()) == []
    batch.create({}, "", b"")
    batch.record({"part": 0, "name": "ä"})
    batch.record({"part": 0, "job": "7"})
    with open(tmp_path / "batches/0123456789ab/parts.jsonl", "ab") as file:
        file.write(b'{"part": 1, "na')
    again = spool.Batch(str(tmp_path), "0123456789ab")
    assert list(again.entries()) == [{"part": 0, "name": "ä"}, {"part": 0, "job": "7"}]
    again.record({"part": 1})
    assert list(again.entries()) == [{"part": 0, "name": "ä"}, {"part": 0, "job": "7"}, {"part": 1}]


def source(path: Path, data: bytes) -> tuple[spool.ResultSource, list[bool]]:
    path.write_bytes(data)
    told: list[bool] = []
    return spool.ResultSource(str(path), told.append), told


def test_a_large_result_is_read_piece_by_piece(tmp_path: Path) -> None:
    records = bytes(range(256)) * 100
    read, told = source(tmp_path / "7.r", b"".join(payload.pack_results([records])))
    pieces = [read.read(1000) for _ in range(-(-len(read) // 1000))]
    read.over(good=True)
    assert (b"".join(pieces), told) == (records, [True])


def test_a_large_result_that_is_not_whole_is_never_delivered(tmp_path: Path) -> None:
    data = b"".join(payload.pack_results([bytes(5000)]))
    for wrong in (b"", data[:10], data[:-1], data + b"x", b"x" + data[1:]):
        with pytest.raises(ValueError, match="not whole"):
            source(tmp_path / "7.r", wrong)
    read, _ = source(tmp_path / "7.r", data[:-1] + b"x")
    read.read(4000)
    with pytest.raises(ValueError, match="not what was written"):
        read.read(4000)
    read.over(good=False)


def test_a_file_of_words_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = spool.Batch(str(tmp_path), "0123456789ab")
    batch.create({"batch": "0123456789ab", "tasks": 1, "skip": []}, "", b"")
    batch.record({"part": 0})
    monkeypatch.setattr("slurmfutures._remote.entries.MOST_BYTES", 8)
    with pytest.raises(ValueError, match="has more than 8 bytes"):
        batch.spec()
    with pytest.raises(ValueError, match="has more than 8 bytes"):
        list(batch.entries())


@pytest.mark.parametrize(("stream", "worker"), [("log", ""), ("../out", ""), ("out", "x"), ("out", "../0-1"), ("", "")])
def test_only_output_is_a_log(tmp_path: Path, stream: str, worker: str) -> None:
    with pytest.raises(ValueError, match="there is no log"):
        spool.Part(str(tmp_path)).log(0, stream, worker)


def test_the_name_of_a_work_dir_is_made_once_and_read_back(tmp_path: Path) -> None:
    assert spool.read_id(str(tmp_path)) == ""
    name = spool.identify(str(tmp_path))
    assert spool.identify(str(tmp_path)) == spool.read_id(str(tmp_path)) == name
    assert [path.name for path in tmp_path.iterdir()] == ["id"]
