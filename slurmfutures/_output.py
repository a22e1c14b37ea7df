"""What jobs have printed, fetched in ranges, so that this process holds it once and the agent never all of it."""

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from ._errors import AgentError, ConnectionLost, give_warning
from ._link import Reply
from ._remote import logs

_AHEAD = 4  # ranges that are asked for at once
_REST = "stdout(limit=None) or stderr(limit=None) returns all"


class Agent(NamedTuple):
    """How the agent is asked for a log, and how a reply is waited for; any thread."""

    ask: Callable[[Mapping[str, Any]], "Future[Reply]"]
    wait: Callable[["Future[Reply]"], Reply]


class Log(NamedTuple):
    """A log: what the agent calls it, and what returns its text where it is kept here."""

    words: Mapping[str, Any]
    kept: Callable[[], str | None] = lambda: None


class _Seen(NamedTuple):
    """A log as its first reply shows it: what of it is to be asked for, and the end, which is here."""

    words: Mapping[str, Any]
    size: int
    end: bytes


def read(agent: Agent, found: Sequence[Log], limit: int | None) -> str:
    """Return several logs, one after the other; of all together the last `limit` bytes, and a note what is left out."""
    if limit is not None and limit < 0:
        raise ValueError(f"limit={limit}: it is a number of bytes, or None for all")
    try:
        return _text(agent, _look(agent, found, logs.RANGE if limit is None else min(limit, logs.RANGE)), limit)
    except (AgentError, ConnectionLost):
        return _text(agent, list(map(_kept, found)), limit)


def ranges(agent: Agent, words: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield all of one log."""
    for piece in _fetched(agent, _pieces(_look(agent, [Log(words)], 0), 0)):
        yield bytes(piece or b"")


def _text(agent: Agent, seen: Sequence[_Seen], limit: int | None) -> str:
    total = sum(log.size for log in seen)
    skip = 0 if limit is None else max(0, total - limit)
    text = logs.note(skip, _REST)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    cut = skip
    for piece in _fetched(agent, _pieces(seen, skip)):
        # In a variable of its own, to which CPython appends in place.
        text += decoder.decode(logs.whole(cut, bytes(piece or b"")), final=piece is None)
        if piece:
            cut = 0
    return text


def _look(agent: Agent, found: Sequence[Log], room: int) -> list[_Seen]:
    """Return how long logs are, with an end of each as long as there is room."""
    share = room // max(1, len(found))
    first = {"offset": None, "tail": share, "size": share, "same": None}
    asked = [(log, log.kept() is None and agent.ask({**log.words, **first})) for log in found]
    return [_first(log, agent.wait(reply)) if reply else _kept(log) for log, reply in asked]


def _first(log: Log, reply: Reply) -> _Seen:
    words, body = reply
    if "refused" in words:
        give_warning(str(words["refused"]))
    again = {**log.words, "part": words.get("part"), "same": words.get("same"), "tail": 0}
    return _Seen(again, int(words.get("size", 0)), bytes(body))


def _kept(log: Log) -> _Seen:
    kept = (log.kept() or "").encode()
    return _Seen({}, len(kept), kept)


def _pieces(seen: Iterable[_Seen], skip: int) -> "Iterator[Mapping[str, Any] | bytes | None]":
    """Yield what is to be read behind the first `skip` bytes: requests, bytes that are here, None at each log's end."""
    for log in seen:
        start = min(skip, log.size)
        skip -= start
        here = log.size - len(log.end)
        for offset in range(start, here, logs.RANGE):
            yield {**log.words, "offset": offset, "size": min(logs.RANGE, here - offset)}
        yield log.end[max(0, start - here) :]
        yield None


def _fetched(agent: Agent, pieces: "Iterator[Mapping[str, Any] | bytes | None]") -> "Iterator[Any]":
    """Yield pieces in their order, as bytes; what is asked for is on its way while those before it are used."""
    waiting: deque[Any] = deque()
    for piece in pieces:
        waiting.append(agent.ask(piece) if isinstance(piece, Mapping) else piece)
        while len(waiting) > _AHEAD:
            yield _body(agent, waiting.popleft())
    while waiting:
        yield _body(agent, waiting.popleft())


def _body(agent: Agent, piece: Any) -> Any:
    return agent.wait(piece).body if isinstance(piece, Future) else piece
