"""Configurations: what they may say, and what is told of what they may not."""

import dataclasses
import datetime as dt
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from slurmfutures import ClusterConfig, Host, SlurmExecutor
from slurmfutures._config import DEFAULT_WORK_DIR, from_environment

TOML = """
work-dir = "/scratch/me/sf"
partition = "cpu"
default = "big"

[clusters.big]
host = "me@login.example.org:2222"
jump = ["me@gate", { address = "inner", key = "KEY" }]
max_workers = 200
partition = "gpu"
time = 01:30:00
cpus-per-task = 4

[clusters.big.sbatch]
gres = "gpu:1"

[clusters.small]
scheduler = "local"
ship = "./src"
exclude = ["n1", "n2"]
"""
YAML = """
work-dir: /scratch/me/sf
partition: cpu
default: big
clusters:
  big:
    host: me@login.example.org:2222
    jump: [me@gate, {address: inner, key: KEY}]
    max_workers: 200
    partition: gpu
    time: 01:30:00
    cpus-per-task: 4
    sbatch: {gres: "gpu:1"}
  small:
    scheduler: local
    ship: ./src
    partition: cpu
    exclude: [n1, n2]
    setup:
"""


@pytest.fixture(params=["toml", "yaml"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "id").touch()
    path = tmp_path / f"clusters.{request.param}"
    path.write_text((TOML if request.param == "toml" else YAML).replace("KEY", str(tmp_path / "id")))
    return path


def test_clusters_of_a_file_share_what_stands_beside_them(file: Path) -> None:
    big = ClusterConfig.load(file)
    assert big == ClusterConfig.load(str(file), "big")
    assert big.options() == {
        "host": "me@login.example.org:2222",
        "jump": ("me@gate", Host("inner", key=file.parent / "id")),
        "work_dir": "/scratch/me/sf",
        "max_workers": 200,
        "partition": "gpu",
        "time": "01:30:00",
        "cpus_per_task": 4,
        "gres": "gpu:1",
    }
    assert ClusterConfig.load(file, "small").options() == {
        "scheduler": "local",
        "work_dir": "/scratch/me/sf",
        "ship": ("./src",),
        "partition": "cpu",
        "exclude": ["n1", "n2"],
    }


def test_numbers_of_yaml_are_those_of_its_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text("time: 1:00:00\nnice: 10\nheartbeat: 1.5\nconnect_timeout: 2e1\nexclusive: true\nmem: 010\n")
    found = ClusterConfig.load(path)
    assert (found.heartbeat, found.connect_timeout) == (1.5, 20.0)
    assert found.sbatch == {"time": "1:00:00", "nice": 10, "exclusive": True, "mem": "010"}


def test_a_mapping_is_a_cluster_or_has_the_only_one() -> None:
    words = {"host": Host("h"), "jump": "gate", "work_dir": Path("/w"), "mem": "4G", "time": dt.timedelta(hours=1)}
    flat = ClusterConfig.load(words)
    assert flat == ClusterConfig.load({"clusters": {"only": words}})
    assert flat == ClusterConfig.load({"clusters": {"one": words, "two": {"host": "no"}}}, "one")
    assert flat.options() == {
        **words,
        "jump": ("gate",),
        "work_dir": "/w",
    }
    assert ClusterConfig.load({}).options() == {}
    assert ClusterConfig.load({"mem": "4G", "clusters": {"a": {"mem": None, "heartbeat": None}}}).options() == {}
    assert ClusterConfig.load(dataclasses.asdict(ClusterConfig(host="h", sbatch={"mem": "4G"}))).host == "h"


NEAR = "'{}' is neither a parameter of SlurmExecutor nor an option of sbatch{}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"max_worker": 3}, NEAR.format("max_worker", "; did you mean 'max_workers'?")),
        ({"partitoin": "cpu"}, NEAR.format("partitoin", "; did you mean 'partition'?")),
        ({"queue": "cpu"}, NEAR.format("queue", "; did you mean 'partition'?")),
        ({"xyzzy": 1}, NEAR.format("xyzzy", "")),
        ({"host": 3}, 'host must be a host, such as "user@host:port", or a table with its address and key, not 3'),
        ({"host": "a b"}, "host 'a b' cannot be understood: "),
        (
            {"host": {"adress": "h"}},
            "host: a host has an 'address' and a 'key', and no 'adress'; did you mean 'address'?",
        ),
        ({"host": {"key": "/k"}}, "host: a host needs an 'address': {'key': '/k'} has none"),
        ({"host": {"address": "h", "key": "/none"}}, "key='/none' of host 'h': there is no such file"),
        ({"jump": ["a", 3]}, "address and key, or a list, not ['a', 3]"),
        ({"jump": ["a", "-b"]}, "jump: host '-b' begins with \"-\""),
        ({"transport": "smoke"}, "transport must be 'paramiko' or 'openssh', not 'smoke'"),
        ({"ssh_config": 3}, "ssh_config must be the path of a file, not 3"),
        ({"accept_new_host_keys": "yes"}, "accept_new_host_keys must be true or false, not 'yes'"),
        ({"connect_timeout": 0}, "connect_timeout must be a number of seconds greater than 0, not 0"),
        ({"heartbeat": True}, "heartbeat must be a number of seconds greater than 0, not True"),
        ({"reconnect_timeout": "1h"}, "reconnect_timeout must be a number of seconds greater than 0, not '1h'"),
        ({"scheduler": "pbs"}, "scheduler must be 'slurm' or 'local', not 'pbs'"),
        ({"work_dir": ""}, "work_dir must be the path of a folder, not ''"),
        ({"python": 3.11}, "python must be a word of shell, such as '~/env/bin/python', not 3.11"),
        ({"setup": ["a"]}, "setup must be lines of bash, not ['a']"),
        ({"max_workers": "many"}, "max_workers must be a whole number of 1 or more, not 'many'"),
        ({"retries": -1}, "retries must be a whole number of 0 or more, not -1"),
        ({"login_workers": 1.5}, "login_workers must be a whole number of 1 or more, not 1.5"),
        ({"checkpoint": False}, "checkpoint must be the path of a file, not False"),
        ({"ship": ["a", 3]}, "ship must be a name of a module or a path, or a list of these, not ['a', 3]"),
        ({"time": "soon"}, "sbatch option 'time' cannot be 'soon': write minutes, "),
        ({"mem": {"gb": 4}}, "sbatch option 'mem' cannot be {'gb': 4}: a dict is neither text nor a number"),
        ({"array": "1-10"}, "sbatch option 'array' cannot be set: map() makes job arrays itself"),
        ({"sbatch": {"tme": 3}}, "unknown sbatch option 'tme'; did you mean 'time'?"),
        ({"ask": "me"}, "ask is code, and so no part of a config: from_config(..., ask=...)"),
        ({"initargs": []}, "initargs is code, and so no part of a config: from_config(..., initargs=...)"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_with_file_cluster_and_field(words: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        SlurmExecutor.from_config({"clusters": {"here": words}})
    assert str(caught.value).startswith("the config, cluster 'here': ")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        SlurmExecutor.from_config({**words, "clusters": {"here": {"comment": "x"}}})
    assert str(caught.value).startswith("the config" if "sbatch" in words else "the config: ")


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        ({"clusters": {"a": {}, "b": {}}}, None, "say by name=, or by its default, which cluster is meant: 'a', 'b'"),
        ({"clusters": {}}, None, "say by name=, or by its default, which cluster is meant: it has none"),
        ({"clusters": {"cpu": {}, "gpu": {}}}, "gpus", "no cluster 'gpus'; did you mean 'gpu'? It has 'cpu', 'gpu'"),
        ({"clusters": {"a": {}}, "default": "xyz"}, None, "no cluster 'xyz', which is its default; It has 'a'"),
        ({"host": "h"}, "a", "there is no cluster 'a', as there are no clusters in it"),
        ({"clusters": ["a"]}, None, "clusters must be a table, not ['a']"),
        ({"clusters": {"a": 3}}, None, "cluster 'a' must be a table, not 3"),
        ({"sbatch": 3}, None, "sbatch must be a table, not 3"),
    ],
    ids=str,
)
def test_the_cluster_that_is_meant_must_be_there(words: Mapping[str, Any], name: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        ClusterConfig.load(words, name)
    assert str(caught.value).startswith("the config")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "a = ", "c.toml cannot be read: Invalid value (at"),
        ("c.yaml", "a: [", "c.yaml cannot be read: while parsing a flow node"),
        ("c.toml", "\udcff", "c.toml cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ("c.yaml", "- a", "c.yaml must be a table, not ['a']"),
        ("c.toml", "[clusters.a]\nmem = true", "c.toml, cluster 'a': sbatch option 'mem' needs a value, not True"),
        (
            "c.toml",
            "retries = true\n[clusters.a]\nmem = 3",
            "c.toml: retries must be a whole number of 0 or more, not ",
        ),
        ("c.json", "{}", "c.json: a config is a file that ends in .toml, .yaml or .yml"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        SlurmExecutor.from_config(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path}/")
    with pytest.raises(FileNotFoundError):
        ClusterConfig.load(tmp_path / "none.toml")
    with pytest.raises(TypeError, match="config must be a mapping, a ClusterConfig or the path of a file, not 3"):
        SlurmExecutor.from_config(3)  # type: ignore[arg-type]


def test_yaml_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "c.yaml").touch()
    with pytest.raises(ImportError, match=re.escape("pip install 'slurmfutures[yaml]', or write it as TOML")):
        ClusterConfig.load(tmp_path / "c.yaml")


def test_it_can_be_a_field_of_something_larger() -> None:
    @dataclasses.dataclass
    class Study:
        cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)

    assert Study(ClusterConfig(host="h", max_workers=3)).cluster.options() == {"host": "h", "max_workers": 3}
    assert dataclasses.replace(ClusterConfig(retries=1, sbatch={"cpus-per-task": 2}), retries=2).options() == {
        "retries": 2,
        "cpus_per_task": 2,
    }
    with pytest.raises(ValueError, match="'cpus_per_task' was given twice"):
        ClusterConfig(sbatch={"cpus-per-task": 2, "cpus_per_task": 2})
    with pytest.raises(TypeError, match="name='a' is for a config of several clusters, and a ClusterConfig is one"):
        SlurmExecutor.from_config(ClusterConfig(), "a")


def test_pydantic_takes_it_for_a_type() -> None:
    pydantic = pytest.importorskip("pydantic")
    study = pydantic.create_model("Study", cluster=ClusterConfig)
    found = study.model_validate({"cluster": {"host": "h", "jump": ["a"], "sbatch": {"mem": "4G"}}}).cluster
    assert found == ClusterConfig(host="h", jump="a", sbatch={"mem": "4G"})
    with pytest.raises(pydantic.ValidationError, match="max_workers must be a whole number of 1 or more, not 0"):
        study.model_validate({"cluster": {"max_workers": 0}})


def test_it_has_all_parameters_of_the_executor() -> None:
    import inspect

    code = {"self", "ask", "checkpoint_key", "initializer", "initargs"}
    parameters = inspect.signature(SlurmExecutor.__init__).parameters
    found = {
        name: (it.default, ClusterConfig.__dataclass_fields__[name].default)
        for name, it in parameters.items()
        if name not in {*code, "sbatch"}
    }
    assert {name: own for name, (own, _) in found.items()} == {name: ours for name, (_, ours) in found.items()}
    assert {it.name for it in dataclasses.fields(ClusterConfig)} == {*found, "sbatch"}


def test_the_environment_fills_in_what_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment(None, None, "slurm") == (None, DEFAULT_WORK_DIR)
    monkeypatch.setenv("SLURMFUTURES_HOST", "me@login")
    monkeypatch.setenv("SLURMFUTURES_WORK_DIR", "/scratch/sf")
    assert from_environment(None, None, "slurm") == ("me@login", "/scratch/sf")
    assert from_environment("other", "/w", "slurm") == ("other", "/w")
    assert from_environment("", None, "slurm") == (None, "/scratch/sf")
    assert from_environment(None, None, "local") == (None, "/scratch/sf")
    assert from_environment("other", None, "local") == ("other", "/scratch/sf")
    monkeypatch.setenv("SLURMFUTURES_HOST", "")
    monkeypatch.setenv("SLURMFUTURES_WORK_DIR", "")
    assert from_environment(None, None, "slurm") == (None, DEFAULT_WORK_DIR)
