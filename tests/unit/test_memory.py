"""Where the kernel counts the processes that it has killed for their memory."""

from pathlib import Path

import pytest

from slurmfutures._remote import memory

SLURM = "slurm_n1/uid_0/job_220/step_batch"


def process(tmp_path: Path, cgroup: str, *mounts: str) -> str:
    """Make what /proc shows of a process, with mounts below `tmp_path`: "root place - kind source options"."""
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cgroup").write_text(cgroup)
    lines = [f"3{number} 23 0:28 {mount.format(tmp_path)}\n" for number, mount in enumerate(mounts)]
    (folder / "mountinfo").write_text("".join(["23 1 0:20 / / rw - ext4 /dev/vda rw\n", *lines]))
    return str(folder)


def count(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


V1 = "/ {}/memory rw,relatime - cgroup cgroup rw,memory"
V2 = "/ {}/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"


def test_version_1_counts_in_the_memory_controller_s_own_tree(tmp_path: Path) -> None:
    count(
        tmp_path / "memory" / SLURM / "task_0" / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
    )
    count(tmp_path / "unified" / "memory.events", "oom_kill 9\n")
    cgroup = f"6:freezer:/{SLURM}\n4:cpu,memory:/{SLURM}/task_0\n3:cpuset:/\n0::/\n"
    assert memory.kills(process(tmp_path, cgroup, V2, V1)) == 2


@pytest.mark.parametrize("below", ["", "/user/task_0"])
def test_version_2_counts_where_the_controller_is_switched_on(tmp_path: Path, below: str) -> None:
    count(
        tmp_path / "unified" / SLURM / "memory.events", "low 0\nhigh 0\nmax 31\noom 1\noom_kill 3\noom_group_kill 0\n"
    )
    assert memory.kills(process(tmp_path, f"0::/{SLURM}{below}\n", V2)) == 3


def test_in_a_container_the_tree_begins_further_down(tmp_path: Path) -> None:
    count(tmp_path / "memory" / "inside" / "memory.oom_control", "oom_kill 1\n")
    mount = "/docker/ab12 {}/memory rw,relatime - cgroup cgroup rw,memory"
    assert memory.kills(process(tmp_path, "4:memory:/docker/ab12/inside\n0::/\n", mount)) == 1


@pytest.mark.parametrize(
    ("cgroup", "mounts"),
    [
        ("", [V2]),
        ("1:name=systemd:/\n", [V1]),
        ("4:memory:/a\n", []),
        ("4:memory:/a\n", [V1]),
        ("4:memory:/a\n", ["/b {}/memory rw - cgroup cgroup rw,memory"]),
        ("0::/../..\n", [V2]),
        ("0::/a\n", [V2]),
        ("gibberish\n", [V1, V2]),
    ],
)
def test_where_nobody_counts_nothing_is_known(tmp_path: Path, cgroup: str, mounts: list[str]) -> None:
    assert memory.kills(process(tmp_path, cgroup, *mounts)) is None


def test_an_old_kernel_says_only_whether_it_kills(tmp_path: Path) -> None:
    count(tmp_path / "memory" / "a" / "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")
    assert memory.kills(process(tmp_path, "4:memory:/a\n", V1)) is None


def test_of_a_process_that_is_gone_nothing_is_known(tmp_path: Path) -> None:
    assert memory.kills(str(tmp_path / "none")) is None
