"""The page on the protocol of pilots says what the code does: its numbers and its test vectors are computed here."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from slurmfutures._remote import box, door, home, meeting, pulse, seal, wire

PAGE = (Path(__file__).parents[2] / "docs/pilots-protocol.md").read_text()
VECTORS = dict(re.findall(r"^([a-z0-9, ]+): ([0-9a-f]+)$", PAGE, re.MULTILINE))
LIMITS = re.findall(r"^\| `(\w+)\.(\w+)` \| ([\d,]+) \|", PAGE, re.MULTILINE)


def joined(*parts: wire.Buffer) -> str:
    return b"".join(map(bytes, parts)).hex()


class Nonces:
    """Bytes that are not random."""

    def __init__(self, *bytes_: int) -> None:
        self._bytes = list(bytes_)

    def urandom(self, size: int) -> bytes:
        return bytes([self._bytes.pop(0)]) * size


def test_the_vectors_are_what_both_sides_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "os", Nonces(0xAA, 0xCC))
    key = bytes(range(32))
    acceptor = seal.Acceptor(key, {"mark": "0123456789abcdef"})
    caller = seal.Caller(key, {"pilot": "0123456789ab.0.0"})
    found = {"greeting": joined(acceptor.greeting)}
    said = caller.feed(acceptor.greeting)
    found["caller"] = joined(said)
    answer = acceptor.feed(said)
    found["acceptor"] = joined(answer)
    assert caller.feed(answer) == b""
    pilot, agent = caller.agreed, acceptor.agreed
    assert pilot is not None
    assert agent is not None
    nonces = b"\xaa" * 32 + b"\xcc" * 32
    found["up key"], found["down key"] = (joined(caller._mac(way, nonces)) for way in (seal._UP, seal._DOWN))
    found["up 0"] = joined(*pilot.sealer.seal(wire.message({"op": "leaving"})))
    found["up 1, a beat"] = joined(pilot.sealer.beat())
    found["down 0, a beat"] = joined(agent.sealer.beat())
    found["down 1"] = joined(*agent.sealer.seal(wire.message({"op": "ack"}, (7).to_bytes(8, "big"))))
    assert found == VECTORS
    # And they are understood.
    frames = [
        frame
        for way, unsealer in (("up", agent.unsealer), ("down", pilot.unsealer))
        for name, data in VECTORS.items()
        if re.match(rf"{way} \d", name)
        for content in unsealer.feed(bytes.fromhex(data))
        for frame in wire.Reader().feed(content)
    ]
    assert [frame.head["op"] for frame in frames] == ["leaving", "ack"]


@pytest.mark.parametrize(("module", "name", "value"), LIMITS, ids=[name for _, name, _ in LIMITS])
def test_a_limit_is_what_the_page_says(module: str, name: str, value: str) -> None:
    found: Any = getattr(importlib.import_module(f"slurmfutures._remote.{module}"), name)
    assert float(found) == float(value.replace(",", ""))


def in_words(text: str) -> None:
    assert text in " ".join(PAGE.split()), f"the page does not say {text!r}"


def test_the_other_numbers_are_what_the_page_says() -> None:
    assert len(LIMITS) == 17
    tcp, files = (pulse.INTERVAL[via] for via in ("tcp", "files"))
    in_words(f"every {tcp:.0f} s by TCP, every {files:.0f} s by files")
    in_words(f"noticed within {2 * tcp:.0f} s | within {2 * files:.0f} s |")  # two looks until a beat is sent
    most = [(pulse.MISSED + 1) * interval for interval in (tcp, files)]
    in_words("noticed within {:.0f} s | within {:.0f} s |".format(*most))
    in_words("both have noticed within {:.0f} s | within {:.0f} s |".format(*(2 * seconds for seconds in most)))
    in_words(f"`MAGIC`, `{seal.MAGIC.decode()[:-2]}\\r\\n`")
    in_words(f"{seal.KEY} bytes from `os.urandom`")
    assert pulse.MISSED == 3
    in_words("the third look in a row before")
    in_words(
        f"tries TCP after {home.BY_TCP_AFTER[0]:.0f} s, then after twice as long each time, up to "
        f"{home.BY_TCP_AFTER[1]:.0f} s"
    )
    in_words(f"first, for up to {home.BY_FILES[1]:.0f} s")
    in_words(f"it reads `agent` every {home._MARK['tcp']:.0f} s (every second by files)")
    assert home._MARK["files"] == 1.0
    in_words(f"at most {meeting._MOST_WORDS:,} bytes: `places`")
    in_words(f"At most {box._MOST_UNREAD} files are unread")
    in_words(f"every {1000 * box.QUICK:.0f} ms while there is traffic, and at least every {box.SLOW} s")
    in_words(f"is waited for, up to {box._GAP:.0f} s")
    in_words(f"removes a box {door._LEFT:.0f} s after it has closed it")
    in_words(f"unused for {door._OLD:,.0f} s")
    in_words(f"Refusals are logged, at most {door._MOST_COMPLAINTS} a minute")
    in_words(f"at most {wire.MOST_HEAD:,} for a message")
    assert wire.MOST_BODY == 1 << 40
    held = seal.MOST_WORDS + len(seal.MAGIC) + 32 + 4 + 32 + (1 << 18)
    assert held < 330_000
    assert 1.125 * held * door.MOST_ARRIVALS < 24 << 20  # a bytearray takes an eighth more than it holds
