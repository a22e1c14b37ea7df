"""What jobs have printed, fetched in ranges, so that this process holds it once and the agent never all of it."""

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from ._errors import AgentError, ConnectionLost, give_warning
from ._link import MOST_SIZE, Reply, Words
from ._remote import logs

_AHEAD = 4  # ranges that are asked for at once
_REST = "stdout(limit=None) or stderr(limit=None) returns all"


class Agent(NamedTuple):
    """How the agent is asked for a log, and how a reply is waited for; any thread."""

    ask: Callable[[Mapping[str, Any]], "Future[Reply]"]
    wait: Callable[["Future[Reply]"], Reply]


class _Gone(Exception):
    """There is no agent any more, and no other one will be there."""

    def __init__(self, error: "AgentError | ConnectionLost") -> None:
        super().__init__(str(error))
        self.error = error


def _wait(agent: Agent, reply: "Future[Reply]") -> Reply:
    try:
        return agent.wait(reply)
    except (AgentError, ConnectionLost) as error:
        raise _Gone(error) from error


class Log(NamedTuple):
    """A log: what the agent calls it, and what returns its text where it is kept here."""

    words: Mapping[str, Any]
    kept: Callable[[], str | None] = lambda: None


class _Seen:
    """A log as its first reply shows it: what of it is to be asked for, and the end, which is here."""

    def __init__(self, words: Mapping[str, Any], size: int, end: bytes) -> None:
        self.words = words
        self.size = size
        self.end = end
        self.shorter = False  # by now: there is nothing more of it to be read


class _Range(NamedTuple):
    """A part of a log that is to be asked for."""

    log: _Seen
    offset: int
    size: int


class _Asked(NamedTuple):
    """A part of a log that was asked for."""

    log: _Seen
    size: int
    reply: "Future[Reply]"


_Piece = _Range | bytes | None


def read(agent: Agent, found: Sequence[Log], limit: int | None) -> str:
    """Return several logs, one after the other; of all together the last `limit` bytes, and a note what is left out."""
    if limit is not None and limit < 0:
        raise ValueError(f"limit={limit}: it is a number of bytes, or None for all")
    try:
        return _text(agent, _look(agent, found, logs.RANGE if limit is None else min(limit, logs.RANGE)), limit)
    except _Gone:
        return _text(agent, list(map(_kept, found)), limit)


def ranges(agent: Agent, words: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield all of one log."""
    try:
        for piece in _fetched(agent, _pieces(_look(agent, [Log(words)], 0), 0)):
            yield piece or b""
    except _Gone as gone:
        raise gone.error from None


def _text(agent: Agent, seen: Sequence[_Seen], limit: int | None) -> str:
    total = sum(log.size for log in seen)
    skip = 0 if limit is None else max(0, total - limit)
    text = logs.note(skip, _REST)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    cut = skip
    for piece in _fetched(agent, _pieces(seen, skip)):
        # In a variable of its own, to which CPython appends in place.
        text += decoder.decode(logs.whole(cut, piece or b""), final=piece is None)
        if piece:
            cut = 0
    return text


def _look(agent: Agent, found: Sequence[Log], room: int) -> list[_Seen]:
    """Return how long logs are, with an end of each as long as there is room."""
    share = room // max(1, len(found))
    first = {"offset": None, "tail": share, "size": share, "same": None}
    asked = [(log, log.kept() is None and agent.ask({**log.words, **first})) for log in found]
    return [_first(log, _wait(agent, reply), share) if reply else _kept(log) for log, reply in asked]


def _first(log: Log, reply: Reply, share: int) -> _Seen:
    words, body = Words(reply.head, "log"), _body_of(reply, share)
    if "error" in words:  # as where there is no such log
        return _Seen({}, 0, b"")
    if "refused" in words:
        give_warning(words.text("refused"))
    same = None if words.lacks("same") else words.items("same", int, 2)
    again = {**log.words, "part": words.number_or_none("part"), "same": same, "tail": 0}
    return _Seen(again, max(len(body), words.number("size", most=MOST_SIZE)), body)


def _body_of(reply: Reply, most: int) -> bytes:
    if len(reply.body) > most:
        raise Words(reply.head, "log").misfit(f"the body has {len(reply.body)} bytes, not {most} at most,")
    return bytes(reply.body)


def _kept(log: Log) -> _Seen:
    kept = (log.kept() or "").encode()
    return _Seen({}, len(kept), kept)


def _pieces(seen: Iterable[_Seen], skip: int) -> Iterator[_Piece]:
    """Yield what is to be read behind the first `skip` bytes: ranges, bytes that are here, None at each log's end."""
    for log in seen:
        start = min(skip, log.size)
        skip -= start
        here = log.size - len(log.end)
        for offset in range(start, here, logs.RANGE):
            if log.shorter:
                break
            yield _Range(log, offset, min(logs.RANGE, here - offset))
        yield log.end[max(0, start - here) :]
        yield None


def _fetched(agent: Agent, pieces: Iterator[_Piece]) -> "Iterator[bytes | None]":
    """Yield pieces in their order, as bytes; what is asked for is on its way while those before it are used."""
    waiting: deque[_Asked | bytes | None] = deque()
    for piece in pieces:
        if isinstance(piece, _Range):
            asked = agent.ask({**piece.log.words, "offset": piece.offset, "size": piece.size})
            waiting.append(_Asked(piece.log, piece.size, asked))
        else:
            waiting.append(piece)
        while len(waiting) > _AHEAD:
            yield _body(agent, waiting.popleft())
    while waiting:
        yield _body(agent, waiting.popleft())


def _body(agent: Agent, piece: "_Asked | bytes | None") -> bytes | None:
    if not isinstance(piece, _Asked):
        return piece
    found = _body_of(_wait(agent, piece.reply), piece.size)
    piece.log.shorter = piece.log.shorter or not found
    return found
