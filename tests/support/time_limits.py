"""Promises of a number of seconds, kept on machines that are shared and stand still at times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

TRIES = 3

T = TypeVar("T")


def in_time(attempt: Callable[[], T], seconds: Callable[[T], float], promised: float) -> T:
    """The first of a few attempts that keeps a promise: a machine may stand still, a program that is slow is so always.

    Raises:
        AssertionError: none does.
    """
    late = []
    for _ in range(TRIES):
        found = attempt()
        if seconds(found) <= promised:
            return found
        late.append(f"{seconds(found):.2f} s")
    raise AssertionError(f"promised within {promised} s, and took {', '.join(late)}")
