"""How objects are named in requests: full id, else exact name, else unique id prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from sandnet.errors import invalid, not_found
from sandnet.model import Attachment

SHORT_ID: Final = 12
"""Characters of an id that tables show."""


class Named(Protocol):
    """Anything with an id and a name."""

    @property
    def id(self) -> str:
        """64 hex digits."""
        ...

    @property
    def name(self) -> str:
        """As given at creation."""
        ...


N = TypeVar("N", bound=Named)


def resolve(what: str, ref: str, by_id: N | None, by_name: Sequence[N], everything: Callable[[], Sequence[N]]) -> N:
    """The one object that ``ref`` means.

    Args:
        what: the word for it in messages.
        ref: from the request.
        by_id: the object with that full id.
        by_name: those with that exact name.
        everything: all candidates for a prefix, asked for only when the rest fails.

    Raises:
        Error: ``NOT_FOUND``, or ``INVALID`` with code ``ambiguous`` naming the candidates.
    """
    if by_id is not None:
        return by_id
    found = list(by_name) or [one for one in everything() if ref and one.id.startswith(ref)]
    if not found:
        listed = "service" if what == "endpoint" else what  # those of all networks
        raise not_found(what, ref, f"see the {what}s there are with: sandnet {listed} ls")
    if len(found) > 1:
        candidates = ", ".join(f"{one.id[:12]} ({one.name})" for one in found[:10])
        raise invalid(f"{ref!r} means more than one {what}: {candidates}", "use the full id", "ambiguous")
    return found[0]


def attached_id(ref: str, attached: Sequence[Attachment]) -> str:
    """Return the id of the container that ``ref`` means among those attached: a full id, else a unique prefix of one.

    A prefix has the 12 characters that tables show, or more. Container ids are chosen by users: a shorter one may be
    the full id of another container, which is not attached just now (``k1`` beside ``k11``).
    What means none of them is returned as it is.

    Raises:
        Error: ``INVALID`` with code ``ambiguous`` naming the candidates.
    """
    ids = list(dict.fromkeys(attachment.container_id for attachment in attached))
    found = [each for each in ids if ref and each.startswith(ref)] if ref not in ids else [ref]
    if len(found) > 1:
        message = f"{ref!r} means more than one container: {', '.join(found[:10])}"
        raise invalid(message, "use the full id", "ambiguous")
    return found[0] if found and len(ref) >= SHORT_ID else ref
