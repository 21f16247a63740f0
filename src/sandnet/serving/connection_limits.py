"""What the connections of one kind of listener may hold in all: how many they are, and how many bytes."""

from __future__ import annotations

from typing import Final

REQUEST_BYTES: Final = 64 << 20
"""Bytes of requests that are not answered yet: targets, headers and bodies, of all connections of a gate."""
ANSWER_BYTES: Final = 256 << 20
"""Bytes of answers that their clients do not read: while there are more, no further request is taken."""


class Gate:
    """Counts connections and bytes. Each kind of listener has a gate of its own, so one cannot exhaust the other."""

    def __init__(self, most: int, *, requests: int = REQUEST_BYTES, answers: int = ANSWER_BYTES) -> None:
        """Begin with nothing inside.

        Args:
            most: connections.
            requests: bytes of unanswered requests.
            answers: bytes of unread answers.
        """
        self.inside = 0
        self.held = 0
        """Bytes of requests."""
        self.unread = 0
        """Bytes of answers."""
        self._most, self._requests, self._answers = most, requests, answers

    def enter(self) -> bool:
        """Count one more connection; return whether there is room for it. Each call needs a :meth:`leave`."""
        self.inside += 1
        return self.inside <= self._most

    def leave(self) -> None:
        """Count one connection less."""
        self.inside -= 1

    @property
    def is_full(self) -> bool:
        """Whether there are too many bytes for one more request."""
        return self.held > self._requests or self.unread > self._answers
