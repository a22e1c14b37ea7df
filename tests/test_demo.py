import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import cloudpickle
import pytest

from slurmfutures import SlurmExecutor, _cli
from slurmfutures._demo import analysis, ising, sweep
from slurmfutures._demo.analysis import CRITICAL_TEMPERATURE, Estimate

COMMAND = "import sys; from slurmfutures._cli import main; sys.exit(main())"
SMALL = ("--quick", "--size", "8", "--temperatures", "2", "2.2", "2.4", "2.6")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sweep.Outcome]:
    with SlurmExecutor(scheduler="local", work_dir=tmp_path_factory.mktemp("demo")) as executor:
        yield sweep.run(executor, sweep.QUICK)


def exact_averages(temperature: float, size: int) -> tuple[float, float, float]:
    """Energy, |m| and heat capacity per spin of a small lattice, from all of its states."""
    sites = size * size
    neighbours = [(right, below) for right, below, _, _ in ising.neighbours_of_sites(size)]
    sums = [0.0] * 4
    for state in product((1, -1), repeat=sites - 1):
        spins = (1, *state)  # turning all spins round changes nothing below
        energy = -1.0 * sum(
            spins[site] * (spins[right] + spins[below]) for site, (right, below) in enumerate(neighbours)
        )
        weight = math.exp(-(energy + 2 * sites) / temperature)
        for index, value in enumerate((1, energy, energy**2, abs(sum(spins)))):
            sums[index] += weight * value
    energy, squared, magnetisation = (value / sums[0] for value in sums[1:])
    return energy / sites, magnetisation / sites, (squared - energy**2) / temperature**2 / sites


@pytest.mark.parametrize("temperature", [1.5, CRITICAL_TEMPERATURE, 4.0])
def test_simulations_agree_with_the_sum_over_all_states_of_a_small_lattice(temperature: float) -> None:
    energy, magnetisation, heat_capacity = exact_averages(temperature, 4)
    found = ising.simulate(temperature, 4, 40_000, 1)
    assert analysis.energy(found, temperature, 4) == pytest.approx(energy, abs=0.01)
    assert analysis.magnetisation(found, temperature, 4) == pytest.approx(magnetisation, abs=0.01)
    assert analysis.heat_capacity(found, temperature, 4) == pytest.approx(heat_capacity, rel=0.03)


def test_the_same_seed_gives_the_same_and_another_one_something_else() -> None:
    first, again, other = (ising.simulate(2.2, 8, 100, seed)["energy"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_magnetisation_is_one_in_the_cold_and_vanishes_in_the_heat(outcome: sweep.Outcome) -> None:
    size = outcome.plan.size
    for temperature in (1.5, 1.8, 2):
        found = outcome.observe(analysis.magnetisation, temperature, size)
        assert found.value == pytest.approx(analysis.exact_magnetisation(temperature), abs=0.003)
    assert outcome.observe(analysis.magnetisation, 3, size).value < 0.2  # as 1 / size above the critical temperature
    assert outcome.observe(analysis.magnetisation, 3, size // 2).value > 0.2


@pytest.mark.parametrize("temperature", [1.5, 1.8, 2, 2.1, 3])
def test_energies_away_from_the_critical_point_are_those_of_the_infinite_lattice(
    outcome: sweep.Outcome, temperature: float
) -> None:
    found = outcome.observe(analysis.energy, temperature, outcome.plan.size)
    assert found.value == pytest.approx(analysis.exact_energy(temperature), abs=0.004)
    assert found.error < 0.004


def test_the_critical_temperature_is_found(outcome: sweep.Outcome) -> None:
    crossing = outcome.binder_crossing()
    assert crossing.value == pytest.approx(CRITICAL_TEMPERATURE, abs=0.02)
    assert abs(crossing.value - CRITICAL_TEMPERATURE) < 3 * crossing.error
    peak = outcome.heat_capacity_peak(outcome.plan.size)
    assert CRITICAL_TEMPERATURE < peak.value < CRITICAL_TEMPERATURE + 0.1


def test_an_outcome_knows_where_and_how_long_it_was_computed(outcome: sweep.Outcome) -> None:
    assert outcome.nodes == [os.uname().nodename]
    assert len(outcome.jobs) == 1
    assert outcome.cpu > 0
    assert outcome.wall > 0


def test_no_seed_is_used_twice() -> None:
    seeds = [seed for call in sweep.PLAN.calls() for seed in call.seeds]
    assert len(seeds) == len(set(seeds)) == 17 * 2 * 5


def test_the_default_grid_is_densest_about_the_critical_temperature() -> None:
    below = max(t for t in sweep.PLAN.temperatures if t < CRITICAL_TEMPERATURE)
    above = min(t for t in sweep.PLAN.temperatures if t > CRITICAL_TEMPERATURE)
    assert above - below == pytest.approx(0.02)


def test_a_call_that_fails_ends_the_sweep_and_cancels_the_others() -> None:
    class Failing(ThreadPoolExecutor):
        futures: list[Future[object]] = []  # noqa: RUF012

        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            future: Future[object] = Future()
            if not self.futures:
                future.set_exception(ZeroDivisionError())
            self.futures.append(future)
            return future

    with pytest.raises(ZeroDivisionError):
        sweep.run(Failing(), sweep.QUICK)
    assert all(future.cancelled() for future in Failing.futures[1:])


def test_the_simulation_needs_nothing_but_python_where_it_runs(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(ising)
    (tmp_path / "call").write_bytes(cloudpickle.dumps((ising.simulate_seeds, (2.0, 8, 50, [1, 2]))))
    shutil.copytree(Path(cloudpickle.__file__).parent, tmp_path / "cloudpickle")
    code = (
        "import pickle, sys; sys.path.append('.'); function, call = pickle.load(open('call', 'rb'));"
        "print(len(function(*call)), 'slurmfutures' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 False\n"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.98651, 0.00021, "0.9865(2)"),
        (-1.9512, 0.0094, "-1.951(9)"),
        (-1.9512, 0.0096, "-1.95(1)"),
        (20.31, 0.34, "20.3(3)"),
        (20.31, 3.4, "20(3)"),
        (120.4, 34.0, "120(34)"),
        (0.66661, 0.000001, "0.6666(1)"),
        (0.5, 0.0, "0.5000(1)"),
        (2.27, math.nan, "2.2700"),
        (math.nan, math.nan, "-"),
    ],
)
def test_errors_are_written_in_brackets(value: float, error: float, text: str) -> None:
    assert str(Estimate(value, error)) == text


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    found = analysis.jackknife(lambda seeds: fmean(values[seed] for seed in seeds), len(values))
    assert found.value == 3.75
    assert found.error == pytest.approx(stdev(values) / 2)


def test_a_peak_is_the_top_of_a_parabola_on_any_grid() -> None:
    x = [1.0, 1.9, 2.0, 2.2, 2.25, 2.5, 2.6, 4.0]
    assert analysis.peak(x, [10 - 3 * (a - 2.27) ** 2 for a in x]) == pytest.approx(2.27)


@pytest.mark.parametrize("y", [[1.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.1, 2.0, 0.1]])
def test_there_is_no_peak_at_the_edge_or_in_too_few_points(y: list[float]) -> None:
    assert math.isnan(analysis.peak([float(index) for index in range(len(y))], y))


def test_a_crossing_lies_between_the_points_about_it() -> None:
    assert analysis.crossing([1, 2, 3, 4, 5], [0.001, 0.3, -0.1, -0.4, 0.002]) == pytest.approx(2.75)
    assert math.isnan(analysis.crossing([1, 2, 3], [-1, -2, -1]))
    assert math.isnan(analysis.crossing([1], [1]))


def test_exact_values() -> None:
    assert pytest.approx(2.269185, abs=1e-6) == CRITICAL_TEMPERATURE
    assert analysis.exact_energy(CRITICAL_TEMPERATURE) == pytest.approx(-math.sqrt(2), abs=1e-6)
    assert analysis.exact_energy(0.1) == pytest.approx(-2)
    assert analysis.exact_energy(100) == pytest.approx(-0.02, rel=1e-3)
    assert analysis.exact_magnetisation(2) == pytest.approx(0.911319, abs=1e-6)
    assert analysis.exact_magnetisation(2.3) == 0


def test_the_command_prints_plain_text_of_80_columns_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert _cli.main(["demo", *SMALL, "--scheduler", "local", "--work-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "8 calls of 5 seeds each" in shown.out
    assert "2.269185" in shown.out
    assert re.search(r"^ +2\.4 +0\.\d+\(\d+\) ", shown.out, re.MULTILINE)
    assert re.search(r"s of CPU time in \d+\.\d s", shown.out)
    assert shown.err.splitlines() == [f"{done} of 8 calls done" for done in (2, 4, 6, 8)]


def test_one_temperature_is_enough_for_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--size", "4", "--temperatures", "2", "--seeds", "2"]
    assert _cli.main(["demo", *arguments, "--scheduler", "local", "--work-dir", str(tmp_path)]) == 0
    assert "per spin" not in capsys.readouterr().out


def test_auto_is_this_machine_where_slurm_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    assert _cli.main(["demo", *SMALL, "--seeds", "2", "--work-dir", str(tmp_path / "work")]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("slurmfutures: Slurm does not answer, using this machine\n")
    assert "on this machine" in shown.out
    assert _cli.main(["demo", "--scheduler", "slurm", "--work-dir", str(tmp_path / "work")]) == 1
    assert capsys.readouterr().err.startswith("slurmfutures: Slurm does not work")


@pytest.mark.slurm
def test_the_demo_on_slurm(cluster: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--work-dir", str(tmp_path), "--option", "partition=main", "--option", "mem=100"]
    assert _cli.main(["demo", *arguments]) == 0
    out = capsys.readouterr().out
    assert "each, on Slurm" in out
    assert re.search(r"8 calls in jobs? [\d, ]+ on (n\d|\d nodes)", out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "7"], "7 is not an even number"),
        (["--seeds", "1"], "1 is too few"),
        (["--temperatures", "0"], "0 is not between 0.1 and 100"),
        (["--temperatures", "warm"], "invalid temperature value: 'warm'"),
        (["--option", "parttion=cpu"], "did you mean 'partition'?"),
        (["--option", "--mem"], "expected one argument"),
        (["--option", "mem="], "is empty"),
    ],
)
def test_wrong_options_are_said_in_a_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        _cli.main(["demo", "--scheduler", "local", "--work-dir", str(tmp_path), *arguments])
    assert raised.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("package", ["rich", "plotille"])
def test_a_missing_package_is_a_line_that_tells_what_to_install(
    package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "slurmfutures._demo.report", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert _cli.main(["demo"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'slurmfutures[cli]'" in error
    assert error.count("\n") == 1


def test_version_and_a_missing_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        _cli.main(["--version"])
    assert raised.value.code == 0
    assert re.fullmatch(r"slurmfutures \d\S+\n", capsys.readouterr().out)
    with pytest.raises(SystemExit) as raised:
        _cli.main([])
    assert raised.value.code == 2


def test_ctrl_c_cancels_and_says_so_in_a_line(tmp_path: Path) -> None:
    arguments = ["demo", "--quick", "--scheduler", "local", "--work-dir", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "6 of 24 calls done\n"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == _cli.INTERRUPTED
    assert rest.splitlines()[-1] == "slurmfutures: interrupted; what was under way is cancelled"
    assert "Traceback" not in rest


def test_a_plan_is_what_the_arguments_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from slurmfutures._demo import command

    plans: list[sweep.Plan] = []

    def stop(scheduler: str, options: object) -> None:
        raise KeyboardInterrupt

    make_plan = command.make_plan
    monkeypatch.setattr(command, "start", stop)
    monkeypatch.setattr(command, "make_plan", lambda arguments: plans.append(make_plan(arguments)))
    assert _cli.main(["demo"]) == _cli.INTERRUPTED
    assert _cli.main(["demo", "--quick", "--temperatures", "3", "2", "3", "--seeds", "4"]) == _cli.INTERRUPTED
    assert plans == [sweep.PLAN, replace(sweep.QUICK, temperatures=(2.0, 3.0), seeds=4)]
