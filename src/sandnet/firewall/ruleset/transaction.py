"""Changes of the packet filter, and what becomes of them where others have taken away what they build upon."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from sandnet.errors import Error, Kind
from sandnet.firewall.ruleset.shared_lock import SharedLock
from sandnet.kernel.base import RULES_GONE

ATTEMPTS: Final = 3
"""Times to make all rules anew for a change: whoever removed them may do so while they are made."""
HINT: Final = "somebody removes them again and again; nft monitor tells which process"


class RulesetTransaction:
    """What a change asks for is in the records or in memory before it is made, so who is alone makes all there is."""

    def __init__(self) -> None:
        self.lock = SharedLock()
        self.rewrite: Callable[[], Awaitable[None]] | None = None
        """Makes everything anew; called alone."""
        self._rewritten = 0
        """Times that everything was made anew because a change missed something."""

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """A change, beside others.

        Where the kernel misses what it builds upon, all rules are made anew instead, with it.

        Raises:
            Error: as the change itself; ``UNAVAILABLE`` with code ``RULES_GONE`` they cannot be made anew.
        """
        rewritten = self._rewritten
        try:
            async with self.lock.shared():
                rewritten = self._rewritten
                yield
        except Error as failure:
            if failure.code != RULES_GONE or self.rewrite is None:
                raise
            await self._rebuild(rewritten, self.rewrite)

    async def _rebuild(self, seen: int, rewrite: Callable[[], Awaitable[None]]) -> None:
        """Unless somebody else has done so since ``seen`` was read: that had this change in it, too."""
        for attempt in range(1, ATTEMPTS + 1):
            async with self.lock.exclusive():
                if self._rewritten != seen:
                    return
                try:
                    await rewrite()
                    self._rewritten += 1
                except Error as failure:
                    if attempt == ATTEMPTS:
                        message = f"rules that others removed cannot be put back: {failure}"
                        raise Error(Kind.UNAVAILABLE, message, HINT, RULES_GONE) from failure
