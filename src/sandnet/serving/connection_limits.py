"""Limits of the connections of one kind of listener: their number, and the bytes that they hold together."""

from __future__ import annotations

from typing import Final

REQUEST_BYTES: Final = 64 << 20
"""Limit of bytes of unanswered requests: targets, headers and bodies, of all connections of a gate."""
ANSWER_BYTES: Final = 256 << 20
"""Limit of bytes of answers that clients have not read: above it, no further request is accepted."""


class Gate:
    """Counter of connections and bytes. Each kind of listener has its own, so one cannot exhaust the other."""

    def __init__(self, most: int, *, requests: int = REQUEST_BYTES, answers: int = ANSWER_BYTES) -> None:
        """Initialize with all counts zero.

        Args:
            most: limit of connections.
            requests: limit of bytes of unanswered requests.
            answers: limit of bytes of unread answers.
        """
        self.connections = 0
        self.request_bytes = 0
        """Bytes of unanswered requests."""
        self.unread_bytes = 0
        """Bytes of unread answers."""
        self._most, self._requests, self._answers = most, requests, answers

    def enter(self) -> bool:
        """Count one more connection; return whether it is within the limit. Each call needs a :meth:`leave`."""
        self.connections += 1
        return self.connections <= self._most

    def leave(self) -> None:
        """Count one connection less."""
        self.connections -= 1

    @property
    def is_full(self) -> bool:
        """Whether the bytes exceed a limit, so that no further request may be accepted."""
        return self.request_bytes > self._requests or self.unread_bytes > self._answers
