"""Executors as a file has them."""

import json
from pathlib import Path

import pytest

from slurmfutures import ClusterConfig, HostUnreachable, SlurmExecutor
from tests import calls
from tests.fix_executors import Opener
from tests.waiting import DEADLINE


@pytest.mark.ssh
def test_each_cluster_of_a_file_opens(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "clusters.toml"
    with path.open("w") as file:
        file.write("default = 'here'\njob-name = 'sweep'\n")
        for cluster, kind in (("here", "local"), ("far", "paramiko")):
            words = opener.options(kind, max_workers=1)
            file.write(
                "\n".join([f"[clusters.{cluster}]", *(f"{key} = {json.dumps(words[key])}" for key in words), ""])
            )
    for name in (None, "far"):
        with SlurmExecutor.from_config(path, name, retries=1) as executor:
            assert executor.submit(calls.square, 3).result(DEADLINE) == 9
            assert (executor._connection.poller._where == "this machine") == (name is None)
            assert executor._spec.name == "sweep"
    with SlurmExecutor.from_config(ClusterConfig.load(path), initializer=calls.square, initargs=(2,)) as executor:
        assert executor.submit(calls.square, 4).result(DEADLINE) == 16


def test_the_environment_names_host_and_work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMFUTURES_HOST", "me@127.0.0.1:1")
    monkeypatch.setenv("SLURMFUTURES_WORK_DIR", str(tmp_path / "work"))
    with SlurmExecutor(scheduler="local") as executor:
        assert executor._connection.greeting["work_dir"] == str(tmp_path / "work")
    with pytest.raises(HostUnreachable, match=r"127\.0\.0\.1"):
        SlurmExecutor()
