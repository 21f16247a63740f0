"""What is measured, and whether it is what was promised. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Literal

MS = 1000.0
"""Milliseconds in a second: times are taken in seconds and reported in milliseconds."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a figure has to keep, in the figure's own unit."""

    bound: float
    sense: Literal["at most", "at least"] = "at most"

    def met(self, value: float) -> bool:
        """Whether the value keeps the bound; a value on it does."""
        return value <= self.bound if self.sense == "at most" else value >= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report."""

    what: str
    value: float
    unit: str
    detail: str = ""
    target: Target | None = None

    @property
    def verdict(self) -> str:
        """``met``, ``not met``, or nothing where nothing was promised."""
        if self.target is None:
            return ""
        return "met" if self.target.met(self.value) else "not met"


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of one part of the benchmarks, and what the reader should know about them."""

    title: str
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that at least ``percent`` of them do not exceed (nearest rank).

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("no samples")
    return sorted(samples)[max(ceil(len(samples) * percent / 100), 1) - 1]


def time_of(what: str, samples: Sequence[float], target: Target | None = None) -> Figure:
    """Return the median of times in seconds, as milliseconds, with the 99th percentile beside it."""
    detail = f"p99 {percentile(samples, 99) * MS:.2f}, n {len(samples)}"
    return Figure(what, median(samples) * MS, "ms", detail, target)


def worst_of(what: str, samples: Sequence[float], target: Target | None = None) -> Figure:
    """Return the longest of times in seconds, as milliseconds, with the median beside it."""
    return Figure(
        what, max(samples) * MS, "ms", f"the longest of {len(samples)}, median {median(samples) * MS:.0f}", target
    )


def ratio_of(what: str, over: Sequence[float], under: Sequence[float], target: Target | None = None) -> Figure:
    """Return the ratio of two medians whose samples were taken alternately."""
    detail = f"{median(over) * MS:.2f} / {median(under) * MS:.2f} ms"
    return Figure(what, median(over) / median(under), "×", detail, target)


def growth_of(what: str, samples: Sequence[float], window: int, target: Target | None = None) -> Figure:
    """How much more the last ``window`` of a series cost than the first: the ratio of their medians."""
    return ratio_of(what, samples[-window:], samples[:window], target)


def noise_of(samples: Sequence[float]) -> float:
    """Return the median deviation from the median, as a share of it: how far an ordinary run lies from the middle."""
    middle = median(samples)
    return median(abs(sample - middle) for sample in samples) / middle


def parity_of(what: str, subject: Sequence[float], floor: Sequence[float]) -> Figure:
    """How near the subject's rates come to the floor's, pair by pair; 1.0 is level, the target 0.97."""
    ratios = [mine / other for mine, other in zip(subject, floor, strict=True)]
    noise = noise_of(floor)
    detail = f"pairs {min(ratios):.2f} to {max(ratios):.2f}, noise {noise:.2f}"
    return Figure(what, median(ratios), "×", detail, Target(0.97, "at least"))
