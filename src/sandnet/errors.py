"""Errors by kind, independent of transports: only ``api/`` maps kinds to HTTP, only ``cli/`` to exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

NO_ENCRYPTION: Final = "no_encryption"
"""Error code: this host has no WireGuard."""
VNI_TAKEN: Final = "vni_taken"
"""Error code: another link or network of this host has the VXLAN network identifier."""


class Kind(StrEnum):
    """The kind of a failure. Each dialect maps kinds to its own statuses in one table."""

    INVALID = "invalid"
    """The request is malformed, or a value in it is of the wrong type or out of range."""
    NAME_TAKEN = "name_taken"
    """Another object has that name."""
    IN_USE = "in_use"
    """The object still has users; the message lists them."""
    PROTECTED = "protected"
    """The object can never be changed or deleted."""
    NOT_FOUND = "not_found"
    """The object or the driver does not exist."""
    CONFLICT = "conflict"
    """Another object or program uses the host port, address, subnet or link."""
    EXHAUSTED = "exhausted"
    """A pool, a port range or a bridge is full."""
    UNAVAILABLE = "unavailable"
    """A store, a plugin or a kernel feature is unavailable; the same request may succeed later."""
    INTERNAL = "internal"
    """A defect of sandnet itself."""


class Error(Exception):
    """A failure with a message for people and a code for programs.

    Attributes:
        kind: the kind of the failure.
        message: one sentence with the object, its holder and what is wrong.
        hint: advice to the user; empty: there is none.
        code: stable error code for programs; the kind's value unless there is a more specific one.
    """

    def __new__(cls, kind: Kind, *_: object, **__: object) -> Error:
        """Make an error of the class of its kind, so that programs can catch one kind."""
        return super().__new__(_CLASSES.get(kind, cls) if cls is Error else cls)

    def __init__(self, kind: Kind, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.code = code or kind.value

    def __reduce__(self) -> tuple[type[Error], tuple[Kind, str, str, str]]:
        """Return what makes the same error in another process."""
        return Error, (self.kind, self.message, self.hint, self.code)

    @property
    def reason(self) -> str:
        """The message and the hint in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class InvalidRequestError(Error):
    """The kind ``INVALID``."""


class NameTakenError(Error):
    """The kind ``NAME_TAKEN``."""


class InUseError(Error):
    """The kind ``IN_USE``."""


class ProtectedError(Error):
    """The kind ``PROTECTED``."""


class NotFoundError(Error):
    """The kind ``NOT_FOUND``."""


class ConflictError(Error):
    """The kind ``CONFLICT``."""


class ExhaustedError(Error):
    """The kind ``EXHAUSTED``."""


class UnavailableError(Error):
    """The kind ``UNAVAILABLE``."""


class InternalError(Error):
    """The kind ``INTERNAL``."""


_CLASSES: Final = {
    Kind.INVALID: InvalidRequestError,
    Kind.NAME_TAKEN: NameTakenError,
    Kind.IN_USE: InUseError,
    Kind.PROTECTED: ProtectedError,
    Kind.NOT_FOUND: NotFoundError,
    Kind.CONFLICT: ConflictError,
    Kind.EXHAUSTED: ExhaustedError,
    Kind.UNAVAILABLE: UnavailableError,
    Kind.INTERNAL: InternalError,
}


def invalid(message: str, hint: str = "", code: str = "") -> Error:
    """Return an error for an invalid request."""
    return Error(Kind.INVALID, message, hint, code)


def not_found(what: str, ref: str, hint: str = "") -> Error:
    """Return the error for a missing object.

    Args:
        what: network, endpoint, service, sandbox or driver.
        ref: name or id in the request.
        hint: advice to the user.
    """
    return Error(Kind.NOT_FOUND, f"no such {what}: {ref}", hint, f"{what}_not_found")


_STORE_REFUSALS = frozenset(
    {
        "changed_elsewhere",
        "lease_ended",
        "outcome_unknown",
        "store_denied",
        "store_full",
        "store_unauthorized",
        "store_unavailable",
    }
)
_REFUSALS = _STORE_REFUSALS | {"endpoint_in_use", "network_in_use"}
"""What the shared store refuses, and what it refuses because of another host: nothing is wrong on this one."""


def collected(message: str, failures: Sequence[BaseException]) -> Error:
    """Return one error for a teardown that continued after several failures.

    It is ``INTERNAL``, unless the shared store refused all that failed. Then it is ``UNAVAILABLE``, or ``IN_USE`` if
    nothing but other hosts' containers is in the way, with hint and code of the first refusal of that kind.
    """
    details = "; ".join(dict.fromkeys(str(failure) or type(failure).__name__ for failure in failures))
    refusals = [each for each in failures if isinstance(each, Error) and each.code in _REFUSALS]
    if refusals and len(refusals) == len(failures):
        first = next((each for each in refusals if each.code in _STORE_REFUSALS), refusals[0])
        return Error(first.kind, f"{message}: {details}", first.hint, first.code)
    return Error(Kind.INTERNAL, f"{message}: {details}", code="teardown_incomplete")
