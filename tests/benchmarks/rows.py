"""What a measurement gives, and the table of all. Pure: values in, text out."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One measure: all samples of ours and of its baseline, in `unit`."""

    measure: str
    unit: str
    ours: Sequence[float]
    baseline: Sequence[float] = ()
    goal: float | None = None  # the most that is wanted: of the ratio where there is a baseline, of ours where not

    @property
    def ratio(self) -> float | None:
        """Median of ours by median of the baseline; None without a baseline."""
        return statistics.median(self.ours) / statistics.median(self.baseline) if self.baseline else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where the measure is only reported."""
        if self.goal is None:
            return None
        ratio = self.ratio
        return (statistics.median(self.ours) if ratio is None else ratio) <= self.goal

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "ratio": self.ratio, "met": self.met}


HEADINGS = ("measure", "ours", "baseline", "ratio", "goal", "met", "spread")


def table(rows: Sequence[Row]) -> str:
    """Return a table in Markdown. The spread is that of the middle half of the samples, by the median."""
    cells = [HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    goal = "reported" if row.goal is None else f"≤ {row.goal:.3g}" + (f" {row.unit}" if ratio is None else "")
    return (
        row.measure,
        _amount(row.ours, row.unit),
        _amount(row.baseline, row.unit) if row.baseline else "",
        "" if ratio is None else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}",
        goal,
        {None: "", True: "yes", False: "NO"}[row.met],
        " / ".join(_spread(samples) for samples in (row.ours, row.baseline) if samples),
    )


def _amount(samples: Sequence[float], unit: str) -> str:
    return f"{statistics.median(samples):.3g} {unit}".rstrip()


def _spread(samples: Sequence[float]) -> str:
    """Return "±5 % of 20"; with few samples all of them count."""
    ordered = sorted(samples)
    drop = len(ordered) // 4 if len(ordered) >= 5 else 0
    middle = statistics.median(ordered)
    half = (ordered[-1 - drop] - ordered[drop]) / 2
    return f"±{100 * half / middle if middle else 0:.0f} % of {len(ordered)}"
