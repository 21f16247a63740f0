"""Differences of the kernel or a file from the records, as texts."""

from __future__ import annotations

from typing import Final, NamedTuple

from sandnet.core.state.events import Repair, Subject
from sandnet.model import Attachment, Endpoint, Network, Sandbox

REPAIRED: Final = "repaired"
_SHARED: Final = {"rules": "rules", "parameter": "parameters", "stray": "strays"}
"""The owner by kind, for objects that belong to no record and are checked together."""


class Drift(NamedTuple):
    """One difference, and the result of its repair."""

    kind: str
    """``network``, ``backend``, ``sandbox``, ``file``, ``port``, ``rules``, ``parameter`` or ``stray``."""
    object: str
    """A name, a path, or an id."""
    problem: str
    reason: str
    """The effect on users."""
    done: str = ""
    """``repaired``, or why it was not; empty: no repair was tried."""
    subject: Subject | None = None
    """The record that the difference concerns, if any."""
    code: str = ""
    """The error code of a failed repair."""

    @property
    def owner(self) -> str:
        """The key of the object that is checked and repaired as one."""
        match self.subject:
            case Network():
                return f"network/{self.subject.id}"
            case Endpoint():
                return f"endpoint/{self.subject.id}"
            case Sandbox() | Attachment():
                return f"sandbox/{self.subject.container_id}"
        return _SHARED[self.kind]

    @property
    def repair(self) -> Repair:
        """The content of an event about the repair."""
        return Repair(self.kind, self.object, self.problem, self.subject)
