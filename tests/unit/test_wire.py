"""Frames survive any way in which a stream may be cut into pieces."""

import random
import tracemalloc

import pytest

from slurmfutures._remote import wire


def stream() -> bytes:
    parts = [
        *wire.message({"op": "hello", "text": "ü\n\0"}),
        *wire.packed(wire.CALLS, [b"abc", b"", b"\xff" * 1000]),
        *wire.message({"op": "body"}, b"x" * 5000),
        *wire.packed(wire.RESULTS, []),
    ]
    return b"".join(bytes(part) for part in parts)


def frames(pieces: list[bytes]) -> list[wire.Frame]:
    reader = wire.Reader()
    return [frame for piece in pieces for frame in reader.feed(piece)]


WHOLE = [
    wire.Frame(wire.MESSAGE, {"op": "hello", "text": "ü\n\0"}, b""),
    wire.Frame(wire.CALLS, None, b"abc" + b"\xff" * 1000),
    wire.Frame(wire.MESSAGE, {"op": "body"}, b"x" * 5000),
    wire.Frame(wire.RESULTS, None, b""),
]


def test_a_stream_in_one_piece_gives_its_frames() -> None:
    assert frames([stream()]) == WHOLE


def test_a_stream_byte_by_byte_gives_the_same_frames() -> None:
    data = stream()
    assert frames([data[at : at + 1] for at in range(len(data))]) == WHOLE


@pytest.mark.parametrize("seed", range(30))
def test_a_stream_cut_anywhere_gives_the_same_frames(seed: int) -> None:
    data = stream()
    chosen = random.Random(seed)
    cuts = sorted(chosen.randrange(len(data)) for _ in range(chosen.randrange(1, 20)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert frames(pieces) == WHOLE


def test_frames_after_one_that_was_taken_alone_are_kept() -> None:
    reader = wire.Reader()
    first = next(iter(reader.feed(stream())))
    assert [first, *reader.feed(b"")] == WHOLE


@pytest.mark.parametrize(
    "noise",
    [
        b"Welcome to the cluster!\n",
        b"\0" * 20,
        b"\x01\xff\xff\xff\xff" + b"\0" * 8,
        b"\x01\0\0\0\x02" + b"\0" * 8 + b"{]",
        b"\x04\0\0\0\x01" + b"\0" * 7 + b"\x05short",
        b"\x04\0\0\0\x01" + b"\0" * 7 + b"\x10" + b"\x01" + b"\0" * 12 + b"abc",
    ],
)
def test_what_is_not_a_frame_is_an_error(noise: bytes) -> None:
    with pytest.raises(wire.WireError):
        frames([noise])


LARGE = wire.Frame(wire.MESSAGE, {"op": "large"}, bytes(range(256)) * 8192)


@pytest.mark.parametrize("size", [1000, 100_000, 1 << 30])
def test_a_large_frame_is_put_together(size: int) -> None:
    data = b"".join([*wire.message({"op": "large"}, LARGE.body), stream()])
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert frames(pieces) == [LARGE, *WHOLE]


# ---- envelopes


SYNC = b"\x01sync\0\xff\x02"


@pytest.mark.parametrize("seed", range(20))
def test_envelopes_are_opened_however_the_stream_is_cut_and_what_is_between_them_is_dropped(seed: int) -> None:
    chosen = random.Random(seed)
    contents = [chosen.randbytes(chosen.choice([0, 1, 100, wire.ENVELOPED])) for _ in range(20)]
    noise = [b"", b"You have mail\n", SYNC[:5], bytes(10_000), SYNC[:7] + b"x"]
    data = b"".join(chosen.choice(noise) + wire.enveloped(SYNC, content) for content in contents) + b"logout\n"
    assert len(wire.enveloped(SYNC, bytes(wire.ENVELOPED))) == 4096
    opener = wire.Opener(SYNC)
    opened = b""
    while data:
        size = chosen.choice([1, 7, 1000, 50_000])
        opened += opener.feed(data[:size])
        data = data[size:]
    assert opened == b"".join(contents)


# ---- what an agent that means no good may send


def prefix(kind: int, head: int, body: int) -> bytes:
    return wire.PREFIX.pack(kind, head, body)


def message(head: bytes, body: int = 0) -> bytes:
    return prefix(wire.MESSAGE, len(head), body) + head


HEADS = {
    "deep": b"[" * 100_000,
    "deeper": b'{"op":' * 200_000,
    "a number of many digits": b'{"op":"x","n":' + b"9" * 100_000 + b"}",
    "not a number": b'{"op":"x","n":NaN}',
    "a list": b'["op"]',
    "a number": b"7",
    "null": b"null",
    "nothing": b"",
    "no op": b'{"id":1}',
    "an op that is no word": b'{"op":["reply"]}',
    "not UTF-8": b'{"op":"\xff"}',
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("body", [0, 2 << 20], ids=["small", "large"])
def test_a_head_that_is_none_is_an_error(head: bytes, body: int) -> None:
    with pytest.raises(wire.WireError, match="a frame whose head"):
        frames([message(head, body) + bytes(body)])


def test_a_number_without_end_is_one() -> None:
    assert frames([message(b'{"op":"x","n":Infinity}')])[0].head["n"] == float("inf")


@pytest.mark.parametrize(
    "start",
    [
        prefix(wire.MESSAGE, wire.MOST_HEAD + 1, 0),
        prefix(wire.RESULTS, 0, wire.MOST_BODY + 1),
        prefix(wire.RESULTS, 0, (1 << 64) - 1),
        prefix(wire.RESULTS, 1, 1) + b"{}",
        prefix(wire.CALLS, 5, 0),
        prefix(wire.PART, 1, 2 << 20),
        prefix(wire.GOT, 1, 1),
        prefix(wire.PART, 1, 13) + prefix(wire.PART, 1, 1),
        prefix(wire.PART, 1, 13) + prefix(wire.MESSAGE, wire.MOST_HEAD + 1, 0),
    ],
)
def test_a_length_that_cannot_be_is_an_error_before_anything_follows(start: bytes) -> None:
    with pytest.raises(wire.WireError):
        frames([start])


@pytest.mark.parametrize(
    "announced",
    [
        prefix(wire.RESULTS, 0, wire.MOST_BODY) + bytes(1000),
        message(b'{"op":"x"}', wire.MOST_BODY) + bytes(1000),
        prefix(wire.MESSAGE, wire.MOST_HEAD, 0) + b"{",
        b"".join(prefix(wire.PART, n, 13) + prefix(wire.MESSAGE, wire.MOST_HEAD, 0) for n in range(wire.MOST_LANES)),
    ],
    ids=["results", "body", "head", "lanes"],
)
def test_what_is_only_announced_takes_no_memory(announced: bytes) -> None:
    reader = wire.Reader()
    tracemalloc.start()
    try:
        for at in range(0, len(announced), 1000):
            assert list(reader.feed(announced[at : at + 1000])) == []
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_large_frames_at_once_are_counted() -> None:
    begun = [prefix(wire.PART, n, 13) + prefix(wire.RESULTS, 0, 100) for n in range(wire.MOST_LANES + 1)]
    with pytest.raises(wire.WireError, match="large frames at once"):
        frames(begun)


def test_place_is_told_how_long_a_body_is_and_may_refuse_it() -> None:
    asked: list[object] = []

    def refuse(head: object, size: int) -> None:
        asked.append((head, size))
        raise wire.WireError("too much")

    for start in (message(b'{"op":"x"}', 2 << 20), prefix(wire.RESULTS, 0, 3 << 20)):
        with pytest.raises(wire.WireError, match="too much"):
            list(wire.Reader(refuse).feed(start))
    assert asked == [({"op": "x"}, 2 << 20), (None, 3 << 20)]
