"""What can go wrong, said in kinds: only ``api/`` knows HTTP, only ``cli/`` knows exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Kind(StrEnum):
    """The class of a failure. Each dialect maps kinds to its own statuses in one table."""

    INVALID = "invalid"
    """The request is malformed, or a value in it is of the wrong type or out of range."""
    NAME_TAKEN = "name_taken"
    """Another object bears that name."""
    IN_USE = "in_use"
    """The object still has users; the message lists them."""
    PROTECTED = "protected"
    """The object may not be changed or deleted by anybody."""
    NOT_FOUND = "not_found"
    """No such object, or no such driver."""
    CONFLICT = "conflict"
    """A host port, an address, a subnet or a link is held by somebody else."""
    EXHAUSTED = "exhausted"
    """A pool, a port range or a bridge has no room left."""
    UNAVAILABLE = "unavailable"
    """A store, a plugin or a kernel feature is away; the same request may succeed later."""
    INTERNAL = "internal"
    """Our own fault."""


class Error(Exception):
    """A failure that a person can act on.

    Attributes:
        kind: the class of the failure.
        message: one sentence naming the object, its holder and what is wrong.
        hint: what to do about it; empty when nothing can be advised.
        code: a stable word for programs; the kind's own value unless a finer one helps.
    """

    def __init__(self, kind: Kind, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.code = code or kind.value

    @property
    def reason(self) -> str:
        """Message and hint in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


def invalid(message: str, hint: str = "", code: str = "") -> Error:
    """A refusal of what the caller sent."""
    return Error(Kind.INVALID, message, hint, code)


def not_found(what: str, ref: str, hint: str = "") -> Error:
    """``what`` (network, endpoint, service, sandbox, driver) is not known by ``ref``."""
    return Error(Kind.NOT_FOUND, f"no such {what}: {ref}", hint, f"{what}_not_found")


def collected(message: str, failures: Sequence[BaseException]) -> Error:
    """One error for a teardown that went on past several failures."""
    details = "; ".join(str(failure) or type(failure).__name__ for failure in failures)
    return Error(Kind.INTERNAL, f"{message}: {details}", code="teardown_incomplete")
