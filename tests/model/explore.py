"""An explicit-state model checker: visits every state that a model can reach, whatever the order of its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

W = TypeVar("W")
"""A state of the model: immutable and hashable."""


class Step(NamedTuple, Generic[W]):
    """One thing that can happen next."""

    name: str
    state: W
    """The state afterwards."""
    expected: bool = True
    """Whether it comes without bad luck. A state without expected steps is at rest."""


class Explored(NamedTuple):
    """The extent of a search."""

    states: int
    at_rest: int


class ViolationError(AssertionError):
    """A state breaks a rule; the text has the steps that lead to it."""


def explore(
    start: W,
    steps: Callable[[W], Iterable[Step[W]]],
    always: Callable[[W], str],
    at_rest: Callable[[W], str],
    *,
    limit: int = 3_000_000,
) -> Explored:
    """Visit every reachable state, the nearest first, and check it.

    Args:
        start: the first state.
        steps: what can happen next in a state.
        always: returns the rule that a state breaks, or the empty string.
        at_rest: the same, for states in which nothing is left to happen but bad luck.
        limit: the most states to visit.

    Raises:
        ViolationError: a state breaks a rule. The path to it is one of the shortest.
    """
    before: dict[W, tuple[W, str] | None] = {start: None}
    queue = deque([start])
    resting = 0
    while queue:
        state = queue.popleft()
        following = list(steps(state))
        rests = not any(step.expected for step in following)
        resting += rests
        if broken := always(state) or (at_rest(state) if rests else ""):
            raise ViolationError(f"{broken}\n{_path(before, state)}\n{state}")
        for step in following:
            if step.state not in before:
                before[step.state] = (state, step.name)
                queue.append(step.state)
        assert len(before) <= limit, f"more than {limit} states"
    return Explored(len(before), resting)


def _path(before: dict[W, tuple[W, str] | None], state: W) -> str:
    names: list[str] = []
    while (reached := before[state]) is not None:
        state, name = reached
        names.append(name)
    return "\n".join(f"  {number}. {name}" for number, name in enumerate(reversed(names), 1))
