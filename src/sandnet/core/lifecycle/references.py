"""References to objects in requests: full id, else exact name, else unique id prefix."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from sandnet.errors import invalid, not_found
from sandnet.model import Attachment

SHORT_ID: Final = 12
"""Characters of an id that tables show."""
GENERATED: Final = re.compile(r"[0-9a-f]{64}")
"""Ids that programs generate; tables shorten only these."""


class Named(Protocol):
    """An object with an id and a name."""

    @property
    def id(self) -> str:
        """64 hex digits."""
        ...

    @property
    def name(self) -> str:
        """The name given at creation."""
        ...


N = TypeVar("N", bound=Named)


def resolve(what: str, ref: str, by_id: N | None, by_name: Sequence[N], everything: Callable[[], Sequence[N]]) -> N:
    """Return the one object that ``ref`` means.

    Args:
        what: the word for it in messages.
        ref: from the request.
        by_id: the object with that full id.
        by_name: the objects with that exact name.
        everything: returns all candidates for a prefix; called only when the rest fails.

    Raises:
        Error: ``NOT_FOUND``, or ``INVALID`` with code ``ambiguous`` naming the candidates.
    """
    if by_id is not None:
        return by_id
    found = list(by_name) or [one for one in everything() if ref and one.id.startswith(ref)]
    if not found:
        listed = "service" if what == "endpoint" else what  # services: the endpoints of all networks
        raise not_found(what, ref, f"see the {what}s there are with: sandnet {listed} ls")
    if len(found) > 1:
        candidates = ", ".join(f"{one.id[:12]} ({one.name})" for one in found[:10])
        raise invalid(f"{ref!r} means more than one {what}: {candidates}", "use the full id", "ambiguous")
    return found[0]


def begins(container_id: str, ref: str) -> bool:
    """Return whether ``ref`` is a prefix that may stand for the container's id.

    Any prefix of an id of 64 hex digits may. Other ids are chosen by users, and a short prefix of one may be the full
    id of another container (``k1`` beside ``k11``): there it needs 12 characters, as tables show, or more.
    """
    return (
        bool(ref)
        and container_id.startswith(ref)
        and (len(ref) >= SHORT_ID or GENERATED.fullmatch(container_id) is not None)
    )


def attached_id(ref: str, attached: Sequence[Attachment], *, known: bool) -> str:
    """Return the id of the container that ``ref`` means among those attached: a full id, else a unique prefix of one.

    A reference that means none of them is returned as it is.

    Args:
        ref: from the request.
        attached: the attachments to choose from.
        known: whether a container with exactly that id has a sandbox, in any phase: then only that one is meant.

    Raises:
        Error: ``INVALID`` with code ``ambiguous`` naming the candidates.
    """
    ids = dict.fromkeys(attachment.container_id for attachment in attached)
    if known or ref in ids:
        return ref
    found = [each for each in ids if begins(each, ref)]
    if len(found) > 1:
        message = f"{ref!r} means more than one container: {', '.join(found[:10])}"
        raise invalid(message, "use the full id", "ambiguous")
    return found[0] if found else ref
