"""Frames and envelopes, between client, agent, workers and pilots."""

import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from slurmfutures._remote import wire
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, json_like

HEADS: list[Any] = [
    {"op": "hello", "session": "0123456789ab", "version": 3},
    {"op": "results", "batch": "0123456789ab", "done": [0, 1], "earlier": [], "attempt": 0},
    {"op": "reply", "id": 7, "ended": [[0, 5]]},
]
SYNC = b"SYNCHRON"
_EXTREMES = st.sampled_from((0, 1, 2, 13, 4096, 1 << 16, 1 << 20, 1 << 28, (1 << 28) + 1, (1 << 32) - 1))
_SIZES = st.one_of(_EXTREMES, st.sampled_from((1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)))


def _joined(buffers: Any) -> bytes:
    return b"".join(map(bytes, buffers))


def _read(data: bytes, folder: Path) -> object:
    frames = list(wire.Reader().feed(data))
    reader = wire.Reader()
    step = 1 + len(data) // 7
    again = [frame for at in range(0, len(data), step) for frame in reader.feed(data[at : at + step])]
    assert again == frames
    return frames


def _open(data: bytes, folder: Path) -> object:
    opener = wire.Opener(SYNC)
    step = 1 + len(data) // 7
    found = b"".join(opener.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert found == wire.Opener(SYNC).feed(data)
    return found


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    found = []
    for _ in range(draw(st.integers(1, 4))):
        head = draw(st.one_of(st.binary(max_size=20), json_like(HEADS), st.just(b"[" * 5000)))
        body = draw(st.binary(max_size=20))
        kind = draw(st.one_of(st.integers(0, 6), st.just(255)))
        sizes = draw(st.sampled_from((len(head), 0))), len(body)
        if draw(st.integers(0, 3)) == 0:
            sizes = draw(_EXTREMES), draw(_SIZES)
        frame = wire.PREFIX.pack(kind, *sizes) + head + body
        if draw(st.booleans()):  # in a piece of a lane
            frame = wire.PREFIX.pack(wire.PART, draw(st.integers(0, 2)), len(frame)) + frame
        found.append(frame)
    return b"".join(found)


@st.composite
def _envelopes(draw: st.DrawFn) -> bytes:
    noise = st.one_of(st.binary(max_size=20), st.sampled_from((SYNC, SYNC[:5], SYNC[3:])))
    sizes = st.one_of(st.integers(0, 20), st.just(65535))
    part = st.one_of(noise, st.builds(lambda n, data: SYNC + struct.pack(">H", n) + data, sizes, st.binary()))
    return b"".join(draw(st.lists(part, max_size=8)))


SEEDS = [
    _joined(wire.message(HEADS[0])),
    _joined([*wire.message(HEADS[1], b"x" * 300), *wire.packed(wire.RESULTS, [b"abc", b"d" * 100]), *wire.got(3)]),
    wire.PREFIX.pack(wire.PART, 1, 50) + (_joined(wire.message({"op": "large"}, b"y" * 300)))[:50],
]

PARSERS = (
    Parser(
        "_remote.wire:Reader.feed",
        _read,
        SEEDS,
        (wire.WireError,),
        _frames(),
        repeated=[
            SEEDS[0],
            wire.PREFIX.pack(wire.GOT, 1, 0),
            wire.PREFIX.pack(wire.PART, 1, 0),
            _joined(wire.packed(wire.CALLS, [])),
            wire.PREFIX.pack(wire.MESSAGE, 100_002, 0) + b"[" * 100_000 + b"{}",
        ],
        tokens=[wire.PREFIX.pack(wire.MESSAGE, size, 0) for size in (1 << 20, 1 << 28, (1 << 32) - 1)]
        + [wire.PREFIX.pack(wire.RESULTS, 0, size) for size in (1 << 21, 1 << 40, 1 << 63, (1 << 64) - 1)]
        + [as_json(HEADS[0])],
    ),
    Parser(
        "_remote.wire:Opener.feed",
        _open,
        [wire.enveloped(SYNC, b"abc"), b"Welcome\n" + wire.enveloped(SYNC, b"x" * 500) + wire.enveloped(SYNC, b"")],
        more=_envelopes(),
        repeated=[wire.enveloped(SYNC, b""), wire.enveloped(SYNC, b"abc"), SYNC[:7], SYNC + b"\xff\xff"],
    ),
)
