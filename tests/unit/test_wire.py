"""Frames survive any way in which a stream may be cut into pieces."""

import random

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
