"""Clusters in files."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from slurmfutures._config import ClusterConfig
from slurmfutures._remote import jsons
from tests.fuzz.harness import Parser
from tests.fuzz.inputs import as_json, json_like

_TOML = [
    b'host = "me@login"\nmax-workers = 7\npartition = "cpu"\ntime = 01:30:00\n[sbatch]\nmem = "4G"\n',
    b'default = "a"\nretries = 1\n[clusters.a]\nhost = {address = "login"}\njump = ["gate", "g2"]\n[clusters.b]\n',
]
_YAML = [
    b"host: me@login\nmax_workers: 7\ntime: 01:30:00\nsbatch: {mem: 4G}\n",
    b"default: a\nclusters:\n  a:\n    host: {address: login}\n    ship: [a, b]\n  b: {}\n",
]
_MAPPINGS: list[Any] = [
    {"host": "me@login", "jump": ["gate", {"address": "g2"}], "retries": 1, "heartbeat": 30.0, "sbatch": {"mem": "4G"}},
    {"default": "a", "clusters": {"a": {"host": "login", "max_workers": 3, "ship": ["x"]}, "b": {}}},
]


def _file(ending: str, data: bytes, folder: Path) -> object:
    path = folder / f"clusters.{ending}"
    path.write_bytes(data)
    return ClusterConfig.load(path).options()


def _mapping(data: bytes, folder: Path) -> object:
    value = jsons.loads(data)
    if not isinstance(value, dict):
        raise ValueError("no mapping")
    return ClusterConfig.load(value).options()


PARSERS = (
    Parser(
        "_config:ClusterConfig.load (TOML)",
        lambda data, folder: _file("toml", data, folder),
        _TOML,
        (ValueError,),
        repeated=[b"a = 1\n", b"[a]\n", b"a.", b"a = [[[", b'"""'],
        tokens=[b"[", b"[[", b" = ", b"2026-01-01", b"01:30:00", b'"""'],
    ),
    Parser(
        "_config:ClusterConfig.load (YAML)",
        lambda data, folder: _file("yaml", data, folder),
        _YAML,
        (ValueError,),
        tokens=[b"&a ", b"*a", b"!!", b"- ", b": ", b"!!python/object:os.system ", b"!!int ", b"<<: *a"],
    ),
    Parser(
        "_config:ClusterConfig.load (mapping)",
        _mapping,
        [as_json(value) for value in _MAPPINGS],
        (ValueError,),
        st.one_of(json_like(_MAPPINGS)),
    ),
)
