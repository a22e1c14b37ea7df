"""Each module that reads bytes from elsewhere has a parser that is fuzzed, and the list of them is the README's."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import slurmfutures
from tests.fuzz.subjects import PARSERS

ROOT = Path(slurmfutures.__file__).parent
README = Path(__file__).parent / "README.md"
# Calls by which bytes become numbers, values and text.
READS = {"loads", "unpack", "unpack_from", "b64decode", "parse_int", "ZipFile", "read_text", "get_text"}
# Modules that have such calls and no parser of their own, and why.
OTHERS = {
    "_commands.place": "documents of the agent: `test_replies` has them too",
    "_executor": "a cluster's configuration, which `_config` reads",
    "_poller": "records that `_jobinfo` reads",
    "_pool": "records that `_errors` reads",
    "_ship": "users' own code on their own machine",
    "_remote.entries": "what `survey` reads: batch.json and parts.jsonl",
    "_remote.pilot": "the batch that the agent wrote for it: `survey` and `payload` read the same files",
    "_remote.source": "`ships` unpacks by it",
}


def _reading(path: Path) -> bool:
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return any(isinstance(func, ast.Attribute) and func.attr in READS for func in calls)


def _modules() -> Iterator[str]:
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not name.startswith("_demo") and _reading(path):
            yield name


def test_each_module_that_reads_bytes_has_a_parser_that_is_fuzzed() -> None:
    fuzzed = {parser.name.partition(":")[0] for parser in PARSERS}
    missing = [name for name in _modules() if name not in fuzzed and name not in OTHERS]
    assert not missing, f"neither fuzzed nor in OTHERS, with the reason: {missing}"


def test_no_reason_is_given_for_a_module_that_reads_nothing() -> None:
    stale = OTHERS.keys() - {*_modules()}
    assert not stale


def test_the_parsers_are_those_of_the_readme() -> None:
    told = re.findall(r"^\| `([^`]+)` \|", README.read_text(), re.MULTILINE)
    assert told == sorted(parser.name for parser in PARSERS)
