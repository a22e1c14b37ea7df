"""The sweep in a terminal: progress, a table, a plot, and what came out of it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import plotille
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .._printable import printable
from . import analysis
from .analysis import CRITICAL_TEMPERATURE, Estimate
from .sweep import Outcome, Plan

_PLOT_WIDTH = 60  # characters, of the plot without its axes
_PLOT_HEIGHT = 10
_PLOT_MARGIN = 20  # characters, of the axes
_TABLE_WIDTH = 78  # characters; a narrower terminal gets less of the table


class Screen:
    """Where it is shown: results on the standard output, progress on the standard error."""

    def __init__(self) -> None:
        self._output = Console(highlight=False)
        self._errors = Console(highlight=False, stderr=True)

    def show_plan(self, plan: Plan, where: str) -> None:
        """Say what is going to be run, and where."""
        small, large = plan.sizes
        show = self._output.print
        show("Two-dimensional Ising model, J = k = 1", style="bold")
        show(f"{small} × {small} and {large} × {large} spins, {plan.sweeps:,} sweeps of Wolff's cluster algorithm")
        points = f"{len(plan.temperatures)} temperatures × 2 sizes"
        show(f"{points}: {len(plan.calls())} calls of {plan.seeds} seeds each, on {where}\n")

    @contextmanager
    def progress(self, plan: Plan) -> Iterator[Callable[[int], object]]:
        """Show how many of the calls are done: a bar in a terminal, elsewhere a line for each quarter."""
        total = len(plan.calls())
        if not self._errors.is_terminal:
            yield lambda done: self._show_quarter(done, total)
            return
        columns = (TextColumn("calls done"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._errors, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)

    def _show_quarter(self, done: int, total: int) -> None:
        if done * 4 // total > (done - 1) * 4 // total:
            self._errors.print(f"{done} of {total} calls done")

    def show_outcome(self, outcome: Outcome) -> None:
        """Show the table, the plot where the terminal has the characters for it, and what it comes to."""
        self._output.print(_table(outcome, self._output.width < _TABLE_WIDTH))
        if self._output.encoding.startswith("utf") and len(outcome.plan.temperatures) > 1:
            self._output.print(_plot(outcome, self._output))
        self._output.print(_critical_temperature(outcome))
        self._output.print(Text(printable(_costs(outcome))))  # names of nodes are no markup either


def _table(outcome: Outcome, narrow: bool) -> Table:
    observables = analysis.OBSERVABLES[: 3 if narrow else None]
    size = outcome.plan.size
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.title = f"{size} × {size} spins; (n): standard error of the last digit; exact: infinite lattice"
    for heading in ("T", "|m|", "exact", "energy", "exact", "heat cap.", "suscept.", "Binder")[: 3 + len(observables)]:
        table.add_column(heading, justify="right", no_wrap=True, style="dim" if heading == "exact" else "")
    decimals = max(len(f"{temperature:g}".partition(".")[2]) for temperature in outcome.plan.temperatures)
    for temperature in outcome.plan.temperatures:
        magnetisation, energy, *others = (
            str(outcome.observe(observable, temperature, size)) for observable in observables
        )
        exact = (f"{exact(temperature):.4f}" for exact in (analysis.exact_magnetisation, analysis.exact_energy))
        table.add_row(f"{temperature:.{decimals}f}", magnetisation, next(exact), energy, next(exact), *others)
    return table


def _plot(outcome: Outcome, console: Console) -> Text:
    temperatures = list(outcome.plan.temperatures)
    first, last = temperatures[0], temperatures[-1]
    capacities, magnetisations = (
        [outcome.observe(observable, temperature, outcome.plan.size).value for temperature in temperatures]
        for observable in (analysis.heat_capacity, analysis.magnetisation)
    )
    step = 0.05 * math.ceil(max(*capacities, 1) / _PLOT_HEIGHT / 0.05)
    figure = plotille.Figure()
    figure.width = max(20, min(_PLOT_WIDTH, console.width - _PLOT_MARGIN))
    figure.height = _PLOT_HEIGHT
    figure.linesep = "\n"
    figure.with_colors = console.color_system is not None
    figure.x_label, figure.y_label = "T", "per spin"
    figure.register_label_formatter(float, _label)
    figure.set_x_limits(first, last)
    figure.set_y_limits(0, step * _PLOT_HEIGHT)
    if first < CRITICAL_TEMPERATURE < last:
        figure.plot([CRITICAL_TEMPERATURE] * 2, [0, step * _PLOT_HEIGHT], lc="white")
    fine = [first + (last - first) * part / 500 for part in range(501)]
    figure.plot(fine, [analysis.exact_magnetisation(temperature) for temperature in fine], lc="white")
    figure.scatter(temperatures, capacities, lc="bright_red", marker="C")
    figure.scatter(temperatures, magnetisations, lc="bright_cyan", marker="m")
    caption = Text("C: heat capacity, m: |m|; lines: |m| and critical T of the infinite lattice\n", style="italic")
    return caption + Text.from_ansi(figure.show())


def _label(value: float, chars: int, delta: float, left: bool = False) -> str:
    return f"{value:.2f}".ljust(chars) if left else f"{value:.2f}".rjust(chars)


def _critical_temperature(outcome: Outcome) -> Table:
    small, large = outcome.plan.sizes
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("Critical temperature")
    table.add_column("T", justify="right")
    table.add_column("off by", justify="right")
    peak, crossing = outcome.heat_capacity_peak(large), outcome.binder_crossing()
    table.add_row(f"Heat capacity of {large} × {large} is largest", str(peak), _off(peak))
    table.add_row(f"Binder cumulants of {small} × {small} and {large} × {large} cross", str(crossing), _off(crossing))
    table.add_row("Infinite lattice, exact", f"{CRITICAL_TEMPERATURE:.6f}", style="dim")
    table.caption = "The peak comes down as the lattice grows"
    return table


def _off(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.value) else f"{estimate.value - CRITICAL_TEMPERATURE:+.4f}"


def _costs(outcome: Outcome) -> str:
    calls = f"{len(outcome.averages)} calls"
    if outcome.jobs:
        calls += f" in job{'s' * (len(outcome.jobs) > 1)} {', '.join(outcome.jobs)}"
    nodes = outcome.nodes[0] if len(outcome.nodes) == 1 else f"{len(outcome.nodes)} nodes"
    return (
        f"{calls} on {nodes}\n{outcome.cpu:.1f} s of CPU time in {outcome.wall:.1f} s: "
        f"{outcome.cpu / outcome.wall:.1f} times as fast as one core"
    )
