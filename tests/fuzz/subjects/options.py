"""Values that users give to sbatch's options, in code and in files."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from slurmfutures import _options
from slurmfutures._remote import jsons
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, json_like

_VALUES: list[Any] = [
    {"time": "01:00:00", "mem": "4G", "nodes": "2-4", "exclusive": True, "ntasks": 4, "gres": ["gpu:1", "b"]},
    {"time_min": 90, "comment": "c", "job_name": "n", "sbatch_args": ["--site=x"]},
]


def _render(data: bytes, folder: Path) -> object:
    options = jsons.loads(data)
    if not isinstance(options, dict):
        raise TypeError("no options")
    _, _, rest = _options.split_labels(options)
    words = _options.render_options(rest)
    assert not any(character in word for word in words for character in "\0\n\r")
    return words


PARSERS = (
    Parser(
        "_options:render_options",
        _render,
        [as_json(value) for value in _VALUES],
        (TypeError, ValueError),
        st.one_of(json_like(_VALUES)),
        tokens=[b'"time"', b'"ntasks"', b'"nodes"'],
    ),
)
