import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
