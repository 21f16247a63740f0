"""Where the kernel or a file is not as the records say, in words."""

from __future__ import annotations

from typing import Final, NamedTuple

from sandnet.core.state.events import Repair, Subject
from sandnet.model import Attachment, Endpoint, Network, Sandbox

REPAIRED: Final = "repaired"
_SHARED: Final = {"rules": "rules", "parameter": "parameters", "stray": "strays"}
"""By kind: what is looked at as one, of what is no record's."""


class Drift(NamedTuple):
    """One difference, and what became of it."""

    kind: str
    """``network``, ``backend``, ``sandbox``, ``file``, ``port``, ``rules``, ``parameter`` or ``stray``."""
    object: str
    """What it is about: a name, a path, or an id."""
    problem: str
    reason: str
    """Why it matters."""
    done: str = ""
    """``repaired``, or why it was not; empty: nothing was tried."""
    subject: Subject | None = None
    """The record it is about, where it is one's."""
    code: str = ""
    """Of the refusal, where it was not repaired."""

    @property
    def owner(self) -> str:
        """What is looked at, and repaired, as one."""
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
        """What an event tells of it."""
        return Repair(self.kind, self.object, self.problem, self.subject)
