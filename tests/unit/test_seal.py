"""Only who has the key gets in, and what he sends arrives as it was, or not at all."""

import hashlib
import itertools
import json
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurmfutures._remote import seal, wire

KEY = bytes(range(32))


def shake_hands(
    caller: seal.Caller, acceptor: seal.Acceptor, step: int = 1 << 20
) -> tuple[seal.Agreed | None, seal.Agreed | None]:
    """Pass a handshake to and fro in pieces of `step` bytes; return what each side has come to."""
    up, down = b"", acceptor.greeting
    while up or down:
        up, rest = up + caller.feed(down[:step]), down[step:]
        down = rest + acceptor.feed(up[:step])
        up = up[step:]
    return caller.agreed, acceptor.agreed


def connect() -> tuple[seal.Agreed, seal.Agreed]:
    caller, acceptor = shake_hands(seal.Caller(KEY, {"job": 7}), seal.Acceptor(KEY, {"mark": "ü"}))
    assert caller is not None
    assert acceptor is not None
    return caller, acceptor


def received(unsealer: seal.Unsealer, pieces: Sequence[wire.Buffer]) -> bytes:
    return b"".join(bytes(content) for piece in pieces for content in unsealer.feed(piece))


def joined(buffers: Sequence[wire.Buffer]) -> bytes:
    return b"".join(map(bytes, buffers))


# ---- the handshake


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_two_that_have_the_key_agree_and_know_each_others_words(step: int) -> None:
    caller, acceptor = shake_hands(seal.Caller(KEY, {"job": 7}), seal.Acceptor(KEY, {"mark": "ü"}), step)
    assert caller is not None
    assert acceptor is not None
    assert (caller.words, acceptor.words) == ({"mark": "ü"}, {"job": 7})
    assert received(acceptor.unsealer, caller.sealer.seal([b"up"])) == b"up"
    assert received(caller.unsealer, acceptor.sealer.seal([b"down"])) == b"down"


def test_what_comes_behind_the_handshake_is_kept() -> None:
    caller, acceptor = seal.Caller(KEY, {}), seal.Acceptor(KEY, {})
    answer = acceptor.feed(caller.feed(acceptor.greeting))
    assert acceptor.agreed is not None
    caller.feed(answer + joined(acceptor.agreed.sealer.seal([b"at once"])))
    assert caller.agreed is not None
    assert received(caller.agreed.unsealer, [caller.agreed.rest]) == b"at once"


def test_words_of_the_greatest_length_pass_and_longer_ones_are_not_sent() -> None:
    words = {"word": "x" * (seal.MOST_WORDS - len('{"word":""}'))}
    assert shake_hands(seal.Caller(KEY, words), seal.Acceptor(KEY, words))[1] is not None
    with pytest.raises(ValueError, match="too many"):
        seal.Caller(KEY, {"word": words["word"] + "x"})


def test_a_short_key_is_none() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        seal.Acceptor(b"short", {})


def test_another_key_is_turned_away_by_the_acceptor() -> None:
    acceptor = seal.Acceptor(KEY, {})
    with pytest.raises(seal.SealError, match="does not have the key"):
        acceptor.feed(seal.Caller(KEY[::-1], {}).feed(acceptor.greeting))
    assert acceptor.agreed is None


def test_an_acceptor_without_the_key_is_turned_away() -> None:
    caller, other = seal.Caller(KEY, {}), seal.Acceptor(KEY[::-1], {})
    words = caller.feed(other.greeting)
    forged = struct.pack(">I", 2) + b"{}" + bytes(32)
    with pytest.raises(seal.SealError, match="does not have the key"):
        caller.feed(forged)
    assert words
    assert caller.agreed is None


def test_a_recorded_caller_is_turned_away() -> None:
    first, second = seal.Acceptor(KEY, {}), seal.Acceptor(KEY, {})
    recorded = seal.Caller(KEY, {}).feed(first.greeting)
    assert first.feed(recorded)
    with pytest.raises(seal.SealError, match="does not have the key"):
        second.feed(recorded)


def test_a_recorded_acceptor_is_turned_away() -> None:
    acceptor, first, second = seal.Acceptor(KEY, {}), seal.Caller(KEY, {}), seal.Caller(KEY, {})
    recorded = acceptor.feed(first.feed(acceptor.greeting))
    second.feed(acceptor.greeting)
    with pytest.raises(seal.SealError, match="does not have the key"):
        second.feed(recorded)


def test_each_side_turns_its_own_messages_away() -> None:
    acceptor = seal.Acceptor(KEY, {})
    assert acceptor.feed(acceptor.greeting) == b""
    with pytest.raises(seal.SealError):
        acceptor.feed(acceptor.greeting)
    caller = seal.Caller(KEY, {})
    said = caller.feed(seal.Acceptor(KEY, {}).greeting)
    with pytest.raises(seal.SealError):
        caller.feed(said[len(seal.MAGIC) + 32 :])


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n", b"\0" * 100, b"slurmfutures 9\r\n", b"x", b"SSH-2.0-x"])
def test_noise_is_turned_away_at_its_first_bytes(noise: bytes) -> None:
    for side in (seal.Acceptor(KEY, {}), seal.Caller(KEY, {})):
        with pytest.raises(seal.SealError, match="began with"):
            side.feed(noise)


def test_words_are_bounded_before_they_come() -> None:
    with pytest.raises(seal.SealError, match="announced"):
        seal.Acceptor(KEY, {}).feed(seal.MAGIC + bytes(32) + struct.pack(">I", seal.MOST_WORDS + 1))


@pytest.mark.parametrize("words", [b"[1]", b"{", b"\xff", b"[" * 20000])
def test_words_that_are_no_mapping_are_turned_away_though_their_author_has_the_key(words: bytes) -> None:
    acceptor = seal.Acceptor(KEY, {})
    nonces = acceptor.greeting[len(seal.MAGIC) :] + bytes(32)
    mac = hashlib.blake2b(nonces + words, key=KEY, person=b"sf caller proves", digest_size=32).digest()
    with pytest.raises(seal.SealError, match="has words"):
        acceptor.feed(seal.MAGIC + bytes(32) + struct.pack(">I", len(words)) + words + mac)


@given(st.data())
def test_a_byte_changed_anywhere_in_a_handshake_ends_it(data: st.DataObject) -> None:
    caller, acceptor = seal.Caller(KEY, {"job": 1}), seal.Acceptor(KEY, {"mark": "m"})
    stage = data.draw(st.sampled_from(["greeting", "caller", "acceptor"]))

    def change(text: bytes, here: str) -> bytes:
        if here != stage:
            return text
        at = data.draw(st.integers(0, len(text) - 1))
        return text[:at] + bytes([text[at] ^ data.draw(st.integers(1, 255))]) + text[at + 1 :]

    try:
        said = caller.feed(change(acceptor.greeting, "greeting"))
        answer = acceptor.feed(change(said, "caller"))
        caller.feed(change(answer, "acceptor"))
    except seal.SealError:
        pass
    assert caller.agreed is None
    assert (acceptor.agreed is None) == (stage != "acceptor")


# ---- records


@given(
    st.lists(st.lists(st.binary(max_size=200), max_size=12), max_size=8),
    st.lists(st.integers(0, 5000), max_size=20),
)
def test_small_buffers_arrive_however_the_stream_is_cut(sends: list[list[bytes]], cuts: list[int]) -> None:
    caller, acceptor = connect()
    stream = b"".join(joined(caller.sealer.seal(buffers)) for buffers in sends)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert received(acceptor.unsealer, pieces) == b"".join(map(b"".join, sends))


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, seal.RECORD - 1, seal.RECORD, seal.RECORD + 1, 3_000_000])
@pytest.mark.parametrize("step", [1000, 1 << 18, 1 << 30])
def test_buffers_of_any_size_arrive(size: int, step: int) -> None:
    caller, acceptor = connect()
    buffers: list[wire.Buffer] = [b"before", bytearray(range(250)) * (size // 250 + 1), b"", memoryview(b"behind")]
    stream = joined(caller.sealer.seal(buffers))
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert received(acceptor.unsealer, pieces) == joined(buffers)


def test_a_burst_of_small_buffers_is_one_record_and_a_large_one_is_not_copied() -> None:
    caller, acceptor = connect()
    (record,) = caller.sealer.seal([b"x" * 10] * 1000)
    assert [len(content) for content in acceptor.unsealer.feed(record)] == [10_000]
    large = bytes(3 * seal.RECORD)
    sealed = caller.sealer.seal([b"head", large])
    assert sum(isinstance(part, memoryview) and part.obj is large for part in sealed) == 4
    assert max(len(content) for part in sealed for content in acceptor.unsealer.feed(part)) == seal.RECORD


def test_nothing_is_no_record() -> None:
    caller, _ = connect()
    assert caller.sealer.seal([]) == []
    assert caller.sealer.seal([b"", b""]) == []


def test_what_is_verified_may_share_the_memory_that_it_came_in() -> None:
    caller, acceptor = connect()
    data = joined(caller.sealer.seal([b"one"])) + joined(caller.sealer.seal([b"two"]))
    contents = list(acceptor.unsealer.feed(data))
    assert [content.obj is data for content in contents] == [True, True]


def records(count: int = 3) -> tuple[seal.Unsealer, list[bytes]]:
    caller, acceptor = connect()
    return acceptor.unsealer, [joined(caller.sealer.seal([b"record %d" % number])) for number in range(count)]


def test_a_record_that_comes_twice_is_an_error() -> None:
    unsealer, (first, *_) = records()
    assert received(unsealer, [first]) == b"record 0"
    with pytest.raises(seal.SealError):
        received(unsealer, [first])


def test_records_in_another_order_are_an_error() -> None:
    unsealer, (_, second, _) = records()
    with pytest.raises(seal.SealError):
        received(unsealer, [second])


def test_what_was_right_is_handed_over_before_the_error() -> None:
    unsealer, (first, _, third) = records()
    contents = unsealer.feed(first + third)
    assert bytes(next(contents)) == b"record 0"
    with pytest.raises(seal.SealError):
        next(contents)


def test_records_of_the_other_direction_or_another_connection_are_an_error() -> None:
    caller, _ = connect()
    unsealer, _ = records()
    record = joined(caller.sealer.seal([b"x"]))
    for other in (caller.unsealer, unsealer):
        with pytest.raises(seal.SealError):
            received(other, [record])


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_beats_arrive_between_other_records(step: int) -> None:
    caller, acceptor = connect()
    sealer = caller.sealer
    parts = [sealer.beat(), joined(sealer.seal([b"one"])), sealer.beat(), sealer.beat(), joined(sealer.seal([b"two"]))]
    stream = b"".join([*parts, sealer.beat()])
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    contents = [bytes(content) for piece in pieces for content in acceptor.unsealer.feed(piece)]
    assert contents == [b"", b"one", b"", b"", b"two", b""]


def test_a_beat_is_counted_like_any_record() -> None:
    caller, acceptor = connect()
    beats = [caller.sealer.beat() for _ in range(2)]
    for wrong in (beats[1], beats[1] + beats[0], beats[0] * 2, bytes(20)):
        with pytest.raises(seal.SealError, match="forged, changed, or not in its order"):
            received(acceptor.unsealer, [wrong])


@pytest.mark.parametrize("length", [seal.RECORD + 1, 0xFFFFFFFF])
@pytest.mark.parametrize("step", [1, 100])
def test_a_length_that_cannot_be_is_an_error_before_anything_is_kept(length: int, step: int) -> None:
    unsealer, _ = records()
    data = struct.pack(">I", length) + bytes(20)
    with pytest.raises(seal.SealError):
        received(unsealer, [data[at : at + step] for at in range(0, len(data), step)])


@given(st.data())
def test_a_byte_changed_anywhere_lets_nothing_of_its_record_through(data: st.DataObject) -> None:
    unsealer, sent = records()
    stream = bytearray(b"".join(sent))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    found = []
    try:
        for content in unsealer.feed(bytes(stream)):
            found.append(bytes(content))
    except seal.SealError:
        pass
    assert found == [b"record 0", b"record 1", b"record 2"][: at // len(sent[0])]


def test_frames_go_through() -> None:
    caller, acceptor = connect()
    reader = wire.Reader()
    sent = [({"op": "small"}, b""), ({"op": "large"}, bytes(range(256)) * 20_000), ({"op": "last"}, b"x")]
    found = [
        frame
        for head, body in sent
        for buffer in caller.sealer.seal(wire.message(head, body))
        for content in acceptor.unsealer.feed(buffer)
        for frame in reader.feed(content)
    ]
    assert [(frame.head, bytes(frame.body)) for frame in found] == sent
    assert json.dumps(found[0].head)
