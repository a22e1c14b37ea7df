import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from shlex import quote

import pytest

from tests.far.sshd import Farm
from tests.waiting import DEADLINE, until

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str, home: Path) -> str:
    """Run an example as its users do, with a home of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def check_ising(shown: str) -> None:
    rows = re.findall(r"^ *(\d\.\d\d) +(\d\.\d+) +(\d\.\d+) \*+$", shown, re.MULTILINE)
    magnetisation = {float(row[0]): float(row[1]) for row in rows}
    assert len(magnetisation) == 12
    assert magnetisation[1.5] == pytest.approx(0.9865, abs=0.002)
    assert magnetisation[2.0] == pytest.approx(0.9113, abs=0.005)
    assert magnetisation[3.0] < 0.15
    assert "largest heat capacity at T = 2.3; exact: 2.269" in shown


def check_digits(shown: str) -> None:
    best = re.search(r"best: C=(\S+), gamma=(\S+): (\S+)% of the digits", shown)
    assert best is not None
    assert float(best[3]) >= 97
    assert shown.endswith("the same\n")
    assert not shown.endswith("not the same\n")


def test_ising(tmp_path: Path) -> None:
    check_ising(run("ising.py", home=tmp_path))


def test_digits(tmp_path: Path) -> None:
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("needs scikit-learn")
    check_digits(run("digits.py", home=tmp_path))


@pytest.mark.slurm
def test_ising_on_slurm(cluster: object, tmp_path: Path) -> None:
    check_ising(run("ising.py", "slurm", "main", home=tmp_path))


@pytest.mark.slurm
def test_digits_on_slurm(cluster: object, tmp_path: Path) -> None:
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("needs scikit-learn")
    check_digits(run("digits.py", "slurm", "main", home=tmp_path))


def check_pilots(shown: str) -> None:
    lowest = re.search(r"^lowest energy of 13 atoms: (\S+); known: (\S+)$", shown, re.MULTILINE)
    assert lowest is not None
    assert float(lowest[1]) == pytest.approx(float(lowest[2]), abs=1e-5)
    assert shown.endswith(f"from the middle: 0.00{12 * ' 1.08'}\n")
    energies = [float(energy) for energy in re.findall(r"^ +\d+ calls: (\S+)$", shown, re.MULTILINE)]
    assert energies == sorted(energies, reverse=True)
    assert energies


def test_pilots(tmp_path: Path) -> None:
    check_pilots(run("pilots.py", home=tmp_path))


@pytest.mark.slurm
def test_pilots_on_slurm(cluster: object, tmp_path: Path) -> None:
    check_pilots(run("pilots.py", "slurm", "main", home=tmp_path))


def check_squares(shown: str, folder: Path, count: int, jobs: int) -> None:
    numbers = [int((folder / f"task-{number}/input").read_text()) for number in range(count)]
    total = sum(number * number for number in numbers)
    assert shown == f"{count} inputs in {folder}\nsquared by {jobs} jobs\nsum: {total}\n"
    assert len(list(folder.glob("slurm-*.out"))) == jobs  # which Slurm makes for each job


def test_simple_workflow(tmp_path: Path) -> None:
    """With more jobs than there is work for."""
    options = ["--scheduler", "local", "--count", "2", "--jobs", "5", "--checkpoint", str(tmp_path / "ckpt")]
    for _ in range(2):
        check_squares(run("simple_workflow.py", *options, home=tmp_path), tmp_path / "squares", count=2, jobs=2)


@pytest.mark.slurm
@pytest.mark.ssh
def test_simple_workflow_goes_on_where_it_was_killed(farm: Farm, tmp_path: Path) -> None:
    folder, out = tmp_path / "squares", tmp_path / "out"
    first = folder / "task-0/input"
    first.parent.mkdir(parents=True)
    os.mkfifo(first)  # its job waits for a number
    words = ["sf-login", "--jump", "sf-gate1", "--ssh-config", farm.config, "--python", quote(sys.executable)]
    words += ["--partition", "main", "--folder", folder, "--work-dir", tmp_path / "work", "--count", "5", "--jobs", "2"]
    options = [*map(str, words), "--checkpoint", str(tmp_path / "ckpt")]
    command = [sys.executable, str(EXAMPLES / "simple_workflow.py"), *options]
    with out.open("w") as shown, subprocess.Popen(command, stdout=shown, start_new_session=True) as driver:
        until(lambda: driver.poll() is not None or len(list(folder.glob("slurm-*.out"))) == 2)
        until(lambda: driver.poll() is not None or (folder / "task-4/squared").exists())
        assert driver.poll() is None
        driver.kill()
    assert out.read_text() == f"5 inputs in {folder}\n"
    with out.open("w") as shown, subprocess.Popen(command, stdout=shown) as driver:
        until(lambda: driver.poll() is not None or out.read_text())
        first.write_text("7\n")
        assert driver.wait(DEADLINE) == 0
    first.unlink()
    first.write_text("7\n")
    check_squares(out.read_text(), folder, count=5, jobs=2)
    check_squares(run("simple_workflow.py", *options, home=tmp_path), folder, count=5, jobs=2)
