"""From averages to thermodynamics: observables with errors, the critical temperature, and Onsager's exact values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from statistics import fmean, linear_regression

from .ising import Averages

CRITICAL_TEMPERATURE = 2 / math.log(1 + math.sqrt(2))

Observable = Callable[[Averages, float, int], float]


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error; both are NaN where the data do not give it."""

    value: float
    error: float

    def __str__(self) -> str:
        """The value with the error of its last digit in brackets, 0.9865(2), to four decimals at most."""
        if math.isnan(self.value):
            return "-"
        if math.isnan(self.error):
            return f"{self.value:.4f}"
        decimals = 4
        while decimals and self.error * 10**decimals >= 9.5:
            decimals -= 1
        return f"{self.value:.{decimals}f}({max(1, round(self.error * 10**decimals))})"


def magnetisation(averages: Averages, temperature: float, size: int) -> float:
    """Return the mean of |m| per spin."""
    return averages["magnetisation"]


def energy(averages: Averages, temperature: float, size: int) -> float:
    """Return the energy per spin."""
    return averages["energy"]


def heat_capacity(averages: Averages, temperature: float, size: int) -> float:
    """Return the heat capacity per spin, from the fluctuations of the energy."""
    return (averages["energy_squared"] - averages["energy"] ** 2) * size**2 / temperature**2


def susceptibility(averages: Averages, temperature: float, size: int) -> float:
    """Return the susceptibility per spin, from the fluctuations of |m|."""
    return (averages["magnetisation_squared"] - averages["magnetisation"] ** 2) * size**2 / temperature


def binder_cumulant(averages: Averages, temperature: float, size: int) -> float:
    """Return 1 - <m^4> / 3 <m^2>^2: at the critical temperature the same for lattices of all sizes, nearly."""
    return 1 - averages["magnetisation_fourth"] / (3 * averages["magnetisation_squared"] ** 2)


OBSERVABLES: tuple[Observable, ...] = (magnetisation, energy, heat_capacity, susceptibility, binder_cumulant)


def jackknife(estimate: Callable[[Sequence[int]], float], seeds: int) -> Estimate:
    """Return `estimate` of all seeds, with its error from how it changes when one of them is left out."""
    value = estimate(range(seeds))
    if seeds < 2:
        return Estimate(value, math.nan)
    others = [estimate([seed for seed in range(seeds) if seed != left_out]) for left_out in range(seeds)]
    mean = fmean(others)
    return Estimate(value, math.sqrt((seeds - 1) / seeds * sum((other - mean) ** 2 for other in others)))


def peak(x: Sequence[float], y: Sequence[float]) -> float:
    """Return where the parabola through the upper part of y has its top: all that is above 80 % of the largest."""
    highest = max(y)
    if highest in (y[0], y[-1]):
        return math.nan
    near = [(a, b) for a, b in zip(x, y, strict=True) if b >= 0.8 * highest]
    if len(near) < 3:
        return math.nan
    middle = fmean(a for a, _ in near)
    offsets, values = [a - middle for a, _ in near], [b for _, b in near]
    # Least squares, one regressor after the other: of the squares, what a straight line does not explain.
    squares = linear_regression(offsets, [offset**2 for offset in offsets])
    bends = [offset**2 - squares.slope * offset - squares.intercept for offset in offsets]
    curvature = sum(map(mul, bends, values)) / sum(bend**2 for bend in bends)
    slope = linear_regression(offsets, values).slope - curvature * squares.slope
    return middle - slope / (2 * curvature) if curvature < 0 else math.nan


def crossing(x: Sequence[float], y: Sequence[float]) -> float:
    """Return where y goes from above to below zero, by a straight line between the two points about it."""
    lowest = min(range(len(y)), key=y.__getitem__)
    above = next((index for index in reversed(range(lowest)) if y[index] > 0), None)
    if above is None:
        return math.nan
    share = y[above] / (y[above] - y[above + 1])
    return x[above] + share * (x[above + 1] - x[above])


def exact_magnetisation(temperature: float) -> float:
    """Return the spontaneous magnetisation per spin of the infinite lattice (Onsager, Yang)."""
    if temperature >= CRITICAL_TEMPERATURE:
        return 0.0
    return float((1 - math.sinh(2 / temperature) ** -4) ** 0.125)


def exact_energy(temperature: float) -> float:
    """Return the energy per spin of the infinite lattice (Onsager)."""
    tangent = math.tanh(2 / temperature)
    modulus = 2 * tangent**2 - 1  # complementary, with the sign of the term that it stands for
    return -(1 + (modulus / _arithmetic_geometric_mean(abs(modulus)) if modulus else 0)) / tangent


def _arithmetic_geometric_mean(smaller: float) -> float:
    """Return that of 1 and a smaller number: by it the elliptic integral of the exact solution is computed."""
    larger = 1.0
    while larger - smaller > 1e-12:
        larger, smaller = (larger + smaller) / 2, math.sqrt(larger * smaller)
    return larger
