"""What a checkpoint says of its calls, without asking anybody else; and where it says that they are."""

import argparse
import bisect
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from .. import SlurmFuturesError
from .._journal import Scan
from .._records import Batch, Contents
from .place import Place
from .table import age, count, show_lines, show_table

_MOST = 100  # failures that are listed


def load(path: str) -> Scan:
    """Read a checkpoint, whoever has it open. Raises SlurmFuturesError where it cannot be, or is damaged."""
    try:
        scan = Scan(os.path.realpath(os.path.expanduser(path)))
    except OSError as error:
        raise SlurmFuturesError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    if scan.problem is not None:
        raise scan.problem
    return scan


def place_in(scan: Scan, parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Place:
    """Return where its calls are: what the last driver was told, but for what the flags say otherwise."""
    known: Mapping[str, Any] = scan.contents.opened.get("place", {})
    if not known:
        raise SlurmFuturesError(f"the checkpoint {scan.path} was never used: it has no calls")
    flags = {name: getattr(arguments, name) for name in Place._fields}
    said = {name: value for name, value in flags.items() if value != parser.get_default(name)}
    words = {**known, **said}
    return Place(**{**words, "jump": tuple(words["jump"])})


def document(scan: Scan) -> dict[str, Any]:
    """Return the JSON document: see docs/command-line.md."""
    contents = scan.contents
    opened = contents.opened
    return {
        "checkpoint": scan.path,
        "bytes": scan.size,
        "now": time.time(),
        "opened": opened.get("time"),
        "where": opened.get("where"),
        "place": opened.get("place"),
        "driver": holder(scan),
        "calls": {
            "finished": len(contents.finished),
            "under_way": len(contents.flying),
            "failed": len(contents.failures),
        },
        "batches": [_batch_words(batch) for batch in contents.batches.values() if not (batch.closed or batch.pool)],
        "pools": _pools(contents),
        "failures": _failures(contents),
    }


def has_pilots(scan: Scan, batch: Mapping[str, Any]) -> bool:
    """Whether a batch, as a survey tells of it, has pilots of this checkpoint."""
    return bool(batch["pool"]) and batch["session"] == scan.id


def holder(scan: Scan) -> str | None:
    """Return who has it open, "process 123 on host"; None where nobody does, so far as can be seen from here."""
    match = re.fullmatch(r"process (\d+) on (.*)", scan.owner)
    if match is None or (match[2] == socket.gethostname() and not os.path.exists(f"/proc/{match[1]}")):
        return None
    return scan.owner


def _batch_words(batch: Batch) -> dict[str, Any]:
    return {
        "batch": batch.id,
        "name": batch.words["name"],
        "options": batch.words["options"],
        "made": batch.words["time"],
        "tasks": len(batch.firsts),
        "calls": len(batch.keys),
        "under_way": len(batch.open),
        "jobs": list(dict.fromkeys(part["job"] for part in batch.parts)),
    }


def _pools(contents: Contents) -> list[dict[str, Any]]:
    """Return what is known of the calls for pilots that are not done with, pool by pool."""
    found: dict[str, dict[str, Any]] = {}
    for batch in contents.batches.values():
        if batch.pool and not batch.closed:
            words = batch.words
            fresh = {"pool": batch.pool, "name": words["name"], "options": words["options"], "made": words["time"]}
            pool = found.setdefault(batch.pool, {**fresh, "calls": 0, "under_way": 0})
            pool["calls"] += len(batch.keys)
            pool["under_way"] += len(batch.open)
    return list(found.values())


def _failures(contents: Contents) -> list[dict[str, Any]]:
    found = []
    for failure in contents.failures.values():
        batch = contents.batches.get(failure.batch)
        known = batch is not None and not batch.closed and not batch.pool
        task = bisect.bisect_right(batch.firsts, failure.call) - 1 if batch is not None and known else None
        found.append(
            {
                "call": f"{failure.batch}:{task}" if known else None,
                "batch": failure.batch,
                "pool": (batch.pool or None) if batch is not None else None,
                "job": failure.words.get("job"),
                "kind": failure.words.get("kind"),
                "said": failure.words.get("said"),
                "time": failure.words.get("time"),
            }
        )
    return found


def show(found: Mapping[str, Any]) -> None:
    """Show a document in words."""
    calls, now = found["calls"], found["now"]
    states = f"{calls['finished']} finished, {calls['under_way']} under way, {calls['failed']} failed"
    driver = f"open in {found['driver']}" if found["driver"] else "not open"
    opened = f"last opened {age(now - found['opened'])} ago, for {found['where']}" if found["opened"] else "never used"
    show_lines([f"{found['checkpoint']}: {states}", f"{driver}; {opened}"])
    for what in ("batch", "pool"):
        some = found["batches" if what == "batch" else "pools"]
        headings = (what, "name", "made", "calls", "under way", *(["jobs"] if what == "batch" else []))
        if some:
            show_table(headings, [_row(it, what, now) for it in some], numbers=("made", "calls", "under way"))
    failures = found["failures"]
    if failures:
        show_lines([f"{count(len(failures), 'call')} failed, and run again when they are asked for:"])
        rows_of_failures = [
            (
                it["call"] or _pool_words(it["pool"]) or it["batch"],
                it["job"] or "",
                age(now - it["time"]) if it["time"] else "",
                it["said"] or "",
            )
            for it in failures[:_MOST]
        ]
        show_table(("call", "job", "ago", "said"), rows_of_failures, numbers=("ago",))
        if len(failures) > _MOST:
            show_lines([f"and {len(failures) - _MOST} more: --json has them all"])


def _row(found: Mapping[str, Any], what: str, now: float) -> list[str]:
    row = [found[what], found["name"], age(now - found["made"]), str(found["calls"]), str(found["under_way"])]
    return [*row, " ".join(found["jobs"])] if "jobs" in found else row


def _pool_words(pool: str | None) -> str:
    return f"pool {pool}" if pool else ""
