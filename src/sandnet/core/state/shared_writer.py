"""What the records ask of the part that writes to a store of several hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from sandnet.core.state.events import Transition
from sandnet.errors import Error, Kind

T = TypeVar("T")

CLAIMED_ELSEWHERE: Final = "claimed_elsewhere"
"""Error code: another host has just claimed what was chosen here; another choice may do."""
JOINED_ELSEWHERE: Final = "joined_elsewhere"
"""Error code: a container of another host has joined the endpoint; a further backend may do."""
CHANGED_ELSEWHERE: Final = "changed_elsewhere"
"""Error code: another host has just changed what this host read before; the same request may succeed now."""
CHOICES: Final = 16
"""How often something else is chosen after that."""
REQUESTED: Final = 4
"""Attempts where the choice was requested: by the second one this host knows, and can name, what has it, unless it is
very busy.
"""


class SharedWriter(Protocol):
    """The writer of what several hosts share."""

    async def write(self, transitions: Sequence[Transition]) -> None:
        """Write what the hosts share of a commit, before it is written to this host's store.

        Raises:
            Error: another host was first, or the shared store is away; nothing is written.
        """
        ...

    async def catch_up(self) -> None:
        """Wait, not for long, until this host knows what refused the last claim, so that it can choose otherwise."""
        ...

    async def refresh(self, endpoint_ids: Iterable[str]) -> bool:
        """Ask the shared store whether a container of another host that this one still lists has left.

        Return ``True`` if so, after waiting briefly until this host knows it; ``False`` also when the store does not
        answer.
        """
        ...

    def written(self, transitions: Sequence[Transition], failure: BaseException | None) -> None:
        """Note that a commit is in this host's store, too: from now on its records can be compared with the others'.

        Args:
            transitions: those of the commit.
            failure: why this host's store has refused it, as on a full disk, though the others have it.
        """
        ...


async def repeated(attempt: Callable[[], Awaitable[T]], catch_up: Callable[[], Awaitable[None]]) -> T:
    """Make a change, and make it again if another host changed or claimed the same at that instant.

    Args:
        attempt: makes the change from what the records have; a further attempt finishes what one has left.
        catch_up: waits until this host knows what refused it, as :meth:`SharedWriter.catch_up` does.

    Raises:
        Error: that of the attempt; with code ``changed_elsewhere`` or ``claimed_elsewhere`` if several in a row were
            refused so.
    """
    for _ in range(REQUESTED - 1):
        try:
            return await attempt()
        except Error as failure:
            if failure.code not in (CHANGED_ELSEWHERE, CLAIMED_ELSEWHERE):
                raise
            await catch_up()
    return await attempt()


def joined_elsewhere(endpoint: str, container_id: str, host: str) -> Error:
    """Return the refusal of a join to an endpoint that a container of another host has joined."""
    message = f"a container has already joined endpoint {endpoint}: {container_id} on host {host}"
    hint = "detach it there first, create another endpoint, or attach yours as one more backend (service attach)"
    return Error(Kind.INVALID, message, hint, JOINED_ELSEWHERE)
