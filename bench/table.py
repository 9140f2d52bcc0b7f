"""Figures beside their goals."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass
class Sample:
    """One measurement of one contender."""

    cpu: float  # microseconds a request
    rate: float  # requests a second
    p99: float  # milliseconds


@dataclass
class Figure:
    """A line of the table. `limit` is what `value` may be at most, or at least."""

    what: str
    ours: str
    beside: str
    value: float | None = None
    limit: float | None = None
    at_least: bool = False
    unit: str = "×"

    def reached(self) -> bool | None:
        if self.value is None or self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        number = lambda it: f"{it:.2f} ×" if self.unit == "×" else f"{it:.1f} {self.unit}"
        value = "" if self.value is None else number(self.value)
        sign = "≥" if self.at_least else "≤"
        goal = "" if self.limit is None else f"{sign} {number(self.limit)}"
        verdict = {True: "reached", False: "**not reached**", None: ""}[self.reached()]
        return f"| {self.what} | {self.ours} | {self.beside} | {value} | {goal} | {verdict} |"


def ratio(ours: list[Sample], theirs: list[Sample]) -> float:
    """The median of the rounds' own ratios: what disturbed a round disturbed both."""
    return statistics.median(a.cpu / b.cpu for a, b in zip(ours, theirs))


def spread(samples: list[Sample]) -> str:
    cpu = [sample.cpu for sample in samples]
    return f"{statistics.median(cpu):.1f} µs ({min(cpu):.1f} … {max(cpu):.1f})"


def median(samples: list[Sample]) -> str:
    return f"{statistics.median(sample.cpu for sample in samples):.1f} µs"


HEAD = """| what | wxgate | beside it | ratio or figure | goal | |
|---|--:|--:|--:|--:|---|"""


def summary(figures: list[Figure]) -> str:
    judged = [figure.reached() for figure in figures if figure.reached() is not None]
    missed = [figure.what for figure in figures if figure.reached() is False]
    end = f": not {'; not '.join(missed)}" if missed else ""
    return f"{judged.count(True)} of {len(judged)} goals reached{end}."
