"""Files and folders as a stream of bytes."""

import hashlib
import os
import shutil
from pathlib import Path

from hypothesis import strategies as st

from slurmfutures._remote import tree
from tests.fuzz.harness import Parser


def record(kind: bytes, name: bytes, content: bytes = b"", mode: int = 0o644, mtime: int = 10**18) -> bytes:
    size = len(content)
    data = tree._RECORD.pack(kind, mode, mtime, len(name), size) + name + content
    return data + hashlib.blake2b(content, digest_size=tree.DIGEST).digest() if kind == b"f" else data


_FOLDER = [record(b"d", b"", mode=0o755), record(b"f", b"a", b"abc"), record(b"d", b"in"), record(b"f", b"in/b", b"")]
_END = record(b"e", b"", mode=0, mtime=0)
_SEEDS = [
    b"".join([*_FOLDER, record(b"l", b"link", b"../elsewhere"), _END]),
    record(b"d", b"") + _END,
]


def _unpack(data: bytes, folder: Path) -> object:
    """Unpack a folder into one that is there, with links to the outside in it, and into one that is not."""
    place = folder / "place"
    outside = folder / "outside"
    found = None
    for merged in (False, True):
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(outside, ignore_errors=True)
        outside.mkdir()
        (outside / "kept").write_text("as it was")
        place.mkdir()
        if merged:
            (place / "target").mkdir()
            (place / "target" / "in").symlink_to(outside)
            (place / "target" / "a").symlink_to(outside / "kept")
        unpacker = tree.Unpacker(str(place / "target"), "0123", "name", folder=True)
        try:
            step = 1 + len(data) // 3
            for at in range(0, len(data), step):
                unpacker.feed(data[at : at + step])
            if unpacker.complete:
                unpacker.finish()
        except (tree.TreeError, OSError):
            if not merged:
                raise
        finally:
            unpacker.discard()
            assert os.listdir(outside) == ["kept"]
            assert (outside / "kept").read_text() == "as it was"
            assert set(os.listdir(place)) <= {"target"}
        found = sorted(map(str, place.rglob("*")))
    return found


_NAMES = st.sampled_from(
    (
        b"",
        b"a",
        b"in",
        b"in/b",
        b"in/in/c",
        b"..",
        b".",
        b"/x/y",
        b"../x",
        b"in/../x",
        b"a/b",
        b"a\0b",
        b"\xff",
        b"x" * 300,
    )
)
_MODES = st.sampled_from((0, 0o644, 0o755, 0o4755, 0o7777, 0xFFFFFFFF))
_TIMES = st.sampled_from((0, -1, 10**18, 2**63 - 1, -(2**63)))
_CONTENTS = st.sampled_from((b"", b"abc", b"../x", b"/", b"\0", b"x" * 5000))


@st.composite
def _records(draw: st.DrawFn) -> bytes:
    kinds = st.sampled_from((b"d", b"f", b"l", b"e", b"x"))
    some = st.builds(record, kinds, _NAMES, _CONTENTS, _MODES, _TIMES)
    parts = draw(st.lists(st.one_of(some, some, st.sampled_from(_FOLDER)), max_size=6))
    return b"".join([record(b"d", b""), *parts, _END][draw(st.integers(0, 1)) :])


PARSERS = (
    Parser(
        "_remote.tree:Unpacker.feed",
        _unpack,
        _SEEDS,
        (tree.TreeError, OSError),
        _records(),
        writes=True,
        repeated=[_FOLDER[2], record(b"l", b"x", b"y"), record(b"f", b"b", b"x" * 60_000)],
        tokens=[tree._RECORD.pack(b"f", 0, 0, 1, size) + b"q" for size in (1 << 30, 1 << 62, 1 << 63, (1 << 64) - 1)]
        + [tree._RECORD.pack(b"l", 0, 0, 1, size) + b"q" for size in (1 << 20, 1 << 40, (1 << 64) - 1)],
    ),
)
